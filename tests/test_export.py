"""What is written is what was quantized: the same answers from ONNX Runtime."""

import warnings

import numpy as np
import pytest
import yaml

import qlib
from qlib import QuantConfig, QuantizationCard, evaluate, quantize
from qlib.cards import FIELDS, NOT_REPORTED
from qlib.choices import choices
from qlib.cli import main
from qlib.export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
CONFIGS = {
    "8 bits": {},
    "symmetric": {"weight_symmetric": True, "activation_symmetric": True, "symmetric_grid": "restricted"},
    "inputs only": {"quantize_skip": False, "quantize_residual": False},
    "per tensor": {"weight_granularity": "per_tensor", "pooling": "float", "input_bits": None},
    "4-bit weights": {"weight_bits": 4},
    "4 bits": {"weight_bits": 4, "activation_bits": 4, "quantize_residual": False},
}


@pytest.fixture(scope="module")
def bench():
    return qlib.load_bench("digits")


@pytest.fixture(scope="module", params=CONFIGS)
def written(request, bench, tmp_path_factory):
    """The configuration, the file, and ``qlib``'s own answers."""
    config = QuantConfig(activation_range="percentile", **CONFIGS[request.param])
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    calibration = bench.calibration(64, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_onnx(bench.models["base"], config, calibration, calibration[0][0][:2], path)
    return config, path, evaluate(quantize(bench.models["base"], config, calibration), bench.validation(1000))


def answers(path, batches, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate(
        [session.run(None, {"input": x.numpy()})[0].argmax(1) == y.numpy() for x, y in batches]
    )


def test_onnx_runtime_gives_the_same_accuracy(written, bench):
    config, path, ours = written
    plain = answers(path, bench.validation(1000), "ORT_DISABLE_ALL")
    assert abs(100 * plain.mean() - ours.top1) <= 0.5 and (plain == ours.correct).mean() > 0.95
    # At 4 bits another order of float32's additions moves more than that: see the limits page
    if config.activation_bits == 8:
        fused = answers(path, bench.validation(1000), "ORT_ENABLE_ALL")
        assert abs(100 * fused.mean() - ours.top1) <= 0.5


def test_its_card_is_that_of_the_run(written):
    config, path, _ = written
    card = QuantizationCard.from_onnx(path)
    run = QuantizationCard.from_run(config)
    shown = {name for name in FIELDS if NOT_REPORTED not in (card[name], run[name])}
    same_bits = {"first_last_bits"} if config.weight_bits == config.activation_bits == 8 else set()
    # The placement overrules these
    unquantized = {"pooling", "quantize_output"} if not config.quantize_skip else set()
    assert {name for name in shown if card[name] != run[name]} <= same_bits | unquantized
    assert {
        "weight_bits",
        "activation_bits",
        "weight_symmetric",
        "quantize_skip",
        "quantize_residual",
        "input_bits",
    } <= shown


def test_codes_are_stored_as_integers(written, bench):
    _, path, _ = written
    weights = sum(p.numel() for p in bench.models["base"].parameters() if p.dim() > 1)
    assert path.stat().st_size < 2 * weights  # float32 would be four times


REFUSED = [
    ({"weight_bits": 3}, "has 3 bits; ONNX can say 4 or 8"),
    ({"activation_bits": 5}, "has 5 bits"),
    ({"activation_dynamic": True}, "activation_dynamic=True"),
    ({"activation_granularity": "per_channel"}, "per_channel"),
    ({"pooling": "low_precision"}, "low_precision"),
    ({"weight_symmetric": True, "symmetric_grid": "authors"}, "authors"),
    ({"weight_granularity": "per_group"}, "per_group"),
    ({"activation_granularity": "per_token", "activation_dynamic": True}, "per_token|activation_dynamic"),
    ({"first_last_bits": 6}, "features.init_block.conv.conv.* has 6 bits"),
]


@pytest.mark.parametrize("fields, message", REFUSED, ids=[str(fields) for fields, _ in REFUSED])
def test_what_onnx_cannot_say_is_refused_by_name_and_nothing_is_written(bench, tmp_path, fields, message):
    images = bench.calibration(8, seed=0)
    with pytest.raises(ValueError, match=message):
        export_onnx(
            bench.models["base"], QuantConfig(**fields), images, images[0][0][:1], tmp_path / "m.onnx"
        )
    assert list(tmp_path.iterdir()) == []


IDLE = [
    ({"activation_dynamic": True, "activation_bits": None}, {"activation_bits": None}),
    ({"activation_granularity": "per_channel", "activation_bits": None}, {"activation_bits": None}),
    ({"pooling": "low_precision", "quantize_skip": False}, {"quantize_skip": False}),
    ({"symmetric_grid": "authors"}, {}),
    (
        {"symmetric_grid": "authors", "activation_symmetric": True, "activation_bits": None},
        {"activation_bits": None},
    ),
]


@pytest.mark.parametrize("fields, alike", IDLE, ids=[str(fields) for fields, _ in IDLE])
def test_what_does_not_act_is_not_refused_and_changes_nothing(bench, tmp_path, fields, alike):
    images = bench.calibration(8, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, given in (("a", fields), ("b", alike)):
            config = QuantConfig(**given)
            export_onnx(bench.models["base"], config, images, images[0][0][:1], tmp_path / name)
    batches = bench.validation(20)
    a, b = (answers(tmp_path / name, batches, "ORT_DISABLE_ALL") for name in "ab")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() and (a == b).all()


def test_every_value_that_is_stated_as_unwritten_is_tried():
    known = {(name, value) for name, c in choices(QuantConfig).items() for value in c.unwritten}
    assert known <= {pair for fields, _ in REFUSED for pair in fields.items()}


def test_the_command_exports(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"weight_bits": 4}), "utf8")
    arguments = [
        "export",
        str(tmp_path / "m.onnx"),
        "--config",
        str(tmp_path / "config.yaml"),
        "--calibration-images",
        "32",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(arguments) == 0
    assert QuantizationCard.from_onnx(tmp_path / "m.onnx")["weight_bits"] == 4
    assert (
        main([*arguments, "--network", "bse", "--force"]) == 2
        and "did you mean 'base'" in capsys.readouterr().err
    )
