"""Attention written out in linear layers, matrix products and a softmax, so that each of them can be quantized.

torch and torchvision compute attention in functions that take the weights as arguments and show nothing of what happens inside.
`qlib.graph` puts these in their place while it traces. They compute the same, in another order of roundings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """As torch's function of that name, without dropout (networks are in evaluation mode). ``(..., heads, tokens, features)``."""
    if enable_gqa:
        raise NotImplementedError("attention whose queries share keys (enable_gqa) is not supported")
    scores = query @ key.transpose(-2, -1) * (query.size(-1) ** -0.5 if scale is None else scale)
    if attn_mask is not None or is_causal:
        scores = masked(scores, attn_mask, is_causal)
    return F.softmax(scores, dim=-1) @ value


def masked(scores: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """``scores`` plus a mask, or minus infinity where a mask of bools is false."""
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask


def where_to_look(mask: Tensor) -> Tensor:
    """From a mask as layers take it, where true shuts out, to one of the function, where true lets in."""
    return ~mask if mask.dtype == torch.bool else mask


def multi_head_attention(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor,
                         key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
                         average_attn_weights: bool = True, is_causal: bool = False) -> tuple[Tensor, None]:  # fmt: skip
    """What ``layer(query, key, value, ...)`` gives, for batches, without the weights of attention."""
    if key_padding_mask is not None or layer.bias_k is not None or layer.add_zero_attn:
        raise NotImplementedError("nn.MultiheadAttention with a padding mask or added keys is not supported")
    size, bias = layer.embed_dim, layer.in_proj_bias
    if not layer._qkv_same_embed_dim:
        weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    if layer._qkv_same_embed_dim and query is key and key is value:
        inside = F.linear(query, layer.in_proj_weight, bias)
        parts = [inside[..., i * size : (i + 1) * size] for i in range(3)]
    else:
        parts = []
        for i, x in enumerate((query, key, value)):
            part = slice(i * size, (i + 1) * size)
            weight = layer.in_proj_weight[part] if layer._qkv_same_embed_dim else weights[i]
            parts.append(F.linear(x, weight, None if bias is None else bias[part]))
    if not layer.batch_first:
        parts = [x.transpose(0, 1) for x in parts]
    heads = [x.unflatten(-1, (layer.num_heads, layer.head_dim)).transpose(1, 2) for x in parts]
    mask = None if attn_mask is None else where_to_look(attn_mask)
    inside = scaled_dot_product_attention(*heads, mask, is_causal=is_causal and mask is None).transpose(1, 2).flatten(2)
    return layer.out_proj(inside if layer.batch_first else inside.transpose(0, 1)), None


def shifted_window_attention(layer: nn.Module, x: Tensor) -> Tensor:
    """What torchvision's ``ShiftedWindowAttention`` (Swin), or its second version, gives for ``x`` ``(n, h, w, features)``."""
    height, width, window, shift = x.size(1), x.size(2), tuple(layer.window_size), tuple(layer.shift_size)
    inside, heads = windows(x, window, shift), layer.num_heads
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


def _padded(sides: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> tuple[list[int], list[int]]:
    """The sides of an image padded to whole windows, and the shifts, which are none where one window covers a side."""
    sides = [side + -side % size for side, size in zip(sides, window, strict=True)]
    return sides, [0 if size >= side else step for side, size, step in zip(sides, window, shift, strict=True)]


def windows(x: Tensor, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """``(n, h, w, c)``, padded with zeros and rolled, as ``(n * windows, positions, c)``."""
    (height, width), shift = _padded(x.shape[1:3], window, shift)
    x = F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1])).roll([-step for step in shift], (1, 2))
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0])).transpose(2, 3)
    return x.reshape(-1, window[0] * window[1], x.shape[-1])


def image_of_windows(x: Tensor, height: int, width: int, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """The reverse of `windows`: ``(n, height, width, c)``."""
    sides, shift = _padded((height, width), window, shift)
    grid = [side // size for side, size in zip(sides, window, strict=True)]
    x = x.reshape(-1, *grid, *window, x.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x.roll(shift, (1, 2))[:, :height, :width]


def separate_windows(scores: Tensor, height: int, width: int, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """``scores`` ``(n * windows, heads, positions, positions)``, less 100 where only the roll made two positions neighbours."""
    sides, shift = _padded((height, width), window, shift)
    if not any(shift):
        return scores
    rolled = [torch.arange(side, device=scores.device) >= side - step for side, step in zip(sides, shift, strict=True)]
    part = windows((2 * rolled[0][:, None] + rolled[1]).reshape(1, *sides, 1), window, (0, 0)).squeeze(-1)
    mask = -100.0 * (part.unsqueeze(1) != part.unsqueeze(2))
    return (scores.unflatten(0, (-1, len(mask))) + mask.to(scores.dtype).unsqueeze(1)).flatten(0, 1)


for _name in ("masked", "where_to_look", "windows", "image_of_windows", "separate_windows"):
    fx.wrap(_name)

WRITTEN_OUT = {  # by the full name of a module's class, so that torchvision need not be imported
    "torch.nn.modules.activation.MultiheadAttention": multi_head_attention,
    "torchvision.models.swin_transformer.ShiftedWindowAttention": shifted_window_attention,
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": shifted_window_attention,
}
