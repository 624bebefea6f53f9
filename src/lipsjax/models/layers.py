"""Normalisation that leaves padding out of its statistics."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lipsjax.types import Array

EPSILON = 1e-5
MOMENTUM = 0.9


def uniform_within(bound: float):
    """Return an initializer: uniform in [-bound, bound), as PyTorch's linear layers begin."""

    def init(key, shape, dtype=jnp.float32, **_):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BatchNorm(nn.Module):
    """Batch normalisation whose statistics leave padding out (Ioffe & Szegedy, 1502.03167).

    Running statistics follow with momentum 0.9, in the type of the parameters; a batch of padding
    alone gives NaN, and the caller discards such steps.

    Attributes:
      param_dtype: type of scale, bias and running statistics.
    """

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, mask: Array, train: bool) -> Array:
        """Normalise x [B, ..., channels] over all but channels, with mask [B]."""
        features, dtype = x.shape[-1:], self.param_dtype
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, dtype)
        var = self.variable("batch_stats", "var", jnp.ones, features, dtype)
        scale = self.param("scale", nn.initializers.ones, features, dtype)
        bias = self.param("bias", nn.initializers.zeros, features, dtype)
        if not train:
            return (x - mean.value) * (scale * jax.lax.rsqrt(var.value + EPSILON)) + bias
        y, batch_mean, batch_var = batch_norm(x, scale, bias, mask.astype(x.dtype))
        if not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * batch_mean
            var.value = MOMENTUM * var.value + (1 - MOMENTUM) * batch_var
        return y


@jax.custom_vjp
def batch_norm(x: Array, scale: Array, bias: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Normalise by the statistics of the real examples: ``scale (x - mean) / sqrt(var) + bias``.

    The variance is the mean of ``(x - mean)^2``: ``E[x^2] - E[x]^2`` would lose it in float32 where
    the mean is a hundred deviations. Forward reads x three times and backward twice, in reductions
    and one elementwise pass each.

    Args:
      x: [B, ..., channels].
      scale: [channels].
      bias: [channels].
      mask: [B] in the type of x, 0 on padding.

    Returns:
      The normalised x, and mean and (biased) variance, [channels], both without gradient.
    """
    return _batch_norm_fwd(x, scale, bias, mask)[0]


def _batch_norm_fwd(x, scale, bias, mask):
    weight, axes = _like(mask, x), tuple(range(x.ndim - 1))
    count = jnp.sum(mask) * math.prod(x.shape[1:-1])
    mean = jnp.sum(x * weight, axes) / count
    # nothing but this sum reads x - mean: what two sums or passes share, XLA writes to memory
    var = jnp.sum((x - mean) ** 2 * weight, axes) / count
    inverse = jax.lax.rsqrt(var + EPSILON)
    gain = inverse * scale
    return (x * gain + (bias - mean * gain), mean, var), (x, scale, mask, mean, inverse, count)


def _batch_norm_bwd(residuals, cotangents):
    x, scale, mask, mean, inverse, count = residuals
    dy, axes = cotangents[0], tuple(range(x.ndim - 1))
    d_bias = jnp.sum(dy, axes)
    d_scale = (jnp.sum(dy * x, axes) - mean * d_bias) * inverse
    gain = scale * inverse
    slope = gain * inverse * d_scale / count
    shift = gain * d_bias / count - slope * mean
    d_x = dy * gain - (x * slope + shift) * _like(mask, x)
    return d_x, d_scale, d_bias, jnp.zeros_like(mask)


def _like(mask, x):
    return mask.reshape(-1, *[1] * (x.ndim - 1))


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


@jax.custom_vjp
def _product(x, kernel):
    return x @ kernel


def _product_fwd(x, kernel):
    return x @ kernel, (x, kernel)


def _product_bwd(residuals, dy):
    x, kernel = residuals
    d_x = jax.lax.dot_general(dy, kernel, (((dy.ndim - 1,), (1,)), ((), ())))
    x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return d_x, jax.lax.dot_general(x, dy, (((0,), (0,)), ((), ())))


_product.defvjp(_product_fwd, _product_bwd)


def _dot_general(x, kernel, dimension_numbers, precision=None, **_):
    del dimension_numbers, precision  # the last axis of x and the first of the kernel, as ever
    return _product(x, kernel)


# JAX's own rule takes the kernel's gradient as dy by x and transposes it; on CPU that copy takes
# longer than the product, for a wide layer and a small batch.
Dense = functools.partial(nn.Dense, dot_general=_dot_general)
"""A dense layer of x [B, ..., in], whose kernel gradient comes out as the kernel lies."""


def groups_of(channels: int) -> int:
    """Return how many groups channels are normalised in."""
    return math.gcd(channels, 8)


def check_groups(shape: tuple[int, ...]) -> None:
    """Refuse to normalise groups of one value, which are 0 less their mean, whatever came in.

    Args:
      shape: of what is normalised, [B, ..., channels].

    Raises:
      ValueError: naming the groups.
    """
    *places, channels = shape[1:]
    if math.prod(places) == 1 and channels == groups_of(channels):
        on = f"{channels} channels on maps of one place" if places else f"{channels} units"
        raise ValueError(
            f"norm group has nothing to normalise of {on}: {channels} groups have one value each, "
            "which becomes 0 for every input; make the model wider or inputs larger, or take norm "
            "batch or none"
        )


class Norm(nn.Module):
    """Normalise; padding has no part in the statistics.

    A group of one value is refused: less its mean it is 0, whatever came in, so that the layers
    before it never learn.

    Attributes:
      kind: "batch", "group" (8 groups or fewer), "layer" or "none".
      param_dtype: type of scale and bias.
    """

    kind: str
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, mask: Array, train: bool) -> Array:
        """Normalise x [B, ..., channels], with mask [B], in the type of the parameters.

        Raises:
          ValueError: for groups of one value.
        """
        y, given = x.astype(self.param_dtype), {"param_dtype": self.param_dtype, "name": "norm"}
        if self.kind == "batch":
            y = BatchNorm(**given)(y, mask=mask, train=train)
        if self.kind == "group":
            check_groups(x.shape)
            y = nn.GroupNorm(groups_of(x.shape[-1]), use_fast_variance=False, **given)(y)
        if self.kind == "layer":
            y = nn.LayerNorm(EPSILON, use_fast_variance=False, **given)(y)
        return y.astype(x.dtype)
