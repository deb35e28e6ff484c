"""Seeds and examples are both random: intervals, pairing, and what the recorded rows say by that rule."""

import numpy as np
import pytest
from scipy import stats

from qlib import compare, lesson, plots, results
from qlib.book import evidence, evidence_before
from qlib.comparison import mean_of
from qlib.intervals import agresti_min, two_way
from qlib.metrics import MSE, TOP1, Accuracy, Measurement
from qlib.widgets import answer


def by_hand(values):
    """The formula, value by value."""
    seeds, n = values.shape
    mean = sum(values[s][i] for s in range(seeds) for i in range(n)) / (seeds * n)
    of_seeds = [sum(values[s]) / n for s in range(seeds)]
    of_examples = [sum(values[s][i] for s in range(seeds)) / seeds for i in range(n)]
    a = sum((x - mean) ** 2 for x in of_seeds) / (seeds - 1) / seeds
    b = sum((x - mean) ** 2 for x in of_examples) / (n - 1) / n
    squares = 0.0
    for s in range(seeds):
        for i in range(n):
            squares += (values[s][i] - of_seeds[s] - of_examples[i] + mean) ** 2
    c = squares / ((seeds - 1) * (n - 1)) / (seeds * n)
    variance = max(a + b - c, a, b)
    freedom = variance**2 / (a**2 / (seeds - 1) + b**2 / (n - 1) + c**2 / ((seeds - 1) * (n - 1)))
    half = stats.t.ppf(0.975, max(freedom, seeds - 1)) * variance**0.5
    return mean - half, mean + half


def labelled(values, metric=MSE, labels=None):
    """A measurement for every row of values."""
    labels = range(len(values)) if labels is None else labels
    return [
        Measurement(metric, float(v.mean()), v, label)
        for v, label in zip(np.asarray(values, float), labels, strict=True)
    ]


def rows_of(points, n=10_000, labels=None):
    """Accuracies whose share of correct answers is ``50 + points`` percent, of other images in every row."""
    labels = range(len(points)) if labels is None else labels
    right = [np.roll(np.arange(n) < round(n * (0.5 + p / 100)), i) for i, p in enumerate(points)]
    return [Accuracy(r, label) for r, label in zip(right, labels, strict=True)]


@pytest.mark.parametrize("sd_seed, sd_image, sd_rest", [(1, 1, 1), (3, 0.1, 0.1), (0, 2, 1), (0, 0, 1)])
@pytest.mark.parametrize("seeds, n", [(3, 8), (5, 40)])
def test_the_interval_is_the_formulas(sd_seed, sd_image, sd_rest, seeds, n):
    draw = np.random.default_rng(0).normal
    values = draw(0.3, sd_seed, (seeds, 1)) + draw(0, sd_image, n) + draw(0, sd_rest, (seeds, n))
    assert two_way(values.mean(), values) == pytest.approx(by_hand(values))
    zero = labelled(np.zeros((1, n)))
    assert compare(labelled(values), zero).interval == pytest.approx(by_hand(values))
    assert mean_of(labelled(values)).interval == pytest.approx(by_hand(values))


def test_one_seed_or_one_example_has_no_interval_of_this_kind():
    for shape in ((1, 5), (5, 1)):
        assert np.isnan(two_way(0.0, np.ones(shape))).all()


def test_inner_factors_are_averaged_factor_by_factor():
    values = [[6.0], [0.0], [9.0], [9.0]]  # two networks; of the first, one rounding has two draws
    labels = [("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("b", 0, 0)]
    found = compare(labelled(values, labels=labels), labelled(np.zeros((1, 1))))
    assert found.seeds == ((3 + 9) / 2, 9.0) and found.value == 7.5
    assert mean_of(labelled([*values, [5.0]], labels=[*labels, ("c", 0, 0)])).seeds == 5


def test_five_seeds_that_differ_by_points_leave_points_undecided():
    found = compare(rows_of([-3.4, -3.4, 4.7, 0.7, -2.1]), rows_of([0] * 5))
    assert found.value == pytest.approx(-0.7)
    assert found.interval[1] - found.interval[0] > 6
    assert found.verdict() == found.verdict("no difference") == "undecided here"
    assert str(found).endswith(", 5 seeds, n = 10,000)")


def test_where_nothing_differs_agresti_and_mins_variance_is_left():
    found = compare(rows_of([0, 1, 2], n=100), rows_of([0, 1, 2], n=100))
    half = 100 * agresti_min(np.zeros(100))[1] ** 0.5
    assert found.value == 0 and found.interval == pytest.approx((-4.303 * half, 4.303 * half), rel=1e-3)


def test_an_interval_of_a_mean_stays_within_0_and_100_percent():
    low, high = mean_of(rows_of([49.9, 45, 30], n=1000)).interval
    assert low < 91 and high == 100
    low, high = mean_of(rows_of([-49.9, -45, -30], n=1000)).interval
    assert low == 0 and high > 9


def test_what_two_single_networks_differ_by_is_said_to_be_for_images_only():
    now, in_float = rows_of([1, 2], n=100, labels=[None, None])
    found = compare(now, in_float)
    assert lesson.points(found).endswith(", images only)")
    assert lesson.judged(found)[0].endswith(", n = 100, images only)")
    shown = answer.numbers(TOP1, [now.values], [in_float.values])
    low, high = found.interval
    assert f"-1.00 points ({low:+.2f} to {high:+.2f}, images only)" in shown


def test_seeds_are_drawn_as_dots():
    several = compare(rows_of([1, 2, 3]), rows_of([0, 0, 0]))
    single = compare(rows_of([1]), rows_of([0]))
    ax = plots.paired_gains([3, 4], {"a over b": [several, single]}, ["red"])
    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert [list(line.get_ydata()) for line in dots] == [list(several.seeds)]
    plots.plt.close(ax.figure)


# ------------------------------------------------------------------------------------------------------------
# Pairing


def test_seeds_are_paired_by_their_label_whatever_the_order():
    generator = np.random.default_rng(0)
    a = labelled(generator.normal(0, 1, (4, 30)))
    b = labelled(generator.normal(0, 1, (4, 30)))
    expected = compare(a, b)
    assert expected.seeds == pytest.approx([x.value - y.value for x, y in zip(a, b, strict=True)])
    shuffled = compare([a[i] for i in (2, 0, 3, 1)], [b[i] for i in (3, 2, 1, 0)])
    assert sorted(shuffled.seeds) == pytest.approx(sorted(expected.seeds))
    assert shuffled.interval == pytest.approx(expected.interval)


def test_without_labels_order_pairs():
    a, b = (labelled(np.random.default_rng(s).normal(0, 1, (3, 9)), labels=[None] * 3) for s in (0, 1))
    assert compare(a, b).seeds == pytest.approx([x.value - y.value for x, y in zip(a, b, strict=True)])
    with pytest.raises(ValueError, match="3 measurements cannot be paired with 2: label them by their seeds"):
        compare(a, b[:2])


@pytest.mark.parametrize(
    "a, b, words",
    [
        ((0, 1, 2), (1, 2, 3), "only one side of the comparison has labels 0, 3"),
        ((0, 1, 2), (0, 1), "only one side of the comparison has label 2"),
        ((0, 1, 2), (None, None, None), "some of the measurements have no label: label all by their seeds"),
        (range(9), range(9, 18), "has labels 0, 1, 2, 3, 4, ...: pairs need"),
        ((0, 1, 1), (0, 1, 2), "one side of a comparison has label 1 twice: select"),
    ],
)
def test_labels_that_do_not_pair_are_refused(a, b, words):
    sides = [labelled(np.random.default_rng(0).normal(0, 1, (len(side), 5)), labels=side) for side in (a, b)]
    with pytest.raises(ValueError, match=words):
        compare(*sides)


def test_one_float_row_is_paired_with_every_seed():
    seeds = rows_of([1, 2, 3, 4, 5], labels=range(3, 8))
    (in_float,) = rows_of([10], labels=[0])
    for single in (in_float, [in_float]):
        found = compare(seeds, single)
        assert found.seeds == pytest.approx((-9, -8, -7, -6, -5)) and not found.images_only
        assert compare(single, seeds).seeds == pytest.approx((9, 8, 7, 6, 5))


def test_seeds_with_identical_answers_count_as_one():
    one, other, third = (m.correct for m in rows_of([1, 2, 3]))
    a = [Accuracy(right, seed) for seed, right in enumerate((one, one, one, other, other))]
    b = rows_of([0])
    found = compare(a, b)
    assert found.seeds == pytest.approx((1, 2)) and found.images_only
    assert found.interval == compare([a[0], a[3]], b).interval
    assert compare([*a, Accuracy(third, 5)], b).seeds == pytest.approx((1, 2, 3))
    varied = compare(a, rows_of([0] * 5))  # they differ on the other side
    assert len(varied.seeds) == 5
    mean = mean_of(a[:3])
    assert mean.interval == pytest.approx(a[0].interval) and mean.seeds == 3


def test_inner_factors_are_averaged_first():
    draw = np.random.default_rng(0).normal
    labels = [(network, seed) for network in "abc" for seed in (0, 1)]
    a, b = (labelled(draw(0, 1, (6, 20)), labels=labels) for _ in range(2))
    found = compare(a, b)
    each = [x.value - y.value for x, y in zip(a, b, strict=True)]
    assert found.seeds == pytest.approx(np.mean(np.reshape(each, (3, 2)), 1))
    assert compare(a[:4], b[:4]).images_only  # two networks, four draws
    values = np.array([m.values for m in a]).reshape(3, 2, 20).mean(1)
    assert mean_of(a).interval == pytest.approx(two_way(values.mean(), values))


def test_rows_are_labelled_by_their_seed_and_where_networks_differ_by_these():
    table = results.load_table(results.table_path("digits", "float-baseline"))
    some = results.accuracies(table, network="base", weight_bits=4)
    assert sorted(m.label for m in some) == [0, 1, 2, 3, 4]
    both = results.accuracies(table, weight_bits=4)
    assert {m.label for m in both} == {(name, s) for name in ("base", "better") for s in range(5)}
    mse = {**table.iloc[0].to_dict(), "correct": "", "values": "AACAPwAAgD8=", "metric": "mse", "value": 1.0}
    assert results.measurement_of(mse).label == table.calibration_seed.iloc[0]


# ------------------------------------------------------------------------------------------------------------
# Does it miss as often as it says?


def parts(a, b):
    """How many examples, and the variances of seeds, of examples and of the rest, of recorded differences."""
    of_a, of_b = ({m.label: m.values for m in side} for side in (a, b))
    values = np.array([of_a[s] - of_b[s] for s in sorted(set(of_a) & set(of_b))])
    seeds, n = values.shape
    rest = values - values.mean(1)[:, None] - values.mean(0) + values.mean()
    inner = (rest**2).sum() / ((seeds - 1) * (n - 1))
    of_seeds = values.mean(1).var(ddof=1) - inner / n
    of_examples = values.mean(0).var(ddof=1) - inner / seeds
    return n, max(of_seeds, 0.0), max(of_examples, 0.0), inner


TABLES = {  # what the variances are estimated from: bench, table, two sides that differ in one choice
    "pseudo-labels": ("cifar10-jpeg", {"target_weight_bits": 3}, {"labels": "hard"}, {"labels": "true"}),
    "skip-residual": (
        "digits",
        {"activation_bits": 4, "quantize_residual": False},
        {"quantize_skip": False},
        {"quantize_skip": True},
    ),
    "float-baseline": ("digits", {"weight_bits": 5}, {"network": "better"}, {"network": "base"}),
    "allowed-bitwidths": (
        "digits",
        {"target_weight_bits": 2.5},
        {"bit_choices": [1, 2, 3, 4, 5, 6, 7, 8]},
        {"bit_choices": [2, 4, 8]},
    ),
}


@pytest.fixture(scope="module", params=TABLES)
def variances(request):
    bench, where, *sides = TABLES[request.param]
    table = results.with_allocation(results.load_table(results.table_path(bench, request.param)))
    return parts(*(results.accuracies(table, **where, **side) for side in sides))


@pytest.mark.parametrize("seeds, least, most", [(5, 0.03, 0.07), (3, 0.0, 0.08)])
def test_without_an_effect_few_intervals_miss_zero(variances, seeds, least, most):
    draw = np.random.default_rng(seeds).normal
    recorded, of_seeds, of_examples, inner = variances
    few = 100  # examples, each of which stands for as many as its share of the recorded ones
    of_examples, inner = (variance * few / recorded for variance in (of_examples, inner))
    repeats = 3000
    missed = 0
    for _ in range(repeats):
        values = draw(0, inner**0.5, (seeds, few)) + draw(0, of_examples**0.5, few)
        values += draw(0, of_seeds**0.5, (seeds, 1))
        low, high = two_way(values.mean(), values)
        missed += not low <= 0 <= high
    if of_seeds == 0:  # then the interval is too wide rather than too narrow
        least = 0
    assert least <= missed / repeats <= most


def test_for_images_only_half_of_the_intervals_miss_zero_where_seeds_vary_as_ours_do():
    bench, where, *sides = TABLES["pseudo-labels"]
    table = results.with_allocation(results.load_table(results.table_path(bench, "pseudo-labels")))
    n, of_seeds, of_examples, inner = parts(*(results.accuracies(table, **where, **s) for s in sides))
    of_images = (of_examples + inner / 5) / n
    missed = 2 * stats.norm.sf(1.96 * (of_images / (of_images + of_seeds / 5)) ** 0.5)
    assert missed > 0.5


# ------------------------------------------------------------------------------------------------------------
# What the recorded rows say by this rule, and what an audit with code of its own found. (Learned ranges were
# recorded again since, for the gradient of their ends was wrong: the audit's rows of these are gone. Under 6
# bits it had three of the five seeds.)


BOTH = "seeds vary and the margin is narrower"


@pytest.mark.parametrize(
    "words, bench, before, each, after, why",
    [
        ("hard pseudo", "cifar10-jpeg", (-1.35, -0.07), (-3.4, -3.4, 4.7, 0.7, -2.1), (-5.0, 3.6), BOTH),
        (
            "end layers at 8 bits on top are above counting them, under",
            "digits",
            (0.15, 0.98),
            (1.3, -4.0, 2.7, 0.4, 2.5),
            (-2.8, 3.9),
            "seeds vary",
        ),
        ("learned under 6 bits", "cifar10-jpeg", (0.0, 0.87), (1.2, -0.3, 0.1, -0.3, 1.4), (-0.5, 1.4), BOTH),
    ],
)
def test_verdicts_flip_because_seeds_vary(words, bench, before, each, after, why):
    (claim,) = (claim for claim in evidence.claims() if claim["claim"].startswith(words))
    found = compare(*evidence.at_limits(claim, bench))
    assert [round(points, 1) for points in found.seeds] == list(each)
    change = evidence_before.change(claim, bench)
    assert change.interval_before == pytest.approx(before, abs=0.006)
    assert found.interval == pytest.approx(after, abs=0.051)
    assert evidence.verdict(claim, found) == "undecided here"
    assert change.interval_after == evidence.measured(claim, bench).interval
    assert (change.before, change.after, change.why) == ("holds", "undecided here", why)


def test_a_limit_of_a_fiftieth_of_a_bit_more_is_no_certain_difference():
    table = results.load_table(results.table_path("cifar10-jpeg", "first-last-learned"))
    table = results.with_allocation(table)
    table = table[[bits is None for bits in table.first_last_bits]]
    limits = sorted(x for x in set(table.target_weight_bits) if round(x, 2) in (3, 3.02))
    some, more = (results.accuracies(table, target_weight_bits=limit) for limit in limits)
    found = compare(more, some)
    images = evidence_before._interval_before(more, some)
    assert found.value == pytest.approx(-1.91, abs=0.006)
    assert images == pytest.approx((-2.36, -1.46), abs=0.006)
    assert (round(min(found.seeds), 1), round(max(found.seeds), 1)) == (-6.7, 2.1)
    assert found.verdict() == "undecided here"


def judged_of(words):
    (claim,) = (claim for claim in evidence.claims() if claim["claim"].startswith(words))
    return [found for bench in evidence.BENCHES if (found := evidence.judged(claim, bench))]


def test_what_the_limits_say_and_take_back_is_on_record():
    """`book/limits.md`, its last section, and the surprise that the evidence page tells."""
    at_4_bits = (
        "quantizing only inputs is above quantizing the skip connection at 4-bit activations",
        "leaving the residual in float is above quantizing everything at 4-bit activations",
        "a range per channel is above one per tensor for 3-bit weights",
    )
    for words in at_4_bits:
        assert "does not hold" not in [word for found in judged_of(words) for word in found.asked.values()]
    turned = {found.bench: found for found in judged_of("at 3-bit activations, leaving the residual")}
    assert all(d.points > 0 for d in turned["digits"].networks.values())
    assert turned["cifar10-jpeg"].asked["resnet44"] == "does not hold"
    per_channel = judged_of("a range per channel is above one per tensor for 4-bit weights")
    worse = [d for found in per_channel for d in found.networks.values() if d.points < -2]
    assert len(worse) >= 2 and not any(d.images_only for d in worse)


def test_other_roundings_come_to_the_same_verdicts_where_bits_are_learned():
    """Which the evidence page says, beside page 02a, where both stand."""
    verdicts = []
    for claim in (claim for claim in evidence.claims() if claim["table"] == "filled-budget"):
        tables = ("filled-budget", "filled-budget-roundings")
        usual, others = (evidence.judged({**claim, "table": table}, "digits") for table in tables)
        if others:
            assert others.over_networks and others.verdict == usual.verdict
            verdicts.append(others.verdict)
    assert sorted(verdicts) == ["does not hold", "holds"]


@pytest.mark.parametrize(
    ("better", "worse", "where"),
    [
        (
            {"weight_symmetric": False},
            {"weight_symmetric": True},
            {"weight_bits": 4, "weight_granularity": "per_channel"},
        ),
        (
            {"weight_granularity": "per_channel"},
            {"weight_granularity": "per_tensor"},
            {"weight_bits": 4, "weight_symmetric": False},
        ),
    ],
)
def test_networks_differ_by_more_than_their_roundings(better, worse, where):
    """Which pages 01a and 02a say of 4-bit weights."""
    networks = evidence.question("digits", "weight-granularity", better, worse, **where).networks.values()
    within = np.mean([np.var(d.seeds, ddof=1) for d in networks]) ** 0.5
    assert len(networks) == 8 and np.std([d.points for d in networks], ddof=1) > 1.5 * within


def test_of_a_table_recorded_in_part_all_sides_have_the_same_seeds():
    def rows(seeds, bits=4):
        return [{"weight_bits": bits, "activation_bits": bits, "calibration_seed": s} for s in seeds]

    few, many = rows([2, 0, 7]), rows(range(5))
    a, b = results.of_common_seeds(few, many)
    assert [row["calibration_seed"] for row in a] == [2, 0]
    assert [row["calibration_seed"] for row in b] == [0, 2]
    assert results.of_common_seeds(rows([3]), many) == [rows([3]), rows([3])]  # no draw beside all others
    assert results.of_common_seeds(rows([0], None), many) == [rows([0], None), many]  # a network in float
    assert results.of_common_seeds([], many) == [[], many] and results.of_common_seeds(rows([9]), many) == [
        [],
        [],
    ]
