"""Networks behind one interface, ``Model(init, apply, layers)``."""

from lipsjax.models.build import Normalise, build, from_flax, is_bias, is_norm
from lipsjax.models.cnn import CNN
from lipsjax.models.mlp import MLP
from lipsjax.models.resnet import ResNet
from lipsjax.models.vgg import VGG
from lipsjax.models.vit import ViT

__all__ = [
    "CNN",
    "MLP",
    "VGG",
    "Normalise",
    "ResNet",
    "ViT",
    "build",
    "from_flax",
    "is_bias",
    "is_norm",
]
