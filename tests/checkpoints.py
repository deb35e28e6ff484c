"""Checkpoints written for the tests: headers in full, weights of zeros that take no room on a disk."""

import json

import numpy as np

SIZES = {"F32": 32, "F16": 16, "BF16": 16, "I32": 32, "I8": 8, "U8": 8, "F8_E4M3": 8, "I64": 64}


def safetensors(path, tensors):
    """A safetensors file of zeros: ``tensors`` has (type, sizes) by name."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (kind, sizes) in tensors.items():
        count = 1
        for size in sizes:
            count *= size
        start, end = end, end + count * SIZES[kind] // 8
        header[name] = {"dtype": kind, "shape": list(sizes), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def folder(path, quantization=None, tensors=None, config=(), **files):
    """A folder as model hubs have them: what ``files`` holds by name with an underscore for its dot."""
    path.mkdir(exist_ok=True)
    whole = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **dict(config)}
    if quantization is not None:
        whole["quantization_config"] = quantization
    (path / "config.json").write_text(json.dumps(whole))
    if tensors is not None:
        safetensors(path / "model.safetensors", tensors)
    for name, content in files.items():
        name = ".".join(name.rsplit("_", 1))
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def written(path, tensors, order=None, **metadata):
    """A GGUF file of zeros: ``tensors`` has (type, rows, columns) or (type, length) by name, little-endian
    unless stated.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "llama", endianess=order or gguf.GGUFEndian.LITTLE)
    for name, value in metadata.items():
        getattr(writer, f"add_{name}")(*(value if isinstance(value, tuple) else (value,)))
    for name, (kind, *sizes) in tensors.items():
        block, size = gguf.GGML_QUANT_SIZES[kind]
        shape = (*sizes[:-1], sizes[-1] // block * size)
        writer.add_tensor(name, np.zeros(shape, np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
