"""One communication round, as one device sees it: its share of the cohort, in chunks of a vmap.

Everything here runs inside ``shard_map`` over the ``clients`` axis: sums over the cohort end in
``psum``, and nothing else crosses devices but the states of a cohort's clients, where a strategy
keeps any (:mod:`lipsjax.rounds.placement`).
Clients pass through a scan over chunks that carries weighted sums, so memory does not grow with
their number.
"""

import math

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.metrics import inertia
from lipsjax.rounds.broadcast import broadcast
from lipsjax.rounds.client_update import Participants, Totals, Trained, train_cohort
from lipsjax.rounds.decision import density_levels
from lipsjax.rounds.evaluation import (
    DenseScores,
    Personal,
    mean,
    named,
    score_dense,
    score_global_share,
)
from lipsjax.rounds.finetuning import score_finetuned
from lipsjax.rounds.participation import draw_cohort
from lipsjax.rounds.placement import AXIS, Slots, in_cohort_order, own_slots, states_at_home
from lipsjax.rounds.spec import Metrics, PerRound, RoundSpec, State
from lipsjax.rounds.versions import remember_model
from lipsjax.sparsity.topk import unpack
from lipsjax.strategy import Rank, ServerContext
from lipsjax.types import Array, Kernels, PyTree, Variables


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
    slots = own_slots(spec.placement, *cohort)
    sums, trained = train_cohort(spec, data, state, slots, measured)
    totals, participants = jax.lax.psum(sums, AXIS)
    (global_model, server_state), learned, of_strategy = _aggregate(
        spec, state, slots, totals, participants, trained
    )
    kernels = tree.kernels(global_model.params, spec.model.layers)
    updated = remember_model(
        state._replace(
            round=t + 1,
            global_model=global_model,
            server_state=server_state,
            client_states=states_at_home(
                spec.placement, state.client_states, slots, trained.client_state
            ),
            reference=tree.select(t <= inertia.DRIFT_REFERENCE, kernels, state.reference),
        )
    )
    dense = score_dense(spec, data, updated, slots, trained.arrived, measured)
    new, after = broadcast(
        spec, data, per_round, state, updated, learned, trained.gradient, dense and dense.cohort
    )
    scalars, by_layer, by = {}, {}, {}
    if spec.measures:
        by_layer = _inertia(spec, totals, state, new, learned)
        scalars, by = _scores(spec, data, new, totals, dense, after, measured)
        scalars["inertia_index"] = inertia.inertia_index(by_layer["step"], spec.model.layers)
        scalars |= _own_measures(spec, state.global_model, new.global_model, set(scalars))
        scalars, by_layer, by = jax.tree.map(
            lambda x: jnp.where(measured, x, jnp.nan), (scalars, by_layer, by)
        )
    by_layer |= density_levels(spec, new)
    scalars["loss_train"] = totals.loss / totals.examples
    scalars |= _participants(spec, participants) | _staleness(spec, t) | of_strategy
    at_the_end, of_new = score_finetuned(spec, data, updated, slots, per_round.finetuned[t])
    scalars |= at_the_end
    if of_new:
        by["new_clients"] = of_new
    losses = in_cohort_order(slots, jnp.where(slots.present, trained.loss, 0))
    return new, Metrics(scalars, by_layer, losses, by)


def _aggregate(
    spec: RoundSpec,
    state: State,
    slots: Slots,
    totals: Totals,
    participants: Participants,
    trained: Trained,
) -> tuple[tuple[Variables, PyTree], Variables, dict[str, Array]]:
    """Return the new global model and server state, what was learned, and the strategy's numbers.

    If nobody arrived, nothing is new, but of a strategy that protects its clients: whether anybody
    came must not show.
    """
    strategy, run = spec.strategy, spec.run
    context = ServerContext(
        run=run,
        global_model=state.global_model,
        server_state=state.server_state,
        round=state.round,
        key=derive(state.key, 0, SERVER, Purpose.SERVER),
        arrived=participants.arrived,
        share=totals.weight / spec.total_weight,
        held=_held(spec, state, slots, trained.arrived),
    )
    mean = _mean(spec, context, slots, totals, trained)
    new = strategy.update(context, mean)
    learned = strategy.learned(context, mean, new[0])
    scalars = strategy.scalars(context, mean) if strategy.scalars is not None else {}
    if (run.all_arrive and not run.poisson) or Rank.PRIVATE in strategy.wrappers:
        return new, learned, scalars
    old = (state.global_model, state.server_state), state.global_model
    return *tree.select(participants.arrived > 0, (new, learned), old), scalars


def _held(spec: RoundSpec, state: State, slots: Slots, arrived: Array) -> Kernels | None:
    """Return which masked weights no arrived client could train; None: no masks hold.

    What feedback, momentum at the server or a fault brings there is not counted either.
    """
    sparsifier = spec.sparsifier
    if sparsifier is None or sparsifier.hold < math.inf:
        return None
    trained = slots.present & arrived

    def one(bits: Array, kernel: Array) -> Array:
        of_each = jnp.where(trained[:, None], bits, jnp.uint8(0))
        kept = unpack(jnp.bitwise_or.reduce(of_each, axis=0), kernel.shape)
        return state.sparse & (jax.lax.psum(kept.astype(jnp.int32), AXIS) == 0)

    kernels = tree.kernels(state.global_model.params, sparsifier.layers)
    return jax.tree.map(one, state.packed_masks, kernels)


def _mean(
    spec: RoundSpec, context: ServerContext, slots: Slots, totals: Totals, trained: Trained
) -> PyTree:
    """Return what stands for the mean message of those who arrived."""
    if spec.strategy.combine is not None:
        return spec.strategy.combine(context, totals.message)
    if spec.strategy.aggregate is None:
        return tree.scale(1 / totals.weight, totals.message)
    messages, arrived = jax.tree.map(
        lambda x: in_cohort_order(slots, x),
        (trained.message, (trained.arrived & slots.present).astype(jnp.int32)),
    )
    return spec.strategy.aggregate(messages, arrived > 0)


def _participants(spec: RoundSpec, counts: Participants) -> dict[str, Array]:
    """Report how many clients arrived, and what became of the others."""
    if spec.run.poisson and spec.run.all_arrive:
        return {"clients_arrived": counts.arrived}
    if spec.run.all_arrive:
        return {}
    return {
        "clients_arrived": counts.arrived,
        "clients_dropped": counts.dropped,
        "clients_stopped": counts.stopped,
        "clients_straggled": counts.straggled,
        "steps_mean": counts.steps / counts.arrived,
    }


def _staleness(spec: RoundSpec, update: Array) -> dict[str, Array]:
    """Report how many updates the turns of this one lasted on average; nothing in rounds."""
    turns = spec.participation.turns
    if turns is None:
        return {}
    return {"staleness": jnp.asarray(turns.staleness.mean(1), jnp.float32)[update]}


def _scores(
    spec: RoundSpec,
    data: ClientData,
    new: State,
    totals: Totals,
    dense: DenseScores | None,
    after: Personal | None,
    measured: Array,
) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
    """Return accuracies and losses, and accuracy of each client and of each class."""
    assert totals.measured is not None
    assert dense is not None
    own = totals.measured
    on_global, of_class = jax.lax.psum(
        score_global_share(spec, data, new.global_model, measured), AXIS
    )
    by = {"classes": {"accuracy": of_class.accuracy}}
    if dense.of_each is not None:
        by["clients"] = {"accuracy": dense.of_each}
    scores = {
        **named("before", own.before),
        **named("dense", dense.cohort),
        **named("after", after),
        "global_accuracy": on_global.accuracy,
        "global_loss": on_global.mean_loss,
        "global_accuracy_clients": mean(own.on_global).accuracy,
        "global_loss_clients": mean(own.on_global).loss,
    }
    # what aggregation gains is over the same clients before and after
    if not spec.run.all_arrive or spec.participation.turns is not None:
        scores |= named("dense_arrived", dense.arrived)
    return scores, by


def _own_measures(
    spec: RoundSpec, old: Variables, new: Variables, taken: set[str]
) -> dict[str, Array]:
    """Return what measures from outside make of a round; what is not finite is not defined.

    Raises:
      ValueError: for a name that is taken.
    """
    found: dict[str, Array] = {}
    for measure in spec.own_measures:
        for name, value in measure(old.params, new.params, spec.model.layers).items():
            if name in taken or name in found:
                raise ValueError(f"two measures are called {name}")
            value = jnp.asarray(value, jnp.float32)
            found[name] = jnp.where(jnp.isfinite(value), value, jnp.nan)
    return found


def _inertia(
    spec: RoundSpec, totals: Totals, old: State, new: State, learned: Variables
) -> dict[str, Array]:
    """Return every measure of :mod:`lipsjax.metrics.inertia`, [L] each.

    The step is of what was learned: weights that a rule has set have not moved by it.
    """
    assert totals.measured is not None
    layers = spec.model.layers
    before = tree.kernels(old.global_model.params, layers)
    now = tree.kernels(new.global_model.params, layers)
    drift = inertia.drift(now, new.reference)
    known = old.round >= inertia.DRIFT_REFERENCE
    return {
        **{name: jnp.where(known, values, jnp.nan) for name, values in drift.items()},
        "step": inertia.relative_step(tree.kernels(learned.params, layers), before),
        **inertia.delta_measures(totals.measured.deltas, before),
    }
