r"""Student's t from look to look: the probability of its path, where the mean is as the null says.

t is a function of the ratio :math:`R_n = \sum x / \sqrt{n \sum x^2}` of n normal values of mean 0.
The ratios so far say nothing of the scale :math:`\sum x^2` (Basu's theorem), so where R goes does
not depend on where it was before: it is a Markov chain on a line, and its paths are summed by
numerical recursion. With m more values, of which R' is the ratio, and N = n + m,

.. math:: \sqrt N R_N = \sqrt n \cos\Theta \, R_n + \sqrt m \sin\Theta \, R'_m,
   \qquad \sin^2 \Theta \sim Beta(m / 2, n / 2),

with :math:`R_n`, :math:`R'_m` and :math:`\Theta` independent.

References:
  Basu, `On Statistics Independent of a Complete Sufficient Statistic
  <https://www.jstor.org/stable/25048259>`_, 1955.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import interpolate, special

LOWEST = -4.5
"""Normal score below which a path is left out: hardly any comes from there to a bound."""

CELLS = 64
"""Cells of the scores between there and the bound, with two nodes each."""


class Ratios(NamedTuple):
    """Where the ratio stands in the studies that have not ended."""

    n: int  # values so far
    at: np.ndarray  # nodes
    mass: np.ndarray  # probability of each


START = Ratios(0, np.zeros(1), np.ones(1))


def ends_above(ratios: Ratios, n: int, score: float) -> float:
    """Probability that t of n values is above a bound, and the study had not ended before.

    Bounds are normal scores, which t of any degrees exceeds as often as a normal value does.
    """
    if ratios.n == 0:
        return float(special.ndtr(-score))
    more = n - ratios.n
    cosine, sine, weights = _angles(ratios.n, more)
    bound = math.sqrt(n) * float(_ratio(score, n))
    needed = (bound - math.sqrt(ratios.n) * ratios.at[:, None] * cosine) / (math.sqrt(more) * sine)
    above = np.interp(np.arcsin(np.clip(needed, -1, 1)), *_tail(more))
    return float(ratios.mass @ above @ weights)


def goes_on(ratios: Ratios, n: int, score: float) -> Ratios:
    """Where the ratio of n values stands, of studies that do not end above a bound."""
    edges = np.linspace(LOWEST, score, CELLS + 1)
    half = (edges[1] - edges[0]) / 2
    # Gauss-Legendre's two nodes in each cell
    scores = np.add.outer(edges[:-1] + half, half / math.sqrt(3) * np.array([-1, 1])).ravel()
    tails = [ends_above(ratios, n, edge) for edge in edges]
    density = -interpolate.PchipInterpolator(edges, tails).derivative()(scores)
    return Ratios(n, _ratio(scores, n), half * density)


def _ratio(score: float | np.ndarray, n: int) -> np.ndarray:
    """The ratio whose t has a normal score."""
    # in the lower tail, where probabilities are not rounded to 1
    t = -np.sign(score) * special.stdtrit(n - 1, special.ndtr(-np.abs(score)))
    return t / np.sqrt(t * t + n - 1)


@functools.lru_cache(256)
def _angles(n: int, more: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosine, sine and weight of nodes over the angle."""
    middle, reach = math.atan2(math.sqrt(more), math.sqrt(n)), 6.5 / math.sqrt(2 * (n + more))
    low, high = max(0.0, middle - reach), min(math.pi / 2, middle + reach)
    # the ratio of one or two more values has steps in its distribution, which takes more nodes
    x, weights = np.polynomial.legendre.leggauss(32 if more > 2 else 96)
    angle = low + (high - low) / 2 * (x + 1)
    cosine, sine = np.cos(angle) / math.cos(middle), np.sin(angle) / math.sin(middle)
    weights = weights * cosine ** (n - 1) * sine ** (more - 1)
    return np.cos(angle), np.sin(angle), weights / weights.sum()


@functools.lru_cache(256)
def _tail(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Angles from -pi / 2 to pi / 2, and the probability that the arcsine of R' is above each."""
    angle = np.linspace(-math.pi / 2, math.pi / 2, 8193)
    if m == 1:  # -1 or 1
        return angle, np.where(angle >= math.pi / 2, 0.0, np.where(angle <= -math.pi / 2, 1.0, 0.5))
    outside = special.betainc((m - 1) / 2, 0.5, np.square(np.cos(angle))) / 2
    return angle, np.where(angle < 0, 1 - outside, outside)
