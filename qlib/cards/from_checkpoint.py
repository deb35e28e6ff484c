"""What the files of a checkpoint show of its quantization (`qlib.cards.checkpoint`): a GGUF file, or a folder
with ``config.json`` and what lies beside it. Headers and settings are read, weights never.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..strict_yaml import read_yaml
from .checkpoint.autoround import of_autoround
from .checkpoint.awq import of_awq
from .checkpoint.bitsandbytes import of_bitsandbytes
from .checkpoint.compressed_tensors import of_compressed_tensors
from .checkpoint.files import entries, read_json, read_text
from .checkpoint.found import MOST_FAULTS, Found, contradiction, joined, listed, of_card, words
from .checkpoint.fp8 import of_fbgemm_fp8, of_fp8
from .checkpoint.front_matter import MOST, of_readme
from .checkpoint.gguf import of_headers
from .checkpoint.gguf_header import read_header as gguf_header
from .checkpoint.gptq import of_gptq
from .checkpoint.hqq import of_hqq
from .checkpoint.modelopt import of_modelopt
from .checkpoint.mxfp4 import of_mxfp4
from .checkpoint.recipe import of_recipe
from .checkpoint.safetensors import read_header as safetensors_header
from .checkpoint.safetensors import read_headers
from .checkpoint.stored import of_tensors
from .checkpoint.torchao import of_torchao

CONFIG = "config.json"
SETTINGS = (CONFIG, "quantize_config.json", "quant_config.json", "hf_quant_config.json")
RECIPE, README = "recipe.yaml", "README.md"
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
CONTAINERS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "compressed-tensors": "compressed-tensors",
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "modelopt": "ModelOpt",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "mxfp4": "MXFP4",
    "hqq": "HQQ",
    "auto-round": "AutoRound",
}
METHODS: dict[str, Callable[[Mapping[str, Any], str], Found]] = {
    "gptq": of_gptq,
    "awq": of_awq,
    "compressed-tensors": of_compressed_tensors,
    "bitsandbytes": of_bitsandbytes,
    "torchao": of_torchao,
    "modelopt": of_modelopt,
    "fp8": of_fp8,
    "fbgemm_fp8": of_fbgemm_fp8,
    "mxfp4": of_mxfp4,
    "hqq": of_hqq,
    "auto-round": of_autoround,
}
TELLING = {
    "config_groups": "compressed-tensors",
    "load_in_4bit": "bitsandbytes",
    "load_in_8bit": "bitsandbytes",
    "quant_type": "torchao",
    "quant_algo": "modelopt",
    "quantization": "modelopt",
    "zero_point": "awq",
    "w_bit": "awq",
    "desc_act": "gptq",
}
"""Keys by which settings are known that do not name their method."""


def from_checkpoint(path: str | Path) -> dict[str, Any]:
    """The fields of a checkpoint's card, its sources and remarks, as far as its files show them.

    Parameters
    ----------
    path : path
        A GGUF file; a folder as model hubs have them; or one file of such a folder, read alone.

    Raises
    ------
    ValueError
        In one line, for what is none of these, or out of bounds.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    parts = _of_folder(path) if path.is_dir() else _of_file(path)
    return of_card(joined(parts))


def name_of(path: str | Path) -> str:
    """A name for the card: that of the GGUF file, or of the folder."""
    path = Path(path).absolute()
    alone = path.name in (*SETTINGS, RECIPE, README, "model.safetensors")
    return words(path.parent.name if alone else path.name if path.is_dir() else path.stem) or "a checkpoint"


def _of_folder(folder: Path) -> list[Found]:
    names = entries(folder)
    ggufs = [name for name in names if name.endswith(".gguf")]
    others = [name for name in names if name in SETTINGS or name.endswith(".safetensors")]
    sets = {PART.sub("", name) for name in ggufs}
    if len(sets) > 1 or ggufs and any(name.endswith(".safetensors") for name in others):
        some = ", ".join(filter(None, map(words, [*ggufs[:3], *others[:1]])))
        raise ValueError(f"{folder} holds more than one checkpoint ({some}): name one file")
    if not ggufs and not others:
        raise ValueError(
            f"{folder} holds no checkpoint that a card can read: no GGUF file, none of {', '.join(SETTINGS)} "
            "and no safetensors file"
        )
    found = [_of_gguf(folder, ggufs)] if ggufs else _of_settings(folder, names)
    if ggufs and others:
        found.append(Found("", remarks=[f"Not read, since the GGUF file tells itself: {listed(others)}."]))
    # First, as what it calls the base model is one name for all checkpoints of it
    return [*([of_readme(_head(folder / README))] if README in names else []), *found]


def _head(path: Path, follow: bool = False) -> str:
    """The beginning of a README, which may be long."""
    return read_text(path, follow)[:MOST]


def _of_file(path: Path) -> list[Found]:
    """One file, which may be a link: its reader has named it."""
    if path.suffix == ".gguf":
        part = PART.search(path.name)
        if part is None:
            return [of_headers([gguf_header(path, follow=True)], path.name)]
        among = [name for name in entries(path.parent) if PART.sub("", name) == PART.sub("", path.name)]
        return [_of_gguf(path.parent, [name for name in among if PART.search(name)])]
    if path.suffix == ".safetensors":
        return [of_tensors(safetensors_header(path, follow=True), None, None)]
    if path.suffix == ".json":
        return list(_of_json(read_json(path, follow=True), path.name))
    if path.suffix in (".yaml", ".yml"):
        return [of_recipe(_yaml(path, follow=True), path.name)]
    if path.suffix == ".md":
        return [of_readme(_head(path, follow=True))]
    raise ValueError(
        f"{path} is no file of a checkpoint that a card can read: these end in .gguf, .json, .safetensors, "
        ".yaml or .md"
    )


def _of_gguf(folder: Path, names: list[str]) -> Found:
    return of_headers([gguf_header(folder / name) for name in sorted(names)], sorted(names)[0])


def _yaml(path: Path, follow: bool = False) -> Any:
    try:
        return read_yaml(read_text(path, follow))
    except ValueError as error:
        said = str(error).removeprefix(f"{path}: ")
        raise ValueError(said if str(path) in said else f"{path}: {said}") from None


def _of_settings(folder: Path, names: Iterable[str]) -> list[Found]:
    """Settings first, then how weights are stored, which the settings help to read."""
    settings = {name: read_json(folder / name) for name in SETTINGS if name in names}
    found = [part for name, data in settings.items() for part in _of_json(data, name)]
    found += _differing(settings)
    if RECIPE in names:
        found.append(of_recipe(_yaml(folder / RECIPE)))
    tensors = read_headers(folder, names)
    if tensors is not None:
        said = joined(found).fields
        bits = said.get("weight_bits")
        tied = settings.get(CONFIG, {}).get("tie_word_embeddings")
        stored = of_tensors(tensors, bits if isinstance(bits, int) else None, tied is True)
        for part in found:  # bits by pattern, which those by layer spell out
            if isinstance(part.fields.get("weight_bits"), dict) and "weight_bits" in stored.fields:
                part.unsay("weight_bits")
        found.append(stored)
    elif any(name.endswith(".safetensors") for name in names):
        found.append(Found("", remarks=["Not all of its weights are there: their sizes are left out."]))
    return found


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> Iterator[Found]:
    """In which settings of quantization two files differ, those included that no field asks for."""
    kinds = {name: _inner(data) or ({} if name == CONFIG else data) for name, data in settings.items()}
    for (one, first), (other, second) in itertools.combinations(kinds.items(), 2):
        apart = (
            contradiction([(first[key], f"{one}: {words(key)}"), (second[key], f"{other}: {words(key)}")])
            for key in sorted(first.keys() & second.keys())
            if not isinstance(first[key], (dict, list)) and first[key] != second[key]
        )
        yield Found("", faults=list(itertools.islice(apart, MOST_FAULTS)))


def _inner(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of quantization within a file of settings; ``None`` if it holds none apart."""
    within = data.get("text_config")
    within = within if isinstance(within, dict) else {}
    keys = ("quantization_config", "compression_config")
    return next(
        (part[key] for part in (data, within) for key in keys if isinstance(part.get(key), dict)), None
    )


def _of_json(data: Mapping[str, Any], name: str) -> Iterator[Found]:
    """What a file of settings says: of a network, of its quantization, or of both."""
    inner = _inner(data)
    if inner is None and name == CONFIG:
        kind = words(data.get("dtype", data.get("torch_dtype")), 20)
        inside = f": its weights are {kind}, or what another file says" if kind else ""
        yield Found("", remarks=[f"config.json says nothing of quantization{inside}."])
    else:
        yield _quantized(inner if inner is not None else data, name)
    if "model_type" in data:
        yield _network(data, name)


def _quantized(settings: Mapping[str, Any], name: str) -> Found:
    told = words(settings.get("quant_method"), 40)
    method = told or next((kind for key, kind in TELLING.items() if key in settings), None)
    if method not in METHODS:
        about = f"Its quantization ({method}) is of a kind" if method else "Its settings are of a kind"
        return Found("", remarks=[f"{about} that this qlib does not read."])
    found = METHODS[method](settings, name)
    found.say("quant_method" if told else "its keys", container=CONTAINERS[method])
    return found


def _network(config: Mapping[str, Any], name: str) -> Found:
    found = Found(name)
    path = words(config.get("_name_or_path"))
    if path and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) and not path.startswith("."):
        found.say("_name_or_path", network=path)
    kinds = config.get("architectures")
    if isinstance(kinds, list) and kinds:
        found.remark(f"Architecture {words(kinds[0])}.")
    elif "network" not in found.fields and words(config["model_type"]):
        found.remark(f"Architecture {words(config['model_type'])}.")
    return found
