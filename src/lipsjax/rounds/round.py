"""One communication round, as one device sees it: its share of the cohort, in chunks of a vmap.

Everything here runs inside ``shard_map`` over the ``clients`` axis: sums over the cohort end in
``psum``, and nothing else crosses devices but the states of a cohort's clients, where a strategy
keeps any (:mod:`lipsjax.rounds.placement`).
Clients pass through a scan over chunks that carries weighted sums, so memory does not grow with
their number.
"""

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.metrics import inertia
from lipsjax.rounds.broadcast import broadcast
from lipsjax.rounds.client_update import Participants, Totals, Trained, train_cohort
from lipsjax.rounds.evaluation import Personal, mean, named, score_dense, score_global_share
from lipsjax.rounds.finetuning import score_finetuned
from lipsjax.rounds.participation import draw_cohort
from lipsjax.rounds.placement import AXIS, Slots, in_cohort_order, own_slots, states_at_home
from lipsjax.rounds.spec import Metrics, PerRound, RoundSpec, State
from lipsjax.strategy import ServerContext
from lipsjax.types import Array, PyTree, Variables


def run_round(
    spec: RoundSpec, data: ClientData, per_round: PerRound, state: State
) -> tuple[State, Metrics]:
    """Do one round: train, aggregate, decide what goes out, and measure all of it.

    Args:
      spec: static.
      data: all clients' examples, the same on every device.
      per_round: decisions for every round.
      state: after the rounds before; masks and client states are this device's share.

    Returns:
      The state after the round, and its metrics.
    """
    t = state.round
    measured = per_round.measured[t]
    cohort = draw_cohort(spec.run, spec.participation, state.key, t)
    slots = own_slots(spec.placement, cohort)
    sums, trained = train_cohort(spec, data, state, slots, measured)
    totals, participants = jax.lax.psum(sums, AXIS)
    global_model, server_state = _aggregate(spec, state, slots, totals, participants, trained)
    kernels = tree.kernels(global_model.params, spec.model.layers)
    updated = state._replace(
        round=t + 1,
        global_model=global_model,
        server_state=server_state,
        client_states=states_at_home(
            spec.placement, state.client_states, slots, trained.client_state
        ),
        reference=tree.select(t <= inertia.DRIFT_REFERENCE, kernels, state.reference),
    )
    dense = score_dense(spec, data, updated, slots, measured)
    new, after = broadcast(spec, data, per_round, updated, trained.gradient, dense)
    scalars, by_layer = {}, {}
    if spec.measures:
        scalars, by_layer = _measures(spec, data, state, new, totals, dense, after, measured)
    scalars["loss_train"] = totals.loss / totals.examples
    scalars |= _participants(spec, participants)
    scalars |= score_finetuned(spec, data, updated, slots, per_round.finetuned[t])
    return new, Metrics(scalars, by_layer, in_cohort_order(slots, trained.loss))


def _aggregate(
    spec: RoundSpec,
    state: State,
    slots: Slots,
    totals: Totals,
    participants: Participants,
    trained: Trained,
) -> tuple[Variables, PyTree]:
    """Return the new global model and server state; the old ones if nobody arrived."""
    strategy, run = spec.strategy, spec.run
    context = ServerContext(
        run=run,
        global_model=state.global_model,
        server_state=state.server_state,
        round=state.round,
        key=derive(state.key, 0, SERVER, Purpose.SERVER),
        arrived=participants.arrived,
        share=totals.weight / spec.total_weight,
    )
    new = strategy.update(context, _mean(spec, slots, totals, trained))
    if run.all_arrive:
        return new
    old = state.global_model, state.server_state
    return tree.select(participants.arrived > 0, new, old)


def _mean(spec: RoundSpec, slots: Slots, totals: Totals, trained: Trained) -> PyTree:
    """Return what stands for the mean message of those who arrived."""
    if spec.strategy.aggregate is None:
        return tree.scale(1 / totals.weight, totals.message)
    messages, arrived = jax.tree.map(
        lambda x: in_cohort_order(slots, x), (trained.message, trained.arrived.astype(jnp.int32))
    )
    return spec.strategy.aggregate(messages, arrived > 0)


def _participants(spec: RoundSpec, counts: Participants) -> dict[str, Array]:
    """Report how many clients arrived, and what became of the others."""
    if spec.run.all_arrive:
        return {}
    return {
        "clients_arrived": counts.arrived,
        "clients_dropped": counts.dropped,
        "clients_stopped": counts.stopped,
        "clients_straggled": counts.straggled,
        "steps_mean": counts.steps / counts.arrived,
    }


def _measures(
    spec: RoundSpec,
    data: ClientData,
    old: State,
    new: State,
    totals: Totals,
    dense: Personal | None,
    after: Personal | None,
    measured: Array,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the figures of a measured round, and those of each layer; NaN in other rounds."""
    own = totals.measured
    assert own is not None
    on_global = jax.lax.psum(score_global_share(spec, data, new.global_model, measured), AXIS)
    by_layer = _inertia(spec, own.deltas, old, new)
    scalars = {
        **named("before", own.before),
        **named("dense", dense),
        **named("after", after),
        "global_accuracy": on_global.accuracy,
        "global_loss": on_global.mean_loss,
        "global_accuracy_clients": mean(own.on_global).accuracy,
        "global_loss_clients": mean(own.on_global).loss,
        "inertia_index": inertia.inertia_index(by_layer["step"], spec.model.layers),
    }
    return jax.tree.map(lambda x: jnp.where(measured, x, jnp.nan), (scalars, by_layer))


def _inertia(
    spec: RoundSpec, deltas: inertia.DeltaSums, old: State, new: State
) -> dict[str, Array]:
    """Return every measure of :mod:`lipsjax.metrics.inertia`, [L] each."""
    layers = spec.model.layers
    before = tree.kernels(old.global_model.params, layers)
    now = tree.kernels(new.global_model.params, layers)
    drift = inertia.drift(now, new.reference)
    known = old.round >= inertia.DRIFT_REFERENCE
    return {
        **{name: jnp.where(known, values, jnp.nan) for name, values in drift.items()},
        "step": inertia.relative_step(now, before),
        **inertia.delta_measures(deltas, before),
    }
