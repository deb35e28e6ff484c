"""What enters two layers of a language model: a few tokens and channels, of which one is far from the others.

``python -m qlib.book.outliers`` writes ``book/results/outliers.csv``, a row a layer of `LAYERS` and a token
of the beginning of WikiText-2's test text as SmolLM2-135M reads it (the bench ``language``): what the layer
is given, in the channel that is largest by far and in others, evenly chosen. Lesson 13 shows it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor, nn

from qlib.benches import load_bench
from qlib.benches.language import tokenizer
from qlib.book import ROOT
from qlib.files import write_whole
from qlib.laboratory import Laboratory
from qlib.provenance import session

TABLE = ROOT / "book" / "results" / "outliers.csv"
LAYERS = ("blocks.20.attention.q", "blocks.11.mlp.down")  # with a loud channel, and with a loud first token
TOKENS = 16
CHANNELS = 32


def sample() -> pd.DataFrame:
    """Values by layer, token and channel, rounded to four digits."""
    bench = load_bench("language")
    ids = bench.validation(1)[0][0][:, :TOKENS]
    words = [tokenizer()[0].decode([token]).replace("\n", "↵") for token in ids[0].tolist()]
    given = inputs_of(bench.models["base"], ids)
    return pd.concat(
        pd.DataFrame(given[layer][:, channels_of(given[layer])])
        .round(4)
        .add_prefix("value ")
        .assign(layer=layer, token=words)
        for layer in LAYERS
    )


def inputs_of(network: nn.Module, ids: Tensor) -> dict[str, np.ndarray]:
    """By layer, what it is given ``(tokens, channels)``."""
    kept = {}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: kept.update({name: inputs[0][0].numpy()})
        )
        for name in LAYERS
    ]
    with torch.inference_mode():
        network(ids)
    for hook in hooks:
        hook.remove()
    return kept


def channels_of(values: np.ndarray) -> list[int]:
    """The channel with the largest value among others, evenly chosen, in order."""
    largest = int(np.abs(values).max(0).argmax())
    others = np.linspace(0, values.shape[1] - 1, CHANNELS).astype(int).tolist()
    nearest = min(others, key=lambda i: abs(i - largest))
    return sorted({*others} - {nearest} | {largest})


def main() -> None:
    table = sample()
    write_whole(TABLE, table.to_csv(index=False))
    said = session("python -m qlib.book.outliers", [0], Laboratory(load_bench("language")), 1)
    write_whole(TABLE.with_suffix(".csv.meta.yaml"), yaml.safe_dump({"sessions": [said]}, sort_keys=False))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
