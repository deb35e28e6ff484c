"""Experiment files name layers that their networks have, ask for what can be met, and follow the paper's
settings.
"""

import functools

import pytest
import torch
from pytorchcv.model_provider import get_model
from torchvision.models import resnet50

from qlib import experiments, footprint, laboratory, recording, results
from qlib.book import costs

NETWORKS = {  # with random weights: names and shapes are all that matters here
    "cifar10": (lambda: get_model("resnet20_cifar10"), (1, 3, 32, 32)),
    "imagenet": (resnet50, (1, 3, 224, 224)),
    "imagenet-generated": (resnet50, (1, 3, 224, 224)),
}
FILES = {name: path for name, path in results.experiments().items() if name.split("/")[0] in NETWORKS}


@functools.cache
def network(bench):
    make, shape = NETWORKS[bench]
    return make().eval(), torch.zeros(shape)


@pytest.mark.parametrize("name", FILES)
def test_names_and_limits_fit_the_network(name):
    experiment = experiments.Experiment.load(FILES[name])
    model, example = network(experiment.bench)
    assert experiment.bench == name.split("/")[0] and (experiment.images or experiments.IMAGES) in (
        4000,
        10_000,
        50_000,
    )
    seen = set()
    for run in experiment.runs():
        if run.allocation and not run.allocation.learned:
            key = run.allocation.largest_map_bits
            if key not in seen:
                size = footprint(
                    model, example, laboratory._within_largest_map(model, example, run.config, key)
                )
                assert size.max_activation_bytes > 0
        elif isinstance(run.config.weight_bits, dict) or isinstance(run.config.activation_bits, dict):
            key = run.config
            if key not in seen:
                footprint(model, example, run.config)
        else:
            continue
        seen.add(key)


@pytest.mark.parametrize("bench", ["cifar10", "imagenet"])
def test_the_limits_of_table_2_are_those_of_end_layers_at_8_bits(bench):
    experiment = experiments.Experiment.load(FILES[f"{bench}/first-last-learned"])
    model, example = network(bench)
    for run in experiment.runs():
        if run.allocation and run.config.first_last_bits == 8:
            bits = round(run.allocation.target_weight_bits - 0.25)
            size = footprint(model, example, run.config.replace(weight_bits=bits, activation_bits=bits))
            assert run.allocation.target_weight_bits == pytest.approx(size.average_weight_bits, abs=1e-6)
            if run.allocation.target_activation_bits:
                assert run.allocation.target_activation_bits == pytest.approx(
                    size.average_activation_bits, abs=1e-6
                )


def test_the_cost_page_counts_rows_and_estimates_hours_only_from_recorded_ones(tmp_path, monkeypatch):
    imagenet = [
        experiments.Experiment.load(path).runs()
        for name, path in FILES.items()
        if name.startswith("imagenet/")
    ]
    text = costs.as_markdown()
    assert f"| **all** | {sum(map(len, imagenet)):,} |" in text
    monkeypatch.setattr(results, "table_path", lambda *_: tmp_path / "throughput.csv")
    assert "Hours are not estimated" in costs.as_markdown()
    seconds = {0: 10.0, 200: 30.0}
    monkeypatch.setattr(experiments, "load_bench", lambda _, real=experiments.load_bench: real("digits"))
    monkeypatch.setattr(
        laboratory.Laboratory,
        "identity",
        lambda self, run: {
            "key": str(hash(run)),
            "bench": run.bench,
            "network": run.network,
            "weights": "",
            "data": "",
            "code_version": 2,
            "calibration_images": run.calibration_images,
            "calibration_seed": 0,
            **run.config.to_dict(),
            **({"allocation": run.allocation.identity()} if run.allocation else {}),
            "n": run.images,
        },
    )
    monkeypatch.setattr(
        recording,
        "_attempt",
        lambda _, item: {
            "top1": 0,
            "low": 0,
            "high": 0,
            "correct": "",
            "seconds": seconds[costs._steps(item[1])],
        },
    )
    throughput = experiments.Experiment.load(FILES["imagenet-generated/throughput"])
    recording.record(throughput, tmp_path / "throughput.csv", progress=False)
    images = sum(r.images for runs in imagenet for r in runs)
    steps = sum(costs._steps(r) for runs in imagenet for r in runs)
    expected = (images * 10 / 4000 + steps * 20 / 200) / 3600
    assert f"| {steps:,} | {expected:.1f} |" in costs.as_markdown()
