"""Ratios of perplexities: paired over windows by the logarithm, and judged by the one rule."""

from math import exp

import numpy as np
import pytest
from scipy import stats

from qlib import results
from qlib.book import correlations, ratios
from qlib.comparison import IMAGES_ONLY, UNDECIDED, compare
from qlib.experiments import Experiment
from qlib.metrics import MSE, PERPLEXITY, Measurement

TOKENS = 511


def perplexity(losses):
    """Of mean losses by window, as a bench measures it, and as a row keeps it."""
    found = PERPLEXITY.measure(np.stack([TOKENS * losses, np.full(len(losses), TOKENS)], 1))
    return Measurement(PERPLEXITY, found.value, found.values.astype("<f4").astype(float), 0)


def windows(mean, spread=0.4, seed=0):
    return mean + spread * np.random.default_rng(seed).normal(size=16)


@pytest.mark.parametrize("mean", [2.7, 6.3, 10.5])
def test_losses_of_windows_are_found_again(mean):
    each = windows(mean)
    found = ratios.losses(perplexity(each))
    assert np.allclose(found.values, each, atol=1e-5) and found.value == pytest.approx(each.mean())


def test_a_ratio_has_the_paired_t_interval_of_its_logarithm():
    a, b = windows(3.0), windows(3.0) + windows(0.5, 0.05, 1)
    found = ratios.ratio([perplexity(b)], [perplexity(a)])
    low, high = stats.t.interval(0.95, 15, (b - a).mean(), stats.sem(b - a))
    assert found.value == pytest.approx(exp((b - a).mean()), rel=1e-5)
    assert found.interval == pytest.approx((exp(low), exp(high)), rel=1e-4)
    assert low > 0.4 and found.losses.images_only  # though the losses of windows overlap


def test_a_bound_is_what_the_interval_is_held_against():
    found = ratios.ratio([perplexity(windows(3.0) + windows(0.2, 0.05, 1))], [perplexity(windows(3.0))])
    low, high = found.interval
    assert found.verdict(most=1.01 * high) == found.verdict(least=0.99 * low) == IMAGES_ONLY
    assert found.on_windows(most=1.01 * high) == found.on_windows(least=0.99 * low) == "holds"
    assert found.on_windows(most=0.99 * low) == found.on_windows(least=1.01 * high) == "does not hold"
    assert found.verdict(most=found.value) == found.verdict(least=found.value) == UNDECIDED


def test_what_has_no_ratio_is_refused():
    with pytest.raises(ValueError, match="needs perplexities of two windows or more, got mse of 16"):
        ratios.losses(Measurement(MSE, 1.0, np.ones(16)))
    with pytest.raises(ValueError, match="got perplexity of 1"):
        ratios.losses(Measurement(PERPLEXITY, 20.0, np.full(1, 20.0)))
    uneven = PERPLEXITY.measure(np.array([[900.0, 300], [30, 10], [200, 50]]))
    with pytest.raises(ValueError, match="unequal length"):
        ratios.losses(uneven)


@pytest.mark.parametrize("claim", ratios.claims(), ids=lambda claim: claim["claim"][:40])
def test_a_claim_names_runs_that_are_planned(claim):
    assert set(claim) <= {"claim", "most", "least", "since", "of", "over"}
    assert ("most" in claim) != ("least" in claim)
    for side in (claim["of"], claim["over"]):
        where = {name: value for name, value in side.items() if name not in ("bench", "table")}
        table = f"{side.get('bench', ratios.BENCH)}/{side['table']}"
        runs = Experiment.load(results.experiments()[table]).runs()
        fits = [run for run in runs if results.fits({**run.config.to_dict(), "method": run.method}, where)]
        assert len(fits) == 1, side


@pytest.mark.parametrize("claim", correlations.claims(), ids=lambda claim: claim["claim"][:60])
def test_a_claim_about_sentences_has_one_row_a_side_and_says_what_they_differ_by(claim):
    assert set(claim) == {"claim", "since", "table", "where", "better", "worse"}
    rows = results.load_rows(results.table_path(correlations.BENCH, claim["table"]))
    better, worse = (
        results.measured(rows, {**claim["where"], **claim[side]}) for side in ("better", "worse")
    )
    assert len(better) == len(worse) == 1
    (found,) = (row for row in correlations.as_rows() if row[0] == claim["claim"])
    _, difference, here, verdict = found
    assert (
        difference.startswith(f"{better[0].value - worse[0].value:+.2f} points (")
        and "1,000 pairs" in difference
    )
    # one network with one draw is decided for itself at best
    low, high = compare(*better, *worse).interval
    assert here == ("holds" if low > 0 else "does not hold" if high < 0 else UNDECIDED)
    assert verdict == (UNDECIDED if here == UNDECIDED else IMAGES_ONLY.replace("images", "pairs"))
