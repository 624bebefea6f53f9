"""Levels of looks against published boundaries, and against paths that are drawn."""

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from lipsjax.analysis.sequential import (
    LEAST,
    NORMAL,
    SPENDING,
    STUDENT,
    levels_along,
    median_unbiased,
    nominal,
    spent,
)

DEFAULT = (8, 12, 16, 24, 32, 40)
FIVE = (4, 8, 12, 16, 20)


def crossing(scores, looks):
    """Probability that a normal walk ends above one of the scores."""
    state, total = NORMAL.start, 0.0
    for n, score in zip(looks, scores, strict=True):
        total += NORMAL.ends_above(state, n, score)
        state = NORMAL.goes_on(state, n, score)
    return total


@pytest.mark.parametrize(
    ("shape", "published"),
    [
        # Jennison and Turnbull (2000), tables 2.1 and 2.3: K = 5, two-sided alpha of 0.05
        (lambda k: 1.0, 2.413),
        (lambda k: math.sqrt(5 / k), 2.040),
    ],
)
def test_classical_shapes_at_five_equal_looks(shape, published):
    found = optimize.brentq(
        lambda c: crossing([c * shape(k) for k in range(1, 6)], range(1, 6)) - 0.025, 1, 4
    )
    # theirs end at both sides, which at this alpha is twice one side but for the fourth figure
    assert abs(found - published) < 1e-3


@pytest.mark.parametrize(
    ("looks", "alpha", "spending", "published", "digits"),
    [
        # rpact 3: tests of getDesignGroupSequential(kMax = 3, alpha = 0.03, typeOfDesign = "asOF")
        ((1, 2, 3), 0.03, "obrien_fleming", [3.5815302, 2.417863, 1.9175839], 6),
        # SeqBounds.jl, README: bounds([0.25, 0.5, 0.75, 1.0], 0.05; h = 0.05), a coarse grid
        ((1, 2, 3, 4), 0.05, "obrien_fleming", [3.74955, 2.53993, 2.01604, 1.72014], 3),
    ],
)
def test_lan_demets_boundaries(monkeypatch, looks, alpha, spending, published, digits):
    monkeypatch.setattr("lipsjax.analysis.sequential.LEAST", 0.0)
    found = stats.norm.isf(levels_along(NORMAL, looks, alpha, spending))
    np.testing.assert_allclose(found, published, atol=0.5 * 10.0**-digits * 3)


def test_two_sided_boundaries_of_ldbounds(monkeypatch):
    """Those of ldBounds(c(0.3, 0.6, 1.0)), alpha 0.05 in two sides, which hardly ever both end."""
    monkeypatch.setattr("lipsjax.analysis.sequential.LEAST", 0.0)
    found = stats.norm.isf(levels_along(NORMAL, (3, 6, 10), 0.025, "obrien_fleming"))
    np.testing.assert_allclose(found, [3.928573, 2.669967, 1.981004], atol=5e-5)


def test_alpha_spent_as_published():
    # rpact, as above, and ldBounds(c(0.3, 0.6, 1.0)) with 0.025 in each side
    found = [spent(k / 3, 0.03) for k in (1, 2, 3)]
    np.testing.assert_allclose(found, [0.00017079385, 0.0078650906, 0.03], rtol=1e-7)
    found = [2 * spent(t, 0.025) for t in (0.3, 0.6, 1.0)]
    np.testing.assert_allclose(found, [0.00008545157, 0.007616127, 0.05], rtol=1e-6)


@pytest.mark.parametrize("spending", SPENDING)
def test_spend_rises_from_nothing_to_alpha(spending):
    curve = [spent(t, 0.025, spending) for t in np.linspace(0, 1, 21)]
    assert curve[0] == 0
    assert curve[-1] == 0.025
    assert (np.diff(curve) >= 0).all()


def paths(looks, studies, seed):
    """One-sided p of Student's t at each look, of studies without an effect, [K, studies]."""
    values = np.random.default_rng(seed).standard_normal((studies, looks[-1]))
    return np.array(
        [stats.ttest_1samp(values[:, :n], 0, axis=1, alternative="greater").pvalue for n in looks]
    )


@pytest.mark.parametrize("looks", [FIVE, (3, 4, 6)])
@pytest.mark.parametrize("spending", SPENDING)
def test_drawn_paths_spend_what_they_may(looks, spending):
    studies, alpha = 40_000, 0.1
    levels, p = nominal(looks, alpha, spending), paths(looks, studies, seed=1)
    crossed = np.logical_or.accumulate((p <= levels[:, None]) & (levels[:, None] > 0))
    spend = np.array([spent(n / looks[-1], alpha, spending) for n in looks])
    allowed = np.where(levels > 0, spend, 0)
    error = np.sqrt(allowed * (1 - allowed) / studies)
    np.testing.assert_array_less(np.abs(crossed.mean(axis=1) - allowed), 4 * error + 1e-12)


def test_one_look_has_the_whole_alpha():
    np.testing.assert_allclose(nominal([9], 0.025), [0.025], rtol=1e-9)


def test_the_first_stop_of_students_walk_is_exact():
    np.testing.assert_allclose(nominal(FIVE, 0.025, "pocock")[0], spent(0.2, 0.025, "pocock"))


def test_students_walk_is_the_normal_one_in_the_limit():
    looks = (400, 800, 1200)
    ours, normal = (levels_along(w, looks, 0.025, "obrien_fleming") for w in (STUDENT, NORMAL))
    np.testing.assert_allclose(ours, normal, rtol=2e-3)


def test_small_spends_are_carried():
    levels = nominal(DEFAULT, 0.025)
    assert (levels[:2] == 0).all()
    assert spent(12 / 40, 0.025) < LEAST < spent(16 / 40, 0.025)
    # nothing is lost: the third look has all that was due by then
    np.testing.assert_allclose(levels[2], spent(16 / 40, 0.025))


def test_the_last_look_spends_however_little_is_left():
    levels = nominal([2, 3], 5e-5)
    assert levels[0] == 0
    np.testing.assert_allclose(levels[1], 5e-5, rtol=1e-6)


@pytest.mark.parametrize("spending", SPENDING)
def test_more_alpha_has_higher_levels(spending):
    levels = [nominal(FIVE, alpha, spending) for alpha in (0.004, 0.0125, 0.025, 0.05)]
    assert (np.diff(levels, axis=0) >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([], 0.025), "looks must be whole numbers of seeds that rise from at least 2, got"),
        (([1, 4], 0.025), "at least 2"),
        (([4, 4], 0.025), "rise"),
        (([8, 4], 0.025), "rise"),
        (([4.0, 8], 0.025), "whole"),
        (([True, 8], 0.025), "whole"),
        (([4, 8], 0.0), r"alpha must be in \(0, 0.5\), got 0.0"),
        (([4, 8], 0.5), "alpha must be in"),
        (([4, 8], math.nan), "got nan"),
        (([4, 8], 0.025, "haybittle"), "spending must be one of obrien_fleming, pocock"),
    ],
)
def test_bad_looks_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        nominal(*arguments)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_one(share):
    with pytest.raises(ValueError, match="share must be in"):
        spent(share, 0.025)


def test_the_estimate_is_the_mean_where_nothing_could_have_ended():
    assert median_unbiased(3.0, 1.0, [8, 16], [-math.inf], [math.inf]) == 3.0


def test_the_estimate_mirrors():
    up = median_unbiased(2.0, 1.5, [4, 8, 12], [-3.0, -2.0], [2.5, 2.2])
    down = median_unbiased(-2.0, 1.5, [4, 8, 12], [-2.5, -2.2], [3.0, 2.0])
    np.testing.assert_allclose(up, -down, rtol=1e-7)
    assert up < 2.0


def test_the_estimate_by_the_bivariate_normal():
    """Two looks, by SciPy's own distribution of both means."""
    mean, looks, low, high = 0.8, np.array([10, 25]), -0.9, 0.7
    found = median_unbiased(mean, 1.0, looks, [low], [high])
    both = stats.multivariate_normal([found] * 2, 1 / np.maximum.outer(looks, looks))
    above = special.ndtr(-(high - found) * math.sqrt(10))
    inside = both.cdf([high, math.inf]) - both.cdf([low, math.inf])
    below = both.cdf([high, mean]) - both.cdf([low, mean])
    np.testing.assert_allclose(above + inside - below, 0.5, atol=1e-4)


def test_half_of_the_estimates_are_above_the_effect():
    """Of a known spread, where they are exactly median-unbiased."""
    looks, effect, studies = np.array([4, 8, 12]), 1.0, 400
    highs = [1.4, 1.1]
    sums = np.random.default_rng(3).standard_normal((studies, 12)) + effect
    means = np.stack([sums[:, :n].mean(axis=1) for n in looks], axis=1)
    over = 0
    for each in means:
        k = 0 if each[0] >= highs[0] else 1 if each[1] >= highs[1] else 2
        found = median_unbiased(each[k], 1.0, looks[: k + 1], [-math.inf] * k, highs[:k])
        over += found > effect
    assert abs(over / studies - 0.5) < 4 * 0.5 / math.sqrt(studies)
