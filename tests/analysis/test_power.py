"""Power against statsmodels and against the interval of a deviation by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from lipsjax.analysis.power import power, seeds_for_power


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("statsmodels.stats.power").TTestPower()


@pytest.mark.parametrize("n", [2, 3, 8, 40, 300])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_power_is_that_of_statsmodels(theirs, n, level):
    for effect in (0.0, 0.1, 0.5, -1.0, 2.0):
        expected = theirs.power(effect / 2, n, 1 - level)
        if not math.isnan(expected):  # theirs has no number where it is nearly 1
            assert abs(power(effect, 2.0, n, level) - expected) < 1e-6


@pytest.mark.parametrize("effect", [0.4, 1.0, -2.5])
@pytest.mark.parametrize("asked", [0.5, 0.8, 0.95])
def test_seeds_are_those_of_statsmodels(theirs, effect, asked):
    values = [0.3, -1.0, 0.4, 2.1, 0.9, -0.2]
    found = seeds_for_power(values, effect, asked)
    for seeds, spread in zip(found[1:], (found.spread.mean, *found.spread[1:3]), strict=True):
        n = theirs.solve_power(effect_size=abs(effect) / spread, power=asked, alpha=0.05)
        assert seeds == max(2, math.ceil(np.squeeze(n)))


def test_the_spread_and_its_interval_by_hand():
    found = seeds_for_power([1.0, 2.0, 3.0, 4.0, 5.0], 1.0).spread
    # s^2 = 2.5; chi-square quantiles of 4 degrees: 0.4844186 and 11.1432868
    expected = [math.sqrt(2.5), math.sqrt(10 / 11.1432868), math.sqrt(10 / 0.4844186)]
    np.testing.assert_allclose(found[:3], expected, rtol=1e-6)
    assert found.n == 5


def test_power_is_certain_where_the_effect_is_enormous():
    assert power(1e9, 1e-3, 2) == pytest.approx(1)
    assert power(0.0, 1.0, 5) == pytest.approx(0.05, abs=1e-9)


def test_power_by_drawn_studies():
    values = np.random.default_rng(2).normal(0.6, 1.0, (20_000, 12))
    seen = stats.ttest_1samp(values, 0, axis=1).pvalue < 0.05
    expected = power(0.6, 1.0, 12)
    assert abs(seen.mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / 20_000)


def test_a_step_is_the_least_spread():
    assert seeds_for_power([0.5, 0.5, 0.5], 0.1, step=0.1).spread.mean == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((math.nan, 1.0, 5), "effect must be a number, got nan"),
        ((1.0, 0.0, 5), "spread must be a number above 0, got 0.0"),
        ((1.0, math.inf, 5), "spread must be"),
        ((1.0, 1.0, 1), "n must be at least 2 seeds, got 1"),
        ((1.0, 1.0, 5, 1.0), "level must be in"),
    ],
)
def test_no_power_of_nonsense(arguments, said):
    with pytest.raises(ValueError, match=said):
        power(*arguments)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ([1.0, 2.0], {}, "three or more numbers"),
        ([1.0, 2.0, math.nan], {}, "three or more numbers"),
        ([[1.0, 2.0, 3.0]], {}, "a vector"),
        ([1.0, 1.0, 1.0], {}, "all equal"),
        ([1.0, 2.0, 3.0], {"effect": 0.0}, "effect must be a number other than 0"),
        ([1.0, 2.0, 3.0], {"effect": math.inf}, "effect must be"),
        ([1.0, 2.0, 3.0], {"effect": 1e-9}, "seen with 1000000 seeds"),
        ([1.0, 2.0, 3.0], {"power": 1.0}, "power must be in"),
        ([1.0, 2.0, 3.0], {"level": 0.0}, "level must be in"),
        ([1.0, 2.0, 3.0], {"step": -1.0}, "step must be at least 0"),
        ([1.0, 2.0, 3.0], {"step": math.nan}, "step must be at least 0"),
    ],
)
def test_no_seeds_for_nonsense(values, options, said):
    with pytest.raises(ValueError, match=said):
        seeds_for_power(values, **{"effect": 1.0} | options)
