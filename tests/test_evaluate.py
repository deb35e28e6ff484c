"""Accuracy and its interval, the paired comparison, and the one rule for verdicts."""

import numpy as np
import pytest
import torch
from helpers import Block, images
from torch import nn

from qlib import QuantConfig, compare, evaluate, quantize, verdict
from qlib.metrics import Accuracy


def accuracy(*correct):
    return Accuracy(np.array(correct, dtype=bool))


def share(right, n):
    return accuracy(*[True] * right, *[False] * (n - right))


def batches(network, sizes=(5, 8, 1)):
    """Images with the network's own answers as labels, every third of them wrong."""
    result = []
    for n in sizes:
        x = images(n)
        with torch.no_grad():
            labels = network.eval()(x).argmax(1)
        labels[::3] = (labels[::3] + 1) % 10
        result.append((x, labels))
    return result


def test_top1_counts_right_answers():
    network = Block()
    found = evaluate(network, batches(network))
    expected = [i % 3 != 0 for n in (5, 8, 1) for i in range(n)]
    assert found.correct.tolist() == expected and found.n == 14
    assert found.top1 == pytest.approx(100 * sum(expected) / 14)


def test_batching_does_not_matter_and_batches_may_be_generated():
    network = Block()
    x, labels = (torch.cat(parts) for parts in zip(*batches(network), strict=True))
    split = zip(x.split(4), labels.split(4), strict=True)
    assert evaluate(network, split).correct.tolist() == evaluate(network, [(x, labels)]).correct.tolist()


def test_labels_may_be_lists_and_narrow_integers():
    network = Block()
    x, labels = batches(network)[1]
    expected = evaluate(network, [(x, labels)]).top1
    for same in (labels.tolist(), labels.to(torch.uint8), labels.numpy()):
        assert evaluate(network, [(x, same)]).top1 == expected


@pytest.mark.parametrize("quantized", [False, True])
def test_evaluation_leaves_network_and_images_as_they_are(quantized):
    stem = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    network = nn.Sequential(*stem, nn.Dropout(), nn.Flatten(), nn.Linear(144, 10))
    if quantized:
        network = quantize(network, QuantConfig(4, 4), images())
    network.train()
    next(network.children()).eval()  # as where one layer is frozen
    modes = [m.training for m in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = images()
    before = x.clone()
    first, second = (evaluate(network, [(x, torch.zeros(8, dtype=torch.long))]) for _ in range(2))
    assert first.correct.tolist() == second.correct.tolist()  # in evaluation mode: dropout would tell
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(x, before)


def test_modes_are_restored_after_an_error():
    network = Block().train()
    with pytest.raises(ValueError, match="evaluation batch 0"):
        evaluate(network, [images()])
    assert all(m.training for m in network.modules())


@pytest.mark.parametrize(
    "right, n, interval",
    [
        (0, 10, (0.0, 27.75)),
        (5, 10, (23.66, 76.34)),
        (10, 10, (72.25, 100.0)),
        (1, 1, (20.65, 100.0)),
        (760, 1000, (73.26, 78.54)),
    ],
)
def test_wilson_interval(right, n, interval):
    assert share(right, n).interval == pytest.approx(interval, abs=0.01)


def test_wilson_interval_covers_95_of_100():
    generator = np.random.default_rng(0)
    inside = 0
    for right in generator.binomial(500, 0.76, size=2000):
        low, high = share(right, 500).interval
        inside += low <= 76 <= high
    assert 0.93 < inside / 2000 < 0.97


def test_comparison_counts_points_in_pairs():
    a = accuracy(1, 1, 1, 0, 0)
    b = accuracy(1, 0, 0, 0, 1)
    difference = compare(a, b)
    assert difference.points == pytest.approx(20.0) and difference.n == 5
    assert difference.interval[0] < 20 < difference.interval[1]
    mirrored = compare(b, a)
    assert mirrored.points == -difference.points
    assert mirrored.interval == pytest.approx((-difference.interval[1], -difference.interval[0]))


def test_pairing_makes_the_interval_narrow():
    common = [True] * 700 + [False] * 280
    paired = compare(accuracy(*common, *[True] * 20), accuracy(*common, *[False] * 20))
    shuffled = np.random.default_rng(0).permutation(1000)
    unpaired = compare(
        accuracy(*common, *[True] * 20), Accuracy(np.array([*common, *[False] * 20])[shuffled])
    )
    assert paired.points == unpaired.points == 2
    assert np.diff(paired.interval) < np.diff(unpaired.interval) / 3


def test_two_runs_are_averaged_image_by_image():
    a = [accuracy(1, 1, 0, 0), accuracy(1, 0, 0, 0)]
    b = accuracy(0, 1, 0, 0)
    assert compare([a[0], a[0]], b) == compare(a[0], b)
    assert compare(a, b).points == pytest.approx(100 * (1 - 0.5) / 4) and compare(a, b).n == 4


def test_interval_has_a_width_even_where_nothing_differs():
    low, high = compare(share(5, 10), share(5, 10)).interval
    assert low < 0 < high


def test_paired_interval_covers_95_of_100():
    generator = np.random.default_rng(0)
    # Points: 8 % better, 5 % worse
    inside = 0
    expected = 3.0
    for _ in range(1000):
        kind = generator.random(800)
        a = (kind < 0.08) | (kind > 0.5)
        b = ((kind > 0.08) & (kind < 0.13)) | (kind > 0.5)
        low, high = compare(Accuracy(a), Accuracy(b)).interval
        inside += low <= expected <= high
    assert 0.93 < inside / 1000 < 0.97


@pytest.mark.parametrize(
    "interval, claim, expected",
    [
        ((0.1, 5.0), "greater", "holds"),
        ((-5.0, -0.1), "greater", "does not hold"),
        ((-0.1, 5.0), "greater", "undecided here"),
        ((0.0, 5.0), "greater", "undecided here"),
        ((-5.0, -0.1), "less", "holds"),
        ((0.1, 5.0), "less", "does not hold"),
        ((-0.1, 5.0), "less", "undecided here"),
        ((-0.9, 0.9), "no difference", "holds"),
        ((0.5, 0.9), "no difference", "holds"),
        ((-1.0, 1.0), "no difference", "holds"),
        ((0.5, 1.1), "no difference", "undecided here"),
        ((1.0, 2.0), "no difference", "undecided here"),
        ((1.1, 2.0), "no difference", "does not hold"),
        ((-3.0, -1.5), "no difference", "does not hold"),
        ((-0.5, 1.1), "no difference", "undecided here"),
    ],
)
def test_verdicts(interval, claim, expected):
    assert verdict(interval, claim) == expected


def test_a_difference_knows_its_verdict_and_prints_itself():
    difference = compare(share(90, 100), share(10, 100))
    assert difference.images_only and difference.seeds == (80.0,)
    assert difference.verdict() == difference.verdict("less") == "undecided (images only)"
    assert difference.verdict("no difference") == "undecided (images only)"
    assert compare(share(50, 100), share(49, 100)).verdict() == "undecided here"
    assert str(difference).startswith("+80.00 points (")
    assert str(difference).endswith(", n = 100, images only)")
    seeds = compare([share(90, 100), share(91, 100), share(92, 100)], share(10, 100))
    assert seeds.verdict() == "holds" and seeds.verdict("less") == "does not hold"
    assert seeds.seeds == (80.0, 81.0, 82.0) and str(seeds).endswith(", 3 seeds, n = 100)")
    assert str(share(760, 1000)) == "76.00 % (73.26 to 78.54, n = 1,000)"
