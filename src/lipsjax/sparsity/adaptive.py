"""Adaptive transient sparsity: masks where the middle layers stand still, and as far as they do.

LIPS (arXiv 2506.00932) masks by the clock: after every so many rounds, with one density for all
layers that rises to 1. The paper says nothing of triggers. What stands here is this project's own
extension: the inertia of the last rounds decides whether a round is followed by a sparse broadcast,
and that of each layer how much of it is kept. The steps of the rule are pure functions; rounds
call them in :mod:`lipsjax.rounds.decision`.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from lipsjax.strategy import Trigger
from lipsjax.types import Array

LEVELS = 16
"""Densities that a layer can have: few, so that what each of them keeps is a table of the host."""


def inertia_trigger(*, threshold: float, window: int, every: int) -> Trigger:
    """Return the rule, or refuse values that make none.

    Args:
      threshold: of the inertia index, below 1, at which no layer moves any more.
      window: rounds that the index is a mean of.
      every: rounds between those that a sparse broadcast may follow.

    Raises:
      ValueError: for a value out of range.

    Example:
      >>> inertia_trigger(threshold=0.0, window=3, every=1)
      Traceback (most recent call last):
      ValueError: every must be at least 2 with trigger='inertia', not 1: a round that begins \
masked tells nothing
    """
    if not (math.isfinite(threshold) and threshold < 1):
        raise ValueError(f"threshold must be a number below 1, not {threshold}")
    if window < 1:
        raise ValueError(f"window must be at least 1, not {window}")
    if every < 2:
        raise ValueError(
            f"every must be at least 2 with trigger='inertia', not {every}: a round that begins "
            "masked tells nothing"
        )
    return Trigger(threshold, window, every, levels_above(threshold))


def remember(history: Array, new: Array, counts: Array) -> Array:
    """Return the last rounds' inertia with a new row in place of the oldest, if it counts.

    Args:
      history: [window, L], the newest last; NaN where there was none yet.
      new: [L] inertia of a round.
      counts: () bool; a row that is not finite never counts.

    Example:
      >>> history = jnp.array([[jnp.nan], [0.5]])
      >>> remember(history, jnp.array([0.25]), jnp.array(True)).tolist()
      [[0.5], [0.25]]
      >>> remember(history, jnp.array([jnp.inf]), jnp.array(True)).tolist()
      [[nan], [0.5]]
    """
    counts = counts & jnp.all(jnp.isfinite(new))
    return jnp.where(counts, jnp.concatenate([history[1:], new[jnp.newaxis]]), history)


def remembered(history: Array) -> Array:
    """Return the mean inertia of each layer over the rounds there were, [L]; NaN if none.

    >>> remembered(jnp.array([[jnp.nan], [0.5], [0.25]])).tolist()
    [0.375]
    """
    return jnp.mean(history, axis=0, where=~jnp.isnan(history))


def levels_above(threshold: float) -> Callable[[Array], Array]:
    """Return the function from layers' inertia to their density levels, 0 to 15.

    Level 0, whole, is up to the threshold. From there to 1, where a layer stands still, are 15
    equal steps: the level counts the j in 0..14 with ``inertia > c + (1 - c) j / 15``, c the
    threshold.

    Args:
      threshold: below 1.

    Returns:
      inertia [layers] -> levels [layers] int32; what is not known is whole.

    Example:
      >>> levels_above(0.0)(jnp.array([-2.0, 0.0, 0.01, 0.5, 1.0, jnp.nan])).tolist()
      [0, 0, 1, 8, 15, 0]
    """
    borders = threshold + (1 - threshold) * np.arange(LEVELS - 1) / (LEVELS - 1)

    def levels(inertia: Array) -> Array:
        above = inertia[:, jnp.newaxis] > jnp.asarray(borders, inertia.dtype)
        return jnp.sum(above, axis=1, dtype=jnp.int32)

    return levels


def level_densities(density: float) -> np.ndarray:
    """Return the density of each level: from 1, whole, in equal steps to that of the last.

    Args:
      density: that a layer keeps which stands still, in (0, 1).

    Returns:
      [LEVELS] float64.

    Raises:
      ValueError: for a density out of range.

    Example:
      >>> level_densities(0.25)[[0, 1, 15]].tolist()
      [1.0, 0.95, 0.25]
    """
    if not 0 < density < 1:
        raise ValueError(f"density must be in (0, 1) with trigger='inertia', not {density}")
    return np.linspace(1.0, density, LEVELS)
