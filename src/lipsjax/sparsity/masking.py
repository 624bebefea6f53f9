"""Choosing a client's mask from scores, and applying it: pure functions of kernels."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax import tree
from lipsjax.sparsity.criteria import Criterion
from lipsjax.sparsity.topk import pack, topk_mask, unpack
from lipsjax.types import Array, Kernels, Layer, Variables, middle_layers


def score_kernels(
    criterion: Criterion, kernels: Kernels, gradients: Kernels | None, key: Array
) -> Kernels:
    """Score every weight; each layer draws from a key of its own.

    Args:
      criterion: of :mod:`lipsjax.sparsity.criteria`.
      kernels: the masked layers' weights.
      gradients: of the same shapes; None if the criterion reads none.
      key: consumed.

    Returns:
      Scores in the shapes of the kernels, not negative.
    """
    given = (None,) * len(kernels) if gradients is None else gradients
    return tuple(
        criterion(w, g, jax.random.fold_in(key, i))
        for i, (w, g) in enumerate(zip(kernels, given, strict=True))
    )


def choose(scores: Kernels, kept: Array) -> Kernels:
    """Choose which weights are kept: the largest scores, ties by index.

    Args:
      scores: by masked layer.
      kept: [layers] int32, how many of each layer; or [1], how many of all together.

    Returns:
      Packed masks, uint8 [ceil(size / 8)] by masked layer.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = (jnp.array([1.0, 4.0]), jnp.array([2.0, 3.0]))
      >>> [unpack(b, (2,)).tolist() for b in choose(scores, jnp.array([1, 1]))]
      [[False, True], [False, True]]
      >>> [unpack(b, (2,)).tolist() for b in choose(scores, jnp.array([3]))]
      [[False, True], [True, True]]
    """
    if len(kept) == len(scores):
        return tuple(pack(topk_mask(s.ravel(), k)) for s, k in zip(scores, kept, strict=True))
    together = topk_mask(jnp.concatenate([s.ravel() for s in scores]), kept[0])
    ends = np.cumsum([s.size for s in scores])[:-1]
    return tuple(pack(mask) for mask in jnp.split(together, ends))


def choose_smallest(scores: Kernels, kept: Array) -> Kernels:
    """Choose which weights are kept: the smallest scores, else as :func:`choose`.

    >>> [unpack(b, (2,)).tolist() for b in choose_smallest((jnp.array([1.0, 4.0]),), [1])]
    [[True, False]]
    """
    return choose(tuple(1 / s for s in scores), kept)


def refill_source(refill: str, initial: Kernels) -> Kernels:
    """Return what the server keeps for a refill: nothing, initial values, or their deviations."""
    return {"zero": (), "init": initial, "noise": tuple(jnp.std(w) for w in initial)}[refill]


def refill_values(refill: str, source: Kernels, kernels: Kernels, key: Array) -> Kernels:
    """Return what masked weights are set to; noise is the same in every precision."""
    if refill == "zero":
        return jax.tree.map(jnp.zeros_like, kernels)
    if refill == "init":
        return source
    keys = jax.random.split(key, len(kernels))
    return tuple(
        std * jax.random.normal(k, w.shape, jnp.float32).astype(w.dtype)
        for std, k, w in zip(source, keys, kernels, strict=True)
    )


def apply_masks(bits: Kernels, kernels: Kernels, filled: Kernels) -> Kernels:
    """Return ``m * w + (1 - m) * refill`` by masked layer."""
    return tuple(
        jnp.where(unpack(b, w.shape), w, f) for b, w, f in zip(bits, kernels, filled, strict=True)
    )


def with_old(
    layers: tuple[Layer, ...], where: Kernels, old: Variables, new: Variables
) -> Variables:
    """Return a new model some of whose weights are as before.

    >>> layers = (Layer("a", "middle", "conv", ("a",)),)
    >>> old, new = (Variables({"a": jnp.array(x)}, {}) for x in ([1.0, 2.0], [0.0, 3.0]))
    >>> with_old(layers, (jnp.array([True, False]),), old, new).params["a"].tolist()
    [1.0, 3.0]
    """
    before, now = (tree.kernels(each.params, layers) for each in (old, new))
    values = jax.tree.map(jnp.where, where, before, now)
    return new._replace(params=tree.with_kernels(new.params, layers, values))


def maskable(layers: tuple[Layer, ...], kinds: tuple[str, ...] | None) -> tuple[Layer, ...]:
    """Return the middle layers of some kinds; None: the convolutions, or if there is none, all.

    Raises:
      ValueError: for a kind that does not exist, or if there is no such layer.

    Example:
      >>> hidden = Layer("hidden", "middle", "dense", ("hidden", "kernel"))
      >>> [layer.name for layer in maskable((hidden,), None)]
      ['hidden']
    """
    check_kinds(kinds)
    middle = middle_layers(layers)
    present = sorted({layer.kind for layer in middle})
    wanted = present[:1] if kinds is None else kinds  # conv comes first
    masked = tuple(layer for layer in middle if layer.kind in wanted)
    if not masked:
        allowed = f"kinds must name some of {present}" if present else "none is left to be masked"
        named = "" if kinds is None else f" of kind {list(kinds)}"
        raise ValueError(f"nothing to mask: the model has no middle layer{named}; {allowed}")
    return masked


def check_kinds(kinds: tuple[str, ...] | None) -> None:
    """Raise ValueError for a kind of layers that does not exist."""
    for kind in kinds or ():
        check_choice("kinds", kind, ("conv", "dense"))


def check_choice(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Raise ValueError if a value is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
