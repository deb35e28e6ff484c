"""What the figure of language models shows: sizes from shapes alone, and rows where they are recorded."""

import base64
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from qlib import results
from qlib.config import QuantConfig
from qlib.widgets import perplexities

WEIGHTS, HEAD, FIRST = 134_479_872, 49152 * 576, 576 * 576  # of SmolLM2-135M; its first layer has the queries
GROUPED = [
    (576, 576, 2),
    (192, 576, 2),
    (1536, 576, 2),
    (576, 1536, 1),
]  # by block: outputs, inputs, how many


@pytest.fixture(scope="module")
def points():
    return perplexities.planned()[0]


def by_hand(bits, size):
    """Bits of a weight with scales of 32 bits and zero-points of as many as the codes; 8 in head and first
    layer.
    """
    groups = [(outputs, -(-inputs // size), count) for outputs, inputs, count in GROUPED]
    ranges = {bits: 30 * sum(o * g * n for o, g, n in groups) - 576 * -(-576 // size)}
    ranges[8] = (49152 + 576) * -(-576 // size)
    codes = 8 * (HEAD + FIRST) + bits * (WEIGHTS - HEAD - FIRST)
    return codes / WEIGHTS, (codes + sum((32 + b) * n for b, n in ranges.items())) / WEIGHTS


@pytest.mark.parametrize("bits, size", [(3, 64), (3, 128), (4, 64), (4, 128)])
def test_sizes_are_those_counted_by_hand(points, bits, size):
    config = dict(weight_bits=bits, weight_granularity="per_group", group_size=size)
    found = next(p for p in points if results.fits(p.run.config.to_dict(), config))
    assert found.bits == (bits, *map(pytest.approx, by_hand(bits, size)))


def test_points_are_named_by_what_differs(points):
    names = [point.name for point in points]
    assert len(set(names)) == len(names) and "3 bits, groups of 64, GPTQ, columns as they stand" in names
    assert not any(point.run.config.in_float for point in points)
    assert perplexities.sharing(QuantConfig(weight_granularity="per_tensor")) == "per tensor"


def row_of(run, value):
    """A row as a table has it."""
    each = np.full(run.images, value, "<f4") + np.arange(run.images, dtype="<f4") - (run.images - 1) / 2
    return {
        **run.config.to_dict(),
        **{
            name: getattr(run, name)
            for name in ("bench", "network", "calibration_images", "calibration_seed")
        },
        **{"method": run.method, "metric": "perplexity", "rounding_seed": 0, "kind_of_data": run.data},
        **{"weights_first": False, "n": run.images, "allocation": None, "value": value, "correct": ""},
        "values": base64.b64encode(each.tobytes()).decode(),
    }


def test_what_is_recorded_is_shown_and_the_rest_is_said_to_be_missing(tmp_path, monkeypatch, points):
    monkeypatch.setattr(results, "table_path", lambda bench, name: tmp_path / f"{name}.csv")
    found, in_float = perplexities.planned()
    assert in_float is None and all(point.found is None for point in found)
    figure = perplexities.perplexity_bits(found, in_float)
    assert figure.state["float"] is None and figure.fallback.count("not recorded yet") == len(points)
    (tmp_path / "another.csv").touch()
    run = points[1].run
    in_float = replace(run, config=QuantConfig(weight_bits=None, activation_bits=None))
    monkeypatch.setattr(results, "load_rows", lambda path: [row_of(run, 80.0), row_of(in_float, 30.0)])
    found, in_float = perplexities.planned()
    assert [p.run for p in found if p.found] == [run]
    state = perplexities.perplexity_bits(found, in_float).state
    half = stats.t.ppf(0.975, 15) * stats.sem(np.arange(16))
    assert state["points"][1]["found"] == pytest.approx([80, 80 - half, 80 + half], rel=1e-4)
    assert state["float"][0] == 30 and state["points"][0]["found"] is None
