"""Statistics against hand computations and against SciPy's own paired test."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from lipsjax.analysis.stats import (
    Interval,
    holm,
    mean_interval,
    paired_difference,
    primary,
    ratio_interval,
    seeds_needed,
    seeds_range,
)


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


def test_equal_differences_of_counts_scatter_by_a_step():
    # 2, 2 and 2 of 360 examples ahead: t = 2 sqrt(3) with 2 degrees of freedom
    ours, theirs = np.array([272, 282, 302]) / 360, np.array([270, 280, 300]) / 360
    got = paired_difference(ours, theirs, step=1 / 360)
    np.testing.assert_allclose(got.p, 2 * scipy_stats.t.sf(2 * math.sqrt(3), 2), rtol=1e-9)
    half = scipy_stats.t.ppf(0.975, 2) / 360 / math.sqrt(3)
    np.testing.assert_allclose(got.interval[1:3], [2 / 360 - half, 2 / 360 + half], rtol=1e-9)
    assert paired_difference(theirs, theirs, step=1 / 360).p == 1


def test_a_step_below_the_spread_changes_nothing():
    a, b = [0.9, 0.7, 0.8], [0.5, 0.6, 0.9]
    assert paired_difference(a, b, step=0.1) == paired_difference(a, b)
    assert paired_difference(a, b, step=0.5).p > paired_difference(a, b).p


def test_a_ratio_of_counts_is_never_known_exactly():
    exact = ratio_interval([4.0, 4.0, 4.0], [2.0, 2.0, 2.0])
    assert exact[:3] == (2, 2, 2)
    below = ratio_interval([4.0, 4.0, 4.0], [2.0, 2.0, 2.0], steps=(0.0, 0.1))
    # by hand: 4 / (2 +- t s / sqrt(n)), as the numerator is exact
    half = scipy_stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    np.testing.assert_allclose(below[1:3], [4 / (2 + half), 4 / (2 - half)], rtol=1e-9)
    assert math.isnan(ratio_interval([4.0] * 3, [2.0] * 3, steps=(0.0, 2.0)).mean)


# How many seeds


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_range_of_seeds_is_that_of_the_chi_square_interval(n):
    values = np.random.default_rng(n).normal(0, 0.03, n)
    spread = values.std(ddof=1)
    bounds = [
        spread * math.sqrt((n - 1) / scipy_stats.chi2.ppf(tail, n - 1)) for tail in (0.975, 0.025)
    ]
    got = seeds_range(mean_interval(values), 0.01)
    assert got is not None
    for count, deviation in zip(got, bounds, strict=True):
        need = [
            scipy_stats.t.ppf(0.975, m - 1) * deviation / math.sqrt(m) for m in (count - 1, count)
        ]
        assert need[1] <= 0.01 < need[0]
    observed = seeds_needed(mean_interval(values), 0.01)
    assert observed is not None
    assert got[0] <= observed <= got[1]


def test_the_range_holds_the_truth_as_often_as_it_says():
    rng, truth = np.random.default_rng(0), 0.03
    wanted = next(
        n for n in range(2, 99) if scipy_stats.t.ppf(0.975, n - 1) * truth / math.sqrt(n) <= 0.01
    )
    samples = rng.normal(0, truth, (400, 4))
    ranges = [seeds_range(mean_interval(values), 0.01) for values in samples]
    inside = np.mean([few <= wanted <= many for few, many in ranges])
    assert 0.92 < inside < 0.98
    # the point estimate alone is at most half the truth in many studies
    halved = np.mean([seeds_needed(mean_interval(v), 0.01) <= wanted / 2 for v in samples])
    assert halved > 0.2


def test_two_seeds_say_nothing_of_their_spread():
    assert seeds_range(mean_interval([0.5, 0.6]), 0.01) is None
    assert seeds_range(mean_interval([0.5]), 0.01) is None


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
        (lambda: mean_interval([1.0], step=-0.1), "-0.1"),
        (lambda: mean_interval([1.0], step=math.nan), "nan"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "2 and 1"),
        (lambda: holm([0.5, 1.5]), "1.5"),
        (lambda: primary([1.0], fraction=0.0), "0.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
