"""Settings that the libraries themselves wrote become cards right field by field."""

import json

import pytest

from qlib import QuantizationCard
from qlib.cards import NOT_REPORTED

transformers = pytest.importorskip("transformers.utils.quantization_config")


@pytest.fixture
def card_of(tmp_path):
    """The card of a folder with these settings in its config.json."""

    def card_of(settings):
        settings = settings if isinstance(settings, dict) else settings.to_dict()
        text = json.dumps({"model_type": "llama", "quantization_config": settings}, default=str)
        (tmp_path / "config.json").write_text(text)
        return QuantizationCard.from_checkpoint(tmp_path)

    return card_of


def says(card, **fields):
    assert {name: card[name] for name in fields} == fields


# ------------------------------------------------------------------------------------------------------ GPTQ


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [-1, 32, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_bits_groups_and_zero_points(card_of, bits, group, symmetric):
    card = card_of(transformers.GPTQConfig(bits=bits, group_size=group, sym=symmetric))
    says(card, weight_bits=bits, weight_symmetric=symmetric, activation_bits="float", quantizer="uniform")
    says(card, weight_granularity="per_channel" if group == -1 else "per_group")
    says(card, group_size=NOT_REPORTED if group == -1 else group)
    assert card.data["sources"]["weight_symmetric"] == "config.json: sym"


def test_gptq_order_of_columns_and_of_layers(card_of):
    plain = transformers.GPTQConfig(bits=4, desc_act=False, act_group_aware=False, true_sequential=False)
    says(card_of(plain), column_order="natural", sequential=False)
    aware = card_of(transformers.GPTQConfig(bits=4, desc_act=False, act_group_aware=True))
    says(aware, column_order=NOT_REPORTED, sequential=True)
    assert "act_group_aware" in aware.data["remarks"]
    settings = transformers.GPTQConfig(bits=4, desc_act=True).to_dict()
    says(card_of(settings), column_order=NOT_REPORTED)
    says(card_of({**settings, "static_groups": True}), column_order="activation, static groups")
    says(card_of({**settings, "static_groups": False}), column_order="activation")
    says(card_of({**settings, "meta": {"static_groups": False}}), column_order="activation")


@pytest.mark.parametrize("key", ["checkpoint_format", "format"])
def test_gptq_says_how_its_codes_are_packed(card_of, key):
    gptq = {"quant_method": "gptq", "bits": 4}
    assert f"Stored as marlin ({key})." in card_of({**gptq, key: "marlin"}).data["remarks"]
    assert "Stored" not in card_of({**gptq, key: "gptq"}).data["remarks"]


def test_gptq_data_and_what_else_is_said(card_of):
    card = card_of(transformers.GPTQConfig(bits=4, dataset="c4", model_seqlen=2048, damp_percent=0.01))
    says(card, data="c4", images=NOT_REPORTED, calibration_tokens=NOT_REPORTED)
    assert "2,048 tokens" in card.data["remarks"] and "Damping: 0.01" in card.data["remarks"]
    own = card_of(transformers.GPTQConfig(bits=4, dataset=["a text", "another one"]))
    says(own, data="texts of one's own", images=2)
    settings = transformers.GPTQConfig(bits=4).to_dict()
    some = card_of({**settings, "modules_in_block_to_quantize": [["self_attn.q_proj"]]})
    assert "self_attn.q_proj" in some.data["remarks"]


def test_gptqmodel_modules_of_their_own(card_of):
    settings = {
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "desc_act": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq_v2",
        "lm_head": True,
        "rotation": "hadamard",
        "dynamic": {"-:.*gate.*": {}, "+:.*down.*": {"bits": 8, "group_size": 64}},
        "meta": {"quantizer": ["gptqmodel:5.0"], "true_sequential": True, "damp_percent": 0.05},
    }
    card = card_of(settings)
    says(card, weight_bits={"default": 4, ".*down.*": 8}, float_layers=[".*gate.*"], head_bits=4)
    says(card, group_size=NOT_REPORTED, weight_granularity=NOT_REPORTED, weight_symmetric=True)
    says(card, transform="rotation: hadamard", sequential=True)
    for said in ("gptq_v2", "gptqmodel:5.0", "Damping: 0.05", "group_size (dynamic)"):
        assert said in card.data["remarks"]
    says(card_of({**settings, "lm_head": False, "dynamic": None}), head_bits="float", group_size=128)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_what_autoround_made_is_not_taken_for_another_method(card_of, method):
    settings = {
        "quant_method": method,
        "autoround_version": "0.12.2",
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "zero_point": False,
        "desc_act": False,
        "true_sequential": False,
        "nsamples": 512,
        "iters": 200,
    }
    card = card_of(settings)
    says(card, technique="post-training, AutoRound", rounding="learned", steps=200, images=512)
    says(card, column_order=NOT_REPORTED, sequential=NOT_REPORTED, weight_bits=4, weight_symmetric=True)
    says(card_of({**settings, "iters": 0}), rounding="nearest", steps=0, images=NOT_REPORTED)


# ------------------------------------------------------------------------------------------------------- AWQ


@pytest.mark.parametrize("bits, group, shifted", [(4, 128, True), (4, 64, False), (3, -1, True)])
def test_awq(card_of, bits, group, shifted):
    left = ["model.layers.0.mlp"]
    config = transformers.AwqConfig(
        bits=bits, group_size=group, zero_point=shifted, modules_to_not_convert=left
    )
    card = card_of(config)
    says(card, weight_bits=bits, weight_symmetric=not shifted, activation_bits="float", float_layers=left)
    says(card, group_size=NOT_REPORTED if group == -1 else group)
    says(
        card, column_order=NOT_REPORTED, sequential=NOT_REPORTED, weight_range=NOT_REPORTED, data=NOT_REPORTED
    )
    assert ("which is what AWQ reads" in card.data["remarks"]) == (config.to_dict()["sym"] is shifted)
    old = {"w_bit": bits, "q_group_size": group, "zero_point": shifted, "version": "GEMM"}
    says(card_of(old), weight_bits=bits, weight_symmetric=not shifted)


# ---------------------------------------------------------------------------------------------- bitsandbytes


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_bitsandbytes_in_4_bits(card_of, kind, double):
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        llm_int8_skip_modules=["lm_head"],
    )
    card = card_of(config)
    says(card, weight_bits=4, activation_bits="float", quantizer="non-uniform", float_layers=["lm_head"])
    says(card, weight_granularity="per_group", group_size=64)
    assert "default of bitsandbytes" in card.data["sources"]["group_size"]
    says(card, weight_symmetric=True if kind == "fp4" else NOT_REPORTED)
    assert kind in card.data["remarks"] and ("double" in card.data["remarks"]) == double


def test_bitsandbytes_in_8_bits(card_of):
    card = card_of(transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=5.0))
    says(card, weight_bits=8, activation_bits=8, activation_dynamic=True, activation_granularity="per_token")
    says(card, weight_granularity="per_channel", weight_symmetric=True, symmetric_grid="restricted")
    assert "above 5 are computed in float" in card.data["remarks"]
    assert "LLM.int8()" in card.data["sources"]["activation_bits"]
    kept = card_of(transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_has_fp16_weight=True))
    says(kept, weight_bits=NOT_REPORTED, activation_bits=8)
    neither = card_of(transformers.BitsAndBytesConfig())
    says(neither, weight_bits=NOT_REPORTED, activation_bits=NOT_REPORTED)


# --------------------------------------------------------------------------------------------------- torchao


def test_torchao(card_of):
    torch = pytest.importorskip("torch")
    ao = pytest.importorskip("torchao.quantization")
    from torchao.quantization.granularity import PerAxis, PerGroup, PerRow, PerTensor

    def card(config):
        return card_of(transformers.TorchAoConfig(config))

    says(
        card(ao.Int4WeightOnlyConfig(group_size=64)),
        weight_bits=4,
        activation_bits="float",
        group_size=64,
        weight_granularity="per_group",
        weight_symmetric=NOT_REPORTED,
    )
    whole = card(ao.Int8WeightOnlyConfig())
    says(whole, weight_bits=8, weight_symmetric=True, weight_granularity="per_channel")
    says(
        card(ao.Int8WeightOnlyConfig(granularity=PerGroup(32))), weight_granularity="per_group", group_size=32
    )
    says(card(ao.Int8WeightOnlyConfig(granularity=PerTensor())), weight_granularity="per_tensor")
    for granularity, rows, tokens in (
        (PerRow(), "per_channel", "per_token"),
        (PerTensor(),) + ("per_tensor",) * 2,
    ):
        both = card(ao.Int8DynamicActivationInt8WeightConfig(granularity=granularity))
        says(both, weight_bits=8, activation_bits=8, activation_dynamic=True, activation_symmetric=True)
        says(both, weight_granularity=rows, activation_granularity=tokens)
        floats = card(ao.Float8DynamicActivationFloat8WeightConfig(granularity=granularity))
        says(floats, quantizer="non-uniform", weight_granularity=rows, activation_granularity=tokens)
    says(card(ao.Float8WeightOnlyConfig()), quantizer="non-uniform", weight_bits=8, activation_bits="float")
    for bits in range(1, 9):
        some = ao.IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=PerGroup(16))
        says(card(some), weight_bits=bits, group_size=16, weight_symmetric=True)
    asymmetric = ao.IntxWeightOnlyConfig(granularity=PerAxis(0), mapping_type=ao.MappingType.ASYMMETRIC)
    says(card(asymmetric), weight_granularity="per_channel", weight_symmetric=False, weight_bits=8)
    reduced = card(ao.Int8DynamicActivationInt8WeightConfig(reduce_range=True))
    says(reduced, weight_bits=NOT_REPORTED, activation_bits=NOT_REPORTED, weight_symmetric=True)
    mixed = card(ao.Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4))
    says(mixed, weight_bits=4, group_size=32, activation_symmetric=False, activation_granularity="per_token")


@pytest.mark.filterwarnings("ignore:Config Deprecation")
def test_torchao_by_module(card_of):
    ao = pytest.importorskip("torchao.quantization")
    each = {
        "re:.*attn.*": ao.Int4WeightOnlyConfig(),
        "re:.*mlp.*": ao.Int8WeightOnlyConfig(),
        "lm_head": None,
    }
    card = card_of(transformers.TorchAoConfig(ao.FqnToConfig(each)))
    says(card, weight_bits={"re:.*attn.*": 4, "re:.*mlp.*": 8}, activation_bits="float", quantizer="uniform")
    says(
        card,
        float_layers=["lm_head"],
        weight_granularity=NOT_REPORTED,
        head_bits="float",
        embedding_bits="float",
    )
    assert "Modules differ in weight_granularity: per_channel, per_group." in card.data["remarks"]
    old = card_of(
        {
            "quant_method": "torchao",
            "quant_type": "int4_weight_only",
            "quant_type_kwargs": {"group_size": 128},
        }
    )
    says(old, weight_bits=4, group_size=128)
    unknown = card_of({"quant_method": "torchao", "quant_type": {"default": {"_type": "NewConfig"}}})
    assert "NewConfig" in unknown.data["remarks"] and unknown["weight_bits"] == NOT_REPORTED


# ---------------------------------------------------------------------------------------- compressed-tensors


def scheme(weights, activations=None, targets=("Linear",)):
    ct = pytest.importorskip("compressed_tensors.quantization")
    return ct.QuantizationScheme(
        targets=list(targets),
        weights=weights and ct.QuantizationArgs(**weights),
        input_activations=activations and ct.QuantizationArgs(**activations),
    )


def compressed(groups, **more):
    ct = pytest.importorskip("compressed_tensors.quantization")
    return ct.QuantizationConfig(config_groups=groups, **more).to_dict()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "strategy, group, granularity",
    [("tensor", None, "per_tensor"), ("channel", None, "per_channel"), ("group", 64, "per_group")],
)
def test_compressed_tensors_weights(card_of, bits, symmetric, strategy, group, granularity):
    weights = {"num_bits": bits, "symmetric": symmetric, "strategy": strategy, "group_size": group}
    card = card_of(compressed({"g": scheme(weights)}, ignore=["lm_head"]))
    says(card, weight_bits=bits, weight_symmetric=symmetric, weight_granularity=granularity)
    says(card, group_size=group or NOT_REPORTED, activation_bits="float", quantizer="uniform")
    says(card, float_layers=["lm_head"], head_bits="float", embedding_bits="float", kv_bits="float")


def test_compressed_tensors_order_observer_and_blocks(card_of):
    grouped = {"num_bits": 4, "strategy": "group", "group_size": 128}
    plain = card_of(compressed({"g": scheme(grouped)}))
    says(plain, column_order="natural", weight_range=NOT_REPORTED, float_layers=[], head_bits=NOT_REPORTED)
    assert "the default of compressed-tensors 0.20" in plain.data["sources"]["column_order"]
    for order in ("weight", "static"):
        card = card_of(compressed({"g": scheme({**grouped, "actorder": order, "observer": "mse"})}))
        says(card, column_order="activation, static groups", weight_range="mse")
    old = compressed({"g": scheme(grouped)})
    old["config_groups"]["g"]["weights"]["actorder"] = "group"  # what its package writes no more
    says(card_of(old), column_order="activation")
    block = card_of(
        compressed({"g": scheme({"num_bits": 8, "strategy": "block", "block_structure": [64, 128]})})
    )
    says(block, weight_granularity=NOT_REPORTED, group_size=NOT_REPORTED)
    assert "[64, 128]" in block.data["remarks"]


@pytest.mark.parametrize("kind", ["int", "float"])
@pytest.mark.parametrize("strategy, dynamic", [("tensor", True), ("tensor", False), ("token", True)])
def test_compressed_tensors_activations(card_of, dynamic, kind, strategy):
    activations = {"num_bits": 8, "type": kind, "strategy": strategy, "dynamic": dynamic, "symmetric": True}
    card = card_of(
        compressed({"g": scheme({"num_bits": 8, "type": kind, "strategy": "channel"}, activations)})
    )
    says(card, activation_bits=8, activation_dynamic=dynamic, activation_granularity=f"per_{strategy}")
    says(card, activation_symmetric=True, quantizer="uniform" if kind == "int" else "non-uniform")


def test_compressed_tensors_groups_that_differ_and_the_cache(card_of):
    groups = {
        "a": scheme({"num_bits": 4, "strategy": "group", "group_size": 32}, targets=["re:.*mlp.*"]),
        "b": scheme({"num_bits": 8, "strategy": "channel"}, targets=["re:.*attn.*"]),
    }
    card = card_of(compressed(groups, kv_cache_scheme={"num_bits": 8, "type": "float"}))
    says(
        card,
        weight_bits={"re:.*mlp.*": 4, "re:.*attn.*": 8},
        weight_granularity=NOT_REPORTED,
        kv_bits="float8",
    )
    assert "Groups of layers differ in strategy: channel, group." in card.data["remarks"]
    says(card, group_size=NOT_REPORTED, weight_symmetric=True, embedding_bits=NOT_REPORTED)
    one = groups["a"].model_dump()
    twice = {"a": {**one, "targets": ["Linear"]}, "b": {**groups["b"].model_dump(), "targets": ["Linear"]}}
    says(card_of({"quant_method": "compressed-tensors", "config_groups": twice}), weight_bits="mixed")
    some = card_of({"quant_method": "compressed-tensors", "config_groups": {"a": one}})
    says(some, weight_bits=4)
    assert "Quantized are re:.*mlp.*." in some.data["remarks"]
    named = card_of(transformers.CompressedTensorsConfig(config_groups={"W4A16": ["Linear"]}))
    says(named, weight_bits=4, group_size=128)
    bare = card_of({"quant_method": "compressed-tensors", "config_groups": {"W4A16": ["Linear"]}})
    says(bare, weight_bits=NOT_REPORTED)
    assert "W4A16" in bare.data["remarks"]


@pytest.mark.parametrize("name", ["NVFP4", "MXFP4", "FP8_DYNAMIC", "FP8_BLOCK", "W8A8", "W4A16_ASYM"])
def test_compressed_tensors_preset_schemes(card_of, name):
    ct = pytest.importorskip("compressed_tensors.quantization")
    card = card_of(compressed({name: ["Linear"]}))
    preset = ct.preset_name_to_scheme(name, ["Linear"])
    says(card, weight_bits=preset.weights.num_bits, weight_symmetric=preset.weights.symmetric)
    says(card, group_size=preset.weights.group_size or NOT_REPORTED)
    inputs = preset.input_activations
    says(card, activation_bits=inputs.num_bits if inputs else "float")
    known = inputs is not None and isinstance(inputs.dynamic, bool)
    says(card, activation_dynamic=inputs.dynamic if known else NOT_REPORTED)


# -------------------------------------------------------------------------------------------------- ModelOpt


@pytest.mark.parametrize(
    "algorithm, weights, activations, quantizer",
    [("FP8", 8, 8, "non-uniform"), ("W4A16_AWQ", 4, "float", "uniform"), ("NVFP4", 4, 4, "non-uniform")],
)
def test_modelopt(tmp_path, card_of, algorithm, weights, activations, quantizer):
    quantization = {
        "quant_algo": algorithm,
        "kv_cache_quant_algo": "FP8",
        "group_size": 16,
        "has_zero_point": False,
        "exclude_modules": ["lm_head"],
    }
    whole = {"producer": {"name": "modelopt", "version": "0.29"}, "quantization": quantization}
    path = tmp_path / "hf_quant_config.json"
    path.write_text(json.dumps(whole))
    for card in (
        QuantizationCard.from_checkpoint(path),
        card_of({"quant_method": "modelopt", **quantization}),
    ):
        says(card, weight_bits=weights, activation_bits=activations, quantizer=quantizer, kv_bits="float8")
        says(card, group_size=16, weight_symmetric=True, float_layers=["lm_head"], head_bits="float")
    assert "modelopt 0.29" in QuantizationCard.from_checkpoint(path).data["remarks"]


def test_modelopt_layer_by_layer_and_what_is_not_known(card_of):
    layers = {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "W4A16_AWQ", "group_size": 128}}
    mixed = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    says(card_of(mixed), weight_bits={"a": 8, "b": 4}, activation_bits=NOT_REPORTED, group_size=NOT_REPORTED)
    assert "Quantized layers differ in quant_algo: FP8, W4A16_AWQ." in card_of(mixed).data["remarks"]
    cache = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP3"}
    assert "What kv_cache_quant_algo FP3 means" in card_of(cache).data["remarks"]
    unknown = card_of({"quant_method": "modelopt", "quant_algo": "W1A1", "kv_cache_quant_algo": None})
    says(unknown, weight_bits=NOT_REPORTED, kv_bits="float")
    assert "W1A1" in unknown.data["remarks"]


def test_more_layers_in_float_than_a_card_has_room_for_are_counted(card_of):
    left = [f"model.layers.{i}.mlp" for i in range(2001)]
    card = card_of({"quant_method": "awq", "bits": 4, "modules_to_not_convert": left})
    says(card, float_layers=NOT_REPORTED, weight_bits=4)
    assert "modules_to_not_convert: 2,001 entries" in card.data["remarks"]
    says(card_of({"quant_method": "awq", "modules_to_not_convert": left[1:]}), float_layers=sorted(left[1:]))


@pytest.mark.parametrize(
    "name, is_head",
    [
        ("lm_head", True),
        ("re:.*lm_head", True),
        ("*lm_head*", True),
        ("language_model.lm_head", True),
        ("lm_head_norm", False),
        ("re:.*head", False),
        ("model.layers.0.mlp", False),
    ],
)
def test_a_head_left_in_float_by_name_or_pattern(card_of, name, is_head):
    card = card_of({"quant_method": "compressed-tensors", "ignore": ["a", name]})
    says(card, head_bits="float" if is_head else NOT_REPORTED, float_layers=sorted(["a", name]))
    gptq = {"quant_method": "gptq", "bits": 4, "dynamic": {f"-:{name}": {}}}
    source = card_of(gptq).data["sources"]["head_bits"]
    assert source == "config.json: dynamic" if is_head else "not stated" in source


def test_a_head_of_which_nothing_is_said_is_as_its_writer_leaves_it(card_of, tmp_path):
    gptq, awq = ({"quant_method": method, "bits": 4} for method in ("gptq", "awq"))
    bits8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    for settings in (gptq, awq, bits8):
        card = card_of(settings)
        says(card, head_bits="float")
        assert "not stated" in card.data["sources"]["head_bits"]
    says(card_of({**bits8, "llm_int8_skip_modules": ["router"]}), head_bits=NOT_REPORTED)
    says(card_of({**gptq, "dynamic": {"+:lm_head": {"bits": 8}}}), head_bits=NOT_REPORTED)
    says(card_of({**gptq, "lm_head": True}), head_bits=4)


def test_very_many_modules_of_their_own_are_mixed(card_of):
    own = {f"+:layer{i}": {"bits": 8} for i in range(2100)}
    says(card_of({"quant_method": "gptq", "bits": 4, "dynamic": own}), weight_bits="mixed")


def test_a_method_that_is_not_read_is_said_and_nothing_guessed(card_of):
    card = card_of({"quant_method": "aqlm", "bits": 2})
    assert "aqlm" in card.data["remarks"] and card["weight_bits"] == NOT_REPORTED
