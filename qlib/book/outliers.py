"""What enters a layer of a language model: a few tokens and channels, of which one is an outlier.

``python -m qlib.book.outliers`` writes ``book/results/outliers.csv``, a row a token of the beginning of
WikiText-2's test text as SmolLM2-135M reads it (the bench ``language``): what its linear layer `LAYER` is
given, in the channel that is largest by far and in others, evenly chosen. Lesson 13 shows it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import yaml

from qlib.book import ROOT
from qlib.experiments import Laboratory
from qlib.files import write_whole
from qlib.lesson import outputs_of
from qlib.provenance import session

TABLE = ROOT / "book" / "results" / "outliers.csv"
LAYER = "blocks.20.attention_norm"  # what it gives enters the layers of attention
TOKENS = 17  # the first of which is left out: nothing is before it, and it is another kind of outlier
CHANNELS = 32


def sample(bench: str = "language") -> pd.DataFrame:
    """Values by token and channel, rounded to four digits."""
    from qlib.benches import load_bench
    from qlib.benches.language import tokenizer

    loaded = load_bench(bench)
    ids = loaded.validation(1)[0][0][:, :TOKENS]
    network = loaded.models["base"]
    values = outputs_of(network, ids, type(network.get_submodule(LAYER)))[LAYER][0, 1:].numpy()
    shown = channels_of(values)
    table = pd.DataFrame(values[:, shown], columns=[f"channel {i}" for i in shown]).round(4)
    table.insert(0, "token", [tokenizer()[0].decode([token]) for token in ids[0, 1:].tolist()])
    return table


def channels_of(values: np.ndarray) -> list[int]:
    """The channel with the largest value among others, evenly chosen, in order."""
    largest = int(np.abs(values).max(0).argmax())
    others = np.linspace(0, values.shape[1] - 1, CHANNELS).astype(int).tolist()
    nearest = min(others, key=lambda i: abs(i - largest))
    return sorted({*others} - {nearest} | {largest})


def main() -> None:
    from qlib.benches import load_bench

    table = sample()
    write_whole(TABLE, table.to_csv(index=False))
    said = session("python -m qlib.book.outliers", [0], Laboratory(load_bench("language")), 1)
    notes = {"sessions": [{**said, "layer": LAYER}]}
    write_whole(TABLE.with_suffix(".csv.meta.yaml"), yaml.safe_dump(notes, sort_keys=False))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
