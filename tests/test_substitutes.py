"""Images in the place of training images: what they are, and that rows of them are told apart."""

import dataclasses

import pytest
import torch
from torch import nn

from qlib import QuantizationCard, results
from qlib.benches import Loaders, substitutes
from qlib.benches.substitutes import KINDS, substitute
from qlib.experiments import DATA, Experiment, Run
from qlib.laboratory import Laboratory
from qlib.network import evaluation_copy
from qlib.quantization import QuantConfig
from qlib.recording import record
from qlib.results import run_of


def images(batches):
    return torch.cat([x for x, _ in batches])


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(substitutes, "STEPS", 20)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_images_that_follow_from_the_seed(bench, kind):
    network = bench.models["base"]
    drawn = [images(substitute(kind, bench, network, 6, seed)) for seed in (0, 0, 1)]
    assert drawn[0].shape == (6, 1, 48, 48) and drawn[0].isfinite().all()
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert len({x.flatten()[:50].sum().item() for x in drawn[0]}) == 6  # no image twice


def test_photographs_are_pixels_as_the_bench_has_them(bench):
    found = images(substitute("photographs", bench, bench.models["base"], 40))
    assert found.min() >= -0.5 and found.max() <= (255 - 64) / 128 and found.std() > 0.2
    assert torch.equal((128 * found).round(), 128 * found)


def statistics(network, x):
    """How far the means of what enters batch norms are from those kept, in deviations."""
    network = evaluation_copy(network)
    apart = []
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.register_forward_pre_hook(
            lambda norm, inputs: apart.append(
                ((inputs[0].mean((0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()).abs().mean()
            )
        )
    with torch.no_grad():
        network(x)
    return torch.stack(apart).mean().item()


def test_distilled_images_have_the_statistics_that_the_network_keeps(bench):
    network = bench.models["base"]
    before = {k: v.clone() for k, v in network.state_dict().items()}
    found = {kind: statistics(network, images(substitute(kind, bench, network, 32))) for kind in KINDS}
    assert found["distilled"] < 0.5 * min(found["noise"], found["photographs"])
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_what_cannot_stand_in_is_refused(bench):
    network = bench.models["base"]
    with pytest.raises(ValueError, match="no kind of images 'nois'; kinds: 'noise', 'distilled'"):
        substitute("nois", bench, network, 4)
    with pytest.raises(ValueError, match="no batch norm that keeps statistics"):
        substitute("distilled", bench, nn.Conv2d(1, 2, 3), 4)
    flat = Loaders("flat", {}, [(torch.zeros(4, 3), torch.zeros(4))], [])
    with pytest.raises(ValueError, match=r"inputs \(3,\), which are no images"):
        substitute("noise", flat, network, 4)
    square = Loaders("square", {}, [(torch.zeros(4, 3, 8, 8), torch.zeros(4))], [])
    with pytest.raises(ValueError, match="does not say how pixels become its inputs"):
        substitute("photographs", square, network, 4)


FEW = {"images": 60, "calibration_images": (8,), "float_baseline": False}


def test_rows_of_other_data_are_told_apart_and_the_usual_keys_stay(tmp_path, bench):
    kinds = ("training", *KINDS)
    vary = (({"activation_bits": 4, "activation_range": "percentile"},),)
    experiment = Experiment("a", "digits", {}, vary, **FEW, data=kinds)
    laboratory = Laboratory(bench)
    usual = dataclasses.replace(experiment, data=("training",)).runs()[0]
    keys = [laboratory.identity(run)["key"] for run in experiment.runs()]
    assert keys[0] == laboratory.identity(usual)["key"] and len(set(keys)) == 4
    table = record(experiment, tmp_path / "a.csv", progress=False)
    assert list(table.kind_of_data) == list(kinds)
    assert [run_of(row).data for row in table.to_dict("records")] == list(kinds)
    assert len(set(table.correct)) > 2
    with pytest.raises(ValueError, match="kind_of_data"):
        results.summary(table, ["activation_bits"])
    cards = [QuantizationCard.from_rows(table[table.kind_of_data == kind]) for kind in kinds]
    said = [card["data"] for card in cards]
    assert said[0] == "training images" and len(set(said)) == 4


def test_a_grid_says_its_kinds_of_data(tmp_path):
    assert DATA == ("training", *KINDS)
    file = tmp_path / "grid.yaml"
    file.write_text("bench: digits\nfloat_baseline: false\ndata: noise\nvary: [{activation_bits: [3]}]\n")
    assert [run.data for run in Experiment.load(file).runs()] == ["noise"]
    file.write_text("bench: digits\ndata: [nois]\n")
    with pytest.raises(ValueError, match="data must be kinds of images, training, noise"):
        Experiment.load(file)


def test_bits_are_learned_on_labels_that_these_images_have(bench):
    from qlib.experiments import Allocation

    config = QuantConfig(first_last_bits=None)
    learned = Allocation(target_weight_bits=7, steps=9, learning_rate=0.2, labels="hard")
    run = Run("digits", "base", config, 8, 0, 60, learned, data="noise")
    laboratory = Laboratory(bench)
    assert laboratory.measure(run)["average_weight_bits"] <= 7.01
    with pytest.raises(ValueError, match="'noise' have no true labels: set labels to hard or soft"):
        laboratory.measure(dataclasses.replace(run, allocation=Allocation(target_weight_bits=7)))
