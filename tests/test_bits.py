"""Bits by layer: learned, analytic, and from pseudo-labels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qlib import (
    QuantConfig,
    analytic_bitwidths,
    evaluate,
    footprint,
    learn_bitwidths,
    load_bench,
    pseudo_labels,
    quantize,
)
from qlib.affine import fake_quantize, make_grid
from qlib.bits.settings import LearnerSettings
from qlib.bits.sides import LearnedQuantizer, shrinkage
from qlib.bits.student import make_student

FREE = QuantConfig(first_last_bits=None)
IMAGES = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(self.middle(x) + x)
        return self.last(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():  # answers that differ from image to image
        net.last.weight.mul_(30)
        net.last.bias.copy_(-net(IMAGES).mean(0))
    return net


@pytest.fixture(scope="module")
def data(net):
    return pseudo_labels(net, IMAGES.split(32))


def learn(net, data, config=FREE, steps=60, **more):
    return learn_bitwidths(net, config, data, steps=steps, learning_rate=0.2, progress=False, **more)


@pytest.mark.parametrize(
    "config",
    [
        FREE,
        QuantConfig(),
        FREE.replace(weight_symmetric=True),
        FREE.replace(weight_bits={"middle": 5}),
        FREE.replace(weight_symmetric=True, symmetric_grid="restricted"),
    ],
)
@pytest.mark.parametrize("per_channel", [False, True])
def test_averages_are_those_of_the_footprint_and_meet_the_targets(net, data, config, per_channel):
    learned = learn(
        net, data, config, target_weight_bits=6.5, target_activation_bits=6.0, per_channel=per_channel
    )
    size = footprint(net, data[0][0], learned.config)
    assert learned.average_weight_bits == size.average_weight_bits <= 6.5
    assert learned.average_activation_bits == size.average_activation_bits <= 6.0
    row = learned.history.iloc[learned.step]
    assert row.feasible and row.average_weight_bits == pytest.approx(size.average_weight_bits, abs=1e-9)
    assert row.average_activation_bits == pytest.approx(size.average_activation_bits, abs=1e-9)
    kept = (
        {"first": 8, "last": 8}
        if config.first_last_bits
        else {"middle": 5}
        if isinstance(config.weight_bits, dict)
        else {}
    )
    by_name = {layer.name: layer.weight_bits for layer in size.layers}
    assert {name: by_name[name] for name in kept} == kept
    if per_channel:
        assert isinstance(learned.config.weight_bits["middle" if kept != {"middle": 5} else "first"], tuple)


@pytest.mark.parametrize("more", [{}, {"learn_ranges": True, "target_activation_bits": 5}])
def test_the_returned_config_gives_the_reported_accuracy(net, data, more):
    learned = learn(net, data, target_weight_bits=4, **more)
    again = evaluate(quantize(net, learned.config, data, ranges=learned.ranges), data)
    assert (again.correct == learned.accuracy.correct).all()
    if more:
        assert learned.ranges.keys() == {"first", "middle", "add", "last"}
        found = [
            q.range
            for q in quantize(net, learned.config, data).modules()
            if hasattr(q, "range") and q.name == "first"
        ]
        assert learned.ranges["first"] != tuple(end.item() for end in found[0])


def test_one_seed_gives_one_result_another_seed_another(net, data):
    a, b, c = (
        learn(net, data, target_weight_bits=4, target_activation_bits=5, seed=seed, batch_size=16)
        for seed in (0, 0, 1)
    )
    assert a.history.equals(b.history) and a.config == b.config
    assert not a.history.equals(c.history)


@pytest.mark.parametrize("parametrization", ["bits", "log2"])
def test_every_bitwidth_moves_in_the_first_step_and_has_a_gradient_without_penalty(parametrization):
    bench = load_bench("digits")
    learned = learn_bitwidths(
        bench.models["base"],
        FREE,
        bench.training(64),
        8,
        8,
        steps=2,
        penalty=0,
        parametrization=parametrization,
        progress=False,
    )
    columns = [name for name in learned.history if ":" in name]
    assert len(columns) > 100
    first, second = (learned.history.loc[step, columns].astype(float) for step in (0, 1))
    assert (first == 8).all() and (second != 8).all()  # Adam moves whatever has a gradient, and nothing else


@pytest.mark.parametrize("symmetric,grid", [(False, "full"), (True, "full"), (True, "restricted")])
@pytest.mark.parametrize("bits", [2, 3, 6])
def test_gradients_equal_those_of_the_formula_in_tensor_operations(net, data, symmetric, grid, bits):
    """Scale as a function of bits, rounding straight through: autograd finds what the learner computes by
    hand.
    """
    config = FREE.replace(weight_symmetric=symmetric, activation_symmetric=symmetric, symmetric_grid=grid)
    x, y = data[0]
    student, (weights, activations) = make_student(net, config, data, LearnerSettings(8, 8))
    for side in (weights, activations):
        side.parameter.data.fill_(bits)
        side.apply()
    F.cross_entropy(student(x), y).backward()
    for side in (weights, activations):
        side.set_gradient(0)

    def simulated(x, low, high, bits):
        steps = 2 ** (bits - int(symmetric and grid == "restricted")) - 1
        width = torch.maximum(-low, high) * (1 if grid == "restricted" else 2) if symmetric else high - low
        scale = width / steps
        codes = make_grid(low, high, int(bits), symmetric, grid)
        clipped = torch.minimum(
            torch.maximum(x, (codes.code_min - codes.zero_point - 0.5) * codes.scale),
            (codes.code_max - codes.zero_point + 0.5) * codes.scale,
        )
        # Straight through
        rounded = clipped / scale + (fake_quantize(x, codes) / codes.scale - clipped / scale).detach()
        # What is clipped does not depend on bits
        return torch.where(clipped == x, rounded * scale, fake_quantize(x, codes))

    learners = {
        module.fixed.name: module for module in student.modules() if isinstance(module, LearnedQuantizer)
    }
    b_w = torch.full((3,), float(bits), requires_grad=True)
    b_a = {name: torch.tensor(float(bits), requires_grad=True) for name in activations.names}

    def activation(name, x):
        low, high = learners[name].fixed.range
        return simulated(x, low.squeeze(), high.squeeze(), b_a[name])

    def layer(index, name):
        weight = weights.floats[name]
        rows = weight.flatten(1)
        ends = [
            end.clamp(**{side: 0.0}).reshape(-1, *[1] * (weight.dim() - 1))
            for end, side in ((rows.amin(1), "max"), (rows.amax(1), "min"))
        ]
        return simulated(weight, *ends, b_w[index])

    names = list(activations.names)
    image = next(m for m in student.modules() if getattr(m, "name", "") not in names and hasattr(m, "grid"))
    h = fake_quantize(x, image.grid)
    h = activation(names[0], F.conv2d(h, layer(0, "first"), net.first.bias.detach(), padding=1).relu())
    r = activation(names[1], F.conv2d(h, layer(1, "middle"), net.middle.bias.detach(), padding=1))
    h = activation(names[2], (r + h).relu())
    pool = next(m for m in student.modules() if hasattr(m, "grid") and m.name not in names and m is not image)
    h = fake_quantize(h.mean((2, 3)), pool.grid)
    out = activation(names[3], F.linear(h, layer(2, "last"), net.last.bias.detach()))
    F.cross_entropy(out, y).backward()
    # The largest weight is half a step beyond the last code
    at_the_border = 2e-2 if symmetric and grid == "full" else 2e-3
    assert torch.allclose(weights.parameter.grad, b_w.grad, rtol=at_the_border, atol=1e-6)
    assert torch.allclose(
        activations.parameter.grad, torch.stack([b.grad for b in b_a.values()]), rtol=2e-3, atol=1e-6
    )


def test_the_step_shrinks_per_bit_as_stated():
    for symmetric, grid in ((False, "full"), (True, "full"), (True, "restricted")):
        for bits in (2.0, 3.5, 8.0):
            b = torch.tensor(bits, dtype=torch.float64, requires_grad=True)
            halved = 1 if symmetric and grid == "restricted" else 0
            scale = 1 / (2 ** (b - halved) - 1)
            (by_bits,) = torch.autograd.grad(scale, b)
            assert shrinkage(b.detach(), symmetric, grid) == pytest.approx((-by_bits / scale).item())


def test_channels_of_one_layer_learn_different_bits(net, data):
    learned = learn_bitwidths(
        net, FREE, data, 4, steps=150, learning_rate=0.1, penalty=0.5, per_channel=True, progress=False
    )
    assert any(len(set(bits)) > 1 for bits in learned.config.weight_bits.values())


def test_restricted_choices_round_to_the_nearest(net, data):
    learned = learn(net, data, FREE.replace(bit_choices=(2, 4, 8)), target_weight_bits=4.5)
    assert set(learned.config.weight_bits.values()) <= {2, 4, 8} and learned.average_weight_bits <= 4.5


def test_learning_beats_uniform_bits_at_the_same_average():
    bench = load_bench("digits")
    training = bench.training(1024)
    validation = bench.validation(2000)
    learned = learn_bitwidths(
        bench.models["base"], FREE, training, 3, steps=400, learning_rate=0.02, progress=False
    )
    uniform = evaluate(quantize(bench.models["base"], FREE.replace(weight_bits=3), training), validation)
    mixed = evaluate(quantize(bench.models["base"], learned.config, training), validation)
    assert learned.average_weight_bits <= 3 and mixed.top1 >= uniform.top1 + 8


def test_analytic_bits_are_the_most_that_fit(net, data):
    # 3 bits in the largest maps
    x = data[0][0]
    limit = 8 * 64 * 3 / 8
    config = analytic_bitwidths(net, x, QuantConfig(), limit)
    size = footprint(net, x, config)
    assert size.max_activation_bytes <= limit
    maps = {e.name: e for e in size.layers if e.activation_elements}
    assert maps["last"].activation_bits == 8 and maps["first"].activation_bits == 3
    for e in maps.values():
        if e.name != "last":
            assert e.activation_bits == min(32, int(8 * limit / e.activation_elements))
    whole = analytic_bitwidths(net, x, QuantConfig(first_last_bits=None), limit)
    assert whole.activation_bits["last"] == 32
    quantize(net, config, data)
    with pytest.raises(ValueError, match="'first' has 512 values, at 1 bit"):
        analytic_bitwidths(net, x, QuantConfig(), 60)
    with pytest.raises(ValueError, match="stays in float"):
        analytic_bitwidths(net, x, QuantConfig(quantize_skip=False), 1e6)


def test_pseudo_labels_are_the_networks_answers(net, data):
    images = [(x, torch.zeros(len(x), dtype=torch.int64)) for x, _ in data]
    soft = pseudo_labels(net, images, soft=True)
    for (x, hard), (_, probabilities) in zip(pseudo_labels(net, images), soft, strict=True):
        with torch.no_grad():
            assert torch.equal(hard, net(x).argmax(1)) and torch.allclose(probabilities, net(x).softmax(1))
    assert learn(net, soft, target_weight_bits=5).average_weight_bits <= 5


@pytest.mark.parametrize(
    "target,config,words",
    [
        (0.5, FREE, "0.5 cannot be met.*1 bit.*1.000"),
        (3, FREE.replace(bit_choices=(4, 8)), "3 cannot be met.*4 bit"),
        (3, FREE.replace(weight_bits=None), "weight_bits=None"),
        (0, FREE, "number above 0, or None"),
        (math.nan, FREE, "number above 0, or None"),
        (3, FREE.replace(weight_bits={"first": 4, "middle": 4, "last": 4}), "no layer's bits are free"),
        (3, {"first_last_bits": None}, "must be a QuantConfig"),
    ],
)
def test_targets_that_cannot_be_met_are_refused_at_once(net, data, target, config, words):
    with pytest.raises(ValueError, match=words):
        learn(net, data, config, target_weight_bits=target)


@pytest.mark.parametrize(
    "batches,words",
    [
        ([], "no data to learn from"),
        ([(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))], "all 4 training labels are class 0"),
        ([torch.randn(4, 3, 8, 8)], "training batch 0 must be a pair"),
        ([(torch.randn(4, 3, 8, 8), torch.tensor([0.0, 1, 2, 3]))], "expected 4 integer labels"),
        ([(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 9]))], "does not fit labels of 10 classes"),
        ([(torch.full((4, 3, 8, 8), math.nan), torch.tensor([0, 1, 2, 3]))], "NaN or infinity"),
        (
            [
                (
                    torch.randn(4, 3, 8, 8),
                    torch.full((4, 5), math.nan).index_fill(1, torch.tensor([2]), 1.0).triu(),
                )
            ],
            "the loss is nan",
        ),
        (
            [
                (torch.randn(2, 3, 8, 8), torch.tensor([0, 1])),
                (torch.randn(2, 3, 9, 9), torch.tensor([0, 1])),
            ],
            "differ in the shape",
        ),
    ],
)
def test_bad_data_is_named(net, batches, words):
    with pytest.raises(ValueError, match=words):
        learn(net, batches, target_weight_bits=4)


def test_other_mistakes_are_named(net, data):
    for more, words in (
        ({}, "nothing to learn"),
        ({"target_weight_bits": 4, "parametrization": "bit"}, "parametrization must be"),
        ({"target_weight_bits": 4, "checkpoint": "best"}, "checkpoint must be"),
        ({"target_weight_bits": 4, "learn_ranges": True}, "give target_activation_bits"),
        ({"target_weight_bits": 4, "batch_size": 0}, "batch_size must be a whole number from 1, got 0"),
        ({"target_weight_bits": 4, "penalty": -1}, "penalty must be a number from 0, got -1"),
    ):
        with pytest.raises(ValueError, match=words):
            learn(net, data, **more)
    with pytest.raises(TypeError, match="no field 'penalti'; did you mean 'penalty'"):
        learn(net, data, target_weight_bits=4, penalti=1)
    with pytest.raises(
        ValueError, match="in 2 steps the targets were never met; the closest averages were 8.000 weight bits"
    ):
        learn(net, data, steps=2, target_weight_bits=2)
    closest = learn(net, data, steps=2, target_weight_bits=2, allow_infeasible=True)
    assert not closest.feasible and closest.average_weight_bits == 8
    with pytest.raises(ValueError, match="ranges: no tensor 'frist'.*did you mean 'first'"):
        quantize(net, FREE, data, ranges={"frist": (0, 1)})


@pytest.mark.parametrize("checkpoint", ["average", "authors", "last", "fill"])
def test_checkpoints_keep_a_step_that_meets_the_target(net, data, checkpoint):
    learned = learn(net, data, target_weight_bits=5, checkpoint=checkpoint)
    feasible = learned.history[learned.history.feasible]
    assert learned.step in set(feasible.step)
    if checkpoint == "last":
        assert learned.step == feasible.step.max()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"parametrization": "log2"},
        {"per_channel": True},
        {"target_activation_bits": 4.3, "learn_ranges": True},
    ],
)
def test_what_is_left_of_the_targets_is_spent(net, data, more):
    settings = {"target_weight_bits": 4.3, **more}
    kept = learn(net, data, checkpoint="average", **settings)
    filled = learn(net, data, checkpoint="fill", **settings)
    assert filled.step == kept.step and filled.ranges == kept.ranges
    sizes = {layer.name: layer for layer in footprint(net, IMAGES[:1], filled.config).layers}
    for side, targets in (("weight", 4.3), ("activation", settings.get("target_activation_bits"))):
        if targets is None:
            continue
        before, after = (getattr(found.config, f"{side}_bits") for found in (kept, filled))
        used = getattr(filled, f"average_{side}_bits")
        assert getattr(kept, f"average_{side}_bits") < used <= targets + 1e-9
        total = sum(
            getattr(layer, f"{side}_elements")
            for layer in sizes.values()
            if side == "weight" or layer.counted
        )
        for name, bits in after.items():
            many = bits if isinstance(bits, tuple) else (bits,)
            few = before[name] if isinstance(bits, tuple) else (before[name],)
            assert all(b >= a for a, b in zip(few, many, strict=True))
            more_bits = getattr(sizes[name], f"{side}_elements") / len(many) / total
            assert all(b == 8 or used + more_bits > targets + 1e-9 for b in many)


def test_bits_go_first_where_the_loss_falls_most_by_a_stored_bit(net, data):
    student, (side,) = make_student(net, FREE, data, LearnerSettings(target_weight_bits=5.0))
    with torch.no_grad():
        side.parameter.fill_(4.0)
    side.apply()
    sizes = dict(zip(side.names, side.elements.tolist(), strict=True))
    assert sizes == {"first": 216, "middle": 576, "last": 40}
    side.fill(torch.tensor([-1.0, -2.0, 0.0]))  # 1 / 216 is more than 2 / 576
    side.apply()
    assert side.chosen() == {"first": 5, "middle": 5, "last": 5} and not side.has_room()
    side.target = 4.7
    side.parameter.data.fill_(4.0)
    side.apply()
    side.fill(torch.tensor([-1.0, -2.0, 0.0]))
    side.apply()
    assert side.chosen() == {"first": 5, "middle": 4, "last": 5}  # 4.7 is too little for all three


def test_the_model_is_left_alone(net, data):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    learn(net, data, target_weight_bits=5, target_activation_bits=5, learn_ranges=True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_gradients_of_ranges_are_those_of_one_step(net, data, monkeypatch):
    seen = []

    def step(self, closure=None):
        seen.append([p.grad.clone() for group in self.param_groups for p in group["params"]])

    monkeypatch.setattr(torch.optim.Adam, "step", step)  # nothing moves, and every step sees all images
    more = {"batch_size": 96, "learn_ranges": True, "allow_infeasible": True}
    learn(net, data, steps=3, target_weight_bits=7, target_activation_bits=7, **more)
    assert len(seen[0]) == 4 and all(gradient.any() for gradient in seen[0])
    for later in seen[1:]:
        for first, now in zip(seen[0], later, strict=True):
            torch.testing.assert_close(now, first, rtol=1e-3, atol=1e-4)
