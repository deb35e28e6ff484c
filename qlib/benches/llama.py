"""A Llama-like language model: small modules that can be traced, and checkpoints of it, be they a folder of
safetensors with its ``config.json`` or a GGUF file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network.attention import scaled_scores
from ..network.language import causal, rotary

Kept = list[list[Tensor]]  # by block the keys and values of earlier tokens, or nothing yet

RENAMED = (  # from a name in a folder's files to ours
    (r"^model\.embed_tokens\.", "table."),
    (r"^model\.layers\.(\d+)\.self_attn\.([qkvo])_proj\.", r"blocks.\1.attention.\2."),
    (r"^model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.", r"blocks.\1.mlp.\2."),
    (r"^model\.layers\.(\d+)\.input_layernorm\.", r"blocks.\1.attention_norm."),
    (r"^model\.layers\.(\d+)\.post_attention_layernorm\.", r"blocks.\1.mlp_norm."),
    (r"^model\.norm\.", "norm."),
    (r"^lm_head\.", "head."),
)
RENAMED_GGUF = (  # from a name in a GGUF file
    (r"^token_embd\.", "table."),
    (r"^blk\.(\d+)\.attn_([qkv])\.", r"blocks.\1.attention.\2."),
    (r"^blk\.(\d+)\.attn_output\.", r"blocks.\1.attention.o."),
    (r"^blk\.(\d+)\.ffn_(gate|up|down)\.", r"blocks.\1.mlp.\2."),
    (r"^blk\.(\d+)\.attn_norm\.", r"blocks.\1.attention_norm."),
    (r"^blk\.(\d+)\.ffn_norm\.", r"blocks.\1.mlp_norm."),
    (r"^output_norm\.", "norm."),
    (r"^output\.", "head."),
)
ONLY = {  # fields of a config.json that would change what is computed, and the values that are computed here
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
    "pretraining_tp": (1, None),
}


class Attention(nn.Module):
    """Causal, with positions turned into queries and keys; several heads of queries share one of keys."""

    def __init__(self, width: int, heads: int, shared: int, features: int, base: float):
        super().__init__()
        self.heads, self.shared, self.features, self.base = heads, shared, features, base
        self.q = nn.Linear(width, heads * features, bias=False)
        self.k = nn.Linear(width, shared * features, bias=False)
        self.v = nn.Linear(width, shared * features, bias=False)
        self.o = nn.Linear(heads * features, width, bias=False)

    def forward(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.features)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        start = kept[0].shape[-2] if kept else 0
        q, k = rotary(q, self.base, start), rotary(k, self.base, start)
        if kept is not None:
            k, v = (torch.cat(pair, -2) for pair in zip(kept, (k, v), strict=True)) if kept else (k, v)
            kept[:] = [k, v]
        k, v = (t.repeat_interleave(self.heads // self.shared, 1) for t in (k, v))
        weights = F.softmax(causal(scaled_scores(q, k)), -1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """Two linear layers, one of which is a gate for the other, and a third."""

    def __init__(self, width: int, wide: int):
        super().__init__()
        self.gate = nn.Linear(width, wide, bias=False)
        self.up = nn.Linear(width, wide, bias=False)
        self.down = nn.Linear(wide, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, width: int, wide: int, eps: float, *attention: Any):
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps)
        self.attention = Attention(width, *attention)
        self.mlp_norm = nn.RMSNorm(width, eps)
        self.mlp = Gated(width, wide)

    def forward(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), kept)
        return x + self.mlp(self.mlp_norm(x))


class Llama(nn.Module):
    """From tokens ``(n, tokens)`` to the scores of what follows each ``(n, vocabulary, tokens)``.

    Parameters
    ----------
    config : mapping
        As a ``config.json`` has it.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        width, heads = config["hidden_size"], config["num_attention_heads"]
        shared = config.get("num_key_value_heads") or heads
        features = config.get("head_dim") or width // heads
        attention = (heads, shared, features, float(config.get("rope_theta") or 10_000))
        parts = (width, config["intermediate_size"], config["rms_norm_eps"], *attention)
        self.table = nn.Embedding(config["vocab_size"], width)
        self.blocks = nn.ModuleList(Block(*parts) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(width, config["rms_norm_eps"])
        self.head = nn.Linear(width, config["vocab_size"], bias=False)
        if config.get("tie_word_embeddings"):
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor, kept: Kept | None = None) -> Tensor:
        """``kept``: what earlier tokens left, a list for each block, to which these tokens are added."""
        x = self.table(ids)
        for i, block in enumerate(self.blocks):
            x = block(x) if kept is None else block(x, kept[i])
        return self.head(self.norm(x)).transpose(1, 2)


def llama_of_folder(folder: Path) -> Llama:
    """The language model of a checkpoint's folder.

    Raises
    ------
    ValueError
        In one line that names the file: it is no Llama-like model, or not all of one.
    OSError
        A file is not there.
    """
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text("utf8"))
    rope = config.get("rope_parameters") or {}  # where newer files have rope_theta
    config = {"rope_theta": rope.get("rope_theta"), **config}
    for field, values in ONLY.items():
        if config.get(field) not in values:
            raise ValueError(
                f"{folder / 'config.json'}: {field} is {config.get(field)!r}, and what is computed here is "
                f"{' or '.join(map(repr, values))}"
            )
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"{folder / 'config.json'}: positions are scaled ({rope['rope_type']!r})")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.safetensors")
    state = {name: tensor for file in files for name, tensor in load_file(file).items()}
    return _made(config, {_renamed(name, RENAMED): t.float() for name, t in state.items()}, folder)


def llama_of_gguf(path: Path) -> Llama:
    """The language model of a GGUF file, as the floats that its codes stand for.

    Raises
    ------
    ValueError
        It is of another architecture, or not all of one; or the package ``gguf`` is not there.
    """
    reader, fields = read_gguf(path)
    if (kind := fields("general.architecture")) != "llama":
        raise ValueError(f"{path} is a {kind!r}, not a 'llama'")
    from gguf import dequantize

    heads = fields("llama.attention.head_count")
    config = {
        "hidden_size": fields("llama.embedding_length"),
        "intermediate_size": fields("llama.feed_forward_length"),
        "num_hidden_layers": fields("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields("llama.attention.head_count_kv") or heads,
        "rms_norm_eps": fields("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": fields("llama.rope.freq_base"),
    }
    state = {
        _renamed(tensor.name, RENAMED_GGUF): torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        for tensor in reader.tensors
    }
    config |= {"vocab_size": len(state["table.weight"]), "tie_word_embeddings": "head.weight" not in state}
    for name, tensor in state.items():
        if name.endswith((".attention.q.weight", ".attention.k.weight")):
            count = config["num_attention_heads" if ".q." in name else "num_key_value_heads"]
            # Pairs of features that are turned together are neighbours there, and half a head apart here
            state[name] = tensor.unflatten(0, (count, -1, 2)).transpose(1, 2).reshape(tensor.shape)
    return _made(config, state, path)


def read_gguf(path: Path) -> tuple[Any, Any]:
    """The reader of a GGUF file, and a function from the name of a field to what it says."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ValueError(f"reading {path.name} needs the package gguf: pip install gguf") from None
    reader = GGUFReader(path)

    def field(name: str) -> Any:
        found = reader.fields.get(name)
        return None if found is None else found.contents()

    return reader, field


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    return name


def _made(config: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> Llama:
    with torch.device("meta"):
        model = Llama(config)
    state = {name: tensor for name, tensor in state.items() if not name.endswith("inv_freq")}
    if config.get("tie_word_embeddings"):
        state = {**state, "head.weight": state["table.weight"]}
    try:
        model.load_state_dict(state, assign=True)
    except (RuntimeError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} does not hold the weights that its settings speak of: {said}") from None
    if config.get("tie_word_embeddings"):
        model.head.weight = model.table.weight
    return model.requires_grad_(False).eval()
