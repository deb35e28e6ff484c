"""A mangled checkpoint becomes a card or one line of refusal, in little memory."""

import json
import random
import struct
import tracemalloc

import pytest
from checkpoints import folder, safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlib import QuantizationCard
from qlib.cli import main

MOST_MEMORY = 60_000_000
SLOW = settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))


def text(value):
    return struct.pack("<Q", len(value)) + value


def gguf(keys=(), tensors=(), counts=None):
    """The bytes of a GGUF header, its counts as they are or as they are claimed to be."""
    head = struct.pack("<QQ", *(counts or (len(tensors), len(keys))))
    return b"GGUF" + struct.pack("<I", 3) + head + b"".join(keys) + b"".join(tensors)


def tensor(name=b"a", sizes=(32, 4), kind=2, offset=0):
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


KEYS = [
    text(b"general.name") + struct.pack("<I", 8) + text(b"a model"),
    text(b"general.file_type") + struct.pack("<II", 4, 2),
    text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b"),
    text(b"scores") + struct.pack("<IIQ", 9, 6, 2) + bytes(8),
]
FINE = gguf(KEYS, [tensor(b"token_embd.weight"), tensor(b"blk.0.a.weight", (32, 8))])


def card_or_refusal(path):
    """What is refused, in one line and little memory; raises anything but a ValueError of one line."""
    tracemalloc.start()
    try:
        QuantizationCard.from_checkpoint(path)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 700, error
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_MEMORY


def test_the_header_is_read_before_it_is_mangled(tmp_path):
    (tmp_path / "m.gguf").write_bytes(FINE)
    card = QuantizationCard.from_checkpoint(tmp_path / "m.gguf")
    assert (card["weight_bits"], card["embedding_bits"], card["network"]) == (4, 4, "a model")


@SLOW
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_a_header_with_changed_bytes(tmp_path_factory, seed, times):
    draw = random.Random(seed)
    content = bytearray(FINE)
    for _ in range(times):
        at = draw.randrange(4, len(content))
        if draw.random() < 0.3:
            content[at : at + 8] = draw.choice([b"\xff" * 8, bytes(8), struct.pack("<Q", 2**33)])
        else:
            content[at] = draw.randrange(256)
    path = tmp_path_factory.getbasetemp() / "m.gguf"
    path.write_bytes(content)
    card_or_refusal(path)


def test_a_header_cut_anywhere(tmp_path):
    path = tmp_path / "m.gguf"
    for end in range(len(FINE)):
        path.write_bytes(FINE[:end])
        assert card_or_refusal(path)


def nested(depth):
    return text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 4, 0)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "it is empty"),
        (b"GGML" + bytes(100), "does not begin with GGUF"),
        (gguf(counts=(2**63, 0)), "claims 9,223,372,036,854,775,808 tensors"),
        (gguf(counts=(0, 2**40)), "keys, more than"),
        (gguf(counts=(20_000, 10_000)), "ends within its header"),
        (gguf([struct.pack("<Q", 10**10)]), "bytes of a name"),
        (gguf([text(b"k") + struct.pack("<IQ", 8, 10**10)]), "bytes of a text"),
        (gguf([text(b"k") + struct.pack("<IIQ", 9, 4, 10**10)]), "its header is longer than"),
        (gguf([text(b"k") + struct.pack("<IIQ", 9, 8, 10**10)]), "arrays hold more than"),
        (gguf([text(b"k") + struct.pack("<IIQ", 9, 9, 10**6)]), "ends within its header"),
        (gguf([nested(1000)]), "nested too deeply"),
        (gguf([text(b"k") + struct.pack("<I", 99)]), "a value of type 99"),
        (gguf([KEYS[0], KEYS[0]]), "stands there twice"),
        (gguf([text(b"\xff")]), "not text"),
        (gguf(tensors=[tensor(), tensor()]), "have one name"),
        (gguf(tensors=[tensor(kind=99)]), "type 99, which this qlib does not know"),
        (gguf(tensors=[tensor(sizes=(33,))]), "sizes that Q4_0 does not allow"),
        (gguf(tensors=[tensor(sizes=(2**40, 2**40))]), "sizes that Q4_0 does not allow"),
        (gguf(tensors=[text(b"a") + struct.pack("<I", 2**31)]), "2,147,483,648 dimensions"),
    ],
)
def test_headers_out_of_bounds_are_refused_by_the_command_too(tmp_path, capsys, content, said):
    path = tmp_path / "m.gguf"
    with open(path, "wb") as file:
        file.write(content)
    assert said in card_or_refusal(path)
    assert main(["card", "from-checkpoint", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("qlib: ") and error.count("\n") == 1 and said in error


def test_ten_gigabytes_of_nothing_are_not_read(tmp_path):
    path = tmp_path / "m.gguf"
    words = text(b"k") + struct.pack("<IIQ", 9, 8, 10**5)
    for content, said in ((gguf([words]), "holds no weights"), (gguf(counts=(20_000, 0)), "have one name")):
        with open(path, "wb") as file:
            file.write(content)
            file.truncate(10**10)
        assert said in card_or_refusal(path)
    other = tmp_path / "model.safetensors"
    with open(other, "wb") as file:
        file.write((10**10 - 8).to_bytes(8, "little"))
        file.truncate(10**10)
    assert "its header claims 9,999,999,992 bytes" in card_or_refusal(other)


@pytest.mark.parametrize(
    "header, said",
    [
        (b"", "claims 0 bytes"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[]", "holds no mapping"),
        (b"\xff\xff", "no text"),
        (b'{"a": 1, "a": 1}', "stands there twice"),
        (b'{"a": NaN}', "not finite"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "digit"),
        (b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]}}', "the bytes of its sizes"),
        (b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "beyond the end"),
        (b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}', "no sizes"),
        (b'{"a": {"dtype": "F32", "shape": [1e9], "data_offsets": [0, 16]}}', "no sizes"),
        (b'{"a": {"dtype": ["F32"]}}', "does not know"),
        (b'{"a": 3}', "does not know"),
    ],
)
def test_safetensors_headers_out_of_bounds(tmp_path, header, said):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert said in card_or_refusal(path)


@pytest.mark.parametrize(
    "content, said",
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a": [' + "[]," * 5_000_000 + "1]}", "more than 200,000 lists"),
        ('{"a": [' + "1," * 7_000_000 + "1]}", "or 1,000,000 values"),
        ('{"a":' * 30 + "1" + "}" * 30, "nested too deeply"),
        ('{"a": 1, "a": 2}', "stands there twice"),
        ('{"a": Infinity}', "not finite"),
        ("{", "not JSON"),
        ("", "not JSON"),
        ("3", "holds no mapping"),
        ('{"a": "' + "x" * 17_000_000 + '"}', "larger than"),
    ],
)
def test_settings_out_of_bounds(tmp_path, content, said):
    (tmp_path / "config.json").write_text(content)
    assert said in card_or_refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "a: &a [*a]\n",
        "a: {a: {a: {a: " * 100,
        "[" * 100_000,
        "a: !!python/object/apply:os.system [x]\n",
        "x: y\n" * 2,
        "- 1\n" * 400_000,
    ],
)
def test_recipes_out_of_bounds(tmp_path, content):
    path = folder(tmp_path, {"quant_method": "gptq", "bits": 4}, recipe_yaml=content)
    assert "recipe.yaml" in card_or_refusal(path)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
GROUP = {
    "num_bits": 4,
    "type": "int",
    "symmetric": True,
    "strategy": "group",
    "group_size": 32,
    "actorder": None,
}
SETTINGS = [
    {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "desc_act": True,
        "dynamic": {"+:a": {"bits": 8}},
        "meta": {"quantizer": ["x"]},
        "dataset": ["a"],
        "modules_in_block_to_quantize": [["a"]],
        "lm_head": True,
        "damp_percent": 0.1,
    },
    {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "zero_point": True,
        "modules_to_not_convert": ["a"],
    },
    {
        "quant_method": "compressed-tensors",
        "config_groups": {"g": {"targets": ["Linear"], "weights": GROUP, "input_activations": GROUP}},
        "ignore": ["lm_head"],
        "kv_cache_scheme": GROUP,
        "transform_config": {"config_groups": {"a": {"type": "hadamard"}}},
    },
    {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "llm_int8_threshold": 6.0,
    },
    {
        "quant_method": "torchao",
        "quant_type": {
            "default": {
                "_type": "IntxWeightOnlyConfig",
                "_data": {
                    "weight_dtype": {"_type": "torch.dtype", "_data": "int4"},
                    "granularity": {"_type": "PerGroup", "_data": {"group_size": 32}},
                },
            }
        },
    },
    {
        "quant_method": "torchao",
        "quant_type": {
            "default": {
                "_type": "FqnToConfig",
                "_data": {"fqn_to_config": {"a": {"_type": "Int8WeightOnlyConfig"}}},
            }
        },
    },
    {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {"a": {"quant_algo": "FP8", "group_size": 16}},
        "exclude_modules": ["a"],
        "producer": {"name": "x", "version": "1"},
    },
    {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
        "modules_to_convert": ["a"],
        "ignored_layers": ["lm_head"],
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
        "expert_dtype": "fp4",
    },
    {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["a"]},
    {"quant_method": "mxfp4", "modules_to_not_convert": ["a"]},
    {
        "quant_method": "hqq",
        "quant_config": {
            "a": {
                "weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1},
                "scale_quant_params": None,
            },
            "b": {"weight_quant_params": {"nbits": 2, "group_size": 32, "axis": 0}},
        },
        "skip_modules": ["lm_head"],
    },
    {
        "quant_method": "auto-round",
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "iters": 200,
        "data_type": "int",
        "act_bits": 8,
        "act_dynamic": True,
        "extra_config": {"a": {"bits": 16}, "b": {"bits": 8, "sym": False}},
    },
]


def places(part, path=()):
    """Every place within plain data."""
    yield path
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for name, value in inner:
        yield from places(value, (*path, name))


@SLOW
@given(st.data())
def test_settings_with_something_else_in_a_place(tmp_path_factory, data):
    whole = json.loads(
        json.dumps({"model_type": "llama", "quantization_config": data.draw(st.sampled_from(SETTINGS))})
    )
    *path, last = data.draw(st.sampled_from([place for place in places(whole) if place]))
    part = whole
    for name in path:
        part = part[name]
    part[last] = data.draw(ODD)
    where = tmp_path_factory.getbasetemp() / "settings"
    where.mkdir(exist_ok=True)
    (where / "config.json").write_text(json.dumps(whole))
    card_or_refusal(where)


PARTS = (
    "weight",
    "qweight",
    "scales",
    "qzeros",
    "g_idx",
    "weight_packed",
    "weight_scale",
    "weight.absmax",
    "SCB",
)
TENSORS = st.dictionaries(
    st.sampled_from(
        [f"{module}.{part}" for module in ("a", "lm_head") for part in PARTS] + ["", ".", "a.bias"]
    ),
    st.tuples(
        st.sampled_from(["F32", "F16", "I32", "I8", "U8", "F8_E4M3", "I64"]),
        st.lists(st.sampled_from([0, 1, 2, 8, 16]), max_size=4),
    ),
    max_size=6,
)


@SLOW
@given(TENSORS, st.sampled_from([None, 1, 3, 4]))
def test_tensors_of_odd_sizes(tmp_path_factory, tensors, bits):
    where = tmp_path_factory.getbasetemp() / "tensors"
    folder(where, {"quant_method": "gptq", "bits": bits})
    safetensors(where / "model.safetensors", tensors)
    assert card_or_refusal(where) is None
