"""Build a network by name, behind one interface, ``Model(init, apply, layers)``."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lipsjax.datasets.base import INPUTS
from lipsjax.models.cnn import CNN
from lipsjax.models.convolution import CONVOLUTIONS
from lipsjax.models.mlp import MLP
from lipsjax.models.plain import arguments, check_statistics, layers_of, traced
from lipsjax.models.resnet import ResNet
from lipsjax.models.vgg import VGG
from lipsjax.models.vit import HEADS, ViT
from lipsjax.types import Array, Model, Prediction, Variables

Normalise = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel or feature, of images within 0..1 if uint8."""

USUAL_WIDTH = 32
PUBLISHED_WIDTH = 64
"""Of the first stage of a ResNet."""
RESNETS = {  # channels of the stages, blocks in each
    "resnet6": ((64, 128), 1),
    "resnet8": ((64, 128, 256), 1),
    "resnet10": ((64, 128, 256, 512), 1),
    "resnet18": ((64, 128, 256, 512), 2),
}
NAMES = ("mlp", "cnn", "conv1d", "vgg5", *RESNETS, "vit")
TAKES = {"mlp": ("images", "series", "features"), "conv1d": ("series",)}
"""What inputs a model takes; all others take images."""
NORMS = ("batch", "group", "none")
# groups of a few units have no statistics; a vit has LayerNorm, whatever is asked for
OWN_NORMS = {"mlp": ("batch", "none"), "vit": ("batch", "group")}


def usual_width(name: str) -> int:
    """Return the width of a model where none is chosen.

    >>> usual_width("cnn"), usual_width("resnet8")
    (32, 64)
    """
    return PUBLISHED_WIDTH if name in RESNETS else USUAL_WIDTH


def is_norm(path: str) -> bool:
    """Tell whether a leaf belongs to normalisation: such modules have it in their name.

    >>> is_norm("params/norm_stem/norm/scale"), is_norm("params/BatchNorm_0/bias")
    (True, True)
    >>> is_norm("params/stem/kernel")
    False
    """
    return "norm" in path.lower()


def is_bias(path: str) -> bool:
    """Tell whether a leaf is a bias."""
    return path.rsplit("/", 1)[-1] == "bias"


def from_flax(
    module: nn.Module, input_shape: tuple[int, ...], normalise: Normalise | None = None
) -> Model:
    """Turn a Flax module into a :class:`Model`.

    Args:
      module: called on inputs [B, ...] and what it takes of ``mask`` and ``train``. Its layers are
        those that a method ``layers()`` declares, or by rule (:mod:`lipsjax.models.plain`). What
        it sows as ``features`` in ``intermediates``, the input of its classifier, is read by MOON.
      input_shape: of one input: [H, W, channels], [steps, channels] or [features].
      normalise: mean and standard deviation of each channel or feature, which are then 0 and 1;
        one that never changes is shifted only. None: inputs stay as they are.

    Returns:
      The model. uint8 images are divided by 255; floating inputs are taken as they are.

    Raises:
      ValueError: for means and deviations that are not one for each channel, finite, at least 0.
    """
    shift, scale = _normalisation(normalise, input_shape[-1])
    dtype = getattr(module, "param_dtype", jnp.float32)  # inputs and logits have it too

    def prepare(inputs: Array) -> Array:
        scaled = inputs.astype(dtype)
        if jnp.issubdtype(inputs.dtype, jnp.integer):
            scaled = scaled / 255
        if normalise is None:
            return scaled
        return (scaled - jnp.asarray(shift, dtype)) / jnp.asarray(scale, dtype)

    def init(key: Array) -> Variables:
        inputs, mask = jnp.zeros((1, *input_shape), dtype), jnp.ones(1, bool)
        variables = module.init(key, inputs, **arguments(module, mask=mask))
        return Variables(variables["params"], variables.get("batch_stats", {}))

    def apply(variables: Variables, images: Array, *, mask: Array, train: bool):
        collections = {"params": variables.params, "batch_stats": variables.batch_stats}
        logits, updates = module.apply(
            collections,
            prepare(images),
            **arguments(module, mask=mask, train=train),
            mutable=["batch_stats", "intermediates"],
        )
        updates: Any = updates
        batch_stats = updates.get("batch_stats", {}) if train else variables.batch_stats
        features = updates.get("intermediates", {}).get("features", (None,))[0]
        if features is not None:
            features = features.astype(dtype)
        return Prediction(logits.astype(dtype), batch_stats, features)

    layers = layers_of(module, input_shape, dtype)
    check_statistics(module, input_shape, traced(module, init).batch_stats)
    return Model(init, apply, layers)


def _normalisation(normalise: Normalise | None, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what is subtracted, and what is then divided by, [channels] each."""
    if normalise is None:
        return np.zeros(channels), np.ones(channels)
    mean, deviation = (np.asarray(x, np.float64) for x in normalise)
    for name, values in (("mean", mean), ("deviation", deviation)):
        if values.shape != (channels,) or not np.isfinite(values).all():
            raise ValueError(
                f"normalise must have a finite {name} for each of {channels} channels, not "
                f"{values.tolist()}"
            )
    if (deviation < 0).any():
        raise ValueError(f"normalise must have deviations of at least 0, not {deviation.tolist()}")
    return mean, np.where(deviation > 0, deviation, 1.0)


def build(
    name: str,
    *,
    num_classes: int,
    input_shape: tuple[int, ...],
    width: int | None = None,
    depth: int = 3,
    norm: str = "batch",
    normalise: Normalise | None = None,
    conv: str = "loop",
    dtype: str = "float32",
    param_dtype: Any = jnp.float32,
) -> Model:
    """Build a model by name.

    Args:
      name: "mlp", which takes images, series and features; "conv1d", of series; or, of images,
        "cnn", "vgg5", "resnet6", "resnet8", "resnet10", "resnet18" or "vit".
      num_classes: outputs of the classifier.
      input_shape: of one input: images [H, W, channels], series in time [steps, channels], or
        [features].
      width: channels of the stem of the cnn and the conv1d, units of an mlp's layers, of a vit's
        tokens; the others have their own.
      depth: middle layers of an mlp, blocks of a vit; the others have their own.
      norm: "batch", "group" or "none"; of an mlp not "group", and of a vit, which has LayerNorm
        whatever it is, not "none".
      normalise: mean and standard deviation of each channel or feature, see :func:`from_flax`.
      conv: convolution lowering: "loop" (for CPU), "patches" or "grouped".
      dtype: "float32", or "bfloat16" for the arithmetic of layers alone.
      param_dtype: type of parameters, statistics of normalisation, logits, and of arithmetic.

    Returns:
      A :class:`Model`.

    Raises:
      ValueError: for a value that is not among these, or inputs that the model cannot take.

    Example:
      >>> model = build("cnn", num_classes=10, input_shape=(8, 8, 1), width=4)
      >>> [layer.name for layer in model.layers]
      ['stem', 'conv1', 'conv2', 'conv3', 'classifier']
    """
    if name not in NAMES:
        raise ValueError(f"model must be one of {', '.join(NAMES)}, not {name!r}")
    _check_inputs(name, input_shape)
    if width is None:
        width = usual_width(name)
    _check(name, width, depth, norm, conv, dtype)
    lowering = CONVOLUTIONS[conv]
    types = {"param_dtype": param_dtype, "dtype": jnp.bfloat16 if dtype == "bfloat16" else None}
    if name == "mlp":
        module = MLP(num_classes, width, depth, norm, **types)
    elif name == "cnn":
        module = CNN(num_classes, width, norm, lowering, **types)
    elif name == "conv1d":
        series = {"kernel": (5, 1), "pool": (2, 1)}
        module = CNN(num_classes, width, norm, lowering, **series, **types)
    elif name == "vgg5":
        module = VGG(num_classes, norm, lowering, **types)
    elif name == "vit":
        module = ViT(num_classes, width, depth, **types)
    else:
        stages, blocks = RESNETS[name]
        stages = tuple(width * channels // PUBLISHED_WIDTH for channels in stages)
        module = ResNet(num_classes, stages, blocks, norm, lowering, **types)
    return from_flax(module, input_shape, normalise)


def _check(
    name: str,
    width: int,
    depth: int,
    norm: str,
    conv: str,
    dtype: str,
) -> None:
    """Refuse what cannot be built."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
    allowed = OWN_NORMS.get(name, NORMS)
    if norm not in allowed:
        raise ValueError(f"norm of {name} must be one of {', '.join(allowed)}, not {norm!r}")
    if conv not in CONVOLUTIONS:
        raise ValueError(f"conv must be one of {', '.join(CONVOLUTIONS)}, not {conv!r}")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be one of float32, bfloat16, not {dtype!r}")
    for what, value in (("width", width), ("depth", depth)):
        if value < 1:
            raise ValueError(f"{what} must be at least 1, not {value}")
    if name == "vit" and width % HEADS:
        raise ValueError(f"width of vit must be a multiple of its {HEADS} heads, not {width}")


def _check_inputs(name: str, input_shape: tuple[int, ...]) -> None:
    """Refuse inputs that a model cannot take, or that are too small for its pools."""
    kind = INPUTS.get(1 + len(input_shape))
    if kind is None or min(input_shape) < 1:
        raise ValueError(
            "input_shape must be [H, W, channels] of images, [steps, channels] of series or "
            f"[features], of sizes of at least 1, not {list(input_shape)}"
        )
    if kind not in TAKES.get(name, ("images",)):
        able = [other for other in NAMES if kind in TAKES.get(other, ("images",))]
        raise ValueError(
            f"{name} does not take {kind}, here of shape {list(input_shape)}; models that do are "
            f"{', '.join(able)}"
        )
    least = {"mlp": 1, "vit": 1}.get(name, 4)
    if kind == "series" and input_shape[0] < least:
        raise ValueError(f"series must have at least 4 steps for {name}, not {input_shape[0]}")
    if kind == "images" and min(input_shape[:2]) < least:
        height, breadth = input_shape[:2]
        raise ValueError(f"images must be at least 4 x 4 for {name}, not {height} x {breadth}")
