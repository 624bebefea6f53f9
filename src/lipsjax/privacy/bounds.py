"""What a guarantee rests on: vectors no longer than a bound, and Gaussian noise."""

import jax
import jax.numpy as jnp

from lipsjax.types import Array, PyTree

HAIR = 1e-6
"""Below the bound, of what is scaled down to it, so that rounding does not lead above."""
LARGE = 1e30
"""Beyond it a vector is taken for one that is not finite: one over it is zero in float32."""


def clipped(vector: PyTree, bound: Array | float) -> tuple[PyTree, Array]:
    """Scale a vector down to a bound, and tell whether it was within.

    What is not finite, or larger than any update that means something, becomes zero.

    Args:
      vector: leaves of any shapes.
      bound: on the Euclidean norm of all leaves together.

    Example:
      >>> short, was_below = clipped({"w": jnp.array([3.0, 4.0])}, 1.0)
      >>> short["w"].round(3).tolist(), bool(was_below)
      ([0.6, 0.8], False)
    """
    leaves, structure = jax.tree.flatten(vector)
    # in units of the largest entry, as squares of large deltas are infinite and of small ones zero
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in leaves]))
    finite = largest <= LARGE  # of NaN it is not
    unit = jnp.clip(jnp.where(finite, largest, 1), 1 / LARGE, LARGE)
    scaled = [x / unit.astype(x.dtype) for x in leaves]
    length = jnp.sqrt(sum(jnp.sum(x**2) for x in scaled))
    most = bound * (1 - HAIR)
    within = finite & (length <= most / unit)
    factor = most / jnp.maximum(length, 1)

    def short(x: Array, of_unit: Array) -> Array:
        return jnp.where(within, x, jnp.where(finite, of_unit * factor.astype(x.dtype), 0))

    return structure.unflatten([short(x, u) for x, u in zip(leaves, scaled, strict=True)]), within


def gaussian(key: Array, like: PyTree) -> PyTree:
    """Draw standard normal noise in the shape of some leaves."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return structure.unflatten(drawn)
