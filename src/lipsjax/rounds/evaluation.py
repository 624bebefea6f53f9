"""Accuracy and loss of own, average and outgoing models, on own and global test sets."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.metrics.evaluation import Score, evaluate
from lipsjax.rounds.memory import recall
from lipsjax.rounds.spec import AXIS, Setup, Slots, Updated, scan_chunks, where_measured
from lipsjax.types import Array, Variables

EVALUATION_BATCH = 100
"""Examples predicted at once; bounds the memory of patches and leaves results alone."""


class Personal(NamedTuple):
    """Personalised scores, summed over clients so that each counts the same."""

    accuracy: Array
    loss: Array
    clients: Array

    @classmethod
    def of(cls, score: Score) -> "Personal":
        """Take one client's score."""
        return cls(score.accuracy, score.mean_loss, jnp.ones_like(score.loss))


def score_on(setup: Setup, data: ClientData, variables: Variables, index, mask) -> Score:
    """Score a model on some positions of the test split."""
    return evaluate(setup.model, variables, data.test, index, mask, batch_size=EVALUATION_BATCH)


def score_own(setup: Setup, data: ClientData, client: Array, variables: Variables) -> Score:
    """Score a model on a client's own test set."""
    index, mask = data.test_index[client], data.test_mask[client]
    return score_on(setup, data, variables, index, mask)


def score_global_share(setup: Setup, data: ClientData, average: Variables, measured: Array):
    """Score the average on this device's share of the global test set."""
    total = data.global_index.shape[0]
    share = -(-total // setup.devices)
    start = jax.lax.axis_index(AXIS) * share
    padded = jnp.pad(data.global_index, (0, share * setup.devices - total))
    index = jax.lax.dynamic_slice_in_dim(padded, start, share)
    mask = start + jnp.arange(share, dtype=jnp.int32) < total
    return where_measured(setup, measured, lambda: score_on(setup, data, average, index, mask))


def score_dense(
    setup: Setup, data: ClientData, now: Updated, slots: Slots, measured: Array
) -> Personal | None:
    """Score the dense average, as each client would receive it, on the cohort's own test sets."""
    average, server, clients = now

    def one(client, memory):
        variables = setup.strategy.receive(server, memory, average, None)
        own = setup.strategy.deploy(variables, memory)
        return Personal.of(score_own(setup, data, client, own))

    def share(ids, present, memory):
        return tree.weighted_sum(present, jax.vmap(one)(ids, memory)), ()

    def everyone():
        memory = recall(setup, clients, slots)
        return jax.lax.psum(scan_chunks(setup, share, slots, memory)[0], AXIS)

    return where_measured(setup, measured, everyone)


def mean(total: Personal) -> Personal:
    """Divide sums by the number of clients."""
    return Personal(total.accuracy / total.clients, total.loss / total.clients, total.clients)


def named(name: str, total: Personal | None) -> dict[str, Array]:
    """Return mean accuracy and loss under a name."""
    assert total is not None
    average = mean(total)
    return {f"accuracy_{name}": average.accuracy, f"loss_{name}": average.loss}
