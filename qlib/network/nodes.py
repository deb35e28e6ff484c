"""Functions that stay one node of a traced network, because they look at values, or at shapes that tracing
does not know.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx


def stays_whole(function: Callable) -> Callable:
    """Makes ``function`` one node wherever a network is traced, also when an unpickled one is traced
    again.
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        proxies = [a for a in (*args, *kwargs.values()) if isinstance(a, fx.Proxy)]
        if proxies:
            return proxies[0].tracer.create_proxy("call_function", call, args, kwargs)
        return function(*args, **kwargs)

    return call


@stays_whole
def overwritten(whole: Tensor, part: Tensor, path: Sequence[tuple]) -> Tensor:
    """A copy of ``whole`` in which the view at the end of ``path`` has the values of ``part``.

    ``path``: names of methods (or properties) of tensors, each with its arguments, called one on the result
    of the other.
    """
    whole = whole.clone()
    view = whole
    for name, args, kwargs in path:
        step = getattr(view, name)
        view = step(*args, **kwargs) if callable(step) else step
    view.copy_(part)
    return whole


@stays_whole
def changed_copy(x: Tensor, method: str, *args, **kwargs) -> Tensor:
    """A copy of ``x`` after a method that works in place and has no twin that does not."""
    x = x.clone()
    getattr(x, method)(*args, **kwargs)
    return x


@stays_whole
def single(x: Tensor) -> Tensor:
    """``x`` in float32 if it is of a half-precision type."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@stays_whole
def of_rank(x: Tensor, rank: int, why: str) -> Tensor:
    """``x``, if it has that many axes; else a ``ValueError`` that says ``why`` it must."""
    if x.dim() != rank:
        raise ValueError(f"{why}; got {tuple(x.shape)}")
    return x


@stays_whole
def count_examples(x: Tensor) -> int:
    """How many examples a batch holds."""
    return len(x)
