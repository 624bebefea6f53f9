"""Convolution with derivative rules of its own, for many small kernels on CPU.

XLA's CPU backend runs a forward ``lax.conv`` at the speed of matrix products, on one thread, but
differentiates it into convolutions that are naive inside loops; and ``vmap`` over kernels makes a
grouped convolution, which is slow everywhere on CPU. So gradients here are built from forward
convolutions and matrix products, and clients go one after the other under ``vmap``. Which of five
ways is taken depends on shapes and type alone; ``benchmarks/README.md`` has the measurements.

Arrays are [N, H, W, C], kernels [kh, kw, C, O].
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

# values that a core keeps near: patches of more are made and used a few images at a time
_NEAR = 2**19
_DIMS = ("NHWC", "HWIO", "NHWC")

# keeps XLA from recomputing, or splitting into scalars, what stands before a copy
_fence = lax.optimization_barrier


def _resolve(shape, window, strides, padding):
    """'SAME', 'VALID' or pairs -> ((top, bottom), (left, right))."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(shape, window, strides, padding)
    return tuple((int(lo), int(hi)) for lo, hi in padding)


def _out(size, k, s, pad):
    return (size + pad[0] + pad[1] - k) // s + 1


def _taps(x, axis, k, s, n):
    """Join k shifted (strided) slices of length n along an axis: [..., C] -> [..., k * C]."""
    return jnp.concatenate(
        [lax.slice_in_dim(x, i, i + (n - 1) * s + 1, s, axis) for i in range(k)], -1
    )


def _conv(x, kernel, strides, pads):
    """Call XLA's forward convolution, under vmap for one client after the other."""

    @sequential_vmap
    def run(x, kernel):
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_DIMS)

    return run(x, kernel)


def _outer(a, b):
    """Sum the outer products of a [..., A] and b [..., B]; the wider one is faster on the right."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    contract = (((0,), (0,)), ((), ()))
    return (
        lax.dot_general(b, a, contract).T
        if a.shape[1] > b.shape[1]
        else lax.dot_general(a, b, contract)
    )


def _patches(x, window, strides, pads):
    """Gather patches, along W first so that copied runs are long: -> [N, oh, ow, kh * kw * C]."""
    oh, ow = (_out(*a) for a in zip(x.shape[1:3], window, strides, pads, strict=True))
    x = _fence(jnp.pad(x, ((0, 0), *pads, (0, 0))))
    return _taps(_taps(x, 2, window[1], strides[1], ow), 1, window[0], strides[0], oh)


def _unpatch(d, shape, window, strides, pads):
    """Transpose of _patches: [N,oh,ow,kh*kw*C] -> shape [N,H,W,C]."""
    (_, h, w, c), (kh, kw), (sh, sw) = shape, window, strides
    (_, oh, ow, _), zero = d.shape, jnp.zeros((), d.dtype)
    total = 0
    for i in range(kh):
        for j in range(kw):
            t, u = i - pads[0][0], j - pads[1][0]
            edges = (
                (0, 0, 0),
                (t, h - t - (oh - 1) * sh - 1, sh - 1),
                (u, w - u - (ow - 1) * sw - 1, sw - 1),
                (0, 0, 0),
            )
            k = i * kw + j
            total += lax.pad(lax.slice_in_dim(d, k * c, (k + 1) * c, axis=3), zero, edges)
    return total


# Five ways, each (forward, input gradient, kernel gradient).


def _direct(x_shape, k_shape, strides, pads):
    """Stride 1: a forward convolution, and the kernel's gradient as one product.

    The product is of W-shifts of x with H-shifts of dy: kw + kh copies instead of kh * kw. Where
    nothing is padded, the H-shifts give the input's gradient too, as a second product.
    """
    _, h, _, c = x_shape
    kh, kw, _, o = k_shape
    valid = pads == ((0, 0), (0, 0))

    def forward(x, kernel):
        if not valid:
            return _conv(x, kernel, strides, pads), x
        # one row too many: XLA has a slower kernel for convolutions without padding
        return _conv(x, kernel, strides, ((0, 1), (0, 0)))[:, : h - kh + 1], x

    def h_shifts(dy):
        edge = (kh - 1 - pads[0][0], kh - 1 - pads[0][1])
        return _fence(_taps(_fence(jnp.pad(dy, ((0, 0), edge, (0, 0), (0, 0)))), 1, kh, 1, h))

    def grad_x(kernel, dy):
        if not valid:
            flipped = _fence(kernel[::-1, ::-1].transpose(0, 1, 3, 2))
            edges = [(k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip((kh, kw), pads, strict=True)]
            return _conv(dy, flipped, (1, 1), edges)
        matrix = _fence(kernel[::-1].transpose(0, 3, 1, 2).reshape(kh * o, kw * c))
        return _unpatch(_fence(h_shifts(dy) @ matrix), x_shape, (1, kw), (1, 1), pads)

    def grad_kernel(x, dy):
        ow = dy.shape[2]
        xs = _fence(_taps(_fence(jnp.pad(x, ((0, 0), (0, 0), pads[1], (0, 0)))), 2, kw, 1, ow))
        return _outer(xs, h_shifts(dy)).reshape(kw, c, kh, o)[:, :, ::-1].transpose(2, 0, 1, 3)

    return forward, grad_x, grad_kernel


# Winograd's F(4, 3) at the points 0, 1, -1, 1/2, -2 and infinity, of which little is lost to
# rounding (Barabasz et al., arXiv 1803.10986)
_A = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 1 / 2, -2, 0),
    (0, 1, 1, 1 / 4, 4, 0),
    (0, 1, -1, 1 / 8, -8, 1),
)
_G = (
    (1, 0, 0),
    (1 / 3, 1 / 3, 1 / 3),
    (-1 / 3, 1 / 3, -1 / 3),
    (-16 / 15, -8 / 15, -4 / 15),
    (1 / 15, -2 / 15, 4 / 15),
    (0, 0, 1),
)
_B = (
    (1, -3 / 2, -2, 3 / 2, 1, 0),
    (0, -1, 1 / 2, 5 / 2, 1, 0),
    (0, 1, -5 / 2, 1 / 2, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 1 / 2, -1, -1 / 2, 1, 0),
    (0, 1, -3 / 2, -2, 3 / 2, 1),
)


TIMES = "products_times_"
"""Begins the name of a function whose products are fewer than those of what it computes.

The number that follows is how many times over :func:`lipsjax.metrics.flops.flops` counts them, so
that a model's FLOPs, and the hours of devices, are the same whichever way it is computed."""


def _counted(times, function):
    function.__name__ = f"{TIMES}{times}"
    return jax.jit(function)


def _mix(matrix, parts):
    """Combine arrays by constants: rows of [R, P] and P arrays -> R arrays."""
    return [
        _fence(sum(c * part for c, part in zip(row, parts, strict=True) if c)) for row in matrix
    ]


def _winograd(x_shape, k_shape, strides, pads):
    """Kernels of three rows, stride 1: four rows of the result by six products instead of twelve.

    Along H by Winograd's minimal filtering, ``y = A ((G k) * (B x))`` for every four rows of y and
    the six of x that they see (Lavin and Gray, arXiv 1509.09308); along W as it is written.
    Gradients are its transposes, by half the products too.
    """
    del strides
    _, h, _, c = x_shape
    _, kw, _, o = k_shape
    rows = _out(h, 3, 1, pads[0])
    tiles = -(-rows // 4)
    end = 4 * tiles

    def seen(x):
        edges = (pads[0][0], end + 2 - h - pads[0][0])
        x = _fence(jnp.pad(x, ((0, 0), edges, (0, 0), (0, 0))))
        return _mix(_B, [x[:, i : i + end - 3 : 4] for i in range(6)])

    def given(dy):
        dy = jnp.pad(dy, ((0, 0), (0, end - rows), (0, 0), (0, 0)))
        # stacked: or else XLA computes what dy comes from once for every sum that reads it
        return _mix(zip(*_A, strict=True), _fence(jnp.stack([dy[:, i::4] for i in range(4)])))

    def along_w(parts, kernels, edges):
        pairs = zip(parts, kernels, strict=True)
        return [_conv(part, kernel[None], (1, 1), ((0, 0), edges)) for part, kernel in pairs]

    def forward(x, kernel):
        ys = _mix(_A, along_w(seen(x), _mix(_G, kernel), pads[1]))
        return jnp.stack(ys, 2).reshape(len(x), end, -1, o)[:, :rows], x

    def grad_x(kernel, dy):
        kernels = _mix(_G, kernel[:, ::-1].transpose(0, 1, 3, 2))
        edges = (kw - 1 - pads[1][0], kw - 1 - pads[1][1])
        parts = _mix(zip(*_B, strict=True), along_w(given(dy), kernels, edges))
        # a tile's rows 4 and 5 are rows 0 and 1 of the next one
        own = [jnp.pad(part, ((0, 0), (0, 1), (0, 0), (0, 0))) for part in parts[:4]]
        over = [jnp.pad(part, ((0, 0), (1, 0), (0, 0), (0, 0))) for part in parts[4:]]
        dx = jnp.stack([own[0] + over[0], own[1] + over[1], own[2], own[3]], 2)
        return dx.reshape(len(dy), end + 4, -1, c)[:, pads[0][0] : pads[0][0] + h]

    def grad_kernel(x, dy):
        x = jnp.pad(x, ((0, 0), (0, 0), pads[1], (0, 0)))

        def product(pair):
            part, change = pair
            return _outer(_taps(part, 2, kw, 1, change.shape[2]), change)

        # in a loop, as the taps of all six would be in memory at once
        products = lax.map(product, (jnp.stack(seen(x)), jnp.stack(given(dy))))
        return jnp.stack(_mix(zip(*_G, strict=True), products)).reshape(k_shape)

    written = 3 * rows / (6 * tiles)
    return tuple(_counted(written, part) for part in (forward, grad_x, grad_kernel))


def _at_once(images, size):
    """Return how many images to make patches of at a time, each of so many values.

    As many as divide all and stay near; all, where that would be under a quarter of what fits.
    """
    most = _NEAR // size
    shares = [i for i in range(1, images + 1) if images % i == 0 and most / 4 <= i <= most]
    return max(shares, default=images)


def _gathered(x_shape, k_shape, strides, pads):
    """Strides or few channels: patches and a product, of as few images as a cache holds."""
    n, window, o = x_shape[0], k_shape[:2], k_shape[3]
    places = math.prod(_out(*a) for a in zip(x_shape[1:3], window, strides, pads, strict=True))
    count = _at_once(n, places * math.prod(k_shape[:3]))

    def split(x):
        return x.reshape(n // count, count, *x.shape[1:])

    def patches(x):
        return _patches(x, window, strides, pads)

    def forward(x, kernel):
        kernel = kernel.reshape(-1, o)
        y = lax.map(lambda x: patches(x) @ kernel, split(x))
        return y.reshape(n, *y.shape[2:]), x

    def grad_x(kernel, dy):
        return _unpatch(dy @ kernel.reshape(-1, o).T, x_shape, window, strides, pads)

    def grad_kernel(x, dy):
        def add(total, block):
            x, dy = block
            return total + _outer(patches(x), dy), None

        zero = jnp.zeros((math.prod(k_shape[:3]), o), dy.dtype)
        return lax.scan(add, zero, (split(x), split(dy)))[0].reshape(k_shape)

    return forward, grad_x, grad_kernel


def _pointwise(x_shape, _, strides, pads):
    """1x1: a product of the (strided) pixels."""

    def forward(x, kernel):
        x = x[:, :: strides[0], :: strides[1]]
        return x @ kernel[0, 0], x

    def grad_x(kernel, dy):
        return _unpatch(dy @ kernel[0, 0].T, x_shape, (1, 1), strides, pads)

    return forward, grad_x, lambda x, dy: _outer(x, dy)[None, None]


def _dense(x_shape, k_shape, strides, pads):
    """Image smaller than the kernel: one matrix [H * W * C, oh * ow * O].

    It skips every product with padding.
    """
    _, h, w, c = x_shape
    kh, kw, _, o = k_shape
    oh, ow = (_out(*a) for a in zip((h, w), (kh, kw), strides, pads, strict=True))

    def tap(a, b, y, z):
        i, j = a + pads[0][0] - y * strides[0], b + pads[1][0] - z * strides[1]
        return (i, j) if 0 <= i < kh and 0 <= j < kw else None

    cells = [
        [(tap(a, b, y, z)) for y in range(oh) for z in range(ow)]
        for a in range(h)
        for b in range(w)
    ]

    def matrix(kernel):
        zero = jnp.zeros((c, o), kernel.dtype)
        return jnp.concatenate(
            [jnp.concatenate([kernel[t] if t else zero for t in row], 1) for row in cells], 0
        )

    def forward(x, kernel):
        x = x.reshape(-1, h * w * c)
        return (x @ matrix(kernel)).reshape(-1, oh, ow, o), x

    def grad_x(kernel, dy):
        return (dy.reshape(-1, oh * ow * o) @ matrix(kernel).T).reshape(-1, h, w, c)

    def grad_kernel(x, dy):
        d = _fence(_outer(x, dy.reshape(-1, oh * ow * o)))
        taps = {(i, j): jnp.zeros((c, o), d.dtype) for i in range(kh) for j in range(kw)}
        for r, row in enumerate(cells):
            for q, t in enumerate(row):
                if t:
                    taps[t] += lax.slice(d, (r * c, q * o), ((r + 1) * c, (q + 1) * o))
        return jnp.stack(list(taps.values())).reshape(k_shape)

    return forward, grad_x, grad_kernel


def _way(x_shape, k_shape, dtype, strides, pads):
    (n, h, w, c), (kh, kw, _, o) = x_shape, k_shape
    oh, ow = (_out(*a) for a in zip((h, w), (kh, kw), strides, pads, strict=True))
    is_plain = strides == (1, 1) and max(pads[0]) < kh and max(pads[1]) < kw
    if (kh, kw) == (1, 1) and pads == ((0, 0), (0, 0)):
        way = _pointwise
    elif h * w < kh * kw:
        way = _dense
    elif (
        is_plain
        and kh == 3
        and min(c, o) >= 32
        and n * -(-oh // 4) * ow >= 128  # rows of each product; fewer do not pay for the sums
        and dtype in (jnp.float32, jnp.float64)  # its sums need more digits than bfloat16 has
    ):
        way = _winograd
    elif is_plain and c >= 8:
        way = _direct
    else:
        way = _gathered
    return way(x_shape, k_shape, strides, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, strides, pads):
    return _way(x.shape, kernel.shape, x.dtype, strides, pads)[0](x, kernel)[0]


def _convolve_fwd(x, kernel, strides, pads):
    y, kept = _way(x.shape, kernel.shape, x.dtype, strides, pads)[0](x, kernel)
    return y, (kept, kernel, jnp.zeros((0, *x.shape), x.dtype))


def _convolve_bwd(strides, pads, residuals, dy):
    kept, kernel, like = residuals
    _, grad_x, grad_kernel = _way(like.shape[1:], kernel.shape, like.dtype, strides, pads)
    return grad_x(kernel, dy), grad_kernel(kept, dy)


_convolve.defvjp(_convolve_fwd, _convolve_bwd)


def convolve(x, kernel, *, strides=(1, 1), padding="SAME"):
    """Convolve images with a kernel, with derivative rules that are quick inside loops on CPU.

    Args:
      x: [N, H, W, C].
      kernel: [kh, kw, C, O].
      strides: vertical and horizontal.
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).

    Returns:
      [N, H', W', O], as ``lax.conv_general_dilated`` in NHWC.

    Example:
      >>> import jax.numpy as jnp
      >>> convolve(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 2)), padding="VALID").shape
      (1, 2, 2, 2)
    """
    strides = tuple(int(s) for s in strides)
    return _convolve(x, kernel, strides, _resolve(x.shape[1:3], kernel.shape[:2], strides, padding))


def gather(x, kernel, *, strides=(1, 1), padding="SAME"):
    """Convolve as :func:`convolve`, always by patches and one product; vmaps into a batched one."""
    strides = tuple(int(s) for s in strides)
    pads = _resolve(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _patches(x, kernel.shape[:2], strides, pads) @ kernel.reshape(-1, kernel.shape[3])


def _for_flax(function):
    """Give a convolution the signature that ``nn.Conv(conv_general_dilated=...)`` calls."""

    def conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        *,
        lhs_dilation=None,
        rhs_dilation=None,
        feature_group_count=1,
        **_,
    ):
        dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
        if lhs.ndim != 4 or feature_group_count != 1 or any(d != 1 for d in dilations):
            raise ValueError(
                "this lowering does plain convolutions of [N, H, W, C] only, not grouped or dilated"
            )
        return function(lhs, rhs, strides=window_strides, padding=padding)

    return conv_general_dilated


CONVOLUTIONS = {
    "loop": _for_flax(convolve),
    "patches": _for_flax(gather),
    "grouped": lax.conv_general_dilated,
}
"""Lowerings by name, each with the signature of ``lax.conv_general_dilated``.

loop: :func:`convolve`, clients one after the other; patches: :func:`gather`; grouped: XLA's own.
"""
