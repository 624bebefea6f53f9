"""Exact top-k masks without a sort, and their packing into bits.

Scores are not negative, so their bit patterns are ordered as they are; bisection over the bits
finds a threshold that k of them reach, in about log2 n passes, and at most as many as a score has
bits. k may be traced.
"""

import chex
import jax
import jax.numpy as jnp

from lipsjax.types import Array


def _bisect(compare, low: Array, high: Array) -> Array:
    """Return the largest integer in [low, high) at which ``compare`` is not negative.

    Args:
      compare: integer -> a falling number; where it is 0 the search ends.
      low: () integer at which it is not negative.
      high: () integer.
    """

    def is_open(bounds):
        low, high = bounds
        return high - low > 1

    def halve(bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        above = compare(middle)
        below = jnp.where(above == 0, middle + 1, middle)
        return jnp.where(above >= 0, middle, low), jnp.where(above > 0, high, below)

    return jax.lax.while_loop(is_open, halve, (low, high))[0]


def topk_mask(scores: Array, k: Array | int) -> Array:
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

    # the k-th largest score, or a threshold below it that no other score reaches
    bounds = jnp.zeros((), word), jnp.asarray(jnp.iinfo(word).max, word)
    threshold = _bisect(lambda t: count(bits >= t) - k, *bounds)
    above, equal = bits > threshold, bits == threshold
    missing, ties = k - count(above), count(equal)
    # ties by index: a prefix that holds as many equal scores as are missing
    position = jnp.arange(n, dtype=jnp.int32)
    end = jnp.asarray(n, jnp.int32)
    prefix = _bisect(
        lambda p: missing - count(equal & (position < p)),
        jnp.where(ties == missing, end, 0),
        end + 1,
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
