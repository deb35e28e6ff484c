"""The evidence page: one picture, the count of verdicts, the numbers, and what the rule before said."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import yaml

from qlib import results
from qlib.book import ROOT, correlations, ratios
from qlib.book.evidence import ALL_NETWORKS, BENCHES, NO_DIFFERENCE, Judged, claims, in_networks, judged
from qlib.book.evidence_before import change
from qlib.comparison import IMAGES_ONLY, SEEDS, UNDECIDED, VERDICTS
from qlib.metrics import TOP1
from qlib.widgets.figure import Figure
from qlib.widgets.forest import forest

EQUAL = {
    "used": "the bits in use",
    "limit": "the limit on learned bits, the end layers aside",
    "maximum": "the largest feature map",
}
MISSING = "not recorded"


@cache
def everything() -> list[tuple[dict[str, Any], str, Judged | None]]:
    """Every claim on every bench."""
    return [(claim, bench, judged(claim, bench)) for claim in claims() for bench in BENCHES]


def _lessons() -> dict[int, str]:
    """By observation, the stem of its lesson."""
    numbers = {claim["observation"] for claim in claims()}
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))
    return {int(path.stem[:2]): path.stem for path in paths if int(path.stem[:2]) in numbers}


def picture() -> Figure:
    statements = yaml.safe_load((ROOT / "book" / "explorer.yaml").read_text("utf8"))["statements"]
    lessons = _lessons()
    return forest(
        {
            "group": f"{claim['observation']}. {statements[claim['observation']]}",
            "claim": claim["claim"],
            "paper": claim["paper"],
            "bench": bench,
            "about": about(found),
            "table": claim["table"],
            "lesson": lessons[claim["observation"]],
            "paper_points": claim.get("paper_points"),
            "band": claim.get("margin", TOP1.margin) if claim.get("kind") == NO_DIFFERENCE else None,
            "by": claim.get("by"),
            "difference": found.difference,
            "verdict": found.verdict,
            "networks": {
                name: [round(d.points, 3), found.asked.get(name, IMAGES_ONLY)]
                for name, d in found.networks.items()
            },
            "said": found.said,
            "holds_in": found.holds_in,
        }
        for claim, bench, found in everything()
        if found
    )


def about(found: Judged) -> str:
    """What both sides have alike, at which bits, what to expect of another network, and what else to know."""
    claim = found.claim
    parts = [f"alike on both sides: {EQUAL[claim['equal']]}"]
    if claim.get("more"):
        parts[0] += f", and {claim['more']:+g} by the claim"
    parts += [found.at] if found.at else []
    parts += [claim["note"]] if "note" in claim else []
    if found.further:
        low, high = found.further
        parts += [f"another network of this kind may show {low:+.1f} to {high:+.1f} points"]
    said = "; ".join(parts)
    return f"{said[0].upper()}{said[1:]}."


def headline() -> str:
    """What counts: in how many networks a claim holds, each over three seeds or more."""
    found = [j for _, _, j in everything() if j]
    networks = {(j.bench, name) for j in found for name in j.networks if "network" not in j.claim["better"]}
    in_each = [in_networks(claim, found) for claim in claims()]
    several = [counts for counts in in_each if sum(counts.values()) >= SEEDS]
    everywhere = sum(counts["holds"] == sum(counts.values()) for counts in several)
    nowhere = sum(not counts["holds"] for counts in several)
    total = {word: sum(counts[word] for counts in in_each) for word in VERDICTS if word != IMAGES_ONLY}
    return (
        f"**{len(networks)} networks** of images were asked. Of {len(several)} claims that three or more of "
        f"them could answer, **{everywhere} hold in every one**, {len(several) - everywhere - nowhere} in "
        f"some, and {nowhere} in none. Network by network, over three seeds or more, of "
        f"{sum(total.values())} comparisons {total['holds']} hold, {total['does not hold']} do not, and "
        f"{total[UNDECIDED]} are undecided here."
    )


def as_markdown() -> str:
    """The headline, what it is made of by observation, the picture, and folded below it the tables."""
    html = picture().to_html()
    return "\n".join(
        [
            headline(),
            "",
            "By observation: how many networks were asked (of the last one, pairs), and what each says of "
            "each claim.",
            "",
            *_observations(),
            "",
            "Most of observation 1 that does not hold was claimed to be *within a point*: symmetric "
            "activations with one bit more are better by more than that.",
            "",
            f"```{{raw}} html\n{html}\n```",
            "",
            *_folded("The numbers", _numbers()),
            *_folded("A language model: perplexity over perplexity", _of_texts(ratios, "ratio", "windows")),
            *_folded(
                "A network of sentences: rank correlation, in points",
                _of_texts(correlations, "difference", "pairs of sentences"),
            ),
            *_folded("By bench", _counts()),
            *_folded("Every verdict, before and after the rule changed", _changes()),
        ]
    )


def _folded(title: str, lines: list[str]) -> list[str]:
    return [f"````{{dropdown}} {title}", *lines, "````", ""]


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _observations() -> list[str]:
    """Of every observation, what its claims say network by network."""
    rows = []
    for number, lesson in _lessons().items():
        found = [j for claim, _, j in everything() if j and claim["observation"] == number]
        counts = [in_networks(claim, found) for claim in claims() if claim["observation"] == number]
        networks = {(j.bench, name) for j in found for name in j.asked}
        cells = [sum(count[word] for count in counts) for word in counts[0]]
        title = lesson[3:].replace("-", " ")
        link = f"[{number}. {title}](../notebooks/{lesson}.ipynb)"
        rows.append([link, *map(str, (*cells, len(counts), len(networks)))])
    return _table(["observation", *in_networks({}, []), "claims", "asked"], rows)


def _numbers() -> list[str]:
    rows = []
    for claim, bench, found in everything():
        if found is None:  # "By bench" counts these
            continue
        but = f", but not in every {_unit(found)}" if found.against else ""
        each = [f"{points:+.1f}" for points in found.difference.seeds]
        if found.over_networks:
            each = [f"{name} {d.points:+.1f}" for name, d in found.networks.items()]
        at = f"<br>{found.at}" if found.at else ""
        said = [str(claim["observation"]), claim["claim"], claim["paper"], bench, found.said + at]
        verdict = f"**{found.verdict}**{but}"
        rows.append([*said, ", ".join(each), found.holds_in, verdict, _dates(claim, bench)])
    heads = ["observation", "claim", "what the paper says", "bench", "difference"]
    more = ["each network, or seed", "holds in", "verdict", "claim written; rows recorded"]
    return _table([*heads, *more], rows)


def _dates(claim: dict[str, Any], bench: str) -> str:
    """When a claim was written down, and its tables were recorded."""
    paths = [results.table_path(bench, claim["table"] + end) for end in ("", ALL_NETWORKS)]
    found = [session["date"][:10] for path in paths if path.exists() for session in results.provenance(path)]
    rows = " to ".join(dict.fromkeys((min(found), max(found))))
    return f"{claim['since']}; {rows}"


def _unit(found: Judged) -> str:
    """What the difference is over."""
    return "network" if found.over_networks else "seed"


def _counts() -> list[str]:
    words = [*VERDICTS, MISSING]
    rows = []
    for bench, says in BENCHES.items():
        found = [j.verdict if j else MISSING for _, b, j in everything() if b == bench]
        rows.append([f"{bench}: {says}", *(str(found.count(word)) for word in words)])
    return _table(["bench", *words], rows)


def _of_texts(judges: ModuleType, value: str, examples: str) -> list[str]:
    """The claims about one network that reads texts."""
    rows = [[claim, *map(str, said)] for claim, *said in judges.as_rows()]
    return _table(["claim", value, f"verdict on these {examples}", "verdict on other networks"], rows)


def _changes() -> list[str]:
    rows = []
    for claim in claims():
        for bench in BENCHES:
            found = change(claim, bench)
            if found:
                ends = (found.interval_before, found.interval_after)
                before, after = (f"{i[0]:+.2f} to {i[1]:+.2f}" if i else "" for i in ends)
                word = f"**{found.after}**" if found.why else found.after
                rows.append([claim["claim"], bench, found.before, word, before, after, found.why])
    return _table(["claim", "bench", "before", "after", "interval before", "interval after", "why"], rows)
