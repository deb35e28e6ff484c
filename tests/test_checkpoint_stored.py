"""Types and sizes in safetensors headers show bits, groups and averages, held against the settings."""

import json

import pytest
from checkpoints import folder, safetensors

from qlib import QuantizationCard
from qlib.cards import NOT_REPORTED
from qlib.cards.render import faults

FLOAT = {
    "model.embed_tokens.weight": ("BF16", (64, 256)),
    "model.norm.weight": ("BF16", (256,)),
    "lm_head.weight": ("BF16", (64, 256)),
}


def layers(parts, names=("q_proj", "up_proj")):
    """The same parts for a few modules, beside an embedding and a head in float."""
    return FLOAT | {f"model.layers.0.{name}.{part}": entry for name in names for part, entry in parts.items()}


def gptq(bits, group, inputs=256, outputs=128):
    groups = inputs // group
    return {
        "qweight": ("I32", (inputs * bits // 32, outputs)),
        "qzeros": ("I32", (groups, outputs * bits // 32)),
        "scales": ("F16", (groups, outputs)),
        "g_idx": ("I32", (inputs,)),
    }


def awq(bits, group, inputs=256, outputs=128):
    groups = inputs // group
    return {
        "qweight": ("I32", (inputs, outputs * bits // 32)),
        "qzeros": ("I32", (groups, outputs * bits // 32)),
        "scales": ("F16", (groups, outputs)),
    }


def packed(bits, group, inputs=256, outputs=128, shifted=False):
    zeros = {"weight_zero_point": ("I32", (outputs * bits // 32, inputs // group))} if shifted else {}
    return {
        "weight_packed": ("I32", (outputs, inputs * bits // 32)),
        "weight_scale": ("BF16", (outputs, inputs // group)),
        "weight_shape": ("I64", (2,)),
    } | zeros


def averages(codes, parameters, elements=2 * 256 * 128, floats=2 * 64 * 256):
    """Of two quantized matrices, and an embedding and a head in 16 bits."""
    whole = elements * codes + floats * 16
    every = elements + floats
    return {
        "weight_bytes": whole / 8,
        "average_weight_bits": round(whole / every, 6),
        "effective_weight_bits": round((whole + parameters) / every, 6),
    }


def says(card, **fields):
    assert {name: card[name] for name in fields} == fields


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [32, 128, 256])
@pytest.mark.parametrize("method, parts", [("gptq", gptq), ("awq", awq)])
def test_codes_packed_along_inputs_or_outputs(tmp_path, bits, group, method, parts):
    settings = {"quant_method": method, "bits": bits, "group_size": -1 if group == 256 else group}
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, layers(parts(bits, group))))
    says(card, weight_bits=bits, embedding_bits="float", head_bits="float")
    says(card, weight_granularity="per_channel" if group == 256 else "per_group")
    says(card, group_size=NOT_REPORTED if group == 256 else group)
    says(card, **averages(bits, 2 * (256 // group) * 128 * (16 + bits)))
    assert card.data["faults"] == []


@pytest.mark.parametrize("bits, group, shifted", [(4, 128, False), (4, 32, True), (8, 64, False)])
def test_codes_packed_by_compressed_tensors(tmp_path, bits, group, shifted):
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": not shifted,
        "strategy": "group",
        "group_size": group,
    }
    settings = {"config_groups": {"g": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}
    settings |= {"quant_method": "compressed-tensors"}
    tensors = layers(packed(bits, group, shifted=shifted))
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, tensors))
    says(card, weight_bits=bits, group_size=group, weight_symmetric=not shifted, embedding_bits="float")
    zeros = 2 * 128 * 256 // group * bits if shifted else 0
    says(card, **averages(bits, 2 * 128 * (256 // group) * 16 + zeros))
    weights["symmetric"] = shifted
    wrong = QuantizationCard.from_checkpoint(folder(tmp_path, settings, tensors))
    says(wrong, weight_symmetric=NOT_REPORTED)
    assert [fault["field"] for fault in wrong.data["faults"]] == ["weight_symmetric"]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_checkpoint_that_compressed_tensors_packed_and_safetensors_wrote(tmp_path, bits, shifted):
    torch = pytest.importorskip("torch")
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    from safetensors.torch import save_file

    codes = helpers.pack_to_int32(torch.zeros(128, 256, dtype=torch.int8), bits)
    tensors = {
        "model.embed_tokens.weight": torch.zeros(64, 256, dtype=torch.bfloat16),
        "lm_head.weight": torch.zeros(64, 256, dtype=torch.bfloat16),
    }
    for name in ("q_proj", "up_proj"):
        tensors[f"model.layers.0.{name}.weight_packed"] = codes.clone()
        tensors[f"model.layers.0.{name}.weight_scale"] = torch.ones(128, 4, dtype=torch.bfloat16)
        tensors[f"model.layers.0.{name}.weight_shape"] = torch.tensor([128, 256])
        if shifted:
            zeros = helpers.pack_to_int32(torch.zeros(128, 4, dtype=torch.int8), bits, packed_dim=0)
            tensors[f"model.layers.0.{name}.weight_zero_point"] = zeros
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": not shifted,
        "strategy": "group",
        "group_size": 64,
    }
    settings = {
        "quant_method": "compressed-tensors",
        "config_groups": {"g": {"targets": ["Linear"], "weights": weights}},
    }
    save_file(tensors, folder(tmp_path, settings) / "model.safetensors", {"format": "pt"})
    card = QuantizationCard.from_checkpoint(tmp_path)
    says(card, weight_bits=bits, group_size=64, weight_symmetric=not shifted, head_bits="float")
    says(card, **averages(bits, 2 * 128 * 4 * (16 + (bits if shifted else 0))))
    assert card.data["faults"] == []


@pytest.mark.parametrize(
    "parts, fields",
    [
        (
            {"weight": ("F8_E4M3", (128, 256)), "weight_scale": ("F32", (1,))},
            {"weight_bits": 8, "weight_granularity": "per_tensor", **averages(8, 2 * 32)},
        ),
        (
            {"weight": ("BF16", (8192, 1)), "weight.absmax": ("F32", (512,))},
            {"weight_bits": 4, "group_size": 64, **averages(4, 2 * 512 * 32)},
        ),
        (
            {"weight": ("I8", (128, 256)), "weight_scale": ("BF16", (128, 1))},
            {"weight_bits": 8, "weight_granularity": "per_channel", **averages(8, 2 * 128 * 16)},
        ),
        (
            {"weight": ("I8", (128, 256)), "SCB": ("F32", (128,))},
            {"weight_bits": 8, "weight_granularity": "per_channel", **averages(8, 2 * 128 * 32)},
        ),
        (
            {"weight": ("F8_E4M3", (256, 128)), "weight_scale_inv": ("F32", (2, 1))},
            {"weight_bits": 8, "weight_granularity": NOT_REPORTED, **averages(8, 2 * 2 * 32)},
        ),
        (
            {
                "weight": ("U8", (128, 128)),
                "weight_scale": ("F8_E4M3", (128, 16)),
                "weight_scale_2": ("F32", ()),
            },
            {"weight_bits": 4, "group_size": 16, **averages(4, 2 * (128 * 16 * 8 + 32))},
        ),
        (
            {"weight": ("U8", (64, 256)), "weight_scale": ("F16", (128, 2))},
            {"weight_bits": 4, "group_size": 128, **averages(4, 2 * 128 * 2 * 16)},
        ),
        (
            {
                "weight": ("U8", (16384, 1)),
                "weight.absmax": ("F32", (512,)),
                "weight.quant_map": ("F32", (16,)),
            },
            {"weight_bits": 4, "group_size": 64, **averages(4, 2 * 512 * 32)},
        ),
        (
            {
                "weight": ("U8", (16384, 1)),
                "weight.absmax": ("U8", (512,)),
                "weight.nested_absmax": ("F32", (2,)),
                "weight.quant_state.bitsandbytes__nf4": ("U8", (96,)),
            },
            {"weight_bits": 4, "group_size": 64, **averages(4, 2 * (512 * 8 + 2 * 32))},
        ),
    ],
    ids=[
        "fp8",
        "nf4 in bfloat16",
        "int8",
        "SCB",
        "blocks",
        "nvfp4",
        "two outputs a byte",
        "nf4",
        "nf4 nested",
    ],
)
def test_ways_to_store_weights(tmp_path, parts, fields):
    path = safetensors(tmp_path / "model.safetensors", layers(parts))
    says(QuantizationCard.from_checkpoint(path), **fields, embedding_bits="float", head_bits="float")


def test_a_checkpoint_in_float(tmp_path):
    card = QuantizationCard.from_checkpoint(
        folder(tmp_path, tensors=layers({"weight": ("BF16", (128, 256))}))
    )
    says(card, weight_bits="float", average_weight_bits=16, effective_weight_bits=16)
    assert "says nothing of quantization" in card.data["remarks"]


def test_settings_that_the_weights_contradict(tmp_path):
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, layers(gptq(8, 64))))
    says(card, weight_bits=NOT_REPORTED, group_size=NOT_REPORTED, weight_symmetric=True)
    assert "contradiction: Weight bits: 4 (config.json: bits) against 8" in " ".join(faults(card))
    still = QuantizationCard.from_checkpoint(
        folder(tmp_path, settings, layers({"weight": ("BF16", (128, 256))}))
    )
    says(still, weight_bits=NOT_REPORTED)


def test_layers_that_differ_are_told_by_name(tmp_path):
    tensors = layers(gptq(4, 128), ["q_proj"]) | layers(gptq(8, 128), ["up_proj"])
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:.*up.*": {"bits": 8}}}
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, tensors))
    says(card, weight_bits={"model.layers.0.q_proj": 4, "model.layers.0.up_proj": 8}, group_size=128)
    assert card.data["faults"] == []


def test_layers_whose_groups_differ_are_said_to(tmp_path):
    tensors = layers(gptq(4, 128), ["q_proj"]) | layers(gptq(4, 64), ["up_proj"])
    card = QuantizationCard.from_checkpoint(folder(tmp_path, tensors=tensors))
    says(card, weight_bits=4, weight_granularity="per_group", group_size=NOT_REPORTED)
    assert "Matrices differ in group_size: 128, 64." in card.data["remarks"]


def test_a_table_that_is_the_head_too(tmp_path):
    tensors = layers(gptq(4, 128))
    del tensors["lm_head.weight"]
    settings = {"quant_method": "gptq", "bits": 4}
    for tied, source in ((True, "safetensors headers"), (False, "not stated")):
        config = {"tie_word_embeddings": tied}
        card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, tensors, config))
        says(card, head_bits="float")
        assert source in card.data["sources"]["head_bits"]


@pytest.mark.parametrize(
    "parts, bits, known",
    [
        (packed(4, 32), 4, True),
        (packed(4, 32), None, False),
        ({**packed(4, 32), "weight_packed": ("I32", (128, 24))}, 3, False),
        ({"weight_packed": ("U8", (128, 192)), "weight_scale": ("U8", (128, 8))}, 6, True),
        ({"weight_packed": ("U8", (128, 192)), "weight_scale": ("U8", (128, 8))}, None, False),
    ],
)
def test_packed_codes_are_counted_only_where_their_bits_are_known(tmp_path, parts, bits, known):
    weights = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": 32}
    settings = {"config_groups": {"g": {"targets": ["Linear"], "weights": weights}}}
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, layers(parts)))
    says(card, group_size=32, weight_bits=bits or NOT_REPORTED)
    if known:
        says(card, **averages(bits, 2 * 128 * 8 * {"I32": 16, "U8": 8}[parts["weight_packed"][0]]))
    else:
        says(card, average_weight_bits=NOT_REPORTED, effective_weight_bits=NOT_REPORTED)


def test_weights_that_are_stored_in_an_unknown_way_give_no_average(tmp_path):
    tensors = layers(gptq(4, 128)) | {"model.layers.0.odd.codes": ("I32", (16, 16))}
    card = QuantizationCard.from_checkpoint(folder(tmp_path, {"quant_method": "gptq", "bits": 4}, tensors))
    says(card, weight_bits=4, average_weight_bits=NOT_REPORTED, effective_weight_bits=NOT_REPORTED)
    assert "is not known (1, such as model.layers.0.odd)" in card.data["remarks"]
    indices = layers(gptq(4, 128)) | {"model.position_ids": ("I64", (1, 512))}
    card = QuantizationCard.from_checkpoint(folder(tmp_path, {"quant_method": "gptq", "bits": 4}, indices))
    says(card, **averages(4, 2 * 2 * 128 * (16 + 4)))


EXPERTS = "model.layers.0.mlp.experts"


def test_weights_of_all_experts_in_one_tensor(tmp_path):
    tensors = {
        f"{EXPERTS}.gate_up_proj": ("BF16", (4, 256, 128)),
        f"{EXPERTS}.gate_up_proj_bias": ("BF16", (4, 256)),
        f"{EXPERTS}.down_proj": ("BF16", (4, 128, 256)),
    }
    card = QuantizationCard.from_checkpoint(folder(tmp_path / "float", tensors=FLOAT | tensors))
    says(card, weight_bits="float", average_weight_bits=16, effective_weight_bits=16)
    blocks = {
        f"{EXPERTS}.{name}_{part}": ("U8", sizes)
        for name, rows in (("gate_up_proj", 256), ("down_proj", 128))
        for part, sizes in (("blocks", (4, rows, 8, 16)), ("scales", (4, rows, 8)))
    }
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    card = QuantizationCard.from_checkpoint(folder(tmp_path / "mx", settings, FLOAT | blocks))
    says(card, weight_bits=4, group_size=32, weight_granularity="per_group", head_bits="float")
    elements = 4 * (256 + 128) * 256
    says(card, **averages(4, elements // 32 * 8, elements))
    assert card.data["faults"] == []


def test_fused_weights_of_8_bits_name_no_granularity_that_a_card_has_no_word_for(tmp_path):
    tensors = {
        f"{EXPERTS}.down_proj": ("F8_E4M3", (4, 128, 256)),
        f"{EXPERTS}.down_proj_scale_inv": ("F32", (4, 1)),
    }
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, FLOAT | tensors))
    says(card, weight_bits=8, weight_granularity=NOT_REPORTED)
    says(card, **averages(8, 4 * 32, 4 * 128 * 256))
    settings["expert_dtype"] = "fp4"
    tensors[f"{EXPERTS}.down_proj"] = ("I8", (4, 128, 128))
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, FLOAT | tensors))
    says(card, weight_bits=NOT_REPORTED, average_weight_bits=NOT_REPORTED, weight_bytes=NOT_REPORTED)


def test_parts_with_an_index(tmp_path):
    whole = layers(gptq(4, 128))
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    one = QuantizationCard.from_checkpoint(folder(tmp_path / "one", settings, whole), name="x")
    parts = folder(tmp_path / "parts", settings)
    names = list(whole)
    files = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        safetensors(parts / file, {name: whole[name] for name in names if files[name] == file})
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert QuantizationCard.from_checkpoint(parts, name="x").data == one.data
    (parts / "model.safetensors.index.json").unlink()
    assert QuantizationCard.from_checkpoint(parts, name="x").data == one.data
    (parts / "model-00002-of-00002.safetensors").unlink()
    lacking = QuantizationCard.from_checkpoint(parts)
    says(lacking, weight_bits=4, average_weight_bits=NOT_REPORTED, embedding_bits=NOT_REPORTED)
    assert "Not all of its weights are there" in lacking.data["remarks"]
