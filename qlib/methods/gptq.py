"""GPTQ: weights are rounded column by column, and those still to be rounded make up for the error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..choices import choice
from .method import Method, Work

if TYPE_CHECKING:
    from torch import Tensor

    from ..affine import Grid


@dataclass(frozen=True)
class GPTQ(Method):
    """Layer by layer, the squared error of a layer's outputs is kept small: a weight's columns (one an input
    and place in the kernel) are rounded one after the other, each to the nearest value, and the columns that
    follow are changed so that they take back as much of the error as they can, given how inputs go together
    over the calibration data.

    Convolutions are linear layers of patches; each group of a convolution has a problem of its own. Grids
    are those of the configuration, fixed before the first column is rounded.

    Parameters
    ----------
    inputs : {"quantized", "float"}
        What layers are given: what the network quantized so far gives, as published, or the float network.
    order : {"activation", "natural"}
        Columns with the largest inputs first, or as they stand. Published: as they stand; the authors' code
        has the other as an option.
    damping : float
        Of the mean of the diagonal of inputs by inputs, added to that diagonal. Published: 0.01.

    Source
    ------
    Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    algorithm 1, without its blocks of columns, which change the speed alone. Columns whose inputs are always
    0 are rounded to nearest here, and set to 0 there.
    """

    inputs: str = choice(
        "quantized",
        "Inputs",
        "What layers are given while they are rounded: what the network quantized so far gives, or in float.",
        values=("quantized", "float"),
    )
    order: str = choice(
        "activation",
        "Order of columns",
        "Those with the largest inputs first, or as they stand.",
        values=("activation", "natural"),
    )
    damping: float = choice(
        0.01, "Damping", "Share of the mean diagonal that is added to the diagonal.", above=0, most=1
    )

    def apply(self, work: Work) -> None:
        import torch

        from ..network.columns import moments

        self.ask(work)
        with torch.no_grad():
            for turn in work.in_turn(self.inputs):
                together, _ = moments(turn.layer, turn.given, turn.wanted)
                try:
                    rounded = self._rounded(turn.rows, turn.grid, together)
                except torch.linalg.LinAlgError:
                    raise ValueError(
                        f"the method 'gptq' cannot invert how the inputs of {turn.name!r} go together: use "
                        f"more calibration data, or a damping above {self.damping:g}"
                    ) from None
                work.put_weight(turn.name, rounded)

    def card(self) -> dict[str, Any]:
        """With the order of columns."""
        return {"rounding": f"GPTQ, from {self.inputs} inputs", "column_order": self.order}

    def _rounded(self, rows: Tensor, grid: Grid, together: Tensor) -> Tensor:
        """``rows`` on ``grid``, given inputs by inputs ``(groups, k, k)``."""
        import torch

        from ..affine import Grid, fake_quantize

        by_group = (len(together), -1, together.shape[-1])
        weights = rows.reshape(by_group).double()
        parts = [f if f is None else f.expand_as(rows).reshape(by_group) for f in grid]
        diagonal = together.diagonal(dim1=1, dim2=2)
        order = diagonal.argsort(dim=1, descending=True, stable=True)
        if self.order == "natural":
            order = torch.arange(order.shape[1], device=order.device).expand_as(order)
        factor = _factor(together, order, self.damping)
        result = torch.empty_like(rows).reshape(by_group)
        group = torch.arange(len(order), device=order.device)
        weights = weights.gather(2, order[:, None].expand_as(weights))
        for step, column in enumerate(order.T):
            at = (group, slice(None), column)
            values = fake_quantize(
                weights[:, :, step].float(), Grid(*(f if f is None else f[at] for f in parts))
            )
            result[at] = values
            error = (weights[:, :, step] - values) / factor[:, step, step, None]
            weights[:, :, step + 1 :] -= error[:, :, None] * factor[:, None, step, step + 1 :]
        return result.reshape(rows.shape)


def _factor(together: Tensor, order: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of inputs by inputs, damped, with columns in ``order``."""
    import torch

    by_row = order[:, :, None].expand_as(together)
    matrix = together.gather(1, by_row).gather(2, by_row.mT)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal += damping * diagonal.mean(1, keepdim=True)
    diagonal[diagonal == 0] = 1  # inputs that are always 0, all of a group
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return torch.linalg.cholesky(inverse, upper=True)
