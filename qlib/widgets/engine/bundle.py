"""The files that a page fetches to measure: scripts, so that they can be loaded from a disk as well as from a
server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from ...benches import load_bench
from ...benches.digits import CHUNK, SIZE, STREAMS, TRAIN_GLYPHS, glyphs
from ...choices import choices
from ...config import QuantConfig
from ...files import write_whole
from ...network import Network, read
from ..figure import module
from . import roundings
from .graph import graph_of, nodes_of
from .ranges import usual_ranges

BENCH = "digits"
FOLDER = "_static/measure"  # of the site
BEYOND = ("per_group", "per_token")  # words of choices that the page does not compute
OF_TEXTS = ("embedding_bits", "kv_bits")  # choices that mean nothing in its networks
IMAGES = {"validation": 2000, "calibration": 320}
HERE = Path(__file__).parent


def write_bundle(folder: Path, networks: Iterable[str] | None = None) -> None:
    """Write ``engine.js``, a script for each of ``networks`` (those of the bench), and one for each method
    with shipped roundings into ``folder``; a network's script that is there already, made of what there is
    now, stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "engine.js", script("engine", engine()))
    for method in roundings.METHODS:
        path = folder / f"{roundings.path_of(method).stem}.js"
        write_whole(path, script(path.stem, roundings.content(method)))
    for name in load_bench(BENCH).models if networks is None else networks:
        path = folder / f"{BENCH}-{name}.js"
        mark = f"// Made of {_made_of(name)}\n"
        if not path.is_file() or not path.read_text("utf8").startswith(mark):
            write_whole(path, mark + script(path.stem, network(name)))


def _made_of(name: str) -> str:
    """SHA-256 of all that a network's script depends on, 16 hexadecimal digits."""
    digest = hashlib.sha256(repr([torch.__version__, np.__version__, platform.processor()]).encode())
    package = Path(__file__).parents[2]
    weights = package / "benches" / "weights" / f"{BENCH}-{name}.safetensors"
    sources = [path for kind in ("py", "js", "wasm") for path in package.rglob(f"*.{kind}")]
    for path in [*sorted(sources), weights]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def script(name: str, content: dict[str, Any]) -> str:
    """A script that leaves ``content`` as a text at ``qlibFiles[name]``, with a sum by which it is whole."""
    text = json.dumps({"version": version(), **content}, separators=(",", ":"), allow_nan=False)
    found = json.dumps({"sum": crc32(text.encode()), "text": text}, separators=(",", ":"))
    return f"(globalThis.qlibFiles ??= {{}})[{json.dumps(name)}] = {found};\n"


@cache
def version() -> int:
    """Of what the scripts hold: those of different ones do not fit together."""
    parts = [module("engine/worker").encode(), *(_compiled(name) for name in ("kernel", "draw"))]
    return crc32(b"".join(parts))


def _compiled(name: str) -> bytes:
    return (HERE / f"{name}.wasm").read_bytes()


def engine() -> dict[str, Any]:
    """What all networks share: the worker, what is compiled, what images are drawn from, and by network the
    methods with shipped roundings.
    """
    images, digits, order = glyphs()
    return {
        "worker": module("engine/worker"),
        "kernel": _base64(_compiled("kernel")),
        "draw": _base64(_compiled("draw")),
        "rounded": {roundings.NETWORK: list(roundings.METHODS)},
        "images": {
            "size": SIZE,
            "glyphs": _base64((16 * images).astype(np.uint8).tobytes()),
            "digits": _base64(digits.astype(np.uint8).tobytes()),
            "order": _base64(order.astype("<u2").tobytes()),
            "training": TRAIN_GLYPHS,
            "counts": IMAGES,
            "states": {name: [_state(name, i) for i in range(-(-n // CHUNK))] for name, n in IMAGES.items()},
        },
    }


def _state(stream: str, chunk: int) -> list[str]:
    """What the generator of a chunk begins with, as four words of 64 bits: its state, and its increment."""
    state = np.random.PCG64([STREAMS[stream], 0, chunk]).state["state"]
    return [str(word) for part in ("state", "inc") for word in divmod(state[part], 2**64)]


def network(name: str) -> dict[str, Any]:
    """A network of the bench: its operations and where quantizers go, weights as they are stored, ranges, and
    the fields of a configuration.
    """
    bench = load_bench(BENCH)
    example = bench.validation(1)[0][0]
    found = read(bench.models[name], example)
    graph = graph_of(found, example)
    nodes = nodes_of(found)
    ids = sorted({quantizer[0] for each in graph["placements"] for quantizer in each["quantizers"]})
    ranges = usual_ranges(found, [nodes[i] for i in ids], bench.calibration(IMAGES["calibration"]))
    return {
        "name": name,
        "graph": graph,
        "fields": fields(),
        "ranges": {
            "ids": ids,
            "rules": {
                rule: _base64(b"".join(_pairs(by[nodes[i]]) for i in ids)) for rule, by in ranges.items()
            },
        },
        **weights(found),
    }


def _pairs(ends: tuple[Tensor, Tensor]) -> bytes:
    """The low and the high end of each channel in turn, float32."""
    return torch.stack(ends, 1).numpy().astype("<f4").tobytes()


def weights(found: Network) -> dict[str, Any]:
    """Layers in execution order, and their numbers one after the other in float16: weight, bias if there is
    one, and of a batch norm that is folded in, scale, shift, mean and variance.
    """
    layers, parts = [], []
    for name in found.layers:
        layer, norm = found.folds.get(name, (found.module.get_submodule(name), None))
        own = [layer.weight, layer.bias]
        own += [] if norm is None else [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        parts += [_half(name, tensor) for tensor in own if tensor is not None]
        layers.append(
            {
                "name": name,
                "shape": list(layer.weight.shape),
                "bias": layer.bias is not None,
                "eps": None if norm is None else norm.eps,
            }
        )
    return {"layers": layers, "weights": _base64(b"".join(parts))}


def _half(name: str, tensor: Tensor | nn.Parameter) -> bytes:
    half = tensor.detach().numpy().astype("<f2")
    if not np.array_equal(half.astype(np.float32), tensor.detach().numpy()):
        raise ValueError(f"{name} holds numbers that float16 does not have")
    return half.tobytes()


def fields() -> dict[str, dict[str, Any]]:
    """What is stated about the fields of `QuantConfig`, as far as they are checked by it."""
    usual = QuantConfig().to_dict()
    return {
        name: {
            "default": usual[name],
            "values": [value for value in known.values if value not in BEYOND],
            "fixed": name in OF_TEXTS,
            "above": known.above,
            "most": known.most,
        }
        for name, known in choices(QuantConfig).items()
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
