"""What a client moved, as wrappers change it on its way to the server."""

import jax

from lipsjax import tree
from lipsjax.strategy import Strategy
from lipsjax.types import Array, LocalResult, Received

Movement = dict[str, Array]
"""Leaf's path -> how far it moved in local training; of shared parameters alone."""


def movement(strategy: Strategy, received: Received, result: LocalResult) -> Movement:
    """Return how far each shared parameter moved from what the client received."""

    def wanted(path: str) -> bool:
        return path.startswith("params/") and strategy.is_shared(path)

    start, end = (tree.pick(x.variables, wanted) for x in (received, result))
    return tree.subtract(end, start)


def as_if_moved(received: Received, result: LocalResult, moved: Movement) -> LocalResult:
    """Return a result whose parameters moved by something else."""
    start = tree.pick(received.variables, moved.__contains__)
    end = jax.tree.map(lambda x, d: x + d, start, moved)
    return result._replace(variables=tree.put(result.variables, end))
