"""How long quantized networks take, as multiples of evaluating the float network on the same images in the
same process.

The float network is the digits bench's `base` with batch norm folded. Two tables are printed: evaluation
alone, and a whole configuration (quantize, calibrate, evaluate). `benchmarks/README.md` says how to read
them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.util
import os
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from qlib import Accuracy, QuantConfig, evaluate, load_bench, quantize
from qlib.benches import Batches
from qlib.network import read, verify
from qlib.provenance import processor
from qlib.quantizer import Quantizer

BITS = 4
CONFIG = QuantConfig(weight_bits=BITS, activation_bits=BITS, first_last_bits=None)
PERCENTILE = CONFIG.replace(weight_range="percentile", activation_range="percentile")
Build = Callable[[nn.Module, Batches], nn.Module]  # (float network, calibration batches) -> quantized network


# What is compared. Every builder takes the float network as trained and gives one that `evaluate` takes.


def ours(config: QuantConfig) -> Build:
    return lambda model, calibration: quantize(model, config, calibration)


class TorchOperator(nn.Module):
    """What a `Quantizer` does, by torch's own fake-quantize operator; its grid starts at 0 behind a ReLU, so
    clamps like one.
    """

    def __init__(self, quantizer: Quantizer):
        super().__init__()
        scale, zero_point, low, high, _ = quantizer.grid
        self.grid = scale.item(), int(zero_point), int(low), int(high)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, *self.grid)


def torch_operator(model: nn.Module, calibration: Batches) -> nn.Module:
    network = quantize(model, CONFIG, calibration)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Quantizer):
            network.set_submodule(name, TorchOperator(layer))
    return network


def brevitas(backend: str, cached: bool) -> Build:
    """The steps of Brevitas' own example of post-training quantization, less equalization and bias
    correction.
    """
    from brevitas.export.inference import quant_inference_mode
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import preprocess_for_quantize
    from brevitas_examples.imagenet_classification.ptq.ptq_common import quantize_model

    def build(model: nn.Module, calibration: Batches) -> nn.Module:
        network = quantize_model(
            preprocess_for_quantize(copy.deepcopy(model)),
            backend,
            weight_bit_width=BITS,
            act_bit_width=BITS,
            bias_bit_width=None,
            layerwise_first_last_bit_width=BITS,
            weight_quant_granularity="per_channel",
            weight_quant_type="asym",
            act_quant_type="asym",
            act_quant_percentile=CONFIG.percentile,
            scale_factor_type="float_scale",
            quant_format="int",
        )
        network.eval()
        with torch.no_grad():
            with calibration_mode(network):
                for x, _ in calibration:
                    network(x)
            quant_inference_mode(network, cache_quant_weight=cached).__enter__()  # for the rest of its life
            network(calibration[0][0][:2])  # the first call switches it over
        return network

    return build


def torchao(converted: bool) -> Build:
    """The route of torchao's PT2E: min/max and symmetric weights in fake-quantizers, histograms before a
    conversion.
    """
    from torchao.quantization.pt2e import disable_observer, move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    def build(model: nn.Module, calibration: Batches) -> nn.Module:
        spec = get_symmetric_quantization_config(
            is_per_channel=True,
            is_qat=not converted,
            act_qmin=0,
            act_qmax=2**BITS - 1,
            weight_qmin=-(2 ** (BITS - 1)),
            weight_qmax=2 ** (BITS - 1) - 1,
        )
        batch = torch.export.Dim("batch", min=2, max=1 << 20)
        exported = torch.export.export(
            fuse(model), (calibration[0][0],), dynamic_shapes=({0: batch},)
        ).module()
        network = (prepare_pt2e if converted else prepare_qat_pt2e)(
            exported, XNNPACKQuantizer().set_global(spec)
        )
        move_exported_model_to_eval(network)
        with torch.no_grad():
            for x, _ in calibration:
                network(x)
        if converted:
            network = move_exported_model_to_eval(convert_pt2e(network))
        network.train = lambda mode=False: network  # which exported networks refuse
        network.eval = network.train
        return network.apply(disable_observer)

    return build


# Label: the package it needs, and how to get the builder
PEERS: dict[str, tuple[str, Callable[[], Build]]] = {
    "Brevitas fx, inference mode": ("brevitas", lambda: brevitas("fx", cached=False)),
    "Brevitas fx, inference mode, weights cached": ("brevitas", lambda: brevitas("fx", cached=True)),
    "Brevitas layerwise, weights cached": ("brevitas", lambda: brevitas("layerwise", cached=True)),
    "torchao PT2E, fake-quantized": ("torchao", lambda: torchao(converted=False)),
    "torchao PT2E, converted": ("torchao", lambda: torchao(converted=True)),
}


def available_peers() -> dict[str, Build]:
    for package in sorted({package for package, _ in PEERS.values()}):
        if importlib.util.find_spec(package) is None:
            print(f"skipped {package}: not installed (pip install -r benchmarks/requirements.txt)")
    return {
        label: get()
        for label, (package, get) in PEERS.items()
        if importlib.util.find_spec(package) is not None
    }


# Timing.


def table(
    title: str, base: Callable[[], Accuracy], tasks: dict[str, Callable[[], Accuracy]], repeats: int
) -> dict[str, float]:
    """Time ``base`` and each task in turn, ``repeats`` times over; print and return the tasks' median
    multiples of ``base``.
    """
    seen = {label: (task(), [], []) for label, task in tasks.items()}  # the first run of each is not timed
    for _ in range(repeats):
        for label, task in tasks.items():
            for work, times in zip((base, task), seen[label][1:], strict=True):
                start = time.perf_counter()
                work()
                times.append(time.perf_counter() - start)
    print(f"\n{title}; {repeats} repeats\n{'':46}{'median':>8}{'fastest':>9}{'top-1 %':>9}")
    medians = {}
    for label, (accuracy, floats, times) in seen.items():
        medians[label] = statistics.median(t / f for t, f in zip(times, floats, strict=True))
        print(f"{label:46}{medians[label]:8.2f}{min(times) / min(floats):9.2f}{accuracy.top1:9.2f}")
    return medians


def verification(images: int, repeats: int) -> float:
    """The share of `quantize` that goes into comparing what was read with what was given: print and return
    the median.
    """
    bench = load_bench("digits")
    shares = []
    model = bench.models["base"]
    calibration = bench.calibration(images)
    quantize(model, CONFIG, calibration)
    for _ in range(repeats):
        start = time.perf_counter()
        quantize(model, CONFIG, calibration)
        whole = time.perf_counter() - start
        network = read(model, calibration[0][0])
        start = time.perf_counter()
        verify(model, network, calibration[0][0], "the calibration batch")
        shares.append((time.perf_counter() - start) / whole)
    print(f"\nComparing what was read with what was given / quantizing and calibrating; {repeats} repeats")
    print(f"{'':46}{statistics.median(shares):8.1%}{min(shares):9.1%}")
    return statistics.median(shares)


def run(
    images: int, calibration: int, repeats: int, peers: bool = False, compiled: bool = False
) -> dict[str, float]:
    """Print both tables for that many validation and calibration images; returns all median ratios by
    label.
    """
    bench = load_bench("digits")
    model = bench.models["base"]
    draw = bench.calibration(calibration)
    batches = bench.validation(images)
    float_network = fuse(model)
    base = functools.partial(evaluate, float_network, batches)
    others = available_peers() if peers else {}
    builders = {
        "qlib": ours(CONFIG),
        **({"torch's operator where qlib quantizes": torch_operator} if peers else {}),
        **others,
    }
    networks = {
        "float again": float_network,
        **{label: build(model, draw) for label, build in builders.items()},
    }
    if compiled:
        chosen = ["float again", "qlib", *(label for label in networks if "layerwise" in label)]
        for label in chosen:
            # Quantizers settle at their first call, best before compilation
            evaluate(networks[label], batches[:1])
            network = torch.compile(networks[label])
            label = f"{label.removesuffix(' again')}, compiled"
            start = time.perf_counter()
            evaluate(network, batches)
            print(
                f"{label}: the first evaluation took {time.perf_counter() - start:.0f} s, compilation "
                "included"
            )
            networks[label] = network
    tasks = {label: functools.partial(evaluate, network, batches) for label, network in networks.items()}
    result = table(f"Evaluating {images:,} images, {BITS} bits / float", base, tasks, repeats)
    builders = {"qlib, minmax": ours(CONFIG), "qlib, percentile": ours(PERCENTILE), **others}
    tasks = {
        label: lambda build=build: evaluate(build(model, draw), batches) for label, build in builders.items()
    }
    title = f"Quantizing, calibrating on {calibration:,}, evaluating {images:,} / evaluating float"
    return result | table(title, base, tasks, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="validation images (2000)")
    parser.add_argument("--calibration", type=int, default=320, help="calibration images (320)")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of everything, interleaved (7)")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (2)")
    parser.add_argument(
        "--peers", action="store_true", help="torch's own operator, Brevitas and torchao too, where installed"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile too; needs a C++ compiler")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")  # the peers' deprecations
    compiled = arguments.compile and shutil.which(os.environ.get("CXX", "c++")) is not None
    if arguments.compile and not compiled:
        print("skipped --compile: no C++ compiler found")
    print(
        f"{date.today()}; {processor()}, {arguments.threads} threads; torch {torch.__version__}; python "
        f"{' '.join(sys.argv)}"
    )
    if (load := os.getloadavg()[0]) > 0.5:
        print(f"the machine is busy (load {load:.1f}): these ratios mean little")
    run(arguments.images, arguments.calibration, arguments.repeats, arguments.peers, compiled)
    verification(arguments.calibration, arguments.repeats)


if __name__ == "__main__":
    main()
