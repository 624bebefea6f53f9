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
from lipsjax.rounds.evaluation import Personal, score_on, score_own
from lipsjax.rounds.memory import recall
from lipsjax.rounds.participation import fate_of
from lipsjax.rounds.spec import Setup, Slots, State, delivery_to, scan_chunks, where_measured
from lipsjax.types import Array, Kernels, PyTree, Received


class Measured(NamedTuple):
    """What is measured while clients train, summed over them."""

    movement: inertia.Movement
    before: Personal  # own models on own test sets
    on_global: Personal  # own models on the global test set


class Totals(NamedTuple):
    """What the server learns of a round, summed over clients."""

    message: PyTree  # weighted; () where a strategy needs them one by one
    weight: Array
    loss: Array
    examples: Array
    measured: Measured | None


class Turnout(NamedTuple):
    """What became of the cohort, in clients and steps."""

    arrived: Array
    dropped: Array
    died: Array
    straggled: Array
    steps: Array  # of those who arrived


class Trained(NamedTuple):
    """What training leaves in each slot for what comes later in the round."""

    memory: PyTree  # new client state
    gradient: Kernels  # last ones of the layers asked for
    loss: Array
    arrived: Array  # bool
    message: PyTree  # () unless a strategy needs them one by one


def train_cohort(
    setup: Setup, key: Array, data: ClientData, state: State, slots: Slots, measured: Array
) -> tuple[tuple[Totals, Turnout], Trained]:
    """Train this device's clients and add up what they send."""
    strategy, layers = setup.strategy, setup.model.layers
    training = setup.training.at_round(state.round)

    def measure(client, start, result, memory, weight):
        moved = inertia.movement(
            tree.kernels(start.params, layers),
            tree.kernels(result.variables.params, layers),
            result.last_gradient_norm,
            weight,
        )
        own_model = strategy.deploy(result.variables, memory)
        own = Personal.of(score_own(setup, data, client, own_model))
        if not setup.clients_on_global:
            return Measured(moved, own, jax.tree.map(lambda x: x * jnp.nan, own))
        positions = data.global_index
        score = score_on(setup, data, own_model, positions, jnp.ones_like(positions, bool))
        return Measured(moved, own, Personal.of(score))

    def one(client, memory, bits):
        delivery = delivery_to(
            setup, key, state.round - 1, client, bits, state.sparse, state.density
        )
        start = strategy.receive(state.server, memory, state.average, delivery)
        count = jnp.sum(data.train_mask[client], dtype=jnp.int32)
        epoch_steps = -(-count // training.batch_size)
        received = Received(
            start,
            state.server,
            memory,
            delivery,
            derive(key, state.round, client, Purpose.CLIENT),
            client,
            epoch_steps,
        )
        fate = fate_of(setup.participation, key, state.round, client, epoch_steps * training.epochs)

        def train_from(start, optimizer, loss, **options):
            return train(
                derive(key, state.round, client, Purpose.BATCHES),
                received._replace(variables=start),
                data.train,
                data.train_index[client],
                data.train_mask[client],
                training=training._replace(optimizer=optimizer),
                loss_fn=loss(model_loss(setup.model), received),
                ragged=setup.ragged,
                limit=None if setup.participation.all_arrive else fate.steps,
                **options,
            )

        result = train_from(
            start,
            strategy.optimizer(training.optimizer, received),
            strategy.loss,
            layers=layers,
            gradient_layers=strategy.gradient_layers,
        )
        if strategy.companion is not None:
            second = train_from(
                strategy.companion.start(received),
                training.optimizer,
                strategy.companion.loss,
                layers=layers,
                gradient_layers=(),
            )
            result = result._replace(companion=second.variables)
        message, new_memory = strategy.send(received, result)
        if not setup.participation.all_arrive:  # who is not heard of has done nothing
            new_memory = tree.select(fate.arrives, new_memory, memory)
        # the last step may diverge after the last loss; the host looks for it in the loss
        ends_finite = jnp.isfinite(optax.tree.norm((result.variables, result.companion)))
        loss = jnp.where(ends_finite, result.loss, jnp.nan)
        weight = jnp.asarray(strategy.weight(count), result.loss.dtype)
        one_by_one = strategy.aggregate is not None
        totals = Totals(
            message=() if one_by_one else tree.scale(weight, message),
            weight=weight,
            loss=loss,
            examples=result.examples.astype(result.loss.dtype),
            measured=where_measured(
                setup, measured, measure, client, start, result, new_memory, weight
            ),
        )
        turnout = Turnout(
            *(x.astype(jnp.int32) for x in (fate.arrives, fate.dropped, fate.died, fate.straggled)),
            steps=jnp.where(fate.arrives, result.steps, 0),
        )
        sent = message if one_by_one else ()
        trained = Trained(new_memory, result.last_gradient, loss, fate.arrives, sent)
        return totals, turnout, trained

    def share(ids, present, memory, bits):
        totals, turnout, trained = jax.vmap(one)(ids, memory, bits)
        totals = tree.weighted_sum(present & trained.arrived, totals)
        return (totals, tree.weighted_sum(present, turnout)), trained

    return scan_chunks(setup, share, slots, recall(setup, state.clients, slots), state.bits)
