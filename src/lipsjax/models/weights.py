"""Weights in and out of safetensors files, in this package's names and in PyTorch's.

PyTorch keeps a convolution as [out, in, height, width], a linear layer as [out, in], and of a
flattened feature map the channels first; Flax keeps [height, width, in, out], [in, out], and the
channels last. Of batch normalisation PyTorch calls the scale ``weight``, and the running statistics
``running_mean`` and ``running_var``.

References:
  https://huggingface.co/docs/safetensors, its section Format; torch.nn.Conv2d, Linear and
  BatchNorm2d of PyTorch's documentation.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from lipsjax import tree
from lipsjax.models.build import RESNETS
from lipsjax.types import Variables

Layout = Literal["flax", "torch"]
_TORCH = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
"""Collection and name of a parameter -> what PyTorch calls it."""
_COUNTS = "num_batches_tracked"
"""What PyTorch counts beside running statistics, and nothing here reads."""
_RANKS = (2, 4)
"""Dimensions of kernels whose layout in PyTorch is known: of dense layers and of convolutions."""
_MOST_LISTED = 4


class Weights(NamedTuple):
    """The arrays of a file."""

    arrays: dict[str, np.ndarray]
    where: str  # what messages call it


def read(path: str | Path) -> Weights:
    """Read a safetensors file.

    Raises:
      ValueError: if it cannot be read, or the package safetensors is not installed.
    """
    load = _safetensors("load")
    path = Path(path).expanduser()
    try:
        if not path.is_file():
            raise ValueError("no such file")
        arrays = load(path.read_bytes())
    except Exception as error:  # the package has errors of its own
        said = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise ValueError(f"{path} cannot be read: {said}; it must be a safetensors file") from None
    return Weights(arrays, str(path))


def load(path: str | Path, like: Variables, name: str, input_shape: tuple[int, ...]) -> Variables:
    """Return the variables of a model with the values of a file.

    Args:
      path: of a safetensors file, whose names are this package's, torchvision's of a ResNet, or
        the model's paths with dots and PyTorch's words, as :func:`to_arrays` makes them.
      like: the model's own, or their shapes and types.
      name: of the model.
      input_shape: of one example.

    Raises:
      ValueError: as :func:`read` and :func:`from_arrays`.
    """
    file = read(path)
    names, flattened = conventions(name, input_shape)
    modules = {each.rpartition(".")[0] for each in file.arrays}
    if not modules & set(names.values()):
        names = {}
    return from_arrays(file, like, names=names, flattened=flattened)


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a safetensors file.

    Raises:
      ValueError: if the package safetensors is not installed.
      OSError: if it cannot be written.
    """
    content = _safetensors("save")({n: np.ascontiguousarray(x) for n, x in arrays.items()})
    Path(path).expanduser().write_bytes(content)


def _safetensors(name: str) -> Any:
    try:
        from safetensors import numpy
    except ImportError:
        raise ValueError(
            "weights are read and written by the package safetensors: "
            "pip install 'lipsjax[weights]'"
        ) from None
    return getattr(numpy, name)


def to_arrays(
    variables: Variables,
    *,
    layout: Layout = "flax",
    names: Mapping[str, str] | None = None,
    flattened: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, np.ndarray]:
    """Return parameters and running statistics by name.

    Args:
      variables: of a model.
      layout: "flax", as they are, named ``params/stem/kernel``; or "torch".
      names: of layout "torch": path of a module -> what PyTorch calls it; others are called by
        their path, with dots.
      flattened: of layout "torch": path of a dense layer -> [H, W, C] of the features that it
        reads flattened.

    Returns:
      Arrays on the host.

    Example:
      >>> found = Variables({"head": {"kernel": np.zeros((3, 2))}}, {})
      >>> {name: x.shape for name, x in to_arrays(found, layout="torch").items()}
      {'head.weight': (2, 3)}
    """
    found = {}
    for path, value in _leaves(variables).items():
        if layout == "flax":
            found[path] = np.asarray(value)
        else:
            shape = (flattened or {}).get(_module(path))
            found[_torch_name(path, names or {})] = _to_torch(path, np.asarray(value), shape)
    return found


def from_arrays(
    weights: Weights,
    like: Variables,
    *,
    names: Mapping[str, str] | None = None,
    flattened: Mapping[str, tuple[int, ...]] | None = None,
) -> Variables:
    """Return the variables of a model with the values of a file.

    The layout is that of which the file has names: this package's, or PyTorch's.

    Args:
      weights: of the file.
      like: the model's own, or their shapes and types.
      names: as in :func:`to_arrays`.
      flattened: as in :func:`to_arrays`.

    Returns:
      Arrays of the shapes and types of ``like``.

    Raises:
      ValueError: naming arrays that the file lacks, or that nobody reads, that have another shape,
        or that hold NaN or infinity.

    Example:
      >>> like = Variables({"head": {"kernel": np.zeros((3, 2), np.float32)}}, {})
      >>> file = Weights({"head.weight": np.arange(6.0).reshape(2, 3)}, "mine")
      >>> from_arrays(file, like).params["head"]["kernel"].tolist()
      [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """
    arrays = {n: x for n, x in weights.arrays.items() if n.rpartition(".")[2] != _COUNTS}
    own = _leaves(like)
    is_flax = bool(own.keys() & arrays.keys())
    called = {path: path if is_flax else _torch_name(path, names or {}) for path in own}
    lacking = [called[path] for path in own if called[path] not in arrays]
    if lacking:
        raise ValueError(
            f"{weights.where} lacks {_listed(lacking)}; it holds {_listed(sorted(arrays))}"
        )
    unread = sorted(arrays.keys() - called.values())
    if unread:
        raise ValueError(f"{weights.where} holds {_listed(unread)}, which the model does not have")
    values = []
    for path, leaf in own.items():
        value = arrays[called[path]]
        if not is_flax:
            value = _from_torch(path, value, (flattened or {}).get(_module(path)), leaf.shape)
        if value.shape != leaf.shape:
            raise ValueError(
                f"{weights.where}: {called[path]} makes {value.shape}, and the model has "
                f"{tuple(leaf.shape)}"
            )
        if not np.isfinite(value).all():
            raise ValueError(f"{weights.where}: {called[path]} holds NaN or infinity")
        values.append(value.astype(leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(like), values)


def conventions(
    name: str, input_shape: tuple[int, ...]
) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Return what PyTorch calls the modules of one of the package's models, and what is flattened.

    Args:
      name: of the model.
      input_shape: of one example.

    Returns:
      Names and flattened shapes, as :func:`to_arrays` takes them.

    Example:
      >>> conventions("resnet8", (32, 32, 3))[0]["stem"], conventions("mlp", (8, 8, 3))[1]
      ('conv1', {'stem': (8, 8, 3)})
    """
    if name in RESNETS:
        stages, blocks = RESNETS[name]
        return torchvision_names(len(stages), blocks), {}
    return {}, {"stem": input_shape} if name == "mlp" and len(input_shape) > 1 else {}


def torchvision_names(stages: int, blocks: int) -> dict[str, str]:
    """Return what torchvision calls the modules of a ResNet of basic blocks.

    Args:
      stages: number of them; each but the first begins with a shortcut.
      blocks: in each stage.

    Example:
      >>> torchvision_names(2, 1)["norm_block2_shortcut/norm"]
      'layer2.0.downsample.1'
    """
    found = {"stem": "conv1", "norm_stem/norm": "bn1", "classifier": "fc"}
    for stage in range(stages):
        for block in range(blocks):
            ours = f"block{stage * blocks + block + 1}"
            theirs = f"layer{stage + 1}.{block}"
            for i in (1, 2):
                found[f"{ours}_conv{i}"] = f"{theirs}.conv{i}"
                found[f"norm_{ours}_conv{i}/norm"] = f"{theirs}.bn{i}"
            if stage and not block:
                found[f"{ours}_shortcut"] = f"{theirs}.downsample.0"
                found[f"norm_{ours}_shortcut/norm"] = f"{theirs}.downsample.1"
    return found


def _leaves(variables: Variables) -> dict[str, Any]:
    """Return leaves by path, ``params/stem/kernel``, in the order of the tree."""
    return tree.pick(variables, lambda path: True)


def _module(path: str) -> str:
    """Return the path of the module that a leaf belongs to.

    >>> _module("params/block1/conv/kernel")
    'block1/conv'
    """
    return path.partition("/")[2].rpartition("/")[0]


def _torch_name(path: str, names: Mapping[str, str]) -> str:
    collection, leaf = path.partition("/")[0], path.rpartition("/")[2]
    module = _module(path)
    kind = _TORCH.get((collection, leaf), leaf)
    return f"{names.get(module, module.replace('/', '.'))}.{kind}"


def _to_torch(path: str, value: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    if not path.endswith("/kernel"):
        return value
    if value.ndim not in _RANKS:
        raise ValueError(
            f"{path} has {value.ndim} dimensions, for which there is no layout of PyTorch here; "
            "allowed are kernels of dense layers and of convolutions in two dimensions"
        )
    if value.ndim == 2 and shape is not None:  # [H W C, out] -> [out, C H W]
        parted = value.reshape(*shape, -1)
        return np.moveaxis(parted, (-1, -2), (0, 1)).reshape(value.shape[1], -1)
    return np.moveaxis(value, (-1, -2), (0, 1))


def _from_torch(
    path: str, value: np.ndarray, shape: tuple[int, ...] | None, wanted: tuple[int, ...]
) -> np.ndarray:
    if not path.endswith("/kernel") or value.ndim != len(wanted):
        return value
    if value.ndim == 2 and shape is not None and value.shape[1] == math.prod(shape):
        *space, channels = shape
        parted = value.reshape(-1, channels, *space)
        return np.moveaxis(parted, (0, 1), (-1, -2)).reshape(-1, len(value))
    return np.moveaxis(value, (0, 1), (-1, -2))


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
