"""A small vision transformer (Dosovitskiy et al., 2010.11929), every kernel a matrix."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lipsjax.models.layers import Dense, Norm
from lipsjax.types import Array, Layer

HEADS = 4
MOST_PATCHES = 64
PARTS = ("query", "key", "value", "out", "mlp1", "mlp2")


def patch_size(height: int, width: int) -> int:
    """Return the smallest power of two, from 2, whose patches are at most 64.

    >>> [patch_size(side, side) for side in (8, 28, 32, 64)]
    [2, 4, 4, 8]
    """
    size = 2
    while math.ceil(height / size) * math.ceil(width / size) > MOST_PATCHES:
        size *= 2
    return size


def to_patches(x: Array, size: int) -> Array:
    """Cut images into patches: [B, H, W, C] -> [B, patches, size * size * C].

    Where patches do not tile an image, zeros stand below it and to its right.

    >>> to_patches(jnp.arange(6.0).reshape(1, 2, 3, 1), 2).tolist()
    [[[0.0, 1.0, 3.0, 4.0], [2.0, 0.0, 5.0, 0.0]]]
    """
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % size), (0, -w % size), (0, 0)))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    x = x.reshape(b, rows, size, columns, size, c).swapaxes(2, 3)
    return x.reshape(b, rows * columns, size * size * c)


class Stem(nn.Module):
    """Embed patches [B, patches, values] and add to each what is learned of its position."""

    width: int
    param_dtype: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return tokens [B, patches, width]."""
        x = Dense(self.width, param_dtype=self.param_dtype, dtype=self.dtype, name="patches")(x)
        shape = (x.shape[1], self.width)
        position = self.param("position", nn.initializers.normal(0.02), shape, self.param_dtype)
        return x + position.astype(x.dtype)


class ViT(nn.Module):
    """Embedded patches, blocks of attention and two dense layers, mean over patches, classifier.

    LayerNorm stands before the attention, before the dense layers and before the mean; the inner
    width of the dense layers is four times the outer, with GELU between. Patches are of
    :func:`patch_size`.

    Attributes:
      num_classes: outputs of the classifier.
      width: of a token; a multiple of the 4 heads.
      depth: blocks.
      param_dtype: type of parameters.
      dtype: of arithmetic; None: that of the parameters.
    """

    num_classes: int
    width: int
    depth: int
    param_dtype: Any = jnp.float32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, mask: Array, train: bool) -> Array:
        """Return logits [B, num_classes] of images [B, H, W, channels]."""
        types = {"param_dtype": self.param_dtype, "dtype": self.dtype}

        def dense(name, y, features=self.width):
            init = nn.initializers.xavier_uniform()
            return Dense(features, kernel_init=init, name=name, **types)(y)

        def norm(name, y):
            # named as the first layer that reads it
            return Norm("layer", self.param_dtype, name=f"norm_{name}")(y, mask=mask, train=train)

        def attend(block, y):
            query, key, value = (
                dense(f"{block}_{part}", y).reshape(*y.shape[:2], HEADS, -1)
                for part in ("query", "key", "value")
            )
            rounded = y.dtype == jnp.bfloat16
            y = nn.dot_product_attention(query, key, value, force_fp32_for_softmax=rounded)
            return dense(f"{block}_out", y.reshape(x.shape))

        x = Stem(self.width, name="stem", **types)(to_patches(x, patch_size(*x.shape[1:3])))
        for i in range(1, self.depth + 1):
            block = f"block{i}"
            x = x + attend(block, norm(f"{block}_query", x))
            y = dense(f"{block}_mlp1", norm(f"{block}_mlp1", x), 4 * self.width)
            x = x + dense(f"{block}_mlp2", nn.gelu(y))
        x = norm("classifier", x).mean(axis=1)
        self.sow("intermediates", "features", x)
        return Dense(self.num_classes, name="classifier", **types)(x)

    def layers(self) -> tuple[Layer, ...]:
        """Declare the layers in order."""
        middle = [f"block{i}_{part}" for i in range(1, self.depth + 1) for part in PARTS]
        return (
            Layer("stem", "stem", "dense", ("stem", "patches", "kernel")),
            *(Layer(name, "middle", "dense", (name, "kernel")) for name in middle),
            Layer("classifier", "classifier", "dense", ("classifier", "kernel")),
        )
