"""A multilayer perceptron: a stem on the flattened input, equal middle layers, a classifier."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lipsjax.models.layers import Dense, Norm
from lipsjax.types import Array, Layer


class MLP(nn.Module):
    """Dense layers of equal width with ReLU, and a classifier.

    Attributes:
      num_classes: outputs of the classifier.
      width: units of the stem and of every middle layer.
      depth: middle layers.
      norm: "batch" or "none", after every layer but the classifier.
      param_dtype: type of parameters.
      dtype: of arithmetic; None: that of the parameters.
    """

    num_classes: int
    width: int
    depth: int
    norm: str
    param_dtype: Any = jnp.float32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, mask: Array, train: bool) -> Array:
        """Return logits [B, num_classes] of inputs [B, ...]."""
        x = x.reshape(len(x), -1)
        for name in ("stem", *self._middle()):
            x = Dense(
                self.width,
                use_bias=self.norm == "none",
                kernel_init=nn.initializers.he_normal(),
                param_dtype=self.param_dtype,
                dtype=self.dtype,
                name=name,
            )(x)
            x = Norm(self.norm, self.param_dtype, name=f"norm_{name}")(x, mask=mask, train=train)
            x = nn.relu(x)
        self.sow("intermediates", "features", x)
        return Dense(
            self.num_classes, param_dtype=self.param_dtype, dtype=self.dtype, name="classifier"
        )(x)

    def _middle(self) -> list[str]:
        return [f"dense{i}" for i in range(1, self.depth + 1)]

    def layers(self) -> tuple[Layer, ...]:
        """Declare the layers in order."""
        return (
            Layer("stem", "stem", "dense", ("stem", "kernel")),
            *(Layer(name, "middle", "dense", (name, "kernel")) for name in self._middle()),
            Layer("classifier", "classifier", "dense", ("classifier", "kernel")),
        )
