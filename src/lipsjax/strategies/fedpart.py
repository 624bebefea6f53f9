"""FedPart: one layer at a time."""

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax import tree
from lipsjax.strategies.layerwise import freeze, layer_index, leaf_paths
from lipsjax.strategy import (
    BITS,
    ClientContext,
    Rank,
    RunContext,
    ServerContext,
    Strategy,
    Traffic,
    fedavg,
)
from lipsjax.types import Variables

EVERY = -1  # stands for a round in which every layer trains


def fedpart(
    *,
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
      full_rounds: at first.
      rounds_per_layer: of a layer in a cycle; 0 leaves nothing but full rounds.
      full_between: after each cycle.

    Returns:
      A :class:`Strategy` without state.

    Raises:
      ValueError: for a negative number, or a cycle without rounds.

    References:
      Wang et al., "Why Go Full? Elevating Federated Learning Through Partial Network Updates",
      arXiv 2410.11559.

    Example:
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

    def table(run: RunContext) -> np.ndarray:
        """Return which layer trains in each round, [T]."""
        layers = len(run.layers)
        return np.array([trained_layer(t, layers, first, each, between) for t in range(run.rounds)])

    def trains(run: RunContext, path: str, layer):
        index = layer_index(path, run.layers)
        return (layer == EVERY) if index is None else (layer == EVERY) | (layer == index)

    def optimizer(base, context: ClientContext):
        layer = jnp.asarray(table(context.run))[context.round]
        return freeze(base, lambda path: trains(context.run, path, layer))

    def update(context: ServerContext, mean: Variables):
        layer = jnp.asarray(table(context.run))[context.round]
        params = jax.tree.map(
            lambda new, old, path: jnp.where(trains(context.run, path, layer), new, old),
            mean.params,
            context.global_model.params,
            leaf_paths(mean.params),
        )
        return mean._replace(params=params), context.server_state

    def traffic(run: RunContext, variables: Variables):
        sizes = {
            p: x.size for p, x in tree.pick({"params": variables.params}, lambda p: True).items()
        }
        statistics, layers = tree.size(variables.batch_stats), table(run)

        def moved(of_rounds) -> int:
            """Count the bits of all that was trained in some rounds."""
            trained = set(layers[of_rounds].tolist())
            values = sum(n for p, n in sizes.items() if any(trains(run, p, x) for x in trained))
            return BITS * (values + statistics)

        def down(t: int, last: int | None) -> int:
            """Count what has changed since a client received; all of it, if it never did."""
            return BITS * tree.size(variables) if last is None else moved(slice(last, t))

        return Traffic(
            np.array([moved(slice(t, t + 1)) for t in range(run.rounds)], np.int64), down
        )

    frozen = "it trains one layer a round, so that zeroed weights of the others could not grow back"
    sent = "it sends one layer a round, which is its compression"
    counted = "it trains one layer a round, and its bits are those of whole layers"
    return fedavg()._replace(
        name="fedpart",
        optimizer=optimizer,
        update=update,
        traffic=traffic,
        refuses={
            Rank.PART: counted,
            Rank.BROADCAST: frozen,
            **dict.fromkeys((Rank.ENCODE, Rank.VOTE), sent),
        },
    )


def trained_layer(t: int, layers: int, full_rounds: int, each: int, between: int) -> int:
    """Return which layer trains in round t; ``EVERY`` for all."""
    if t < full_rounds:
        return EVERY
    place = (t - full_rounds) % (layers * each + between)
    return place // each if place < layers * each else EVERY
