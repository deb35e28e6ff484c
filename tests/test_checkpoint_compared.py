"""Two checkpoints of one model: what differs, what is unknown, and what speaks about it; the command."""

import json

import pytest
from checkpoints import folder

from qlib import QuantizationCard
from qlib.cards import NOT_REPORTED, catalogue
from qlib.cards.profile import profiles
from qlib.cli import main

GPTQ = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 128,
    "sym": True,
    "desc_act": False,
    "lm_head": False,
}
README = "---\nbase_model: some/Model-7B\n---\n"


@pytest.fixture
def pair(tmp_path):
    """Two folders of one model, by GPTQ and by AWQ."""
    awq = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}
    a = folder(tmp_path / "a", GPTQ, README_md=README)
    return a, folder(tmp_path / "b", awq, README_md=README)


def test_what_differs_and_what_one_side_leaves_open(pair):
    a, b = map(QuantizationCard.from_checkpoint, pair)
    found = a.differences(b)
    differing = {choice.field: (choice.a, choice.b) for choice in found if not choice.confound}
    assert differing == {
        "weight_symmetric": (True, False),
        "group_size": (128, 64),
        "technique": ("post-training, GPTQ", "post-training, AWQ"),
    }
    speaks = {choice.field: choice.observation for choice in found}
    assert (speaks["weight_symmetric"], speaks["group_size"]) == (1, 2)
    open_ones = {choice.field for choice in found if choice.confound}
    assert {"column_order", "data", "weight_range"} <= open_ones
    assert not {"network", "weight_bits", "weight_granularity", "activation_bits"} & set(speaks)


def test_one_label_of_two_files_that_differ_tensor_by_tensor(tmp_path):
    def card(name, **other):
        bits = {f"blk.{i}.ffn_up.weight": 4 for i in range(6)} | other
        return QuantizationCard.of(name, weight_bits=bits)

    changed = {f"blk.{i}.ffn_up.weight": 6 for i in range(4)} | {"blk.9.ffn_up.weight": 8}
    (found,) = [c for c in card("a").differences(card("b", **changed)) if c.field == "weight_bits"]
    first, second, *_ = str(found).splitlines()
    assert first.startswith("Weight bits: by layer, 4 to 4 (6 entries) | by layer, 4 to 8 (7 entries)")
    assert second.strip().startswith("in 5 of 7 entries: blk.0.ffn_up.weight 4 | 6, blk.1")
    (added,) = [c for c in card("a").differences(card("b", z=8)) if c.field == "weight_bits"]
    assert "in 1 of 7 entries: z none | 8" in str(added)


def test_a_checkpoint_is_held_against_a_published_method(pair):
    card = QuantizationCard.from_checkpoint(pair[0])
    fields = {choice.field for choice in card.differences(catalogue()["gptq"]) if not choice.confound}
    assert "column_order" in fields and "weight_symmetric" in fields and "weight_bits" not in fields


def test_the_command(pair, capsys, tmp_path):
    out = tmp_path / "card.yaml"
    assert main(["card", "from-checkpoint", str(pair[0])]) == 0
    assert "Weights in a group               128" in capsys.readouterr().out
    assert main(["card", "from-checkpoint", str(pair[0]), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["name"] == "a" and data["mixed_precision"]["head_bits"] == "float"
    assert main(["card", "from-checkpoint", str(pair[0]), "--out", str(out)]) == 0
    assert QuantizationCard.load(out).data == data
    assert main(["card", "from-checkpoint", str(pair[1]), "--out", str(out)]) == 2
    assert "--force to replace it" in capsys.readouterr().err and QuantizationCard.load(out).data == data
    assert main(["card", "from-checkpoint", str(pair[1]), "--out", str(out), "--force"]) == 0
    assert QuantizationCard.load(out).name == "b" and capsys.readouterr().out.endswith(f"wrote {out}\n")
    assert main(["card", "from-checkpoint", str(tmp_path / "none.gguf"), "--json"]) == 2
    assert set(json.loads(capsys.readouterr().out)) == {"error"}


def test_the_cards_are_shown_checked_and_compared_like_others(pair, capsys, tmp_path):
    files = [str(tmp_path / f"{path.name}.yaml") for path in pair]
    for path, file in zip(pair, files, strict=True):
        assert main(["card", "from-checkpoint", str(path), "--out", file]) == 0
    assert main(["card", "diff", *files]) == 1
    said = capsys.readouterr().out
    assert "Weights in a group: 128 | 64" in said and "observation 2" in said and "possible confounds" in said
    for way in ("text", "markdown", "html", "latex"):
        assert main(["card", "show", files[0], "--format", way]) == 0
    for name in profiles():
        assert main(["card", "check", files[0], "--target", name]) in (0, 1)


def test_what_only_a_person_knows_is_added(pair):
    card = QuantizationCard.from_checkpoint(pair[0], name="mine", dataset="WikiText-2", metric="perplexity")
    assert (card.name, card["dataset"], card["metric"], card["weight_bits"]) == (
        "mine",
        "WikiText-2",
        "perplexity",
        4,
    )
    assert card["kv_bits"] == NOT_REPORTED and card.acts("kv_bits")
