"""How codes and ranges are found: nearest rounding, bias correction, and methods of the reader's own."""

import copy
import dataclasses
import io
import json
import pickle
import warnings
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import Block, assert_unchanged, images, quantizers, run, snapshot
from torch import fx, nn

from qlib import QuantConfig, evaluate, quantize
from qlib.choices import choice
from qlib.export import export_onnx, load_quantized, save_quantized
from qlib.methods import Method, find_methods, identity, known_methods, spelled, unspelled, words
from qlib.methods.bias import Bias
from qlib.methods.nearest import Nearest
from qlib.network import read

COARSE = QuantConfig(3, None, first_last_bits=None)


# ------------------------------------------------------------------------------------------------------------
# Nearest


@pytest.mark.parametrize("method", ["nearest", Nearest(), ["nearest"], {"name": "nearest"}, []], ids=str)
def test_nearest_is_what_happens_where_nothing_is_said(method):
    network = Block()
    x = images()
    expected = quantize(network, QuantConfig(3, 4), x)
    found = quantize(network, QuantConfig(3, 4), x, method)
    state = found.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in expected.state_dict().items())
    assert torch.equal(found(x), expected(x))


# ------------------------------------------------------------------------------------------------------------
# Bias correction


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3)
        self.other = nn.Linear(5, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, image, number):
        return self.last(torch.relu(self.one(image)).mean([2, 3]) + self.other(number))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 6)
        self.other = nn.Linear(6, 6)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(torch.relu(self.one(x)))


class TiedBiases(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 6)
        self.other = nn.Linear(6, 6)
        self.other.bias = self.one.bias

    def forward(self, x):
        return self.other(torch.relu(self.one(x)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.again = nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        return self.last(torch.relu(self.again(torch.relu(self.again(x)))))


def tokens(n=16):
    return torch.rand(n, 7, 6)


NETWORKS = {  # and a batch of inputs, with a mean that is not zero
    "conv2d": lambda: (Block(), torch.rand(16, 3, 8, 8)),
    "conv1d": lambda: (
        nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 5, 3, stride=2)),
        torch.rand(16, 3, 9),
    ),
    "conv3d": lambda: (
        nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Conv3d(4, 3, 1)),
        torch.rand(16, 2, 4, 4, 4),
    ),
    "tokens": lambda: (nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5)), tokens()),
    "transposed": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, groups=2)),
        torch.rand(16, 3, 6, 6),
    ),
    "depthwise": lambda: (
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 2, 1)),
        torch.rand(16, 3, 6, 6),
    ),
    "without bias": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False)),
        torch.rand(16, 3, 6, 6),
    ),
    "batch norm": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3)),
        torch.rand(16, 3, 6, 6),
    ),
    "tied": lambda: (Tied(), tokens()),
    "tied biases": lambda: (TiedBiases(), tokens()),
    "twice": lambda: (Twice(), tokens()),
    "several inputs": lambda: (Pair(), (torch.rand(16, 3, 6, 6), torch.rand(16, 5))),
    "inputs by name": lambda: (Pair(), {"number": torch.rand(16, 5), "image": torch.rand(16, 3, 6, 6)}),
}
CONFIGS = {
    "weights alone": COARSE,
    "activations too": QuantConfig(3, 4, first_last_bits=None),
    "activations alone": QuantConfig(None, 3, first_last_bits=None),
    "a range for each example": QuantConfig(3, 4, first_last_bits=None, activation_dynamic=True),
    "calibrated as the published code": QuantConfig(
        3, 4, first_last_bits=None, calibration_upstream="quantized"
    ),
    "inputs only": QuantConfig(3, 4, first_last_bits=None, quantize_skip=False, quantize_residual=False),
}


def means(network, batches):
    """Of a network's layers at their first call, the mean of each output channel over all batches."""
    seen = {}

    def note(name, axis):
        def hook(layer, inputs, output):
            rows = output.movedim(axis, 0).flatten(1).double().clone()  # what follows may work in place
            if name not in called:
                called.add(name)
                seen.setdefault(name, []).append(rows)

        return hook

    hooks = [
        layer.register_forward_hook(note(name, -1 if isinstance(layer, nn.Linear) else 1))
        for name, layer in network.named_modules()
        if getattr(layer, "weight", None) is not None and not isinstance(layer, nn.BatchNorm2d)
    ]
    for batch in batches:
        called = set()
        run(network, batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(rows, 1).mean(1) for name, rows in seen.items()}


def farthest(found, expected):
    """The largest difference of means, relative to the largest mean of its layer."""
    assert found.keys() == expected.keys()
    return max(
        ((found[name] - mean).abs().max() / mean.abs().max()).item() for name, mean in expected.items()
    )


COMBINED = [(name, config) for name in NETWORKS for config in ("weights alone", "activations too")]
COMBINED += [(name, config) for name in ("conv2d", "tokens") for config in CONFIGS]


@pytest.mark.parametrize("name, config", dict.fromkeys(COMBINED), ids=": ".join)
def test_every_layer_gives_the_mean_of_the_float_network(name, config):
    network, x = NETWORKS[name]()
    before = snapshot(network.eval())
    expected = means(read(network, x).module, [x])
    nearest = means(quantize(network, CONFIGS[config], [(x, None)]), [x])
    corrected = means(quantize(network, CONFIGS[config], [(x, None)], "bias"), [x])
    assert farthest(corrected, expected) < 1e-6 < farthest(nearest, expected) / 20
    assert_unchanged(network, before)


def test_batches_of_several_sizes_count_by_their_examples():
    network = Block().eval()
    x = torch.rand(16, 3, 8, 8)
    batches = [*x.split([1, 12, 3])]
    expected = means(read(network).module, batches)
    corrected = quantize(network, CONFIGS["activations too"], batches, "bias")
    assert farthest(means(corrected, batches), expected) < 1e-6
    assert farthest(means(corrected, [x[1:13]]), means(read(network).module, [x[1:13]])) > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        COARSE.replace(float_layers=("body*", "last")),
        COARSE.replace(
            weight_bits={"default": 3, "body*": 32, "last": 32},
            activation_bits={"default": 8, "body*": 32, "last": 32},
        ),
    ],
    ids=["float_layers", "32 bits"],
)
def test_layers_left_in_float_are_left_alone(config):
    network = Block().eval()
    x = torch.rand(16, 3, 8, 8)
    corrected = quantize(network, config, x, "bias")
    for name in ("body", "body2", "last"):
        assert torch.equal(corrected.get_submodule(name).bias, network.get_submodule(name).bias)
        assert torch.equal(corrected.get_submodule(name).weight, network.get_submodule(name).weight)
    assert not torch.equal(corrected.first.bias, network.first.bias)


def test_a_shift_is_added_where_a_layer_is_first_called():
    network, x = NETWORKS["twice"]()
    nearest = quantize(network, COARSE, x)
    corrected = quantize(network, COARSE, x, "bias")
    shift = means(read(network).module, [x])["again"] - means(nearest, [x])["again"]
    torch.testing.assert_close(
        corrected.again.bias.double() - network.again.bias.double(), shift, rtol=0, atol=1e-6
    )


def test_codes_and_ranges_are_those_of_nearest():
    network = Block()
    x = images(32)
    nearest = quantize(network, QuantConfig(3, 4), x)
    corrected = quantize(network, QuantConfig(3, 4), x, "bias")
    biases = {name for name, _ in nearest.named_parameters() if name.endswith("bias")}
    state = corrected.state_dict()
    for name, value in nearest.state_dict().items():
        assert torch.equal(state[name], value) != (name in biases), name


def test_a_network_read_before_is_corrected_like_the_module():
    network = Block()
    x = images(32)
    expected = quantize(network, COARSE, x, "bias")(x)
    known = read(network, x)
    for _ in range(2):
        assert torch.equal(quantize(known, COARSE, x, "bias")(x), expected)


def test_accuracy_comes_back_on_the_bench(bench):
    """3-bit weights, activations in float, the first and the last layer at 8 bits."""
    config = QuantConfig(3, None)
    calibration = bench.calibration(320)
    validation = bench.validation(2000)
    nearest, corrected = (
        evaluate(quantize(bench.models["base"], config, calibration, method), validation).top1
        for method in ("nearest", "bias")
    )
    assert corrected - nearest > 8


# ------------------------------------------------------------------------------------------------------------
# What is done with a corrected network


KINDS = ("conv2d", "without bias", "batch norm", "transposed", "tied", "tied biases", "twice")


@pytest.fixture(params=KINDS)
def corrected(request):
    """A float network, inputs, a configuration, and the network corrected."""
    network, x = NETWORKS[request.param]()
    config = CONFIGS["activations too"]
    return network, x, config, quantize(network, config, x, "bias")


def test_copies_answer_alike(corrected):
    network, x, config, quantized = corrected
    expected = run(quantized, x)
    buffer = io.BytesIO()
    torch.save(quantized, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(quantized),
        pickle.loads(pickle.dumps(quantized)),
        torch.load(buffer, weights_only=False),
    ]
    assert all(torch.equal(*run(each, x), *expected) for each in copies)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
    other = quantize(network, config, x, "bias")
    assert not torch.equal(*run(other, x), *expected)
    other.load_state_dict(quantized.state_dict())
    assert torch.equal(*run(other, x), *expected)


def test_a_corrected_network_is_saved_and_loaded(corrected, tmp_path):
    network, x, config, quantized = corrected
    save_quantized(quantized, config, tmp_path)
    loaded = load_quantized(network, tmp_path)
    assert torch.equal(*run(loaded, x), *run(quantized, x))


@pytest.mark.parametrize("name", ["conv2d", "without bias", "depthwise"])
def test_a_corrected_network_is_exported(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    network, x = NETWORKS[name]()
    config = QuantConfig(4, 8, first_last_bits=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_onnx(network, config, x, x[:2], tmp_path / "m.onnx", method="bias")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": x.numpy()})[0]
    quantized = quantize(network, config, x, "bias")
    (expected,) = run(quantized, x)
    (other,) = run(quantize(network, config, x), x)
    step = max(q.scale.item() for q in quantizers(quantized).values())
    assert np.abs(found - expected.numpy()).max() <= 1.01 * step  # a rounding may fall the other way
    assert np.abs(found - expected.numpy()).mean() < 0.2 * np.abs(found - other.numpy()).mean()


# ------------------------------------------------------------------------------------------------------------
# Finding and naming


@dataclasses.dataclass(frozen=True)
class Shrink(Method):
    """Smaller weights, before ranges are found."""

    stage: ClassVar[str] = "before ranges"
    words: ClassVar = {"technique": "weights made smaller"}
    factor: float = choice(0.5, "Factor", "Of all weights.", above=0, most=1)

    def apply(self, work):
        assert work.floats is None and not work.quantizers
        for name in work.network.layers:
            work.network.module.get_submodule(name).weight.data.mul_(self.factor)


@dataclasses.dataclass(frozen=True)
class Zero(Method):
    """Every weight gets the code of 0."""

    def apply(self, work):
        for name, rows, _ in work.weights():
            work.put_weight(name, torch.zeros_like(rows))


def test_methods_are_applied_at_their_stages():
    network = Block()
    x = images()
    half = copy.deepcopy(network)
    for layer in half.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.weight.data.mul_(0.5)
    for rest in ([], ["bias"], ["nearest", Bias()]):
        found = quantize(network, COARSE, x, [Shrink(), *rest])
        assert torch.equal(found(x), quantize(half, COARSE, x, rest)(x))
    corrected = quantize(network, COARSE, x, [Zero(), "bias"])
    assert not corrected.body.weight.any() and corrected.body.bias.any()


def test_the_order_is_that_of_the_stages_and_something_rounds():
    kinds = [type(one) for one in find_methods(["bias"])]
    assert kinds == [Nearest, Bias]
    assert [type(one) for one in find_methods([Shrink(), "bias"])] == [Shrink, Nearest, Bias]
    assert [type(one) for one in find_methods([Shrink(), Zero()])] == [Shrink, Zero]
    assert set(known_methods()) >= {"nearest", "bias"} and Method not in known_methods().values()


@pytest.mark.parametrize(
    "method, words",
    [
        ("biass", "there is no method 'biass'; did you mean 'bias'"),
        ({"name": "nearst"}, "there is no method 'nearst'; did you mean 'nearest'"),
        (["bias", "nearest"], "order of their stages.*'bias' works after, 'nearest' works rounding"),
        (["bias", Shrink()], "order of their stages.*'Shrink' works before ranges"),
        (["nearest", Zero()], "rounded once, but 'nearest' and 'Zero' would do it"),
        ({"name": "bias", "steps": 3}, "Bias has no field 'steps'"),
        ({"name": Bias(), "steps": 3}, "settings .steps. need the name of a class"),
        ({"name": Shrink, "factor": 2}, "factor must be a number above 0 and at most 1, got 2"),
        ({"steps": 3}, "is a mapping with its name"),
        (3, "a method is a name, or an instance of qlib.methods.Method; got 3"),
        (int, "a method is a name, or an instance of qlib.methods.Method; got .*int"),
        (None, "a method is a name, or an instance"),
        ("nowhere.py:Mine", "no method 'nowhere.py:Mine'"),
        ("qlib.methods.bias:Biass", "no method 'qlib.methods.bias:Biass'"),
    ],
    ids=str,
)
def test_what_is_no_method_is_refused_by_its_name(method, words):
    with pytest.raises(ValueError, match=words):
        quantize(Block(), QuantConfig(), images(), method)


def test_a_method_without_a_stage_of_ours_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Sometime(Method):
        stage: ClassVar[str] = "sometime"

    with pytest.raises(ValueError, match="'Sometime' works 'sometime', which is none of before ranges, rou"):
        quantize(Block(), QuantConfig(), images(), Sometime())


def test_a_method_that_does_nothing_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Idle(Method):
        pass

    with pytest.raises(NotImplementedError, match="Idle has no function apply"):
        quantize(Block(), QuantConfig(), images(), Idle())


def test_bias_correction_asks_for_data():
    for calibration in (None, [], images(0)):
        with pytest.raises(ValueError, match="bias correction compares means over calibration data"):
            quantize(Block(), COARSE, calibration, "bias")


SPELLED = [
    ("nearest", "nearest"),
    (Nearest(), "nearest"),
    ([], "nearest"),
    ("bias", "bias"),
    (Bias(), "bias"),
    (["nearest", Bias()], "bias"),
    ({"name": "bias"}, "bias"),
    ("qlib.methods.bias:Bias", "bias"),
]


@pytest.mark.parametrize("method, text", SPELLED, ids=str)
def test_the_same_methods_are_spelled_alike(method, text):
    assert spelled(method) == text
    assert spelled(unspelled(text)) == text
    assert find_methods(unspelled(text)) == find_methods(method)


OWN = """
from dataclasses import dataclass
from typing import ClassVar
from qlib.choices import choice
from qlib.methods import Method

@dataclass(frozen=True)
class Half(Method):
    stage: ClassVar[str] = "before ranges"
    share: float = choice(0.5, "Share", "Of weights.", least=0, most=1)
    kind: str = choice("first", "Kind", "Which.", values=("first", "last"))
"""


@pytest.fixture
def own(tmp_path):
    """Where a method of the reader's own stands."""
    (tmp_path / "mine.py").write_text(OWN)
    return f"{tmp_path / 'mine.py'}:Half"


def test_settings_that_differ_from_their_default_are_spelled(own):
    assert spelled(own) == spelled({"name": own, "share": 0.5}) == own
    said = {"name": own, "share": 0.25}
    assert json.loads(spelled({**said, "kind": "first"})) == said
    assert spelled([{"kind": "first", **said}, "bias"]) == spelled([said, "nearest", "bias"])
    for method in (own, said, [said, "bias"]):
        text = spelled(method)
        assert spelled(unspelled(text)) == text
        assert find_methods(unspelled(text)) == find_methods(method)


def test_an_instance_of_ones_own_cannot_be_spelled(own):
    with pytest.raises(ValueError, match="where the method 'Shrink' stands, such as FILE.py:Shrink"):
        spelled(Shrink(factor=0.25))
    with pytest.raises(ValueError, match="where the method 'Half' stands"):
        spelled(["nearest", find_methods(own)[0]][1:])


def test_an_identity_holds_names_settings_and_the_code_of_ones_own(own, tmp_path):
    assert identity("bias") == [{"name": "bias"}]
    (half,) = identity(spelled({"name": own, "share": 0.25}))
    assert half.items() >= {"name": own, "share": 0.25, "kind": "first"}.items() and len(half["code"]) == 16
    assert identity(own) != [half]
    assert find_methods([own, "bias"])[0].share == 0.5
    (tmp_path / "mine.py").write_text(OWN.replace("0.5", "0.6"))  # as long as before, in the same second
    (changed,) = identity(spelled({"name": own, "share": 0.25}))
    assert changed["code"] != half["code"] and {**changed, "code": half["code"]} == half
    assert find_methods([own, "bias"])[0].share == 0.6  # the code of a key is the code that is run


def test_a_setting_added_later_does_not_change_an_identity(own, tmp_path):
    (before,) = find_methods(own)[:1]
    (tmp_path / "more.py").write_text(
        OWN + '    steps: int = choice(10, "Steps", "How many.", least=1, since="0.2")\n'
    )
    later = f"{tmp_path / 'more.py'}:Half"
    assert find_methods(later)[0].identity() == before.identity()
    used = find_methods({"name": later, "steps": 20})[0]
    assert used.identity() == {**before.identity(), "steps": 20}


def test_cards_get_the_words_of_all_methods():
    assert words("nearest") == {"rounding": "nearest", "technique": "post-training"}
    assert words("bias") == {"rounding": "nearest", "technique": "post-training, biases corrected"}
    assert words([Shrink(), "bias"])["technique"] == "post-training, weights made smaller, biases corrected"


def test_settings_that_are_not_the_usual_ones_stand_on_a_card():
    assert words({"name": "gptq", "damping": 0.5})["rounding"] == "GPTQ, from quantized inputs (damping 0.5)"
    assert words("gptq")["rounding"] == "GPTQ, from quantized inputs"
    found = words({"name": "equalize", "sweeps": 1, "deviations": 0})
    assert found["technique"].endswith("high biases absorbed (sweeps 1, deviations 0)")
    found = words([{"name": "adaround", "rate": 0.3, "steps": 7}, "ranges"])
    assert found["rounding"].endswith("(rate 0.3)") and found["steps"] == 307
    assert "steps" not in words(Shrink()) | words("gptq")  # bits may have been learned: only a row knows


@pytest.mark.parametrize(
    "given, own", [("GPTQ", "gptq"), ("BRECQ", "blocks"), ("cle", "equalize"), ("QuaRot", "hadamard")]
)
def test_a_papers_name_leads_to_ours(given, own):
    with pytest.raises(ValueError, match=f"there is no method '{given}'; it is '{own}' here"):
        find_methods(given)


def test_settings_without_a_name_are_refused_with_an_example():
    for given in ({"steps": 100}, {"adaround": {"steps": 100}}):
        with pytest.raises(ValueError, match="a mapping with its name, such as {name: gptq"):
            find_methods(given)


def test_a_weight_of_another_shape_is_refused_by_its_layer():
    class Broadcast(Method):
        def apply(self, work):
            for name, rows, _ in work.weights():
                work.put_weight(name, rows[:1])

    with pytest.raises(ValueError, match=r"'0' has a weight of \(4, 3\) as rows .* but was given \(1, 3\)"):
        quantize(nn.Sequential(nn.Linear(3, 4)).eval(), COARSE, torch.randn(5, 3), Broadcast())


def test_a_weight_is_handed_out_once_with_its_grid():
    handed = []

    @dataclasses.dataclass(frozen=True)
    class Look(Method):
        def apply(self, work):
            for name, rows, grid in work.weights():
                handed.append((name, rows.shape, grid.scale.shape))
                work.put_weight(name, torch.zeros_like(rows))

    network, x = NETWORKS["transposed"]()
    quantize(network, COARSE, x, Look())
    assert handed == [("0", (4, 3, 3, 3), (4, 1, 1, 1)), ("2", (6, 2, 3, 3), (6, 1, 1, 1))]
    handed.clear()
    quantize(*NETWORKS["tied"]()[:1], COARSE, tokens(), Look())
    assert [name for name, *_ in handed] == ["one"]


def test_a_method_sees_the_float_network_as_it_was():
    seen = {}

    @dataclasses.dataclass(frozen=True)
    class Look(Method):
        stage: ClassVar[str] = "after"

        def apply(self, work):
            assert isinstance(work.floats.module, fx.GraphModule) and work.quantizers and work.grids
            seen.update(work.floats.module.state_dict())

    network = Block()
    quantize(network, QuantConfig(3, 4), images(), Look())
    assert all(torch.equal(value, seen[name]) for name, value in network.state_dict().items())
