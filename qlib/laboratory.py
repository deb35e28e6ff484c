"""The laboratory, which measures one run of a grid: what its row depends on, and what it found.

Rows are looked at without torch, which is imported where something is measured.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from .benches import Batches, Bench, data_hash, is_packaged, network_of, structure_hash, weights_hash
from .bits.settings import LearnerSettings
from .choices import plain
from .config import QuantConfig
from .devices import PRECISIONS, Prefetched, computing, device_named
from .evaluation import evaluate
from .experiments import TRAINING, Run
from .methods import identity as identity_of_methods
from .methods import unspelled
from .metrics import TOP1, Accuracy, Measurement, description, find_metric
from .own import is_spec, origin, short

if TYPE_CHECKING:
    import torch

    from .bits.learn import LearnedBitwidths
    from .network import Network

ROUNDED = 64  # networks with quantized weights that are kept for the next run
CODE_VERSION = 2  # raise it when a change to qlib changes results: every row is then recorded anew


class Laboratory:
    """A bench whose data and hashes are made once, for many runs.

    ``device``: where networks run, as torch names it. ``precision``: of products and their sums. ``float32``;
    ``tf32``, which rounds factors to 10 bits of mantissa where a GPU can; or ``bfloat16`` by autocast.
    Quantizers compute in float32 always.
    """

    def __init__(self, bench: Bench, device: str = "cpu", precision: str = "float32"):
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(map(repr, PRECISIONS))}; got {precision!r}"
            )
        self.bench = bench
        self.device = device_named(device)
        self.precision = precision
        self.weights = functools.cache(lambda network: weights_hash(self.network(network)))
        self.structure = functools.cache(lambda network: structure_hash(self.network(network)))
        self.calibration = functools.cache(lambda n, seed: self.bench.calibration(n, seed) if n else [])
        self.training = functools.cache(self.bench.training)
        self.validation = functools.lru_cache(1)(self.bench.validation)
        self.substitute = functools.cache(self._substitute)  # distilling takes minutes
        self.rounded = functools.lru_cache(ROUNDED)(self._rounded)
        self.hash = functools.cache(lambda stream, *arguments: data_hash(getattr(self, stream)(*arguments)))

    def network(self, name: str) -> torch.nn.Module:
        return network_of(self.bench, name).to(self.device)

    def on_device(self, batches: Batches) -> Batches | Prefetched:
        return batches if self.device.type == "cpu" else Prefetched(batches, self.device)

    def identity(self, run: Run) -> dict[str, Any]:
        """What a row depends on, and the key made of it."""
        stream = "training" if run.allocation and run.allocation.learned else "calibration"
        data = self.hash(stream, run.calibration_images, run.calibration_seed) + self.hash(
            "validation", run.images
        )
        said = _identity_of_config(run)
        depends = {
            "bench": run.bench,
            "network": run.network,
            "weights": self.weights(run.network),
            "data": hashlib.sha256(data.encode()).hexdigest()[:16],
            "code_version": CODE_VERSION,
            "calibration_images": run.calibration_images,
            "calibration_seed": run.calibration_seed,
            **said,
            **({"allocation": run.allocation.identity()} if run.allocation else {}),
            **({"precision": self.precision} if self.precision != "float32" else {}),
            **({"rounding_seed": run.rounding_seed} if run.rounding_seed else {}),
            **({"kind_of_data": run.data} if run.data != TRAINING else {}),
            **({"weights_first": True} if run.weights_first else {}),
            "n": run.images,
        }
        key = dict(depends)
        if not is_packaged(self.bench):  # whose networks' code may change
            key["structure"] = self.structure(run.network)
        if said.keys() - QuantConfig.defaults().keys():
            key["config_class"] = origin(type(run.config))
        if run.method != "nearest":
            methods = identity_of_methods(run.method)
            key["method"] = [{**method, "name": short(method["name"])} for method in methods]
        if run.metric != TOP1.name:
            key["metric"] = {"name": short(run.metric), **_code_of_metric(run.metric)}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return {"key": digest, **depends, "method": run.method, "metric": description(run.metric)}

    def measure(self, run: Run) -> dict[str, Any]:
        """Choose bits if the run asks for it, quantize, calibrate, evaluate: the cells of a row that are
        results.
        """
        with computing(self.device, self.precision):
            return self._measure(run)

    def _measure(self, run: Run) -> dict[str, Any]:
        from .footprints import footprint
        from .network.inputs import first, inputs_of
        from .quantization import quantize, read_verified

        given = self.network(run.network)
        draw = (run.calibration_images, run.calibration_seed)
        learns = run.allocation is not None and run.allocation.learned
        calibration = self.on_device(self._images(run, draw, learns))
        config = run.config
        ranges = None
        cells = {}
        network = (
            given
            if config.in_float
            else read_verified(given, config, inputs_of(itertools.islice(iter(calibration), 1)))
        )
        if run.allocation:
            example = first(self.validation(run.images)[0][0], 1)
            if learns:
                learned = self._learn(run, given, network, calibration)
                config = learned.config
                ranges = learned.ranges
                cells["feasible"] = learned.feasible
            else:
                config = _within_largest_map(network, example, config, run.allocation.largest_map_bits)
            size = footprint(network, example, config)
            cells |= {
                "average_weight_bits": size.average_weight_bits,
                "average_activation_bits": size.average_activation_bits,
                "bits": {e.name: [round(e.weight_bits, 4), round(e.activation_bits, 4)] for e in size.layers},
            }
        method = run.method
        if run.weights_first:
            rounded = dataclasses.replace(run, config=config.of_side("weight"))
            network, config, method = self.rounded(rounded), config.of_side("activation"), "nearest"
        quantized = quantize(
            network, config, calibration, unspelled(method), ranges, rounding_seed=run.rounding_seed
        )
        validation = self.on_device(self.validation(run.images))
        return {**cells, **_measured(evaluate(quantized, validation, run.metric, reference=given))}

    def _images(self, run: Run, draw: tuple[int, int], learns: bool) -> Batches:
        """What is calibrated, and learned, on."""
        if run.data == TRAINING or not run.calibration_images:
            return self.training(*draw) if learns else self.calibration(*draw)
        if learns and run.allocation.labels == "true":
            raise ValueError(
                f"images of the kind {run.data!r} have no true labels: set labels to hard or soft"
            )
        return self.substitute(run.data, run.network, *draw)

    def _substitute(self, kind: str, network: str, n: int, seed: int) -> Batches:
        from .benches.substitutes import substitute

        return substitute(kind, self.bench, self.network(network), n, seed)

    def _rounded(self, run: Run) -> Network:
        """Weights quantized, and all activations in float. Kept for runs that have these weights alike."""
        from .quantization import weights_first

        calibration = self.on_device(self._images(run, (run.calibration_images, run.calibration_seed), False))
        network = self.network(run.network)
        return weights_first(
            network, run.config, calibration, unspelled(run.method), rounding_seed=run.rounding_seed
        )

    def _learn(
        self, run: Run, given: torch.nn.Module, network: Network, training: Batches
    ) -> LearnedBitwidths:
        from .bits.labels import pseudo_labels
        from .bits.learn import learn_bitwidths

        labels = run.allocation.labels
        settings = {name: getattr(run.allocation, name) for name in LearnerSettings.defaults()}
        settings["allow_infeasible"] = True  # that a limit was missed is an outcome, and the row says so
        if labels != "true":
            training = pseudo_labels(given, training, soft=labels == "soft")
        return learn_bitwidths(
            network,
            run.config,
            training,
            seed=run.calibration_seed,
            metric=run.metric,
            progress=False,
            **settings,
        )


def _measured(found: Measurement) -> dict[str, Any]:
    """The cells of a row that say what was measured: for top-1 its answers, one bit an image."""
    digits = 4 if found.metric.unit == "%" else None
    ends = (end if digits is None else round(end, digits) for end in found.interval)
    low, high = (end if np.isfinite(end) else None for end in ends)
    if isinstance(found, Accuracy):
        top1 = round(found.top1, 4)
        return {"top1": top1, "value": top1, "low": low, "high": high, "correct": pack(found.correct)}
    each = base64.b64encode(found.values.astype("<f4").tobytes()).decode()
    top1 = round(found.value, 4) if found.metric is TOP1 else None
    return {"top1": top1, "value": found.value, "low": low, "high": high, "correct": "", "values": each}


def _code_of_metric(name: str) -> dict[str, str]:
    """The code that a metric consists of: where it is named, and where its functions stand."""
    metric = find_metric(name)
    return origin(name if is_spec(name) else None, metric.each, metric.whole, metric.of_all)


def _identity_of_config(run: Run) -> dict[str, Any]:
    """What the key of a row holds of a configuration. Choices of the reader's own that are at their default
    are no part of it where only methods of this package work, which do not know them.
    """
    said = run.config.identity()
    if any(part.get("code") for part in identity_of_methods(run.method)):
        return said
    defaults = {name: plain(value) for name, value in run.config.defaults().items()}
    return {k: v for k, v in said.items() if k in QuantConfig.defaults() or v != defaults[k]}


def _within_largest_map(
    network: Network, example: torch.Tensor, config: QuantConfig, bits: int
) -> QuantConfig:
    from .bits.analytic import analytic_bitwidths
    from .footprints import footprint

    elements = max(
        layer.activation_elements for layer in footprint(network, example, config).layers if layer.counted
    )
    return analytic_bitwidths(network, example, config, elements * bits / 8)


def pack(correct: np.ndarray) -> str:
    """A bool array as base64 text, eight images a byte."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()
