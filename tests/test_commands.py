"""`qlib run`, `sweep` and `results`: one configuration or a grid, on a bench or on a network and images of
the reader's own.
"""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Block
from PIL import Image
from safetensors.torch import save_file

from qlib import QuantConfig, QuantizationCard, compare, evaluate, experiments, quantize, recording, results
from qlib.benches import Loaders, data_hash
from qlib.choices import choices
from qlib.cli import main
from qlib.commands.compared import compared_table
from qlib.methods import known_methods

FEW = ["--images", "40", "--calibration-images", "20"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The arguments for a network and images of one's own."""
    monkeypatch.setenv("QLIB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text("from helpers import Block\n\n\ndef network():\n    return Block()\n")
    save_file(Block().state_dict(), tmp_path / "mine.safetensors")
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in "abc":
            (tmp_path / "pictures" / part / label).mkdir(parents=True)
            for i in range(4):
                picture = Image.fromarray(random.integers(0, 256, (12, 14, 3), dtype=np.uint8))
                picture.save(tmp_path / "pictures" / part / label / f"{i}.jpg")
    return [
        "--model",
        f"{tmp_path / 'mine.py'}:network",
        "--weights",
        str(tmp_path / "mine.safetensors"),
        "--data",
        str(tmp_path / "pictures"),
        "--preprocess",
        "{resize: 10, crop: 8, mean: [0.5, 0.5, 0.5]}",
    ]


def test_run_measures_one_configuration_and_the_network_in_float(capsys):
    assert main(["run", "weight_bits=4", "activation_bits=5", *FEW]) == 0
    quantized, floats = sorted(capsys.readouterr().out.splitlines(), reverse=True)
    assert (
        quantized.startswith("weight_bits=4 activation_bits=5: ")
        and floats.startswith("float: ")
        and "n = 40" in floats
    )


def test_runs_gather_in_one_table(tmp_path):
    table = tmp_path / "mine.csv"
    for bits in (3, 4, 3):
        assert main(["run", f"activation_bits={bits}", *FEW, "--out", str(table)]) == 0
    rows = results.load_table(table)
    assert sorted(map(str, rows.activation_bits)) == ["3", "4", "None"]
    assert len(results.provenance(table)) == 2  # the third run found its row


def test_run_says_the_row_of_the_precision_that_was_asked_for(tmp_path, capsys):
    command = ["run", "activation_bits=2", *FEW, "--out", str(tmp_path / "mine.csv")]
    lines = []
    for precision in ("float32", "bfloat16", "float32"):
        assert main([*command, "--precision", precision]) == 0
        lines.append(capsys.readouterr().out)
    rows = results.load_table(tmp_path / "mine.csv")
    rows = rows[rows.activation_bits == 2]
    expected = [str(results.measurement_of(row)) for row in rows.to_dict("records")]
    assert list(rows.precision) == ["float32", "bfloat16"]
    assert [line.splitlines()[1].partition(": ")[2] for line in lines] == [*expected, expected[0]]


def test_run_says_the_row_of_the_weights_that_were_asked_for(own, tmp_path, capsys):
    command = ["run", "weight_bits=4", *own, "--out", str(tmp_path / "mine.csv")]
    assert main(command) == 0
    block = Block()
    torch.nn.init.zeros_(block.last.weight)
    block.last.bias.data[:] = torch.arange(10)  # says the last class, which no image is of
    save_file(block.state_dict(), tmp_path / "mine.safetensors")
    capsys.readouterr()
    assert main(command) == 0
    assert all(": 0.00 % (" in line for line in capsys.readouterr().out.splitlines())
    assert len(results.load_table(tmp_path / "mine.csv")) == 4


def test_a_card_says_in_which_precision_its_rows_were_computed(tmp_path):
    for precision in ("bfloat16", "float32"):
        assert (
            main(
                [
                    "run",
                    "activation_bits=3",
                    *FEW,
                    "--precision",
                    precision,
                    "--out",
                    str(tmp_path / "mine.csv"),
                ]
            )
            == 0
        )
    rows = results.load_table(tmp_path / "mine.csv")
    rows = rows[rows.activation_bits == 3]
    said = [
        QuantizationCard.from_rows(rows[rows.precision == p]).data["remarks"] for p in ("float32", "bfloat16")
    ]
    assert said == ["not reported", "Products and their sums in bfloat16."]
    with pytest.raises(ValueError, match="rows differ in precision"):
        QuantizationCard.from_rows(rows)


def test_run_takes_a_network_and_images_of_ones_own(own, capsys):
    assert main(["run", "weight_bits=4", "--images", "12", "--calibration-images", "6", *own]) == 0
    assert "n = 12" in capsys.readouterr().out
    # Fields last, and all the images of a small folder
    assert main(["run", *own, "weight_bits=4", "activation_bits=5"]) == 0
    assert (
        "weight_bits=4 activation_bits=5: " in (out := capsys.readouterr().out) and out.count("n = 12)") == 2
    )
    assert main(["run", "weight_bits=4", *own[:4]]) == 2
    assert "all of --model, --weights and --data" in capsys.readouterr().err
    assert main(["run", "--images", "12", "--calibration-images", "6", *own[:-1], "{resise: 3}"]) == 2
    assert "resise" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "2"])
def test_sweep_takes_a_grid_and_any_number_of_processes(own, tmp_path, workers, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "grid.yaml").write_text(
        "bench: mine\nimages: 12\ncalibration_images: [6]\nvary: [{activation_bits: [3, 5]}]\n"
    )
    assert main(["sweep", str(tmp_path / "grid.yaml"), *own, "--workers", workers]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:-1]] == ["activation_bits", "float", "3", "5"]
    assert said[-1].endswith("grid.rows.csv: 3 of 3 rows")
    table = results.load_table(tmp_path / "grid.rows.csv")
    assert len(table) == 3 and set(table.bench) == {"pictures"}
    # Not overwritten by what stands beside the rows
    assert (tmp_path / "grid.yaml").read_text().startswith("bench: mine")


def test_loaders_of_ones_own_from_python(tmp_path):
    def loader(seed, shuffle):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(40, 3, 8, 8, generator=generator)
        y = torch.randint(10, (40,), generator=generator)
        return torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(x, y), batch_size=9, shuffle=shuffle
        )

    bench = Loaders("mine", {"base": Block().eval()}, loader(0, True), loader(1, False))
    grid = experiments.Experiment(
        "grid",
        "mine",
        {},
        (({"activation_bits": 3}, {"activation_bits": 5}),),
        images=30,
        calibration_images=(20,),
        seeds=(0, 1),
    )
    rows = recording.record(grid, tmp_path / "grid.csv", bench=bench, progress=False)
    # Float, and a draw for each seed
    assert len(rows) == 5 and set(rows.bench) == {"mine"} and rows.data.nunique() == 3
    draws = [data_hash(bench.calibration(20, seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2] and sum(len(x) for x, _ in bench.validation(30)) == 30
    quantized = quantize(bench.models["base"], QuantConfig(activation_bits=3), bench.calibration(20))
    expected = evaluate(quantized, bench.validation(30))
    (row,) = rows[(rows.activation_bits == 3) & (rows.calibration_seed == 0)].to_dict("records")
    assert (results.accuracy_of(row).correct == expected.correct).all()
    with pytest.raises(ValueError, match="a loader has 40 images; 50 are asked for"):
        bench.validation(50)
    with pytest.raises(ValueError, match="leave out workers"):
        recording.record(grid, tmp_path / "grid.csv", bench=bench, workers=2)


def test_a_grid_may_name_the_network_itself(own, tmp_path):
    given = dict(zip((o.removeprefix("--") for o in own[::2]), own[1::2], strict=True))
    (tmp_path / "grid.yaml").write_text(
        json.dumps(
            {
                "bench": "mine",
                "images": 12,
                "calibration_images": [6],
                "vary": [{"weight_bits": [4]}],
                "own": {**given, "preprocess": {"resize": 10, "crop": 8}},
            }
        )
    )
    assert main(["sweep", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "rows.csv")]) == 0
    assert set(results.load_table(tmp_path / "rows.csv").bench) == {"mine"}


def test_a_run_that_fails_says_why(capsys):
    assert main(["run", "target_weight_bits=0.5", "bit_choices=[4,8]", *FEW]) == 1
    said = capsys.readouterr()
    assert "bit_choices=[4,8]: failed" in said.out and said.err.count("a row failed: ValueError") == 1


def test_a_sweep_over_numbers_of_images_ends_with_its_table(tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("images: 40\ncalibration_images: [4, 8]\nvary: [{activation_bits: [4]}]\n")
    assert main(["sweep", str(grid), "--out", str(tmp_path / "rows.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["calibration_images", "top-1"]
    assert [line.split()[0] for line in lines[1:4]] == ["float", "4", "8"]


def test_a_limit_that_was_missed_is_an_outcome_and_is_said(tmp_path, capsys):
    out = tmp_path / "rows.csv"
    assert main(["run", "target_weight_bits=3", "steps=1", "--out", str(out), *FEW]) == 1
    said = capsys.readouterr()
    assert "target_weight_bits=3 steps=1: " in said.out and "failed" not in said.out
    assert "1 of 2 rows missed their limit on learned bits (feasible=false): allow more steps" in said.err
    table = results.load_table(out)
    learned = table[table.allocation.notna()]
    assert list(learned.feasible) == [False] and learned.average_weight_bits.item() > 3
    assert table[table.allocation.isna()].feasible.all()
    assert "Learning met no limit on bits" in QuantizationCard.from_rows(learned).data["remarks"]


def test_what_ends_both_runs_is_said_once(own, tmp_path, capsys):
    source = "import torch\n\n\ndef network():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))\n"  # noqa: E501
    (tmp_path / "mine.py").write_text(source)
    save_file(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)).state_dict(),
        tmp_path / "mine.safetensors",
    )
    assert main(["run", "weight_bits=4", *own]) == 1
    said = capsys.readouterr()
    assert (
        said.out.count("failed") == 2
        and said.err.count("labels run from 0 to 2, but the network tells 2 classes") == 1
    )


def test_help_lists_all_that_can_be_chosen(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = capsys.readouterr().out
    for settings in (QuantConfig, experiments.Allocation):
        for name, known in choices(settings).items():
            assert f"  {name}=" in said and known.title in said
            assert all(value in said for value in known.values)
    assert "symmetric_grid=full" in said and "Symmetric grid: full, restricted, authors" in said
    for name, method in known_methods().items():
        assert all(f"{setting}=" in said for setting in method.defaults()) and f"\n  {name}: " in said
    assert "metrics: top1, " in said
    assert max(map(len, said.splitlines())) <= 100


def test_results_compares_two_values_where_all_else_is_alike(capsys):
    assert main(["results", "skip-residual", "--compare", "quantize_skip", "false", "true"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["activation_bits", "quantize_residual", "false", "minus", "true"]
    table = results.load_table(results.table_path("digits", "skip-residual"))
    where = {"activation_bits": 3, "quantize_residual": True}
    sides = (results.measurements(table, quantize_skip=skip, **where) for skip in (False, True))
    (line,) = (line for line in lines if line.split()[:2] == ["3", "true"])
    assert line.endswith(str(compare(*sides))) and "5 seeds" in line and len(lines) == 12
    for asked, words in {
        ("metod", "bias", "nearest"): "no choice 'metod'; did you mean 'method'?",
        ("method", "bias", "nearest"): 'no recorded row has method="bias"; method is "nearest"',
        ("activation_bits", "3", "4"): "",
    }.items():
        status = main(["results", "skip-residual", "--compare", *asked])
        assert (status == 0) == (not words) and words in capsys.readouterr().err
    where = ["--where", "quantize_skip=false", "activation_bits=3"]
    assert main(["results", "skip-residual", *where, "--compare", "quantize_skip", "false", "true"]) == 2
    assert "quantize_skip is false" in capsys.readouterr().err


def test_results_compares_over_the_seeds_that_both_values_have():
    table = results.load_table(results.table_path("digits", "skip-residual"))
    table = table[(table.activation_bits == 3) & table.quantize_residual]
    with_skip, without = table[table.quantize_skip], table[~table.quantize_skip.astype(bool)]
    some = pd.concat([with_skip[with_skip.calibration_seed > 1], without[without.calibration_seed < 4]])
    expected = (results.measurements_of(rows[rows.calibration_seed.isin([2, 3])].to_dict("records"))
                for rows in (without, with_skip))  # fmt: skip
    assert str(compare(*expected)) in compared_table(some, "quantize_skip", "false", "true")
    none = pd.concat([with_skip[with_skip.calibration_seed > 2], without[without.calibration_seed < 2]])
    with pytest.raises(ValueError, match="no two rows of one seed differ in quantize_skip alone"):
        compared_table(none, "quantize_skip", "false", "true")


def test_results_lists_selects_and_exports(tmp_path, capsys):
    table = tmp_path / "mine.csv"
    main(["run", "activation_bits=3", *FEW, "--out", str(table)])
    capsys.readouterr()
    assert main(["results", str(table)]) == 0
    out = capsys.readouterr().out
    assert (
        "activation_bits=3:" in out
        and "weight_bits=null activation_bits=null:" in out
        and len(out.splitlines()) == 2
    )
    for suffix in ("csv", "json"):
        assert (
            main(
                [
                    "results",
                    str(table),
                    "--where",
                    "activation_bits=3",
                    "--out",
                    str(tmp_path / f"some.{suffix}"),
                ]
            )
            == 0
        )
    (row,) = json.loads((tmp_path / "some.json").read_text())
    assert row["activation_bits"] == 3 and len((tmp_path / "some.csv").read_text().splitlines()) == 2
    assert main(["results"]) == 0 and "digits/skip-residual" in capsys.readouterr().out
    assert main(["results", str(table), "--out", str(tmp_path / "some.xls")]) == 2
