"""What ONNX Runtime makes of a card's choices on this CPU: every statement of the profile `onnxruntime-cpu`
is a network that is built and run here.

    python benchmarks/onnxruntime_profile.py           # what runs, and on which kernels
    python benchmarks/onnxruntime_profile.py --time    # and how long it takes

Writes what it found to `onnxruntime_profile.yaml` beside it; `README.md` says how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import onnx_networks as networks  # noqa: E402
from onnxruntime_statements import ONLY, STATEMENTS, UNSEEN  # noqa: E402
from sessions import session  # noqa: E402

from qlib.kernels.alternating import alternate, median_and_interval  # noqa: E402

RECORD = Path(__file__).with_suffix(".yaml")
SOURCE = "measured: benchmarks/onnxruntime_profile.py"
ON_CODES = ("QLinearConv", "QGemm", "QLinearMatMul", "QLinearAdd", "ConvInteger", "MatMulInteger")
ON_CODES += ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits")
IN_FLOAT = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add")
CONVOLUTIONS = "convolutions with ReLU and residual additions"
NETWORKS = {CONVOLUTIONS: networks.residual, "linear layers": networks.linear}
AS_WRITTEN = {"disable_quant_qdq": "1"}  # every pair is computed as it stands, nothing fused
MUCH = 1.25  # times as long is slow


def choices_of(field: str, value: Any, where: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of the network that a statement is about."""
    found = {**networks.USUAL, **where, field: value}
    if found["activation_bits"] == "float":
        return networks.FLOAT if found["weight_bits"] == "float" else {**found, "input_bits": "float"}
    return found


def start(field: str, where: Mapping[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """The statement about the network that a statement's differs from: of weights alone in 8 bits, where
    something else than their bits is said of such; else the usual one.
    """
    alone = where.get("activation_bits") == "float" and field != "weight_bits"
    return ("weight_bits", 8, ONLY) if alone else STATEMENTS[0]


def built(name: str, choices: Mapping[str, Any]) -> bytes | None:
    """A network; ``None`` for convolutions in groups, whose weights have no axis to make groups of."""
    if name == CONVOLUTIONS and choices["weight_granularity"] == "per_group":
        return None
    return NETWORKS[name](choices).SerializeToString()


def runner(model: bytes, **settings: str) -> Callable[[], object]:
    """What runs a network once, on an input that is there already."""
    started = session(model, **settings)
    (entry,) = started.get_inputs()
    values = np.random.default_rng(0).normal(size=entry.shape).astype(np.float32)
    return partial(started.run, None, {entry.name: values})


def facts(model: bytes) -> dict[str, Any]:
    """Whether a network runs, with which settings, and how often which operator computes its layers and
    additions.
    """
    for settings in ({}, AS_WRITTEN):
        with tempfile.TemporaryDirectory() as folder:
            written = str(Path(folder, "optimized.onnx"))
            try:
                runner(model, written=written, **settings)()
            except Exception as error:  # its own classes, by the dozen
                message = re.sub(r"/\S+", "", " ".join(str(error).split()))[:160]
            else:
                return {**({"settings": settings} if settings else {}), "kernels": kernels(written)}
    return {"message": message}


def kernels(path: str) -> dict[str, int]:
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    layers = [
        node.op_type
        for node in graph.node
        if node.op_type in (*ON_CODES, *IN_FLOAT)
        and not (node.op_type == "Add" and constants & set(node.input))  # a bias
    ]
    return dict(sorted(Counter(layers).items()))


def record(statements: Iterable[tuple[str, Any, Mapping[str, Any]]]) -> dict[str, Any]:
    """What was found of every statement, and with what."""
    known: dict[bytes, dict[str, Any]] = {}
    found = []
    for field, value, where in statements:
        choices, begin = choices_of(field, value, where), choices_of(*start(field, where))
        outcome = {}
        for name in NETWORKS:
            try:
                model = built(name, choices)
            except networks.NoType as error:
                outcome[name] = {"message": str(error)}
            else:
                # Where a choice changes nothing there is nothing to say, but of the first network itself
                if model is not None and (choices == begin or model != built(name, begin)):
                    known[model] = known.get(model) or facts(model)
                    outcome[name] = dict(known[model])
        found.append({"field": field, "value": value, "where": dict(where), "networks": outcome})
    return {
        "versions": {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__},
        "cpu": processor(),
        "statements": found,
        "unseen": {name: facts(unseen(networks.USUAL, name)) for name in UNSEEN},
    }


def unseen(choices: Mapping[str, Any], name: str) -> bytes:
    """A network of convolutions with what no card says of it."""
    return built(CONVOLUTIONS, {**choices, **UNSEEN[name]})


def processor() -> dict[str, Any]:
    """Its name, and which instructions for dot products of bytes it has."""
    known = Path("/proc/cpuinfo")
    pairs = (line.partition(":") for line in (known.read_text("utf8").splitlines() if known.exists() else ()))
    said = {name.strip(): value.strip() for name, _, value in pairs}
    flags = sorted(flag for flag in said.get("flags", "").split() if "vnni" in flag or "amx" in flag)
    return {"name": said.get("model name", platform.machine()), "flags": flags}


def add_times(found: dict[str, Any], repeats: int) -> None:
    """Adds the time of every network as a ratio to its float32 network, which runs right before it."""
    load = round(os.getloadavg()[0], 2)
    found["timing"] = {"date": time.strftime("%Y-%m-%d"), "threads": 1, "repeats": repeats, "load": load}
    again = found["timing"]["float again"] = {}
    for name in NETWORKS:
        base = runner(built(name, networks.FLOAT))
        again[name] = {}
        models = {b"float again": (base, [again[name]])}
        for entry in found["statements"]:
            outcome = entry["networks"].get(name, {})
            if "kernels" in outcome:
                model = built(name, choices_of(entry["field"], entry["value"], entry["where"]))
                if model not in models:
                    models[model] = (runner(model, **outcome.get("settings", {})), [])
                models[model][1].append(outcome)
        ratios = alternate(base, [work for work, _ in models.values()], repeats)
        for (_, outcomes), ratio in zip(models.values(), ratios, strict=True):
            for outcome in outcomes:
                outcome["time"] = median_and_interval(ratio)
        again[name] = again[name]["time"]
    for name, outcome in found["unseen"].items():
        base, work = (runner(unseen(choices, name)) for choices in (networks.FLOAT, networks.USUAL))
        outcome["time"] = median_and_interval(*alternate(base, [work], repeats))


def keep_times(found: dict[str, Any], old: Mapping[str, Any]) -> None:
    """Takes over the times of networks for which nothing else changed."""
    if "timing" not in old or (found["versions"], found["cpu"]) != (old["versions"], old["cpu"]):
        return
    found["timing"] = old["timing"]
    known = {about(entry): entry["networks"] for entry in old["statements"]}
    pairs = [
        (outcome, known.get(about(entry), {}).get(name, {}))
        for entry in found["statements"]
        for name, outcome in entry["networks"].items()
    ]
    pairs += [(outcome, old["unseen"].get(name, {})) for name, outcome in found["unseen"].items()]
    for outcome, before in pairs:
        if "time" in before and {**outcome, "time": before["time"]} == before:
            outcome["time"] = before["time"]


def about(statement: Mapping[str, Any]) -> str:
    """What identifies a statement about one value."""
    return json.dumps([statement["field"], statement["value"], statement.get("where", {})], sort_keys=True)


def verdict(entry: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The worst over both networks: it cannot run; more of it is computed in float than of the network it
    differs from, it needs another setting than the usual ones, or it is slow; or it runs.
    """
    outcomes = entry["networks"]
    if any("message" in outcome for outcome in outcomes.values()):
        return "cannot"
    for name, outcome in outcomes.items():
        base = first(entry, found).get(name, {})
        if "settings" in outcome or in_float(outcome) > in_float(base) or slow(entry, name, found):
            return "falls back"
    return "runs"


def first(entry: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The outcomes of the network that a statement's differs from."""
    names = ("field", "value", "where")
    begin = about(dict(zip(names, start(entry["field"], entry["where"]), strict=True)))
    return next(other["networks"] for other in found["statements"] if about(other) == begin)


def in_float(outcome: Mapping[str, Any]) -> int:
    """How many layers and additions are computed in float."""
    return sum(count for kind, count in outcome.get("kernels", {}).items() if kind in IN_FLOAT)


def slow(entry: Mapping[str, Any], name: str, found: Mapping[str, Any]) -> bool:
    """Whether a network takes much longer than the one it differs from and, where activations are in float,
    than the one in float32. Not where times were not measured.
    """
    choices = choices_of(entry["field"], entry["value"], entry["where"])
    reference = first(entry, found).get(name, {}).get("time", [1])[0]
    reference = max(1, reference) if choices["activation_bits"] == "float" else reference
    return entry["networks"][name].get("time", [0, 0])[1] > MUCH * reference


def times(entry: Mapping[str, Any]) -> dict[str, float]:
    """The median times by network, to two digits."""
    return {name: round(of["time"][0], 2) for name, of in entry["networks"].items() if "time" in of}


def update_profile(path: Path, found: Mapping[str, Any]) -> None:
    """Sets verdict and time of every statement of a profile to what was found; its words stay."""
    profile = yaml.safe_load(path.read_text("utf8"))
    known = {about(entry): entry for entry in found["statements"]}
    profile["times"] = times(found["statements"][0])
    for note in profile["notes"]:
        if "times" in note and note["source"] == SOURCE:
            note["times"] = times({"networks": found["unseen"]})
    for statement in profile["statements"]:
        if statement["source"] != SOURCE:
            continue
        entries = [known[about({**statement, "value": value})] for value in statement["values"]]
        (statement["verdict"],) = {verdict(entry, found) for entry in entries}
        statement.pop("times", None)
        if times(entries[0]) not in ({}, profile["times"]):
            statement["times"] = times(entries[0])
    write(path, profile)


def write(path: Path, data: Any) -> None:
    """YAML whose innermost lists and mappings stand on one line."""
    plain = json.loads(json.dumps(data))  # without YAML's aliases
    path.write_text(yaml.safe_dump(plain, sort_keys=False, width=110, default_flow_style=None), "utf8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--time", action="store_true", help="also measure how long each network takes")
    parser.add_argument("--repeats", type=int, default=61, help="alternations with the float network")
    parser.add_argument("--profile", type=Path, help="a profile of which to set verdicts and times")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record that is written")
    arguments = parser.parse_args()
    old = yaml.safe_load(arguments.out.read_text("utf8")) if arguments.out.exists() else {}
    found = record(STATEMENTS)
    if arguments.time:
        add_times(found, arguments.repeats)
    elif old:
        keep_times(found, old)
    for entry in found["statements"]:
        print(
            f"{entry['field']} = {entry['value']} {entry['where'] or ''}: {verdict(entry, found)}",
            *[
                f"{name} {outcome.get('time', '')} {outcome.get('kernels', outcome.get('message'))}"
                for name, outcome in entry["networks"].items()
            ],
            sep="\n    ",
        )
    for name, outcome in found["unseen"].items():
        print(f"{name}: {outcome.get('time', '')} {outcome.get('kernels', outcome.get('message'))}")
    print(found.get("timing", "times were not measured"))
    write(arguments.out, found)
    if arguments.profile:
        update_profile(arguments.profile, found)


if __name__ == "__main__":
    main()
