"""Metrics of texts, each against another way to compute it."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn

from qlib import evaluate
from qlib.metrics import KL, PERPLEXITY, SPEARMAN
from qlib.scores import LEFT_OUT, rank_correlation


class Scores(nn.Module):
    """Gives scores ``(n, vocabulary, tokens)`` of its own for every token."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(11, 11, generator=generator))

    def forward(self, ids):
        return self.table[ids].transpose(1, 2)


def texts(windows=6, tokens=9):
    ids = torch.randint(0, 11, (windows, tokens), generator=torch.Generator().manual_seed(1))
    targets = torch.cat([ids[:, 1:], torch.full((windows, 1), LEFT_OUT)], 1)
    return ids, targets


def test_perplexity_is_e_to_the_mean_loss_of_scored_tokens_however_they_are_batched():
    ids, targets = texts()
    targets[2, :5] = LEFT_OUT
    loss = F.cross_entropy(Scores()(ids).double(), targets, ignore_index=LEFT_OUT)
    for size in (1, 4, 6):
        found = evaluate(Scores(), list(zip(ids.split(size), targets.split(size), strict=True)), "perplexity")
        assert found.value == pytest.approx(math.exp(loss.item()), rel=1e-6)
        assert found.n == 6  # windows, and not tokens
        assert found.interval[0] < found.value < found.interval[1]
    assert not PERPLEXITY.greater_is_better


def test_a_window_weighs_as_many_tokens_as_it_has():
    ids, targets = texts(2)
    targets[0, 1:] = LEFT_OUT
    each = F.cross_entropy(Scores()(ids), targets, ignore_index=LEFT_OUT, reduction="none").sum(1)
    wanted = math.exp(each.sum().item() / 9)
    assert evaluate(Scores(), [(ids, targets)], "perplexity").value == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.float(), "integer targets"),
        (lambda t: t[:, 1:], "needs .transpose\\(1, 2\\) behind it"),
        (lambda t: torch.full_like(t, LEFT_OUT), "no token that is scored"),
        (lambda t: torch.full_like(t, 11), "tokens from 0 to 10"),
    ],
)
def test_wrong_targets_are_refused(change, words):
    ids, targets = texts()
    with pytest.raises(ValueError, match=words):
        evaluate(Scores(), [(ids, change(targets))], "perplexity")


def test_divergence_is_that_of_torch_and_0_of_the_network_itself():
    ids, _ = texts()
    one, other = Scores(0), Scores(1)
    wanted = F.kl_div(
        one(ids).log_softmax(1).transpose(1, 2).flatten(0, 1),
        other(ids).log_softmax(1).transpose(1, 2).flatten(0, 1),
        log_target=True,
        reduction="batchmean",
    )
    assert evaluate(one, [(ids, None)], "kl", other).value == pytest.approx(wanted.item(), rel=1e-5)
    assert evaluate(one, [(ids, None)], "kl", one).value == pytest.approx(0, abs=1e-7)
    assert not KL.greater_is_better and KL.against == "reference"


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 40), st.integers(0, 10**6), st.booleans())
def test_rank_correlation_and_what_it_is_without_each_are_those_of_scipy(n, seed, ties):
    draw = np.random.default_rng(seed)
    parts = draw.normal(size=(n, 2)) if not ties else draw.integers(0, 5, (n, 2)).astype(float)
    parts[:2] = [[-1, -1], [9, 9]]
    parts[2:4] = [[9, -1], [-1, 9]]  # no column is ever constant
    value, without = rank_correlation(parts)
    assert value == pytest.approx(100 * spearmanr(*parts.T).statistic)
    brute = [100 * spearmanr(*np.delete(parts, i, 0).T).statistic for i in range(n)]
    assert without == pytest.approx(np.array(brute))


def test_spearman_of_a_network_has_an_interval_that_covers_it():
    torch.manual_seed(0)
    x = torch.randn(1500, 1)
    said = x[:, 0] + torch.randn(1500)
    found = evaluate(nn.Identity(), [(x[:700], said[:700]), (x[700:], said[700:])], "spearman")
    assert found.value == pytest.approx(100 * spearmanr(x[:, 0], said).statistic) and found.n == 1500
    low, high = found.interval
    assert low < found.value < high and high - low < 10
    assert SPEARMAN.unit == "%" and not found.yes_or_no
    with pytest.raises(ValueError, match="a number an example"):
        evaluate(nn.Identity(), [(torch.randn(5, 3), said[:5])], "spearman")
