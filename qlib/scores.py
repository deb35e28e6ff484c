"""What metrics of texts look at: the loss of every token, how far two distributions are apart, and whether
two orders of examples agree.

Class scores stand along axis 1, as everywhere in torch: those of tokens are ``(n, vocabulary, tokens)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

LEFT_OUT = -100  # the target of a token that is not scored
ROWS = 512  # looked at together, where every example is compared with every other


def token_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """By example, the sum of the losses of its tokens in nats, and how many these are ``(n, 2)``.

    Parameters
    ----------
    outputs : Tensor
        ``(n, vocabulary, tokens)``.
    targets : Tensor
        ``(n, tokens)``, integers; those that are `LEFT_OUT` are not scored.

    Raises
    ------
    ValueError
        The shapes are others, a target is no token, or an example has none that is scored.
    """
    import torch
    import torch.nn.functional as F

    whole = isinstance(targets, torch.Tensor) and not targets.is_floating_point()
    if not whole or outputs.dim() != 3 or targets.shape != (len(outputs), outputs.shape[2]):
        raise ValueError(
            f"expected scores (n, vocabulary, tokens) and integer targets (n, tokens), got "
            f"{tuple(outputs.shape)} and {tuple(getattr(targets, 'shape', ()))}: a network that gives (n, "
            "tokens, vocabulary) needs .transpose(1, 2) behind it"
        )
    scored = targets != LEFT_OUT
    if not scored.any(1).all():
        raise ValueError(f"an example has no token that is scored: all of its targets are {LEFT_OUT}")
    if not 0 <= targets[scored].min() <= targets[scored].max() < outputs.shape[1]:
        raise ValueError(f"targets are tokens from 0 to {outputs.shape[1] - 1}, or {LEFT_OUT}")
    losses = F.cross_entropy(outputs.transpose(1, 2).flatten(0, 1), targets.flatten(), reduction="none")
    return torch.stack([losses.reshape(targets.shape).double().sum(1), scored.double().sum(1)], 1)


def perplexity(means: np.ndarray) -> np.ndarray:
    """From mean losses and counts of tokens ``(..., 2)``: e to the loss of a token."""
    return np.exp(means[..., 0] / means[..., 1])


def divergence(outputs: Tensor, reference: Tensor) -> Tensor:
    """By example, the mean over its places of the Kullback-Leibler divergence from the reference's
    distribution over classes to the network's, in nats.
    """
    if outputs.shape != reference.shape or outputs.dim() < 2:
        raise ValueError(
            f"the network gives {tuple(outputs.shape)}, the reference {tuple(reference.shape)}: class scores "
            "along axis 1 are wanted, of one shape"
        )
    found, wanted = (scores.movedim(1, -1).float().log_softmax(-1) for scores in (outputs, reference))
    each = (wanted.exp() * (wanted - found)).sum(-1).double()
    return each.reshape(len(outputs), -1).mean(1)


def pairs(outputs: Tensor, targets: Tensor) -> Tensor:
    """By example, what the network says and what is said of it ``(n, 2)``."""
    import torch

    both = [t.squeeze(-1) if t.dim() == 2 and t.shape[1] == 1 else t for t in (outputs, targets)]
    if both[0].dim() != 1 or both[0].shape != both[1].shape:
        raise ValueError(
            f"expected a number an example and a target for each, got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}"
        )
    return torch.stack([t.double() for t in both], 1)


def rank_correlation(parts: np.ndarray) -> tuple[float, np.ndarray]:
    """Spearman's rank correlation of two columns in percent, ties at their mean rank, and what it is without
    each of the rows ``(n,)``. NaN where a column is constant.
    """
    n = len(parts)
    centred = [2 * _ranks(column) - n - 1 for column in parts.T]  # of mean 0
    whole = _correlation(*(np.broadcast_to(c, (1, n)) for c in centred), np.ones((1, n)))
    left = [
        _correlation(
            *(c - np.sign(x - x[rows, None]) for c, x in zip(centred, parts.T, strict=True)),
            np.arange(n) != rows[:, None],
        )
        for rows in np.array_split(np.arange(n), -(-n // ROWS))
    ]
    return float(whole[0]), np.concatenate(left)


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 to n, ties at their mean."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[which]


def _correlation(a: np.ndarray, b: np.ndarray, there: np.ndarray) -> np.ndarray:
    """By row of ``(rows, n)``, Pearson's correlation in percent over what is ``there``."""
    count = there.sum(1)
    sums = [(x * y * there).sum(1) for x, y in ((a, b), (a, a), (b, b))]
    means = [(x * there).sum(1) / count for x in (a, b)]
    shared, one, other = (
        s - count * m for s, m in zip(sums, (means[0] * means[1], means[0] ** 2, means[1] ** 2), strict=True)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * shared / np.sqrt(one * other)
