"""A small convolutional network of images or series: stem, three middle layers, classifier."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lipsjax.models.layers import Dense, Norm, he_normal_fan_out
from lipsjax.models.pooling import max_pool
from lipsjax.types import Array, Layer


class CNN(nn.Module):
    """Stem, pool, conv1, conv2, pool, conv3, global average pool, classifier; same padding.

    A series is convolved as an image of one column, with kernels [5, 1, C, O], so that all
    lowerings of convolution, counts and masks are those of images.

    Attributes:
      num_classes: outputs of the classifier.
      width: channels of the stem; the middle has twice as many.
      norm: "batch", "group" or "none", after every convolution.
      conv: stands in for ``lax.conv_general_dilated``.
      param_dtype: type of parameters.
      dtype: of arithmetic; None: that of the parameters.
      kernel: height and width of all convolutions.
      pool: height and width, and strides, of max-pooling.
    """

    num_classes: int
    width: int
    norm: str
    conv: Callable[..., Array]
    param_dtype: Any = jnp.float32
    dtype: Any = None
    kernel: tuple[int, int] = (3, 3)
    pool: tuple[int, int] = (2, 2)

    @nn.compact
    def __call__(self, x: Array, *, mask: Array, train: bool) -> Array:
        """Return logits [B, classes] of images [B, H, W, C] or series [B, steps, C]."""
        x = x.reshape(*x.shape[:2], -1, x.shape[-1])  # images are that already
        widths = {"stem": self.width, **dict.fromkeys(("conv1", "conv2", "conv3"), 2 * self.width)}
        for name, features in widths.items():
            x = nn.Conv(
                features,
                self.kernel,
                use_bias=self.norm == "none",
                kernel_init=he_normal_fan_out,
                conv_general_dilated=self.conv,
                param_dtype=self.param_dtype,
                dtype=self.dtype,
                name=name,
            )(x)
            x = Norm(self.norm, self.param_dtype, name=f"norm_{name}")(x, mask=mask, train=train)
            x = nn.relu(x)
            if name in ("stem", "conv2"):
                x = max_pool(x, self.pool, self.pool)
        x = x.mean(axis=(1, 2))
        self.sow("intermediates", "features", x)
        return Dense(
            self.num_classes, param_dtype=self.param_dtype, dtype=self.dtype, name="classifier"
        )(x)

    def layers(self) -> tuple[Layer, ...]:
        """Declare the layers in order."""
        middle = tuple(
            Layer(name, "middle", "conv", (name, "kernel")) for name in ("conv1", "conv2", "conv3")
        )
        return (
            Layer("stem", "stem", "conv", ("stem", "kernel")),
            *middle,
            Layer("classifier", "classifier", "dense", ("classifier", "kernel")),
        )
