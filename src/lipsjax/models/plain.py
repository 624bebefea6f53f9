"""Flax modules of any origin: their layers by rule, and the arguments that they take."""

import inspect
import typing
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lipsjax.types import Array, Layer, Role

_LONGEST = 300
KERNEL = "kernel"
"""What Flax calls the weights of its layers."""


def layers_of(
    module: nn.Module, input_shape: tuple[int, ...], dtype: Any = jnp.float32
) -> tuple[Layer, ...]:
    """Return the layers of a module: what it declares, or by rule.

    A module with a method ``layers`` says itself. Of any other, every parameter that is called
    ``kernel`` is a layer's, in the order in which data meets them: the first is the stem, the last
    the classifier, those between are middle layers. It is a convolution's if its module is one.

    Args:
      module: of Flax Linen.
      input_shape: of one example.
      dtype: of inputs.

    Returns:
      The layers, stem first.

    Raises:
      ValueError: for a module with fewer than two kernels, or that cannot be called.

    Example:
      >>> hidden = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(3)])
      >>> [layer.role for layer in layers_of(hidden, (4,))]
      ['stem', 'middle', 'classifier']
    """
    declared = getattr(module, "layers", None)
    if callable(declared) and not inspect.signature(declared).parameters:
        return tuple(typing.cast(Iterable[Layer], declared()))
    found = _kernels(module, jnp.zeros((1, *input_shape), dtype))
    if len(found) < 2:
        raise ValueError(
            f"{type(module).__name__} has {len(found)} kernels; a model needs a stem and a "
            "classifier, or a method layers() that says what they are"
        )
    first, *middle, last = found
    roles: list[tuple[tuple[tuple[str, ...], bool], Role]] = [
        (first, "stem"),
        *((each, "middle") for each in middle),
        (last, "classifier"),
    ]
    return tuple(
        Layer("/".join(path), role, "conv" if is_conv else "dense", (*path, KERNEL))
        for (path, is_conv), role in roles
    )


def _kernels(module: nn.Module, inputs: Array) -> list[tuple[tuple[str, ...], bool]]:
    """Return the paths of the kernels, in the order of use, and whether each is a convolution's."""
    found: dict[tuple[str, ...], bool] = {}

    def note(call: Callable[..., Any], args, kwargs, context: nn.module.InterceptorContext):
        result = call(*args, **kwargs)
        own = context.module
        if KERNEL in own.variables.get("params", {}):
            found.setdefault(own.path, isinstance(own, nn.Conv | nn.ConvTranspose | nn.ConvLocal))
        return result

    def init(key, x):
        with nn.intercept_methods(note):
            return module.init(key, x, **arguments(module, mask=jnp.ones(1, bool)))

    traced(module, lambda key: init(key, inputs))
    return list(found.items())


def traced(module: nn.Module, init: Callable[[Array], Any]) -> Any:
    """Return the shapes of what a module begins with.

    Raises:
      ValueError: in one line, for whatever somebody's module raises.
    """
    try:
        return jax.eval_shape(init, jax.random.key(0))
    except Exception as error:  # of whatever kind
        said = " ".join(str(error).partition("-" * 20)[0].split())  # without JAX's own remarks
        raise ValueError(
            f"{type(module).__name__} cannot be called on such inputs: {type(error).__name__}: "
            f"{said[:_LONGEST]}"
        ) from error


def arguments(module: nn.Module, *, mask: Array, train: bool = False) -> dict[str, Any]:
    """Return those of ``mask`` and ``train`` that a module takes; ``deterministic`` is not train.

    >>> sorted(arguments(nn.Dropout(0.5), mask=None))
    ['deterministic']
    """
    taken = inspect.signature(module.__call__).parameters
    given = {"mask": mask, "train": train, "deterministic": not train}
    return {name: value for name, value in given.items() if name in taken}


def check_statistics(module: nn.Module, input_shape: tuple[int, ...], batch_stats: Any) -> None:
    """Refuse a module whose running statistics padding would enter, or that never renews them.

    Clients hold different numbers of examples, so that batches are filled up with padding.

    Raises:
      ValueError: naming what the module does not take.
    """
    if not jax.tree.leaves(batch_stats):
        return
    lacking = {"mask", "train"} - set(inspect.signature(module.__call__).parameters)
    if lacking:
        raise ValueError(
            f"{type(module).__name__} has running statistics and takes no {sorted(lacking)[0]}: "
            "batches are filled up with padding, which must not enter them. Give it mask= and "
            "train= and normalise by lipsjax.models.layers.BatchNorm, or use nn.GroupNorm"
        )
    inputs, mask = jnp.zeros((2, *input_shape)), jnp.ones(2, bool)
    careless = []

    def note(call: Callable[..., Any], args, kwargs, context: nn.module.InterceptorContext):
        if isinstance(context.module, nn.BatchNorm) and kwargs.get("mask") is None:
            careless.append(context.module.name)
        return call(*args, **kwargs)

    def init(key):
        with nn.intercept_methods(note):
            return module.init(key, inputs, **arguments(module, mask=mask, train=True))

    traced(module, init)
    if careless:
        raise ValueError(
            f"{type(module).__name__} hands its mask to no nn.BatchNorm ({careless[0]}), so that "
            "padding would enter its statistics: give it mask=, or use "
            "lipsjax.models.layers.BatchNorm"
        )
