"""A card of a run states what is known of the network and its data, and no more."""

import pytest
import torch
from torch import nn

from qlib import QuantConfig, QuantizationCard, footprint, results
from qlib.benches import BENCHES, Loaders
from qlib.benches.texts import PROTOCOLS
from qlib.cards import NOT_REPORTED
from qlib.cards.from_run import of_bench

BEHIND_A_RELU = [nn.ReLU(), nn.BatchNorm2d(4)]


@pytest.mark.parametrize(
    "after, quantized, in_float",
    [
        ([], NOT_REPORTED, NOT_REPORTED),
        ([nn.BatchNorm2d(4)], "folded", "separate"),
        (BEHIND_A_RELU, "separate", "separate"),
        ([nn.BatchNorm2d(4), *BEHIND_A_RELU], "folded behind a layer, else separate", "separate"),
    ],
    ids=["none", "behind a layer", "behind a function", "both"],
)
def test_a_batch_norm_is_stated_where_there_is_one(after, quantized, in_float):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *after, nn.Flatten(), nn.Linear(144, 2)).eval()
    for config, said in ((QuantConfig(), quantized), (QuantConfig(None, None), in_float)):
        size = footprint(network, torch.zeros(1, 3, 8, 8), config)
        assert QuantizationCard.from_run(config, size=size)["batch_norm"] == said
    assert QuantizationCard.from_run(QuantConfig())["batch_norm"] == NOT_REPORTED


def test_nobody_looked_whether_images_of_the_readers_own_are_apart(bench):
    network = bench.models["base"]
    images = bench.validation(100)
    mine = Loaders("digits", {"base": network}, images, images)
    for given, said in ((bench, False), (mine, NOT_REPORTED)):
        card = QuantizationCard.from_run(QuantConfig(), bench=given, network="base")
        assert card["calibration_overlaps_test"] == said


def test_nobody_looked_where_a_session_names_images_of_the_readers_own():
    rows = results.load_table(results.table_path("digits", "skip-residual"))
    rows = results.select(rows, ["activation_bits=4", "quantize_residual=false", "quantize_skip=true"])
    assert QuantizationCard.from_rows(rows)["calibration_overlaps_test"] is False
    rows.attrs["sessions"] = [{**session, "own": {"data": "digits"}} for session in rows.attrs["sessions"]]
    assert QuantizationCard.from_rows(rows)["calibration_overlaps_test"] == NOT_REPORTED


@pytest.mark.parametrize(
    "bench, context, data",
    [("language-256", 256, "WikiText-2, validation text"), ("language-other", 512, "sentences of SICK")],
)
def test_a_perplexity_is_not_told_without_its_protocol(bench, context, data):
    said = of_bench(bench, "base", True)
    assert (said["context"], said["stride"], said["bos"]) == (context, context, False)
    assert said["data"] == data and of_bench("language-begin", "base", True)["bos"]
    assert set(PROTOCOLS) == {name for name in BENCHES if name.startswith("language")}
    assert "images" not in str(of_bench("sentences", "base", True)) + str(said)


@pytest.mark.parametrize("method, steps", [("adaround", 500), ("blocks", 500)])
def test_a_card_of_a_row_has_the_steps_that_its_method_took(method, steps):
    table = results.load_table(results.table_path("digits", "headline-w4-slow"))
    learned = QuantizationCard.from_rows(table[table.method == method].iloc[:1], table)
    assert learned["steps"] == steps
    table = results.load_table(results.table_path("digits", "skip-residual"))
    rows = [table[bits].iloc[:1] for bits in (table.activation_bits.isna(), table.activation_bits == 4)]
    assert [QuantizationCard.from_rows(row, table)["steps"] for row in rows] == [0, 0]
