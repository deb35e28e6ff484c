"""CIFAR-10 (Krizhevsky 2009) with pytorchcv's pretrained ResNets; and JPEG files of it with a foreign
network.

The images are downloaded in their binary version (which, unlike the Python version, holds no pickles), or
taken from the folder that ``$QLIB_CIFAR10`` names, with ``train/`` and ``test/``, a subfolder for every
class. pytorchcv publishes one set of weights for a graph, so there is no ``better`` network of the same graph
as ``base`` (ResNet-20): ``deeper`` is a ResNet-56.
"""

from __future__ import annotations

import os
import tarfile
from functools import cache, partial
from pathlib import Path

import numpy as np
from torch import nn

from .imagenet import pytorchcv_network
from .images import ImageBench, Images, Preprocess, folders, own
from .pretrained import Networks, factory, fetch, load_weights

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9dddda3db29a59bca1dd"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PREPROCESS = Preprocess((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # what pytorchcv trained with
BATCH = 250
DEEPER = (32, 44, 56)  # layers of what is beside ResNet-20


class Records:
    """Images of the binary version: a byte of label and 3 x 32 x 32 bytes of pixels each."""

    classes = CLASSES
    preprocess = PREPROCESS

    def __init__(self, records: bytes):
        table = np.frombuffer(records, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        self.pixels = table[:, 1:].reshape(-1, 3, 32, 32)
        self.labels = table[:, 0].astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, chosen: np.ndarray, batch: int, keep: bool) -> Images:
        return Images(self.pixels[chosen], self.labels[chosen], PREPROCESS, batch)


@cache
def _records(archive: Path) -> tuple[Records, Records]:
    with tarfile.open(archive) as files:

        def read(name: str) -> bytes:
            return files.extractfile(f"cifar-10-batches-bin/{name}.bin").read()

        return Records(b"".join(read(f"data_batch_{i}") for i in range(1, 6))), Records(read("test_batch"))


def cifar10() -> ImageBench:
    """The bench ``"cifar10"``."""
    models = Networks(
        {
            "base": lambda: pytorchcv_network("resnet20_cifar10"),
            "deeper": lambda: pytorchcv_network("resnet56_cifar10"),
        }
    )
    if "QLIB_CIFAR10" in os.environ:
        return folders("cifar10", Path(os.environ["QLIB_CIFAR10"]), PREPROCESS, models, BATCH)
    return ImageBench(
        "cifar10", *_records(fetch(URL, URL.rsplit("/", 1)[1], "sha256", SHA256)), models, BATCH
    )


def cifar10_jpeg() -> ImageBench:
    """The bench ``"cifar10-jpeg"``: ``$QLIB_CIFAR10_JPEG`` names a folder with
    ``cifar10-jpeg/{train,test}/<class>/*.jpg``, the networks' code ``resnet_cifar.py`` (which is run) and
    their weights: ``base`` is ``resnet20-cifar10.safetensors``, and ``resnet32``, ``resnet44``, ``resnet56``
    are there where their files are. Re-encoding as JPEG costs ResNet-20 about ten points, so its float
    accuracy is not that on CIFAR-10.
    """
    if "QLIB_CIFAR10_JPEG" not in os.environ:
        raise ValueError(
            "set QLIB_CIFAR10_JPEG to a folder with cifar10-jpeg/, resnet_cifar.py and "
            "resnet20-cifar10.safetensors"
        )
    folder = Path(os.environ["QLIB_CIFAR10_JPEG"])
    bench = own(
        "cifar10-jpeg",
        f"{folder / 'resnet_cifar.py'}:resnet20",
        folder / "resnet20-cifar10.safetensors",
        folder / "cifar10-jpeg",
        Preprocess(),
        BATCH,
    )
    files = {f"resnet{depth}": folder / f"resnet{depth}-cifar10.safetensors" for depth in DEEPER}
    deeper = {name: partial(_jpeg_network, folder, name) for name, path in files.items() if path.exists()}
    bench.models = Networks({**bench.models.makers, **deeper})
    return bench


def _jpeg_network(folder: Path, name: str) -> nn.Module:
    network = factory(f"{folder / 'resnet_cifar.py'}:{name}")()
    return load_weights(network, folder / f"{name}-cifar10.safetensors")
