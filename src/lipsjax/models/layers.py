"""Convolution lowerings and normalisation that serve many small clients.

XLA differentiates ``lax.conv_general_dilated`` into convolutions that run naively inside loops on
CPU, and ``vmap`` over kernels turns it into a grouped convolution. Slicing the patches by hand
and multiplying matrices has neither fault; ``docs/design.md`` has the figures.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lipsjax.types import Array

EPSILON = 1e-5
MOMENTUM = 0.9

he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv_patches(
    lhs: Array,
    rhs: Array,
    window_strides: tuple[int, int],
    padding: Any,
    *,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """Convolve by gathering patches with slices and multiplying once.

    Stands in for ``lax.conv_general_dilated`` in ``nn.Conv(conv_general_dilated=...)`` for plain
    two-dimensional NHWC convolutions.

    Args:
      lhs: images [N, H, W, channels].
      rhs: kernel [h, w, channels, features].
      window_strides: vertical and horizontal stride.
      padding: as for ``lax.conv_general_dilated``.
      lhs_dilation: must be absent or ones.
      rhs_dilation: must be absent or ones.
      dimension_numbers: ignored; NHWC, HWIO, NHWC.
      feature_group_count: must be 1.
      precision: of the matrix product.

    Returns:
      [N, H', W', features].

    Raises:
      ValueError: if the convolution is dilated or grouped.
    """
    del dimension_numbers
    if feature_group_count != 1 or any(
        d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ()))
    ):
        raise ValueError("conv='patches' does plain convolutions only, not dilated or grouped ones")
    h, w, channels, features = rhs.shape
    sh, sw = window_strides
    pads = (
        jax.lax.padtype_to_pads(lhs.shape[1:3], (h, w), (sh, sw), padding)
        if isinstance(padding, str)
        else padding
    )
    x = jnp.pad(lhs, ((0, 0), tuple(pads[0]), tuple(pads[1]), (0, 0)))
    out_h, out_w = (x.shape[1] - h) // sh + 1, (x.shape[2] - w) // sw + 1
    patches = [
        x[:, i : i + sh * (out_h - 1) + 1 : sh, j : j + sw * (out_w - 1) + 1 : sw, :]
        for i in range(h)
        for j in range(w)
    ]
    stacked = jnp.concatenate(patches, axis=-1).reshape(-1, h * w * channels)
    y = jnp.dot(stacked, rhs.reshape(h * w * channels, features), precision=precision)
    return y.reshape(lhs.shape[0], out_h, out_w, features)


CONVOLUTIONS: dict[str, Callable[..., Array]] = {
    "patches": conv_patches,
    "grouped": jax.lax.conv_general_dilated,
}


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
        """Normalise x [B, H, W, channels] over all but channels, with mask [B]."""
        features, dtype = x.shape[-1:], self.param_dtype
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, dtype)
        var = self.variable("batch_stats", "var", jnp.ones, features, dtype)
        scale = self.param("scale", nn.initializers.ones, features, dtype)
        bias = self.param("bias", nn.initializers.zeros, features, dtype)
        if not train:
            return (x - mean.value) * (scale * jax.lax.rsqrt(var.value + EPSILON)) + bias
        y, batch_mean, batch_var = batch_norm(x, scale, bias, mask)
        if not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * batch_mean
            var.value = MOMENTUM * var.value + (1 - MOMENTUM) * batch_var
        return y


def batch_norm(x: Array, scale: Array, bias: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Normalise by the statistics of the real examples: ``scale (x - mean) / sqrt(var) + bias``.

    Args:
      x: [B, H, W, channels].
      scale: [channels].
      bias: [channels].
      mask: [B] bool, False on padding.

    Returns:
      The normalised images, and mean and (biased) variance, [channels].
    """
    weight = mask.astype(x.dtype)[:, None, None, None]
    count = jnp.sum(weight) * x.shape[1] * x.shape[2]
    mean = jnp.sum(weight * x, axis=(0, 1, 2)) / count
    centred = x - mean
    var = jnp.sum(weight * centred * centred, axis=(0, 1, 2)) / count
    y = centred * (scale * jax.lax.rsqrt(var + EPSILON)) + bias
    return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var)


class Norm(nn.Module):
    """Normalise; padding has no part in the statistics.

    Attributes:
      kind: "batch", "group" (8 groups or fewer) or "none".
      param_dtype: type of scale and bias.
    """

    kind: str
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, mask: Array, train: bool) -> Array:
        """Normalise x [B, H, W, channels], with mask [B]."""
        if self.kind == "batch":
            return BatchNorm(self.param_dtype, name="norm")(x, mask=mask, train=train)
        if self.kind == "group":
            groups = math.gcd(x.shape[-1], 8)
            return nn.GroupNorm(groups, param_dtype=self.param_dtype, name="norm")(x)
        return x
