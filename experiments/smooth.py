"""A network without kinks: strides for pools, x sigmoid(x) for rectifiers, no mean over places.

Attacks by matching differentiate through training, and are strongest where all of it is smooth, as
in "Deep Leakage from Gradients" (Zhu et al., arXiv 1906.08935), whose sigmoids hardly learn here.
"""

import flax.linen as nn

from lipsjax.models.convolution import CONVOLUTIONS
from lipsjax.models.layers import Dense, Norm
from lipsjax.types import Array, Layer


class SmoothNet(nn.Module):
    """Four convolutions, the first with strides, and a dense classifier.

    Attributes:
      num_classes: outputs of the classifier.
      width: channels of all convolutions.
      norm: "batch", "group" or "none", after every convolution.
    """

    num_classes: int
    width: int = 12
    norm: str = "group"

    @nn.compact
    def __call__(self, x: Array, *, mask: Array, train: bool) -> Array:
        """Return logits [B, num_classes] of images [B, H, W, C]."""
        for name, stride in zip(("stem", *self._middle()), (2, 1, 1, 1), strict=True):
            x = nn.Conv(
                self.width,
                (3, 3),
                (stride, stride),
                use_bias=self.norm == "none",
                conv_general_dilated=CONVOLUTIONS["patches"],
                name=name,
            )(x)
            x = nn.silu(Norm(self.norm, name=f"norm_{name}")(x, mask=mask, train=train))
        return Dense(self.num_classes, name="classifier")(x.reshape(len(x), -1))

    def _middle(self) -> tuple[str, ...]:
        return ("conv1", "conv2", "conv3")

    def layers(self) -> tuple[Layer, ...]:
        """Declare the layers in order."""
        middle = (Layer(name, "middle", "conv", (name, "kernel")) for name in self._middle())
        return (
            Layer("stem", "stem", "conv", ("stem", "kernel")),
            *middle,
            Layer("classifier", "classifier", "dense", ("classifier", "kernel")),
        )
