"""Controls of choices, made of what is stated about them; of what ipywidgets 7.7 and 8 both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as W
import yaml
from torch import nn

from ..choices import Choice
from ..config import MAX_BITS
from ..methods import known_methods

PERCENTILES = (90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0)
EVERY = range(1, MAX_BITS + 1)
TOOLTIP = "tooltip" if hasattr(W.IntSlider, "tooltip") else "description_tooltip"  # ipywidgets 8, 7


def modules_with_weights(model: nn.Module) -> list[str]:
    """The modules that hold a matrix of weights, and those around them."""
    modules = model.named_modules()
    return [name for name, module in modules if name and any(p.dim() > 1 for p in module.parameters())]


def control_of(
    name: str,
    known: Choice,
    default: Any,
    value: Any,
    choices: Mapping[str, Any] | None,
    modules: Sequence[str],
) -> W.Widget:
    """The control of a choice, by what is stated about it and the kind of its default.

    ``None`` is a word in its list, for to ipywidgets a value of ``None`` means that nothing is selected.

    Parameters
    ----------
    choices
        Values by names of the reader's, in the place of the usual control.
    modules
        Those that may be left in float.

    Raises
    ------
    ValueError
        ``value`` is none of ``choices``.
    """
    label = _label(known.title, known.help)
    word = known.none
    value = word if value is None else value
    if choices is not None:
        given = [(text, word if choice is None else choice) for text, choice in choices.items()]
        if value not in [choice for _, choice in given]:
            raise ValueError(
                f"{name} starts at {value!r}, which is not one of its choices: {', '.join(choices)}"
            )
        return W.Dropdown(options=given, value=value, **label)
    kind = kind_of(name, known, default)
    if kind == "switch":
        return W.Checkbox(value=value, **label)
    if kind == "words":
        options = [(choice.replace("_", " "), choice) for choice in known.values]
        return W.Dropdown(options=options, value=value, **label)
    if kind == "percentile":
        options = [(f"{p:g}", p) for p in sorted({*PERCENTILES, value})]
        return W.SelectionSlider(options=options, value=value, **label)
    if kind == "number":
        return W.FloatText(value=value, **label)
    if kind == "modules":
        return W.SelectMultiple(options=list(dict.fromkeys([*value, *modules])), value=value, rows=4, **label)
    if kind == "several bits":
        return W.SelectMultiple(options=EVERY, value=value, rows=4, **label)
    if kind == "count":
        most = 10**6 if known.most is None else int(known.most)
        return W.BoundedIntText(value=value, min=int(known.least), max=most, **label)
    if kind == "bits":
        options = [*((str(bits), bits) for bits in EVERY), (word, word)]
        options += [("by layer", value)] if isinstance(value, Mapping) else []
        return W.SelectionSlider(options=options, value=value, **label)
    if kind == "text":
        return W.Text(value=value, **label)
    text = "null" if value is None else str(value)
    return InYaml(value=text, **{**label, "description": f"{known.title} (YAML)"})


def kind_of(name: str, known: Choice, default: Any) -> str:
    """Which kind of control a choice has, by what is stated about it and the kind of its default."""
    if isinstance(default, bool):
        return "switch"
    if known.values:
        return "words"
    if name == "percentile":
        return "percentile"
    if isinstance(default, float):
        return "number"
    if isinstance(default, tuple):
        return "several bits" if default else "modules"
    if isinstance(default, int) and known.least is not None and known.none is None:
        return "count"
    if isinstance(default, int) and known.least is None or default is None and name.endswith("_bits"):
        return "bits"
    return "text" if isinstance(default, str) else "yaml"


class InYaml(W.Text):
    """A value that no other control is made for, written as in a YAML file."""


def value_of(control: W.Widget, word: str | None) -> Any:
    """What a control says; ``word`` stands for ``None``."""
    if word is not None and control.value == word:
        return None
    if isinstance(control, InYaml):
        try:
            return yaml.safe_load(control.value)
        except yaml.YAMLError:
            return control.value  # which the check of the choice then refuses
    return control.value


def control_of_method(method: str) -> W.Widget:
    """One of the methods of this package, or the one given, as `qlib.methods.spelled` has it."""
    options = list(dict.fromkeys([*sorted(known_methods(), key="nearest".__ne__), method]))
    label = _label("Method", "How codes and ranges are found, given the choices.")
    return W.Dropdown(options=options, value=method, **label)


def _label(title: str, help: str) -> dict[str, Any]:
    return {
        "description": title,
        TOOLTIP: help,
        "style": {"description_width": "170px"},
        "layout": {"width": "min(34rem, 98%)"},
    }


def folded(what: str, children: Sequence[W.Widget]) -> list[W.Widget]:
    """A button that shows and hides widgets. (The header of ipywidgets' own `Accordion` cannot be reached by
    keyboard.)
    """
    button = W.ToggleButton(description=f"Show {what}", layout={"width": "auto", "align_self": "flex-start"})
    box = W.VBox(children, layout={"display": "none"})

    def turn(change: Mapping[str, Any]) -> None:
        box.layout.display = "" if change["new"] else "none"
        button.description = f"{'Hide' if change['new'] else 'Show'} {what}"

    button.observe(turn, "value")
    return [button, box]
