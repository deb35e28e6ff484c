"""GGUF: what the types of its tensors say, and whether its label says the same.

A card's words for the types, and what the labels promise, stand in ``gguf_types.json``: of a block its
weights, its bytes, the bits of a code (``code_bits``, where codes of several weights are packed together not
a whole number) and the weights that share a scale (``group``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .found import MOST_ENTRIES, Found, agreed, contradiction, listed, number, words
from .gguf_header import Header, Tensor, tables

TABLES = re.compile(r"(token_embd|position_embd|token_types|per_layer_token_embd)(\.|$)")
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
NORM = "output_norm.weight"  # before the head, where there is one
SLACK = 0.05  # bits by which an average may lie beside a label unsaid


def of_headers(headers: Sequence[Header], file: str) -> Found:
    """What a GGUF file says, or the parts of one that was split.

    Parameters
    ----------
    headers : sequence of Header
        Of its parts.
    file : str
        The first part's name, which may hold a label.

    Raises
    ------
    ValueError
        Where there is no tensor, as in a file of words alone.
    """
    first = headers[0]
    found = Found("GGUF header")
    tensors = [tensor for header in headers for tensor in header.tensors]
    if not tensors:
        raise ValueError(f"{file} holds no weights")
    parts = number(first.metadata.get("split.count"), 2, 10_000)
    if parts and parts != len(headers):
        found.remark(f"One of {parts} parts of a checkpoint: of the others nothing is known.")
    else:
        _of_tensors(tensors, found)
        _of_labels(tensors, first.metadata, file, found)
    _of_metadata(first.metadata, found)
    found.say("its first bytes", container="GGUF")
    if not all(header.complete for header in headers):
        found.broken("it ends before the weights that its header names")
    return found


def _of_tensors(tensors: list[Tensor], found: Found) -> None:
    matrices = _matrices(tensors)
    inner = [t for t in matrices if not TABLES.match(t.name) and t.name != HEAD]
    quantized = [t for t in inner if isinstance(t.kind["bits"], int)]
    by_name = {tensor.name: tensor for tensor in tensors}
    types = Counter(tensor.kind["name"] for tensor in tensors)
    found.remark(f"Types of its tensors: {', '.join(f'{n} {kind}' for kind, n in types.most_common())}.")
    source = "the types of its tensors"
    if all(tensor.kind["bits"] is not None for tensor in inner):
        bits = _bits(inner)
        found.say(
            source, weight_bits=bits, first_last_bits="like the rest" if isinstance(bits, int) else None
        )
    if quantized:
        blocks = [tensor.kind["group"] for tensor in quantized]
        found.say(
            f"{source}: a scale for each block of weights",
            weight_granularity="per_group",
            group_size=agreed(blocks),
            quantizer=agreed(tensor.kind["quantizer"] for tensor in quantized),
            weight_symmetric=agreed(tensor.kind["symmetric"] for tensor in quantized),
            symmetric_grid=agreed(tensor.kind["grid"] for tensor in quantized),
        )
        if len(set(blocks)) > 1:
            found.remark(f"Weights that share a scale: {' or '.join(map(str, sorted(set(blocks))))}.")
    looked_up = [tensor for tensor in matrices if TABLES.match(tensor.name)]
    found.say(
        listed(tensor.name for tensor in looked_up), embedding_bits=agreed(t.kind["bits"] for t in looked_up)
    )
    if HEAD in by_name:
        found.say(HEAD, head_bits=by_name[HEAD].kind["bits"])
    elif EMBEDDING in by_name and NORM in by_name:
        tied = f"there is no {HEAD}: llama.cpp takes {EMBEDDING} for it"
        found.say(tied, head_bits=by_name[EMBEDDING].kind["bits"])
    biases = [tensor.kind["bits"] for tensor in tensors if tensor.name.endswith(".bias")]
    found.say("the types of its biases", bias=agreed(biases))
    _averages(tensors, matrices, found)


def _matrices(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if len(tensor.sizes) > 1 and tensor.elements]


def _bits(layers: list[Tensor]) -> Any:
    bits = {words(tensor.name) or "?": tensor.kind["bits"] for tensor in layers}
    alike = agreed(bits.values())
    return alike if alike is not None or not bits else bits if len(bits) <= MOST_ENTRIES else "mixed"


def _averages(tensors: list[Tensor], matrices: list[Tensor], found: Found) -> None:
    if not matrices:
        return
    codes = sum(tensor.elements * tensor.kind["code_bits"] for tensor in matrices)
    weights, every = _total(matrices, "elements"), _total(tensors, "elements")
    over = f"over the {weights:,} weights of its {len(matrices):,} matrices, embedding and head among them"
    found.say(
        f"{over}; without scales", weight_bytes=codes / 8, average_weight_bits=round(codes / weights, 6)
    )
    with_scales = 8 * _total(matrices, "bytes") / weights
    all_of_them = 8 * _total(tensors, "bytes") / every
    found.say(f"{over}; over all its tensors {all_of_them:.6f}", effective_weight_bits=round(with_scales, 6))


def _total(tensors: Iterable[Tensor], what: str) -> int:
    return sum(getattr(tensor, what) for tensor in tensors)


def _of_labels(tensors: list[Tensor], metadata: dict[str, Any], file: str, found: Found) -> None:
    """Hold what the file calls itself against its tensors."""
    promised = {entry["label"]: entry["type"] for entry in tables()["file_types"].values()}
    stated = tables()["file_types"].get(str(metadata.get("general.file_type")), {}).get("label")
    labels = {"general.file_type": stated}
    for where, text in (("the file's name", file), ("general.name", metadata.get("general.name"))):
        labels[where] = _label(text, promised) if isinstance(text, str) else None
    labels = {where: label for where, label in labels.items() if label}
    if len(set(labels.values())) > 1:
        found.faults.append(
            contradiction((label, f"{found.about}: {where}") for where, label in labels.items())
        )
    matrices = _matrices(tensors)
    weights = _total(matrices, "elements")
    kinds = {entry["name"]: entry for entry in tables()["tensor_types"].values()}
    for label in dict.fromkeys(labels.values()) if weights else ():
        kind = kinds[promised[label]]
        share = _total((t for t in matrices if t.kind["name"] == kind["name"]), "elements") / weights
        average = sum(tensor.elements * tensor.kind["code_bits"] for tensor in matrices) / weights
        beside = average - kind["code_bits"]
        verdict = (
            "" if abs(beside) <= SLACK else f", {'more' if beside > 0 else 'fewer'} than the label names"
        )
        found.remark(
            f"The label {label} names {kind['name']}, {kind['code_bits']:g} bits a weight; "
            f"{100 * share:.1f} % of the weights in matrices are of that type, and all have {average:.2f} "
            f"bits{verdict}, {8 * _total(matrices, 'bytes') / weights:.2f} with scales."
        )


def _label(text: str, known: Iterable[str]) -> str | None:
    """The last label in a name, where labels stand."""
    any_of = "|".join(sorted(known, key=len, reverse=True))
    seen = re.findall(f"(?<![A-Z0-9])(?:{any_of})(?![A-Z0-9_])", text.upper())
    return seen[-1] if seen else None


def _of_metadata(metadata: dict[str, Any], found: Found) -> None:
    found.say("general.name", network=words(metadata.get("general.name")))
    found.say("general.quantized_by", authors=words(metadata.get("general.quantized_by")))
    base = [value for key, value in metadata.items() if re.fullmatch(r"general\.base_model\.\d+\.name", key)]
    if listed(base):
        found.remark(f"Base model: {listed(base)}.")
    if metadata.get("tokenizer.ggml.add_bos_token") is True:
        found.remark("Its tokenizer puts a mark at the beginning of a text.")
    if any(key.startswith("quantize.imatrix.") for key in metadata):
        found.say("quantize.imatrix", technique="post-training, weighted by an importance matrix")
        found.say("quantize.imatrix.dataset", data=words(metadata.get("quantize.imatrix.dataset")))
        chunks = number(metadata.get("quantize.imatrix.chunks_count"), 1, 10**9)
        found.say("quantize.imatrix.chunks_count", images=chunks)
