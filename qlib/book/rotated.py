"""What a rotation does to the rounding of weights, layer by layer: why 3-bit weights lose by it.

``python -m qlib.book.rotated`` writes ``book/results/rotated-weights.csv``, a row a linear layer of
SmolLM2-135M (the bench ``language``, one window of calibration text): the squared error of what the layer
gives, as a share of its squares, with 3-bit weights as they are and turned. Lesson 13 shows it.
"""

from __future__ import annotations

import pandas as pd
import torch
import yaml
from torch import Tensor, nn

from qlib import QuantConfig
from qlib.affine import fake_quantize
from qlib.benches import load_bench
from qlib.book import ROOT
from qlib.files import write_whole
from qlib.laboratory import Laboratory
from qlib.network.rotation import Rotation
from qlib.provenance import session
from qlib.quantizer import weight_grid

TABLE = ROOT / "book" / "results" / "rotated-weights.csv"
BITS = 3
LOUDEST = 0.02  # of the inputs, those with the most squares


def rows(network: nn.Module, inputs: Tensor) -> pd.DataFrame:
    """A row a linear layer: ``layer``, ``plain`` and ``turned`` errors, ``energy``, the share of the inputs'
    squares in the loudest of them, and ``weights``, the mean square of the weights that read these over that
    of all.
    """
    found: list[dict[str, object]] = []

    def keep(name: str, layer: nn.Linear, x: Tensor) -> None:
        x, weight = x.reshape(-1, layer.in_features), layer.weight
        turning = Rotation(layer.in_features, 0)
        squares = x.double().square().mean(0)
        loud = squares.topk(max(1, round(LOUDEST * len(squares)))).indices
        found.append(
            {
                "layer": name,
                "plain": error(name, weight, x),
                "turned": error(name, turning(weight), turning(x)),
                "energy": (squares[loud].sum() / squares.sum()).item(),
                "weights": (weight[:, loud].square().mean() / weight.square().mean()).item(),
            }
        )

    layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear) and name != "head"}
    hooks = [
        layer.register_forward_pre_hook(lambda m, given, name=name: keep(name, m, given[0]))
        for name, layer in layers.items()
    ]
    with torch.inference_mode():
        network(inputs)
    for hook in hooks:
        hook.remove()
    return pd.DataFrame(found)


def error(name: str, weight: Tensor, x: Tensor) -> float:
    """The squared error of a layer's outputs over their squares, with rounded weights."""
    grid = weight_grid(name, weight, QuantConfig(BITS, None), BITS)
    wrong = (fake_quantize(weight, grid) - weight).double()
    x = x.double()
    return ((x @ wrong.T).square().sum() / (x @ weight.double().T).square().sum()).item()


def main() -> None:
    bench = load_bench("language")
    table = rows(bench.models["base"].eval(), bench.calibration(1)[0][0])
    write_whole(TABLE, table.round(5).to_csv(index=False))
    said = session("python -m qlib.book.rotated", [0], Laboratory(bench), 1)
    write_whole(TABLE.with_suffix(".csv.meta.yaml"), yaml.safe_dump({"sessions": [said]}, sort_keys=False))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
