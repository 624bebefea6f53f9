"""The cohort trains: every client from what it received, sums to the server."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import Purpose, derive
from lipsjax.local import model_loss, train
from lipsjax.metrics import inertia
from lipsjax.rounds.memory import recall
from lipsjax.rounds.plan import Setup, Slots, State, delivery_to, scan_chunks, where_measured
from lipsjax.rounds.scoring import Personal, score_on, score_own
from lipsjax.types import Array, Kernels, PyTree, Received


class Measured(NamedTuple):
    """What is measured while clients train, summed over them."""

    movement: inertia.Movement
    before: Personal  # own models on own test sets
    on_global: Personal  # own models on the global test set


class Totals(NamedTuple):
    """What the server learns of a round, summed over clients."""

    message: PyTree  # weighted
    weight: Array
    loss: Array
    examples: Array
    measured: Measured | None


class Trained(NamedTuple):
    """What training leaves in each slot for what comes later in the round."""

    memory: PyTree  # new client state
    gradient: Kernels  # last ones of the layers asked for
    loss: Array


def train_cohort(
    setup: Setup, key: Array, data: ClientData, state: State, slots: Slots, measured: Array
) -> tuple[Totals, Trained]:
    """Train this device's clients and add up what they send."""
    strategy, layers = setup.strategy, setup.model.layers

    def measure(client, start, result, weight):
        moved = inertia.movement(
            tree.kernels(start.params, layers),
            tree.kernels(result.variables.params, layers),
            result.last_gradient_norm,
            weight,
        )
        own = Personal.of(score_own(setup, data, client, result.variables))
        if not setup.clients_on_global:
            return Measured(moved, own, jax.tree.map(lambda x: x * jnp.nan, own))
        positions = data.global_index
        score = score_on(setup, data, result.variables, positions, jnp.ones_like(positions, bool))
        return Measured(moved, own, Personal.of(score))

    def one(client, memory, bits):
        delivery = delivery_to(setup, key, state.round - 1, client, bits, state.sparse)
        start = strategy.receive(state.server, memory, state.average, delivery)
        received = Received(start, state.server, memory, delivery)
        result = train(
            derive(key, state.round, client, Purpose.BATCHES),
            received,
            data.train,
            data.train_index[client],
            data.train_mask[client],
            training=setup.training._replace(
                optimizer=strategy.optimizer(setup.training.optimizer, received)
            ),
            loss_fn=strategy.loss(model_loss(setup.model), received),
            layers=layers,
            ragged=setup.ragged,
            gradient_layers=strategy.gradient_layers,
        )
        message, memory = strategy.send(received, result)
        # the last step may diverge after the last loss; the host looks for it in the loss
        ends_finite = jnp.isfinite(optax.tree.norm(result.variables.params))
        loss = jnp.where(ends_finite, result.loss, jnp.nan)
        count = jnp.sum(data.train_mask[client], dtype=jnp.int32)
        weight = jnp.asarray(strategy.weight(count), result.loss.dtype)
        totals = Totals(
            message=tree.scale(weight, message),
            weight=weight,
            loss=loss,
            examples=result.examples.astype(result.loss.dtype),
            measured=where_measured(setup, measured, measure, client, start, result, weight),
        )
        return totals, Trained(memory, result.last_gradient, loss)

    def share(ids, present, memory, bits):
        totals, trained = jax.vmap(one)(ids, memory, bits)
        return tree.weighted_sum(present, totals), trained

    return scan_chunks(setup, share, slots, recall(setup, state.clients, slots), state.bits)
