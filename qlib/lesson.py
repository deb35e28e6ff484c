"""What the lessons share: recorded rows, the sentences and tables that say them, exercises that check.

A lesson (a notebook in ``notebooks/``) keeps its one idea; what every lesson needs for it stands here once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, Markdown, display
from torch import Tensor, nn

from . import results
from .comparison import Difference, compare
from .equal_bits import Equal, at_equal_bits
from .metrics import Accuracy
from .quantizer import Quantizer

PLACES = {  # by the name of the convolution in a bottleneck block
    "conv1": "first of a block",
    "conv2": "middle of a block",
    "conv3": "last of a block",
    "identity_conv": "projection",
}


# Recorded rows


def recorded(bench: str, experiment: str) -> pd.DataFrame:
    """The recorded table of an experiment, as from `qlib.results.load_table`.

    Parameters
    ----------
    bench : str
        Such as ``"digits"``.
    experiment : str
        Such as ``"skip-residual"``.

    Returns
    -------
    DataFrame
        One row a run.

    Raises
    ------
    FileNotFoundError
        If it is not recorded; it says how to record it.
    """
    return results.load_table(results.table_path(bench, experiment))


def row(table: pd.DataFrame, **where: Any) -> Any:
    """The one row whose columns equal ``where``.

    Parameters
    ----------
    table : DataFrame
        Recorded rows, or a `qlib.results.summary`.
    **where
        A value by column.

    Returns
    -------
    namedtuple
        An attribute per column.

    Raises
    ------
    ValueError
        If no row fits, or more than one.
    """
    found = table[np.logical_and.reduce([table[name] == value for name, value in where.items()])]
    if len(found) != 1:
        number = len(found) or "no"
        raise ValueError(f"{number} rows have {where}, not one: ask for values of a single row")
    return next(found.itertuples(index=False))


def gain(table: pd.DataFrame, a: Mapping[str, Any], b: Mapping[str, Any], **where: Any) -> Difference:
    """Accuracy of the rows that have ``a`` minus that of the rows that have ``b``, paired image by image and
    seed by seed.

    Parameters
    ----------
    table : DataFrame
        Recorded rows.
    a, b : mapping
        A value by column, for either side.
    **where
        A value by column, for both sides.

    Returns
    -------
    Difference
        In points, as from `qlib.compare`.

    Raises
    ------
    ValueError
        If no row fits one of the sides.
    """
    return compare(results.accuracies(table, **a, **where), results.accuracies(table, **b, **where))


def gain_at_equal_bits(
    table: pd.DataFrame, a: Mapping[str, Any], b: Mapping[str, Any], more: float = 0.0, **where: Any
) -> tuple[Difference, Equal]:
    """`gain` at equal average weight bits in use, where bits are learned.

    Parameters
    ----------
    table, a, b, **where
        As for `gain`; ``target_weight_bits`` names the limit.
    more : float
        Bits that ``a`` is to have more than ``b``.

    Returns
    -------
    (Difference, Equal)
        The difference, and at which bits; see `qlib.equal_bits.at_equal_bits`.

    Raises
    ------
    ValueError
        In no seed both sides have rows around equal bits.
    """
    found = at_equal_bits(map(results.flat, table.to_dict("records")), a, b, more, **where)
    if found is None:
        raise ValueError(f"no seed has {dict(a)} and {dict(b)} at equal bits among rows with {where}")
    return compare(found.a, found.b), found


def recorded_bits(table: pd.DataFrame, layers: Iterable[str], **where: Any) -> dict[str, int]:
    """The weight bits by layer that one recorded run learned, as `qlib.QuantConfig` takes them.

    Parameters
    ----------
    table : DataFrame
        Recorded rows.
    layers : iterable of str
        Names of layers with weights.
    **where
        A value by column, which one row has.

    Raises
    ------
    ValueError
        If no row fits, or more than one.
    """
    bits = row(table, **where).bits
    return {layer: int(bits[layer][0]) for layer in layers}


def bits_needed(summary: pd.DataFrame, bits: str, baseline: float, margin: float = 2.0) -> int | None:
    """The fewest bits with which the mean accuracy stays close to that in float.

    Parameters
    ----------
    summary : DataFrame
        Of one setting, from `qlib.results.summary`.
    bits : str
        The column of bits.
    baseline : float
        The accuracy in float, in percent.
    margin : float
        How far below it counts as close, in points.

    Returns
    -------
    int or None
        ``None`` if none of the recorded bits suffice.
    """
    return min(summary[summary.top1 >= baseline - margin][bits], default=None)


# Networks


def outputs_of(network: nn.Module, images: Tensor, kind: type[nn.Module]) -> dict[str, Tensor]:
    """What the modules of a kind give for a batch of images.

    Parameters
    ----------
    network : Module
        In evaluation mode.
    images : Tensor
        ``(n, channels, height, width)``.
    kind : type
        Such as ``torch.nn.ReLU``.

    Returns
    -------
    dict of str to Tensor
        Copies, by the name of the module, in order of execution.
    """
    kept = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        kept[name] = output.clone()

    found = [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]
    hooks = [module.register_forward_hook(functools.partial(keep, name)) for name, module in found]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def quantizers(network: nn.Module) -> list[Quantizer]:
    """The quantizers of activations in a network that `qlib.quantize` gave."""
    return [module for module in network.modules() if isinstance(module, Quantizer)]


def place_in_block(layer: str, otherwise: str) -> str:
    """Where in a bottleneck block a layer of the bench's networks stands.

    Parameters
    ----------
    layer : str
        Its name, such as ``"features.stage1.unit1.body.conv2.conv"``.
    otherwise : str
        What to call a layer that is in no block.
    """
    *_, block, _ = ["", *layer.split(".")]
    return PLACES.get(block, otherwise)


# What is said


def say(*lines: str) -> None:
    """Show lines of Markdown."""
    display(Markdown("\n".join(lines)))


def say_table(heads: Sequence[Any], rows: Iterable[Sequence[Any]]) -> None:
    """Show a table.

    Parameters
    ----------
    heads : sequence
        Of the columns.
    rows : iterable of sequences
        Cells, as many as there are heads; they may hold Markdown.
    """
    say(_line(heads), "| --- " * len(heads) + "|", *map(_line, rows))


def folded(summary: str, shown: Any) -> HTML:
    """One line that unfolds into something that shows itself as HTML, such as a card."""
    return HTML(f"<details><summary>{escape(summary)}</summary>{shown._repr_html_()}</details>")


def _line(cells: Sequence[Any]) -> str:
    return "".join(f"| {cell} " for cell in cells) + "|"


def judged(difference: Difference, claim: str = "greater") -> tuple[str, str]:
    """Two cells of a table: a difference, and what it says about a claim (see `qlib.verdict`)."""
    return str(difference), f"**{difference.verdict(claim)}**"


def verdicts(first: str, second: str, differences: Mapping[Any, Difference]) -> None:
    """Show a table of differences with a verdict on each: whether it is greater than zero.

    Parameters
    ----------
    first, second : str
        Heads of the names and of the differences.
    differences : mapping
        By name.
    """
    say_table([first, second, "verdict"], [(name, *judged(d)) for name, d in differences.items()])


def versus(
    table: pd.DataFrame, bits: str, a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str]
) -> dict[Any, Difference]:
    """Show for every number of bits the mean accuracies of two sides, their difference and the verdict.

    Parameters
    ----------
    table : DataFrame
        Recorded rows.
    bits : str
        The column of bits.
    a, b : mapping
        A value by column, for either side.
    names : pair of str
        Of the sides.

    Returns
    -------
    dict
        The differences ``a`` minus ``b``, by bits.

    Raises
    ------
    ValueError
        If a side lacks bits that the table has.
    """
    found = {}
    rows = []
    for number in sorted(set(table[bits])):
        runs = [results.accuracies(table, **{bits: number}, **side) for side in (a, b)]
        means = [f"{np.mean([run.top1 for run in side]):.1f}" for side in runs]
        found[number] = compare(*runs)
        rows.append((number, *means, points(found[number]), f"**{found[number].verdict()}**"))
    say_table(["bits", *names, "difference", f"{names[0]} above"], rows)
    return found


def points(difference: Difference, digits: int = 2) -> str:
    """A difference and its interval in short, such as ``"+1.20 (+0.31 to +2.09)"``; of fewer than three seeds
    it says that the interval is for images only.
    """
    low, high = difference.interval
    only = ", images only" if difference.images_only else ""
    return f"{difference.points:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f}{only})"


def seed_by_seed(a: Sequence[Accuracy], b: Sequence[Accuracy]) -> str:
    """The differences ``a`` minus ``b`` in points, one for every seed, such as ``"+0.4, -1.2"``.

    Parameters
    ----------
    a, b : sequence of Accuracy
        Of the same seeds.

    Raises
    ------
    ValueError
        If one side has others.
    """
    return ", ".join(f"{points:+.1f}" for points in compare(a, b).seeds)


def averaged(summary: pd.DataFrame, draws: str = "calibration draws") -> str:
    """How many draws and images stand behind the means of a `qlib.results.summary`, and how far draws differ.

    Parameters
    ----------
    summary : DataFrame
        Of accuracies.
    draws : str
        What differs between rows of one setting; its last word alone is said the second time.
    """
    return (
        f"mean over {summary.draws.max()} {draws}, n = {summary.n.max():,} images; the standard deviation "
        f"over {draws.split()[-1]} is at most {summary.spread.max():.1f} points"
    )


def half_width(summary: pd.DataFrame) -> float:
    """The largest half width, in points, of a summary's 95 % intervals."""
    return ((summary.high - summary.low) / 2).max()


def agreement(
    label: str, now: Accuracy, table: pd.DataFrame, same_choices: bool | None = None, **where: Any
) -> str:
    """A line on whether what was measured just now agrees with its recorded row.

    It does when the row's accuracy on the same images, the first of the validation set, lies within the 95 %
    interval of the live one.

    Parameters
    ----------
    label : str
        Of the line; it may be empty.
    now : Accuracy
        What was measured just now.
    table : DataFrame
        Recorded rows.
    same_choices : bool, optional
        Where two cards were compared, too: whether they say the same choices.
    **where
        A value by column, which one row has.

    Raises
    ------
    ValueError
        If no row fits, or more than one.
    """
    then = Accuracy(results.accuracy_of(row(table, **where)._asdict()).correct[: now.n])
    agrees = now.interval[0] <= then.top1 <= now.interval[1] and same_choices is not False
    return (
        f"- {label}{': ' if label else ''}live {now.top1:.2f} %, recorded {then.top1:.2f} % on these images"
        f"{', and the same choices on both cards' if same_choices is not None else ''}: "
        f"{'they agree' if agrees else '**they disagree**, the recorded table may be out of date'}"
    )


def print_sessions(table: pd.DataFrame) -> None:
    """Print when, with what and where the rows of a recorded table were made."""
    for session in table.attrs["sessions"]:
        print(f"recorded {session['date']} with torch {session['torch']} on {session['hardware']}")


# Exercises


def exercise(hint: str = "") -> Callable[[Callable[..., bool | str]], Callable[..., str]]:
    """Make a function that judges an answer into one that tells the reader.

    Parameters
    ----------
    hint : str
        What a wrong answer is told. The function may return its own in the place of ``False``.

    Returns
    -------
    decorator
        What it makes says ``"waiting for your answer"`` while an answer is ``None``, then ``"right"`` or
        ``"not yet: ..."``.
    """

    def told(judge: Callable[..., bool | str]) -> Callable[..., str]:
        @functools.wraps(judge)
        def check(*answers: Any) -> str:
            if any(answer is None for answer in answers):
                return "waiting for your answer"
            found = judge(*answers)
            if isinstance(found, str):
                return f"not yet: {found}"
            return "right" if found else f"not yet: {hint}"

        return check

    return told
