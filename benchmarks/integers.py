"""How many answers differ between a quantized network and the same network in integers, and why.

    python benchmarks/integers.py
    QLIB_CIFAR10_JPEG=../shared/data python benchmarks/integers.py --bench cifar10-jpeg
    python benchmarks/integers.py --set weight_symmetric=true symmetric_grid=restricted --onnxruntime

A line for every way to round biases, and the layer that needs most bits of an accumulator; with
`--onnxruntime` also what ONNX Runtime makes of the exported file.
"""

from __future__ import annotations

import argparse

import yaml

import qlib
from qlib.kernels import against_simulation, in_onnx_runtime


def run(bench: str, network: str, images: int, fields: dict[str, object], onnxruntime: bool) -> None:
    """Print what differs."""
    loaded = qlib.load_bench(bench)
    config = qlib.QuantConfig(**fields)
    calibration, batches = loaded.calibration(320), loaded.validation(images)
    quantized = qlib.quantize(loaded.models[network], config, calibration)
    for bias in ("kept", "rounded"):
        found = against_simulation(quantized, batches, bias=bias)
        most = max(found.layers.values(), key=lambda seen: seen.bits)
        print(f"biases {bias}: {found.equal:.2f} % equal; {found}")
        print(f"  most bits: {most.layer} needs {most.bits}, at most {most.bound}", flush=True)
    if onnxruntime:
        for each in in_onnx_runtime(loaded.models[network], config, calibration, batches):
            how = "with" if each.optimized else "without"
            print(f"ONNX Runtime {how} optimizations: {each.equal:.2f} % equal; {dict(each.kernels)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].replace("\n", " "))
    parser.add_argument("--bench", default="digits")
    parser.add_argument("--network", default="base")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of the configuration")
    parser.add_argument("--onnxruntime", action="store_true")
    arguments = parser.parse_args()
    fields = {
        name: yaml.safe_load(value) for name, _, value in (each.partition("=") for each in arguments.set)
    }
    run(arguments.bench, arguments.network, arguments.images, fields, arguments.onnxruntime)


if __name__ == "__main__":
    main()
