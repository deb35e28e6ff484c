"""Shares of variance, ratios and orders on synthetic tables whose answers are known."""

import numpy as np
import pytest

from qlib.comparison import UNDECIDED
from qlib.shares import Ratio, flip_rate, log_ratio, other_images_too, shares, sure_flip_rate, worth

LEVELS = {"a": [0, 0, 1, 1], "b": [0, 1, 0, 1]}


def answers(accuracy, images, generator):
    """Of images that differ in difficulty, which makes answers under two cells alike."""
    threshold = generator.random(images)
    own = generator.random((*accuracy.shape, images))
    mixed = np.where(generator.random(images) < 0.7, threshold, own)
    return mixed < accuracy[..., None]


def exact(accuracy, images=1000):
    """Answers whose accuracies are exactly these."""
    return np.arange(images) < np.round(images * np.asarray(accuracy))[..., None]


def true_parts(accuracy):
    y = 100 * accuracy
    centred = y - y.mean((-2, -1), keepdims=True)
    method, choices = centred.mean(-1), centred.mean(-2)
    rest = centred - method[..., :, None] - choices[..., None, :]
    return tuple((x**2).reshape(*y.shape[:-2], -1).mean(-1) for x in (method, choices, rest))


def test_a_table_of_known_parts():
    """Methods at +-4 points, choice a at +-2, b at +-1, and b turns round with the method by +-3."""
    method, a, b = np.array([4, -4]), np.array([2, 2, -2, -2]), np.array([1, -1, 1, -1])
    accuracy = (50 + method[:, None] + a + b + 3 * np.sign(method)[:, None] * b) / 100
    found = shares(exact(accuracy, 100_000), LEVELS)
    assert found.method == pytest.approx(16, abs=0.01)
    assert found.choices == pytest.approx(4 + 1, abs=0.01)
    assert found.interaction == pytest.approx(9, abs=0.01)
    assert found.total == pytest.approx(30, abs=0.03)
    assert found.one_by_one == pytest.approx({"a": 4, "b": 1}, abs=0.01)
    assert found.with_method == pytest.approx({"a": 0, "b": 9}, abs=0.01)
    assert found.as_method("b") == pytest.approx((4, 16 + 1 + 9), abs=0.02)
    assert found.as_method("a", "b") == pytest.approx((0, 30), abs=0.03)


def test_logits_of_a_table_that_is_additive_in_them():
    logit = np.array([[0.0, 1.0], [2.0, 3.0]])
    found = shares(exact(1 / (1 + np.exp(-logit)), 200_000), scale="logit")
    assert (found.method, found.choices) == pytest.approx((1, 0.25), abs=1e-3)
    assert found.interaction == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="scale must be one of points, logit"):
        shares(exact(logit / 4), scale="log")
    assert np.isfinite(shares(exact([[0, 1], [1, 1]]), scale="logit").total)  # none or all right


def test_image_noise_is_subtracted():
    """Over many draws of images, the mean of every part is the true one, though images alone would make
    several square points.
    """
    generator = np.random.default_rng(0)
    accuracy = 0.6 + 0.05 * generator.standard_normal((3, 4))
    found = [shares(answers(accuracy, 100, generator), LEVELS) for _ in range(2000)]
    parts = np.array([(s.method, s.choices, s.interaction, s.total) for s in found])
    truth = np.array([*true_parts(accuracy), sum(true_parts(accuracy))])
    error = parts.std(0) / len(parts) ** 0.5
    assert (abs(parts.mean(0) - truth) < 4 * error).all()
    assert error.max() < 0.5


@pytest.mark.parametrize("scale", ["points", "logit"])
def test_where_nothing_matters_nothing_is_found(scale):
    generator = np.random.default_rng(1)
    found = [shares(answers(np.full((3, 4), 0.7), 400, generator), LEVELS, scale) for _ in range(500)]
    for part in ("method", "choices", "interaction"):
        values = np.array([getattr(s, part) for s in found])
        assert abs(values.mean()) < 4 * values.std() / len(values) ** 0.5
        assert (values < 0).any()


def test_luck_of_cells_is_subtracted_where_it_is_asked_for():
    """Luck alone: what means over methods and cells keep of it is taken away, on both sides."""
    generator = np.random.default_rng(2)
    luck = 0.6 + 0.03 * generator.standard_normal((1000, 5, 8))
    found = np.array([shares(exact(one, 2000)).less_luck() for one in luck])
    kept = np.array([(s.choices, s.method) for s in (shares(exact(one, 2000)) for one in luck)])
    assert (abs(found.mean(0)) < 4 * found.std(0) / len(found) ** 0.5).all()
    assert (kept.mean(0) > 0.5).all()


def networks(count, generator, choices=0.04, method=0.03, own=0.015):
    """Accuracies ``(count, 5, 8)``: effects that all networks share, and their own."""
    fixed = np.random.default_rng(3)
    means = 0.65 + method * fixed.standard_normal((5, 1)) + choices * fixed.standard_normal((1, 8))
    each = generator.standard_normal
    return np.clip(
        means
        + own * each((count, 5, 1))
        + own * each((count, 1, 8))
        + own * fixed.standard_normal((5, 8))
        + 0.3 * own * each((count, 5, 8)),
        0.05,
        0.95,
    )


def test_intervals_over_networks_cover():
    """Of 300 tables of six networks, with 400 images each, the interval holds the ratio of all networks of
    this kind about as often as it says.
    """
    generator = np.random.default_rng(4)
    method, choices, _ = true_parts(networks(20_000, generator))
    truth = np.log(choices / method).mean()
    assert truth > 0.3
    held, verdicts = [], []
    for _ in range(300):
        found = {}
        for i, accuracy in enumerate(networks(6, generator)):
            s = shares(answers(accuracy, 400, generator))
            found[str(i)] = (s.choices, s.method)
        ratio = log_ratio(found, 0.01)
        held.append(ratio.interval[0] <= truth <= ratio.interval[1])
        verdicts.append(ratio.verdict)
    assert 0.9 <= np.mean(held) <= 0.99
    assert verdicts.count("does not hold") <= 0.03 * len(verdicts) < verdicts.count("holds")


def test_intervals_for_other_images_cover_what_all_networks_share():
    """Networks that are alike but for luck, on the same images: how they differ tells little of what other
    images would say.
    """
    generator = np.random.default_rng(7)
    accuracy = networks(1, np.random.default_rng(8), method=0.04)[0]
    method, choices, _ = true_parts(accuracy)
    truth = np.log(choices / method)
    narrow, wide = [], []
    for _ in range(100):
        hard, own = generator.random(300), generator.random((*accuracy.shape, 300))
        mixed = np.where(generator.random(own.shape) < 0.5, hard, own)  # of all networks
        each = np.where(generator.random((6, *own.shape)) < 0.2, generator.random((6, *own.shape)), mixed)
        right = {str(i): one < accuracy[..., None] for i, one in enumerate(each)}
        parts = {name: shares(one) for name, one in right.items()}
        of_networks = log_ratio({name: (s.choices, s.method) for name, s in parts.items()}, 0.01)
        both = other_images_too(right, 0.01)
        assert both.networks == of_networks.networks
        narrow.append(of_networks.interval[0] <= truth <= of_networks.interval[1])
        wide.append(both.interval[0] <= truth <= both.interval[1])
    assert np.mean(narrow) < 0.8 and np.mean(wide) >= 0.9


def test_one_network_has_no_interval_for_other_images_either():
    right = np.random.default_rng(9).random((2, 3, 100)) < 0.7
    assert np.isnan(other_images_too({"x": right}, 0.01).interval).all()


def test_a_sentence_that_is_neither_true_nor_false_is_seldom_judged():
    generator = np.random.default_rng(5)
    ratios = np.log(2) * generator.standard_normal((4000, 6))
    verdicts = [
        log_ratio({str(i): (np.exp(r), 1.0) for i, r in enumerate(row)}, 0.01).verdict for row in ratios
    ]
    wrong = 1 - verdicts.count(UNDECIDED) / len(verdicts)
    assert 0.04 < wrong < 0.06


def test_the_decision():
    assert log_ratio({"x": (9, 1), "y": (8, 1), "z": (10, 1)}, 0.01).verdict == "holds"
    assert log_ratio({"x": (1, 9), "y": (1, 8), "z": (1, 10)}, 0.01).verdict == "does not hold"
    assert log_ratio({"x": (1, 9), "y": (9, 1), "z": (1, 1)}, 0.01).verdict == UNDECIDED
    assert log_ratio({"x": (9, 1), "y": (8, 1)}, 0.01).verdict == UNDECIDED  # two decide nothing
    one = log_ratio({"x": (9, 1)}, 0.01)
    assert one.verdict == UNDECIDED and one.value == pytest.approx(np.log(9))
    assert isinstance(one, Ratio)
    with pytest.raises(ValueError, match="record rows first"):
        log_ratio({}, 0.01)


def test_what_noise_leaves_below_the_least_counts_as_that_and_is_said():
    found = log_ratio({"x": (1.0, -0.3), "y": (1.0, 0.5)}, 0.01)
    assert found.networks == pytest.approx({"x": np.log(100), "y": np.log(2)}) and found.least == ("x",)


def test_flips():
    a, b = np.array([[3.0, 1.0]]), np.array([[2.0, 1.0]])
    assert flip_rate(a, b, 1, together=True) == 0.25  # a tie counts half
    assert flip_rate(a, b, -1, together=True) == 0.75
    # of four pairs: 3 > 2, 3 > 1, 1 < 2, 1 = 1
    assert flip_rate(a, b, 1, together=False) == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    two = np.concatenate([a, a + 50]), np.concatenate([b, b + 50])  # never across networks
    assert flip_rate(*two, 1, together=False) == flip_rate(a, b, 1, together=False)


def test_flips_of_normal_effects_are_what_theory_says():
    generator = np.random.default_rng(6)
    cells = generator.standard_normal((1, 2000))
    found = flip_rate(cells + 1, cells, 1, together=False)
    assert found == pytest.approx(0.2398, abs=0.02)  # of a normal of mean 1 and variance 2, below 0
    assert flip_rate(cells + 1, cells, 1, together=True) == 0


def test_flips_that_images_make_by_chance_are_seldom_certain():
    generator = np.random.default_rng(10)
    a, b = (generator.random((1, 60, 400)) < 0.7 for _ in "ab")  # the same accuracy in all cells
    accuracies = a.mean(2), b.mean(2)
    assert flip_rate(*accuracies, 1, together=False) == pytest.approx(0.5, abs=0.1)
    assert 0 < sure_flip_rate(a, b, 1, together=False) < 0.07
    assert sure_flip_rate(a, b, 1, together=True) < 0.12
    worse = generator.random((1, 60, 400)) < 0.4
    assert sure_flip_rate(worse, b, 1, together=True) == sure_flip_rate(worse, b, 1, together=False) == 1
    assert sure_flip_rate(worse, b, -1, together=True) == sure_flip_rate(a, a, 1, together=True) == 0


def test_certain_flips_are_those_of_a_paired_test():
    generator = np.random.default_rng(11)
    a, b = (generator.random((2, 4, 150)) < 0.6 for _ in "ab")
    for together in (False, True):
        expected = []
        for k in range(2):
            for x, y in [(x, y) for x in range(4) for y in range(4) if x == y or not together]:
                d = a[k, x].astype(float) - b[k, y]
                expected.append(d.mean() < -1.959964 * d.std(ddof=1) / len(d) ** 0.5)
        assert sure_flip_rate(a, b, 1, together) == pytest.approx(np.mean(expected))


def test_what_a_level_is_worth_under_every_method():
    values = np.array([[[5.0, 3.0], [4.0, 4.5]]])
    assert worth(values, np.array([True, False])).tolist() == [[2.0, -0.5]]


def test_a_table_of_one_method_is_refused():
    with pytest.raises(ValueError, match="needs two methods, two cells"):
        shares(np.ones((1, 4, 10), bool))
