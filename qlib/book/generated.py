"""What a language model writes before and after its weights are quantized.

``python -m qlib.book.generated`` writes ``book/results/generated.yaml``: the beginning of WikiText-2's test
text and what SmolLM2-135M (the bench ``language``) writes after it, always the likeliest token, in float and
under each of `CHOICES`. Lesson 14 shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import yaml
from torch import nn

from qlib import QuantConfig, quantize
from qlib.benches import Batches, load_bench
from qlib.benches.language import continued, tokenizer
from qlib.benches.tokens import BPE
from qlib.book import ROOT
from qlib.files import write_whole
from qlib.laboratory import Laboratory
from qlib.provenance import session
from qlib.widgets.perplexities import sharing

FILE = ROOT / "book" / "results" / "generated.yaml"
BEGUN = 24  # tokens that it is given
TOKENS = 32  # that it writes
GROUPS = {"weight_granularity": "per_group", "group_size": 64}
CHOICES = ({}, {"weight_bits": 4, **GROUPS}, {"weight_bits": 3, **GROUPS}, {"weight_bits": 3})  # {}: in float


def written(
    network: nn.Module, encode: BPE, text: str, calibration: Batches, tokens: int = TOKENS
) -> list[dict[str, Any]]:
    """By `CHOICES`, what a network writes after a text.

    Parameters
    ----------
    calibration : batches
        Looked at for its form alone: activations stay in float.
    """
    found = []
    for choices in CHOICES:
        config = QuantConfig(**{"weight_bits": None, "activation_bits": None, **choices})
        quantized = quantize(network, config, calibration)
        found.append({"choices": dict(choices), "text": continued(quantized, encode, text, tokens)})
    return found


def name(choices: Mapping[str, Any]) -> str:
    """The weights of an entry of `CHOICES`, in words."""
    return f"{choices['weight_bits']} bits, {sharing(QuantConfig(**choices))}" if choices else "float"


def literal(text: str) -> str:
    """A text of which Markdown reads no sign as its own, in one line."""
    one_line = text.replace("\n", "↵")
    return "".join(f"&#{ord(c)};" if c.isascii() and not (c.isalnum() or c == " ") else c for c in one_line)


def main() -> None:
    bench = load_bench("language")
    encode, _ = tokenizer()
    text = encode.decode(bench.validation(1)[0][0][0, :BEGUN].tolist())
    found = written(bench.models["base"], encode, text, bench.calibration(1))
    said = session("python -m qlib.book.generated", [0], Laboratory(bench), 1)
    record = {"begun": text, "written": found, "sessions": [said]}
    write_whole(FILE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
