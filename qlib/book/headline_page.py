"""The page of methods crossed with choices: its plan, and how much of it is recorded."""

from __future__ import annotations

from typing import Any

from qlib import headline
from qlib.headline import said


def results_as_markdown() -> str:
    """What came out, as far as there are rows: the decision, what stands beside it, orders, cards."""
    lines = [said.outcome(), "", said.missing(), "", *_table(said.DECISION_HEADS, said.decision_rows()), ""]
    lines += ["Beside it, the same ratio among methods of one kind:", ""]
    lines += [*_table(said.KIND_HEADS, said.kind_rows()), ""]
    beside = [row for setting in headline.plan()["settings"] for row in said.beside_rows(setting)]
    if beside:
        lines += ["### Beside the decision", "", *_table(said.HEADS, beside), ""]
    for setting, rows in said.shown("published").items():
        heads = [
            "pair",
            "difference under the same choices (95 % over networks)",
            "under their own cards",
            "order",
        ]
        lines += [f"### {setting}: orders", "", said.flip_sentence(rows), ""]
        lines += [*_table(heads, swaps), ""] if (swaps := said.swap_rows(rows)) else []
    for setting, rows in said.shown().items():
        for choice in ("granularity", "weight grid"):
            first, second = headline.plan()["choices"][choice]["levels"].values()
            heads = ["method", f"{first} over {second}, points", "minus that under nearest"]
            lines += [f"### {setting}: {choice} under each method", ""]
            lines += [*_table(heads, said.worth_rows(rows, choice)), ""]
    return "\n".join(lines)


def as_markdown() -> str:
    """The plan."""
    plan = headline.plan()
    lines = [f'The paper: "{plan["sentence"]}" ({plan["paper"]}). Written down on {plan["since"]}.', ""]
    lines += ["### What is crossed", "", *_methods(plan), "", *_table(*said.choice_rows()), ""]
    lines += ["### What is recorded, in this order", "", *_tables(plan), ""]
    for title, text in plan["words"].items():
        lines += [f"### {title}", "", text, ""]
    return "\n".join(lines)


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    cells = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]


def _methods(plan: dict[str, Any]) -> list[str]:
    rows = [
        [m["name"], "yes" if m["published"] else "beside it", m.get("card", "none"), f"{m['seconds']:g}"]
        for m in plan["methods"]
    ]
    heads = ["method", "in the primary comparison", "card in the catalogue", "seconds of a processor"]
    return _table(heads, rows)


def _tables(plan: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"`{headline.address(table)}`",
            f"{len(headline.rows_of(table))} of {len(headline.runs(table))}",
            f"{headline.minutes(table):.0f}",
        ]
        for table in plan["order"]
    ]
    total = sum(map(headline.minutes, plan["order"])) / 60
    return [
        *_table(["table", "rows recorded", "estimated minutes of a processor"], rows),
        "",
        f"Together about {total:.1f} hours of a processor, estimated from the seconds above before the first "
        "row. `qlib record` may be stopped and run again.",
    ]
