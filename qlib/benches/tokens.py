"""From texts to tokens: byte-level BPE, as language models have it, and WordPiece, as BERT has it. Both are
made of what comes with a model, and give what the package ``tokenizers`` gives.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

CONTRACTION = re.compile(r"'(?:[sdmt]|ll|ve|re)")
PIECE = re.compile(r" ?L+| ?N+| ?x+|[ _]+(?![LNx])|[ _]+")  # of letters, numbers, other signs and blanks
SEPARATORS = "\x1c\x1d\x1e\x1f"  # blanks to Python alone
LONGEST = 100  # characters of a word that WordPiece takes apart


class BPE:
    """Byte-level BPE.

    Parameters
    ----------
    vocabulary : mapping
        From tokens, written in `characters_of_bytes`, to their numbers.
    merges : iterable of pairs
        Which neighbours become one, the first ones first.
    digits : bool
        Whether every digit is a piece of its own.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]], digits: bool):
        self.vocabulary = vocabulary
        self.words = {number: token for token, number in vocabulary.items()}
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        self.digits = digits
        self.known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        found = []
        for piece in pieces(text, self.digits):
            if piece not in self.known:
                self.known[piece] = self._tokens(piece)
            found += self.known[piece]
        return found

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are no character are shown as such."""
        bytes_of = {character: bytes([byte]) for byte, character in characters_of_bytes().items()}
        written = "".join(self.words[int(token)] for token in tokens)
        return b"".join(bytes_of.get(c, c.encode()) for c in written).decode("utf8", "replace")

    def _tokens(self, piece: str) -> list[int]:
        parts = [characters_of_bytes()[byte] for byte in piece.encode()]
        while pairs := [pair for pair in zip(parts, parts[1:], strict=False) if pair in self.ranks]:
            parts = _merged(parts, min(pairs, key=self.ranks.__getitem__))
        return [self.vocabulary[part] for part in parts]


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """``parts`` with every such pair of neighbours as one, from the left."""
    found = []
    at = 0
    while at < len(parts):
        size = 2 if tuple(parts[at : at + 2]) == pair else 1
        found.append("".join(parts[at : at + size]))
        at += size
    return found


@functools.cache
def characters_of_bytes() -> dict[int, str]:
    """The character that stands for every byte in a byte-level vocabulary: itself where it can be seen."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def pieces(text: str, digits: bool) -> Iterator[str]:
    """A text in words, numbers and signs, with the blank before them, and other blanks, as GPT-2 has them."""
    kinds = "".join(map(_kind, text))
    for part in re.finditer("N|[^N]+" if digits else ".+", kinds):
        at, end = part.span()
        while at < end:
            found = CONTRACTION.match(text, at, end) or PIECE.match(kinds, at, end)
            yield found.group() if found.re is CONTRACTION else text[at : found.end()]
            at = found.end()


@functools.cache
def _kind(character: str) -> str:
    if character.isspace() and character not in SEPARATORS:
        return " " if character == " " else "_"
    kind = unicodedata.category(character)[0]
    return kind if kind in "LN" else "x"


class WordPiece:
    """BERT's tokens of lower-case words without accents: the longest known beginning first, then the rest.

    Parameters
    ----------
    vocabulary : mapping
        From tokens to their numbers; what goes on a word begins with ``##``.
    most : int
        Tokens of a text, beginning and end among them; later ones are cut off.
    """

    def __init__(self, vocabulary: Mapping[str, int], most: int):
        self.vocabulary = vocabulary
        self.most = most
        self.ends = [vocabulary["[CLS]"], vocabulary["[SEP]"]]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, between those of beginning and end."""
        found = [token for word in _words(text) for token in self._tokens(word)]
        return [self.ends[0], *found[: self.most - 2], self.ends[1]]

    def _tokens(self, word: str) -> list[int]:
        unknown = [self.vocabulary["[UNK]"]]
        found: list[int] = []
        at = 0
        while at < len(word) <= LONGEST:
            before = "##" if at else ""
            ends = range(len(word), at, -1)
            end = next((end for end in ends if before + word[at:end] in self.vocabulary), None)
            if end is None:
                return unknown
            found.append(self.vocabulary[before + word[at:end]])
            at = end
        return found or unknown


def _words(text: str) -> list[str]:
    kept = "".join(
        " " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C"
    )
    plain = "".join(c for c in unicodedata.normalize("NFD", kept.lower()) if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if _stands_alone(c) else c for c in plain).split()


def _stands_alone(character: str) -> bool:
    """Whether a character is a word of its own: signs, and those of Chinese."""
    sign = unicodedata.category(character)[0] == "P" or character in "$+<=>^`|~"
    return sign or unicodedata.name(character, "").startswith("CJK UNIFIED IDEOGRAPH")


def tokenizer_of(path: Path) -> BPE | WordPiece:
    """The tokenizer of a ``tokenizer.json``.

    Raises
    ------
    ValueError
        It is of a kind that is not computed here.
    """
    return tokenizer_said(json.loads(path.read_text("utf8")), str(path))


def tokenizer_said(said: Mapping[str, Any], what: str) -> BPE | WordPiece:
    """As `tokenizer_of`, of what such a file holds; ``what``: its name."""
    model = said["model"]
    if model["type"] == "WordPiece" and (said["normalizer"] or {}).get("lowercase"):
        return WordPiece(model["vocab"], (said.get("truncation") or {"max_length": 512})["max_length"])
    before = said["pre_tokenizer"] or {}
    steps = before.get("pretokenizers", [before])
    kinds = [step.get("type") for step in steps]
    plain = not said.get("normalizer") and not steps[-1].get("add_prefix_space", False)
    split = kinds in (["ByteLevel"], ["Digits", "ByteLevel"]) and steps[-1].get("use_regex", True)
    if model["type"] != "BPE" or not plain or not split or not steps[0].get("individual_digits", True):
        raise ValueError(
            f"{what}: a tokenizer of the kind {model['type']} after {kinds} is not computed here"
        )
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return BPE(model["vocab"], map(tuple, merges), len(kinds) == 2)
