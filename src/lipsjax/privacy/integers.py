"""Numbers as integers of a group, which masks can hide and sums still add up in."""

import jax
import jax.numpy as jnp

from lipsjax.types import Array


def capacity(*, bits: int, modulus: int) -> int:
    """Return how many integers of some bits can be added before a sum may wrap around.

    ``floor((modulus - 1) / (levels - 1))`` of ``levels = 2^bits - 1``: as many above zero as below.

    Example:
      >>> capacity(bits=16, modulus=2**32), capacity(bits=22, modulus=2**32)
      (65538, 1024)
    """
    return (modulus - 1) // (2 * most(bits))


def most(bits: int) -> int:
    """Return the largest integer that a value becomes: ``2^(bits - 1) - 1``."""
    return 2 ** (bits - 1) - 1


def to_integers(key: Array, x: Array, *, clip: float, bits: int) -> Array:
    """Round values at random to a grid, as integers: up with the chance that keeps the mean.

    ``q = floor(x / step + u)``, u uniform in [0, 1), with ``step = clip / (2^(bits - 1) - 1)``.
    Values beyond the clip are cut there; NaN is 0.

    Args:
      key: of the draws.
      x: any shape.
      clip: largest absolute value.
      bits: of an integer.

    Returns:
      uint32 in x's shape; negative integers as their complement.

    Example:
      >>> q = to_integers(jax.random.key(0), jnp.array([-1.0, 0.0, 1.0, 9.0]), clip=1.0, bits=4)
      >>> q.astype(jnp.int32).tolist()
      [-7, 0, 7, 7]
    """
    highest = most(bits)
    scaled = jnp.clip(jnp.nan_to_num(x), -clip, clip) * (highest / clip)
    below = jnp.floor(scaled)
    up = jax.random.uniform(key, x.shape, x.dtype) < scaled - below
    q = jnp.clip(below + up.astype(x.dtype), -highest, highest)
    return q.astype(jnp.int32).astype(jnp.uint32)


def from_integers(
    total: Array, *, clip: float, bits: int, modulus: int, dtype: jnp.dtype = jnp.float32
) -> Array:
    """Return the sum of values that a sum of integers stands for.

    Args:
      total: uint32, a sum that may have wrapped around 2^32.
      clip: as of :func:`to_integers`.
      bits: as of it.
      modulus: of the group, a power of two of at most 2^32.
      dtype: of the result.

    Example:
      >>> ones = to_integers(jax.random.key(0), -jnp.ones(3), clip=1.0, bits=16)
      >>> from_integers(ones * 5, clip=1.0, bits=16, modulus=2**32).tolist()
      [-5.0, -5.0, -5.0]
    """
    within = total & jnp.uint32(modulus - 1)
    is_negative = within > jnp.uint32((modulus - 1) // 2)
    size = jnp.where(is_negative, jnp.uint32(modulus - 1) - within + jnp.uint32(1), within)
    value = size.astype(dtype) * jnp.asarray(clip / most(bits), dtype)
    return jnp.where(is_negative, -value, value)
