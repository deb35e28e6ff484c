"""One colour and one marker for a thing in every figure, drawn by Python or in the page.

Things are named as figures and tables name them. What has no entry takes colours and markers in order.
"""

from __future__ import annotations

from typing import NamedTuple

# Okabe and Ito's palette, safe for colour-blind readers.
COLOURS = {
    "blue": "#0072B2",
    "red": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "grey": "#6B6B6B",
    "brown": "#8A5A00",
}
MARKERS = ("o", "s", "^", "D", "v", "P")  # matplotlib's; the page draws the same shapes


class Look(NamedTuple):
    """How a thing is drawn."""

    colour: str
    marker: str


def _same(colour: str, marker: str, *names: str) -> dict[str, Look]:
    return dict.fromkeys(names, Look(COLOURS[colour], marker))


LOOKS = {
    # codes
    **_same("blue", "o", "asymmetric"),
    **_same("orange", "s", "symmetric, full", "symmetric"),
    **_same("green", "^", "symmetric, restricted"),
    **_same("purple", "D", "symmetric, authors"),
    **_same("red", "^", "symmetric, 0.23 bits more"),
    # how many values share a range
    **_same("green", "o", "per channel", "each channel"),
    **_same("purple", "s", "per tensor", "the whole tensor"),
    **_same("blue", "^", "per token"),
    **_same("orange", "D", "per group"),
    # what is quantized around an addition
    **_same("green", "o", "inputs only"),
    **_same("blue", "s", "skip quantized"),
    **_same("red", "^", "everything quantized"),
    **_same("purple", "D", "residual quantized"),
    # how a range is found
    **_same("red", "o", "min/max"),
    **_same("purple", "s", "percentile", "percentile 99.99", "99.99th percentile"),
    **_same("green", "^", "squared error"),
    # which bits a layer has
    **_same("purple", "s", "uniform"),
    **_same("green", "o", "learned", "a bitwidth per layer"),
    **_same("sky", "^", "learned by channel", "a bitwidth per channel"),
    **_same("orange", "D", "as many as fit", "as many as fit the limit"),
    **_same("green", "o", "any integer", "1, 2, 3, 4, 5, 6, 7, 8"),
    **_same("purple", "s", "2, 4 and 8", "2, 4, 8"),
    # first and last layer
    **_same("blue", "o", "learned with the rest", "like the rest"),
    **_same("red", "s", "kept at 8 bits", "8 bits"),
    **_same("sky", "^", "learned with the rest, larger limit"),
    # labels
    **_same("blue", "o", "true"),
    **_same("orange", "s", "hard", "hard, by the float network"),
    **_same("green", "^", "soft", "soft, by the float network"),
    # float networks of the built-in bench
    **_same("orange", "s", "base"),
    **_same("blue", "o", "better"),
    # what a quantizer stands behind
    **_same("blue", "o", "weights"),
    **_same("orange", "s", "activations"),
    # methods, and what accuracy varies by
    **_same("grey", "o", "nearest", "interaction"),
    **_same("orange", "s", "bias correction"),
    **_same("brown", "D", "equalized + bias"),
    **_same("blue", "^", "GPTQ", "method"),
    **_same("green", "v", "AdaRound"),
    **_same("purple", "P", "by blocks (BRECQ)"),
    **_same("red", "s", "choices"),
    # verdicts
    **_same("green", "o", "holds"),
    **_same("red", "s", "does not hold"),
    **_same("grey", "D", "undecided here"),
    **_same("sky", "^", "undecided (images only)"),
}


def colours(*names: str) -> dict[str, str]:
    """The colours of things that have one, by name, in order."""
    return {name: LOOKS[name].colour for name in names}
