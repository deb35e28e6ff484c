"""The plan of methods crossed with choices: grids are balanced fractions, and what is compared has the same
cells.
"""

import itertools
from collections import Counter

import pytest

from qlib import headline
from qlib.book.headline_page import as_markdown
from qlib.headline.plan import beside

QUICK = ("headline-w4a8", "headline-w3a8", "headline-w4a4")
WEIGHTS = ("clipping", "weight grid", "granularity", "ends", "images")


def levels(run, names):
    """The levels of a run, by choice."""
    found = {**run.config.to_dict(), "calibration_images": run.calibration_images}
    columns = {name: headline.plan()["choices"][name]["column"] for name in names}
    return tuple(str([found[c] for c in ([n] if isinstance(n, str) else n)]) for n in columns.values())


def cells(table, names, bits=None):
    """By network and method, the cells of a grid."""
    found = {}
    for run in headline.runs(table):
        if not run.config.in_float and bits in (None, run.config.activation_bits):
            found.setdefault((run.network, run.method), []).append(levels(run, names))
    return found


def balanced(some):
    """Whether each level of a choice meets those of another in the same proportions."""
    for i, j in itertools.combinations(range(len(some[0])), 2):
        a, b = (Counter(cell[k] for cell in some) for k in (i, j))
        both = Counter((cell[i], cell[j]) for cell in some)
        if any(both[x, y] * len(some) != a[x] * b[y] for x in a for y in b):
            return False
    return True


def test_an_unbalanced_fraction_is_told():
    assert balanced([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")])
    assert not balanced([("a", "x"), ("a", "y"), ("b", "x"), ("b", "x")])


@pytest.mark.parametrize("table", QUICK)
def test_every_method_of_a_network_has_the_same_32_balanced_cells(table):
    names = tuple(headline.plan()["choices"]) if table.endswith("a4") else WEIGHTS
    found = cells(table, names)
    (same,) = {tuple(some) for some in found.values()}
    assert len(found) == 6 * 4 and len({*same}) == 32 and balanced(same)


@pytest.mark.parametrize(
    ("slow", "quick", "bits"),
    [
        ("headline-w4-slow", "headline-w4a8", 8),
        ("headline-w4-slow", "headline-w4a4", 4),
        ("headline-w3-slow", "headline-w3a8", 8),
        ("cifar10-jpeg/headline-w4-slow", "cifar10-jpeg/headline-w4a8", 8),
    ],
)
def test_slow_methods_run_on_balanced_cells_of_the_quick_ones(slow, quick, bits):
    names = tuple(headline.plan()["choices"])[: 5 if bits == 8 else None]
    (few,) = {tuple(some) for some in cells(slow, names, bits).values()}
    (many,) = {tuple(some) for some in cells(quick, names, bits).values()}
    assert len({*few}) == (8 if bits == 8 else 32) and {*few} <= {*many} and balanced(few)
    assert len({cell[:5] for cell in few}) == 8


@pytest.mark.parametrize("table", ["headline-draws", "headline-draws-slow"])
def test_other_draws_are_of_cells_that_all_methods_have(table):
    (few,) = {tuple(sorted(some)) for some in cells("headline-w3-slow", WEIGHTS).values()}
    for run in headline.runs(table):
        assert (run.calibration_seed, run.rounding_seed) == (1, 1) and levels(run, WEIGHTS) in few


def test_all_tables_are_of_the_planned_networks_methods_and_levels():
    plan = headline.plan()
    known = {name: {str([k]) for k in said["levels"]} for name, said in plan["choices"].items()}
    known["placement"] = {str(pair) for pair in plan["choices"]["placement"]["levels"].values()}
    networks = {}
    for table in plan["order"]:
        experiment = headline.grid(table)
        networks.setdefault(experiment.bench, set()).add(experiment.networks)
        assert experiment.images == (800 if experiment.bench == "imagenet-sample" else 2000)
        assert experiment.weights_first
        for run in experiment.runs():
            assert run.method in headline.names()
            if not run.config.in_float:
                for name, level in zip(known, levels(run, known), strict=True):
                    assert level in known[name], (table, name)
    (six,), (three,) = networks["digits"], networks["cifar10-jpeg"]
    assert len({*six}) == 6 and sum(name.startswith("base") for name in six) == 3
    assert three == ("base", "resnet32", "resnet44")


def test_resnets_have_the_cells_of_the_slow_methods_on_digits():
    ours, theirs = (
        {levels(run, WEIGHTS) for table in tables for run in headline.runs(table) if not run.config.in_float}
        for tables in (["headline-w3-slow"], headline.plan()["settings"]["ResNets W4A8"]["tables"])
    )
    assert ours == theirs


def test_lite0_has_four_balanced_cells():
    (same,) = {tuple(some) for some in cells("imagenet-sample/headline-w4a8", WEIGHTS).values()}
    assert len({*same}) == 4 and balanced(same)
    assert headline.methods_of("Lite0 W4A8") == ("bias correction", "equalized + bias", "GPTQ")


def test_a_setting_sees_tables_of_its_own_bench_alone():
    """Networks of two benches share names."""
    draws = headline.plan()["draws"]
    assert beside("W4A8", draws) == draws and beside("ResNets W4A8", draws) == []
    assert headline.bench_of("ResNets W4A8") == "cifar10-jpeg" and headline.bench_of("W3A8") == "digits"


def test_every_table_of_a_setting_is_recorded_and_every_recorded_one_shown():
    plan = headline.plan()
    used = [table for setting in plan["settings"].values() for table in setting["tables"]]
    assert {*used, *plan["draws"], plan["cards"]} == {*plan["order"]}
    page = as_markdown()
    for name in (*plan["order"], *plan["words"], *headline.names().values(), *plan["choices"]):
        assert name in page


def test_minutes_count_weights_once():
    """Five rows of a cell of weights, one of them with 8-bit activations, cost its weights once."""
    seconds = headline.minutes("headline-w4-slow") * 60
    assert seconds == pytest.approx(6 * 8 * (24 + 43) + 480 * 1.3)
