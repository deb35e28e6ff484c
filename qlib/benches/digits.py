"""The built-in bench: two cluttered handwritten digits, 100 classes, and trained networks of two recipes.

Images are drawn from the 1,797 glyphs of scikit-learn's ``load_digits``: two digits a canvas (48 x 48, grey),
each scaled, rotated and sheared, among fragments of other glyphs and noise; the label is ``10 * left +
right``. The glyphs are split first: no glyph of a validation image is ever trained or calibrated on.

Every image follows from its seed and is the same on every machine: random bits come from NumPy's PCG64 (whose
stream NumPy guarantees), the rest is elementwise float64 addition, multiplication and division, rounded to
``uint8`` at the end. Rotations are written with the tangent of the half angle, so no transcendental function
is called.

`qlib.benches.digits_training` trains the networks again, or your own.
"""

from __future__ import annotations

import functools
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .pretrained import Networks

SIZE = 48  # pixels a side
CHUNK = 500  # images drawn from one seed; part of the data's definition, do not change
BATCH = 250
TRAIN_GLYPHS = 1100
FRAGMENTS = 6
STREAMS = {"training": 1, "validation": 2, "calibration": 3, "tuning": 4}
WEIGHTS = Path(__file__).parent / "weights"


@functools.cache
def glyphs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Glyph images ``(1797, 8, 8)`` in [0, 1], their labels, and the order that splits them (first 1,100:
    training).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.argsort(np.random.PCG64(0).random_raw(len(digits.target)), kind="stable")
    return digits.images / 16.0, digits.target.astype(np.int64), order


class _Draws:
    """Random numbers from PCG64's raw 64-bit words only: the one part of NumPy's streams that never
    changes.
    """

    def __init__(self, *seed: int):
        self.bits = np.random.PCG64(list(seed))

    def uniform(self, low: float, high: float, n: int) -> np.ndarray:
        return low + (high - low) * ((self.bits.random_raw(n) >> np.uint64(11)) * 2.0**-53)

    def index(self, bound: int, n: int) -> np.ndarray:
        return (self.uniform(0, bound, n)).astype(np.int64)

    def noise(self, *shape: int) -> np.ndarray:
        """Close to normal, unit variance: the sum of four random bytes."""
        count = int(np.prod(shape))
        raw = self.bits.random_raw(-(-count // 2)).astype("<u8").view(np.uint8)
        total = raw.reshape(-1, 4).sum(1, dtype=np.int64)[:count]
        return ((total - 510) / np.sqrt(4 * (256**2 - 1) / 12)).reshape(shape)


def _stamp(canvas: np.ndarray, glyph: np.ndarray, x, y, half, tangent, quarter, shear, contrast) -> None:
    """Draw one transformed glyph per image into ``canvas`` ``(n, size + 2 margin, ...)`` by maximum,
    bilinearly.

    ``x, y`` (centre) and ``half`` (half the glyph's width) are in pixels; ``tangent`` is that of half the
    rotation angle, ``quarter`` adds that many quarter turns. All are arrays of shape ``(n,)``.
    """
    n = len(glyph)
    margin = (canvas.shape[1] - SIZE) // 2
    cos = (1 - tangent * tangent) / (1 + tangent * tangent)
    sin = 2 * tangent / (1 + tangent * tangent)
    turned = np.choose(quarter, (cos, -sin, -cos, sin))
    sin = np.choose(quarter, (sin, cos, -sin, -cos))
    cos = turned
    reach = margin  # the transformed glyph lies within this many pixels of its centre
    left = np.floor(x).astype(np.int64) - reach
    top = np.floor(y).astype(np.int64) - reach
    span = np.arange(2 * reach + 1)
    dx = (left[:, None] + span + 0.5 - x[:, None])[:, None, :] / half[:, None, None]
    dy = (top[:, None] + span + 0.5 - y[:, None])[:, :, None] / half[:, None, None]
    u = 4 * (cos[:, None, None] * dx + (sin + shear)[:, None, None] * dy) + 3.5
    v = 4 * (cos[:, None, None] * dy - sin[:, None, None] * dx) + 3.5
    padded = np.zeros((n, 12, 12))
    padded[:, 2:10, 2:10] = glyph
    inked = np.nonzero((u > -1) & (u < 8) & (v > -1) & (v < 8))  # a fifth of the pixels
    u = u[inked] + 2
    v = v[inked] + 2
    column = u.astype(np.int64)
    row = v.astype(np.int64)
    u = u - column
    v = v - row
    image, down, right = inked
    at = image * 144 + row * 12 + column
    flat = padded.ravel()
    upper = flat[at] * (1 - u) + flat[at + 1] * u
    lower = flat[at + 12] * (1 - u) + flat[at + 13] * u
    ink = (upper * (1 - v) + lower * v) * contrast[image]
    place = (image, top[image] + down + margin, left[image] + right + margin)
    canvas[place] = np.maximum(canvas[place], ink)


def draw_chunk(stream: str, seed: int, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """The images of a stream from number ``CHUNK * chunk`` on, ``(CHUNK, 48, 48)`` uint8, and labels."""
    images, labels, order = glyphs()
    pool = order[TRAIN_GLYPHS:] if stream == "validation" else order[:TRAIN_GLYPHS]
    draw = _Draws(STREAMS[stream], seed, chunk)
    n = CHUNK
    margin = 24
    canvas = np.zeros((n, SIZE + 2 * margin + 1, SIZE + 2 * margin + 1))
    label = np.zeros(n, dtype=np.int64)
    for centre in (0.3 * SIZE, 0.7 * SIZE):
        pick = pool[draw.index(len(pool), n)]
        label = 10 * label + labels[pick]
        _stamp(
            canvas,
            images[pick],
            centre + draw.uniform(-3, 3, n),
            SIZE / 2 + draw.uniform(-6, 6, n),
            half=draw.uniform(8, 12, n),
            tangent=draw.uniform(-0.175, 0.175, n),
            quarter=np.zeros(n, dtype=np.int64),
            shear=draw.uniform(-0.2, 0.2, n),
            contrast=draw.uniform(0.6, 1, n),
        )
    for _ in range(FRAGMENTS):
        pick = pool[draw.index(len(pool), n)]
        first = draw.index(5, n)[:, None]
        kept = (np.arange(8) >= first) & (np.arange(8) < first + 3)  # three rows of a glyph
        _stamp(
            canvas,
            images[pick] * kept[:, :, None],
            draw.uniform(0, SIZE, n),
            draw.uniform(0, SIZE, n),
            half=draw.uniform(6, 10, n),
            tangent=draw.uniform(-0.414, 0.414, n),
            quarter=draw.index(4, n),
            shear=draw.uniform(-0.2, 0.2, n),
            contrast=draw.uniform(0.3, 0.9, n),
        )
    canvas = (
        canvas[:, margin : margin + SIZE, margin : margin + SIZE] * draw.uniform(0.6, 1, n)[:, None, None]
    )
    canvas = canvas + 0.2 * draw.noise(n, SIZE, SIZE)
    return np.clip(np.rint(64 + 128 * canvas), 0, 255).astype(np.uint8), label


@functools.lru_cache(maxsize=64)
def _chunk(stream: str, seed: int, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    return draw_chunk(stream, seed, chunk)


def draw(stream: str, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first ``n`` images of a stream: ``(n, 48, 48)`` uint8 and ``(n,)`` int64 labels 0 to 99.

    ``stream`` is ``"training"``, ``"calibration"``, ``"tuning"`` (these from training glyphs) or
    ``"validation"``.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1 image, got {n}")
    parts = [_chunk(stream, seed, i) for i in range(-(-n // CHUNK))]
    return np.concatenate([p[0] for p in parts])[:n], np.concatenate([p[1] for p in parts])[:n]


def to_batches(images: np.ndarray, labels: np.ndarray, batch: int = BATCH) -> list[tuple[Tensor, Tensor]]:
    """uint8 images as batches for the network: float32 ``(b, 1, 48, 48)``, grey 64 at 0 and grey 192 at 1;
    exact.
    """
    x = (torch.from_numpy(images).float().unsqueeze(1) - 64) / 128
    y = torch.from_numpy(labels)
    return list(zip(x.split(batch), y.split(batch), strict=True))


def network() -> nn.Module:
    """ResNet-50's graph (bottlenecks 3-4-6-3, strided stem, max-pool, projections), one eighth as wide:
    399,068 parameters.
    """
    from pytorchcv.models.resnet import ResNet

    net = ResNet(
        channels=[[32] * 3, [64] * 4, [128] * 6, [256] * 3],
        init_block_channels=8,
        bottleneck=True,
        conv1_stride=True,
        in_channels=1,
        in_size=(SIZE, SIZE),
        num_classes=100,
    )
    net.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return net


class Digits:
    """The bench: ``models`` holds ``base`` and ``better``, one graph trained on such images by two recipes,
    and ``base-seed-2``, ``better-seed-2`` and so on: by the same recipes from another seed, which draws the
    first weights and the images.
    """

    name = "digits"

    def __init__(self):
        files = sorted(WEIGHTS.glob("digits-*.safetensors"))
        makers = {path.stem.removeprefix("digits-"): partial(load_network, path) for path in files}
        self.models = Networks(makers)

    def calibration(self, n: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        return to_batches(*draw("calibration", n, seed))

    def training(self, n: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        return to_batches(*draw("training", n, seed))

    def validation(self, n: int) -> list[tuple[Tensor, Tensor]]:
        return to_batches(*draw("validation", n))

    def from_pixels(self, rgb: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        """Coloured images ``(n, 48, 48, 3)`` uint8 as batches of grey ones, with labels of 0."""
        return to_batches(np.rint(rgb.mean(3)).astype(np.uint8), np.zeros(len(rgb), np.int64))


class Tuning(Digits):
    """The same with other images in the place of those for validation: to choose settings on, such as those
    of a learner, since what is chosen on the images that are reported is flattered by them.
    """

    name = "digits-tuning"

    def validation(self, n: int) -> list[tuple[Tensor, Tensor]]:
        return to_batches(*draw("tuning", n))


def load_network(path: Path) -> nn.Module:
    """A trained network from a float16 safetensors file, in float32 and evaluation mode."""
    from safetensors.torch import load_file

    net = network()
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return net.eval()
