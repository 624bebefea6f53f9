"""Boundaries of planned looks: how small p must be at each, so that looking often costs no error.

A study is looked at after some numbers of seeds, and ends at the first look whose p is at most its
nominal level. A spending function says how much of alpha may be used up by a look, given the share
of the most seeds that it has; the levels follow by numerical recursion over the paths of Student's
t (:mod:`lipsjax.analysis.student`), in the way of Armitage, McPherson and Rowe for normal values.

References:
  Armitage, McPherson and Rowe, `Repeated Significance Tests on Accumulating Data
  <https://doi.org/10.2307/2343787>`_, 1969.
  Lan and DeMets, `Discrete Sequential Boundaries for Clinical Trials
  <https://doi.org/10.1093/biomet/70.3.659>`_, 1983.
  Jennison and Turnbull, Group Sequential Methods with Applications to Clinical Trials, 2000.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special

from lipsjax.analysis import student

LEAST = 1e-4
"""Spend of a look below which it is carried to the next one, and there is no stop at this one."""

REACH = 8.5
"""Standard deviations to either side that the recursion covers."""

NODES = 160
"""Nodes of its Gauss-Legendre quadrature at each look."""


def _obrien_fleming(share: float, alpha: float) -> float:
    """Next to nothing early on: the last look has nearly the level of a study without looks."""
    return float(2 * special.ndtr(special.ndtri(alpha / 2) / math.sqrt(share)))


def _pocock(share: float, alpha: float) -> float:
    """About the same level at every look."""
    return alpha * math.log1p((math.e - 1) * share)


SPENDING: dict[str, Callable[[float, float], float]] = {
    "obrien_fleming": _obrien_fleming,
    "pocock": _pocock,
}
"""Spending functions of Lan and DeMets: name -> alpha spent at a share in (0, 1]."""


def spent(share: float, alpha: float, spending: str = "obrien_fleming") -> float:
    r"""Part of a one-sided alpha that may be spent up to a share of the most seeds.

    .. math:: 2 - 2 \Phi(z_{1 - \alpha / 2} / \sqrt t)
       \quad\text{or}\quad \alpha \log(1 + (e - 1) t)

    in the way of O'Brien and Fleming or of Pocock. Both reach alpha at t = 1.

    Args:
      share: seeds so far over the most seeds, t in [0, 1].
      alpha: one-sided level of the whole study, in (0, 0.5).
      spending: "obrien_fleming" or "pocock".

    Returns:
      The cumulative spend, in [0, alpha].

    Raises:
      ValueError: if a value is outside its range or the spending function unknown.

    Example:
      >>> round(spent(0.5, 0.025), 5), spent(1.0, 0.025)
      (0.00153, 0.025)
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
    check_level("alpha", alpha)
    check_spending(spending)
    if share in (0, 1):
        return alpha * share  # to the last bit, whatever rounding says
    return SPENDING[spending](share, alpha)


def nominal(looks: Sequence[int], alpha: float, spending: str = "obrien_fleming") -> np.ndarray:
    r"""One-sided nominal level of each look: the study ends there if p is at most this.

    .. math:: P(\exists j \le k: p_j \le a_j) = spent(n_k / n_K, \alpha)

    defines the levels a of looks k at n_k seeds. A spend below :data:`LEAST` is carried to the next
    look and its level is 0: no stop; the last look spends what is left.

    p is that of Student's t with n - 1 degrees of freedom, and the levels are those of its own
    paths. Levels of normal values with a known spread in their place (the significance level
    approach) would spend more than alpha: 2% more with six looks from 8 to 40, 5% more with five
    looks from 4 to 20 (4 million simulated studies, alpha 0.025, "obrien_fleming").

    The recursion is right to about 1e-4 of a level where looks are three or more seeds apart; where
    they are one or two apart, to a few percent of single levels.

    Args:
      looks: number of seeds at each look, rising, [K].
      alpha: one-sided level of the whole study, in (0, 0.5).
      spending: "obrien_fleming" or "pocock".

    Returns:
      Levels, [K].

    Raises:
      ValueError: if looks do not rise from at least 2, or as :func:`spent`.

    Example:
      >>> nominal([10, 20, 30], 0.025).round(4).tolist()
      [0.0001, 0.006, 0.0227]
    """
    check_looks(looks)
    check_level("alpha", alpha)
    check_spending(spending)
    return np.array(_nominal(tuple(map(int, looks)), float(alpha), spending))


def median_unbiased(
    mean: float,
    deviation: float,
    looks: Sequence[int],
    lows: Sequence[float],
    highs: Sequence[float],
) -> float:
    r"""Estimate of an effect after looks at which the study would have ended.

    The mean is biased outward, as a study ends where it is large by chance. This is the effect at
    which what was seen is in the middle of what could have been,

    .. math:: P_{effect}(\text{ended above before, or } mean_K \ge mean) = 1/2

    in the order of Tsiatis, Rosner and Mehta: ends above, the earlier the higher; the mean of the
    last look; ends below. The deviation is taken as known.

    Args:
      mean: mean of the values at the last of these looks.
      deviation: their standard deviation, above 0.
      looks: number of seeds at each look so far, [k].
      lows: means at or below which it would have ended before; -inf: no stop, [k - 1].
      highs: means at or above which it would have ended before; inf: no stop, [k - 1].

    Returns:
      The estimate; it is the mean if there was no stop before.

    Example:
      >>> seen = median_unbiased(0.9, 1.0, [10, 20], [-1.0], [1.0])
      >>> 0.85 < seen < 0.9
      True
      >>> median_unbiased(0.9, 1.0, [20], [], [])
      0.9
    """
    at = np.array(looks)
    low, high = (np.array(bounds) / deviation * at[:-1] for bounds in (lows, highs))
    if not np.isfinite(low).any() and not np.isfinite(high).any():
        return mean

    def beyond(effect: float) -> float:
        sums, above = _START, 0.0
        for n, ends_low, ends_high in zip(looks, low, high, strict=False):
            above += _ends_above(sums, n, ends_high, effect)
            sums = _goes_on(sums, n, ends_low, ends_high, effect)
        return above + _ends_above(sums, looks[-1], looks[-1] * mean / deviation, effect) - 0.5

    centres = np.append(np.concatenate([low, high]) / np.tile(at[:-1], 2), mean / deviation)
    centres = centres[np.isfinite(centres)]
    reach = REACH / math.sqrt(looks[0])
    found: Any = optimize.brentq(beyond, centres.min() - reach, centres.max() + reach, xtol=1e-9)
    return float(found) * deviation


def check_looks(looks: Sequence[int]) -> None:
    """Refuse looks that are not rising whole numbers of seeds, 2 or more."""
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in looks)
    rising = whole and all(a < b for a, b in itertools.pairwise(looks))
    if not rising or not len(looks) or looks[0] < 2:
        raise ValueError(
            f"looks must be whole numbers of seeds that rise from at least 2, got {list(looks)}"
        )


def check_level(name: str, level: float) -> None:
    """Refuse a one-sided level that is none."""
    if not 0 < level < 0.5:
        raise ValueError(f"{name} must be in (0, 0.5), got {level}")


def check_spending(spending: str) -> None:
    """Refuse a spending function that is not known."""
    if spending not in SPENDING:
        raise ValueError(f"spending must be one of {', '.join(SPENDING)}, got {spending!r}")


class _Sums(NamedTuple):
    """Where the sum of the values stands in the studies that have not ended, of spread 1."""

    n: int  # seeds so far
    at: np.ndarray  # nodes
    mass: np.ndarray  # quadrature weight times density


_START = _Sums(0, np.zeros(1), np.ones(1))


def _ends_above(sums: _Sums, n: int, bound: float, effect: float = 0.0) -> float:
    """Probability that the sum of n values is above a bound, and the study had not ended before."""
    more = n - sums.n
    return float(sums.mass @ special.ndtr((sums.at + more * effect - bound) / math.sqrt(more)))


def _goes_on(sums: _Sums, n: int, low: float, high: float, effect: float = 0.0) -> _Sums:
    """Where the sum of n values stands, of studies that do not end outside of two bounds."""
    more, around = n - sums.n, n * effect
    low, high = max(low, around - REACH * math.sqrt(n)), min(high, around + REACH * math.sqrt(n))
    x, weights = _quadrature()
    half = max(0.0, high - low) / 2
    at = (low + high) / 2 + half * x
    off = (at[:, None] - sums.at - more * effect) / math.sqrt(more)
    density = np.exp(-np.square(off) / 2) @ sums.mass / math.sqrt(2 * math.pi * more)
    return _Sums(n, at, half * weights * density)


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [-1, 1]."""
    return np.polynomial.legendre.leggauss(NODES)


class Walk(NamedTuple):
    """How a statistic goes from look to look, asked in normal scores; both ask for n values."""

    start: Any  # state before the first look
    ends_above: Callable[[Any, int, float], float]  # P(not ended before, and above a score now)
    goes_on: Callable[[Any, int, float], Any]  # state of those that do not end above a score


NORMAL = Walk(
    _START,
    lambda sums, n, score: _ends_above(sums, n, score * math.sqrt(n)),
    lambda sums, n, score: _goes_on(sums, n, -math.inf, score * math.sqrt(n)),
)
STUDENT = Walk(student.START, student.ends_above, student.goes_on)


@functools.lru_cache(1024)
def _nominal(looks: tuple[int, ...], alpha: float, spending: str) -> tuple[float, ...]:
    """The levels of :func:`nominal`; recycling asks for them again and again."""
    return levels_along(STUDENT, looks, alpha, spending)


def levels_along(
    walk: Walk, looks: tuple[int, ...], alpha: float, spending: str
) -> tuple[float, ...]:
    """The levels of :func:`nominal` along a walk, of arguments that were checked."""
    state, used, levels = walk.start, 0.0, []
    for n in looks:
        spend = spent(n / looks[-1], alpha, spending) - used
        if spend < LEAST and n != looks[-1]:
            levels.append(0.0)
            continue
        found: Any = optimize.brentq(_excess, 0, REACH, (walk, state, n, spend), xtol=1e-10)
        state, used = walk.goes_on(state, n, found), used + spend
        levels.append(float(special.ndtr(-found)))
    return tuple(levels)


def _excess(score: float, walk: Walk, state: Any, n: int, spend: float) -> float:
    return walk.ends_above(state, n, score) - spend
