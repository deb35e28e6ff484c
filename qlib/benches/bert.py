"""A BERT that gives sentences a vector each, and pairs of them their similarity: small modules that can be
traced, and the names that their weights have in checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..network.attention import masked, scaled_scores
from ..network.language import mean_of_tokens

RENAMED = (  # from a name in a checkpoint to ours
    (r"^bert\.", ""),
    (r"^embeddings\.word_embeddings\.", "words."),
    (r"^embeddings\.position_embeddings\.", "positions."),
    (r"^embeddings\.token_type_embeddings\.", "types."),
    (r"^embeddings\.LayerNorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.", r"blocks.\1.\2."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.out."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"blocks.\1.attention_norm."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.up."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.down."),
    (r"^encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"blocks.\1.norm."),
)
UNUSED = re.compile(r"^(pooler\.|.*position_ids$)")


class Block(nn.Module):
    """Attention and two linear layers, each added to what came before and then normed."""

    def __init__(self, width: int, heads: int, wide: int, eps: float):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(width, eps)
        self.up = nn.Linear(width, wide)
        self.down = nn.Linear(wide, width)
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = F.softmax(masked(scaled_scores(q, k), None, there), -1)
        inside = (weights @ v).transpose(1, 2).flatten(2)
        x = self.attention_norm(self.out(inside) + x)
        return self.norm(self.down(F.gelu(self.up(x))) + x)


class Encoder(nn.Module):
    """From tokens ``(n, tokens)`` and which of them are there, bool of that shape, to vectors ``(n, width)``,
    the means over tokens.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.positions = nn.Embedding(config["max_position_embeddings"], width)
        self.types = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps)
        parts = (width, config["num_attention_heads"], config["intermediate_size"], eps)
        self.blocks = nn.ModuleList(Block(*parts) for _ in range(config["num_hidden_layers"]))

    def forward(self, ids: Tensor, there: Tensor) -> Tensor:
        x = self.norm(self.words(ids) + (self.types.weight[0] + self.positions.weight[: ids.shape[1]]))
        for block in self.blocks:
            x = block(x, there)
        return mean_of_tokens(x, there)


class Similarity(nn.Module):
    """The cosine of the vectors of two sentences, each of tokens and which of them are there."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, there: Tensor, other_ids: Tensor, other_there: Tensor) -> Tensor:
        return F.cosine_similarity(self.encoder(ids, there), self.encoder(other_ids, other_there))


def encoder_of(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Encoder:
    """The encoder of a checkpoint: its ``config.json`` and its tensors.

    Raises
    ------
    ValueError
        It is no BERT, or of another kind than what is built here.
    """
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise ValueError(
            f"this is a {config.get('model_type')!r} with {config.get('hidden_act')!r}, not a BERT with gelu"
        )
    encoder = Encoder(config)
    renamed = {ours(name): tensor.float() for name, tensor in state.items() if not UNUSED.match(name)}
    encoder.load_state_dict(renamed)
    return encoder.eval()


def ours(name: str) -> str:
    """The name that a tensor of a checkpoint has here."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
