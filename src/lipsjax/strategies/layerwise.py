"""Which leaves belong to which layer, and optimizers that leave some leaves alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lipsjax import tree
from lipsjax.types import Array, Layer, PyTree


def layer_index(path: str, layers: Sequence[Layer]) -> int | None:
    """Return which layer a leaf belongs to: its kernel, bias, or normalisation; None if to none.

    Modules of normalisation are named as their layer, with ``norm_`` before it.

    >>> stem = Layer("stem", "stem", "conv", ("stem", "kernel"))
    >>> paths = "params/stem/bias", "batch_stats/norm_stem/norm/mean", "params/a"
    >>> [layer_index(path, [stem]) for path in paths]
    [0, 0, None]
    """
    _, module, *_ = path.split("/")
    names = [layer.path[0] for layer in layers]
    name = module.removeprefix("norm_")
    return names.index(name) if name in names else None


def is_head(layers: Sequence[Layer]) -> Callable[[str], bool]:
    """Return the predicate of the leaves of the classifier.

    Raises:
      ValueError: for layers without a classifier.
    """
    head = [layer for layer in layers if layer.role == "classifier"]
    if not head:
        raise ValueError("the model declares no classifier, which is the personal part here")
    return lambda path: layer_index(path, head) is not None


def leaf_paths(params: PyTree) -> PyTree:
    """Return the path of every leaf of params, as ``params/a/b``, in its place."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "params/" + jax.tree_util.keystr(path, simple=True, separator="/"), params
    )


def freeze(
    optimizer: optax.GradientTransformation, moves: Callable[[str], Array | bool]
) -> optax.GradientTransformation:
    """Return an optimizer that moves only some leaves.

    Args:
      optimizer: of all leaves; it sees every gradient.
      moves: of a leaf's path, whether it moves; () bool.
    """

    def update(updates, state, params=None):
        updates, state = optimizer.update(updates, state, params)
        return jax.tree.map(
            lambda u, path: jnp.where(moves(path), u, 0), updates, leaf_paths(updates)
        ), state

    return optax.GradientTransformation(optimizer.init, update)


class InTurn(NamedTuple):
    """State of an optimizer that moves one part of the leaves after the other."""

    parts: tuple[PyTree, ...]  # of each part's optimizer, in their order
    steps: Array  # () int32, done


def in_turn(
    optimizer: optax.GradientTransformation, is_first: Callable[[str], bool], switch: Array
) -> optax.GradientTransformation:
    """Return an optimizer that moves some leaves first, and the others after that.

    Each part has a state of its own, which rests while the other part moves.

    Args:
      optimizer: of either part.
      is_first: of a leaf's path, whether it moves before the switch.
      switch: () steps after which the others move.
    """

    def split(values):
        leaves = tree.pick({"params": values}, lambda path: True)
        first = {p: x for p, x in leaves.items() if is_first(p)}
        return first, {p: x for p, x in leaves.items() if not is_first(p)}

    def init(params):
        return InTurn(tuple(map(optimizer.init, split(params))), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        moved, kept = {}, []
        turns = state.steps < switch, state.steps >= switch
        parts = zip(split(updates), split(params), state.parts, turns, strict=True)
        for gradient, values, own, is_turn in parts:
            step, new = optimizer.update(gradient, own, values)
            moved |= jax.tree.map(lambda u, turn=is_turn: jnp.where(turn, u, 0), step)
            kept.append(tree.select(is_turn, new, own))
        return tree.put({"params": updates}, moved)["params"], InTurn(tuple(kept), state.steps + 1)

    return optax.GradientTransformation(init, update)
