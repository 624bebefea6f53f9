"""ResNets: 6, 8 and 10 as the published LIPS code builds them (arXiv 2506.00932), and 18."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lipsjax.models.layers import Dense, Norm, he_normal_fan_out, uniform_within
from lipsjax.models.pooling import max_pool
from lipsjax.types import Array, Layer


class ResNet(nn.Module):
    """7x7/2 stem, BN, ReLU, 3x3/2 max-pool, stages of basic blocks, global pool, classifier.

    With batch normalisation and stages (64, 128, 256) of one block this is ResNet-8: 1,235,274
    parameters for 3 channels and 10 classes. Stages (64, 128, 256, 512) of two blocks are ResNet-18
    (He et al., 1512.03385).

    Attributes:
      num_classes: outputs of the classifier.
      stages: channels of the blocks; every stage but the first halves the resolution.
      blocks: in each stage.
      norm: "batch", "group" or "none", after every convolution.
      conv: stands in for ``lax.conv_general_dilated``.
      param_dtype: type of parameters.
      dtype: of arithmetic; None: that of the parameters.
    """

    num_classes: int
    stages: tuple[int, ...]
    blocks: int
    norm: str
    conv: Callable[..., Array]
    param_dtype: Any = jnp.float32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, mask: Array, train: bool) -> Array:
        """Return logits [B, num_classes] of images [B, H, W, channels]."""

        def conv(features, size, stride, name, padding):
            return nn.Conv(
                features,
                (size, size),
                strides=(stride, stride),
                padding=padding,
                use_bias=self.norm == "none",
                kernel_init=he_normal_fan_out,
                conv_general_dilated=self.conv,
                param_dtype=self.param_dtype,
                dtype=self.dtype,
                name=name,
            )

        def norm(name, y):
            return Norm(self.norm, self.param_dtype, name=name)(y, mask=mask, train=train)

        x = nn.relu(norm("norm_stem", conv(self.stages[0], 7, 2, "stem", 3)(x)))
        x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block, features, stride in self._blocks():
            y = conv(features, 3, stride, f"{block}_conv1", 1)(x)
            y = nn.relu(norm(f"norm_{block}_conv1", y))
            y = norm(f"norm_{block}_conv2", conv(features, 3, 1, f"{block}_conv2", 1)(y))
            if stride != 1:
                x = conv(features, 1, stride, f"{block}_shortcut", 0)(x)
                x = norm(f"norm_{block}_shortcut", x)
            x = nn.relu(x + y)
        x = x.mean(axis=(1, 2))
        self.sow("intermediates", "features", x)
        bound = x.shape[-1] ** -0.5
        return Dense(
            self.num_classes,
            kernel_init=uniform_within(bound),
            bias_init=uniform_within(bound),
            param_dtype=self.param_dtype,
            dtype=self.dtype,
            name="classifier",
        )(x)

    def _blocks(self) -> list[tuple[str, int, int]]:
        """Return name, channels and stride of every block."""
        each = [
            (features, 2 if stage and not block else 1)
            for stage, features in enumerate(self.stages)
            for block in range(self.blocks)
        ]
        return [(f"block{i}", *block) for i, block in enumerate(each, start=1)]

    def layers(self) -> tuple[Layer, ...]:
        """Declare the layers in order."""
        names = [
            f"{block}_{part}"
            for block, _, stride in self._blocks()
            for part in (("conv1", "conv2") if stride == 1 else ("conv1", "conv2", "shortcut"))
        ]
        return (
            Layer("stem", "stem", "conv", ("stem", "kernel")),
            *(Layer(name, "middle", "conv", (name, "kernel")) for name in names),
            Layer("classifier", "classifier", "dense", ("classifier", "kernel")),
        )
