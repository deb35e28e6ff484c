"""Images a second of a full-size ResNet-50 under `qlib`, on a CPU or a GPU: what a reproduction on ImageNet
would cost.

    python benchmarks/throughput.py --device cuda

The network has random weights and the images are generated on the device, so no data set is needed, and
loading images is not measured. Float, quantized with everything on, and steps of the learner; each also as a
ratio to float.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision

from qlib import Accuracy, QuantConfig, evaluate, learn_bitwidths, quantize

CONFIG = QuantConfig(weight_bits=4, activation_bits=4, activation_range="percentile")
LEARNER = {
    "weight bits": {"target_weight_bits": 4},
    "weight and activation bits, ranges": {
        "target_weight_bits": 4,
        "target_activation_bits": 4,
        "learn_ranges": True,
    },
}


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of ``work``, the device's queue emptied before and after."""
    taken = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def run(
    device: str, batch: int, batches: int, size: int, steps: int, repeats: int, compile: bool = False
) -> dict[str, float]:
    """Images a second by name. ``compile``: learning also as one graph of fewer kernels."""
    torch.manual_seed(0)
    place = torch.device(device)
    model = torchvision.models.resnet50().to(place)
    images = [torch.randn(batch, 3, size, size, device=place) for _ in range(batches)]
    with torch.no_grad():  # statistics that fit these images, so that outputs are finite and spread
        for x in images[:2]:
            model(x)
    model.eval()
    with torch.no_grad():
        data = [(x, model(x).argmax(1)) for x in images]
    n = batch * batches
    found = {}
    evaluate(model, data[:1])
    found["float"] = n / seconds(lambda: evaluate(model, data), place, repeats)
    quantized: list[torch.nn.Module] = []
    found["quantizing and calibrating"] = n / seconds(
        lambda: quantized.append(quantize(model, CONFIG, data)), place, 1
    )
    answers: list[Accuracy] = []
    found["quantized"] = n / seconds(lambda: answers.append(evaluate(quantized[0], data)), place, repeats)
    small = [(x[: min(batch, 32)], y[: min(batch, 32)]) for x, y in data[:8]]
    cases = {name: {**targets, "compile": False} for name, targets in LEARNER.items()}
    if compile:
        cases |= {f"{name}, compiled": {**targets, "compile": True} for name, targets in LEARNER.items()}
    for name, targets in cases.items():

        def learn(count: int, targets: dict = targets) -> None:
            config = QuantConfig(first_last_bits=None)
            learn_bitwidths(
                model, config, small, steps=count, allow_infeasible=True, progress=False, **targets
            )

        few, many = (seconds(lambda count=count: learn(count), place, 1) for count in (steps, 3 * steps))
        found[f"learning {name}"] = 2 * steps * min(batch, 32) / (many - few)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels at the side of an image")
    parser.add_argument("--steps", type=int, default=20, help="of the learner")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="learning also compiled (needs a compiler)")
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "CPU"
    tf32 = "may round to TF32" if torch.backends.cudnn.allow_tf32 else "in float32"
    print(
        f"{name}, torch {torch.__version__}; convolutions on a GPU {tf32}, float32 matrix products: "
        f"{torch.get_float32_matmul_precision()}"
    )
    found = run(**vars(arguments))
    for what, rate in found.items():
        print(f"  {what:50} {rate:9.1f} images/s  {found['float'] / rate:6.2f} x float")


if __name__ == "__main__":
    main()
