"""Exact top-k masks without a sort, and their packing into bits.

Scores are not negative, so their bit patterns are ordered as they are; bisection over the bits
finds the k-th largest in as many passes as a score has bits. k may be traced.
"""

import chex
import jax
import jax.numpy as jnp

from lipsjax.types import Array


def _bisect(predicate, low: Array, high: Array, steps: int) -> Array:
    """Return the largest integer in [low, high) for which a falling predicate holds."""

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        holds = predicate(middle)
        return jnp.where(holds, middle, low), jnp.where(holds, high, middle)

    return jax.lax.fori_loop(0, steps, halve, (low, high))[0]


def topk_mask(scores: Array, k: Array) -> Array:
    """Mark the k largest scores; of equal ones, those that come first.

    Args:
      scores: [n], not negative, float32 or float64.
      k: () int32 in 0..n.

    Returns:
      [n] bool with exactly k True.

    Example:
      >>> import jax.numpy as jnp
      >>> topk_mask(jnp.array([1.0, 3.0, 1.0, 0.0]), 2).tolist()
      [True, True, False, False]
    """
    chex.assert_rank(scores, 1)
    chex.assert_type(scores, float)
    n = scores.shape[0]
    width = jnp.finfo(scores.dtype).bits
    word = {32: jnp.uint32, 64: jnp.uint64}[width]
    bits = jax.lax.bitcast_convert_type(scores, word)
    k = jnp.asarray(k, jnp.int32)

    def count(flags):
        return jnp.sum(flags, dtype=jnp.int32)

    # the k-th largest value: the largest threshold that at least k scores reach
    bounds = jnp.zeros((), word), jnp.asarray(jnp.iinfo(word).max, word)
    threshold = _bisect(lambda t: count(bits >= t) >= k, *bounds, width)
    above, equal = bits > threshold, bits == threshold
    missing = k - count(above)
    # ties by index: the longest prefix that holds no more equal scores than are missing
    position = jnp.arange(n, dtype=jnp.int32)
    prefix = _bisect(
        lambda p: count(equal & (position < p)) <= missing,
        jnp.zeros((), jnp.int32),
        jnp.asarray(n + 1, jnp.int32),
        (n + 1).bit_length(),
    )
    return (above | (equal & (position < prefix))) & (k > 0)


def pack(mask: Array) -> Array:
    """Pack a mask of any shape into bits, uint8 [ceil(size / 8)]."""
    return jnp.packbits(mask.ravel())


def unpack(bits: Array, shape: tuple[int, ...]) -> Array:
    """Undo :func:`pack`.

    >>> import jax.numpy as jnp
    >>> unpack(pack(jnp.array([[True, False, True]])), (1, 3)).tolist()
    [[True, False, True]]
    """
    size = 1
    for extent in shape:
        size *= extent
    return jnp.unpackbits(bits, count=size).reshape(shape).astype(bool)
