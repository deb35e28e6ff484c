"""What quantizes and measures in the page, in a browser that reaches no other host: as qlib does."""

import random

import numpy as np
import pytest
import torch
from helpers import MEASURED

import qlib
from qlib.benches.digits import draw
from qlib.book import engine as compiler
from qlib.quantizer import Quantizer
from qlib.widgets.engine import bundle, roundings
from qlib.widgets.figure import module

PAGE = """<!doctype html><html lang="en" data-content_root="./"><head><meta charset="utf-8">
<title>It measures</title></head><body><script type="module">{code}</script></body></html>"""
IMAGES = 256
CONFIGURATIONS = 60
MEASURE = """async ([config, images, ranges, options]) => {
  const { answers, correct, n } = await qlibMeasure(config, images, ranges, options);
  return { answers: [...answers], correct, n };
}"""


@pytest.fixture
def page(browser, measured_site):
    """From a disk, where modules and fetched files are forbidden."""
    place = measured_site / "measuring.html"
    place.write_text(PAGE.format(code=module("engine/page") + "offer();"), "utf8")
    page = browser.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto(place.as_uri())
    page.wait_for_function("() => Boolean(window.qlibMeasure)")
    yield page
    page.close()
    assert complaints == []


def measured(page, config, images=IMAGES, ranges=None, **options):
    return page.evaluate(MEASURE, [config, images, ranges, options])


def answered(model, batches):
    with torch.inference_mode():
        return torch.cat([model(x) for x, _ in batches]).argmax(1).tolist()


def ranges_of(model):
    quantizers = [m for m in model.modules() if isinstance(m, Quantizer) and m.range is not None]
    return {q.name: [end.tolist() for end in q.range] for q in quantizers}


def configurations(n):
    """Random ones of all that the page offers."""
    draws = random.Random(7)
    layers = [e.name for e in qlib.footprint(*example(), qlib.QuantConfig()).layers]

    def bits(least):
        own = {name: draws.randint(max(2, least), 8) for name in draws.sample(layers, 3)}
        return draws.choice([draws.randint(max(3, least), 8)] * 4 + [{"default": draws.randint(4, 8), **own}])

    for i in range(n):
        weights, activations = draws.choice([True, False]), draws.choice([True, False])
        least = 1 + (weights or activations)
        config = qlib.QuantConfig(
            weight_symmetric=weights,
            activation_symmetric=activations,
            symmetric_grid=draws.choice(["full", "restricted", "authors"]),
            weight_granularity=draws.choice(["per_channel", "per_tensor"]),
            activation_granularity=draws.choice(["per_channel", "per_tensor"]),
            weight_range=draws.choice(["minmax", "percentile", "mse"]),
            activation_range=draws.choice(["minmax", "percentile", "mse"]),
            percentile=draws.choice([99.0, 99.5, 99.9, 99.99]),
            activation_dynamic=draws.random() < 0.15,
            quantize_skip=draws.choice([True, False]),
            quantize_residual=draws.choice([True, False]),
            pooling=draws.choice(["high_precision", "low_precision", "float"]),
            quantize_output=draws.choice([True, False]),
            input_bits=draws.choice([8, 4, None]),
            first_last_bits=draws.choice([8, 8, 5, None]),
            calibration_upstream=draws.choice(["float", "float", "quantized"]),
        )
        if i % 2 and config.weight_range == "mse":
            config = config.replace(weight_range="aciq")
        if i % 2 and config.activation_range == "mse" and config.activation_granularity == "per_tensor":
            if config.calibration_upstream == "float" and not config.activation_dynamic:
                config = config.replace(activation_range="aciq")
        yield with_bits(config, draws, bits(least), bits(least))


def with_bits(config, draws, weight_bits, activation_bits):
    names = {e.name for e in qlib.footprint(*example(), config).layers if e.weight_elements} | {"default"}
    if isinstance(weight_bits, dict):
        weight_bits = {name: b for name, b in weight_bits.items() if name in names}
    sides = draws.choice(
        [(weight_bits, activation_bits)] * 6 + [(None, activation_bits), (weight_bits, None)]
    )
    return config.replace(weight_bits=sides[0], activation_bits=sides[1])


def example():
    bench = qlib.load_bench("digits")
    return bench.models["base"], bench.validation(1)[0][0]


def test_random_configurations_answer_as_in_python(page, bench):
    validation, calibration = bench.validation(IMAGES), bench.calibration(320)
    labels = np.concatenate([y for _, y in validation])
    differing, known, gaps = 0, 0, []
    for i, config in enumerate(configurations(CONFIGURATIONS)):
        name = MEASURED[i % 5 == 4]
        quantized = qlib.quantize(bench.models[name], config, calibration)
        expected = answered(quantized, validation)
        if not config.activation_dynamic:  # then there are no ranges to be given
            given = measured(page, config.to_dict(), ranges=ranges_of(quantized), network=name)
            differing += sum(a != b for a, b in zip(given["answers"], expected, strict=True))
            known += IMAGES
        own = measured(page, config.to_dict(), network=name)
        assert own["n"] == IMAGES and own["correct"] == sum(own["answers"] == labels)
        gaps.append(100 * abs(own["correct"] - sum(expected == labels)) / IMAGES)
    assert known >= 0.7 * IMAGES * CONFIGURATIONS
    assert differing <= 0.005 * known
    assert max(gaps) <= 1.6 and sum(gaps) / len(gaps) <= 0.4


@pytest.mark.parametrize(
    "fields",
    [
        {"weight_bits": 3},
        {"weight_bits": 3, "activation_bits": None},
        {"weight_bits": 4, "activation_bits": 6},
    ],
)
def test_biases_are_corrected_as_in_python(page, bench, fields):
    validation = bench.validation(IMAGES)
    labels = np.concatenate([y for _, y in validation])
    config = qlib.QuantConfig(**fields, weight_granularity="per_tensor")
    quantized = qlib.quantize(bench.models["base"], config, bench.calibration(320), "bias")
    found = measured(page, config.to_dict(), method="bias")
    assert abs(found["correct"] - sum(answered(quantized, validation) == labels)) <= 0.016 * IMAGES
    assert found["answers"] != measured(page, config.to_dict())["answers"]


def test_what_a_method_learned_is_what_it_learns(page, bench):
    shipped = np.unpackbits(np.frombuffer(roundings.path_of("adaround").read_bytes(), np.uint8))
    found = roundings.ups("adaround")
    assert np.mean(shipped[: len(found)] == found) > 0.99  # on another processor a few fall the other way
    validation = bench.validation(IMAGES)
    config = roundings.SETTING.to_dict()
    right = {method: measured(page, config, method=method)["correct"] for method in ("nearest", "adaround")}
    quantized = qlib.quantize(
        bench.models["base"], roundings.SETTING, bench.calibration(roundings.IMAGES), "adaround"
    )
    labels = np.concatenate([y for _, y in validation])
    assert abs(right["adaround"] - sum(answered(quantized, validation) == labels)) <= 0.016 * IMAGES
    assert right["adaround"] > right["nearest"] + 0.05 * IMAGES


def test_what_blocks_learned_is_above_nearest_at_any_activation_bits(page):
    for bits in (None, 8):
        config = {**roundings.SETTING.to_dict(), "activation_bits": bits}
        right = {
            method: measured(page, config, 2000, method=method)["correct"] for method in ("nearest", "blocks")
        }
        assert right["blocks"] > right["nearest"] + 160


def test_roundings_are_refused_where_they_mean_nothing(page):
    with pytest.raises(Exception, match="with the method adaround, weight_bits must be 3 here"):
        measured(page, {"weight_bits": 4}, method="adaround")
    with pytest.raises(Exception, match="needs the package with this network"):
        measured(page, roundings.SETTING.to_dict(), method="adaround", network="better-seed-2")
    with pytest.raises(Exception, match='"gptq" needs the package'):
        measured(page, {}, method="gptq")


@pytest.mark.parametrize(
    "fields",
    [
        {"weight_granularity": "per_group"},
        {"activation_granularity": "per_token", "activation_dynamic": True},
        {"embedding_bits": 8},
        {"kv_bits": 8},
    ],
)
def test_choices_beyond_the_page_are_refused_by_name(page, fields):
    with pytest.raises(Exception, match=f"{next(iter(fields))} must be"):
        measured(page, fields)


@pytest.mark.parametrize("stream", ["validation", "calibration"])
def test_images_are_those_of_the_bench_byte_for_byte(page, stream):
    n = bundle.IMAGES[stream]
    found = page.evaluate(
        "(asked) => qlibImages(...asked).then(({ images, labels }) => [[...images], [...labels]])",
        [stream, n],
    )
    images, labels = draw(stream, n)
    assert bytes(found[0]) == images.tobytes() and found[1] == labels.tolist()


def test_a_script_is_made_anew_where_something_changed(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(bundle, "network", lambda name: made.append(name) or {"name": name})
    bundle.write_bundle(tmp_path)
    networks = list(qlib.load_bench("digits").models)
    assert made == networks
    bundle.write_bundle(tmp_path)
    assert made == networks
    (tmp_path / "digits-better.js").write_text("// Made of something else", "utf8")
    bundle.write_bundle(tmp_path)
    assert made == [*networks, "better"]


@pytest.mark.skipif(not compiler.is_there(), reason=f"ziglang {compiler.COMPILER} is not installed")
@pytest.mark.parametrize("name", compiler.SOURCES)
def test_what_is_compiled_is_what_the_source_gives(name):
    assert compiler.compiled(name) == (bundle.HERE / f"{name}.wasm").read_bytes()
