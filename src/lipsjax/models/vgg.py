"""The five convolutions that the published LIPS code calls vgg11_bn (arXiv 2506.00932)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lipsjax.models.layers import Dense, Norm, he_normal_fan_out
from lipsjax.models.pooling import max_pool
from lipsjax.types import Array, Layer

CHANNELS = {"stem": 64, "conv1": 128, "conv2": 256, "conv3": 512, "conv4": 512}
CLASSIFIER_DEVIATION = 0.01
"""Of the classifier's initial weights, as published; its bias begins at zero."""


class VGG(nn.Module):
    """3x3 convolutions with biases, each normalised and halved by a max-pool; a classifier.

    With batch normalisation it has 3,918,858 parameters for 3 channels and 10 classes. Pools round
    up, which leaves images of 32 x 32 a single pixel and smaller ones no less; of larger ones the
    mean over pixels is classified.

    Attributes:
      num_classes: outputs of the classifier.
      norm: "batch", "group" or "none", after every convolution.
      conv: stands in for ``lax.conv_general_dilated``.
      param_dtype: type of parameters.
      dtype: of arithmetic; None: that of the parameters.
    """

    num_classes: int
    norm: str
    conv: Callable[..., Array]
    param_dtype: Any = jnp.float32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, mask: Array, train: bool) -> Array:
        """Return logits [B, num_classes] of images [B, H, W, channels]."""
        for name, features in CHANNELS.items():
            x = nn.Conv(
                features,
                (3, 3),
                kernel_init=he_normal_fan_out,
                conv_general_dilated=self.conv,
                param_dtype=self.param_dtype,
                dtype=self.dtype,
                name=name,
            )(x)
            x = Norm(self.norm, self.param_dtype, name=f"norm_{name}")(x, mask=mask, train=train)
            x = max_pool(nn.relu(x), (2, 2), (2, 2), "SAME")
        x = x.mean(axis=(1, 2))
        self.sow("intermediates", "features", x)
        return Dense(
            self.num_classes,
            kernel_init=nn.initializers.normal(CLASSIFIER_DEVIATION),
            param_dtype=self.param_dtype,
            dtype=self.dtype,
            name="classifier",
        )(x)

    def layers(self) -> tuple[Layer, ...]:
        """Declare the layers in order."""
        stem, *middle = CHANNELS
        return (
            Layer(stem, "stem", "conv", (stem, "kernel")),
            *(Layer(name, "middle", "conv", (name, "kernel")) for name in middle),
            Layer("classifier", "classifier", "dense", ("classifier", "kernel")),
        )
