"""The network of "Deep Leakage from Gradients": sigmoids, and weights that are wide apart."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lipsjax.models import from_flax
from lipsjax.models.convolution import CONVOLUTIONS
from lipsjax.types import Variables


class SigmoidNet(nn.Module):
    """Two strided convolutions and a dense classifier, all with sigmoids between."""

    classes: int = 10
    width: int = 12
    param_dtype: type = jnp.float64

    @nn.compact
    def __call__(self, x):
        """Return logits [B, classes]."""

        def wide(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -0.5, 0.5)

        draws = {"kernel_init": wide, "bias_init": wide, "param_dtype": self.param_dtype}
        for i, stride in enumerate((2, 1)):
            conv = nn.Conv(
                self.width,
                (5, 5),
                (stride, stride),
                conv_general_dilated=CONVOLUTIONS["patches"],  # a vmap of others is slow on CPU
                name=f"conv{i}",
                **draws,
            )
            x = nn.sigmoid(conv(x))
        x = x.reshape(len(x), -1)
        return nn.Dense(self.classes, name="classifier", **draws)(x)


def sigmoid_model(classes=10):
    """Return it as a model of 8x8 images."""
    return from_flax(SigmoidNet(classes), (8, 8, 1))


def as_variables(params):
    """Return parameters as variables without statistics."""
    return Variables(params, {})
