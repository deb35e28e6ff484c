"""Steps of networks that read texts, each one node of a traced network that computes in float: positions
turned into queries and keys, the mask that hides later tokens, and the mean over the tokens of a sentence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .nodes import stays_whole


@stays_whole
def rotary(x: Tensor, base: float, start: int = 0) -> Tensor:
    """``x`` ``(..., tokens, features)`` with its positions turned in: features ``i`` and ``i + half`` are a
    pair, turned by the position times ``base ** (-i / half)``. ``start``: the position of the first token.
    """
    half = x.shape[-1] // 2
    rates = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(start, start + x.shape[-2], device=x.device)[:, None] * rates
    cos, sin = (f.to(x.dtype) for f in (angles.cos(), angles.sin()))
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


@stays_whole
def causal(scores: Tensor) -> Tensor:
    """``scores`` ``(..., queries, keys)``, minus infinity where a query, which are the last of the tokens,
    would see a later key.
    """
    queries, keys = scores.shape[-2:]
    seen = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril(keys - queries)
    return scores.masked_fill(~seen, float("-inf"))


@stays_whole
def mean_of_tokens(x: Tensor, there: Tensor) -> Tensor:
    """From ``x`` ``(n, tokens, features)`` the mean over the tokens that are ``there`` ``(n, tokens)``."""
    weights = there.to(x.dtype).unsqueeze(-1)
    return (x * weights).sum(1) / weights.sum(1)
