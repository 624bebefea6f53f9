"""The cohort trains: every client from what it received, sums to the server."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import Purpose, derive
from lipsjax.local import LocalTraining, model_loss, train
from lipsjax.metrics import inertia
from lipsjax.rounds.evaluation import Personal, score_on, score_own
from lipsjax.rounds.participation import ClientOutcome, draw_outcome
from lipsjax.rounds.placement import Slots, scan_chunks, states_in_slots
from lipsjax.rounds.spec import RoundSpec, State, client_context, where_measured
from lipsjax.rounds.versions import Seen, began_in, seen_in_turn
from lipsjax.strategy import ClientContext, message_of
from lipsjax.types import Array, Kernels, LocalResult, PyTree


class Measured(NamedTuple):
    """What is measured while clients train, summed over them."""

    deltas: inertia.DeltaSums
    before: Personal  # own models on own test sets
    on_global: Personal  # own models on the global test set


class Totals(NamedTuple):
    """What the server learns of a round, summed over clients."""

    message: PyTree  # weighted; () where a strategy needs them one by one
    weight: Array
    loss: Array
    examples: Array
    measured: Measured | None


class Participants(NamedTuple):
    """What became of the cohort, in clients and steps."""

    arrived: Array
    dropped: Array
    stopped: Array  # midway
    straggled: Array
    steps: Array  # of those who arrived


class Trained(NamedTuple):
    """What training leaves in each slot for what comes later in the round."""

    client_state: PyTree  # new
    gradient: Kernels  # last ones of the layers asked for
    loss: Array
    arrived: Array  # bool
    message: PyTree  # () unless a strategy needs them one by one


class Turn(NamedTuple):
    """What one client does in a round."""

    context: ClientContext  # what it began with
    outcome: ClientOutcome
    result: LocalResult
    message: PyTree
    client_state: PyTree  # new


def train_cohort(
    spec: RoundSpec, data: ClientData, state: State, slots: Slots, measured: Array
) -> tuple[tuple[Totals, Participants], Trained]:
    """Train this device's clients and add up what they send."""
    strategy = spec.strategy
    one_by_one, alone = strategy.aggregate is not None, strategy.weighs_itself

    def one(client, client_state, packed_masks, version):
        seen = seen_in_turn(state, version)
        turn = take_turn(spec, data, seen, client, client_state, packed_masks)
        context, outcome, result, message, new_state = turn
        if not spec.run.all_arrive:  # who is not heard of has done nothing
            new_state = tree.select(outcome.arrives, new_state, client_state)
        # the last step may diverge after the last loss; the host looks for it in the loss
        ends_finite = jnp.isfinite(optax.tree.norm((result.variables, result.personal_model)))
        loss = jnp.where(ends_finite, result.loss, jnp.nan)
        count = jnp.sum(data.train_mask[client], dtype=jnp.int32)
        weight = jnp.asarray(strategy.weight(count), result.loss.dtype)

        def measure(result, new_state, weight):
            own = context._replace(variables=result.variables, client_state=new_state)
            return _measure(spec, data, context, own, result.last_gradient_norm, weight)

        totals = Totals(
            message=() if one_by_one else message if alone else tree.scale(weight, message),
            weight=weight,
            loss=loss,
            examples=result.examples.astype(result.loss.dtype),
            measured=where_measured(spec, measured, measure, result, new_state, weight),
        )
        counts = outcome.arrives, outcome.dropped, outcome.stopped, outcome.straggled
        participants = Participants(
            *(x.astype(jnp.int32) for x in counts),
            steps=jnp.where(outcome.arrives, result.steps, 0),
        )
        sent = message if one_by_one else ()
        trained = Trained(new_state, result.last_gradient, loss, outcome.arrives, sent)
        return totals, participants, trained

    def share(ids, present, states, packed_masks, versions):
        totals, participants, trained = jax.vmap(one)(ids, states, packed_masks, versions)
        totals = tree.weighted_sum(present & trained.arrived, totals)
        return (totals, tree.weighted_sum(present, participants)), trained

    states = states_in_slots(spec.placement, state.client_states, slots)
    versions = began_in(spec, state.round, slots)
    return scan_chunks(spec.placement, share, slots, states, state.packed_masks, versions)


def take_turn(
    spec: RoundSpec,
    data: ClientData,
    seen: Seen,
    client: Array,
    client_state: PyTree,
    packed_masks: Kernels,
) -> Turn:
    """Let one client receive, train and send."""
    state, staleness = seen
    training = spec.training.at_round(state.round)
    context = client_context(spec, data, state, client, client_state, packed_masks, staleness)
    whole = context.epoch_steps * training.epochs
    outcome = draw_outcome(spec.participation, state.key, state.round, client, whole)
    result = _train(spec, training, data, state, context, outcome)
    message, new_state = message_of(spec.strategy, context, result)
    return Turn(context, outcome, result, message, new_state)


def _train(
    spec: RoundSpec,
    training: LocalTraining,
    data: ClientData,
    state: State,
    context: ClientContext,
    outcome: ClientOutcome,
) -> LocalResult:
    """Train one client's model, and its personal model if it has one."""
    strategy, client = spec.strategy, context.client_id

    def train_from(start, optimizer, loss, gradient_layers):
        return train(
            derive(state.key, state.round, client, Purpose.BATCHES),
            start,
            data.train,
            data.train_index[client],
            data.train_mask[client],
            training=training._replace(optimizer=optimizer),
            loss_fn=loss(model_loss(spec.model), context),
            layers=spec.model.layers,
            ragged=spec.ragged,
            gradient_layers=gradient_layers,
            limit=None if spec.run.all_arrive else outcome.steps,
            gradient_of=None if strategy.gradient is None else strategy.gradient(spec.run),
        )

    result = train_from(
        context.variables,
        strategy.optimizer(training.optimizer, context),
        strategy.loss,
        strategy.gradient_layers(spec.run),
    )
    personal = strategy.personal_model
    if personal is None:
        return result
    second = train_from(personal.start(context), training.optimizer, personal.loss, ())
    return result._replace(personal_model=second.variables)


def _measure(
    spec: RoundSpec,
    data: ClientData,
    started: ClientContext,
    trained: ClientContext,
    gradient_norm: Array,
    weight: Array,
) -> Measured:
    """Measure what one client changed, and what it predicts with before aggregation."""
    layers, client = spec.model.layers, started.client_id
    deltas = inertia.delta_sums(
        tree.kernels(started.variables.params, layers),
        tree.kernels(trained.variables.params, layers),
        gradient_norm,
        weight,
    )
    own_model = spec.strategy.predict_with(trained)
    own = Personal.of(score_own(spec, data, client, own_model))
    if not spec.clients_on_global:
        return Measured(deltas, own, jax.tree.map(lambda x: x * jnp.nan, own))
    positions = data.global_index
    score = score_on(spec, data, own_model, positions, jnp.ones_like(positions, bool))
    return Measured(deltas, own, Personal.of(score))
