"""Nearest rounding: every weight gets the code that is closest to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .method import Method, Work


@dataclass(frozen=True)
class Nearest(Method):
    """Weights are rounded to the nearest value of their grid, halves to the even code."""

    words: ClassVar[Mapping[str, Any]] = {"rounding": "nearest"}

    def apply(self, work: Work) -> None:
        from ..affine import fake_quantize

        for name, rows, grid in work.weights():
            work.put_weight(name, fake_quantize(rows, grid))
