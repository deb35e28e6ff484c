"""The built-in bench, and the orderings that the book is about: there, and on images and a network it did not make."""

import hashlib

import numpy as np
import pytest
import torch
from helpers import resnet_cifar

from qlib import QuantConfig, compare, evaluate, quantize, verdict
from qlib.benches import digits

CHECKSUMS = {"training": "0c5ebc2a0085f708", "validation": "d731d9e3ac77cd39", "calibration": "012c99ef08485ea1"}


@pytest.mark.parametrize("stream", digits.STREAMS)
def test_images_are_the_same_on_every_machine(stream):
    images, labels = digits.draw(stream, 500)
    assert images.dtype == np.uint8 and images.shape == (500, 48, 48)
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16] == CHECKSUMS[stream]


def test_validation_is_always_the_first_n(bench):
    few, many = bench.validation(120), bench.validation(700)
    assert torch.equal(torch.cat([x for x, _ in few]), torch.cat([x for x, _ in many])[:120])
    assert few[0][0].dtype == torch.float32 and few[0][1].dtype == torch.int64


def test_no_glyph_is_shared_and_seeds_differ(bench):
    _, labels, order = digits.glyphs()
    assert sorted(order) == list(range(len(labels)))  # so the two parts of it are disjoint
    assert not torch.equal(bench.calibration(50, seed=0)[0][0], bench.calibration(50, seed=1)[0][0])


def test_float_accuracies(bench):
    base, better = (evaluate(bench.models[name], bench.validation(10_000)) for name in ("base", "better"))
    assert 74 <= base.top1 <= 78 and better.top1 >= base.top1 + 1.5


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    recipe = digits.Recipe(epochs=2, seed=0, images_per_epoch=500)
    digits.train(recipe, tmp_path / "whole.safetensors")
    drawn = digits.draw_epoch

    def stops(recipe, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return drawn(recipe, epoch)

    monkeypatch.setattr(digits, "draw_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        digits.train(recipe, tmp_path / "resumed.safetensors")
    monkeypatch.setattr(digits, "draw_epoch", drawn)
    digits.train(recipe, tmp_path / "resumed.safetensors")
    whole, resumed = (digits.load_network(tmp_path / f"{name}.safetensors").state_dict() for name in ("whole", "resumed"))
    assert all(torch.allclose(whole[k].float(), resumed[k].float(), atol=1e-3) for k in whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resumed.safetensors", "whole.safetensors"]


def measure(network, calibration, validation, bits, **choices):
    config = QuantConfig(activation_bits=bits, activation_range="percentile", **choices)
    return evaluate(quantize(network, config, calibration), validation)


def assert_orderings(network, calibration, validation, bits, grid):
    inputs, skip, everything = (
        measure(network, calibration, validation, bits, quantize_skip=s, quantize_residual=r)
        for s, r in ((False, False), (True, False), (True, True)))  # fmt: skip
    symmetric = {"quantize_residual": False, "activation_symmetric": True, "symmetric_grid": grid}
    assert verdict(compare(inputs, skip).interval) == "holds"
    assert verdict(compare(skip, everything).interval) == "holds"
    assert verdict(compare(skip, measure(network, calibration, validation, bits, **symmetric)).interval) == "holds"
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
    validation, network = bench.validation(2000), bench.models["base"]
    quantized = quantize(network, QuantConfig(), bench.calibration(320))
    assert abs(evaluate(quantized, validation).top1 - evaluate(network, validation).top1) <= 1


def test_orderings_on_digits_at_4_bits(bench):
    assert_orderings(bench.models["base"], bench.calibration(320), bench.validation(10_000), 4, "full")


def test_orderings_on_foreign_images_at_3_bits(foreign):
    network, calibration, validation = foreign
    inputs, skip, everything, symmetric = (
        measure(network, calibration, validation, 3, quantize_skip=s, quantize_residual=r, activation_symmetric=sym)
        for s, r, sym in ((False, False, False), (True, False, False), (True, True, False), (True, False, True)))  # fmt: skip
    for better, worse in ((inputs, skip), (skip, everything), (skip, symmetric)):
        assert verdict(compare(better, worse).interval) == "holds"
