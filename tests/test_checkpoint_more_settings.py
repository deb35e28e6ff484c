"""Settings of float8, MXFP4, HQQ and AutoRound become cards right field by field."""

import pytest
from checkpoints import folder

from qlib import QuantizationCard
from qlib.cards import NOT_REPORTED
from qlib.cards.render import faults

transformers = pytest.importorskip("transformers.utils.quantization_config")


@pytest.fixture
def card_of(tmp_path):
    def card_of(settings):
        settings = settings if isinstance(settings, dict) else settings.to_dict()
        plain = {key: getattr(value, "value", value) for key, value in settings.items()}
        return QuantizationCard.from_checkpoint(folder(tmp_path, plain))

    return card_of


def says(card, **fields):
    assert {name: card[name] for name in fields} == fields


@pytest.mark.parametrize("scheme, dynamic", [("dynamic", True), ("static", False), ("DYNAMIC", True)])
def test_float8_in_blocks(card_of, scheme, dynamic):
    config = transformers.FineGrainedFP8Config(activation_scheme=scheme, weight_block_size=(64, 128))
    card = card_of(config)
    says(card, weight_bits=8, quantizer="non-uniform", weight_symmetric=True, container="FP8")
    says(card, activation_bits=8, activation_dynamic=dynamic, weight_granularity=NOT_REPORTED)
    assert "float8" in card.data["remarks"] and "blocks of 64 by 128" in card.data["remarks"]
    says(card, head_bits="float")
    assert "not stated" in card.data["sources"]["head_bits"]


def test_float8_as_others_write_it(card_of):
    settings = {
        "quant_method": "fp8",
        "activation_scheme": "static",
        "ignored_layers": ["model.layers.0.mlp"],
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    }
    card = card_of(settings)
    says(card, float_layers=["model.layers.0.mlp"], head_bits=NOT_REPORTED, kv_bits="float8")
    wrong = card_of({**settings, "activation_scheme": "sometimes", "weight_block_size": [128]})
    assert faults(wrong) == [
        'no value: Dynamic activations: "sometimes" (config.json: activation_scheme)',
        "no value: Range of weights for: a list of 1 entries (config.json: weight_block_size)",
    ]


def test_float8_by_fbgemm(card_of):
    config = transformers.FbgemmFp8Config(activation_scale_ub=1100.0, modules_to_not_convert=["lm_head"])
    card = card_of(config)
    says(card, weight_bits=8, weight_granularity="per_channel", activation_granularity="per_token")
    says(card, float_layers=["lm_head"], head_bits="float", activation_dynamic=True)
    assert "clipped at 1100" in card.data["remarks"]


def test_mxfp4(card_of):
    card = card_of(transformers.Mxfp4Config(modules_to_not_convert=["model.embed_tokens", "lm_head"]))
    says(card, weight_bits=4, group_size=32, weight_granularity="per_group", activation_bits="float")
    says(card, float_layers=["lm_head", "model.embed_tokens"], head_bits="float", container="MXFP4")


def hqq(bits=4, group=64, axis=1, **more):
    """What `hqq.core.quantize.hqq_base_quant_config` returns."""
    weights = {"nbits": bits, "channel_wise": True, "group_size": group, "optimize": True, "axis": axis}
    return {"weight_quant_params": weights, "scale_quant_params": None, "zero_quant_params": None, **more}


def test_hqq(card_of):
    settings = {"quant_method": "hqq", "skip_modules": ["lm_head"], "quant_config": hqq()}
    card = card_of(settings)
    says(card, weight_bits=4, group_size=64, weight_granularity="per_group", weight_symmetric=False)
    says(card, technique="post-training, HQQ", head_bits="float", activation_bits="float")
    says(card_of({**settings, "quant_config": hqq(group=None)}), weight_granularity="per_channel")
    across = card_of({**settings, "quant_config": hqq(axis=0)})
    says(across, weight_granularity=NOT_REPORTED, group_size=NOT_REPORTED)
    assert "axis 0" in across.data["remarks"]
    some = {"self_attn.q_proj": hqq(8), "mlp.up_proj": hqq(2, 32, scale_quant_params={"nbits": 8})}
    mixed = card_of({**settings, "quant_config": some})
    says(mixed, weight_bits={"self_attn.q_proj": 8, "mlp.up_proj": 2}, group_size=NOT_REPORTED)
    assert "Layers differ in group_size: 32, 64." in mixed.data["remarks"]
    assert "Scales or zero-points are quantized, too." in mixed.data["remarks"]


@pytest.mark.parametrize("bits, group, symmetric", [(4, 128, True), (2, 32, False), (8, -1, True)])
def test_autoround(card_of, bits, group, symmetric):
    more = {"iters": 200, "nsamples": 512, "data_type": "int", "act_bits": 16, "dataset": "some/texts"}
    config = transformers.AutoRoundConfig(bits=bits, group_size=group, sym=symmetric, **more)
    card = card_of(config)
    says(card, weight_bits=bits, weight_symmetric=symmetric, quantizer="uniform", activation_bits="float")
    says(card, weight_granularity="per_channel" if group == -1 else "per_group", container="AutoRound")
    says(card, rounding="learned", steps=200, images=512, technique="post-training, AutoRound")
    assert "Packed as auto_round:gptq." in card.data["remarks"] and card["data"] == "some/texts"


def test_autoround_with_modules_of_their_own(card_of):
    settings = {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True, "iters": 0}
    own = {"lm_head": {"bits": 16, "group_size": 1}, "mlp": {"bits": 8}}
    card = card_of({**settings, "extra_config": own})
    says(card, weight_bits={"default": 4, "mlp": 8}, float_layers=["lm_head"], rounding="nearest")
    says(card, head_bits="float", group_size=128, activation_bits=NOT_REPORTED)
    card = card_of({**settings, "extra_config": {"a": {"sym": False}}})
    says(card, weight_bits=4, group_size=NOT_REPORTED, weight_symmetric=NOT_REPORTED)
