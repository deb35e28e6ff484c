"""Images in the place of training images, for those who have none (paper, section 2.4): noise, images that
are distilled from a network's own statistics, and photographs of something else.

They bring no labels; bits are learned on those that the network gives (`qlib.bits.labels`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from . import Batches, Bench

BATCH = 64
STEPS = 200  # of the paper's 500, after which the distance hardly falls
RATE = 0.1
LARGEST = 4  # times the side of an image: the side of what is cut from a photograph


def substitute(kind: str, bench: Bench, network: nn.Module, n: int, seed: int = 0) -> Batches:
    """``n`` images of a kind, in batches as a bench gives them, with labels of 0.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    bench, network
        What they are for: the shape of an image is asked of the bench, no other of its images is looked at.
    n, seed : int
        How many; another seed, another draw.

    Raises
    ------
    ValueError
        There is no such kind, the network has no batch norm to distil from, or the bench's inputs are not
        images.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind of images {kind!r}; kinds: {', '.join(map(repr, KINDS))}")
    shape = tuple(bench.calibration(1)[0][0].shape[1:])
    if len(shape) != 3:
        raise ValueError(f"bench {bench.name!r} has inputs {shape}, which are no images: give it its own")
    return KINDS[kind](bench, network, (n, *shape), seed)


def noise(bench: Bench, network: nn.Module, shape: tuple[int, ...], seed: int) -> Batches:
    """Every value from a normal distribution of mean 0 and deviation 1, as inputs of networks often have."""
    return _labelled(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def distilled(bench: Bench, network: nn.Module, shape: tuple[int, ...], seed: int) -> Batches:
    """Noise, changed until the mean and the deviation of what enters each batch norm are those that the
    network keeps from its training.

    Source
    ------
    Cai et al. 2020, "ZeroQ: A Novel Zero Shot Quantization Framework", section 3.1: Adam, 500 steps.
    """
    from ..network import evaluation_copy
    from ..network.inputs import device_of
    from ..network.operations import BATCH_NORMS

    network = evaluation_copy(network).requires_grad_(False)
    norms = [m for m in network.modules() if isinstance(m, BATCH_NORMS) and m.running_mean is not None]
    if not norms:
        raise ValueError("this network has no batch norm that keeps statistics: there is nothing to distil")
    distances: list[Tensor] = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda norm, inputs: distances.append(_apart(inputs[0], norm)))
    parts = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).split(BATCH)
    found = []
    with torch.enable_grad():
        for part in parts:
            images = part.to(device_of(network)).requires_grad_()
            optimizer = torch.optim.Adam([images], RATE)
            for _ in range(STEPS):
                distances.clear()
                network(images)
                optimizer.zero_grad()
                sum(distances).backward()
                optimizer.step()
            found.append(images.detach().cpu())
    return _labelled(torch.cat(found))


def _apart(x: Tensor, norm: nn.Module) -> Tensor:
    """How far the statistics of what enters a batch norm are from those it keeps, a mean over channels."""
    rows = x.transpose(0, 1).flatten(1)
    deviation = (norm.running_var + norm.eps).sqrt()
    means = (rows.mean(1) - norm.running_mean).square().mean()
    return means + (rows.std(1) - deviation).square().mean()


def photographs(bench: Bench, network: nn.Module, shape: tuple[int, ...], seed: int) -> Batches:
    """Squares cut at random from the two photographs of scikit-learn, as the bench wants pixels."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    if not hasattr(bench, "from_pixels"):
        raise ValueError(f"bench {bench.name!r} does not say how pixels become its inputs (from_pixels)")
    n, _, side, _ = shape
    pictures = load_sample_images().images
    raw = np.random.PCG64(seed).random_raw(4 * n).reshape(4, n)
    shares = (raw >> np.uint64(11)) * 2.0**-53
    cut = []
    for which, size, down, right in shares.T:
        picture = pictures[int(which * len(pictures))]
        length = int(side * (1 + size * (min(LARGEST, min(picture.shape[:2]) / side) - 1)))
        top, left = (
            int(share * (edge - length)) for share, edge in zip((down, right), picture.shape[:2], strict=True)
        )
        square = Image.fromarray(picture[top : top + length, left : left + length])
        cut.append(np.asarray(square.resize((side, side), Image.Resampling.BILINEAR)))
    return bench.from_pixels(np.stack(cut))


def _labelled(images: Tensor) -> Batches:
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in images.split(BATCH)]


KINDS: dict[str, Callable[[Bench, nn.Module, tuple[int, ...], int], Batches]] = {
    "noise": noise,
    "distilled": distilled,
    "photographs": photographs,
}
