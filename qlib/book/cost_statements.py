"""What the paper's section 2 says of cost, statement by statement, judged by recorded times."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..kernels.costs import MARGIN, Cost, costs, find, missed, modelled_ratio, total
from ..kernels.grid import FLOAT, INPUTS_ONLY, NAMED, PAIRS, Cell
from ..kernels.record_latency import machine_of

NOT_TIMED = "not timed yet"


class Modelled(NamedTuple):
    """A choice, its row, its time by the model as a share of float, what the model misses, the machine."""

    name: str
    row: Mapping[str, Any]
    ratio: float
    missed: list[str]
    machine: Mapping[str, float]


class Statement(NamedTuple):
    """That a network takes longer with ``choices`` than with ``than``."""

    says: str
    section: str
    choices: Mapping[str, Any]
    than: Mapping[str, Any] = {}


STATEMENTS = (
    Statement("zero-points of weights cost time", "2.1", {"weight_symmetric": False}),
    Statement("ranges per channel of weights cost time", "2.1", {}, {"weight_granularity": "per_tensor"}),
    Statement("a residual in float may cost time", "2.2", {"quantize_residual": False}),
    Statement("a skip connection in float may cost time", "2.2", {"quantize_skip": False}),
    Statement("additions wholly in float may cost time", "2.2", INPUTS_ONLY),
    Statement("average pooling in float costs time", "2.2", {"pooling": "float"}),
    Statement("bits that kernels lack cost casts: weights of 4 bits", "2.3", {"weight_bits": 4}),
)
UNTESTED = (  # statement, section, why
    (
        "zero-points of activations cost less than those of weights",
        "2.1",
        "not told apart: on x86 the runtime has kernels for unsigned activations alone, so that symmetric "
        "ones have a zero-point in their file, too",
    ),
    (
        "functions such as softmax are faster in integers",
        "2.2",
        "not timed: the runtime computes them in float",
    ),
)
TIMED = {
    "float against itself": FLOAT,
    "the base": {},
    **NAMED,
    "skip in float": {"quantize_skip": False},
    "pooling in float": {"pooling": "float"},
    "weights of 4 bits": {"weight_bits": 4},
}
PER_CHANNEL = {"activation_granularity": "per_channel"}


def judged(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Statement, section, how often as long the networks take, and in how many it holds."""
    rows = list(rows)
    found = [(s, costs(rows, s.choices, s.than)) for s in STATEMENTS]
    timed = [(s.says, s.section, spread(each), holds_in(each)) for s, each in found]
    more = memory_of_ends()
    ends = f"{100 * more:.1f} % more", "holds" if round(100 * more) == 13 else "does not hold"
    memory = ("first and last layer at 8 bits, others at 3, take ResNet-50 13 % more memory", "2.2", *ends)
    return [*timed, memory, *((says, section, why, "not judged") for says, section, why in UNTESTED)]


def memory_of_ends() -> float:
    """How much more the weights of torchvision's ResNet-50 take with 3 bits, and 8 at both ends."""
    import torch
    from torchvision.models import resnet50

    with torch.device("meta"):
        model = resnet50()
    kinds = torch.nn.Conv2d, torch.nn.Linear
    sizes = [layer.weight.numel() for layer in model.modules() if isinstance(layer, kinds)]
    return (8 - 3) * (sizes[0] + sizes[-1]) / (3 * sum(sizes))


def bytes_moved(rows: Iterable[Mapping[str, Any]], choices: Mapping[str, Any]) -> str:
    """How many times the bytes of activations networks move with choices, beside the base, in words."""
    rows = list(rows)
    base, other = (find(rows, each) for each in ({}, choices))
    times = [
        total(other[key]["work"], "activation_bytes") / total(base[key]["work"], "activation_bytes")
        for key in other
        if key in base
    ]
    if not times:
        return NOT_TIMED
    low, high = f"{min(times):.1f}", f"{max(times):.1f}"
    return f"{low} times the bytes" if low == high else f"{low} to {high} times the bytes"


def spread(each: list[Cost]) -> str:
    """The least and the most over networks."""
    if not each:
        return NOT_TIMED
    low, high = (pick(each, key=lambda cost: cost.value) for pick in (min, max))
    if low is high:
        return f"{low}, {low.network}"
    return f"{low.value:.2f} ({low.network}) to {high.value:.2f} ({high.network})"


def holds_in(each: list[Cost]) -> str:
    """Of how many networks a statement holds, and of how many it does not."""
    if not each:
        return NOT_TIMED
    verdicts = [cost.verdict("greater") for cost in each]
    same = [cost.verdict("no difference") for cost in each].count("holds")
    said = f"holds in {verdicts.count('holds')} of {len(each)}"
    said += f", within a tenth in {same}" if same else ""
    return said + (" (busy machine)" if any(cost.busy for cost in each) else "")


def refusals(refused: Mapping[str, str]) -> list[str]:
    """The choices that could not be written or run, each with the number of networks."""
    kinds: dict[str, set[str]] = {}
    for key in refused:
        network, choices, *_ = json.loads(key)
        kinds.setdefault(" ".join(f"`{n}={json.dumps(v)}`" for n, v in choices.items()), set()).add(network)
    return [f"{kind} ({len(found)} networks)" for kind, found in kinds.items()]


def ranges_of_channels(refused: Mapping[str, str], networks: Iterable[str]) -> str:
    """What became of ranges per channel of activations, of which the paper says that they may be hard to
    accelerate.
    """
    found = {network: refused.get(Cell(network, PER_CHANNEL).key) for network in networks}
    said = [network for network, reason in found.items() if reason]
    return f"refused for {len(said)} of {len(found)} networks: no operator of ONNX multiplies such codes"


def pairs(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, float, Cost]]:
    """Of two choices that were timed together: their names, the product of what each costs alone, and what
    both cost.
    """
    rows = list(rows)
    found = []
    for names in PAIRS:
        both = {field: value for name in names for field, value in NAMED[name].items()}
        together, *alone = (costs(rows, choices, {}) for choices in (both, *(NAMED[n] for n in names)))
        for cost in together:
            each = [c.value for side in alone for c in side if c.network == cost.network]
            if len(each) == 2:
                found.append((" and ".join(names), each[0] * each[1], cost))
    return found


def alike(rows: Iterable[Mapping[str, Any]], threads: int) -> str:
    """How many of the rows on so many threads repeat within `MARGIN` over their processes, of how many."""
    apart = [max(row["ratios"]) / min(row["ratios"]) for row in rows if row["threads"] == threads]
    return f"{sum(each <= MARGIN for each in apart)} of {len(apart)} rows"


def times(rows: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of a table of ratios to float: a line for every choice, a column for every network."""
    rows = list(rows)
    networks = list(dict.fromkeys(row["network"] for row in rows))
    lines = []
    for name, choices in TIMED.items():
        found = {network: row for (network, _), row in find(rows, choices).items()}
        lines.append([name, *(f"{found[n]['ratio']:.2f}" if n in found else "" for n in networks)])
    return ["time / float", *networks], lines


def modelled(rows: Iterable[Mapping[str, Any]], network: str) -> list[Modelled]:
    """What the model makes of every choice that was timed on a network, on one image and one thread."""
    rows = [row for row in rows if row["network"] == network]
    found = []
    for name, choices in TIMED.items():
        for key, row in find(rows, choices).items():
            in_float = find(rows, FLOAT).get(key)
            if in_float is not None:
                machine = machine_of(row, row["table"])
                ratio = modelled_ratio(row, in_float, machine)
                found.append(Modelled(name, row, ratio, missed(row, machine), machine))
    return found


def dear(
    rows: Iterable[Mapping[str, Any]], choices: Mapping[str, Mapping[str, Any]], network: str
) -> list[str]:
    """Which of some choices take a network more than a tenth longer, in words."""
    rows = list(rows)
    return [
        f"{name} {cost} times as long"
        for name, each in choices.items()
        for cost in costs(rows, each, {})
        if cost.network == network and cost.value > 1 and cost.verdict("no difference") == "does not hold"
    ]
