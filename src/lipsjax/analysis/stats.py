"""Intervals and tests over seeds: the small part of SciPy that a comparison needs.

Seeds are the unit of replication. Arms of a study share seeds, data, initialisation and batches,
so two arms are compared by their differences seed by seed, which is why nothing here accepts two
samples of different lengths.

Accuracies are counts of test examples, so over a few seeds their differences may be equal to the
last bit by chance. A ``step``, the smallest that a measure can make, is the least deviation between
seeds that is believed: without it, equal differences would have an interval of no width and p = 0.

References:
  Student, `The Probable Error of a Mean <https://doi.org/10.2307/2331554>`_, 1908.
  Spearman, `The Proof and Measurement of Association between Two Things
  <https://doi.org/10.2307/1412159>`_, 1904.
  Fieller, `Some Problems in Interval Estimation
  <https://doi.org/10.1111/j.2517-6161.1954.tb00159.x>`_, 1954.
  Holm, `A Simple Sequentially Rejective Multiple Test Procedure
  <https://www.jstor.org/stable/4615733>`_, 1979.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Interval(NamedTuple):
    """A mean over n seeds and its confidence interval; the bounds are NaN when n < 2."""

    mean: float
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """Seed-wise differences of two arms: their interval and the two-sided p of "no difference"."""

    interval: Interval
    p: float


def vector_of(values: ArrayLike) -> np.ndarray:
    """The values of all seeds; anything but a vector is refused."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"expected one value per seed, a vector; got shape {vector.shape}")
    return vector


def mean_interval(values: ArrayLike, level: float = 0.95, *, step: float = 0.0) -> Interval:
    """Mean over seeds with Student's t interval.

    ``mean ± t s / sqrt(n)``: s is the deviation of the sample, at least the step; t is the
    (1 + level) / 2 quantile of Student's distribution with n - 1 degrees of freedom.

    Values that agree to the last bit have an interval of width zero only if the step is 0, as of
    bits, which are counted. A NaN among the values makes the mean and the bounds NaN: a seed that
    could not be measured is never left out in silence.

    Args:
      values: one number per seed, [n].
      level: confidence level, in (0, 1).
      step: the smallest step of the measure, at least 0; 0 where it is no count.

    Returns:
      The interval; its bounds are NaN for fewer than two values, its mean for none.

    Raises:
      ValueError: if values is not a vector, level is outside (0, 1), or step is below 0.

    Example:
      >>> mean_interval([1.0, 2.0, 3.0]).mean
      2.0
      >>> exact, counted = mean_interval([0.5] * 3), mean_interval([0.5] * 3, step=0.01)
      >>> exact.high - exact.low, round(counted.high - counted.low, 3)
      (0.0, 0.05)
      >>> mean_interval([1.0])
      Interval(mean=1.0, low=nan, high=nan, n=1)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    if not step >= 0:
        raise ValueError(f"step must be at least 0, got {step}")
    vector = vector_of(values)
    n = vector.size
    mean = float(vector.mean()) if n else math.nan
    if n < 2 or not np.isfinite(vector).all():
        return Interval(mean, math.nan, math.nan, n)
    half = _quantile((1 + level) / 2, n - 1) * standard_error(vector, step)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(
    a: ArrayLike, b: ArrayLike, level: float = 0.95, *, step: float = 0.0
) -> Difference:
    """Interval and paired t test of ``a - b``, seed by seed.

    Args:
      a: one number per seed, [n].
      b: the same of the reference, in the same order of seeds, [n].
      level: confidence level, in (0, 1).
      step: the least deviation of the differences that is believed, as of :func:`mean_interval`.

    Returns:
      The interval of the mean difference and the two-sided p. Without any spread or step, p is 1
      where the differences are all zero and 0 where they are not; it is NaN where no interval
      exists.

    Raises:
      ValueError: if the two have different lengths, or as :func:`mean_interval`.

    Example:
      >>> paired_difference([0.75, 1.0, 1.25], [0.25, 0.5, 0.75]).interval.mean
      0.5
    """
    first, second = vector_of(a), vector_of(b)
    if first.size != second.size:
        raise ValueError(f"paired arms need the same seeds, got {first.size} and {second.size}")
    differences = first - second
    interval = mean_interval(differences, level, step=step)
    if math.isnan(interval.low):
        return Difference(interval, math.nan)
    error = standard_error(differences, step)
    if error == 0:
        return Difference(interval, 1.0 if interval.mean == 0 else 0.0)
    return Difference(
        interval, float(2 * stats.t.sf(abs(interval.mean) / error, differences.size - 1))
    )


def ratio_interval(
    a: ArrayLike,
    b: ArrayLike,
    level: float = 0.95,
    *,
    steps: tuple[float, float] = (0.0, 0.0),
) -> Interval:
    r"""Ratio of two paired means with Fieller's interval.

    It holds every :math:`\rho` for which the t test of :math:`a - \rho b` does not exclude zero,
    and is bounded exactly where the interval of the mean of b excludes zero.

    Args:
      a: numerator, one number per seed, [n].
      b: denominator, in the same order of seeds, [n].
      level: confidence level, in (0, 1).
      steps: the least deviations of a and of b that are believed, as of :func:`mean_interval`.

    Returns:
      The interval of :math:`\bar a / \bar b`; all of it NaN where it would not be bounded.

    Raises:
      ValueError: as :func:`paired_difference`.

    Example:
      >>> ratio_interval([2.0, 2.5, 3.0], [4.0, 5.0, 6.0]).mean
      0.5
    """
    first, second = vector_of(a), vector_of(b)
    if first.size != second.size:
        raise ValueError(f"paired arms need the same seeds, got {first.size} and {second.size}")
    n, below = first.size, mean_interval(second, level, step=steps[1])
    if math.isnan(below.low) or below.low <= 0 <= below.high or not np.isfinite(first).all():
        return Interval(math.nan, math.nan, math.nan, n)
    # a quadratic in rho: (mean a - rho mean b)^2 <= t^2 variance(a - rho b) / n
    covariance = np.cov(first, second)
    # only the diagonal grows, so that it stays a covariance
    np.fill_diagonal(covariance, np.maximum(np.diag(covariance), np.square(steps)))
    spread = _quantile((1 + level) / 2, n - 1) ** 2 * covariance / n
    square = below.mean**2 - spread[1, 1]
    linear = first.mean() * below.mean - spread[0, 1]
    constant = first.mean() ** 2 - spread[0, 0]
    root = math.sqrt(max(0.0, linear**2 - square * constant))
    low, high = (linear - root) / square, (linear + root) / square
    return Interval(float(first.mean()) / below.mean, float(low), float(high), n)


def seeds_needed(interval: Interval, half_width: float, level: float = 0.95) -> int | None:
    r"""Number of seeds whose interval would be as narrow as asked for, at the spread observed.

    .. math:: \min \{ n \ge 2 : t_{n-1,(1+level)/2} \, s / \sqrt n \le half\_width \}

    Args:
      interval: an interval of this level, from which the deviation s between seeds is read.
      half_width: what the interval is to reach on either side of its mean, above 0.
      level: confidence level of both, in (0, 1).

    Returns:
      The number; None where no spread was observed, as with a single seed.

    Raises:
      ValueError: if half_width is not above 0.

    Example:
      >>> seeds_needed(mean_interval([-1.0, 0.0, 1.0]), half_width=1.0)
      7
    """
    if not half_width > 0:
        raise ValueError(f"half_width must be above 0, got {half_width}")
    if math.isnan(interval.low) or math.isnan(interval.mean):
        return None
    return _seeds_for(_deviation(interval, level), half_width, level)


def seeds_range(
    interval: Interval, half_width: float, level: float = 0.95
) -> tuple[int, int] | None:
    r"""Range of :func:`seeds_needed`, as the spread over a few seeds is itself known roughly only.

    .. math:: s \sqrt{(n - 1) / \chi^2_{n-1,(1 \pm level)/2}}

    are the bounds of the interval of the deviation; the range is what they ask for.

    Args:
      interval: as of :func:`seeds_needed`.
      half_width: as of :func:`seeds_needed`.
      level: confidence level of all intervals, in (0, 1).

    Returns:
      The smallest and the largest number; None for fewer than three seeds, as two say next to
      nothing of a spread.

    Raises:
      ValueError: if half_width is not above 0.

    Example:
      >>> seeds_range(mean_interval([-1.0, 0.0, 1.0]), half_width=1.0)
      (4, 155)
    """
    if seeds_needed(interval, half_width, level) is None or interval.n < 3:
        return None
    deviation, degrees = _deviation(interval, level), interval.n - 1
    few, many = (
        _seeds_for(
            deviation * math.sqrt(degrees / float(stats.chi2.ppf(tail, degrees))), half_width, level
        )
        for tail in ((1 + level) / 2, (1 - level) / 2)
    )
    return few, many


def _deviation(interval: Interval, level: float) -> float:
    """The deviation between seeds that an interval was made of."""
    half = (interval.high - interval.low) / 2
    return half * math.sqrt(interval.n) / _quantile((1 + level) / 2, interval.n - 1)


def _seeds_for(deviation: float, half_width: float, level: float) -> int:
    """The smallest n >= 2 whose interval is narrow enough."""
    t = (1 + level) / 2
    # never fewer than the normal quantile asks for, from which a few steps are left
    n = max(2, math.ceil((float(stats.norm.ppf(t)) * deviation / half_width) ** 2))
    while _quantile(t, n - 1) * deviation > half_width * math.sqrt(n):
        n += 1
    return n


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    r"""Spearman's rank correlation of two curves.

    Args:
      a: values, [n].
      b: values at the same places, [n]. A place where either is NaN does not count.

    Returns:
      The correlation, in [-1, 1]; NaN for fewer than four places or a curve that is constant.

    Raises:
      ValueError: if the two have different lengths.

    Example:
      >>> spearman([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0])
      1.0
    """
    first, second = vector_of(a), vector_of(b)
    if first.size != second.size:
        raise ValueError(f"two curves need the same places, got {first.size} and {second.size}")
    known = ~np.isnan(first) & ~np.isnan(second)
    first, second = first[known], second[known]
    if first.size < 4 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    found: Any = stats.spearmanr(first, second)
    return float(found.statistic)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's adjusted p values, in the order given.

    Of sorted p, ``adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))``.

    Args:
      p_values: p of each comparison, [m]. A NaN (nothing could be tested) stays NaN and is not
        counted in m.

    Returns:
      Adjusted p values, [m]: rejecting where they are below alpha keeps the chance of any false
      rejection below alpha.

    Raises:
      ValueError: if p_values is not a vector or holds a value outside [0, 1].

    Example:
      >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
      [0.03, 0.06, 0.06]
    """
    p = vector_of(p_values)
    tested = ~np.isnan(p)
    if ((p[tested] < 0) | (p[tested] > 1)).any():
        raise ValueError(f"p values must be in [0, 1], got {p.tolist()}")
    m = int(tested.sum())
    order = np.argsort(p[tested], kind="stable")
    stepped = np.minimum(1.0, (m - np.arange(m)) * p[tested][order])
    adjusted = np.full(m, np.nan)
    adjusted[order] = np.maximum.accumulate(stepped)
    out = np.full(p.size, np.nan)
    out[tested] = adjusted
    return out


def primary(curve: ArrayLike, fraction: float = 0.1) -> float:
    r"""Mean of a curve over the evaluated rounds among its last ones.

    The window is the last ``max(1, ceil(fraction T))`` of all T rounds, so that
    it covers the same part of training however often a run was evaluated.

    Args:
      curve: one value per round, NaN where the round was not evaluated, [T].
      fraction: share of the rounds that counts as the end of training, in (0, 1].

    Returns:
      The mean; NaN if no round of the window was evaluated.

    Raises:
      ValueError: if curve is not a vector or fraction is outside (0, 1].

    Example:
      >>> primary([0.0] * 18 + [1.0, 0.5])
      0.75
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    values = vector_of(curve)
    # 0.1 * 70 is a little more than 7 in floating point; the rounding keeps its ceiling at 7.
    window = values[-max(1, math.ceil(round(fraction * values.size, 9))) :]
    evaluated = window[~np.isnan(window)]
    return float(evaluated.mean()) if evaluated.size else math.nan


@functools.cache
def _quantile(probability: float, degrees: int) -> float:
    """Student's t quantile; a figure asks for the same one at every round."""
    return float(stats.t.ppf(probability, degrees))


def standard_error(values: np.ndarray, step: float) -> float:
    """Standard error of the mean, of a deviation of at least a step.

    Without a step it is exactly zero if all values are equal, whatever rounding says.
    """
    spread = 0.0 if (values == values[0]).all() else float(values.std(ddof=1))
    return max(spread, step) / math.sqrt(values.size)
