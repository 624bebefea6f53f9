"""What clients get after the last round: who trained and who never did, fine-tuned or not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.local import model_loss, train
from lipsjax.rounds.evaluation import Personal, mean, score_own
from lipsjax.rounds.placement import AXIS, Slots, new_client_slots, scan_chunks, states_in_slots
from lipsjax.rounds.spec import RoundSpec, State, client_context
from lipsjax.types import Array, PyTree


class Scores(NamedTuple):
    """Sums over clients."""

    direct: Personal
    finetuned: Personal | None


def score_finetuned(
    spec: RoundSpec, data: ClientData, state: State, slots: Slots, is_due: Array
) -> dict[str, Array]:
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
      rounds that are not due.
    """
    if not (spec.tune_epochs or spec.new_clients):
        return {}

    def everyone() -> dict[str, Array]:
        scores = {}
        if spec.tune_epochs:
            states = states_in_slots(spec.placement, state.client_states, slots)
            finetuned = _score(spec, data, state, slots, states).finetuned
            assert finetuned is not None
            scores["accuracy_tuned"] = mean(finetuned).accuracy
        if spec.new_clients:
            direct, finetuned = _score_new(spec, data, state)
            scores["accuracy_new"] = mean(direct).accuracy
            if finetuned is not None:
                scores["accuracy_new_tuned"] = mean(finetuned).accuracy
        return scores

    shapes = jax.eval_shape(everyone)
    nothing = jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)
    return jax.lax.cond(is_due, everyone, lambda: nothing)


def _score_new(spec: RoundSpec, data: ClientData, state: State) -> Scores:
    """Score clients that never trained."""
    initial = spec.model.init(derive(state.key, 0, SERVER, Purpose.INIT))
    slots = new_client_slots(spec.placement, spec.new_clients)
    states = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (len(slots.ids), *x.shape)),
        spec.strategy.init_client(spec.run, initial),
    )
    return _score(spec, data, state, slots, states)


def _score(spec: RoundSpec, data: ClientData, state: State, slots: Slots, states: PyTree) -> Scores:
    """Score the clients in some slots, over all devices."""

    def one(client, client_state):
        return _score_one(spec, data, state, client, client_state)

    def share(ids, present, states):
        return tree.weighted_sum(present, jax.vmap(one)(ids, states)), ()

    return jax.lax.psum(scan_chunks(spec.placement, share, slots, states)[0], AXIS)


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
