"""Networks behind one interface, ``Model(init, apply, layers)``."""

from lipsjax.models.build import (
    RESNETS,
    Normalise,
    build,
    from_flax,
    is_bias,
    is_norm,
    usual_width,
)
from lipsjax.models.cnn import CNN
from lipsjax.models.mlp import MLP
from lipsjax.models.resnet import ResNet
from lipsjax.models.vgg import VGG
from lipsjax.models.vit import ViT

__all__ = [
    "CNN",
    "MLP",
    "RESNETS",
    "VGG",
    "Normalise",
    "ResNet",
    "ViT",
    "build",
    "from_flax",
    "is_bias",
    "is_norm",
    "usual_width",
]
