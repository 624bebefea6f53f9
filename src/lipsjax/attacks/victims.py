"""One round of some clients, done again: what each began with, and what it sent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax.clients import ClientData
from lipsjax.rounds import RoundSpec, State
from lipsjax.rounds.client_update import Turn, take_turn
from lipsjax.rounds.versions import Seen
from lipsjax.types import Array, PyTree


class Moment(NamedTuple):
    """The state before a round, as a checkpoint has it: clients by id, masks by the cohort."""

    state: State
    cohort: np.ndarray  # [C] ids of the clients of the round


class Given(NamedTuple):
    """Of one client, what its round begins with beside the common state."""

    client: Array  # () int32
    client_state: PyTree
    packed_masks: PyTree


def moment(host: dict[str, Any], cohort: np.ndarray) -> Moment:
    """Return the state of a checkpoint as arrays of one device."""
    state = State(**jax.tree.map(jnp.asarray, host))
    return Moment(state._replace(key=jax.random.wrap_key_data(state.key)), cohort)


def given_to(when: Moment, clients: np.ndarray) -> Given:
    """Return what clients of a round's cohort begin with, stacked.

    Raises:
      ValueError: for a client that takes no part in the round.
    """
    place = {int(client): i for i, client in enumerate(when.cohort)}
    absent = [int(client) for client in clients if int(client) not in place]
    if absent:
        there = ", ".join(map(str, sorted(place)[:20])) + (", ..." if len(place) > 20 else "")
        raise ValueError(
            f"client {absent[0]} takes no part in round {int(when.state.round)}; allowed are "
            f"{there}"
        )
    rows = jnp.asarray([place[int(client)] for client in clients])
    ids = jnp.asarray(clients, jnp.int32)
    return Given(
        ids,
        jax.tree.map(lambda x: x[ids], when.state.client_states),
        jax.tree.map(lambda x: x[rows], when.state.packed_masks),
    )


def turn_of(spec: RoundSpec, data: ClientData, when: Moment, given: Given) -> Turn:
    """Let one client do its part of a round, by the code that the round runs."""
    return take_turn(spec, data, Seen(when.state, 0), *given)


def in_chunks(function: Callable[[Any], PyTree], rows: PyTree, *, chunk: int) -> list[PyTree]:
    """Call a function of rows, stacked, on a chunk of them after the other.

    The last chunk is filled up with its last row, so that all are one program; what that adds is
    dropped.

    Args:
      function: of rows [chunk, ...], to results [chunk, ...].
      rows: [N, ...].
      chunk: rows of a call; memory grows with it, and with nothing else.

    Returns:
      Results of each row, on the host.

    Example:
      >>> [int(x) for x in in_chunks(lambda x: 2 * x, jnp.arange(3), chunk=2)]
      [0, 2, 4]
    """
    (size,) = {len(x) for x in jax.tree.leaves(rows)}
    found = []
    for first in range(0, size, chunk):
        index = np.minimum(np.arange(first, first + chunk), size - 1)
        results = jax.device_get(function(jax.tree.map(lambda x, i=index: x[i], rows)))
        kept = min(chunk, size - first)
        found += [jax.tree.map(lambda x, i=i: np.asarray(x[i]), results) for i in range(kept)]
    return found
