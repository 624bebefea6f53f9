"""What clients get after the last round: who trained and who never did, fine-tuned or not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.local import model_loss, train
from lipsjax.rounds.evaluation import Personal, mean, score_own
from lipsjax.rounds.memory import recall
from lipsjax.rounds.spec import AXIS, Setup, Slots, Updated, new_slots, scan_chunks
from lipsjax.types import Array, PyTree, Received


class Scores(NamedTuple):
    """Sums over clients."""

    direct: Personal
    tuned: Personal | None


def score_tuned(
    setup: Setup,
    key: Array,
    data: ClientData,
    now: Updated,
    slots: Slots,
    t: Array,
    is_due: Array,
) -> dict[str, Array]:
    """Score the cohort after fine-tuning, and new clients before and after it.

    A client begins with what it predicts with after the round, trains ``tune_epochs`` epochs on its
    own examples by ``strategy.adapt``, and is scored on its own test set. New clients have the
    state of one that never trained.

    Returns:
      ``accuracy_tuned``, ``accuracy_new``, ``accuracy_new_tuned``: those that are asked for; NaN in
      rounds that are not due.
    """
    strategy, epochs = setup.strategy, setup.tune_epochs

    def one(client: Array, memory: PyTree) -> Scores:
        received = Received(
            strategy.receive(now.server, memory, now.average, None), now.server, memory, None
        )
        start = strategy.deploy(received.variables, memory)
        direct = Personal.of(score_own(setup, data, client, start))
        if epochs == 0:
            return Scores(direct, None)
        received = received._replace(variables=start, client_id=client)
        result = train(
            derive(key, t, client, Purpose.TUNING),
            received,
            data.train,
            data.train_index[client],
            data.train_mask[client],
            training=setup.training._replace(
                optimizer=strategy.adapt(setup.training.optimizer, received), epochs=epochs
            ),
            loss_fn=model_loss(setup.model),
            layers=setup.model.layers,
            ragged=setup.ragged,
            gradient_layers=(),
        )
        return Scores(direct, Personal.of(score_own(setup, data, client, result.variables)))

    def share(ids, present, memory):
        return tree.weighted_sum(present, jax.vmap(one)(ids, memory)), ()

    def of(slots: Slots, memory: PyTree) -> Scores:
        return jax.lax.psum(scan_chunks(setup, share, slots, memory)[0], AXIS)

    def new() -> Scores:
        initial = setup.model.init(derive(key, 0, SERVER, Purpose.INIT))
        slots = new_slots(setup)
        memory = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (len(slots.ids), *x.shape)), strategy.init_client(initial)
        )
        return of(slots, memory)

    def everyone() -> dict[str, Array]:
        scores = {}
        if epochs:
            tuned = of(slots, recall(setup, now.clients, slots)).tuned
            assert tuned is not None
            scores["accuracy_tuned"] = mean(tuned).accuracy
        if setup.new_clients:
            direct, tuned = new()
            scores["accuracy_new"] = mean(direct).accuracy
            if tuned is not None:
                scores["accuracy_new_tuned"] = mean(tuned).accuracy
        return scores

    if not (epochs or setup.new_clients):
        return {}
    shapes = jax.eval_shape(everyone)
    nothing = jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)
    return jax.lax.cond(is_due, everyone, lambda: nothing)
