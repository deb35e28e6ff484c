"""What lies beside one another in a folder: said together, contradictions said aloud, links not followed."""

import json
import os

import pytest
from checkpoints import folder, written

from qlib import QuantizationCard
from qlib.cards import NOT_REPORTED
from qlib.cards.render import faults
from qlib.cli import main

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
RECIPE = """
quant_stage:
  quant_modifiers:
    SmoothQuantModifier: {smoothing_strength: 0.8, ignore: [lm_head]}
    GPTQModifier:
      sequential_update: true
      dampening_frac: 0.01
      ignore: [lm_head]
      scheme: W8A8
"""
README = """---
base_model: some/Model-7B
base_model_relation: quantized
quantized_by: Somebody <b>bold</b>
datasets: [c4, wikitext]
metrics: [perplexity]
model-index:
- name: x
  results:
  - task: {type: text-generation}
    dataset: {name: WikiText-2, type: wikitext}
    metrics:
    - {type: perplexity, value: 6.1}
---
# A model
---
base_model: not/this
"""


def test_two_files_that_agree_and_two_that_do_not(tmp_path):
    card = QuantizationCard.from_checkpoint(folder(tmp_path, GPTQ, quantize_config_json=GPTQ))
    assert (card["weight_bits"], card["group_size"], card["weight_symmetric"]) == (4, 128, True)
    assert card.data["remarks"] == "Architecture LlamaForCausalLM."
    other = {**GPTQ, "group_size": 64, "sym": False}
    card = QuantizationCard.from_checkpoint(folder(tmp_path, GPTQ, quantize_config_json=other))
    assert (card["weight_bits"], card["group_size"], card["weight_symmetric"]) == (
        4,
        NOT_REPORTED,
        NOT_REPORTED,
    )
    said = {fault["field"]: [each.values() for each in fault["said"]] for fault in card.data["faults"]}
    assert {name: [tuple(each) for each in every] for name, every in said.items()} == {
        "group_size": [(128, "config.json: group_size"), (64, "quantize_config.json: group_size")],
        "weight_symmetric": [(True, "config.json: sym"), (False, "quantize_config.json: sym")],
    }
    assert "group_size" not in card.data["sources"]


def test_a_recipe_says_what_made_it(tmp_path):
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    settings = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, recipe_yaml=RECIPE))
    assert card["technique"] == "post-training, SmoothQuant and GPTQ"
    assert card["transform"] == "smoothing, strength 0.8" and card["sequential"] is True
    assert (card["weight_bits"], card["activation_bits"]) == (8, 8) and "Damping: 0.01" in card.data[
        "remarks"
    ]
    wrong = RECIPE.replace("W8A8", "W4A16")
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, recipe_yaml=wrong))
    assert card["weight_bits"] == card["activation_bits"] == NOT_REPORTED
    assert [fault["field"] for fault in card.data["faults"]] == ["weight_bits", "activation_bits"]
    alone = QuantizationCard.from_checkpoint(tmp_path / "recipe.yaml")
    assert (alone["weight_bits"], alone["activation_bits"], alone.name) == (4, "float", tmp_path.name)
    rounded = "default_stage: {default_modifiers: {QuantizationModifier: {scheme: FP8_DYNAMIC}}}"
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, recipe_yaml=rounded))
    assert (card["rounding"], card["technique"]) == ("nearest", "post-training, rounding")


def test_a_readme_is_somebodys_words_escaped(tmp_path):
    card = QuantizationCard.from_checkpoint(folder(tmp_path, GPTQ, README_md=README))
    assert (card["network"], card.data["authors"]) == ("some/Model-7B", "Somebody <b>bold</b>")
    assert card["dataset"] == card["metric"] == card["accuracy"] == NOT_REPORTED
    for said in ("perplexity 6.1 on WikiText-2", "c4, wikitext", "base model: quantized"):
        assert said in card.data["remarks"]
    assert "<b>" not in card.to_html() and "&lt;b&gt;" in card.to_html()
    assert QuantizationCard.from_yaml(card.to_yaml()) == card


@pytest.mark.parametrize(
    "head, said",
    [
        ("---\nbase_model: [a\n---\n", "left out"),
        ("---\ndate: 2024-01-01\n---\n", "put dates in quotes"),
        ("---\na: &a [x]\nb: *a\n---\n", "aliases are not allowed"),
        ("---\nbase_model: !!python/object:os.system x\n---\n", "left out"),
        ("---\nbase_model: 7\ndatasets: {a: b}\nmodel-index: 3\n---\n", None),
        ("---\nno end", None),
        ("# plain", None),
        ("", None),
    ],
)
def test_a_readme_that_cannot_be_read_is_left_out(tmp_path, head, said):
    card = QuantizationCard.from_checkpoint(folder(tmp_path, GPTQ, README_md=head))
    assert card["weight_bits"] == 4 and card["network"] == NOT_REPORTED
    assert ("README.md" in card.data["remarks"]) == (said is not None) and (said or "") in card.data[
        "remarks"
    ]


def test_texts_are_bounded_and_in_one_line(tmp_path):
    config = {"_name_or_path": "a/" + "b" * 5000}
    settings = {**GPTQ, "dataset": "x\n\x1b[31m\u202ey" * 1000}
    settings["dynamic"] = {f"-:layer{i}": {} for i in range(1500)}
    card = QuantizationCard.from_checkpoint(folder(tmp_path, settings, config=config))
    assert len(card["data"]) <= 200 and card["data"].isprintable()
    assert len(card["float_layers"]) == 1500 and card["network"] == NOT_REPORTED
    local = {"_name_or_path": "/home/somebody/model"}
    assert QuantizationCard.from_checkpoint(folder(tmp_path, GPTQ, config=local))["network"] == NOT_REPORTED


def test_links_are_not_followed_but_that_which_was_named(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"quantization_config": GPTQ, "model_type": "secret"}))
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "config.json").symlink_to(secret)
    with pytest.raises(ValueError, match="symbolic link, which is not followed: copy the folder"):
        QuantizationCard.from_checkpoint(inside)
    assert QuantizationCard.from_checkpoint(inside / "config.json")["weight_bits"] == 4
    (inside / "config.json").unlink()
    os.mkfifo(inside / "config.json")
    with pytest.raises(ValueError, match="not a plain file"):
        QuantizationCard.from_checkpoint(inside)


def test_an_index_leads_nowhere_else(tmp_path):
    for name in ("../model.safetensors", "/etc/passwd", "..", "a\\b", "a\0b"):
        text = {"weight_map": {"a.weight": name}}
        path = folder(tmp_path, GPTQ, **{"model.safetensors.index_json": text})
        with pytest.raises(ValueError, match="names no files of its folder"):
            QuantizationCard.from_checkpoint(path)


def test_a_folder_of_several_checkpoints_or_of_none(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint that a card can read"):
        QuantizationCard.from_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        QuantizationCard.from_checkpoint(tmp_path / "nothing.gguf")
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="is no file of a checkpoint"):
        QuantizationCard.from_checkpoint(tmp_path / "model.bin")
    for name in ("a-Q4_0.gguf", "a-Q8_0.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"more than one checkpoint \(a-Q4_0.gguf, a-Q8_0.gguf\): name one"):
        QuantizationCard.from_checkpoint(tmp_path)


def test_an_order_of_columns_that_files_contradict_is_not_reported(tmp_path):
    inner = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "damp_percent": 0.01}
    config = {"model_type": "llama", "quantization_config": {**inner, "desc_act": True}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(
        json.dumps({**inner, "desc_act": False, "damp_percent": 0.1})
    )
    card = QuantizationCard.from_checkpoint(tmp_path)
    assert card["column_order"] == "not reported" and card["weight_bits"] == 4
    assert faults(card) == [
        "contradiction: 0.01 (config.json: damp_percent) against 0.1 (quantize_config.json: damp_percent)",
        "contradiction: true (config.json: desc_act) against false (quantize_config.json: desc_act)",
    ]


def test_what_is_no_card_is_never_replaced_by_one(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"quantization_config": {"quant_method": "awq", "bits": 4}}))
    before = config.read_text()
    command = ["card", "from-checkpoint", str(tmp_path), "--out"]
    assert main([*command, str(config), "--force"]) == 2
    assert "config.json is no card, and stays" in capsys.readouterr().err and config.read_text() == before
    assert main([*command, str(tmp_path / "x.yaml")]) == 0
    assert main([*command, str(tmp_path / "x.yaml"), "--force"]) == 0


def test_a_config_without_quantization_says_so_with_the_type_and_the_network(tmp_path):
    for key in ("torch_dtype", "dtype"):
        config = {key: "bfloat16", "_name_or_path": "some/model"}
        card = QuantizationCard.from_checkpoint(folder(tmp_path / key, config=config))
        said = (
            "config.json says nothing of quantization: its weights are bfloat16, or what another file says."
        )
        assert card.data["remarks"] == f"{said} Architecture LlamaForCausalLM."
        assert (card["network"], card["weight_bits"]) == ("some/model", NOT_REPORTED)


def test_a_folder_that_is_not_there_is_said_so(tmp_path, capsys):
    assert main(["card", "from-checkpoint", str(tmp_path / "nope")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err


def test_settings_beside_a_gguf_file_are_said_not_to_be_read(tmp_path):
    gguf = pytest.importorskip("gguf")
    written(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": (gguf.GGMLQuantizationType.Q4_0, 32, 32)})
    (tmp_path / "config.json").write_text("{}")
    assert (
        "Not read, since the GGUF file tells itself: config.json."
        in QuantizationCard.from_checkpoint(tmp_path).data["remarks"]
    )
