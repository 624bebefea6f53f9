"""Which weights are kept, and how many: NumPy alone, and the simulator's masks to the byte.

Transient sparsity (LIPS, arXiv 2506.00932) keeps the weights of largest saliency ``|g w|``.
"""

import math
from collections.abc import Callable

import numpy as np

CRITERIA = ("saliency", "magnitude")
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda start, x: start,
    "linear": lambda start, x: start + (1.0 - start) * x,
    "cosine": lambda start, x: 1.0 + (start - 1.0) * (1 + math.cos(math.pi * x)) / 2,
    "cubic": lambda start, x: 1.0 + (start - 1.0) * (1 - x) ** 3,
}
"""(density at the start, progress in [0, 1)) -> density; all but the constant end at 1."""


def mask(weights: np.ndarray, gradient, density: float, name: str = "weights") -> np.ndarray:
    """Mark the ``floor(density n)`` weights of largest ``|g w|``, of equal ones the first.

    Args:
      weights: of any shape.
      gradient: of that shape; None: the largest ``|w|`` are kept.
      density: in (0, 1].
      name: of the array, in errors.

    Returns:
      True where a weight is kept, in the shape of the weights.
    """
    if not np.issubdtype(weights.dtype, np.floating):
        raise ValueError(f"lips: {name} holds {weights.dtype}, and floating numbers are masked")
    if gradient is not None and gradient.shape != weights.shape:
        raise ValueError(
            f"lips: the gradient of {name} has shape {gradient.shape}, not {weights.shape}"
        )
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        scores = weights if gradient is None else normal(normal(gradient) * normal(weights))
    scores = np.abs(scores)
    if not np.isfinite(scores).all():
        raise ValueError(f"lips: scores of {name} are not finite: its training diverged")
    order = np.argsort(-scores.ravel(), kind="stable")
    keep = np.zeros(scores.size, bool)
    keep[order[: int(density * scores.size)]] = True
    return keep.reshape(scores.shape)


def mask_of_torch(weights: np.ndarray, gradient, density: float, name: str = "weights"):
    """Mark weights in PyTorch's layout [out, in, ...] as :func:`mask` marks them in [..., in, out].

    The layouts differ in which of equal scores comes first, and units that are dead have many.
    """
    here, there = (0, 1), (-1, -2)
    moved = None if gradient is None else np.moveaxis(gradient, here, there)
    return np.moveaxis(mask(np.moveaxis(weights, here, there), moved, density, name), there, here)


def normal(values: np.ndarray) -> np.ndarray:
    """Set numbers below the smallest normal one to zero, as a CPU's products in the simulator."""
    return np.where(np.abs(values) < np.finfo(values.dtype).tiny, values.dtype.type(0), values)


def density_at(ended: int, num_rounds: int, *, start: float, every: int, schedule: str) -> float:
    """Return the density ``d(r / T)`` at which the round after round r begins; 1 is whole.

    Args:
      ended: r, the round before, counted from 0; negative: there was none.
      num_rounds: T.
      start: the first density, in (0, 1].
      every: rounds between those that begin masked.
      schedule: of SCHEDULES.
    """
    if ended < 0 or ended % every:
        return 1.0
    return SCHEDULES[schedule](start, ended / num_rounds)


def check_plan(masked, density: float, every: int, schedule: str, criterion: str) -> list[str]:
    """Return the names of masked arrays as a list; refuse what no round can follow.

    Raises:
      ValueError: naming the value and what is allowed.
    """
    if isinstance(masked, str) or not (masked := list(masked)):
        raise ValueError(f"masked must be a list of at least one name, not {masked!r}")
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], not {density}")
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}")
    if criterion not in CRITERIA:
        raise ValueError(
            f"criterion must be one of {', '.join(CRITERIA)}, not {criterion!r}: others are the "
            "simulator's alone"
        )
    return masked
