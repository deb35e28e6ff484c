"""Attention and transformers written out in linear layers, matrix products and a softmax, so that each can be
quantized.

torch and torchvision compute attention in functions that take the weights as arguments and show nothing of
what happens inside. `qlib.network.trace` puts these in their place. They compute the same, in another order
of roundings. Axes count from the end where they can, so that inputs may have a batch axis or none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nodes import stays_whole


@stays_whole
def masked(
    scores: Tensor, mask: Tensor | None = None, padding: Tensor | None = None, causal: bool = False
) -> Tensor:
    """``scores`` ``(..., heads, queries, keys)`` plus masks, or minus infinity where a mask of bools is
    false.

    ``mask``: broadcasts against the scores. ``padding``: ``(batch, keys)`` or ``(keys,)``. ``causal``: no
    query sees later keys.
    """
    if causal:
        queries, keys = scores.shape[-2:]
        seen = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, float("-inf"))
    if mask is not None and mask.dim() > scores.dim():  # one for every head, of inputs without a batch axis
        mask = mask.squeeze(0)
    if padding is not None:
        padding = padding[..., None, None, :]
    for given in (mask, padding):
        if given is not None:
            infinite = given.dtype == torch.bool
            scores = scores.masked_fill(~given, float("-inf")) if infinite else scores + given
    return scores


@stays_whole
def where_to_look(mask: Tensor, heads: int) -> Tensor:
    """From a mask as layers take it, where true shuts out and the first of three axes is ``batch * heads``,
    to one of the function, where true lets in.
    """
    mask = mask.unflatten(0, (-1, heads)) if mask.dim() == 3 else mask
    return ~mask if mask.dtype == torch.bool else mask


@stays_whole
def windows(x: Tensor, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """``(n, h, w, c)``, padded with zeros and rolled, as ``(n * windows, positions, c)``."""
    (height, width), shift = _padded(x.shape[1:3], window, shift)
    x = F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1])).roll(
        [-step for step in shift], (1, 2)
    )
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0])).transpose(2, 3)
    return x.reshape(-1, window[0] * window[1], x.shape[-1])


@stays_whole
def image_of_windows(
    x: Tensor, height: int, width: int, window: Sequence[int], shift: Sequence[int]
) -> Tensor:
    """The reverse of `windows`: ``(n, height, width, c)``."""
    sides, shift = _padded((height, width), window, shift)
    grid = [side // size for side, size in zip(sides, window, strict=True)]
    x = x.reshape(-1, *grid, *window, x.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x.roll(shift, (1, 2))[:, :height, :width]


@stays_whole
def separate_windows(
    scores: Tensor, height: int, width: int, window: Sequence[int], shift: Sequence[int]
) -> Tensor:
    """``scores`` ``(n * windows, heads, positions, positions)``, less 100 where only the roll made two
    positions neighbours.
    """
    sides, shift = _padded((height, width), window, shift)
    if not any(shift):
        return scores
    rolled = [
        torch.arange(side, device=scores.device) >= side - step
        for side, step in zip(sides, shift, strict=True)
    ]
    part = windows((2 * rolled[0][:, None] + rolled[1]).reshape(1, *sides, 1), window, (0, 0)).squeeze(-1)
    mask = -100.0 * (part.unsqueeze(1) != part.unsqueeze(2))
    return (scores.unflatten(0, (-1, len(mask))) + mask.to(scores.dtype).unsqueeze(1)).flatten(0, 1)


def _padded(sides: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> tuple[list[int], list[int]]:
    """The sides of an image padded to whole windows, and the shifts, which are none where one window covers a
    side.
    """
    sides = [side + -side % size for side, size in zip(sides, window, strict=True)]
    return sides, [0 if size >= side else step for side, size, step in zip(sides, window, shift, strict=True)]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As torch's function of that name, without dropout (networks are in evaluation mode). ``(..., heads,
    tokens, features)``.
    """
    scores = scaled_scores(query, key, scale, enable_gqa)
    if attn_mask is not None or is_causal:
        scores = masked(scores, attn_mask, None, is_causal)
    if enable_gqa:
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    return F.softmax(scores, dim=-1) @ value


def scaled_scores(
    query: Tensor, key: Tensor, scale: float | None = None, shared_keys: bool = False
) -> Tensor:
    """How well every query fits every key."""
    if shared_keys:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
    return query @ key.transpose(-2, -1) * (query.size(-1) ** -0.5 if scale is None else scale)


def multi_head_attention(
    layer: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What ``layer(query, key, value, ...)`` gives."""
    if layer.bias_k is not None or layer.add_zero_attn:
        raise NotImplementedError(
            "nn.MultiheadAttention with added keys (add_bias_kv, add_zero_attn) is not supported"
        )
    parts = _projected(layer, query, key, value)
    if not layer.batch_first:
        parts = [x.movedim(0, -2) for x in parts]
    heads = [x.unflatten(-1, (layer.num_heads, layer.head_dim)).transpose(-3, -2) for x in parts]
    scores = scaled_scores(heads[0], heads[1])
    masks = [
        None if mask is None else where_to_look(mask, layer.num_heads)
        for mask in (attn_mask, key_padding_mask)
    ]
    causal = is_causal and attn_mask is None
    if causal or any(mask is not None for mask in masks):
        scores = masked(scores, *masks, causal)
    weights = F.softmax(scores, dim=-1)
    inside = (weights @ heads[2]).transpose(-3, -2).flatten(-2)
    output = layer.out_proj(inside if layer.batch_first else inside.movedim(-2, 0))
    if not need_weights:
        return output, None
    return output, weights.mean(-3) if average_attn_weights else weights


def _projected(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    size = layer.embed_dim
    bias = layer.in_proj_bias
    slices = [slice(i * size, (i + 1) * size) for i in range(3)]
    if layer._qkv_same_embed_dim and query is key and key is value:
        inside = F.linear(query, layer.in_proj_weight, bias)
        return [inside[..., part] for part in slices]
    if layer._qkv_same_embed_dim:
        weights = [layer.in_proj_weight[part] for part in slices]
    else:
        weights = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
    biases = [None if bias is None else bias[part] for part in slices]
    return [F.linear(*given) for given in zip((query, key, value), weights, biases, strict=True)]


def encoder_layer(
    layer: nn.TransformerEncoderLayer,
    src: Tensor,
    src_mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """What ``layer(src, ...)`` gives, by the path that shows every step."""

    def attend(x: Tensor) -> Tensor:
        masks = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask, "is_causal": is_causal}
        return layer.dropout1(layer.self_attn(x, x, x, need_weights=False, **masks)[0])

    def feed(x: Tensor) -> Tensor:
        return layer.dropout2(layer.linear2(layer.dropout(layer.activation(layer.linear1(x)))))

    if layer.norm_first:
        src = src + attend(layer.norm1(src))
        return src + feed(layer.norm2(src))
    src = layer.norm1(src + attend(src))
    return layer.norm2(src + feed(src))


def encoder(
    layer: nn.TransformerEncoder,
    src: Tensor,
    mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool | None = None,
) -> Tensor:
    """What ``layer(src, ...)`` gives. Padded positions come out as computed, which torch's nested tensors
    leave at zero.
    """
    for part in layer.layers:
        src = part(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return src if layer.norm is None else layer.norm(src)


def decoder(layer: nn.TransformerDecoder, tgt: Tensor, memory: Tensor, **masks) -> Tensor:
    """What ``layer(tgt, memory, ...)`` gives."""
    for hint in ("tgt_is_causal", "memory_is_causal"):  # about masks that are given, too
        masks.pop(hint, None)
    for part in layer.layers:
        tgt = part(tgt, memory, **masks)
    return tgt if layer.norm is None else layer.norm(tgt)


def transformer(layer: nn.Transformer, src: Tensor, tgt: Tensor, **masks) -> Tensor:
    """What ``layer(src, tgt, ...)`` gives."""
    padding = masks.pop("src_key_padding_mask", None)
    memory = layer.encoder(src, mask=masks.pop("src_mask", None), src_key_padding_mask=padding)
    masks.pop("src_is_causal", None)
    return layer.decoder(tgt, memory, **masks)


def shifted_window_attention(layer: nn.Module, x: Tensor) -> Tensor:
    """What torchvision's ``ShiftedWindowAttention`` (Swin), or its second version, gives for ``x`` ``(n, h,
    w, features)``.
    """
    height = x.size(1)
    width = x.size(2)
    window = tuple(layer.window_size)
    shift = tuple(layer.shift_size)
    inside = windows(x, window, shift)
    heads = layer.num_heads
    scale = getattr(layer, "logit_scale", None)
    if scale is None or layer.qkv.bias is None:
        qkv = layer.qkv(inside)
    else:  # the second version has no bias for keys
        first, _, last = layer.qkv.bias.chunk(3)
        qkv = F.linear(inside, layer.qkv.weight, torch.cat([first, torch.zeros_like(first), last]))
    qkv = qkv.unflatten(-1, (3, heads, layer.qkv.in_features // heads)).permute(2, 0, 3, 1, 4)
    if scale is None:
        scores = qkv[0] @ qkv[1].transpose(-2, -1) * (layer.qkv.in_features // heads) ** -0.5
    else:
        scores = F.normalize(qkv[0], dim=-1) @ F.normalize(qkv[1], dim=-1).transpose(-2, -1)
        scores = scores * torch.clamp(scale, max=math.log(100)).exp()
    scores = separate_windows(scores + layer.get_relative_position_bias(), height, width, window, shift)
    inside = layer.proj((F.softmax(scores, dim=-1) @ qkv[2]).transpose(1, 2).flatten(2))
    return image_of_windows(inside, height, width, window, shift)


WRITTEN_OUT = {  # by the full name of a module's class, so that torchvision need not be imported
    "torch.nn.modules.activation.MultiheadAttention": multi_head_attention,
    "torch.nn.modules.transformer.TransformerEncoderLayer": encoder_layer,
    "torch.nn.modules.transformer.TransformerEncoder": encoder,
    "torch.nn.modules.transformer.TransformerDecoder": decoder,
    "torch.nn.modules.transformer.Transformer": transformer,
    "torchvision.models.swin_transformer.ShiftedWindowAttention": shifted_window_attention,
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": shifted_window_attention,
}
