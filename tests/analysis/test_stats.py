"""Statistics against hand computations and against SciPy's own paired test."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from lipsjax.analysis.stats import Interval, holm, mean_interval, paired_difference, primary


def test_mean_interval_by_hand():
    # mean 3, s = sqrt(2.5), t(4, 0.975) = 2.7764451052
    half = 2.7764451051977987 * math.sqrt(2.5) / math.sqrt(5)
    got = mean_interval([1, 2, 3, 4, 5])
    assert got.n == 5
    np.testing.assert_allclose(got[:3], [3.0, 3.0 - half, 3.0 + half], rtol=1e-12)


def test_mean_interval_of_two_by_hand():
    # s / sqrt(2) = 0.5 and t(1, 0.975) = tan(0.475 pi)
    np.testing.assert_allclose(
        mean_interval([0.0, 1.0])[1:3],
        [0.5 - 0.5 * math.tan(0.475 * math.pi), 0.5 + 0.5 * math.tan(0.475 * math.pi)],
        rtol=1e-9,
    )


def test_mean_interval_level_nests():
    values = [0.2, 0.5, 0.9, 0.4]
    wide, narrow = mean_interval(values, 0.99), mean_interval(values, 0.8)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@pytest.mark.parametrize("values", [[], [0.3], [0.3, math.nan, 0.2]])
def test_no_interval_is_nan(values):
    got = mean_interval(values)
    assert math.isnan(got.low)
    assert math.isnan(got.high)
    assert got.n == len(values)


def test_mean_of_one_seed_is_kept():
    assert mean_interval([0.3]).mean == 0.3


def test_mean_interval_without_spread():
    assert mean_interval([0.1, 0.1, 0.1])[1:3] == (mean_interval([0.1] * 3).mean,) * 2


def test_coverage_is_nominal():
    rng = np.random.default_rng(0)
    samples = rng.normal(1.0, 2.0, size=(2000, 5))
    inside = [got.low <= 1.0 <= got.high for got in map(mean_interval, samples)]
    assert 0.93 < np.mean(inside) < 0.97


@pytest.mark.parametrize("n", [2, 5, 30])
def test_paired_difference_is_scipys(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
    got, expected = paired_difference(a, b), scipy_stats.ttest_rel(a, b)
    bounds = expected.confidence_interval(0.95)
    np.testing.assert_allclose(got.p, expected.pvalue, rtol=1e-10)
    np.testing.assert_allclose(got.interval[1:3], [bounds.low, bounds.high], rtol=1e-10)


def test_interval_excludes_zero_exactly_where_p_is_small():
    rng = np.random.default_rng(1)
    for _ in range(200):
        (_, low, high, _), p = paired_difference(rng.normal(0.7, 1, 5), rng.normal(0, 1, 5))
        assert (low > 0 or high < 0) == (p < 0.05)


def test_paired_difference_is_antisymmetric():
    a, b = [0.9, 0.7, 0.8], [0.5, 0.6, 0.9]
    forth, back = paired_difference(a, b), paired_difference(b, a)
    np.testing.assert_allclose(forth.interval[1:3], [-back.interval.high, -back.interval.low])
    assert forth.p == back.p


def test_paired_difference_without_spread():
    assert paired_difference([0.5, 0.25], [0.5, 0.25]) == (Interval(0, 0, 0, 2), 1.0)
    assert paired_difference([0.75, 0.5], [0.5, 0.25]) == (Interval(0.25, 0.25, 0.25, 2), 0.0)


def test_paired_difference_of_one_seed():
    got = paired_difference([0.5], [0.25])
    assert got.interval.mean == 0.25
    assert math.isnan(got.p)


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; made monotone
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])


def test_holm_of_one_is_itself_and_caps_at_one():
    assert holm([0.2]).tolist() == [0.2]
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_holm_leaves_out_what_was_not_tested():
    np.testing.assert_allclose(holm([0.02, math.nan, 0.03]), [0.04, math.nan, 0.04])


def test_primary_by_hand():
    assert primary(np.arange(40)) == np.mean([36, 37, 38, 39])
    assert primary(np.arange(41)) == np.mean([36, 37, 38, 39, 40])
    assert primary([3.0, 5.0]) == 5.0
    assert primary([2.0, 4.0], fraction=1.0) == 3.0


def test_primary_window_is_of_rounds_not_of_evaluations():
    curve = np.full(100, np.nan)
    curve[::10], curve[99] = 0.0, 1.0
    assert primary(curve) == 0.5  # rounds 90 and 99, not the last ten evaluations


@pytest.mark.parametrize(("rounds", "window"), [(3, 1), (30, 3), (70, 7), (71, 8), (300, 30)])
def test_primary_window_is_exact(rounds, window):
    assert primary(np.arange(rounds)) == np.mean(np.arange(rounds)[-window:])


def test_primary_of_nothing_is_nan():
    assert math.isnan(primary([1.0, math.nan]))
    assert math.isnan(primary([]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([[1.0, 2.0]]), r"shape \(1, 2\)"),
        (lambda: mean_interval([1.0], level=95), "95"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "2 and 1"),
        (lambda: holm([0.5, 1.5]), "1.5"),
        (lambda: primary([1.0], fraction=0.0), "0.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
