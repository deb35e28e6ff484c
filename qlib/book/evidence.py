"""Every claim of ``book/evidence.yaml`` on every bench and every network of it, from recorded rows, judged by
the one rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import yaml

from qlib import results
from qlib.book import ROOT
from qlib.comparison import IMAGES_ONLY, SEEDS, VERDICTS, Difference, compare
from qlib.equal_bits import TARGET, at_equal_bits
from qlib.intervals import one_more
from qlib.metrics import TOP1, Measurement

BENCHES = {
    "digits": "the bench of the lessons",
    "cifar10-jpeg": "real images, networks that we did not make",
    "imagenet-sample": "images that a network, not ours, was trained on",
    "imagenet-sample-240": "the same with the next larger one",
    "imagenet": "the paper's own setting",
}
NO_DIFFERENCE = "no difference"
ALL_NETWORKS = "-networks"  # the end of a table's name that holds the cells that are judged, of every network

Rows = list[dict[str, Any]]
Sides = tuple[list[Measurement], list[Measurement]]


@dataclass(frozen=True)
class Judged:
    """A claim on a bench.

    Parameters
    ----------
    claim : dict
        As ``book/evidence.yaml`` has it.
    bench : str
        Its name.
    difference : Difference
        Better minus worse: of three networks or more over these, each a mean over the seeds that both sides
        have; else over the seeds of the first.
    at : str
        At which bits in use, where bits are learned and these are what both sides have alike; else empty.
    networks : mapping
        By network (of a claim about two recipes: by pair), that of it alone.
    """

    claim: dict[str, Any]
    bench: str
    difference: Difference
    at: str = ""
    networks: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        return verdict(self.claim, self.difference)

    @property
    def over_networks(self) -> bool:
        """Whether the difference is over networks."""
        return len(self.networks) >= SEEDS

    @property
    def asked(self) -> dict[str, str]:
        """The verdict of every network that has seeds enough for one."""
        found = {name: d for name, d in self.networks.items() if not d.images_only}
        return {name: verdict(self.claim, d) for name, d in found.items()}

    @property
    def holds_in(self) -> str:
        """Of how many networks."""
        verdicts = list(self.asked.values())
        return f"{verdicts.count('holds')} of {len(verdicts)}" if verdicts else "–"

    @property
    def said(self) -> str:
        """The difference, and what it is over."""
        text = str(self.difference)
        return text.replace(" seeds, ", " networks, ") if self.over_networks else text

    @property
    def further(self) -> tuple[float, float] | None:
        """Between which points another network of this kind is to be expected; ``None`` with fewer than
        three.
        """
        points = [d.points for d in self.networks.values()]
        return one_more(np.array(points)) if self.over_networks else None

    @property
    def against(self) -> bool:
        """Whether the claim holds, but some seed or network alone points the other way."""
        return self.verdict == "holds" and not in_every_seed(self.claim, self.difference.seeds)


def claims() -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / "book" / "evidence.yaml").read_text("utf8"))


def judged(claim: dict[str, Any], bench: str) -> Judged | None:
    """A claim on a bench; ``None`` where rows are not recorded."""
    found = {name: _of_network(claim, bench, wanted) for name, wanted in _networks(claim, bench).items()}
    found = {name: sides for name, sides in found.items() if sides}
    if not found:
        return None
    networks = {name: compare(*sides) for name, (sides, _) in found.items()}
    enough = [name for name, d in networks.items() if not d.images_only]
    if len(enough) < SEEDS:
        name = next(iter(found))
        return Judged(claim, bench, networks[name], found[name][1], {name: networks[name]})
    pooled = [[m for name in enough for m in _labelled(name, *found[name][0])[side]] for side in (0, 1)]
    at = "; ".join(dict.fromkeys(found[name][1] for name in enough if found[name][1]))
    return Judged(claim, bench, compare(*pooled), at, {name: networks[name] for name in enough})


def question(
    bench: str, table: str, better: Mapping[str, Any], worse: Mapping[str, Any], **where: Any
) -> Judged | None:
    """Whether rows with ``better`` are above those with ``worse``, of every network, as `judged` asks a
    claim; ``where`` is what both sides have.
    """
    claim = {"table": table, "equal": "used", "where": where, "better": better, "worse": worse}
    return judged(claim, bench)


def _networks(claim: Mapping[str, Any], bench: str) -> dict[str, list[dict[str, Any]]]:
    """By network of a bench, what the rows of either side have; of a claim about two recipes by pair, the
    networks that were trained by them from one seed.
    """
    wanted = _wanted(claim)
    names = list(dict.fromkeys(row["network"] for row in _rows(bench, claim["table"])))
    recipes = [side.get("network") for side in wanted]
    if recipes == [None, None]:
        return {name: [{**side, "network": name} for side in wanted] for name in names}
    of_either = [[name.removeprefix(r) for name in names if name.startswith(r)] for r in recipes]
    pairs = {}
    for seed in of_either[0]:
        if seed in of_either[1]:
            sides = zip(wanted, recipes, strict=True)
            pairs[seed.lstrip("-").replace("-", " ") or "first pair"] = [
                {**side, "network": recipe + seed} for side, recipe in sides
            ]
    return pairs


def _of_network(
    claim: Mapping[str, Any], bench: str, wanted: list[dict[str, Any]]
) -> tuple[Sides, str] | None:
    """What both sides measured of one network or pair, and at which bits in use."""
    rows = _rows(bench, claim["table"])
    if claim["equal"] == "used" and all(TARGET in side for side in wanted):
        found = at_equal_bits(rows, *wanted, claim.get("more", 0.0))
        return found and ((found.a, found.b), ", ".join(filter(None, (str(found), _missed(rows, wanted)))))
    sides = _sides(rows, wanted)
    return sides and (tuple(map(results.measurements_of, sides)), _in_use(*sides))


def _missed(rows: Rows, wanted: list[dict[str, Any]]) -> str:
    """In how many runs learning ended above its limit: these stand at the bits that they use."""
    runs = [row for row in rows if any(results.fits(row, side) for side in wanted)]
    missed = sum(row.get("feasible") is False for row in runs)
    return f"the limit missed in {missed} of {len(runs)} runs" if missed else ""


def _labelled(network: str, a: list[Measurement], b: list[Measurement]) -> Sides:
    """Two sides with labels that begin with the network; a single one stands beside each of the other."""
    labels = [m.label if isinstance(m.label, tuple) else (m.label,) for m in max(a, b, key=len)]
    a, b = (side * len(labels) if len(side) == 1 else side for side in (a, b))
    return tuple(
        [
            Measurement(m.metric, m.value, m.values, (network, *label))
            for m, label in zip(side, labels, strict=True)
        ]
        for side in (a, b)
    )


def measured(claim: dict[str, Any], bench: str) -> Difference | None:
    """The difference of `judged`."""
    found = judged(claim, bench)
    return found and found.difference


def at_limits(claim: dict[str, Any], bench: str) -> list[list[Measurement]] | None:
    """What the rows of a claim measured that its cells name, of the one network that was there when the rule
    changed, whatever bits are in use; ``None`` where these are not recorded.
    """
    first = next(iter(_networks(claim, bench).values()), None)
    sides = first and _sides(_rows(bench, claim["table"], ("",)), first)
    return sides and list(map(results.measurements_of, sides))


@cache
def _rows(bench: str, table: str, ends: tuple[str, ...] = ("", ALL_NETWORKS)) -> Rows:
    """Of a table, and of the one of all networks that belongs to it; every row once."""
    names = (name for name in (table + end for end in ends) if results.table_path(bench, name).exists())
    return list({row["key"]: row for name in names for row in results.flat_rows(bench, name)}.values())


def _wanted(claim: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**claim.get("where", {}), **claim[side]} for side in ("better", "worse")]


def _sides(rows: Rows, wanted: list[dict[str, Any]]) -> list[Rows] | None:
    """The rows of either side, of the seeds that both have; ``None`` where such are still to be recorded."""
    sides = results.of_common_seeds(*([row for row in rows if results.fits(row, where)] for where in wanted))
    return sides if all(sides) else None


def _in_use(better: Rows, worse: Rows) -> str:
    """The average bits of learned or analytic allocations, where both sides have such, and others."""
    said = []
    for kind in ("weight", "activation"):
        used = [[row[f"average_{kind}_bits"] for row in side] for side in (better, worse)]
        means = [f"{np.mean(bits):.2f}" for bits in used if None not in bits]
        if len(set(means)) == 2:
            said.append(f"{' against '.join(means)} {kind} bits used")
    return ", ".join(said)


def verdict(claim: dict[str, Any], difference: Difference) -> str:
    """By the one rule; where a claim says by how many points, these take the place of zero."""
    return difference.less(claim.get("by", 0.0)).verdict(claim.get("kind", "greater"), claim.get("margin"))


def in_networks(claim: dict[str, Any], found: Sequence[Judged]) -> dict[str, int]:
    """In how many networks, of several benches together, a claim holds, does not hold, or is undecided."""
    said = [word for one in found if one.claim == claim for word in one.asked.values()]
    return {word: said.count(word) for word in VERDICTS if word != IMAGES_ONLY}


def in_every_seed(claim: dict[str, Any], points: Sequence[float]) -> bool:
    """Whether each seed or network alone points the way of the claim."""
    if claim.get("kind") == NO_DIFFERENCE:
        return all(abs(p) <= claim.get("margin", TOP1.margin) for p in points)
    return all(p > claim.get("by", 0.0) for p in points)
