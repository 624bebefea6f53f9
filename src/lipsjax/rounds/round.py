"""One communication round, as one device sees it: its share of the cohort, in chunks of a vmap.

Everything here runs inside ``shard_map`` over the ``clients`` axis: sums over the cohort end in
``psum``, and nothing else crosses devices but the states of a cohort's clients, where a strategy
keeps any (:mod:`lipsjax.rounds.memory`).
Clients pass through a scan over chunks that carries weighted sums, so memory does not grow with
their number.
"""

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.metrics import inertia
from lipsjax.metrics.inertia import Movement
from lipsjax.rounds.broadcast import deliver
from lipsjax.rounds.client_update import Totals, Trained, Turnout, train_cohort
from lipsjax.rounds.evaluation import mean, named, score_dense, score_global_share
from lipsjax.rounds.finetuning import score_tuned
from lipsjax.rounds.memory import remember
from lipsjax.rounds.spec import (
    AXIS,
    Metrics,
    Setup,
    Slots,
    State,
    Tables,
    Updated,
    in_order,
    my_slots,
)
from lipsjax.types import Array, PyTree


def run_round(
    setup: Setup, key: Array, data: ClientData, tables: Tables, state: State
) -> tuple[State, Metrics]:
    """Do one round: train, average, decide what goes out, and measure all of it.

    Args:
      setup: static.
      key: the run's root key; not consumed.
      data: all clients' examples, the same on every device.
      tables: per-round decisions.
      state: after the rounds before; ``bits`` and ``clients`` are this device's share.

    Returns:
      The state after the round, and its metrics.
    """
    strategy, t = setup.strategy, state.round
    measured = tables.measured[t]
    slots = my_slots(setup, key, t)
    sums, trained = train_cohort(setup, key, data, state, slots, measured)
    totals, turnout = jax.lax.psum(sums, AXIS)
    message = _mean(setup, slots, totals, trained)
    average, server = strategy.update(state.server, state.average, message)
    if not setup.participation.all_arrive:  # a round that nobody ends changes nothing
        some = totals.weight > 0
        old = state.average, state.server
        average, server = tree.select(some, (average, server), old)
    clients = remember(setup, state.clients, slots, trained.memory)
    now = Updated(average, server, clients)
    dense = score_dense(setup, data, now, slots, measured)
    bits, sparse, after = deliver(setup, key, data, tables, now, state, trained.gradient, dense)
    kernels = tree.kernels(average.params, setup.model.layers)
    reference = tree.select(t <= inertia.DRIFT_REFERENCE, kernels, state.reference)
    new = State(t + 1, average, server, clients, bits, sparse, tables.density[t], reference)
    scalars, by_layer = {}, {}
    if setup.measures:
        on_global = jax.lax.psum(score_global_share(setup, data, average, measured), AXIS)
        by_layer = _inertia(setup, totals.measured.movement, state, new)
        scalars = {
            **named("before", totals.measured.before),
            **named("dense", dense),
            **named("after", after),
            "global_accuracy": on_global.accuracy,
            "global_loss": on_global.mean_loss,
            "global_accuracy_clients": mean(totals.measured.on_global).accuracy,
            "global_loss_clients": mean(totals.measured.on_global).loss,
            "inertia_index": inertia.inertia_index(by_layer["step"], setup.model.layers),
        }
        scalars, by_layer = jax.tree.map(
            lambda x: jnp.where(measured, x, jnp.nan), (scalars, by_layer)
        )
    scalars["loss_train"] = totals.loss / totals.examples
    scalars |= _turnout(setup, turnout)
    scalars |= score_tuned(setup, key, data, now, slots, t, tables.tuned[t])
    return new, Metrics(scalars, by_layer, in_order(setup, slots, trained.loss))


def _mean(setup: Setup, slots: Slots, totals: Totals, trained: Trained) -> PyTree:
    """Return what stands for the mean message of those who arrived."""
    if setup.strategy.aggregate is None:
        return tree.scale(1 / totals.weight, totals.message)
    messages, arrived = jax.tree.map(
        lambda x: in_order(setup, slots, x), (trained.message, trained.arrived.astype(jnp.int32))
    )
    return setup.strategy.aggregate(messages, arrived > 0)


def _turnout(setup: Setup, turnout: Turnout) -> dict[str, Array]:
    """Report how many clients arrived, and what became of the others."""
    if setup.participation.all_arrive:
        return {}
    counts = turnout._replace(steps=turnout.steps / turnout.arrived)._asdict()
    names = {"steps": "steps_mean"}
    return {names.get(name, f"clients_{name}"): value for name, value in counts.items()}


def _inertia(setup: Setup, moved: Movement, old: State, new: State) -> dict[str, Array]:
    """Return every measure of :mod:`lipsjax.metrics.inertia`, [L] each."""
    layers = setup.model.layers
    before = tree.kernels(old.average.params, layers)
    now = tree.kernels(new.average.params, layers)
    drift = inertia.drift(now, new.reference)
    known = old.round >= inertia.DRIFT_REFERENCE
    return {
        **{name: jnp.where(known, values, jnp.nan) for name, values in drift.items()},
        "step": inertia.step(now, before),
        **inertia.movement_measures(moved, before),
    }
