"""How the weights of a safetensors checkpoint are stored: bits, blocks and averages, from types and sizes
alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .found import FLOATS, MOST_ENTRIES, Found, agreed, listed, words
from .safetensors import BITS, Tensor

EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)$")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out)$|^output$")
PARAMETERS = ("scales", "qzeros", "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale")
PARAMETERS += ("weight_zero_point", "SCB", "absmax", "nested_absmax")
# Weights of all experts in one tensor, which is named like a module
FUSED = re.compile(r"(.*\bexperts\.(?!weight$|bias$)\w+?)(?:_(blocks|scales|bias|scale|scale_inv))?")
BESIDE = re.compile(r"(^|_)(scale|scales|zero_point|g_idx|shape|absmax|quant_map|format)$|quant_state")


@dataclass(frozen=True)
class Weights:
    """A matrix as it is stored.

    Parameters
    ----------
    elements : int
    bits : int or "float"
        Of a weight.
    stored : int
        Bits that its codes take, or its numbers where it is in float.
    parameters : int
        Bits that scales and zero-points take.
    granularity : str, optional
        What shares a scale; ``None`` where that is no word of a card.
    group : int, optional
        Weights that share one, where groups do.
    """

    elements: int
    bits: int | str
    stored: int
    parameters: int = 0
    granularity: str | None = None
    group: int | None = None


def of_tensors(tensors: Mapping[str, Tensor], bits: int | None, tied: bool | None) -> Found:
    """What types and sizes show.

    Parameters
    ----------
    tensors : mapping
        All of the checkpoint, by name.
    bits : int, optional
        Of a weight, as settings have it, where packed codes do not show it.
    tied : bool, optional
        Whether the head is the embedding's table, as settings have it.
    """
    found = Found("safetensors headers")
    by_module = _by_module(tensors)
    stored = {module: _stored(parts, bits) for module, parts in by_module.items()}
    unread = [module for module, weights in stored.items() if weights is None and _holds(by_module[module])]
    weights = {module: known for module, known in stored.items() if known is not None}
    inner = {name: w for name, w in weights.items() if not (EMBEDDING.search(name) or HEAD.search(name))}
    table = [w.bits for name, w in weights.items() if EMBEDDING.search(name)]
    head = [w.bits for name, w in weights.items() if HEAD.search(name)]
    if unread:
        found.remark(
            f"How some matrices are stored is not known ({len(unread):,}, such as {words(unread[0])})."
        )
    source = "types and sizes of its tensors"
    found.say(source, embedding_bits=agreed(table))
    found.say(source, head_bits=agreed(head or (table if tied else [])))
    found.say(source, bias=agreed(_biases(tensors)))
    shifted = {"weight_zero_point" in parts for parts in by_module.values() if "weight_packed" in parts}
    if len(shifted) == 1:
        found.say("whether there is a weight_zero_point", weight_symmetric=not shifted.pop())
    if inner and not unread:
        _of_weights(inner, found, source)
    if weights and not unread:
        _averages(weights.values(), found)
    return found


def _by_module(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The parts of each module's weights by the name after its own."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        fused = FUSED.fullmatch(name)
        if fused:
            module, part = (
                fused[1],
                {"scale": "weight_scale", "scale_inv": "weight_scale_inv"}.get(
                    fused[2], fused[2] or "weight"
                ),
            )
        if module.endswith(".weight"):  # of bitsandbytes
            module = module.removesuffix(".weight")
        modules.setdefault(module, {})[part] = tensor
    return modules


def _holds(parts: Mapping[str, Tensor]) -> bool:
    """Whether a module that is not understood holds a matrix; indices, of 64 bits, are none."""
    return any(
        len(tensor.sizes) > 1 and tensor.kind not in ("I64", "BOOL") and not BESIDE.search(name)
        for name, tensor in parts.items()
    )


def _biases(tensors: Mapping[str, Tensor]) -> list[Any]:
    return [
        "float" if tensor.kind in FLOATS else None
        for name, tensor in tensors.items()
        if name.endswith(".bias") and len(tensor.sizes) == 1
    ]


def _stored(parts: Mapping[str, Tensor], bits: int | None) -> Weights | None:
    if "qweight" in parts and "scales" in parts:
        return _packed_by_gptq_or_awq(parts, bits)
    if "weight_packed" in parts:
        return _packed(parts, parts["weight_packed"], bits)
    if "blocks" in parts and "scales" in parts:
        return _in_blocks(parts)
    weight = parts.get("weight")
    if weight is None or len(weight.sizes) < 2:
        return None
    if "absmax" in parts:  # codes of 4 bits, in blocks along all weights
        elements = weight.bits // 4
        blocks = parts["absmax"].elements
        group = elements // blocks if blocks and elements % blocks == 0 else None
        return Weights(elements, 4, weight.bits, _parameters(parts), "per_group" if group else None, group)
    if weight.kind in ("U8", "F4"):
        return _packed(parts, weight, bits)
    if BITS[weight.kind] == 8 and weight.kind != "BOOL":
        rows = weight.sizes[0] if len(weight.sizes) == 2 else 0  # of several experts there are more scales
        return _scaled(parts, weight.elements, rows, weight.sizes[-1], 8)
    return Weights(weight.elements, "float", weight.bits) if weight.kind in FLOATS else None


def _in_blocks(parts: Mapping[str, Tensor]) -> Weights | None:
    """MXFP4: two codes in a byte, and a scale for those along the last axis."""
    codes, scales = parts["blocks"], parts["scales"]
    if codes.kind != "U8" or codes.sizes[:-1] != scales.sizes or not codes.elements:
        return None
    return Weights(2 * codes.elements, 4, codes.bits, _parameters(parts), "per_group", 2 * codes.sizes[-1])


def _packed_by_gptq_or_awq(parts: Mapping[str, Tensor], bits: int | None) -> Weights | None:
    codes, scales = parts["qweight"], parts["scales"]
    if len(codes.sizes) != 2 or len(scales.sizes) != 2 or not codes.elements or not scales.elements:
        return None
    (rows, columns), (groups, outputs) = codes.sizes, scales.sizes
    if columns != outputs:  # codes packed along the outputs
        inputs = rows if codes.kind == "I32" else 0
    elif "g_idx" in parts:
        inputs = parts["g_idx"].elements
    else:
        inputs = rows * BITS[codes.kind] // bits if bits else 0
    width, rest = divmod(codes.bits, inputs * outputs) if inputs else (0, 1)
    if rest or not 1 <= width <= 8 or inputs % groups:
        return None
    return _grouped(parts, inputs * outputs, inputs, groups, width)


def _packed(parts: Mapping[str, Tensor], codes: Tensor, bits: int | None) -> Weights | None:
    """Codes packed along the inputs, or, where a byte holds those of two outputs, along these. In 32 bits
    those of 3, 5, 6 or 7 bits lie densely or not, as the version of their writer has it: of these nothing is
    said.
    """
    scale = parts.get("weight_scale")
    if scale is None or len(codes.sizes) != 2 or not codes.elements:
        return None
    outputs, columns = codes.sizes
    if codes.kind == "U8" and scale.sizes[:1] == (2 * outputs,):
        return _scaled(parts, 2 * codes.elements, 2 * outputs, columns, 4)
    two_scales = "weight_scale_2" in parts or "weight_global_scale" in parts
    width = 4 if codes.kind == "F4" or codes.kind == "U8" and two_scales else bits
    if not width or codes.kind == "I32" and 32 % width:
        return None
    inputs = columns * BITS[codes.kind] // width
    return _scaled(parts, outputs * inputs, outputs, inputs, width)


def _scaled(
    parts: Mapping[str, Tensor], elements: int, outputs: int, inputs: int, bits: int
) -> Weights | None:
    """Codes with the scales that their sizes show."""
    scale = parts.get("weight_scale", parts.get("SCB", parts.get("weight_scale_inv")))
    if scale is None or not elements:
        return None
    if scale.elements == 1:
        return Weights(elements, bits, elements * bits, _parameters(parts), "per_tensor")
    if scale.sizes[0] != outputs or len(scale.sizes) > 2 or inputs % (scale.elements // outputs or 1):
        return Weights(elements, bits, elements * bits, _parameters(parts))  # in blocks of rows and columns
    return _grouped(parts, elements, inputs, scale.elements // outputs, bits)


def _grouped(parts: Mapping[str, Tensor], elements: int, inputs: int, groups: int, bits: int) -> Weights:
    if groups == 1:
        return Weights(elements, bits, elements * bits, _parameters(parts), "per_channel")
    return Weights(elements, bits, elements * bits, _parameters(parts), "per_group", inputs // groups)


def _parameters(parts: Mapping[str, Tensor]) -> int:
    return sum(parts[name].bits for name in PARAMETERS if name in parts)


def _of_weights(inner: Mapping[str, Weights], found: Found, source: str) -> None:
    quantized = {name: weights for name, weights in inner.items() if weights.bits != "float"}
    if not quantized:
        found.say(source, weight_bits="float")
        return
    bits: Any = {words(name) or "?": weights.bits for name, weights in quantized.items()}
    alike = agreed(bits.values())
    found.say(
        source,
        weight_bits=alike or (bits if len(bits) <= MOST_ENTRIES else "mixed"),
        weight_granularity=agreed(weights.granularity for weights in quantized.values()),
        group_size=agreed(weights.group for weights in quantized.values()),
    )
    found.differ(
        "Matrices",
        weight_granularity=(weights.granularity for weights in quantized.values()),
        group_size=(weights.group for weights in quantized.values()),
    )
    left = [name for name, weights in inner.items() if weights.bits == "float"]
    found.say(source, first_last_bits="like the rest" if alike and not left else None)
    if left:
        found.remark(f"In float are {len(left):,} more matrices, such as {listed(sorted(left)[:3])}.")


def _averages(every: Iterable[Weights], found: Found) -> None:
    every = list(every)
    elements = sum(weights.elements for weights in every)
    codes = sum(weights.stored for weights in every)
    parameters = sum(weights.parameters for weights in every)
    if not elements:
        return
    found.say(
        f"over the {elements:,} weights of its {len(every):,} matrices, embedding and head among them, those "
        "in float at the bits of their type",
        weight_bytes=codes / 8,
        average_weight_bits=round(codes / elements, 6),
        effective_weight_bits=round((codes + parameters) / elements, 6),
    )
