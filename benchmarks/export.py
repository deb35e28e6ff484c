"""How long a ResNet-18 that `qlib` exported runs in ONNX Runtime, as a multiple of the one that
`quantize_static`, ONNX Runtime's own quantizer, makes under the same choices.

    python benchmarks/export.py

Weights are random, batch norms know the statistics of the images, and these are random too: only time is
measured. One image, one thread. Every file runs in turn with the one it is compared with, in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
from onnxruntime import quantization
from sessions import session

from qlib import QuantConfig
from qlib.export import export_onnx
from qlib.kernels.alternating import alternate, seconds

SYMMETRIC_WEIGHTS = {"weight_symmetric": True, "symmetric_grid": "restricted"}  # as quantize_static has them
CHOICES = {
    "symmetric weights": SYMMETRIC_WEIGHTS,
    "symmetric weights and activations": {**SYMMETRIC_WEIGHTS, "activation_symmetric": True},
}


def network(images: torch.Tensor) -> torch.nn.Module:
    """A ResNet-18 whose batch norms know the statistics of ``images``."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of all passes, that is of one
    with torch.no_grad():
        model.train()(images)
    return model.eval()


class Images(quantization.CalibrationDataReader):
    def __init__(self, images: torch.Tensor):
        self.batches = [{"input": images.numpy()}]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.batches.pop() if self.batches else None


def quantize_static(model: torch.nn.Module, images: torch.Tensor, symmetric: bool, folder: Path) -> Path:
    """What ONNX Runtime makes of a network, with activations on a symmetric grid or not."""
    options = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": {"input": {0: "n"}}}
    torch.onnx.export(model, (images[:1],), folder / "float.onnx", dynamo=False, opset_version=17, **options)
    quantization.shape_inference.quant_pre_process(
        folder / "float.onnx", folder / "ready.onnx", skip_symbolic_shape=True
    )
    quantization.quantize_static(
        folder / "ready.onnx",
        folder / "static.onnx",
        Images(images),
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        activation_type=quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8,
        extra_options={"ActivationSymmetric": symmetric},
    )
    return folder / "static.onnx"


def runs(path: Path, image: np.ndarray) -> Callable[[], object]:
    """One pass through a file, on one thread."""
    started = session(str(path))
    return lambda: started.run(None, {"input": image})


def run(size: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """By choices and file, the ratios; printed as a table."""
    images = torch.randn(8, 3, size, size)
    model = network(images)
    image = images[:1].numpy()
    found = {}
    for choices, fields in CHOICES.items():
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(name)
            symmetric = fields.get("activation_symmetric", False)
            static = quantize_static(model, images, symmetric, folder)
            base = runs(static, image)
            others = {"quantize_static again": runs(static, image)}
            for target in ("onnxruntime", "exact"):
                path = folder / f"{target}.onnx"
                export_onnx(model, QuantConfig(**fields), images, images[:1], path, target=target)
                others[f"qlib, --for {target}"] = runs(path, image)
            others["float"] = runs(folder / "ready.onnx", image)
        found[choices] = dict(zip(others, alternate(base, others.values(), repeats), strict=True))
        print(f"{choices}, {size} pixels: quantize_static takes {100 * seconds(base, 10):.2f} ms")
        for label, each in found[choices].items():
            low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
            print(f"  {label:26} {middle:6.3f}   half of them {low:.3f} to {high:.3f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].replace("\n", " "))
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[160, 224], help="pixels at the side of an image"
    )
    parser.add_argument("--repeats", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}")
    for size in arguments.sizes:
        run(size, arguments.repeats)


if __name__ == "__main__":
    main()
