"""Benches made of image files: listed, preprocessed as a network was published to want them, decoded once,
given in batches.

Images are kept as the 8-bit pixels that the preprocessing leaves; a float32 batch is made of them when it is
asked for. Those of validation lie in a file of the cache and are mapped, not loaded, so ImageNet's 50,000
need 7.5 GB of disk and little memory.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..files import whole, write_whole
from .pretrained import Networks, cache, factory, load_weights


@dataclass(frozen=True)
class Preprocess:
    """From a picture to a network's input: the shorter side resized to ``resize`` pixels (``interpolation``:
    bilinear or bicubic), the central square of ``crop`` pixels, RGB in [0, 1] less ``mean``, over ``std``.
    ``None`` leaves a step out. Equal to torchvision's transforms.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: int | None = None
    crop: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = isinstance(value, tuple) and all(isinstance(v, (int, float)) for v in value)
            if not numbers or len(value) not in (1, 3) or name == "std" and min(value) <= 0:
                positive = "positive " if name == "std" else ""
                raise ValueError(f"preprocess: {name} must be {positive}numbers by channel, got {value!r}")
            if not all(0 <= v <= 1 for v in value):
                raise ValueError(f"preprocess: {name} is of pixels from 0 to 1, got {value!r}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"preprocess: interpolation must be 'bilinear' or 'bicubic', got {self.interpolation!r}"
            )
        if self.resize and self.crop and self.crop > self.resize:
            raise ValueError(f"preprocess: crop {self.crop} is more than what resize leaves, {self.resize}")
        for name in ("resize", "crop"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"preprocess: {name} must be a number of pixels, or null, got {value!r}")

    def __str__(self) -> str:
        steps = [f"shorter side to {self.resize} pixels, {self.interpolation}"] if self.resize else []
        steps += [f"central {self.crop}"] if self.crop else []
        ends = (f"{name} {', '.join(f'{v:g}' for v in getattr(self, name))}" for name in ("mean", "std"))
        return ", ".join([*steps, *ends])

    def pixels(self, picture) -> np.ndarray:
        """Of a PIL image, what all but the last step leaves: uint8 ``(3, h, w)``."""
        from torchvision.transforms import functional as transforms

        picture = picture.convert("RGB")
        if self.resize:
            mode = transforms.InterpolationMode(self.interpolation)
            picture = transforms.resize(picture, self.resize, mode)
        picture = transforms.center_crop(picture, self.crop) if self.crop else picture
        return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))

    def normalized(self, pixels: Tensor) -> Tensor:
        """uint8 ``(n, 3, h, w)`` as float32 input of the network."""
        mean, std = (torch.tensor(v, device=pixels.device).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return pixels.float().div_(255).sub_(mean).div_(std)


IMAGENET = Preprocess(resize=256, crop=224)  # of torchvision's V1 weights, and of pytorchcv's ResNets


class Images(Sequence):
    """Batches of (float32 images, int64 labels), made when they are asked for, from uint8 pixels ``(n, 3, h,
    w)``.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        preprocess: Preprocess,
        batch: int,
        digest: str | None = None,
    ):
        """``digest``: the SHA-256 of the pixels, where it is known already."""
        self.pixels = pixels
        self.labels = labels
        self.preprocess = preprocess
        self.batch = batch
        self.digest = digest

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not 0 <= i < len(self):
            raise IndexError(f"there are {len(self)} batches, no number {i}")
        part = slice(i * self.batch, (i + 1) * self.batch)
        return self.preprocess.normalized(torch.from_numpy(np.array(self.pixels[part]))), torch.from_numpy(
            self.labels[part]
        )

    @cached_property
    def hash(self) -> str:
        """Of pixels, labels and normalization, however they are batched: 16 hexadecimal digits."""
        pixels = self.digest or hashlib.sha256(np.ascontiguousarray(self.pixels)).hexdigest()
        normalization = repr((self.preprocess.mean, self.preprocess.std))
        return hashlib.sha256(pixels.encode() + self.labels.tobytes() + normalization.encode()).hexdigest()[
            :16
        ]


class Folder:
    """A folder of image files, one subfolder a class, as torchvision's ``ImageFolder``: classes count in
    alphabetical order.
    """

    def __init__(self, root: Path, preprocess: Preprocess):
        from torchvision.datasets import ImageFolder

        self.root = root
        self.preprocess = preprocess
        listing = ImageFolder(root)  # raises FileNotFoundError, saying which class has no image
        self.classes = listing.classes
        self.samples = listing.samples

    def __len__(self) -> int:
        return len(self.samples)

    def images(self, chosen: np.ndarray, batch: int, keep: bool) -> Images:
        """The images of these numbers. With ``keep`` their pixels are kept in the cache, where the next call
        finds them.

        Raises ``ValueError`` naming the file that is not an image, or has another size than those before it.
        """
        paths = [Path(self.samples[i][0]) for i in chosen]
        labels = np.array([self.samples[i][1] for i in chosen], dtype=np.int64)
        if not keep:
            return Images(np.stack(list(self._decoded(paths))), labels, self.preprocess, batch)
        files = [
            (str(path.relative_to(self.root)), (status := path.stat()).st_size, status.st_mtime_ns)
            for path in paths
        ]
        other = [self.preprocess.interpolation] if self.preprocess.interpolation != "bilinear" else []
        key = hashlib.sha256(
            json.dumps([files, self.preprocess.resize, self.preprocess.crop, *other]).encode()
        ).hexdigest()[:16]
        kept = cache() / f"pixels-{key}.npy"
        digest = kept.with_suffix(".sha256")
        if not kept.exists():
            self._write(kept, digest, paths)
        return Images(np.load(kept, mmap_mode="r"), labels, self.preprocess, batch, digest.read_text("utf8"))

    def _write(self, kept: Path, digest: Path, paths: list[Path]) -> None:
        summed = hashlib.sha256()
        with whole(kept) as temporary:
            # Written one after the other: a mapped file would crash on a full disk.
            with open(temporary, "wb") as file:
                for i, pixels in enumerate(self._decoded(paths)):
                    if i == 0:
                        header = {
                            "descr": "|u1",
                            "fortran_order": False,
                            "shape": (len(paths), *pixels.shape),
                        }
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(pixels)
                    summed.update(pixels)
            write_whole(digest, summed.hexdigest())  # before the pixels are there to be found

    def _decoded(self, paths: list[Path]) -> Iterator[np.ndarray]:
        from PIL import Image
        from tqdm import tqdm

        def decode(path: Path) -> np.ndarray:
            try:
                with Image.open(path) as picture:
                    return self.preprocess.pixels(picture)
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"{path} cannot be read as an image: {error}") from error

        # Threads: Pillow decodes and resizes without Python's lock
        pool = ThreadPoolExecutor()
        shape = None
        try:
            bar = tqdm(
                pool.map(decode, paths),
                desc=f"decoding {self.root.name}",
                total=len(paths),
                unit="image",
                delay=2,
            )
            for path, pixels in zip(paths, bar, strict=True):
                if pixels.shape != (shape := shape or pixels.shape):
                    raise ValueError(
                        f"{path} gives {pixels.shape} after preprocessing, those before it {shape}: resize "
                        "and crop"
                    )
                yield pixels
        finally:
            pool.shutdown(cancel_futures=True)


class ImageBench:
    """A bench of two sets of images. Draws are without repetition; training images are also those to
    calibrate on.
    """

    def __init__(self, name: str, train, held_out, models: Mapping[str, nn.Module], batch: int):
        """``train``, ``held_out``: a `Folder`, or what has its ``classes``, length and ``images``. ``batch``:
        images a batch.
        """
        if missing := sorted(set(train.classes) ^ set(held_out.classes)):
            raise ValueError(
                f"the training and the validation images of {name!r} have different classes: only one of "
                f"them has {', '.join(missing[:5])}"
            )
        self.name = name
        self.train = train
        self.held_out = held_out
        self.models = models
        self.batch = batch

    @property
    def available(self) -> dict[str, int]:
        """How many images there are."""
        return {"calibration": len(self.train), "validation": len(self.held_out)}

    def calibration(self, n: int, seed: int = 0) -> Images:
        return self.train.images(self._drawn(self.train, n, 1, seed), self.batch, keep=False)

    training = calibration

    def validation(self, n: int) -> Images:
        return self.held_out.images(self._drawn(self.held_out, n, 0), self.batch, keep=True)

    def from_pixels(self, rgb: np.ndarray) -> Images:
        """Images ``(n, h, w, 3)`` uint8 as batches, with labels of 0."""
        pixels = np.ascontiguousarray(rgb.transpose(0, 3, 1, 2))
        return Images(pixels, np.zeros(len(rgb), np.int64), self.train.preprocess, self.batch)

    def _drawn(self, images, n: int, *seed: int) -> np.ndarray:
        """The first ``n`` numbers in an order that follows from the seed; files come sorted by class."""
        if not 1 <= n <= len(images):
            raise ValueError(f"bench {self.name!r} has {len(images):,} such images; {n:,} are asked for")
        return np.argsort(np.random.PCG64(list(seed)).random_raw(len(images)), kind="stable")[:n]


def folders(
    name: str, data: Path, preprocess: Preprocess, models: Mapping[str, nn.Module], batch: int
) -> ImageBench:
    """A bench from a folder that holds ``train/`` and ``val/`` (or ``test/``), each as ``ImageFolder``."""
    parts = [
        next((data / part for part in names if (data / part).is_dir()), None)
        for names in (("train",), ("val", "test"))
    ]
    if None in parts:
        raise FileNotFoundError(
            f"{data} holds no folders train/ and val/ (or test/) with a subfolder for every class"
        )
    return ImageBench(name, *(Folder(part, preprocess) for part in parts), models, batch)


def own(
    name: str,
    model: str,
    weights: str | Path,
    data: str | Path,
    preprocess: Preprocess | Mapping | str = "imagenet",
    batch: int = 100,
) -> ImageBench:
    """A bench of your own network and images: ``model`` as for `factory`, a file for `load_weights`, a folder
    for `folders`. ``preprocess``: a `Preprocess`, a mapping of its fields, or ``"imagenet"``.
    """
    if isinstance(preprocess, Mapping):
        try:
            preprocess = Preprocess(
                **{k: tuple(v) if isinstance(v, list) else v for k, v in preprocess.items()}
            )
        except TypeError as error:
            raise ValueError(
                f"preprocess: {error}; it may have mean, std, resize, crop, interpolation"
            ) from error
    preprocess = IMAGENET if preprocess == "imagenet" else preprocess
    if not isinstance(preprocess, Preprocess):
        raise ValueError(
            f"preprocess must be 'imagenet' or a mapping of mean, std, resize, crop; got {preprocess!r}"
        )
    maker = factory(model)  # before images are looked at
    bench = folders(
        name, Path(data), preprocess, Networks({"base": lambda: load_weights(maker(), Path(weights))}), batch
    )
    side = _shorter_side(bench.held_out)
    if side < (target := preprocess.resize or preprocess.crop or 0):
        warnings.warn(
            f"the images in {data} are enlarged: their shorter side is {side} pixels, and becomes {target} "
            f"({preprocess}). If the network was trained on {side}, say so: preprocess {{mean: [...], std: "
            "[...]}, without resize and crop",
            stacklevel=2,
        )
    return bench


def _shorter_side(folder: Folder) -> int:
    """The median over some of its images, in pixels."""
    from PIL import Image

    def side(path: str) -> int:
        try:
            with Image.open(path) as picture:  # reads the size alone
                return min(picture.size)
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error

    step = max(1, len(folder) // 9)
    return int(np.median([side(path) for path, _ in folder.samples[::step]]))
