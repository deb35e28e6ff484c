"""What is measured: each metric against a formula written by hand, intervals, comparisons, errors."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from qlib import Accuracy, Metric, compare, evaluate, verdict
from qlib.comparison import Difference, mean_of
from qlib.evaluation import examples, measured
from qlib.metrics import AGREEMENT, METRICS, MSE, SQNR, TOP1, described, description, find_metric

SAME = nn.Identity()  # its outputs are its inputs


class Noisy(nn.Module):
    """Gives its inputs, and a share of them that depends on the place."""

    def __init__(self, share=0.1):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, x):
        return x * (1 + self.share * torch.linspace(-1, 1, x[0].numel()).reshape(x[0].shape))


class Two(nn.Module):
    def forward(self, x):
        return x, x.mean(1)


def scores(*shape):
    return torch.randn(12, *shape)


# ------------------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize("k, name", [(1, "top1"), (5, "top5")])
def test_top_k_is_the_share_of_labels_among_the_k_best(k, name):
    x = scores(9)
    labels = torch.randint(9, (12,))
    found = evaluate(SAME, [(x[:5], labels[:5]), (x[5:], labels[5:])], name)
    expected = [100.0 * (label in row.argsort()[-k:]) for row, label in zip(x, labels, strict=True)]
    assert found.values.tolist() == expected and found.value == pytest.approx(np.mean(expected))
    assert isinstance(found, Accuracy) == (k == 1) and 0 < found.value < 100


def test_top5_of_few_classes_is_all():
    assert evaluate(SAME, [(scores(3), torch.randint(3, (12,)))], "top5").value == 100


@pytest.mark.parametrize("k, name", [(1, "top1"), (5, "top5")])
def test_top_k_of_a_map_is_the_share_of_its_places(k, name):
    x = scores(7, 4, 3)
    labels = torch.randint(7, (12, 4, 3))
    found = evaluate(SAME, [(x, labels)], name)
    expected = [
        100 * np.mean([labels[i, r, c] in x[i, :, r, c].argsort()[-k:] for r in range(4) for c in range(3)])
        for i in range(12)
    ]
    assert found.values == pytest.approx(expected) and found.value == pytest.approx(np.mean(expected))
    assert not isinstance(found, Accuracy) and found.metric.name == name


def test_mse_is_the_mean_over_an_examples_outputs():
    for shape in ((1,), (3,), (2, 4, 4)):
        x = scores(*shape)
        targets = torch.randn(x.shape)
        found = evaluate(SAME, [(x, targets)], "mse")
        expected = ((x.double() - targets.double()) ** 2).flatten(1).mean(1)
        assert found.values == pytest.approx(expected.numpy())
        assert found.value == pytest.approx(expected.mean().item())


def test_agreement_is_the_share_of_answers_that_are_the_references():
    for shape in ((5,), (5, 4, 3)):
        x = scores(*shape)
        network = Noisy(2.0)
        found = evaluate(network, [(x, None)], "agreement", reference=SAME)
        with torch.no_grad():
            same = network(x).argmax(1) == x.argmax(1)
        expected = [100 * row.double().mean().item() for row in same]
        assert found.values.tolist() == expected and 0 < found.value < 100


def decibels(outputs, reference):
    outputs, reference = outputs.detach().double(), reference.double()
    return 10 * math.log10((reference**2).sum() / ((outputs - reference) ** 2).sum())


def test_sqnr_is_that_of_all_outputs_together():
    x = scores(6)
    network = Noisy()
    found = evaluate(network, [(x[:5], None), (x[5:], None)], "sqnr", reference=SAME)
    with torch.no_grad():
        expected = decibels(network(x), x)
    assert found.value == pytest.approx(expected) and found.n == 12
    without = [decibels(network(rest), rest) for i in range(12) for rest in [torch.cat([x[:i], x[i + 1 :]])]]
    assert found.values == pytest.approx(12 * expected - 11 * np.array(without))


def test_sqnr_of_several_outputs_sums_their_energies():
    class Off(Two):
        def forward(self, x):
            return tuple(y * 1.1 for y in super().forward(x))

    found = evaluate(Off(), [(scores(6), None)], "sqnr", reference=Two())
    assert found.value == pytest.approx(20, abs=1e-3)  # a tenth of each


def test_sqnr_of_what_is_the_same_is_infinite_and_not_compared():
    x = scores(6)
    perfect = evaluate(SAME, [(x, None)], "sqnr", reference=SAME)
    other = evaluate(Noisy(), [(x, None)], "sqnr", reference=SAME)
    assert perfect.value == math.inf and np.isnan(perfect.interval).all()
    with pytest.raises(ValueError, match="sqnr is not finite"):
        compare(other, perfect)


def test_a_function_may_look_at_several_outputs_and_targets():
    def error(outputs, targets):
        (one, other), (target, word) = outputs, targets
        assert word == "as it is"
        return (one - target).abs().mean(1) + other.abs()

    x = scores(4)
    target = torch.randn(12, 4)
    found = evaluate(Two(), [(x, (target, "as it is"))], error)
    expected = (x - target).abs().mean(1) + x.mean(1).abs()
    assert found.values == pytest.approx(expected.double().numpy()) and found.metric.name == "error"
    assert found.metric.greater_is_better and found.metric.unit == ""


def test_targets_by_name_and_inputs_by_name():
    class Sum(nn.Module):
        def forward(self, a, b):
            return {"sum": a + b}

    a, b = scores(3), scores(3)
    batch = ({"b": b, "a": a}, {"sum": a.numpy()})
    found = evaluate(Sum(), [batch], lambda outputs, targets: (outputs["sum"] - targets["sum"]).sum(1))
    assert found.values == pytest.approx(b.sum(1).numpy(), abs=1e-5)


def test_a_value_may_be_yes_or_no_without_being_a_percentage():
    def right(outputs, targets):
        return outputs.argmax(1) == targets

    x = scores(4)
    labels = torch.randint(4, (12,))
    share = evaluate(SAME, [(x, labels)], right)
    assert 100 * share.value == pytest.approx(evaluate(SAME, [(x, labels)]).value)
    percent = evaluate(SAME, [(x, labels)], Metric("right", lambda o, t: 100.0 * right(o, t), unit="%"))
    assert percent.interval == evaluate(SAME, [(x, labels)]).interval


def test_parts_of_a_whole_are_put_together_at_the_end():
    ratio = Metric(
        "ratio", lambda o, t: torch.stack([o[:, 0], o[:, 1]], 1), whole=lambda p: p[..., 0] / p[..., 1]
    )
    x = torch.rand(12, 2) + 1
    found = evaluate(SAME, [(x[:5], 0), (x[5:], 0)], ratio)
    assert found.value == pytest.approx((x[:, 0].sum() / x[:, 1].sum()).item())


def test_parts_may_be_measured_apart_and_joined():
    x = scores(6)
    for name in ("sqnr", "agreement"):
        metric = METRICS[name]
        parts = [examples(Noisy(), [(part, None)], metric, SAME) for part in x.split(5)]
        whole = evaluate(Noisy(), [(x, None)], name, reference=SAME)
        joined = measured(metric, np.concatenate(parts))
        assert joined.value == whole.value and (joined.values == whole.values).all()


# ------------------------------------------------------------------------------------------------------------
# Intervals


def energies(generator, n):
    """Parts of sqnr, of images that differ, in which noise goes with the signal."""
    signal = generator.gamma(4, 1, n)
    return np.stack([signal, signal * generator.gamma(2, 0.01, n)], 1)


def test_jackknife_values_average_close_to_the_value():
    found = SQNR.measure(energies(np.random.default_rng(0), 500))
    assert np.mean(found.values) == pytest.approx(found.value, abs=0.01)
    assert np.std(found.values) > 1


SIMULATED = {
    "sqnr": (lambda g: SQNR.measure(energies(g, 200)), 10 * math.log10(1 / 0.02)),
    "mse": (lambda g: MSE.measure(g.normal(0, 1, (40, 8)).__pow__(2).mean(1)), 1.0),
    "agreement": (lambda g: AGREEMENT.measure(100.0 * (g.random(400) < 0.8)), 80.0),
    "agreement on maps": (lambda g: AGREEMENT.measure(100 * g.beta(4, 1, 100)), 80.0),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_intervals_cover_the_truth_in_95_of_100_draws(name):
    draw, truth = SIMULATED[name]
    generator = np.random.default_rng(0)
    ends = np.array([draw(generator).interval for _ in range(300)])
    inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    assert 0.90 <= inside.mean() <= 0.99


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(size=15)
    found = MSE.measure(values)
    assert found.interval == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))
    assert np.isnan(MSE.measure(values[:1]).interval).all()


def test_the_interval_of_a_share_is_wilsons():
    found = AGREEMENT.measure(np.array([100.0] * 9 + [0.0]))
    expected = stats.binomtest(9, 10).proportion_ci(0.95, "wilson")
    assert found.interval == pytest.approx((100 * expected.low, 100 * expected.high))


# ------------------------------------------------------------------------------------------------------------
# Comparison


def of(metric, *values):
    return metric.measure(np.array(values, dtype=float))


def test_a_comparison_is_paired_by_students_interval():
    generator = np.random.default_rng(0)
    b = generator.normal(10, 5, 30)
    a = b + generator.normal(0.3, 0.5, 30)
    found = compare(of(MSE, *a), of(MSE, *b))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(a - b))
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.unit == "" and found.n == 30
    with pytest.raises(AttributeError, match="a difference in mse has no points"):
        _ = found.points


def test_several_measurements_count_with_their_mean_for_each_example():
    one, other, base = of(MSE, 1, 2, 4), of(MSE, 3, 2, 1), of(MSE, 0, 1, 0)
    found, expected = compare([one, other], base), compare(of(MSE, 2, 2, 2.5), base)
    assert found.value == pytest.approx(expected.value)
    assert found.interval == pytest.approx(expected.interval)
    average = mean_of([one, other])
    assert average.value == pytest.approx((7 / 3 + 2) / 2) and (average.n, average.seeds) == (3, 2)
    assert average.interval == pytest.approx(of(MSE, 2, 2, 2.5).interval)
    assert average.spread == pytest.approx(np.std([7 / 3, 2], ddof=1))


def test_a_comparison_of_sqnr_pairs_images():
    generator = np.random.default_rng(0)
    b = energies(generator, 300)
    a = b * [1, 0.8]
    found = compare(SQNR.measure(a), SQNR.measure(b))
    assert found.value == pytest.approx(10 * math.log10(1 / 0.8)) and found.unit == "dB"
    assert np.diff(found.interval) < 1e-6  # every image moved alike


@pytest.mark.parametrize(
    "a, b, words",
    [
        (of(MSE, 1, 2), of(MSE, 1, 2, 3), "the same images: 2 against 3"),
        (of(MSE, 1, 2), of(AGREEMENT, 1, 2), "mse cannot be compared with agreement"),
        ([of(MSE, 1, 2), of(AGREEMENT, 1, 2)], of(MSE, 1, 2), "one side of a comparison has one metric"),
        ([of(MSE, 1, 2), of(MSE, 1)], of(MSE, 1, 2), r"the same images, got evaluations of \[2, 1\]"),
        ([], of(MSE, 1, 2), "the same images"),
    ],
    ids=["n", "metric", "metrics of one side", "n of one side", "nothing"],
)
def test_what_cannot_be_compared_is_refused(a, b, words):
    for sides in ((a, b), (b, a)):
        with pytest.raises(ValueError, match="same images|compared|one metric"):
            compare(*sides)
    with pytest.raises(ValueError, match=words):
        compare(a, b)


def between(low, high, metric):
    return Difference((low + high) / 2, (low, high), 9, metric, seeds=(low, (low + high) / 2, high))


def test_a_verdict_knows_which_way_is_better():
    for metric, better, worse in ((MSE, "less", "greater"), (SQNR, "greater", "less")):
        for low, high in ((1, 2), (-2, -1), (-1, 2)):
            difference = between(low, high, metric)
            assert difference.verdict("better") == difference.verdict(better)
            assert difference.verdict("worse") == difference.verdict(worse)
    assert between(1, 2, MSE).verdict("better") == "does not hold"
    assert between(1, 2, SQNR).verdict("better") == "holds"
    assert between(-1, 2, SQNR).verdict("better") == "undecided here"


def test_no_difference_is_one_within_the_metrics_margin():
    for metric in (TOP1, AGREEMENT, SQNR):
        assert between(-0.99 * metric.margin, 0.9 * metric.margin, metric).verdict("no difference") == "holds"
        wide = between(0.1, 1.1 * metric.margin, metric)
        assert wide.verdict("no difference") == "undecided here"
        assert between(1.1 * metric.margin, 5, metric).verdict("no difference") == "does not hold"
        assert wide.verdict("no difference", margin=2 * metric.margin) == "holds"
    with pytest.raises(ValueError, match="no margin within which values count as equal: pass margin="):
        between(-1, 1, MSE).verdict("no difference")
    assert between(-1, 1, MSE).verdict("no difference", margin=1) == "holds"
    for claim in ("bigger", "equal"):
        with pytest.raises(ValueError, match=f"claim must be .* got '{claim}'"):
            between(-1, 1, TOP1).verdict(claim)
    assert verdict((float("nan"), float("nan"))) == "undecided here"


def test_values_and_differences_are_said_in_their_unit():
    assert str(of(SQNR, *[[4, 1]] * 3)).startswith("6.02 dB (6.02 to 6.02, n = 3)")
    assert str(of(MSE, 0.00012, 0.00014)).startswith("0.00013 (")
    assert str(between(-1, 2, SQNR)) == "+0.50 dB (-1.00 to +2.00, 3 seeds, n = 9)"
    assert str(between(-1, 2, AGREEMENT)).startswith("+0.50 points (")
    assert (SQNR.label, MSE.label) == ("signal to quantization noise (dB)", "squared error")


# ------------------------------------------------------------------------------------------------------------
# Errors


def labels(n=12):
    return torch.zeros(n, dtype=torch.long)


REFUSED = {
    "unknown": ("topp1", SAME, labels(), "there is no metric 'topp1'; did you mean 'top1'"),
    "no metric": (3, SAME, labels(), "a metric is a name .top1, .* got 3"),
    "a class": (Metric, SAME, labels(), "a metric is a name"),
    "nowhere": ("nowhere.py:dice", SAME, labels(), "no metric 'nowhere.py:dice'"),
    "no reference": ("agreement", SAME, None, "'agreement' is measured against a reference: pass reference="),
    "no labels": (
        "top1",
        SAME,
        None,
        "evaluation batch 0 has no labels or other targets, which 'top1' looks",
    ),
    "too few labels": ("top1", SAME, labels(3), r"expected 12 integer labels, got \(3,\)"),
    "float labels": ("top5", SAME, torch.zeros(12), "expected 12 integer labels, got .*float32"),
    "labels out of range": ("top1", SAME, labels() + 6, "labels run from 6 to 6, but the network tells 6"),
    "labels for a map": ("top1", nn.Unflatten(1, (3, 2)), labels(), r"integer labels of shape \(12, 2\)"),
    "two outputs": ("top1", Two(), labels(), "the network gives a tuple, not a row of class scores"),
    "a column against a row": (
        "mse",
        nn.Linear(6, 1),
        torch.zeros(12),
        r"the network gives \(12, 1\), but the targets are \(12,\)",
    ),
    "two outputs against one": ("mse", Two(), torch.zeros(12, 6), "the network gives tuple, but the targets"),
    "NaN of the network": ("top1", Noisy(math.nan), labels(), "the network's output for evaluation batch 0"),
    "one value for a batch": (lambda o, t: o.mean(), SAME, labels(), r"'<lambda>' gives \(\), not .*\(12,\)"),
    "a number": (lambda o, t: 3.0, SAME, labels(), r"gives a float, not a tensor \(12,\)"),
    "too few values": (lambda o, t: o[:3, 0], SAME, labels(), r"gives \(3,\), not a tensor \(12,\)"),
    "values by place": (lambda o, t: o, SAME, labels(), r"gives \(12, 6\), not a tensor \(12,\)"),
    "no parts": (
        Metric("parts", lambda o, t: o[:, 0], whole=lambda p: p),
        SAME,
        labels(),
        r"'parts' gives \(12,\), not a tensor \(12, parts\)",
    ),
    "NaN of the metric": (lambda o, t: o[:, 0] / 0, SAME, labels(), "'<lambda>' gives NaN or infinity"),
    "an error of the metric": (
        lambda o, t: o + t[:3, None],
        SAME,
        labels(),
        "evaluation batch 0: the metric '<lambda>' fails: RuntimeError: The size of tensor",
    ),
    "a missing target": (
        lambda o, t: t["boxes"],
        SAME,
        {"box": labels()},
        "evaluation batch 0: the metric '<lambda>' fails: KeyError: 'boxes'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused(name):
    metric, network, targets, words = REFUSED[name]
    network.train()
    with pytest.raises(ValueError, match=words) as caught:
        evaluate(network, [(torch.rand(12, 6), targets)], metric)
    assert "\n" not in str(caught.value) and all(m.training for m in network.modules())


def test_what_cannot_be_compared_with_a_reference_is_refused():
    x = torch.rand(12, 6)
    for metric in ("agreement", "sqnr"):
        with pytest.raises(ValueError, match=r"gives \(12, 6\), but the reference's outputs are \(12, 4\)"):
            evaluate(SAME, [(x, None)], metric, reference=nn.Linear(6, 4))
    with pytest.raises(ValueError, match="the reference's output for evaluation batch 0 holds NaN"):
        evaluate(SAME, [(x, None)], "sqnr", reference=Noisy(math.nan))
    with pytest.raises(ValueError, match="batch 0: the network gives 1 outputs, but the reference 2"):
        evaluate(SAME, [(x, None)], "sqnr", reference=Two())


def test_evaluation_leaves_network_and_reference_in_the_modes_they_were_in():
    def network():
        made = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.9), nn.BatchNorm1d(6)).train()
        made[0].eval()
        return made

    model, reference = network(), network()
    before = [copy.deepcopy(each.state_dict()) for each in (model, reference)]
    batches = [(torch.rand(12, 6), None)]
    first, second = (evaluate(model, batches, "sqnr", reference=reference).value for _ in range(2))
    assert first == second  # in evaluation mode: dropout would tell
    with pytest.raises(ValueError, match="evaluation batch 1"):
        evaluate(model, [*batches, 3], "sqnr", reference=reference)
    for each, state in zip((model, reference), before, strict=True):
        assert [m.training for m in each.modules()] == [True, False, True, True]
        assert all(torch.equal(value, state[name]) for name, value in each.state_dict().items())


def test_a_network_that_overwrites_its_inputs_is_compared_on_what_it_was_given():
    class Overwrites(nn.Module):
        def forward(self, x):
            return x.mul_(1.1)

    x = torch.rand(12, 6)
    assert evaluate(Overwrites(), [(x.clone(), None)], "sqnr", reference=SAME).value == pytest.approx(
        20, abs=0.01
    )


# ------------------------------------------------------------------------------------------------------------
# Names and descriptions

OWN = """
from qlib.metrics import Metric

def error(outputs, targets):
    return (outputs - targets).abs().mean(1)

ERROR = Metric("error", error, "absolute error", "V", greater_is_better=False, margin=0.5)
"""


@pytest.fixture
def own(tmp_path):
    """Where a metric of the reader's own stands."""
    (tmp_path / "mine.py").write_text(OWN)
    return str(tmp_path / "mine.py")


def test_built_in_metrics_are_described_by_their_names():
    for name, metric in METRICS.items():
        assert find_metric(name) is find_metric(metric) is described(description(name)) is metric
        assert find_metric(f"qlib.metrics:{name.upper()}") is metric


def test_a_metric_of_ones_own_is_described_by_what_comparing_needs(own):
    for name, title, unit, greater, margin in (
        (f"{own}:ERROR", "absolute error", "V", False, 0.5),
        (f"{own}:error", "error", "", True, None),
    ):
        found = described(description(name))
        for metric in (found, find_metric(name)):
            assert (metric.name, metric.title, metric.unit) == (name, title, unit)
            assert (metric.greater_is_better, metric.margin) == (greater, margin)
        with pytest.raises(ValueError, match="only described there"):
            evaluate(SAME, [(scores(3), scores(3))], found)


def test_a_measured_and_a_described_value_of_one_metric_are_compared(own):
    batches = [(scores(3), scores(3))]
    a = evaluate(SAME, batches, f"{own}:ERROR")
    b = [described(description(f"{own}:ERROR")).measure(a.values + 1 + seed / 10) for seed in range(3)]
    assert compare(b, a).verdict("worse") == "holds" and compare(b, a).unit == "V"


@pytest.mark.parametrize(
    "said",
    [
        {"name": "x", "each": "evil.py:run"},
        {"title": "nameless"},
        {"name": "x", "kind": 3},
        3,
        None,
        ["top1"],
    ],
    ids=str,
)
def test_what_describes_no_metric_is_refused(said):
    with pytest.raises(ValueError, match="describes no metric"):
        described(said)
