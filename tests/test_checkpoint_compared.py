"""Two checkpoints of one model: what differs, what is unknown, and what speaks about it; the command."""

import json
from pathlib import Path

import pytest
from checkpoints import folder, written

from qlib import QuantizationCard
from qlib.cards import NOT_REPORTED, catalogue
from qlib.cards.compare import LESSONS
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
    other = tmp_path / "other.json"
    assert main(["card", "from-checkpoint", str(pair[0]), "--out", str(other), "--json"]) == 2
    assert "leave one out" in capsys.readouterr().err and not other.exists()


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


@pytest.fixture
def files(tmp_path):
    """Two GGUF files of one model, of 4 and of 8 bits, renamed."""
    kinds = pytest.importorskip("gguf").GGMLQuantizationType
    for name, kind in (("q4", kinds.Q4_0), ("q8", kinds.Q8_0)):
        ends = {"token_embd.weight": (kinds.Q8_0, 8, 512), "output.weight": (kinds.Q8_0, 8, 512)}
        written(tmp_path / f"{name}.gguf", {**ends, "blk.0.ffn_up.weight": (kind, 4, 512)}, name=name)
    return tmp_path / "q4.gguf", tmp_path / "q8.gguf"


def test_two_files_are_compared_shown_and_checked_as_they_are(files, pair, capsys):
    q4, q8 = map(str, files)
    assert main(["card", "diff", q4, q8]) == 1
    said = capsys.readouterr().out
    for line in (
        "Weight bits: 4 | 8  (Mixed precision, lesson 00)",
        "Average weight bits: 7.2 | 8",
        "Effective weight bits: 7.7 | 8.5",
        "Weights (bytes, without scales): 9,216 | 10,240",
    ):
        assert f"\n  {line}\n" in said, line
    neither = said.split("Not reported on either side, so possible confounds:\n")[1]
    assert "Clipping of weights" in neither and len(neither.splitlines()) == 1
    assert main(["card", "show", q4]) == 0
    assert "  First and last layer of the blocks like the rest" in capsys.readouterr().out
    assert main(["card", "diff", str(pair[0]), str(pair[1]), "--json"]) == 1
    lessons = {choice["field"]: choice["lesson"] for choice in json.loads(capsys.readouterr().out)}
    assert (lessons["weight_symmetric"], lessons["group_size"], lessons["technique"]) == ("01", "02", None)
    with pytest.raises(ValueError, match="q4.gguf is a GGUF file, not a card: qlib card from-checkpoint"):
        QuantizationCard.load(files[0])


def test_every_lesson_that_is_named_is_there():
    names = [path.name for path in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb")]
    for number in {*LESSONS.values(), *(f"{n:02}" for n in range(1, 9))}:
        assert any(name.startswith(f"{number}-") for name in names), number


def test_a_contradiction_is_told_where_cards_are_compared_and_checked(pair, tmp_path, capsys):
    apart = str(folder(tmp_path / "apart", GPTQ, quantize_config_json={**GPTQ, "bits": 8}))
    fault = "contradiction: Weight bits: 4 (config.json: bits) against 8 (quantize_config.json: bits)"
    assert main(["card", "diff", apart, str(pair[1])]) == 1
    assert f"\n  apart: {fault}\n" in capsys.readouterr().out
    assert main(["card", "check", apart, "--target", "onnxruntime-cpu"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert fault in said
    assert any(line.startswith("unknown: ") and f"{fault}; if 2" in line for line in said)


def test_a_check_says_what_it_judges_of_a_language_model(files, pair, tmp_path, capsys):
    for path, kind in ((files[0], "GGUF"), (pair[0], "GPTQ")):
        assert main(["card", "check", str(path), "--target", "onnxruntime-cpu"]) == 1
        said = capsys.readouterr().out
        assert f"cannot: Container = {kind}." in said
        assert "not judged: attention" in said and "depthwise" not in said
    head = [line for line in said.splitlines() if "ead" in line.split(".")[0]]
    assert [line.split(".")[0] for line in head] == ["falls back: Bits of the head = float"]
    assert main(["card", "check", str(files[0]), "--target", "litert-int8"]) in (0, 1)
    assert "not judged: whether it opens the file (GGUF)" in capsys.readouterr().out
    card = QuantizationCard.of("a network for images", weight_bits=8)
    card.save(tmp_path / "images.yaml")
    main(["card", "check", str(tmp_path / "images.yaml"), "--target", "onnxruntime-cpu"])
    said = capsys.readouterr().out
    assert "depthwise" in said and "not judged" not in said


def test_onnx_runtime_opens_no_gguf_file(files):
    runtime = pytest.importorskip("onnxruntime")
    with pytest.raises(Exception, match="Protobuf parsing failed|INVALID_PROTOBUF"):
        runtime.InferenceSession(files[0], providers=["CPUExecutionProvider"])
