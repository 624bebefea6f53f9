"""What goes out after a round: whose masks, chosen from what, and how good it is."""

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import Purpose, derive
from lipsjax.local import model_loss, whole_gradient
from lipsjax.rounds.decision import decide
from lipsjax.rounds.evaluation import Personal, score_own
from lipsjax.rounds.participation import draw_cohort
from lipsjax.rounds.placement import AXIS, own_slots, scan_chunks, states_in_slots
from lipsjax.rounds.spec import PerRound, RoundSpec, State, client_context, where_measured
from lipsjax.rounds.versions import began_in, is_whole, seen_in_turn
from lipsjax.strategy import ClientContext
from lipsjax.types import Array, Kernels, Variables


def broadcast(
    spec: RoundSpec,
    data: ClientData,
    per_round: PerRound,
    old: State,
    state: State,
    learned: Variables,
    last_gradient: Kernels,
    dense: Personal | None,
) -> tuple[State, Personal | None]:
    """Choose the masks of the next round's clients, and score what they will receive.

    Args:
      spec: static.
      data: of all clients.
      per_round: decisions for every round.
      old: before the round.
      state: after the round's update; ``round`` is that of the receivers.
      learned: what of the global model was learned.
      last_gradient: of the layers asked for, [slots, ...] of the round that ends.
      dense: scores of the dense global model.

    Returns:
      The state with masks on their way, and the personalised scores of the models that go out.
    """
    sparsifier, ended = spec.sparsifier, state.round - 1
    if sparsifier is None:
        return state, dense
    state, sparse, kept = decide(spec, per_round, ended, old, state, learned)
    receivers = draw_cohort(spec.run, spec.participation, state.key, state.round)
    slots = own_slots(spec.placement, *receivers)
    versions = began_in(spec, state.round, slots)

    def scores(client, client_state, last, version):
        seen = seen_in_turn(state, version).state
        context = client_context(spec, data, seen, client, client_state)
        if sparsifier.gradient == "fresh":
            gradient = _fresh_gradient(spec, data, context)
        elif sparsifier.gradient == "stored":
            gradient = sparsifier.stored(client_state).gradient
        else:
            gradient = sparsifier.last(last)
        key = derive(state.key, seen.round - 1, client, Purpose.MASK)
        return sparsifier.score(context.variables.params, gradient, key)

    def masks(client, client_state, last, version):
        of_version = kept if isinstance(version, tuple) else per_round.kept[version - 1]
        packed = sparsifier.mask(scores(client, client_state, last, version), of_version)
        if not isinstance(version, tuple):  # a mask that keeps all, as others of them may be sparse
            packed = _where(is_whole(per_round, version), jnp.uint8(255), packed)
        if sparsifier.gradient != "stored":
            return packed
        return _where(~sparsifier.stored(client_state).exists, jnp.uint8(255), packed)

    def after(client, client_state, packed, version):
        sent = seen_in_turn(state, version).state._replace(sparse=jnp.ones((), bool))
        context = client_context(spec, data, sent, client, client_state, packed)
        return Personal.of(score_own(spec, data, client, spec.strategy.predict_with(context)))

    def mean_scores(states):
        def share(ids, present, states, last, versions):
            count = jnp.sum(data.train_mask[ids], axis=1, dtype=jnp.int32)
            weight = jnp.where(present, spec.strategy.weight(count), 0)
            each = jax.vmap(scores)(ids, states, last, versions)
            weight = weight.astype(jax.tree.leaves(each)[0].dtype)
            return (tree.weighted_sum(weight, each), jnp.sum(weight)), ()

        sums, _ = scan_chunks(spec.placement, share, slots, states, last_gradient, versions)
        total, weight = jax.lax.psum(sums, AXIS)
        return tree.scale(1 / weight, total)

    def sparse_branch():
        states = states_in_slots(spec.placement, state.client_states, slots)
        common = sparsifier.mask(mean_scores(states), kept) if sparsifier.shared else None

        def share(ids, present, states, last, versions):
            if common is None:
                packed = jax.vmap(masks)(ids, states, last, versions)
            else:
                packed = jax.tree.map(lambda b: jnp.broadcast_to(b, (len(ids), *b.shape)), common)
            each = where_measured(
                spec,
                per_round.measured[ended],
                lambda: jax.vmap(after)(ids, states, packed, versions),
            )
            return tree.weighted_sum(present, each), packed

        sums, packed = scan_chunks(spec.placement, share, slots, states, last_gradient, versions)
        return packed, jax.lax.psum(sums, AXIS)

    packed, out = jax.lax.cond(sparse, sparse_branch, lambda: (state.packed_masks, dense))
    return state._replace(packed_masks=packed, sparse=sparse), out


def _where(condition: Array, value: Array, packed: Kernels) -> Kernels:
    """Replace the bytes of masks, where a condition is so."""
    return jax.tree.map(lambda bits: jnp.where(condition, value, bits), packed)


def _fresh_gradient(spec: RoundSpec, data: ClientData, context: ClientContext) -> Kernels:
    """Return a client's gradient of what it would start from, over all its examples."""
    client: Array = context.client_id
    gradient = whole_gradient(
        context.variables,
        data.train,
        data.train_index[client],
        data.train_mask[client],
        batch_size=spec.training.batch_size,
        loss_fn=spec.strategy.loss(model_loss(spec.model), context),
    )
    assert spec.sparsifier is not None
    return tree.kernels(gradient, spec.sparsifier.layers)
