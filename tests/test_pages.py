"""The pages beside the lessons stay in step with the package and the lessons."""

import dataclasses
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from qlib import QuantConfig
from qlib.book import choose, evidence, evidence_before, evidence_page, glossary, notation
from qlib.cards.worth import worths

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))


def page(name):
    return (ROOT / "book" / f"{name}.md").read_text("utf8")


def test_the_notation_page_lists_every_choice_with_the_papers_word():
    assert page("notation").count(notation.MARK) == 1
    table = notation.as_markdown()
    assert [f.name for f in dataclasses.fields(QuantConfig) if table.count(f"`{f.name}`") != 1] == []
    assert "| `quantize_skip`, `quantize_residual` | quantized skip and residual connections | 2.2" in table
    assert "| `input_bits` | not stated: of the image or other input |  |" in table


def test_every_lesson_has_a_row_ten_questions_and_as_many_answers_for_teachers():
    text = page("teachers")
    assert [name for name in LESSONS if f"notebooks/{name}.ipynb" not in text] == []
    parts = re.split(r"^### ", text.split("## Ten questions")[1].split("## Last trial")[0], flags=re.M)[1:]
    assert len(parts) == len(LESSONS)
    for part in parts:
        questions, answers = part.split("```{dropdown} Answers")
        assert re.findall(r"^(\d+)\. ", questions, re.M) == [str(i) for i in range(1, 11)]
        assert all(f"{i}. " in answers for i in range(1, 11))


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.md")), ids=lambda path: path.stem)
def test_what_is_opened_on_a_page_is_closed(path):
    """An open dropdown swallows what follows, without a warning."""
    marks = re.findall(r"^(`{3,})(.*)$", path.read_text("utf8"), flags=re.M)
    opened = []
    for fence, words in marks:
        if words.strip():
            opened.append(fence)
        elif opened and opened[-1] == fence:
            opened.pop()
        else:
            opened.append(fence)  # code without a language
    assert not opened


def test_every_lesson_has_its_trials():
    trials = yaml.safe_load((ROOT / "book/trials.yaml").read_text("utf8"))
    assert sorted(trials) == LESSONS
    assert all(0 <= trial["score"] <= 10 for scores in trials.values() for trial in scores)


def test_every_lesson_has_an_exercise_that_checks_the_reader():
    for name in LESSONS:
        assert "@lesson.exercise(" in (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf8"), name


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_two_to_four_exercises_each_with_its_solution_folded(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    source = "\n".join(cell.source for cell in notebook.cells)  # code says questions with numbers
    exercises = re.split(r"(?:^|\")\*\*(\d)\.\*\* ", source.split("## Exercises")[1], flags=re.M)
    assert (
        exercises[1::2] == [str(i + 1) for i in range(len(exercises) // 2)] and 2 <= len(exercises) // 2 <= 4
    )
    assert all(text.count("```{dropdown} Solution\n") == 1 for text in exercises[2::2])


def test_the_front_page_opens_three_doors_and_leads_to_every_lesson():
    text = page("intro")
    first_screen = text.split("## The lessons")[0]
    assert first_screen.count("{grid-item-card}") == 3 and "<!-- opening figure -->" in first_screen
    assert [name for name in LESSONS if f"notebooks/{name}.ipynb" not in text] == []


def test_the_page_of_questions_names_fields_that_exist_and_leads_to_every_lesson():
    text = page("choose")
    assert [name for name in LESSONS if f"notebooks/{name}.ipynb" not in text] == []
    fields = {f.name for f in dataclasses.fields(QuantConfig)}
    lines = [
        re.sub(r"\{term\}`.*?`", "", line) for line in text.splitlines() if line.startswith("- **Field:**")
    ]
    named = [
        re.findall(r"^\w+|(?<=, )\w+(?==)", code) for line in lines for code in re.findall("`(.*?)`", line)
    ]
    assert len(lines) >= 12 and {name for names in named for name in names} <= fields | {
        "qlib",
        "float_accuracy",
        "None",
    }
    questions = re.findall(r"^\(([\w-]+)\)=$", text, re.M)
    assert questions == re.findall(r"^- \[[^]]+\]\(([\w-]+)\)$", text, re.M) and len(questions) >= 12


def test_what_a_choice_was_worth_is_computed_not_written():
    assert not re.findall(r"\d points", page("choose") + page("intro"))
    shown = choose.fill(page("choose"))
    assert not choose.MARK.search(shown) and not choose.MARK.search(choose.fill(page("intro")))
    assert all(f"{worth.points}" in shown for worth in worths(4))  # a question about 4 bits
    (bits,) = (worth for worth in worths() if worth.field == "bit_choices")
    assert bits.condition.startswith("learned under 2.5 weight bits, 2.38 to 2.48 bits used")
    assert choose.fill("<!-- worth: bit_choices -->") == (
        f"allowed bits: *1, 2, 3, 4, 5, 6, 7, 8* over *2, 4, 8*, {bits.condition}: **{bits.points}**"
    )
    assert (
        choose.fill("<!-- points: bit_choices -->") == f"{bits.points.points:.0f} points ({bits.condition})"
    )
    assert choose.fill("<!-- points: weight_granularity -->").endswith(" points (3-bit weights, images only)")
    (claim,) = (c for c in evidence.claims() if c["claim"].startswith("as many bits"))
    shown = choose.fill("<!-- claim: as many bits -->")
    for bench in ("digits", "cifar10-jpeg"):
        found = evidence.judged(claim, bench)
        assert f"**{found.said}** on {bench}, *{found.verdict}*" in shown


@pytest.mark.parametrize(
    "mark", ["worth: no_such_field", "points: weight_bits", "claim: nobody claims this", "claim: the"]
)
def test_a_mark_that_stands_for_nothing_is_an_error(mark):
    with pytest.raises(ValueError, match=re.escape(mark.split(": ")[1])):
        choose.fill(f"<!-- {mark} -->")


def test_the_headline_counts_networks():
    verdicts = {}  # by claim, bench and network
    for claim, bench, found in evidence_page.everything():
        for name, difference in (found.networks if found else {}).items():
            if not difference.images_only:
                verdicts[claim["claim"], bench, name] = evidence.verdict(claim, difference)
    claims = {claim for claim, *_ in verdicts}
    of = {claim: [word for (one, *_), word in verdicts.items() if one == claim] for claim in claims}
    several = [words for words in of.values() if len(words) >= 3]
    everywhere = sum(set(words) == {"holds"} for words in several)
    nowhere = sum("holds" not in words for words in several)
    assert everywhere and len(several) > everywhere + nowhere > everywhere
    assert (
        f"Of {len(several)} claims that three or more of them could answer, **{everywhere} hold in every "
        f"one**, {len(several) - everywhere - nowhere} in some, and {nowhere} in none."
    ) in evidence_page.headline()
    counts = [list(verdicts.values()).count(word) for word in ("holds", "does not hold", "undecided here")]
    assert (
        f"of {len(verdicts)} comparisons {counts[0]} hold, {counts[1]} do not, and {counts[2]} are undecided"
    ) in evidence_page.headline()


@pytest.mark.parametrize(
    "words, least", [("leaving the residual", 5), ("the better float network is above", 3)]
)
def test_over_networks_draws_are_averaged_and_networks_are_random(words, least):
    (claim,) = [c for c in evidence.claims() if c["claim"].startswith(words)]
    found = evidence.judged(claim, "digits")
    assert found.over_networks and len(found.networks) >= least
    each = [d.points for d in found.networks.values()]
    assert found.difference.seeds == pytest.approx(each) and found.difference.points == pytest.approx(
        sum(each) / len(each)
    )
    assert f"{len(each)} networks, n = 10,000" in found.said
    low, high = found.further
    half = stats.t.ppf(0.975, len(each) - 1) * np.std(each, ddof=1) * (1 + 1 / len(each)) ** 0.5
    assert (high - low) / 2 == pytest.approx(half) and low < found.difference.interval[0]
    assert set(found.asked) == set(found.networks) and found.holds_in.endswith(f"of {len(each)}")


def test_what_several_networks_changed_is_said():
    claim = {c["claim"]: c for c in evidence.claims()}[
        "a range per channel is above one per tensor for 3-bit weights"
    ]
    found = evidence.judged(claim, "digits")
    change = evidence_before.change(claim, "digits")
    assert found.over_networks and change.before == change.after == "holds" and change.why == ""
    few = dataclasses.replace(found, difference=found.difference.less(100))  # what networks might have said
    sides = evidence.at_limits(claim, "digits")
    why = evidence_before._why(claim, "holds", change.interval_before, sides, few)
    assert few.verdict == "does not hold" and why == "several networks"


def test_networks_of_two_recipes_are_paired_by_their_seed():
    (claim,) = [c for c in evidence.claims() if c["claim"].startswith("the better float network is above")]
    pairs = evidence._networks(claim, "digits")
    assert {name: [side["network"] for side in sides] for name, sides in pairs.items()}["first pair"] == [
        "better",
        "base",
    ]
    for name, (better, base) in pairs.items():
        if name != "first pair":
            seed = name.removeprefix("seed ")
            assert (better["network"], base["network"]) == (f"better-seed-{seed}", f"base-seed-{seed}")


def test_words_of_the_glossary_are_found_as_people_write_them():
    assert glossary.terms()["soft label"] == "pseudo-label" and glossary.terms()["zero-point"] == "zero-point"
    text = "Its published code has 16 codes, two\nFeature  maps, the authors’ grid, skip connections, no skipping, a sub-grid."  # noqa: E501
    found = [(match.group(), term) for match, term in glossary.uses(text)]
    assert found == [
        ("codes", "code"),
        ("Feature  maps", "feature map"),
        ("authors’ grid", "authors' grid"),
        ("skip connections", "skip connection"),
    ]


@pytest.mark.parametrize(("file", "count"), [("README.md", 4), ("book/intro.md", 1)])
def test_the_code_of_the_readme_and_of_the_front_page_runs(file, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images = torch.randn(128, 3, 8, 8)
    labels = torch.arange(128) % 4
    batches = [(images, labels)]
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4)
    )
    names = {"model": model, "train_batches": batches, "test_batches": batches, "example_input": images[:1]}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text("utf8"), re.S)
    for block in blocks:
        exec(block, names)
    assert len(blocks) == count and names["quantized"](images).shape == (128, 4)
    if file == "README.md":
        assert Path("card.yaml").is_file() and names["learned"].average_weight_bits <= 3


def test_the_evidence_page_covers_every_observation_and_says_what_is_missing():
    found = {claim["observation"] for claim in evidence.claims()}
    assert found == set(range(1, 9))
    of_digits = [claim for claim in evidence.claims() if evidence.measured(claim, "digits")]
    others = [claim for claim in evidence.claims() if claim not in of_digits]
    assert len(others) == 1 and evidence.measured(others[0], "imagenet-sample")
    for claim in evidence.claims():
        assert claim["equal"] in evidence_page.EQUAL and str(claim["since"]) >= "2026-11-24"
        assert (claim.get("kind") == "no difference") == ("margin" in claim)
        assert claim.get("margin", 1) == (
            2 if "3-bit activations stay within 2 points" in claim["claim"] else 1
        )
    text = evidence_page.as_markdown()
    assert text.count("| digits |") == 2 * len(of_digits)
    assert "not recorded" in text and "| imagenet |" not in text  # which is counted, not listed
    assert "the limit missed in 10 of 10 runs" in text  # those of ResNet-20 under 2.5 bits
    ones = [
        (claim, found.networks[name])
        for claim, _, found in evidence_page.everything()
        for name, word in (found.asked if found and claim["observation"] == 1 else {}).items()
        if word == "does not hold"
    ]
    better = [d for claim, d in ones if claim.get("margin") and d.points > claim["margin"]]
    assert 2 * len(better) > len(ones)  # "Most of observation 1 that does not hold ..."
    counted = [line for line in text.splitlines() if line.startswith("| [")]
    assert [line[3] for line in counted] == list("12345678")
    assert "(../notebooks/03-skip-and-residual.ipynb)" in counted[2]
    (skip,) = [c for c in evidence.claims() if c["claim"].startswith("quantizing only inputs")]
    difference = evidence.judged(skip, "digits").networks["base"]
    draws = difference.seeds
    assert len(draws) == 5 and min(draws) > 0 and difference.n == 10_000 and difference.points > 0
    assert evidence.verdict(skip, difference) == "holds" and evidence.in_every_seed(skip, draws)
    (labels,) = [c for c in evidence.claims() if c["claim"].startswith("hard pseudo-labels")]
    assert not evidence.in_every_seed(labels, [0.1, -1.1]) and evidence.in_every_seed(labels, [0.1, -0.9])
    assert not evidence.in_every_seed(skip, [1.0, -0.1])
    few = dataclasses.replace(difference, seeds=(5.0, 4.0, -0.1))
    assert evidence.Judged(skip, "digits", few).against
    assert not evidence.Judged(skip, "digits", difference).against
