"""What a run says about itself: the fields of a card by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..benches import Bench, is_packaged, network_of, weights_hash
from ..benches.texts import PROTOCOLS, Protocol
from ..comparison import mean_of
from ..config import QuantConfig
from ..methods import words
from ..metrics import Measurement
from .fields import NOT_REPORTED

if TYPE_CHECKING:
    from torch import nn

    from ..footprints import Footprint
    from ..kernels.latency import Latency

SIZES = (
    "average_weight_bits",
    "average_activation_bits",
    "effective_weight_bits",
    "weight_bytes",
    "activation_bytes",
    "max_activation_bytes",
)


def from_run(
    config: QuantConfig,
    accuracy: Measurement | Sequence[Measurement] | None = None,
    *,
    method: Any = "nearest",
    baseline: Measurement | None = None,
    size: Footprint | None = None,
    model: nn.Module | None = None,
    bench: Bench | None = None,
    network: str = NOT_REPORTED,
    latency: Latency | None = None,
) -> dict[str, Any]:
    """The fields that a run knows, see `qlib.QuantizationCard.from_run`."""
    fields = {"network": network}
    if bench is not None:
        model = network_of(bench, network) if model is None else model
        fields = of_bench(bench.name, network, is_packaged(bench))
        if size is None:
            from ..footprints import footprint

            size = footprint(model, bench.validation(1)[0][0], config)
    fields |= _of_config(config)
    if not config.in_float:
        fields |= words(method)
    if model is not None:
        fields["weights_hash"] = weights_hash(model)
    if accuracy is not None:
        fields |= _of_measured([accuracy] if isinstance(accuracy, Measurement) else list(accuracy))
    if baseline is not None:
        fields["float_accuracy"] = _measured([baseline])
    if latency is not None:
        fields |= _of_latency(latency)
    return fields if size is None else fields | _of_size(size, config)


def of_bench(bench: str, network: str, packaged: bool) -> dict[str, Any]:
    """``packaged``: whether it is one of this package, whose training and validation images are apart. Of
    others nobody has looked.
    """
    protocol = PROTOCOLS.get(bench)
    return {
        "network": f"{network} of the bench {bench}",
        "dataset": f"{bench}, validation images",
        "data": "training images",
        "calibration_overlaps_test": False if packaged else NOT_REPORTED,
        **({} if protocol is None else _of_protocol(protocol)),
        **({"dataset": "SICK, test pairs", "data": "SICK, trial pairs"} if bench == "sentences" else {}),
    }


def _of_protocol(protocol: Protocol) -> dict[str, Any]:
    return {
        "dataset": "WikiText-2, test text",
        "data": "sentences of SICK" if protocol.other else "WikiText-2, validation text",
        "context": protocol.context,
        "stride": protocol.context,
        "bos": protocol.begin,
    }


def _of_config(config: QuantConfig) -> dict[str, Any]:
    by_layer = any(isinstance(bits, Mapping) for bits in (config.weight_bits, config.activation_bits))
    what = {"technique": "none: float"} if config.in_float else {"quantizer": "uniform"}
    what |= {"bias": "float", "accumulator_bits": "float"}
    return {**what, **config.in_words(), "allocation": "by layer" if by_layer else "uniform"}


def _of_measured(runs: Sequence[Measurement]) -> dict[str, Any]:
    fields = {
        "accuracy": _measured(runs),
        "seeds": len(runs),
        "metric": runs[0].metric.name,
        "examples": runs[0].n,
    }
    if len(runs) > 1:
        fields["spread"] = _rounded(mean_of(runs).spread)
    return fields


def _measured(runs: Sequence[Measurement]) -> dict[str, Any]:
    """Of top-1 percent alone; of another metric what it is, too."""
    mean = mean_of(runs)
    low, high = map(_rounded, mean.interval)
    ends = {"low": low, "high": high} if np.isfinite(mean.interval).all() else {}
    if mean.metric.name == "top1":
        return {"top1": _rounded(mean.value), **ends, "n": mean.n}
    unit = {"unit": mean.metric.unit} if mean.metric.unit else {}
    title = mean.metric.title or mean.metric.name
    return {"metric": title, **unit, "value": _rounded(mean.value), **ends, "n": mean.n}


def _of_latency(latency: Latency) -> dict[str, Any]:
    busy = {True: ", while other programs ran", False: "", None: ", whether others ran is not known"}
    where = f"{latency.runtime}, on {latency.hardware}{busy[latency.busy]}"
    return {"latency_ratio": _rounded(latency.ratio), "runtime": where}


def _rounded(value: float) -> float:
    """To two decimals, or four digits where that says more."""
    return round(value, 2) if abs(value) >= 1 else float(f"{value:.4g}")


def _of_size(size: Footprint, config: QuantConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {name: round(getattr(size, name), 4) for name in SIZES}
    fields["batch_norm"] = _batch_norm(size, config)
    if size.in_float:
        fields["remarks"] = f"Computed in float: {', '.join(size.in_float)}."
    return fields


def _batch_norm(size: Footprint, config: QuantConfig) -> str:
    """What becomes of those that the network has. In float nothing is folded."""
    left = any("batchnorm" in name.lower().replace("_", "") for name in size.in_float)
    if not size.folded and not left:
        return NOT_REPORTED
    if config.in_float or not size.folded:
        return "separate"
    return "folded behind a layer, else separate" if left else "folded"
