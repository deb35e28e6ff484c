"""A residual block whose quantizers move with two switches, and what that does to accuracy and memory."""

from __future__ import annotations

from .. import results
from ..benches import load_bench
from ..comparison import mean_of
from ..config import QuantConfig
from ..footprints import footprint
from ..plots import PLACEMENTS
from .figure import Figure, table

BENCH, TABLE, NETWORK = "digits", "skip-residual", "base"


def residual_block() -> Figure:
    """From the recorded rows of ``digits/skip-residual``; it acts without a kernel. Memory is that of all
    feature maps of the bench's network, with what stays in float at 32 bits.
    """
    rows = results.load_rows(results.table_path(BENCH, TABLE))
    bench = load_bench(BENCH)
    network, example = bench.models[NETWORK], bench.validation(1)[0][0]
    bits = sorted({row["activation_bits"] for row in rows if row["activation_bits"] is not None})
    settings = {}
    for (skip, residual), series in PLACEMENTS.items():
        points = []
        for b in bits:
            where = {"activation_bits": b, "quantize_skip": skip, "quantize_residual": residual}
            mean = mean_of(results.measured(rows, where))
            size = footprint(network, example, QuantConfig(**where))
            points.append(
                {
                    "top1": round(mean.value, 3),
                    "low": round(mean.interval[0], 3),
                    "high": round(mean.interval[1], 3),
                    "draws": mean.seeds,
                    "average": round(size.average_activation_bits, 3),
                    "bytes": size.activation_bytes,
                }
            )
        settings[f"{skip} {residual}".lower()] = {
            "name": series.name,
            "colour": series.colour,
            "points": points,
        }
    (in_float,) = results.measured(rows, {"activation_bits": None})
    state = {"bits": bits, "settings": settings, "float": round(in_float.value, 3), "n": in_float.n}
    four = {s["name"]: f"{s['points'][bits.index(4)]['top1']:.1f} %" for s in settings.values()}
    return Figure("block", state, table("Accuracy with 4-bit activations", four))
