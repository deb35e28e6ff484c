"""ImageNet: the reader's own copy of the images, and the networks of the paper; and generated images, to time
it.

``$QLIB_IMAGENET`` names a folder with ``train/`` and ``val/``, a subfolder for each of the 1,000 classes
(ImageFolder). Both libraries publish the same preprocessing for these networks: shorter side to 256 pixels,
central 224, mean and deviation of ImageNet. The first run on validation images decodes them once into the
cache (50,000: 7.5 GB).

``base`` is torchvision's ResNet-50 with its V1 weights, ``better`` pytorchcv's ``resnet50b``, which has the
same graph (the stride in the 3x3 convolution), and ``better-v1`` pytorchcv's ``resnet50``, the paper's, which
has not (stride in the first 1x1).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..files import whole
from .images import IMAGENET, ImageBench, folders
from .pretrained import Networks, cache, fetch, load_weights

BATCH = 100
GENERATED = {"train": 1024, "val": 4096}  # images
CLASSES = 16  # of generated images


def imagenet() -> ImageBench:
    """The bench ``"imagenet"``. Raises ``ValueError`` where ``$QLIB_IMAGENET`` is not set, or classes are
    missing there.
    """
    if "QLIB_IMAGENET" not in os.environ:
        raise ValueError(
            "set QLIB_IMAGENET to a folder that holds ImageNet as train/ and val/, a subfolder for every "
            "class"
        )
    makers = {
        "base": torchvision_resnet50,
        "better": lambda: pytorchcv_network("resnet50b"),
        "better-v1": lambda: pytorchcv_network("resnet50"),
    }
    bench = folders("imagenet", Path(os.environ["QLIB_IMAGENET"]), IMAGENET, Networks(makers), BATCH)
    if (found := len(bench.train.classes)) != 1000:  # the labels of all later ones would be shifted
        raise ValueError(f"{os.environ['QLIB_IMAGENET']} holds {found:,} classes, not ImageNet's 1,000")
    return bench


def torchvision_resnet50() -> nn.Module:
    from torchvision.models import ResNet50_Weights, resnet50

    url = ResNet50_Weights.IMAGENET1K_V1.url
    name = url.rsplit("/", 1)[1]  # ends in the first digits of its SHA-256
    return load_weights(resnet50(), fetch(url, name, "sha256", name.rsplit("-", 1)[1].removesuffix(".pth")))


def pytorchcv_network(name: str) -> nn.Module:
    """A pretrained network of pytorchcv's model store."""
    from pytorchcv.model_provider import get_model
    from pytorchcv.models.common.model_store import get_model_name_suffix_data, imgclsmob_repo_url

    error, sha1, release = get_model_name_suffix_data(name)
    file = f"{name}-{error}-{sha1[:8]}.pth"
    url = f"{imgclsmob_repo_url}/releases/download/{release}/{file}.zip"
    return load_weights(get_model(name), fetch(url, file, "sha1", sha1))


def generated() -> ImageBench:
    """The bench ``"imagenet-generated"``: JPEG files of smooth noise, made in the cache on first use, and a
    ResNet-50 of random weights. The same loaders, preprocessing and sizes as ImageNet; its accuracies mean
    nothing.
    """
    folder = cache() / "imagenet-generated"
    generate(folder, GENERATED)
    bench = folders("imagenet-generated", folder, IMAGENET, {}, BATCH)
    bench.models = Networks({"base": lambda: random_resnet50(bench.calibration(64)[0][0])})
    return bench


def generate(folder: Path, sizes: dict[str, int], seed: int = 0) -> None:
    """Write images that are not there yet: ``sizes`` of them by part, in `CLASSES` classes of one hue
    each.
    """
    from PIL import Image

    def write(part: str, i: int) -> None:
        path = folder / part / f"{i % CLASSES:02}" / f"{i:05}.jpg"
        if path.exists():
            return
        random = np.random.default_rng([seed, part == "val", i])
        coarse = random.integers(0, 256, (12, 16, 3)) * (
            0.4 + 0.6 * np.random.default_rng(i % CLASSES).random(3)
        )
        height, width = random.integers(300, 500, 2).tolist()
        picture = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            picture.save(temporary, "jpeg", quality=90)

    with ThreadPoolExecutor() as pool:
        for part, n in sizes.items():
            list(pool.map(lambda i, part=part: write(part, i), range(n)))


def random_resnet50(images: torch.Tensor) -> nn.Module:
    """torchvision's ResNet-50 with random weights of a fixed seed; its batch norms have the statistics of
    ``images``.
    """
    from torchvision.models import resnet50

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = resnet50()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None  # statistics of all passes in training mode, that is of one
    with torch.no_grad():
        network.train()(images)
    return network.eval()
