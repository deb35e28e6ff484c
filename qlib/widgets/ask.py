"""What a reader answers on the page itself, with no kernel: predictions that are kept, exercises that check
themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .figure import Figure


def predict(name: str, options: Sequence[str]) -> Figure:
    """Answers to choose from by a click; the choice is kept in the reader's browser.

    Parameters
    ----------
    name : str
        Of the lesson.
    options : sequence of str
        In words, each a sentence.

    Returns
    -------
    Figure
        To be shown before anything is measured; `predicted` comes after.
    """
    return _prediction(name, options, None, "")


def predicted(name: str, options: Sequence[str], measured: int, said: str = "") -> Figure:
    """What a reader chose, beside what was measured.

    Parameters
    ----------
    name, options
        As for `predict`.
    measured : int
        Which of the options was measured, from 0.
    said : str
        A sentence that follows it, with its numbers.
    """
    if not 0 <= measured < len(options):
        raise ValueError(
            f"measured must be one of the {len(options)} options, counted from 0; got {measured}"
        )
    return _prediction(name, options, measured, said)


def _prediction(name: str, options: Sequence[str], measured: int | None, said: str) -> Figure:
    shown = "".join(f"<li>{escape(option)}</li>" for option in options)
    state = {"name": name, "options": list(options), "measured": measured, "said": said}
    return Figure("predict", state, f"<ol>{shown}</ol>")


def number(label: str, answer: float, within: float = 0.0) -> dict[str, object]:
    """A field of an `exercise` for a number, right where it is that close to ``answer``."""
    return {"label": label, "answer": float(answer), "within": float(within)}


def choice(label: str, options: Sequence[str], answer: int) -> dict[str, object]:
    """A field of an `exercise` for one of some options, counted from 0."""
    return {"label": label, "options": list(options), "answer": float(answer), "within": 0.0}


def exercise(*fields: dict[str, object], hint: str, right: str = "") -> Figure:
    """A box for an answer that checks itself.

    Parameters
    ----------
    *fields : dict
        From `number` and `choice`; all must be right.
    hint : str
        What a wrong answer is told: the way, not the answer.
    right : str
        What a right answer is told beside "Right."

    Returns
    -------
    Figure
        Acts without a kernel.
    """
    return Figure("exercise", {"fields": list(fields), "hint": hint, "right": right})
