"""What an interval of a difference is made of: images on which two settings disagree, and seeds."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import results
from ..comparison import Difference, compare
from ..looks import LOOKS
from ..metrics import Accuracy
from .figure import Figure, table

IMAGES = (100, 300, 1000, 3000, 10_000)
NAMES = "inputs only", "everything quantized"
BITS = 4


def paired_answers() -> Figure:
    """From recorded answers of ``digits/skip-residual``, with sliders for images and seeds; it acts without a
    kernel.
    """
    rows = results.load_rows(results.table_path("digits", "skip-residual"))
    where = [{"activation_bits": BITS, "quantize_skip": on, "quantize_residual": on} for on in (False, True)]
    sides = [results.measured(rows, side) for side in where]
    a, b = (sorted(side, key=lambda m: m.label) for side in sides)
    points = {f"{n} {s}": _point(a[:s], b[:s], n) for n in IMAGES for s in range(1, len(a) + 1)}
    state = {
        "names": NAMES,
        "colours": [LOOKS[name].colour for name in NAMES],
        "bits": BITS,
        "images": IMAGES,
        "seeds": len(a),
        "points": points,
    }
    last = points[f"{IMAGES[-1]} {len(a)}"]
    return Figure("paired", state, table("The difference", {" minus ".join(NAMES): last["words"]}))


def _point(a: list[Accuracy], b: list[Accuracy], n: int) -> dict[str, Any]:
    first = [[Accuracy(m.correct[:n], m.label) for m in side] for side in (a, b)]
    difference = compare(*first)
    right, other = first[0][0].correct, first[1][0].correct
    return {
        "cells": [
            int(np.sum(mask)) for mask in (right & other, right & ~other, ~right & other, ~right & ~other)
        ],
        "alone": [[round(v, 3) for v in (side[0].top1, *side[0].interval)] for side in first],
        "difference": _rounded(difference),
        "seeds": [round(points, 3) for points in difference.seeds],
        "verdict": difference.verdict(),
        "words": str(difference),
    }


def _rounded(difference: Difference) -> list[float]:
    return [round(v, 3) for v in (difference.points, *difference.interval)]
