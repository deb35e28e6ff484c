"""What is wrong with a checkpoint's files: on the card, said first by whatever shows it and the command."""

import json

import pytest
from checkpoints import folder

from qlib import QuantizationCard
from qlib.cards import NOT_REPORTED
from qlib.cards.render import faults
from qlib.cli import main

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
SCHEME = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 32}}
TENSORS = {"quant_method": "compressed-tensors", "config_groups": {"g": SCHEME}}
WRONG = {"config_groups": {"g": {"weights": {"num_bits": 64, "group_size": 0}}}}
BITS = {"quant_method": "bitsandbytes"}
INT4 = {"quant_method": "torchao", "quant_type": "int4_weight_only"}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
SAID = (
    "contradiction: Weights in a group: 128 (config.json: group_size) against 64 (quantize_config.json: "
    "group_size)"
)


@pytest.fixture
def apart(tmp_path):
    """A folder whose two files of settings differ in the size of a group."""
    return folder(tmp_path / "apart", GPTQ, quantize_config_json={**GPTQ, "group_size": 64})


def test_a_contradiction_is_data_of_the_card_and_kept_in_its_file(apart, tmp_path):
    card = QuantizationCard.from_checkpoint(apart)
    said = [
        {"value": 128, "source": "config.json: group_size"},
        {"value": 64, "source": "quantize_config.json: group_size"},
    ]
    assert card.data["faults"] == [{"kind": "contradiction", "field": "group_size", "said": said}]
    assert card["group_size"] == NOT_REPORTED and card["weight_granularity"] == "per_group"
    for name in ("card.yaml", "card.json"):
        card.save(tmp_path / name)
        assert QuantizationCard.load(tmp_path / name) == card


def test_it_is_shown_first_and_beside_its_field(apart, capsys):
    card = QuantizationCard.from_checkpoint(apart)
    lines = str(card).splitlines()
    assert lines[1] == SAID and "  Weights in a group               not reported (contradiction)" in lines
    plain = card.to_markdown().replace("\\", "")
    assert plain.index(SAID) < plain.index("| --- |")
    assert card.to_html().index(SAID) < card.to_html().index("<table")
    assert "against 64" in card.to_latex()


def test_the_command_says_each_on_the_error_stream_and_fails(apart, tmp_path, capsys):
    fine = folder(tmp_path / "fine", GPTQ)
    assert main(["card", "from-checkpoint", str(fine)]) == 0 and capsys.readouterr().err == ""
    assert main(["card", "from-checkpoint", str(apart)]) == 1
    assert capsys.readouterr().err == f"qlib: {SAID}\n"
    assert main(["card", "from-checkpoint", str(apart), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 1
    with pytest.raises(SystemExit):
        main(["card", "from-checkpoint", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "files that contradict each other" in said and "ends in .yaml, .yml, .json" in said


ODD = [
    (GPTQ, {"bits": "four"}, {"weight_bits": '"four" (bits)'}),
    (GPTQ, {"group_size": -5}, {"group_size": "-5 (group_size)"}),
    (GPTQ, {"bits": 4.0}, {"weight_bits": "the float 4 (bits)"}),
    (GPTQ, {"bits": 99, "sym": "yes"}, {"weight_bits": "99 (bits)", "weight_symmetric": '"yes" (sym)'}),
    (GPTQ, {"desc_act": [1]}, {"column_order": "a list of 1 entries (desc_act)"}),
    (GPTQ, {"lm_head": 8}, {"head_bits": "8 (lm_head)"}),
    (GPTQ, {"dynamic": {"a": {"bits": 10**400}}}, {"weight_bits": "a number beyond 2^53 (dynamic)"}),
    (AWQ, {"zero_point": 1}, {"weight_symmetric": "1 (zero_point)"}),
    ({"w_bit": 0}, {"zero_point": True}, {"weight_bits": "0 (w_bit)"}),
    (BITS, {"load_in_4bit": "true"}, {"weight_bits": '"true" (load_in_4bit)'}),
    (TENSORS, {"kv_cache_scheme": {"num_bits": None}}, {}),
    (TENSORS, {"kv_cache_scheme": {"num_bits": "8"}}, {"kv_bits": '"8" (kv_cache_scheme.num_bits)'}),
    (TENSORS, WRONG, {"weight_bits": "64 (num_bits)", "group_size": "0 (group_size)"}),
    (INT4, {"quant_type_kwargs": {"group_size": 0}}, {"group_size": "0 (Int4WeightOnlyConfig.group_size)"}),
    (MODELOPT, {"group_size": True}, {"group_size": "true (group_size)"}),
]


@pytest.mark.parametrize("settings, odd, said", ODD, ids=[str(odd)[:40] for _, odd, _ in ODD])
def test_what_is_no_value_is_said_with_its_key_and_leaves_the_field_open(tmp_path, settings, odd, said):
    card = QuantizationCard.from_checkpoint(folder(tmp_path, {**settings, **odd}))
    names = [fault["field"] for fault in card.data["faults"]]
    lines = [line.split(": ", 2)[2].replace("config.json: ", "") for line in faults(card)]
    assert dict(zip(names, lines, strict=True)) == said
    assert {card[name] for name in said} <= {NOT_REPORTED}


def test_very_many_faults_are_cut(tmp_path):
    groups = {str(i): {"weights": {"num_bits": "x"}} for i in range(300)}
    card = QuantizationCard.from_checkpoint(folder(tmp_path, {**TENSORS, "config_groups": groups}))
    assert len(card.data["faults"]) == 100 and "Left out are 200 more faults." in card.data["remarks"]


def test_version_1_has_no_faults():
    text = "schema_version: 1\nname: x\nfaults: []"
    with pytest.raises(ValueError, match="faults came with version 2 of the schema"):
        QuantizationCard.from_yaml(text)


def test_of_very_many_settings_that_differ_some_are_listed(tmp_path):
    some = {f"k{i}": i for i in range(1000)}
    path = folder(tmp_path, {**GPTQ, **some}, quantize_config_json={**GPTQ, **dict.fromkeys(some, -1)})
    card = QuantizationCard.from_checkpoint(path)
    assert len(card.data["faults"]) == 100 and card["weight_bits"] == 4
