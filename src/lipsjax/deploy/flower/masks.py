"""Which weights of an array are kept: NumPy alone, and the simulator's masks to the byte.

Transient sparsity (LIPS, arXiv 2506.00932) keeps the weights of largest saliency ``|g w|``.
"""

import numpy as np

CRITERIA = ("saliency", "magnitude")


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
