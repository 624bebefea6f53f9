"""Noise that later rounds take back in part: a banded matrix between rounds.

References:
  Choquette-Choo et al., "(Amplified) Banded Matrix Factorization: A unified approach to private
  training", arXiv 2306.08153.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax.types import PyTree


@functools.lru_cache(maxsize=64)
def coefficients(rounds: int, bands: int) -> tuple[float, ...]:
    r"""Return the first column of a banded Toeplitz matrix C, by jax-privacy.

    The noise of all rounds is :math:`C^{-1} Z`, the rows of Z standard normal. Of all C with these
    bands and columns of length 1 at most it makes sums over rounds noisy least. Columns that are as
    many rounds apart as there are bands have no row in common, so that who takes part in such
    rounds moves what is released by one Gaussian each.

    Args:
      rounds: T, for which it is best.
      bands: of C, at most T; 1: C is the identity.

    Raises:
      ValueError: without jax-privacy.

    Example:
      >>> of_one, (a, b) = coefficients(12, 1), coefficients(12, 2)
      >>> of_one, round(a**2 + b**2, 6), a > b > 0
      ((1.0,), 1.0, True)
    """
    try:
        from jax_privacy.matrix_factorization import toeplitz
    except ImportError:
        raise ValueError("banded noise needs jax-privacy: pip install 'lipsjax[privacy]'") from None
    with jax.ensure_compile_time_eval():
        found = np.asarray(toeplitz.optimize_banded_toeplitz(rounds, bands), np.float64)
    return tuple(map(float, found / np.linalg.norm(found)))


def start(like: PyTree, bands: int) -> PyTree:
    """Return what is remembered before the first round: the noise of ``bands - 1`` rounds, zero."""
    return jax.tree.map(lambda x: jnp.zeros((bands - 1, *x.shape), x.dtype), like)


def correlated(column: tuple[float, ...], noise: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
    """Return the next row of :math:`C^{-1} Z`, and what is remembered.

    Args:
      column: of :func:`coefficients`.
      noise: the row of Z.
      memory: rows of before, the newest first, of :func:`start`.
    """
    first, *rest = column

    def row(z, before):
        return (z - sum(c * x for c, x in zip(rest, before, strict=True))) / first

    rows = jax.tree.map(row, noise, memory)
    pairs = jax.tree.map(lambda x, before: jnp.stack([x, *before])[: len(rest)], rows, memory)
    return rows, pairs
