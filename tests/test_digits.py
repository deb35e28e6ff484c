"""The built-in bench, and the orderings that the book is about: there, and on images and a network it did not
make.
"""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from helpers import resnet_cifar

import qlib
from qlib import QuantConfig, compare, evaluate, quantize, verdict
from qlib.benches import digits, digits_training
from qlib.benches.digits_training import Recipe

CHECKSUMS = {
    "training": "0c5ebc2a0085f708",
    "validation": "d731d9e3ac77cd39",
    "calibration": "012c99ef08485ea1",
    "tuning": "0b8bc056c73d56af",
}


@pytest.mark.parametrize("stream", digits.STREAMS)
def test_images_are_the_same_on_every_machine(stream):
    images, labels = digits.draw(stream, 500)
    assert images.dtype == np.uint8 and images.shape == (500, 48, 48)
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16] == CHECKSUMS[stream]


def test_validation_is_always_the_first_n(bench):
    few = bench.validation(120)
    many = bench.validation(700)
    assert torch.equal(torch.cat([x for x, _ in few]), torch.cat([x for x, _ in many])[:120])
    assert few[0][0].dtype == torch.float32 and few[0][1].dtype == torch.int64


def glyphs_drawn(monkeypatch, stream, chunks=4):
    """Numbers of the glyphs, whole or in fragments, that a stream's images are made of."""
    _, labels, order = digits.glyphs()
    seen = set()
    numbered = np.arange(len(labels))[:, None, None] * np.ones((8, 8))
    monkeypatch.setattr(digits, "glyphs", lambda: (numbered, labels, order))
    monkeypatch.setattr(
        digits, "_stamp", lambda canvas, glyph, *_, **__: seen.update(glyph.max((1, 2)).astype(int))
    )
    for chunk in range(chunks):
        digits.draw_chunk(stream, 0, chunk)
    monkeypatch.undo()
    return seen


def test_no_glyph_of_a_validation_image_is_trained_or_calibrated_on(monkeypatch):
    drawn = {stream: glyphs_drawn(monkeypatch, stream) for stream in digits.STREAMS}
    validation = drawn.pop("validation")
    assert len(validation) == 697 and {len(others) for others in drawn.values()} == {1100}  # all of each
    assert not validation & set().union(*drawn.values())


def test_streams_and_seeds_differ(bench):
    drawn = [bench.calibration(50), bench.calibration(50, seed=1), bench.training(50), bench.validation(50)]
    assert len({batches[0][0].sum().item() for batches in drawn}) == 4
    assert torch.equal(drawn[0][0][0], bench.calibration(60, seed=0)[0][0][:50])


def test_settings_are_chosen_on_images_that_are_neither_reported_nor_learned_from():
    tuning = qlib.load_bench("digits-tuning")
    assert list(tuning.models) == list(qlib.load_bench("digits").models)
    found = {stream: digits.draw(stream, 500)[0] for stream in digits.STREAMS}
    assert torch.equal(tuning.validation(500)[0][0], digits.to_batches(*digits.draw("tuning", 500))[0][0])
    for stream in set(found) - {"tuning"}:
        assert not (found["tuning"][:, None] == found[stream][None, :40]).all((2, 3)).any()


def test_labels_are_two_digits_and_every_class_appears(bench):
    labels = torch.cat([y for _, y in bench.validation(2000)])
    assert sorted(labels.unique().tolist()) == list(range(100))


def test_all_networks_share_one_graph_and_are_stored_in_half_precision(bench):
    from safetensors.torch import load_file

    base, *others = (load_file(digits.WEIGHTS / f"digits-{name}.safetensors") for name in bench.models)
    assert {v.dtype for v in base.values() if v.is_floating_point()} == {torch.float16}
    assert sum(p.numel() for p in bench.models["base"].parameters()) == 399_068
    for other in others:
        assert {k: (v.shape, v.dtype) for k, v in base.items()} == {
            k: (v.shape, v.dtype) for k, v in other.items()
        }
        assert not any(torch.equal(v, other[k]) for k, v in base.items() if k.endswith("conv.weight"))


def test_names_say_recipe_and_seed_and_files_what_trained_them(bench):
    from safetensors import safe_open

    assert {"base", "better"} <= set(bench.models)
    for name in bench.models:
        recipe, _, seed = name.partition("-seed-")
        if not seed:  # trained before files said so
            assert name in digits_training.RECIPES
            continue
        expected = dataclasses.replace(digits_training.RECIPES[recipe], seed=int(seed))
        with safe_open(digits.WEIGHTS / f"digits-{name}.safetensors", "pt") as file:
            assert file.metadata()["made_by"].startswith(f"{expected}, torch ")


def test_float_accuracies(bench):
    base, better = (evaluate(bench.models[name], bench.validation(10_000)) for name in ("base", "better"))
    assert 74 <= base.top1 <= 78 and better.top1 >= base.top1 + 1.5
    for name in set(bench.models) - {"base", "better"}:
        found = evaluate(bench.models[name], bench.validation(2000)).top1
        assert 74 <= found <= 80 + 2 * name.startswith("better")


def test_training_command_writes_a_network_that_can_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(digits_training, "RECIPES", {"base": Recipe(epochs=3, seed=5, images_per_epoch=500)})
    output = str(tmp_path / "net.safetensors")
    digits_training.main(["train", "--recipe", "base", "--output", output, "--epochs", "1", "--seed", "0"])
    digits_training.train(Recipe(epochs=1, seed=0, images_per_epoch=500), tmp_path / "same.safetensors")
    net, same = (
        digits.load_network(tmp_path / name).state_dict() for name in ("net.safetensors", "same.safetensors")
    )
    assert all(torch.allclose(net[k].float(), same[k].float(), atol=1e-3) for k in net)
    assert not torch.equal(net["output.weight"], digits.network().state_dict()["output.weight"])


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, monkeypatch):
    torch.save({"recipe": "Recipe(another)"}, tmp_path / "net.partial")
    with pytest.raises(SystemExit, match="belongs to another recipe"):
        digits_training.train(Recipe(epochs=1, seed=0, images_per_epoch=500), tmp_path / "net.safetensors")


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    recipe = Recipe(epochs=2, seed=0, images_per_epoch=500)
    digits_training.train(recipe, tmp_path / "whole.safetensors")
    drawn = digits_training.draw_epoch

    def stops(recipe, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return drawn(recipe, epoch)

    monkeypatch.setattr(digits_training, "draw_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        digits_training.train(recipe, tmp_path / "resumed.safetensors")
    monkeypatch.setattr(digits_training, "draw_epoch", drawn)
    digits_training.train(recipe, tmp_path / "resumed.safetensors")
    whole, resumed = (tmp_path / f"{name}.safetensors" for name in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()
    assert sorted(tmp_path.iterdir()) == [resumed, whole]  # no checkpoint is left


def measure(network, calibration, validation, bits, **choices):
    config = QuantConfig(activation_bits=bits, activation_range="percentile", **choices)
    return evaluate(quantize(network, config, calibration), validation)


def assert_orderings(network, calibration, validation, bits):
    inputs, skip, everything = (
        measure(network, calibration, validation, bits, quantize_skip=s, quantize_residual=r)
        for s, r in ((False, False), (True, False), (True, True))
    )
    symmetric = {"quantize_residual": False, "activation_symmetric": True}
    assert verdict(compare(inputs, skip).interval) == "holds"
    assert verdict(compare(skip, everything).interval) == "holds"
    assert (
        verdict(compare(skip, measure(network, calibration, validation, bits, **symmetric)).interval)
        == "holds"
    )
    one_more = measure(network, calibration, validation, bits + 1, **symmetric)
    assert abs(compare(one_more, skip).points) <= 2


@pytest.fixture(scope="module")
def foreign(data_folder):
    from safetensors.torch import load_model
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    module = resnet_cifar()
    network = module.resnet20()
    load_model(network, data_folder / "resnet20-cifar10.safetensors")
    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize(module.MEAN, module.STD)])

    def batches(part, step):
        images = ImageFolder(data_folder / "cifar10-jpeg" / part, prepare)
        x, y = zip(*(images[i] for i in range(0, len(images), step)), strict=True)
        return list(zip(torch.stack(x).split(250), torch.tensor(y).split(250), strict=True))

    return network.eval(), batches("train", 12), batches("test", 2)


def test_at_8_bits_digits_stays_within_a_point(bench):
    validation = bench.validation(2000)
    network = bench.models["base"]
    quantized = quantize(network, QuantConfig(), bench.calibration(320))
    assert abs(evaluate(quantized, validation).top1 - evaluate(network, validation).top1) <= 1


def test_orderings_on_digits_at_4_bits(bench):
    assert_orderings(bench.models["base"], bench.calibration(320), bench.validation(10_000), 4)


def test_orderings_on_foreign_images_at_3_bits(foreign):
    assert_orderings(*foreign, 3)
