"""IFA: forget a part of the model after every generation of rounds."""

import math

import jax
import jax.numpy as jnp

from lipsjax.strategies.layerwise import layer_index, leaf_paths
from lipsjax.strategy import Strategy, fedavg, fits, seeing
from lipsjax.types import Layer, Variables


def ifa(
    strategy: Strategy | None = None,
    *,
    layers: tuple[Layer, ...],
    rounds: int,
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
      layers: of the model.
      rounds: T, of which the last generation is left alone.
      every: rounds of a generation.
      fraction: of the parameters, or of the layers.
      later: whether the last layers are forgotten, whole, in place of a random part of all.

    Returns:
      A :class:`Strategy` whose server state has a key, the round, each leaf's initial mean and
      deviation, and the strategy's.

    Raises:
      ValueError: for a value out of range, or a strategy with a ``downlink``.

    References:
      Alotaibi et al., "Forget to Generalize: Iterative Adaptation for Generalization in Federated
      Learning", arXiv 2602.04536.

    Example:
      >>> from lipsjax import models
      >>> model = models.build("cnn", num_classes=10, image_shape=(8, 8, 1))
      >>> ifa(layers=model.layers, rounds=10, fraction=2.0)
      Traceback (most recent call last):
      ValueError: fraction must be in [0, 1], not 2.0
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], not {fraction}")
    if every != int(every) or every < 1:
        raise ValueError(f"every must be a whole number, at least 1, not {every}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    inner = fedavg() if strategy is None else strategy
    fits(inner, "ifa")
    kept = len(layers) - math.ceil(round(fraction * len(layers), 9))

    def init_server(initial: Variables, key):
        spread = jax.tree.map(lambda w: (jnp.mean(w), jnp.std(w)), initial.params)
        own = jax.random.split(key)
        state = jax.random.key_data(own[0]), jnp.zeros((), jnp.int32), spread
        return state, inner.init_server(initial, own[1])

    def forget(words, done, spread, params):
        key = jax.random.fold_in(jax.random.wrap_key_data(words), done)
        leaves, structure = jax.tree.flatten(params)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))

        def one(w, path, key, mean_and_deviation):
            mean, deviation = mean_and_deviation
            to_fresh, to_choose = jax.random.split(key)
            fresh = mean + deviation * _float32(jax.random.normal, to_fresh, w)
            if later:
                index = layer_index(path, layers)
                return fresh if index is not None and index >= kept else w
            return jnp.where(_float32(jax.random.uniform, to_choose, w) < fraction, fresh, w)

        return jax.tree.map(one, params, leaf_paths(params), keys, spread)

    def update(server, average, mean):
        (words, done, spread), state = server
        average, state = inner.update(state, average, mean)
        done = done + 1
        ends = (done % int(every) == 0) & (done < rounds)
        params = jax.lax.cond(
            ends, lambda w: forget(words, done, spread, w), lambda w: w, average.params
        )
        return average._replace(params=params), ((words, done, spread), state)

    return seeing(inner, lambda received: received._replace(server=received.server[1]))._replace(
        init_server=init_server,
        receive=lambda server, client, average, delivery: inner.receive(
            server[1], client, average, delivery
        ),
        send=lambda received, result: inner.send(
            received._replace(server=received.server[1]), result
        ),
        update=update,
    )


def _float32(draw, key, like):
    """Draw in float32, so that a draw is the same in every precision."""
    return draw(key, like.shape, jnp.float32).astype(like.dtype)
