"""How like the originals reconstructed images are. Host, NumPy; SSIM is dm-pix's."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment


class Likeness(NamedTuple):
    """What a reconstruction of one client's examples is worth, [n] in the originals' order."""

    order: np.ndarray  # int, which reconstruction stands for each original
    mse: np.ndarray  # of inputs within 0..1
    psnr: np.ndarray  # dB; at most 100
    ssim: np.ndarray  # NaN of what is no image
    identified: np.ndarray  # bool, whether the original is its nearest neighbour in a pool


def compare(
    found: np.ndarray, true: np.ndarray, pool: np.ndarray, positions: np.ndarray
) -> Likeness:
    """Compare reconstructions with originals, each with the one it is assigned to.

    A server averages over examples and does not know their order, so reconstructions are assigned
    to originals such that the sum of squared errors is least (Kuhn and Munkres).

    Args:
      found: [n, ...] within 0..1.
      true: [n, ...], the originals.
      pool: [M, ...], among which the originals are looked for; all are clients' examples.
      positions: [n], of the originals in the pool.

    Returns:
      A :class:`Likeness`. A constant grey image has an MSE too: compare it with that.

    Example:
      >>> pool = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.0]])
      >>> likeness = compare(np.array([[0.9, 1.0], [0.0, 0.1]]), pool[:2], pool, np.arange(2))
      >>> likeness.order.tolist(), likeness.identified.tolist()
      ([1, 0], [True, True])
    """
    errors = _squared_errors(found, true)
    order = linear_sum_assignment(errors.T)[1]
    mse = errors[order, np.arange(len(true))]
    with np.errstate(divide="ignore"):
        psnr = np.minimum(-10 * np.log10(mse), 100.0)
    nearest = np.argmin(_squared_errors(found[order], pool), axis=1)
    twins = _squared_errors(pool[nearest], true)[np.arange(len(true)), np.arange(len(true))] == 0
    identified = (nearest == positions) | twins
    return Likeness(order, mse, psnr, _ssim(found[order], true), identified)


def distinct(candidates: np.ndarray, count: int) -> np.ndarray:
    """Return the first candidates that differ from those before them, [count, ...].

    Where there are fewer, the last is repeated.

    >>> distinct(np.array([[1.0], [1.0], [3.0]]), 2).tolist()
    [[1.0], [3.0]]
    """
    chosen = [candidates[0]]
    for candidate in candidates[1:]:
        if len(chosen) < count and _squared_errors(candidate[None], np.stack(chosen)).min() > 1e-6:
            chosen.append(candidate)
    return np.stack(chosen + [chosen[-1]] * (count - len(chosen)))


def _squared_errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean squared error of every row with every other, [a, b]."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    return np.stack([np.mean((row - b) ** 2, axis=1) for row in a])


def _ssim(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the structural similarity of images, NaN of other inputs."""
    if true.ndim != 4:
        return np.full(len(true), np.nan)
    import dm_pix

    window = min(11, *true.shape[1:3])
    return np.asarray(
        dm_pix.ssim(found.astype(np.float32), true.astype(np.float32), filter_size=window)
    )
