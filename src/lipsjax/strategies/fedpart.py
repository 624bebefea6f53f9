"""FedPart: one layer at a time."""

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax import tree
from lipsjax.strategies.layerwise import freeze, layer_index, leaf_paths
from lipsjax.strategy import BITS, Strategy, Traffic, fedavg
from lipsjax.types import Layer, Variables

EVERY = -1  # stands for a round in which every layer trains


def fedpart(
    *,
    layers: tuple[Layer, ...],
    full_rounds: int = 5,
    rounds_per_layer: int = 2,
    full_between: int = 5,
) -> Strategy:
    """Train, send and average one layer a round, from stem to classifier, again and again.

    After ``full_rounds`` rounds of FedAvg come cycles: each layer in turn, with its bias and
    normalisation, for ``rounds_per_layer`` rounds in which all others stand still, then
    ``full_between`` rounds of FedAvg. Leaves of no layer move in full rounds alone. Running
    statistics are always averaged. Layers in sequence and cycles are the paper's; how many rounds
    each has, and how many full rounds there are, are options here.

    Args:
      layers: of the model, in order.
      full_rounds: at first.
      rounds_per_layer: of a layer in a cycle; 0 leaves nothing but full rounds.
      full_between: after each cycle.

    Returns:
      A :class:`Strategy` whose server state is the number of rounds done.

    Raises:
      ValueError: for a negative number, or a cycle without rounds.

    References:
      Wang et al., "Why Go Full? Elevating Federated Learning Through Partial Network Updates",
      arXiv 2410.11559.

    Example:
      >>> from lipsjax import models
      >>> model = models.build("cnn", num_classes=10, image_shape=(8, 8, 1))
      >>> [trained_layer(t, 5, 1, 1, 2) for t in range(9)]  # five layers
      [-1, 0, 1, 2, 3, 4, -1, -1, 0]
    """
    numbers = {
        "full_rounds": full_rounds,
        "rounds_per_layer": rounds_per_layer,
        "full_between": full_between,
    }
    for name, value in numbers.items():
        if value != int(value) or value < 0:
            raise ValueError(f"{name} must be a whole number, at least 0, not {value}")
    if rounds_per_layer == full_between == 0:
        raise ValueError("full_between must be at least 1 where rounds_per_layer is 0, not 0")
    first, each, between = int(full_rounds), int(rounds_per_layer), int(full_between)
    cycle = len(layers) * each + between
    table = np.array(
        [trained_layer(first + i, len(layers), first, each, between) for i in range(cycle)]
    )

    def now(done):
        return jnp.where(done < first, EVERY, jnp.asarray(table)[(done - first) % cycle])

    def trains(path, layer):
        index = layer_index(path, layers)
        return (layer == EVERY) if index is None else (layer == EVERY) | (layer == index)

    def optimizer(base, received):
        layer = now(received.server)
        return freeze(base, lambda path: trains(path, layer))

    def update(done, average, mean):
        layer = now(done)
        params = jax.tree.map(
            lambda new, old, path: jnp.where(trains(path, layer), new, old),
            mean.params,
            average.params,
            leaf_paths(mean.params),
        )
        return mean._replace(params=params), done + 1

    def traffic(variables: Variables, rounds: int):
        sizes = {p: x.size for p, x in tree.pick(variables.params, lambda p: True).items()}
        statistics = tree.size(variables.norm)
        moved = []
        for t in range(rounds):
            layer = trained_layer(t, len(layers), first, each, between)
            own = sum(n for p, n in sizes.items() if trains(f"params/{p}", layer))
            moved.append(BITS * (own + statistics))
        up = np.array(moved, np.int64)
        # what comes down is what the round before changed; at first, everything
        return Traffic(up, np.concatenate([[BITS * tree.size(variables)], up[:-1]]))

    frozen = "it trains one layer a round, so that zeroed weights of the others could not grow back"
    sent = "it sends one layer a round, which is its compression"
    return fedavg()._replace(
        init_server=lambda initial, key: jnp.zeros((), jnp.int32),
        optimizer=optimizer,
        update=update,
        traffic=traffic,
        refuses={
            "transient_sparsity": frozen,
            "constant_topk": frozen,
            "dsd": frozen,
            "compress": sent,
            "sign_majority": sent,
        },
    )


def trained_layer(t: int, layers: int, full_rounds: int, each: int, between: int) -> int:
    """Return which layer trains in round t; ``EVERY`` for all."""
    if t < full_rounds:
        return EVERY
    place = (t - full_rounds) % (layers * each + between)
    return place // each if place < layers * each else EVERY
