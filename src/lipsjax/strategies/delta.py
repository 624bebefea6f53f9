"""What training changed, as wrappers change it on its way to the server."""

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.strategy import ClientContext, RunContext, Strategy
from lipsjax.types import Array, LocalResult, Variables

Delta = dict[str, Array]
"""Leaf's path -> what local training added to it; of shared parameters alone."""


def shared_params(strategy: Strategy, run: RunContext, variables: Variables) -> dict[str, Array]:
    """Return the parameters that clients exchange, by path; running statistics are none."""

    def wanted(path: str) -> bool:
        return path.startswith("params/") and strategy.is_shared(run, path)

    return tree.pick(variables, wanted)


def shared_statistics(
    strategy: Strategy, run: RunContext, variables: Variables
) -> dict[str, Array]:
    """Return the running statistics that clients exchange, by path."""

    def wanted(path: str) -> bool:
        return path.startswith("batch_stats/") and strategy.is_shared(run, path)

    return tree.pick(variables, wanted)


def delta_of(strategy: Strategy, context: ClientContext, result: LocalResult) -> Delta:
    """Return what training added to each shared parameter of what the client started from.

    Of leaves that it holds in part, it is 0 where the client holds nothing.
    """
    start, end = (shared_params(strategy, context.run, x.variables) for x in (context, result))
    return where_held(strategy, context, tree.subtract(end, start))


def where_held(strategy: Strategy, context: ClientContext, delta: Delta) -> Delta:
    """Return a delta that is 0 where the client holds nothing."""
    held = strategy.held(context)
    return {p: jnp.where(held[p], d, 0) if p in held else d for p, d in delta.items()}


def with_delta(context: ClientContext, result: LocalResult, delta: Delta) -> LocalResult:
    """Return a result as if training had added something else to the parameters."""
    start = tree.pick(context.variables, delta.__contains__)
    end = jax.tree.map(lambda x, d: x + d, start, delta)
    return result._replace(variables=tree.put(result.variables, end))
