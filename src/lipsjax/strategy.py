"""A federated strategy as a value: a NamedTuple of pure functions.

A round calls them in this order, each for ONE client (the simulation vmaps) or for the server::

    receive -> loss, optimizer -> [local training] -> send -> [weighted mean] -> update

and, where a strategy has a ``downlink``, decides afterwards what goes out beside the average.
Where one has a ``companion``, the client trains that too, after the model that it received.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
    hold: float  # local steps after which masked weights are set back; inf: all
    kept: Callable[[Variables, int], tuple[np.ndarray, np.ndarray]]
    """(variables, rounds) -> densities [T] and kept counts [T, groups]."""
    score: Callable[[Params, Kernels, Array], Kernels]
    """(params, gradient, key) -> what decides which weights are kept, not negative."""
    mask: Callable[[Kernels, Array], Kernels]  # (scores, kept [groups]) -> packed bits
    last: Callable[[Kernels], Kernels]  # last gradients of all layers asked for -> of the masked
    stored: Callable[[PyTree], tuple[Kernels, Array]]
    """client state -> its last gradient and () bool, whether it has one."""


class Companion(NamedTuple):
    """A second model that a client trains in every round, on the same batches."""

    start: Callable[[Received], Variables]
    loss: Callable[[LossFn, Received], LossFn]


class Traffic(NamedTuple):
    """Bits that one client moves in each round, before any mask of a ``downlink``."""

    up: np.ndarray  # [T] int64
    down: np.ndarray  # [T] int64


class Strategy(NamedTuple):
    """What clients and server receive, minimise, send, and keep. All functions are pure.

    State is any pytree, ``()`` if there is none; the client state is that of one client, and the
    simulation keeps it stacked for all K.
    """

    init_server: Callable[[Variables, Array], PyTree]  # (initial average, key) -> server state
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
    traffic: Callable[[Variables, int], Traffic]  # (variables or their shapes, rounds) -> bits
    deploy: Callable[[Variables, PyTree], Variables]
    """(what a client would start from, its state) -> what it predicts with."""
    adapt: Callable[[optax.GradientTransformation, Received], optax.GradientTransformation]
    """Shape the optimizer of one client that fine-tunes for itself, after the last round."""
    is_shared: Callable[[str], bool] = lambda path: True  # of a leaf's path: clients exchange it
    aggregate: Callable[[PyTree, Array], PyTree] | None = None
    """(messages [C, ...], which of them arrived [C]) -> what stands for their mean; needs [C, P]
    values on every device. None: the weighted mean, of which only sums are kept."""
    companion: Companion | None = None
    gradient_layers: tuple[Layer, ...] = ()  # whose last gradients ``LocalResult`` holds
    relative: bool = False  # whether the server must know what each client started from
    refuses: Mapping[str, str] = MappingProxyType(
        {}
    )  # wrapper -> why it makes no sense around this
    downlink: Downlink | None = None


def fits(strategy: Strategy, wrapper: str) -> None:
    """Refuse a wrapper around a strategy that it makes no sense with.

    Raises:
      ValueError: with the strategy's reason; or if it has a ``downlink``, which is outermost.
    """
    if wrapper in strategy.refuses:
        raise ValueError(f"{wrapper} does not go around this strategy: {strategy.refuses[wrapper]}")
    if strategy.downlink is not None:
        raise ValueError(f"{wrapper} goes inside transient sparsity and other masks, not around")


def seeing(strategy: Strategy, own: Callable[[Received], Received]) -> Strategy:
    """Let what a strategy does while clients train see its own part of what they received."""
    companion = strategy.companion
    if companion is not None:
        start, second_loss = companion
        companion = Companion(
            start=lambda received: start(own(received)),
            loss=lambda loss_fn, received: second_loss(loss_fn, own(received)),
        )
    return strategy._replace(
        loss=lambda loss_fn, received: strategy.loss(loss_fn, own(received)),
        optimizer=lambda optimizer, received: strategy.optimizer(optimizer, own(received)),
        adapt=lambda optimizer, received: strategy.adapt(optimizer, own(received)),
        companion=companion,
    )


def constant_traffic(up: int, down: int, rounds: int) -> Traffic:
    """Return the same bits for every round."""
    return Traffic(*(np.full(rounds, bits, np.int64) for bits in (up, down)))


BITS = 32  # of a value on the wire


def fedavg(*, weighted: bool = True) -> Strategy:
    """Federated averaging: the identity of every function of a strategy.

    ``w <- sum_k (n_k / n) w_k`` over the cohort, running statistics included.

    Args:
      weighted: whether the mean is by examples n_k, as published; else every client counts the
        same, as it should where clients are drawn by examples (arXiv 1812.06127, section 5).

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
        init_server=lambda initial, key: (),
        init_client=lambda initial: (),
        receive=lambda server, client, average, delivery: average,
        loss=lambda loss_fn, received: loss_fn,
        optimizer=lambda optimizer, received: optimizer,
        send=lambda received, result: (result.variables, received.client),
        weight=by_examples if weighted else alike,
        update=lambda server, average, mean: (mean, server),
        traffic=both_ways,
        deploy=lambda variables, client: variables,
        adapt=lambda optimizer, received: optimizer,
    )


def both_ways(variables: Variables, rounds: int) -> Traffic:
    """Count a model of 32-bit values up and down in every round."""
    bits = BITS * tree.size(variables)
    return constant_traffic(bits, bits, rounds)


def by_examples(num_examples: Array) -> Array:
    """Weigh a client by its examples."""
    return num_examples


def alike(num_examples: Array) -> Array:
    """Weigh every client the same."""
    return jnp.ones_like(num_examples)


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

    Example:
      >>> from lipsjax import models
      >>> fedbn = keep_local(fedavg(), models.is_norm)
      >>> [fedbn.is_shared(path) for path in ("params/stem/kernel", "norm/norm_stem/norm/mean")]
      [True, False]
    """
    fits(strategy, "keep_local")

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

    def traffic(variables, rounds):
        up, down = strategy.traffic(variables, rounds)
        personal = BITS * tree.size(tree.pick(variables, is_personal))
        return Traffic(up - personal, down - personal)

    return seeing(strategy, inner)._replace(
        init_client=init_client,
        receive=receive,
        send=send,
        traffic=traffic,
        deploy=lambda variables, client: strategy.deploy(variables, ()),
        is_shared=lambda path: strategy.is_shared(path) and not is_personal(path),
        refuses={**strategy.refuses, "keep_local": "it keeps other leaves already"},
    )
