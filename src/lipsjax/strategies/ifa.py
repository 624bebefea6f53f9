"""IFA: forget a part of the model after every generation of rounds."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax.strategies.layerwise import layer_index, leaf_paths
from lipsjax.strategy import RunContext, ServerContext, Strategy, fedavg, nest, wrapped
from lipsjax.types import Array, Params, Variables


class Initial(NamedTuple):
    """How a leaf was distributed when the model was initialised."""

    mean: Array  # ()
    deviation: Array  # ()


def ifa(
    strategy: Strategy | None = None,
    *,
    every: int = 10,
    fraction: float = 0.1,
    later: bool = False,
) -> Strategy:
    """Re-initialise a fraction of the server's parameters at the end of each generation.

    After every ``every`` rounds, but not after the last generation, ``w <- (1 - r) w + r w'``: r is
    1 with probability ``fraction`` for each parameter, or, for later layers, 1 on the last
    ``ceil(fraction L)`` layers; w' is normal with the leaf's initial mean and deviation.

    Args:
      strategy: what clients and server do otherwise; None: FedAvg.
      every: rounds of a generation.
      fraction: of the parameters, or of the layers.
      later: whether the last layers are forgotten, whole, in place of a random part of all.

    Returns:
      A :class:`Strategy` whose server state has each leaf's initial mean and deviation beside that
      of the strategy.

    Raises:
      ValueError: for a value out of range, or a strategy with masks.

    References:
      Alotaibi et al., "Forget to Generalize: Iterative Adaptation for Generalization in Federated
      Learning", arXiv 2602.04536.

    Example:
      >>> ifa(fraction=2.0)
      Traceback (most recent call last):
      ValueError: fraction must be in [0, 1], not 2.0
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], not {fraction}")
    if every != int(every) or every < 1:
        raise ValueError(f"every must be a whole number, at least 1, not {every}")

    def init_server(run: RunContext, initial: Variables, key: Array):
        del run, key
        return jax.tree.map(lambda w: Initial(jnp.mean(w), jnp.std(w)), initial.params)

    inner = nest(
        wrapped(fedavg() if strategy is None else strategy, "ifa"), init_server=init_server
    )

    def forget(context: ServerContext, done: Array, params: Params) -> Params:
        layers = context.run.layers
        kept = len(layers) - math.ceil(round(fraction * len(layers), 9))
        key = jax.random.fold_in(jax.random.split(context.key)[0], done)
        leaves, structure = jax.tree.flatten(params)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))

        def one(w, path, key, initial):
            to_fresh, to_choose = jax.random.split(key)
            fresh = initial.mean + initial.deviation * _float32(jax.random.normal, to_fresh, w)
            if later:
                index = layer_index(path, layers)
                return fresh if index is not None and index >= kept else w
            return jnp.where(_float32(jax.random.uniform, to_choose, w) < fraction, fresh, w)

        return jax.tree.map(one, params, leaf_paths(params), keys, context.server_state.outer)

    def update(context: ServerContext, mean):
        model, state = inner.update(context, mean)
        done = context.round + 1
        ends = (done % int(every) == 0) & (done < context.run.rounds)
        params = jax.lax.cond(ends, lambda w: forget(context, done, w), lambda w: w, model.params)
        return model._replace(params=params), state

    def learned(context: ServerContext, mean, new: Variables) -> Variables:
        del new  # what was forgotten was not learned
        return inner.learned(context, mean, inner.update(context, mean)[0])

    return inner._replace(update=update, learned=learned)


def _float32(draw, key, like):
    """Draw in float32, so that a draw is the same in every precision."""
    return draw(key, like.shape, jnp.float32).astype(like.dtype)
