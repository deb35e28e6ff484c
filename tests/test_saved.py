"""What is saved takes its bits, and is loaded again bit for bit."""

import copy
import dataclasses
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from helpers import Block, images
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrizations

import qlib
from qlib import QuantConfig, quantize
from qlib.affine import fake_quantize, make_grid
from qlib.choices import choice
from qlib.export import load_quantized, save_quantized
from qlib.export.packed import pack, unpack


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(192, 192)
        self.tied = nn.Linear(192, 192)
        self.tied.weight = self.first.weight
        self.again = self.first
        self.last = nn.Linear(192, 4)

    def forward(self, x):
        return self.last(torch.relu(self.again(torch.relu(self.tied(torch.relu(self.first(x.flatten(1))))))))


def computed():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 3, groups=2, bias=False),
        nn.BatchNorm2d(4),
    )


FIELDS = {
    "default": {},
    "odd bits": {"weight_bits": 3, "activation_bits": 5, "first_last_bits": None},
    "1 bit": {"weight_bits": 1, "activation_bits": 1},
    "16 bits": {"weight_bits": 16, "activation_bits": 16, "first_last_bits": 13},
    "symmetric": {"weight_bits": 4, "weight_symmetric": True, "activation_symmetric": True},
    "restricted": {"weight_bits": 2, "weight_symmetric": True, "symmetric_grid": "restricted"},
    "authors": {"weight_bits": 4, "weight_symmetric": True, "symmetric_grid": "authors"},
    "per tensor": {"weight_bits": 5, "weight_granularity": "per_tensor"},
    "dynamic": {"weight_bits": 4, "activation_dynamic": True},
    "per channel": {"weight_bits": 4, "activation_granularity": "per_channel"},
    "weights alone": {"weight_bits": 6, "activation_bits": None},
    "activations alone": {"weight_bits": None},
    "float": {"weight_bits": None, "activation_bits": None},
}
NETWORKS = {"residual": Block, "tied": Tied, "computed": computed}


def made(name, seed=0):
    torch.manual_seed(seed)
    return NETWORKS[name]().eval()


def assert_same(loaded, quantized):
    found, expected = loaded.state_dict(), quantized.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    x = images(4)
    with torch.inference_mode():
        assert torch.equal(loaded(x.clone()), quantized(x.clone()))


def saved(network, config, folder, method="nearest"):
    """The quantized network, which also lies in ``folder``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = quantize(network, config, images(16), method)
    save_quantized(quantized, config, folder)
    return quantized


@pytest.mark.parametrize("method", ["nearest", "bias"])
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_loaded_network_is_the_one_that_was_saved(name, fields, method, tmp_path):
    config = QuantConfig(**fields)
    quantized = saved(made(name), config, tmp_path / "one", method)
    loaded = load_quantized(made(name, seed=1), tmp_path / "one")
    assert_same(loaded, quantized)
    save_quantized(loaded, config, tmp_path / "two")
    files = [(tmp_path / part / "weights.safetensors").stat().st_size for part in ("one", "two")]
    assert_same(load_quantized(made(name, seed=2), tmp_path / "two"), quantized)
    assert files[0] == files[1] and len(list((tmp_path / "two").iterdir())) == 2


def test_layers_in_float_and_bits_by_channel(tmp_path):
    bits = {"body": (1, 2, 3, 4, 5, 6, 7, 8), "body2": 20, "default": 4}
    config = QuantConfig(weight_bits=bits, float_layers=("project",))
    quantized = saved(Block(), config, tmp_path)
    assert_same(load_quantized(Block(), tmp_path), quantized)
    state = load_file(tmp_path / "weights.safetensors")
    assert len(state["body.weight.packed.codes"]) == sum(bits["body"]) * 8 * 9 / 8
    assert state["project.weight"].dtype == state["body2.weight"].dtype == torch.float32


def test_the_bench_is_loaded(tmp_path):
    bench = qlib.load_bench("digits")
    config = QuantConfig(4, 4)
    quantized = quantize(bench.models["base"], config, bench.calibration(32, seed=0))
    save_quantized(quantized, config, tmp_path)
    loaded = load_quantized(bench.models["better"], tmp_path)  # another network's weights, the same graph
    x = bench.validation(50)[0][0]
    with torch.inference_mode():
        assert torch.equal(loaded(x.clone()), quantized(x.clone()))


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_a_weight_takes_its_bits(bits, tmp_path):
    config = QuantConfig(weight_bits=bits, activation_bits=None, first_last_bits=None)
    network = nn.Sequential(nn.Linear(192, 512), nn.ReLU(), nn.Linear(512, 256, bias=False))
    quantized = quantize(network, config)
    save_quantized(quantized, config, tmp_path)
    weights = 192 * 512 + 512 * 256
    beside = 4 * 512 + 8 * (512 + 256) + 1 * (512 + 256)  # the bias; a scale, zero-point and bits a row
    assert (
        weights * bits / 8
        < (tmp_path / "weights.safetensors").stat().st_size
        < (weights * bits / 8 + beside + 2000)
    )


def test_tied_weights_are_written_once(tmp_path):
    saved(Tied(), QuantConfig(), tmp_path)
    names = load_file(tmp_path / "weights.safetensors").keys()
    assert [name for name in names if name.endswith(".codes")] == [
        "first.weight.packed.codes",
        "last.weight.packed.codes",
    ]


@given(
    bits=st.integers(1, 16),
    symmetric=st.booleans(),
    variant=st.sampled_from(["full", "restricted"]),
    per_channel=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_what_is_packed_is_unpacked_bit_for_bit(bits, symmetric, variant, per_channel, seed):
    rows = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(seed))
    ends = torch.aminmax(rows.flatten(1), dim=1) if per_channel else torch.aminmax(rows)
    grid = make_grid(*ends, max(bits, 1 + symmetric), symmetric, variant).reshape(-1, 1, 1)
    values = fake_quantize(rows, grid)
    parts = pack(values, grid)
    assert len(parts["codes"]) == -(-rows.numel() * max(bits, 1 + symmetric) // 8)
    found, counted = unpack(parts)
    assert torch.equal(found, values)
    assert all(torch.equal(part, parts[name]) for name, part in pack(found, counted).items())


def test_codes_are_packed_as_is_documented():
    grid = make_grid(torch.tensor(0.0), torch.tensor(7.0), 3)
    parts = pack(torch.tensor([[1.0, 2.0, 7.0]]), grid)
    assert parts["codes"].tolist() == [0b00101011, 0b10000000]


@pytest.mark.parametrize("bits", range(1, 17))
def test_files_of_before_are_unpacked(bits):
    """Their codes, written out digit by digit, and packed to the same bytes again."""
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, 7))
    codes[0, :2] = 0, 2**bits - 1
    digits = "".join(f"{code:0{bits}b}" for code in codes.flat)
    data = int(digits.ljust(-len(digits) % 8 + len(digits), "0"), 2).to_bytes(-(-len(digits) // 8), "big")
    parts = {
        "codes": torch.frombuffer(bytearray(data), dtype=torch.uint8),
        "scale": torch.tensor([0.5]),
        "zero_point": torch.tensor([1], dtype=torch.int32),
        "bits": torch.tensor([bits], dtype=torch.uint8),
        "shape": torch.tensor([3, 7]),
    }
    rows, grid = unpack(parts)
    assert np.array_equal(rows.numpy(), (codes - 1) / 2)
    assert pack(rows, grid)["codes"].numpy().tobytes() == data


@pytest.mark.parametrize("bits, most", [(4, 24), (8, 32), (16, 64)])
def test_packing_takes_a_few_bytes_a_weight(bits, most):
    """Of memory, beside torch's tensors: the bits, each a byte, twice."""
    rows = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    grid = make_grid(*torch.aminmax(rows), bits)
    values = fake_quantize(rows, grid)
    tracemalloc.start()
    pack(values, grid)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < most * rows.numel()


def test_weights_that_were_changed_are_written_as_they_are(tmp_path):
    config = QuantConfig(4, 8)
    quantized = quantize(made("residual"), config, images())
    with torch.no_grad():
        quantized.body.weight[0, 0, 0, 0] += 1e-6
    save_quantized(quantized, config, tmp_path)
    assert "body.weight" in load_file(tmp_path / "weights.safetensors")
    assert_same(load_quantized(Block(), tmp_path), quantized)
    quantized.load_state_dict(quantize(made("residual", seed=1), config, images()).state_dict())
    save_quantized(quantized, config, tmp_path)
    assert_same(load_quantized(Block(), tmp_path), quantized)


class Names(nn.Module):
    def __init__(self):
        super().__init__()
        self.packed = nn.ModuleDict({"codes": nn.Linear(192, 8), "packed": nn.Linear(8, 8)})
        self.last = nn.Sequential(*(parametrizations.weight_norm(nn.Linear(8, 8)) for _ in range(4)))

    def forward(self, x):
        return self.last(self.packed["packed"](self.packed["codes"](x.flatten(1))))


@pytest.mark.parametrize("bits", [None, 3])
def test_names_and_computed_weights_are_no_trouble(bits, tmp_path):
    quantized = saved(Names(), QuantConfig(bits, bits), tmp_path)
    assert_same(load_quantized(Names(), tmp_path), quantized)


def test_folders_that_were_written_before_are_loaded(tmp_path):
    """Floats alone, and no word about a version."""
    config = QuantConfig(4, 4)
    quantized = quantize(Block(), config, images())
    save_file(quantized.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "config.yaml").write_text(config.to_yaml(), "utf8")
    assert_same(load_quantized(Block(), tmp_path), quantized)


# ------------------------------------------------------------------------------------------------------------
# Refusals


@pytest.fixture
def folder(tmp_path):
    saved(Block(), QuantConfig(4, 4), tmp_path)
    return tmp_path


def changed(folder, change):
    path = folder / "weights.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, {"version": "2"})


def cut(state):
    state["body.weight.packed.codes"] = state["body.weight.packed.codes"][:-1].clone()


def other_rows(state):
    state["body.weight.packed.scale"] = state["body.weight.packed.scale"][:-1].clone()


def other_shape(state):
    state["body.weight.packed.shape"] = torch.tensor([8, -8, 3, 3])


def no_bits(state):
    state["body.weight.packed.bits"] = torch.zeros(8, dtype=torch.uint8)


@pytest.mark.parametrize(
    "change",
    [cut, other_rows, other_shape, no_bits, lambda state: state.pop("body.weight.packed.zero_point")],
    ids=["codes", "rows", "shape", "bits", "missing"],
)
def test_damaged_codes_are_refused_in_one_line(folder, change):
    changed(folder, change)
    with pytest.raises(ValueError, match="weights.safetensors is damaged: 'body.weight'") as refused:
        load_quantized(Block(), folder)
    assert "\n" not in str(refused.value)


UNDER = QuantConfig(4, 4)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"weight_bits": 8}, "weight_bits=4, not 8$"),
        (
            {"weight_symmetric": True, "percentile": 99.0},
            "weight_symmetric=False, not True, percentile=99.99, ",
        ),
        (
            {"weight_bits": None, "activation_bits": None},
            "weight_bits=4, not None, activation_bits=4, not None",
        ),
    ],
    ids=["bits", "two", "float"],
)
@pytest.mark.parametrize("network", ["quantized", "copied", "loaded"])
def test_a_configuration_under_which_it_was_not_made_is_refused(network, fields, said, folder):
    made = load_quantized(Block(), folder) if network == "loaded" else quantize(Block(), UNDER, images())
    made = copy.deepcopy(made) if network == "copied" else made
    before = (folder / "weights.safetensors").read_bytes()
    with pytest.raises(ValueError, match=said) as refused:
        save_quantized(made, UNDER.replace(**fields), folder)
    assert "\n" not in str(refused.value)
    assert (folder / "weights.safetensors").read_bytes() == before


def test_so_it_is_where_weights_alone_are_quantized(tmp_path):
    config = QuantConfig(4, None)
    with pytest.raises(ValueError, match="another configuration: weight_bits=4, not 8$"):
        save_quantized(quantize(Block(), config), config.replace(weight_bits=8), tmp_path)


@pytest.mark.parametrize("fields", [{}, {"activation_bits": None}], ids=str)
def test_a_network_in_float_is_not_saved_as_a_quantized_one(fields, tmp_path):
    with pytest.raises(
        ValueError, match="this network is not quantized, or does not say how: pass what qlib.quantize gave"
    ):
        save_quantized(Block(), QuantConfig(**fields), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_that_were_not_written_together_are_refused(folder, tmp_path):
    """As when writing ends between them."""
    later = tmp_path / "later"
    saved(Block(), QuantConfig(8, 4), later)
    (later / "weights.safetensors").replace(folder / "weights.safetensors")
    with pytest.raises(ValueError, match=r"config.yaml is not .*weight_bits=8, not 4\): save") as refused:
        load_quantized(Block(), folder)
    assert "\n" not in str(refused.value)


def test_files_of_another_network_are_refused(folder):
    small = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="another network"):
        load_quantized(small, folder)
    save_file({"x": torch.zeros(2)}, folder / "weights.safetensors")
    with pytest.raises(ValueError, match="another network"):
        load_quantized(Block(), folder)


def test_files_that_are_none_are_refused(folder):
    (folder / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="weights.safetensors is damaged"):
        load_quantized(Block(), folder)
    with pytest.raises(OSError, match="weights.safetensors is not there"):
        load_quantized(Block(), folder / "nowhere")


def test_a_later_version_is_refused(folder):
    save_file({"x": torch.zeros(2)}, folder / "weights.safetensors", {"version": "3"})
    with pytest.raises(ValueError, match="weights.safetensors is of version 3, this package reads 2"):
        load_quantized(Block(), folder)


@pytest.mark.parametrize("text", ["weight_bits: [", "- 1", "weight_bits: many", "colour: red"])
def test_configurations_that_are_none_are_refused_in_one_line(folder, text):
    (folder / "config.yaml").write_text(text, "utf8")
    with pytest.raises(ValueError, match="config.yaml is no configuration of QuantConfig") as refused:
        load_quantized(Block(), folder)
    assert "\n" not in str(refused.value)


@dataclasses.dataclass(frozen=True)
class Own(QuantConfig):
    colour: str = choice("red", "Colour", "Of the network.")


@pytest.mark.parametrize("colour", ["red", "green"])
def test_the_class_of_the_configuration_is_asked_for(colour, tmp_path):
    quantized = saved(Block(), Own(colour=colour), tmp_path)
    with pytest.raises(ValueError, match="of the class 'Own': pass that class as config_class"):
        load_quantized(Block(), tmp_path)
    assert_same(load_quantized(Block(), tmp_path, config_class=Own), quantized)


def test_a_class_with_more_choices_reads_a_folder_without_them(folder):
    loaded = load_quantized(Block(), folder, config_class=Own)
    assert np.isfinite(loaded(images()).detach().numpy()).all()
