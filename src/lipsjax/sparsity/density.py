"""How dense a broadcast is: schedules over rounds, distributions over layers.

All of it is host arithmetic in float64: k is floor(density * size), and float32 floors are wrong.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

Schedule = Callable[[float], float]
"""Progress i / T in [0, 1) -> density in (0, 1]."""


def check_density(value: float) -> float:
    """Return a density, or refuse it."""
    if not 0 < value <= 1:
        raise ValueError(f"density must be in (0, 1], not {value}")
    return float(value)


def _check_ends(start: float, end: float) -> None:
    check_density(start)
    check_density(end)


def constant(density: float) -> Schedule:
    """Keep the density: ``d(x) = d0``."""
    check_density(density)
    return lambda progress: density


def linear(start: float, end: float = 1.0) -> Schedule:
    """Go straight from start to end: ``d(x) = d0 + (d1 - d0) x``, as published.

    >>> linear(0.5)(0.5)
    0.75
    """
    _check_ends(start, end)
    return lambda progress: start + (end - start) * progress


def cosine(start: float, end: float = 1.0) -> Schedule:
    """Go along a half cosine: ``d(x) = d1 + (d0 - d1) (1 + cos(pi x)) / 2``."""
    _check_ends(start, end)
    return lambda progress: end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def cubic(start: float, end: float = 1.0) -> Schedule:
    """Rise fast, then slowly: ``d(x) = d1 + (d0 - d1) (1 - x)^3`` (Zhu & Gupta, 1710.01878)."""
    _check_ends(start, end)
    return lambda progress: end + (start - end) * (1 - progress) ** 3


SCHEDULES: dict[str, Callable[[float], Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "cubic": cubic,
}


def density_table(schedule: Schedule, *, every: int, rounds: int) -> np.ndarray:
    """Return the density of the broadcast after each round.

    ``d_i = schedule(i / T)`` if ``i mod every == 0``, else 1.

    Args:
      schedule: of progress.
      every: rounds between sparse broadcasts.
      rounds: T.

    Returns:
      [T] float64; 1 is dense.

    Raises:
      ValueError: if every < 1, or the schedule leaves (0, 1].

    Example:
      >>> density_table(linear(0.5), every=2, rounds=4).tolist()
      [0.5, 1.0, 0.75, 1.0]
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    return np.array(
        [check_density(schedule(i / rounds)) if i % every == 0 else 1.0 for i in range(rounds)]
    )


def erk(density: float, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Distribute a density over layers by the Erdos-Renyi-kernel rule.

    ``d_l`` is proportional to ``sum(shape_l) / prod(shape_l)``, capped at 1, with the excess
    shared among the others, so that the total stays ``density * sum(prod(shape_l))``.

    Args:
      density: of all layers together.
      shapes: of the kernels.

    Returns:
      [layers] float64 densities.

    References:
      Evci et al., "Rigging the Lottery", arXiv 1911.11134.
    """
    sizes = np.array([math.prod(s) for s in shapes], float)
    raw = np.array([sum(s) for s in shapes], float) / sizes
    full = np.zeros(len(shapes), bool)
    while not full.all():
        factor = (density * sizes.sum() - sizes[full].sum()) / (raw * sizes)[~full].sum()
        over = ~full & (factor * raw > 1)
        if not over.any():
            return np.where(full, 1.0, factor * raw)
        full |= over
    return np.ones(len(shapes))


def kept_counts(
    densities: np.ndarray, shapes: Sequence[tuple[int, ...]], *, scope: str
) -> np.ndarray:
    """Return how many weights are kept after each round, in each group that competes.

    Args:
      densities: [T] from :func:`density_table`.
      shapes: of the masked kernels.
      scope: "layer" (each kernel is a group), "erk" (so too, with other densities) or "global"
        (all kernels are one group).

    Returns:
      [T, groups] int32, ``floor(density * size)`` in float64.
    """
    sizes = np.array([math.prod(s) for s in shapes])
    if scope == "global":
        return np.floor(densities[:, None] * sizes.sum()).astype(np.int32)
    if scope == "erk":
        by_layer = np.stack([erk(d, shapes) for d in densities])
    else:
        by_layer = np.repeat(densities[:, None], len(shapes), axis=1)
    return np.floor(by_layer * sizes).astype(np.int32)
