"""What clients get after the last round: who trained and who never did, fine-tuned or not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.local import model_loss, train
from lipsjax.rounds.evaluation import MOST_LISTED, Personal, mean, score_own
from lipsjax.rounds.placement import (
    AXIS,
    Slots,
    in_cohort_order,
    new_client_slots,
    scan_chunks,
    states_in_slots,
)
from lipsjax.rounds.spec import RoundSpec, State, client_context
from lipsjax.types import Array, PyTree


class Scores(NamedTuple):
    """Sums over clients, or one client's own."""

    direct: Personal
    finetuned: Personal | None


class OfEach(NamedTuple):
    """Accuracy of each client in some slots, [slots]; NaN of one without test examples."""

    direct: Array
    finetuned: Array | None


def score_finetuned(
    spec: RoundSpec, data: ClientData, state: State, slots: Slots, is_due: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Score the cohort after fine-tuning, and new clients before and after it.

    A client begins with what it predicts with after the round, trains ``tune_epochs`` epochs on
    its own examples by ``strategy.finetune_optimizer``, and is scored on its own test set. New
    clients have the state of one that never trained.

    Args:
      spec: static.
      data: of all clients.
      state: after the round.
      slots: of the round that has ended.
      is_due: () bool, whether this is the round.

    Returns:
      ``accuracy_tuned``, ``accuracy_new``, ``accuracy_new_tuned``: those that are asked for; NaN in
      rounds that are not due. Then the accuracy of each new client, [new clients]: ``accuracy``
      and ``accuracy_tuned``, where there are no more than are listed.
    """
    if not (spec.tune_epochs or spec.new_clients):
        return {}, {}

    def everyone() -> tuple[dict[str, Array], dict[str, Array]]:
        scores, by_new = {}, {}
        if spec.tune_epochs:
            states = states_in_slots(spec.placement, state.client_states, slots)
            finetuned = _score(spec, data, state, slots, states)[0].finetuned
            assert finetuned is not None
            scores["accuracy_tuned"] = mean(finetuned).accuracy
        if spec.new_clients:
            (direct, finetuned), by_new = _score_new(spec, data, state)
            scores["accuracy_new"] = mean(direct).accuracy
            if finetuned is not None:
                scores["accuracy_new_tuned"] = mean(finetuned).accuracy
        return scores, by_new

    shapes = jax.eval_shape(everyone)
    nothing = jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)
    return jax.lax.cond(is_due, everyone, lambda: nothing)


def _score_new(spec: RoundSpec, data: ClientData, state: State) -> tuple[Scores, dict[str, Array]]:
    """Score clients that never trained: sums, and the accuracy of each."""
    initial = spec.model.init(derive(state.key, 0, SERVER, Purpose.INIT))
    slots = new_client_slots(spec.placement, spec.new_clients)
    states = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (len(slots.ids), *x.shape)),
        spec.strategy.init_client(spec.run, initial),
    )
    sums, of_each = _score(spec, data, state, slots, states)
    if spec.new_clients > MOST_LISTED:
        return sums, {}
    named = {"accuracy": of_each.direct, "accuracy_tuned": of_each.finetuned}
    return sums, {n: in_cohort_order(slots, x) for n, x in named.items() if x is not None}


def _score(
    spec: RoundSpec, data: ClientData, state: State, slots: Slots, states: PyTree
) -> tuple[Scores, OfEach]:
    """Score the clients in some slots: sums over all devices, and each that is here."""

    def one(client, client_state):
        return _score_one(spec, data, state, client, client_state)

    def share(ids, present, states):
        scores = jax.vmap(one)(ids, states)
        of_each = OfEach(scores.direct.known, scores.finetuned and scores.finetuned.known)
        return tree.weighted_sum(present, scores), of_each

    sums, of_each = scan_chunks(spec.placement, share, slots, states)
    return jax.lax.psum(sums, AXIS), of_each


def _score_one(
    spec: RoundSpec, data: ClientData, state: State, client: Array, client_state: PyTree
) -> Scores:
    """Score one client before and after it fine-tunes."""
    context = client_context(spec, data, state, client, client_state)
    start = spec.strategy.predict_with(context)
    direct = Personal.of(score_own(spec, data, client, start))
    if spec.tune_epochs == 0:
        return Scores(direct, None)
    optimizer = spec.strategy.finetune_optimizer(
        spec.training.optimizer, context._replace(variables=start)
    )
    result = train(
        derive(state.key, state.round - 1, client, Purpose.FINETUNING),
        start,
        data.train,
        data.train_index[client],
        data.train_mask[client],
        training=spec.training._replace(optimizer=optimizer, epochs=spec.tune_epochs),
        loss_fn=model_loss(spec.model),
        layers=spec.model.layers,
        ragged=spec.ragged,
        gradient_layers=(),
    )
    return Scores(direct, Personal.of(score_own(spec, data, client, result.variables)))
