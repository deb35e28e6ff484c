"""The pages beside the lessons stay in step with the package and the lessons."""

import dataclasses
import re
from pathlib import Path

import torch
import yaml

from qlib import QuantConfig
from qlib.book import evidence

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def page(name):
    return (ROOT / "book" / f"{name}.md").read_text("utf8")


def test_the_notation_page_lists_every_choice():
    assert [f.name for f in dataclasses.fields(QuantConfig) if f"`{f.name}`" not in page("notation")] == []


def test_every_lesson_has_a_row_ten_questions_and_as_many_answers_for_teachers():
    text = page("teachers")
    assert [name for name in LESSONS if f"notebooks/{name}.ipynb" not in text] == []
    parts = re.split(r"^### ", text.split("## Ten questions")[1].split("## Last trial")[0], flags=re.M)[1:]
    assert len(parts) == len(LESSONS)
    for part in parts:
        questions, answers = part.split("```{dropdown} Answers")
        assert re.findall(r"^(\d+)\. ", questions, re.M) == [str(i) for i in range(1, 11)]
        assert all(f"{i}. " in answers for i in range(1, 11))


def test_every_lesson_has_its_trials():
    trials = yaml.safe_load((ROOT / "book/trials.yaml").read_text("utf8"))
    assert sorted(trials) == LESSONS
    assert all(0 <= trial["score"] <= 10 for scores in trials.values() for trial in scores)


def test_every_lesson_has_an_exercise_that_checks_the_reader():
    for name in LESSONS:
        assert "waiting for your answer" in (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf8"), name


def test_the_readmes_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images, labels = torch.randn(128, 3, 8, 8), torch.arange(128) % 4
    batches = [(images, labels)]
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4))
    names = {"model": model, "train_batches": batches, "test_batches": batches, "example_input": images[:1]}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf8"), re.S)
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 3 and Path("card.yaml").is_file() and names["learned"].average_weight_bits <= 3


def test_the_evidence_page_covers_every_observation_and_says_what_is_missing():
    found = {claim["observation"] for claim in evidence.claims()}
    assert found == set(range(1, 9))
    assert all(evidence.measured(claim, "digits") for claim in evidence.claims())
    text = evidence.as_markdown()
    assert "not recorded" in text and text.count("| digits |") == len(evidence.claims())
    (skip,) = [c for c in evidence.claims() if c["claim"].startswith("quantizing only inputs")]
    difference, draws = evidence.measured(skip, "digits")
    assert len(draws) == 5 and min(draws) > 0 and difference.n == 10_000 and difference.points > 0
    assert evidence.verdict(skip, difference) == "holds" and evidence.in_every_seed(skip, draws)
    (labels,) = [c for c in evidence.claims() if c["claim"].startswith("hard pseudo-labels")]
    assert not evidence.in_every_seed(labels, [0.1, -2.1]) and evidence.in_every_seed(labels, [0.1, -1.9])
    assert not evidence.in_every_seed(skip, [1.0, -0.1]) and "**holds**, but not in every seed" in text
