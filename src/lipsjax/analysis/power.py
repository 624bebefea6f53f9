"""How many seeds an effect takes: power of the paired t test, and the spread that it rests on.

References:
  Student's t at an effect is noncentral: Johnson and Welch, `Applications of the Non-Central
  t-Distribution <https://doi.org/10.1093/biomet/31.3-4.362>`_, 1940.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from lipsjax.analysis.stats import Interval, standard_error, vector_of

MOST = 1_000_000
"""Seeds beyond which no number is told."""


class Needed(NamedTuple):
    """Seeds that an effect takes, and how sure that is."""

    spread: Interval  # standard deviation of the differences, with its interval
    seeds: int  # at that spread
    low: int  # at the lower bound of the spread
    high: int  # at its upper bound


def power(effect: float, spread: float, n: int, level: float = 0.95) -> float:
    r"""Chance that a two-sided paired t test sees an effect.

    .. math:: P(|t'| > t_{n-1, (1 + level) / 2}), \quad t' \sim t_{n-1}(\sqrt n \, effect / spread)

    with t' of the noncentral distribution, which is averaged over the deviation of a sample:
    SciPy's own has no number where the power is nearly 1.

    Args:
      effect: true mean difference, in the measure's unit.
      spread: standard deviation of the differences between seeds, above 0, in the same unit.
      n: number of seeds, at least 2.
      level: confidence level, in (0, 1): the test's alpha is 1 - level.

    Returns:
      The power, in [0, 1]; 1 - level at no effect.

    Raises:
      ValueError: if spread, n or level is outside its range, or effect is not finite.

    Example:
      >>> round(power(effect=1.0, spread=1.0, n=10), 3)
      0.803
    """
    if not math.isfinite(effect):
        raise ValueError(f"effect must be a number, got {effect}")
    if not (math.isfinite(spread) and spread > 0):
        raise ValueError(f"spread must be a number above 0, got {spread}")
    if n < 2:
        raise ValueError(f"n must be at least 2 seeds, got {n}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    quantile = float(special.stdtrit(n - 1, (1 + level) / 2)) * _deviations(n - 1)
    away = math.sqrt(n) * effect / spread
    return float(_WEIGHTS @ (special.ndtr(away - quantile) + special.ndtr(-away - quantile)))


_SCORES = np.linspace(-8.0, 8.0, 641)
_WEIGHTS = np.exp(-np.square(_SCORES) / 2) / np.exp(-np.square(_SCORES) / 2).sum()


@functools.lru_cache(256)
def _deviations(degrees: int) -> np.ndarray:
    """What a sample's deviation may be, over the true one, as often as normal scores are."""
    tail = special.ndtr(-np.abs(_SCORES))
    low, high = (f(degrees / 2, tail) for f in (special.gammaincinv, special.gammainccinv))
    return np.sqrt(2 / degrees * np.where(_SCORES < 0, low, high))


def seeds_for_power(
    differences: ArrayLike,
    effect: float,
    power_asked: float = 0.8,
    level: float = 0.95,
    *,
    step: float = 0.0,
) -> Needed:
    r"""Seeds with which an effect would be seen, from differences that were measured.

    The smallest n whose :func:`power` is what is asked for, at the spread s of the differences and
    at the bounds of its interval

    .. math:: s \sqrt{(k - 1) / \chi^2_{k-1, (1 \pm level) / 2}}

    from k seeds.

    Args:
      differences: seed by seed, [k], at least 3: two say next to nothing of a spread.
      effect: mean difference that is to be seen, not 0, in their unit.
      power_asked: chance of seeing it, in (0, 1).
      level: confidence level of the test and of the interval, in (0, 1).
      step: the least spread that is believed, as of
        :func:`lipsjax.analysis.stats.mean_interval`.

    Returns:
      The spread with its interval, and the seeds; these are at least 2.

    Raises:
      ValueError: if differences are fewer than three, not all finite, or without any spread or
        step; if another value is outside its range; or if more than a million seeds are needed.

    Example:
      >>> needed = seeds_for_power([0.0, 1.0, 2.0, 1.0, 3.0], effect=1.0)
      >>> needed.seeds, needed.low, needed.high
      (13, 6, 87)
    """
    vector = vector_of(differences)
    if vector.size < 3 or not np.isfinite(vector).all():
        raise ValueError(f"differences must be three or more numbers, got {vector.tolist()}")
    if not (math.isfinite(effect) and effect != 0):
        raise ValueError(f"effect must be a number other than 0, got {effect}")
    if not 0 < power_asked < 1:
        raise ValueError(f"power must be in (0, 1), got {power_asked}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    if not step >= 0:
        raise ValueError(f"step must be at least 0, got {step}")
    spread = _spread(vector, level, step)
    if spread.mean == 0:
        raise ValueError("differences are all equal: without a spread or a step, no power is told")
    found = (_seeds(effect, each, power_asked, level) for each in spread[:3])
    return Needed(spread, *found)


def _spread(values: np.ndarray, level: float, step: float) -> Interval:
    """Standard deviation of the values, at least a step, with its chi-square interval."""
    degrees = values.size - 1
    deviation = standard_error(values, step) * math.sqrt(values.size)
    low, high = (
        deviation * math.sqrt(degrees / float(special.chdtri(degrees, tail)))
        for tail in ((1 - level) / 2, (1 + level) / 2)
    )
    return Interval(deviation, low, high, values.size)


def _seeds(effect: float, spread: float, asked: float, level: float) -> int:
    """The smallest n >= 2 of that power, by bisection, as power rises with n."""
    few, many = 1, 2
    while power(effect, spread, many, level) < asked:
        few, many = many, 2 * many
        if many > MOST:
            raise ValueError(
                f"effect must be large enough to be seen with {MOST} seeds at a spread of "
                f"{spread:.3g}, got {effect}"
            )
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (
            (few, middle) if power(effect, spread, middle, level) >= asked else (middle, many)
        )
    return many
