"""The reproduction page's table: what every experiment on ImageNet costs, from the throughput that was
recorded at full size.
"""

from qlib import results
from qlib.experiments import Experiment, Run

MEASURED = ("imagenet-generated", "throughput")


def as_markdown() -> str:
    """A row an experiment: rows, images evaluated, learning steps, and hours on the device that was
    measured.
    """
    path = results.table_path(*MEASURED)
    hours = _hours(path) if path.exists() else None
    lines = [
        "| experiment | rows | images evaluated | learning steps | hours |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    total = [0, 0, 0, 0.0]
    for name, file in results.experiments().items():
        if name.startswith("imagenet/"):
            runs = Experiment.load(file).runs()
            cost = [
                len(runs),
                sum(run.images for run in runs),
                sum(map(_steps, runs)),
                sum(map(hours, runs)) if hours else 0.0,
            ]
            lines.append(_line(name.removeprefix("imagenet/"), cost, hours is not None))
            total = [a + b for a, b in zip(total, cost, strict=True)]
    lines.append(_line("**all**", total, hours is not None))
    if hours is None:
        return "\n".join(
            [*lines, "", f"Hours are not estimated: `qlib record {'/'.join(MEASURED)}` has not been run."]
        )
    (session, *_) = results.provenance(path)
    where = session.get("device", session["hardware"])
    origin = f"rows recorded on: {where}, torch {session['torch']}, products in {session['precision']}"
    return "\n".join([*lines, "", f"Hours are estimates for one device, from {origin}."])


def _hours(path):
    """A function from a run to its hours, from the recorded seconds of rows like it."""
    table = results.with_allocation(results.load_table(path))

    def seconds(**where) -> float:
        (row,) = results.select(table, [f"{name}={value}" for name, value in where.items()]).to_dict(
            "records"
        )
        return row["seconds"]

    plain = {
        "weight_bits": 8,
        "activation_bits": 8,
        "activation_range": "minmax",
        "activation_dynamic": "false",
        "weight_range": "minmax",
        "target_weight_bits": "null",
        "largest_map_bits": "null",
    }
    images = table.n.iloc[0]
    evaluation = seconds(**plain, activation_granularity="per_tensor")
    learned = table[table.target_weight_bits.notna()].iloc[0]
    step = {
        both: (seconds(target_weight_bits=learned.target_weight_bits, learn_ranges=both) - evaluation)
        / learned.steps
        for both in ("false", "true")
    }

    def hours(run: Run) -> float:
        both = str(bool(run.allocation) and run.allocation.target_activation_bits is not None).lower()
        return (evaluation * run.images / images + step[both] * _steps(run)) / 3600

    return hours


def _steps(run: Run) -> int:
    return run.allocation.steps if run.allocation and run.allocation.learned else 0


def _line(name: str, cost: list, estimated: bool) -> str:
    rows, images, steps, hours = cost
    return f"| {name} | {rows:,} | {images:,} | {steps:,} | {f'{hours:.1f}' if estimated else ''} |"
