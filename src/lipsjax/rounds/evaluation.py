"""Accuracy and loss of clients' own, global and outgoing models, on own and global test sets."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.metrics.evaluation import ByClass, Score, evaluate, evaluate_by_class
from lipsjax.rounds.placement import (
    AXIS,
    Slots,
    by_client,
    own_slots,
    scan_chunks,
    states_in_slots,
)
from lipsjax.rounds.spec import RoundSpec, State, client_context, where_measured
from lipsjax.types import Array, Variables

EVALUATION_BATCH = 100
"""Examples predicted at once; bounds the memory of patches and leaves results alone."""

MOST_LISTED = 1_000
"""Clients up to which the accuracy of each is kept: of more, little else would be recorded."""


class Personal(NamedTuple):
    """Personalised scores, summed over clients so that each that has test examples counts alike."""

    accuracy: Array
    loss: Array
    clients: Array

    @classmethod
    def of(cls, score: Score) -> "Personal":
        """Take one client's score; a client without test examples counts as none."""
        has_any = (score.examples > 0).astype(score.loss.dtype)
        score = score._replace(examples=jnp.maximum(score.examples, 1))
        return cls(score.accuracy, score.mean_loss, has_any)

    @property
    def known(self) -> Array:
        """Accuracy of one client; NaN of a client without test examples."""
        return jnp.where(self.clients > 0, self.accuracy, jnp.nan)


def score_on(spec: RoundSpec, data: ClientData, variables: Variables, index, mask) -> Score:
    """Score a model on some positions of the test split."""
    return evaluate(spec.model, variables, data.test, index, mask, batch_size=EVALUATION_BATCH)


def score_own(spec: RoundSpec, data: ClientData, client: Array, variables: Variables) -> Score:
    """Score a model on a client's own test set."""
    index, mask = data.test_index[client], data.test_mask[client]
    return score_on(spec, data, variables, index, mask)


def score_global_share(
    spec: RoundSpec, data: ClientData, model: Variables, measured: Array
) -> tuple[Score, ByClass]:
    """Score the global model on this device's share of the global test set, by class too."""
    total, devices = data.global_index.shape[0], spec.placement.devices
    share = -(-total // devices)
    start = jax.lax.axis_index(AXIS) * share
    padded = jnp.pad(data.global_index, (0, share * devices - total))
    index = jax.lax.dynamic_slice_in_dim(padded, start, share)
    mask = start + jnp.arange(share, dtype=jnp.int32) < total

    def share_of_all():
        pool, size = data.test, EVALUATION_BATCH
        return evaluate_by_class(spec.model, model, pool, index, mask, batch_size=size)

    found = where_measured(spec, measured, share_of_all)
    assert found is not None
    return found


class DenseScores(NamedTuple):
    """Scores of the dense global model, summed."""

    cohort: Personal  # over all that were drawn; over all clients, where they take turns
    arrived: Personal  # over those whose own models were scored in the round
    of_each: Array | None  # [K] accuracy, NaN of who was not drawn; None of more than MOST_LISTED


def score_dense(
    spec: RoundSpec, data: ClientData, state: State, slots: Slots, arrived: Array, measured: Array
) -> DenseScores | None:
    """Score the dense global model, as each client would receive it, on the cohort's test sets.

    Where clients take turns, the fast ones would stand for all: then every client's test set counts
    in every update.
    """
    if spec.participation.turns is not None:
        spec, slots, arrived = _everybody(spec, slots)

    def one(client, client_state):
        context = client_context(spec, data, state, client, client_state)
        return Personal.of(score_own(spec, data, client, spec.strategy.predict_with(context)))

    def share(ids, present, states, arrived):
        scores = jax.vmap(one)(ids, states)
        sums = (tree.weighted_sum(weight, scores) for weight in (present, present & arrived))
        return tuple(sums), scores.known

    def everyone():
        states = states_in_slots(spec.placement, state.client_states, slots)
        sums, accuracy = scan_chunks(spec.placement, share, slots, states, arrived)
        clients = spec.placement.num_clients
        of_each = by_client(slots, accuracy, clients) if clients <= MOST_LISTED else None
        found = DenseScores(*jax.lax.psum((*sums, of_each), AXIS))
        if found.of_each is None:
            return found
        return found._replace(of_each=_drawn_alone(slots, found.of_each))

    return where_measured(spec, measured, everyone)


def _everybody(spec: RoundSpec, slots: Slots) -> tuple[RoundSpec, Slots, Array]:
    """Return a spec and slots of all clients, and which of them are in the slots given."""
    clients = spec.placement.num_clients
    spec = spec._replace(placement=spec.placement._replace(cohort=clients))
    everyone = jnp.arange(clients, dtype=jnp.int32)
    all_slots = own_slots(spec.placement, everyone, clients)
    is_among = jnp.zeros(clients, bool).at[slots.everyone].set(True)
    return spec, all_slots, is_among[all_slots.ids]


def _drawn_alone(slots: Slots, values: Array) -> Array:
    """Return values [K] of a cohort's clients, NaN of all others."""
    is_drawn = jnp.zeros(len(values), bool).at[slots.everyone].set(slots.drawn, mode="drop")
    return jnp.where(is_drawn, values, jnp.nan)


def mean(total: Personal) -> Personal:
    """Divide sums by the number of clients."""
    return Personal(total.accuracy / total.clients, total.loss / total.clients, total.clients)


def named(name: str, total: Personal | None) -> dict[str, Array]:
    """Return mean accuracy and loss under a name."""
    assert total is not None
    average = mean(total)
    return {f"accuracy_{name}": average.accuracy, f"loss_{name}": average.loss}
