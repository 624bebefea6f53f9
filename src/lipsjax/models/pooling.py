"""Max-pooling whose gradient is slices and sums.

XLA differentiates ``reduce_window`` into ``select_and_scatter``, which is slow on CPU. Here the
forward pass keeps which tap won, one byte an output, and the backward pass gathers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lipsjax.models.convolution import _fence, _out, _resolve
from lipsjax.types import Array

Pair = tuple[int, int]


def _pool(x, window, strides, pads):
    """Return the maximum [N, oh, ow, C] and which tap it is (uint8, the first of equals)."""
    low = jnp.array(-jnp.inf, x.dtype)
    n, h, w, c = x.shape
    oh, ow = (_out(*a) for a in zip((h, w), window, strides, pads, strict=True))
    x = lax.pad(x, low, ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)))
    best, which = None, jnp.zeros((), jnp.uint8)
    for i in range(window[0]):
        for j in range(window[1]):
            end = (n, i + (oh - 1) * strides[0] + 1, j + (ow - 1) * strides[1] + 1, c)
            tap = lax.slice(x, (0, i, j, 0), end, (1, *strides, 1))
            if best is None:
                best, which = tap, jnp.zeros(tap.shape, jnp.uint8)
            else:
                which = jnp.where(tap > best, jnp.uint8(i * window[1] + j), which)
                best = jnp.maximum(best, tap)
    return best, which


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, window, strides, pads):
    return _pool(x, window, strides, pads)[0]


def _max_pool_fwd(x, window, strides, pads):
    y, which = _pool(x, window, strides, pads)
    return y, (which, jnp.zeros((0, *x.shape), x.dtype))


def _spread(which, dy, window):
    """Give windows that tile the image their gradients: [N, oh, wh, ow, ww, C], in one pass."""
    (wh, ww), (n, oh, ow, c) = window, dy.shape
    shape = (n, oh, wh, ow, ww, c)
    tap = jnp.uint8(ww) * lax.broadcasted_iota(jnp.uint8, shape, 2)
    tap += lax.broadcasted_iota(jnp.uint8, shape, 4)
    which, dy = (x.reshape(n, oh, 1, ow, 1, c) for x in _fence((which, dy)))
    return jnp.where(which == tap, dy, 0)


def _max_pool_bwd(window, strides, pads, residuals, dy):
    which, like = residuals
    _, n, h, w, c = like.shape
    if window == strides and (h, w) == (dy.shape[1] * window[0], dy.shape[2] * window[1]):
        return (_spread(which, dy, window).reshape(n, h, w, c),)
    # Pixel s * q + r takes from output q + a by tap i, where i = s * (-a) + r + pad: one small sum
    # per remainder r.
    taps = [
        [[(i, (r + p[0] - i) // s) for i in range(k) if (r + p[0] - i) % s == 0] for r in range(s)]
        for k, s, p in zip(window, strides, pads, strict=True)
    ]
    size = [-(-d // s) for d, s in zip((h, w), strides, strict=True)]
    reach = [[a for rest in t for _, a in rest] for t in taps]
    before = [max(0, -min(a)) for a in reach]
    after = [max(0, q + max(a) - o) for q, a, o in zip(size, reach, dy.shape[1:3], strict=True)]
    edges = ((0, 0, 0), (before[0], after[0], 0), (before[1], after[1], 0), (0, 0, 0))
    dy, which = _fence(
        (lax.pad(dy, jnp.zeros((), dy.dtype), edges), lax.pad(which, jnp.uint8(0), edges))
    )
    rows = []
    for r0 in taps[0]:
        cols = []
        for r1 in taps[1]:
            total = jnp.zeros((n, *size, c), dy.dtype)
            for i, a in r0:
                for j, b in r1:
                    at = (0, a + before[0], b + before[1], 0)
                    end = (n, at[1] + size[0], at[2] + size[1], c)
                    total += jnp.where(
                        lax.slice(which, at, end) == i * window[1] + j, lax.slice(dy, at, end), 0
                    )
            cols.append(total)
        rows.append(_fence(jnp.concatenate(_fence(cols), -1).reshape(n, size[0], -1)))
    dx = jnp.concatenate(rows, -1).reshape(n, size[0] * strides[0], size[1] * strides[1], c)
    return (_fence(dx[:, :h, :w]),)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def max_pool(x: Array, window: Pair, strides: Pair, padding: Any = "VALID") -> Array:
    """Take the maximum of every window; the gradient goes to the first maximum.

    Args:
      x: [N, H, W, C].
      window: height and width.
      strides: vertical and horizontal.
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).

    Returns:
      [N, H', W', C].

    Example:
      >>> import jax.numpy as jnp
      >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (2, 2), (2, 2)).ravel().tolist()
      [5.0, 7.0, 13.0, 15.0]
    """
    pads = _resolve(x.shape[1:3], window, strides, padding)
    return jnp.asarray(_max_pool(x, window, strides, pads))
