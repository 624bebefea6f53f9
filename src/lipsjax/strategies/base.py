"""A federated strategy as a value: a NamedTuple of pure functions.

A round calls them in this order, each for ONE client (the simulation vmaps) or for the server::

    receive -> loss, optimizer -> [local training] -> send -> [weighted mean] -> update

and, where a strategy has a ``downlink``, decides afterwards what goes out beside the average.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

from lipsjax import tree
from lipsjax.types import (
    Array,
    Delivery,
    Kernels,
    Layer,
    LocalResult,
    LossFn,
    Params,
    PyTree,
    Received,
    Variables,
)


class Downlink(NamedTuple):
    """How the broadcast is thinned out; ``transient_sparsity`` makes it.

    ``kept`` is asked once, on the host; the rest is called inside the compiled round, for one
    client, and only where the round is followed by a sparse broadcast.
    """

    layers: tuple[Layer, ...]  # the masked ones
    gradient: str | None  # "last_local", "fresh", "stored"; None: the score needs none
    shared: bool  # one mask, from the clients' mean score
    hold: int  # local steps after which masked weights are set back
    kept: Callable[[Variables, int], tuple[np.ndarray, np.ndarray]]
    """(variables, rounds) -> densities [T] and kept counts [T, groups]."""
    score: Callable[[Params, Kernels, Array], Kernels]
    """(params, gradient, key) -> what decides which weights are kept, not negative."""
    mask: Callable[[Kernels, Array], Kernels]  # (scores, kept [groups]) -> packed bits
    last: Callable[[Kernels], Kernels]  # last gradients of all layers asked for -> of the masked
    stored: Callable[[PyTree], tuple[Kernels, Array]]
    """client state -> its last gradient and () bool, whether it has one."""


class Strategy(NamedTuple):
    """What clients and server receive, minimise, send, and keep. All functions are pure.

    State is any pytree, ``()`` if there is none; the client state is that of one client, and the
    simulation keeps it stacked for all K.
    """

    init_server: Callable[[Variables], PyTree]  # initial average -> server state
    init_client: Callable[[Variables], PyTree]  # initial average -> state of one client
    receive: Callable[[PyTree, PyTree, Variables, Delivery | None], Variables]
    """(server, client, average, delivery) -> what one client starts from."""
    loss: Callable[[LossFn, Received], LossFn]  # shape the loss that one client minimises
    optimizer: Callable[[optax.GradientTransformation, Received], optax.GradientTransformation]
    send: Callable[[Received, LocalResult], tuple[PyTree, PyTree]]
    """(received, result) -> (message, new client state)."""
    weight: Callable[[Array], Array]  # number of examples -> weight of the message in the mean
    update: Callable[[PyTree, Variables, PyTree], tuple[Variables, PyTree]]
    """(server, average, mean message) -> (new average, new server state)."""
    exchanged: Callable[[Variables], int]  # values sent per client, each way
    gradient_layers: tuple[Layer, ...] = ()  # whose last gradients ``LocalResult`` holds
    downlink: Downlink | None = None


def fedavg() -> Strategy:
    """Federated averaging: the identity of every function of a strategy.

    ``w <- sum_k (n_k / n) w_k`` over the cohort, running statistics included.

    Returns:
      A :class:`Strategy` without state.

    References:
      McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
      Data", arXiv 1602.05629.

    Example:
      >>> fedavg().weight(30)
      30
    """
    return Strategy(
        init_server=lambda initial: (),
        init_client=lambda initial: (),
        receive=lambda server, client, average, delivery: average,
        loss=lambda loss_fn, received: loss_fn,
        optimizer=lambda optimizer, received: optimizer,
        send=lambda received, result: (result.variables, received.client),
        weight=lambda num_examples: num_examples,
        update=lambda server, average, mean: (mean, server),
        exchanged=tree.size,
    )


def keep_local(strategy: Strategy, is_personal: Callable[[str], bool]) -> Strategy:
    """Let every client keep some leaves for itself.

    Personal leaves never come from the server: a client starts from its own, as its last round
    left them. The server averages them all the same, so that its model can be measured; that
    average is never sent and costs no bits.

    Args:
      strategy: any strategy whose messages are variables.
      is_personal: of a leaf's path, such as ``params/norm_stem/norm/scale``.

    Returns:
      A strategy whose client state holds the personal leaves, [K, ...] each.

    Raises:
      ValueError: if the strategy has transient sparsity already, which goes around; and, when a
        simulation is built, if no leaf is personal or the strategy keeps client state itself.

    References:
      With normalisation as the personal part, FedBN: Li et al., arXiv 2102.07623.
    """
    if strategy.downlink is not None:
        raise ValueError("keep_local goes inside transient_sparsity, not around it")

    def init_client(initial):
        leaves = tree.pick(initial, is_personal)
        if not leaves:
            raise ValueError("keep_local keeps nothing: no leaf of the model is personal")
        if jax.tree.leaves(strategy.init_client(initial)):
            raise ValueError(
                "keep_local goes around strategies without client state: what others keep, such as "
                "control variates, would count personal leaves as shared"
            )
        return leaves

    def inner(received):
        return received._replace(client=())

    def receive(server, client, average, delivery):
        return tree.put(strategy.receive(server, (), average, delivery), client)

    def send(received, result):
        message, _ = strategy.send(inner(received), result)
        return message, tree.pick(result.variables, is_personal)

    return strategy._replace(
        init_client=init_client,
        receive=receive,
        loss=lambda loss_fn, received: strategy.loss(loss_fn, inner(received)),
        optimizer=lambda optimizer, received: strategy.optimizer(optimizer, inner(received)),
        send=send,
        exchanged=lambda variables: (
            strategy.exchanged(variables) - tree.size(tree.pick(variables, is_personal))
        ),
    )
