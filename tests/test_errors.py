"""Bad input gives one clear error that names the culprit."""

import copy
import pickle

import pytest
import torch
from helpers import FLOAT, Block, images
from torch import nn

from qlib import QuantConfig, QuantizationCard, compare, evaluate, footprint, load_bench, quantize, verdict
from qlib.benches import network_of
from qlib.laboratory import Laboratory
from qlib.metrics import Accuracy
from qlib.names import suggestion
from qlib.widgets import explore


def refuses(match):
    return pytest.raises(ValueError, match=match)


def labels(n=8):
    return torch.zeros(n, dtype=torch.long)


# The configuration


@pytest.mark.parametrize("bits", [0, -1, 17, 40, 3.5, 4.0, "4", True, float("nan")], ids=str)
@pytest.mark.parametrize("field", ["weight_bits", "activation_bits", "input_bits", "first_last_bits"])
def test_bits_that_are_not_a_whole_number_from_1_to_16(field, bits):
    with refuses(rf"{field} must be a whole number of bits from 1 to 16, got {bits!r}"):
        QuantConfig(**{field: bits})


@pytest.mark.parametrize("bits", [0, 33, 3.5, None, [0], [4, 17], [], [3.5]], ids=str)
def test_bits_of_a_named_layer(bits):
    with refuses(r"weight_bits\['conv1'\]"):
        QuantConfig(weight_bits={"conv1": bits})


@pytest.mark.parametrize(
    "fields",
    [
        {"weight_bits": 1, "weight_symmetric": True},
        {"activation_bits": 1, "activation_symmetric": True},
        {"input_bits": 1, "activation_symmetric": True},
        {"first_last_bits": 1, "weight_symmetric": True},
        {"weight_bits": {"conv1": 1}, "weight_symmetric": True},
    ],
    ids=str,
)
def test_symmetric_needs_two_bits(fields):
    with refuses(f"{next(iter(fields))}.*symmetric grid needs 2 bits"):
        QuantConfig(**fields)


def test_misspelt_field_of_the_constructor():
    with pytest.raises((TypeError, ValueError), match="weight_bit'"):  # Python's own TypeError names it, too
        QuantConfig(weight_bit=4)


@pytest.mark.parametrize("read", [QuantConfig.from_dict, lambda fields: QuantConfig().replace(**fields)])
def test_misspelt_field_of_a_dictionary(read):
    with refuses("no field 'weight_bit'; did you mean 'weight_bits'"):
        read({"weight_bit": 4})


def test_misspelt_field_of_a_text():
    with refuses("no field 'quantise_skip'; did you mean 'quantize_skip'"):
        QuantConfig.from_yaml("quantise_skip: false")
    with refuses("no field 'quantise_skip'; did you mean 'quantize_skip'"):
        QuantConfig.from_json('{"quantise_skip": false}')


def test_misspelt_argument():
    with pytest.raises(TypeError, match="no field 'weights_bits'; did you mean 'weight_bits'"):
        QuantConfig(weights_bits=4)


def test_text_that_is_no_mapping():
    with refuses("mapping of field names to values, got list"):
        QuantConfig.from_yaml("- weight_bits")


@pytest.mark.parametrize(
    "field",
    [
        "symmetric_grid",
        "weight_granularity",
        "activation_granularity",
        "weight_range",
        "activation_range",
        "pooling",
        "calibration_upstream",
    ],
)
def test_unknown_option(field):
    with refuses(f"{field} must be one of .*; got 'best'"):
        QuantConfig(**{field: "best"})


@pytest.mark.parametrize(
    "field",
    [
        "weight_symmetric",
        "activation_symmetric",
        "activation_dynamic",
        "quantize_skip",
        "quantize_residual",
        "quantize_output",
    ],
)
@pytest.mark.parametrize("value", [1, "no", None])
def test_switch_that_is_not_true_or_false(field, value):
    with refuses(f"{field} must be True or False, got {value!r}"):
        QuantConfig(**{field: value})


@pytest.mark.parametrize("percentile", [140, 50, 0.01, -1, float("nan"), "99", None, True], ids=str)
def test_percentile_out_of_bounds(percentile):
    with refuses(f"percentile must be .*above 50 and at most 100, got {percentile!r}"):
        QuantConfig(percentile=percentile)


@pytest.mark.parametrize("choices", [(), (0, 4), (4, 40), "48", 4, None], ids=str)
def test_bit_choices(choices):
    with refuses("bit_choices must"):
        QuantConfig(bit_choices=choices)


@pytest.mark.parametrize(
    "layers, message",
    [
        ("fc", r"must be a tuple of names or patterns, got 'fc': write \('fc',\), or in YAML \[fc\]"),
        (None, "must be a tuple of names or patterns of modules, got None"),
        ({"fc": 32}, "must be a tuple of names or patterns of modules, got {'fc': 32}"),
        (["fc", 3], "names and patterns are strings that are not empty, got 3"),
        (("fc", ""), "names and patterns are strings that are not empty, got ''"),
    ],
)
def test_float_layers(layers, message):
    with refuses(f"float_layers.*{message}"):
        QuantConfig(float_layers=layers)


def test_a_name_like_no_other_is_answered_by_thirty_of_them():
    assert suggestion("zzz", ["a", "b"]) == "; known names: a, b"
    assert suggestion("zzz", [f"layer{i}" for i in range(99)]).endswith(", layer28, layer29 and 69 more")


# The network


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.gate = Gate()

    def forward(self, x):
        return self.gate(self.stem(x))


class Gate(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    "use",
    [lambda net: quantize(net, QuantConfig(), images()), lambda net: footprint(net, images(), QuantConfig())],
)
def test_network_that_cannot_be_traced(use):
    with refuses("Untraceable cannot be traced by torch.fx, at gate.*must be rewritten"):
        use(Untraceable())


@pytest.mark.parametrize(
    "config", [QuantConfig(), QuantConfig(4, None), QuantConfig(None, 4)], ids=["both", "weights", "maps"]
)
@pytest.mark.parametrize(
    "again",
    [lambda net: net, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), nn.Sequential],
    ids=["itself", "copy", "pickle", "inside"],
)
def test_network_that_is_quantized_already(config, again):
    quantized = quantize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), config, images())
    with refuses("this network is quantized already: take the float network"):
        quantize(again(quantized), QuantConfig(), images())


def test_network_without_weights():
    with refuses("Sequential has no convolution or linear layer: there are no weights"):
        quantize(nn.Sequential(nn.ReLU(), nn.Flatten()), QuantConfig(), images())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["body.weight", "last.bias"])
def test_weight_that_is_not_finite(name, value):
    net = Block()
    net.get_parameter(name).data.view(-1)[3] = value
    with refuses(f"{name} holds NaN or infinity"):
        quantize(net, QuantConfig(), images())


@pytest.mark.parametrize(
    "layer", [nn.GRU(8, 8), nn.Bilinear(8, 8, 8), nn.EmbeddingBag(8, 8)], ids=lambda m: type(m).__name__
)
def test_layer_whose_weights_cannot_be_quantized(layer):
    with refuses(
        rf"layer '1' \({type(layer).__name__}\) holds the weight .*leave it in float: float_layers=\('1',\)"
    ):
        quantize(nn.Sequential(nn.Conv2d(3, 4, 3), layer), QuantConfig(), images())


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return self.first(x) @ self.weight


def test_weights_of_a_functional_call():
    with refuses("calls matmul with weights of its own: use the layer module"):
        quantize(Functional(), QuantConfig(), torch.randn(5, 4))


@pytest.mark.parametrize("not_a_model", ["resnet50", None, torch.relu])
@pytest.mark.parametrize("config", [QuantConfig(), QuantConfig(**FLOAT)], ids=["quantized", "float"])
def test_what_is_not_a_module(not_a_model, config):
    with refuses("expected a torch.nn.Module"):
        quantize(not_a_model, config, images())


def test_config_that_is_none():
    with refuses("config must be a QuantConfig, got dict"):
        quantize(Block(), {"weight_bits": 4}, images())


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits"])
def test_bits_for_a_layer_that_is_not_there(field):
    config = QuantConfig(**{field: {"bodi": 4}})
    with refuses(f"{field}: the network has no 'bodi'; did you mean 'body'"):
        quantize(Block(), config, images())
    with refuses(f"{field}: the network has no 'bodi'; did you mean 'body'"):
        footprint(Block(), images(), config)


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits"])
def test_wrong_number_of_channel_bits(field):
    with refuses(rf"{field}\['body'\] has 3 entries, but the .* 8 channels"):
        quantize(Block(), QuantConfig(**{field: {"body": (4, 4, 4)}}), images())


@pytest.mark.parametrize("rule", ["mse", "aciq"])
@pytest.mark.parametrize("side", ["weight", "activation"])
def test_least_squares_over_channels_of_different_bits(side, rule):
    options = {
        f"{side}_bits": {"body": (2, 3) * 4},
        f"{side}_range": rule,
        f"{side}_granularity": "per_tensor",
    }
    with refuses(rf"{side}_bits\['body'\] .*use granularity 'per_channel'"):
        quantize(Block(), QuantConfig(**options), images())


# Calibration


@pytest.mark.parametrize("empty", [None, [], iter(()), torch.empty(0, 3, 8, 8), [torch.empty(0, 3, 8, 8)]])
def test_empty_calibration(empty):
    with refuses("calibration is empty, but static activation ranges need data"):
        quantize(Block(), QuantConfig(), empty)


def test_used_up_calibration():
    batches = (images() for _ in range(2))
    quantize(Block(), QuantConfig(), batches)
    with refuses("calibration is empty"):
        quantize(Block(), QuantConfig(), batches)


@pytest.mark.parametrize("options", [{"activation_bits": None}, {"activation_dynamic": True}, FLOAT], ids=str)
def test_calibration_that_is_not_needed_may_be_empty(options):
    quantize(Block(), QuantConfig(**options), [])
    quantize(Block(), QuantConfig(**options))


def test_calibration_of_a_wrong_channel_count():
    with refuses(r"calibration batch 1 of shape \(8, 1, 8, 8\) .* does not fit the network at layer 'first'"):
        quantize(Block(), QuantConfig(), [images(), images(channels=1)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_calibration_that_is_not_finite(value):
    x = images()
    x[3, 1, 2, 2] = value
    with refuses("calibration batch 1 holds NaN or infinity"):
        quantize(Block(), QuantConfig(), [images(), x])


def test_activation_that_overflows():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    nn.init.constant_(net[0].weight, 1e38)
    with refuses("the values of '0' reach NaN or infinity"):
        quantize(net, QuantConfig(), 100 * torch.ones(3, 4))


@pytest.mark.parametrize("batch", [[1.0, 2.0], "images", torch.tensor(3.0), {"x": 1}], ids=repr)
def test_calibration_that_is_no_tensor(batch):
    with refuses("calibration batch 0 must be a tensor"):
        quantize(Block(), QuantConfig(), [batch])


# Evaluation


@pytest.mark.parametrize("empty", [[], iter(()), [(images(0), labels(0))]])
def test_empty_evaluation(empty):
    with refuses("there are no images to evaluate"):
        evaluate(Block(), empty)


def test_used_up_generator():
    batches = ((images(), labels()) for _ in range(2))
    assert evaluate(Block(), batches).n == 16
    with refuses("no images to evaluate.*used up"):
        evaluate(Block(), batches)


@pytest.mark.parametrize(
    "batch",
    [images(2), (images(2),), [images(2)], (None, labels(2)), (images(2), None)],
    ids=["images", "tuple of one", "list of one", "no images", "no labels"],
)
def test_labels_or_images_missing(batch):
    with refuses("evaluation batch 1.*labels"):
        evaluate(Block(), [(images(), labels()), batch])


@pytest.mark.parametrize("wrong", [labels(3), torch.zeros(8), torch.zeros(8, 2, dtype=torch.long)], ids=str)
def test_labels_that_do_not_fit(wrong):
    with refuses("evaluation batch 0: expected 8 integer labels"):
        evaluate(Block(), [(images(), wrong)])


@pytest.mark.parametrize("wrong", [-1, 1000])
def test_labels_that_no_class_has(wrong):
    with refuses("evaluation batch 1: labels run from .* but the network tells .* classes apart"):
        evaluate(
            Block(), [(images(), labels()), (images(), labels().index_fill(0, torch.tensor([0]), wrong))]
        )


@pytest.mark.parametrize("quantized", [False, True])
def test_evaluation_of_a_wrong_channel_count(quantized):
    net = quantize(Block(), QuantConfig(), images()) if quantized else Block()
    with refuses(r"evaluation batch 1 of shape \(8, 5, 8, 8\) .* does not fit the network at layer 'first'"):
        evaluate(net, [(images(), labels()), (images(channels=5), labels())])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_evaluation_batch_that_is_not_finite(value):
    x = images()
    x[0, 0, 0, 0] = value
    with refuses("evaluation batch 0 holds NaN or infinity"):
        evaluate(Block(), [(x, labels())])


def test_network_whose_output_is_not_finite():
    net = Block()
    net.last.bias.data[2] = float("nan")
    with refuses("output for evaluation batch 0 holds NaN or infinity"):
        evaluate(net, [(images(), labels())])


def test_network_whose_output_is_not_one_score_a_class():
    with refuses(r"evaluation batch 0.*\(8, 4, 8, 8\)"):
        evaluate(nn.Conv2d(3, 4, 1), [(images(), labels())])


def test_comparison_of_different_images():
    few = Accuracy(labels(4).bool().numpy())
    many = Accuracy(labels(5).bool().numpy())
    with refuses("same images: 4 against 5"):
        compare(few, many)
    with refuses(r"same images, got evaluations of \[4, 5\] images"):
        compare([few, many], few)


def test_unknown_claim():
    with refuses("claim must be .*got 'better'"):
        verdict((1.0, 2.0), "better")


# Footprint and benches


def test_footprint_of_an_input_that_does_not_fit():
    with refuses("example input does not fit the network at first"):
        footprint(Block(), images(channels=1), QuantConfig())


def test_unknown_bench():
    with refuses("there is no bench 'digit'"):
        load_bench("digit")


def test_too_few_images(bench):
    with refuses("n must be at least 1 image, got 0"):
        bench.validation(0)


def test_outputs_that_are_no_scores_and_examples_that_are_no_batch_are_refused():
    class Named(Block):
        def forward(self, x):
            return {"logits": super().forward(x)}

    with pytest.raises(ValueError, match="the network gives a dict, not a row of class scores"):
        evaluate(Named(), [(images(4), torch.zeros(4, dtype=torch.long))])
    for example in ((1, 3, 8, 8), torch.zeros(8)):
        with pytest.raises(ValueError, match="example_input must be a batch"):
            footprint(Block(), example, QuantConfig())


@pytest.mark.parametrize(
    "ask",
    [
        lambda bench: network_of(bench, "bse"),
        lambda bench: Laboratory(bench).network("bse"),
        lambda bench: QuantizationCard.from_run(QuantConfig(), bench=bench, network="bse"),
        lambda bench: explore(bench, network="bse"),
    ],
    ids=["bench", "laboratory", "card", "panel"],
)
def test_a_network_that_a_bench_does_not_have(bench, ask):
    with refuses("bench 'digits' has no network 'bse'; did you mean 'base'"):
        ask(bench)
