"""Past versions of the global model, where clients do not wait for each other.

The state carries a ring of the last versions. In a turn a client sees the version that it began
with, and all that is drawn or scheduled for it is of that version; in rounds there is but the
newest, and what is here does nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax.rounds.placement import Slots
from lipsjax.rounds.spec import PerRound, RoundSpec, State
from lipsjax.types import Array, PyTree, Variables


class Seen(NamedTuple):
    """The state as a client sees it in its turn."""

    state: State
    staleness: Array | int  # () int32, updates of the server since then


def start_past(spec: RoundSpec, model: Variables) -> PyTree:
    """Return the ring before the first update: the initial model throughout; () in rounds."""
    turns = spec.participation.turns
    if turns is None:
        return ()
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (turns.versions, *x.shape)), model)


def remember_model(state: State) -> State:
    """Put the newest global model, version ``state.round``, into the ring."""
    if state.past == ():
        return state
    past = jax.tree.map(
        lambda ring, x: ring.at[state.round % len(ring)].set(x), state.past, state.global_model
    )
    return state._replace(past=past)


def began_in(spec: RoundSpec, update: Array, slots: Slots) -> Array | tuple[()]:
    """Return the version that the turns of an update began with, [slots] int32; () in rounds.

    Args:
      spec: static.
      update: () int32, in which the turns end.
      slots: of its clients; padding sees the newest version.
    """
    turns = spec.participation.turns
    if turns is None:
        return ()
    row = jnp.asarray(turns.began, jnp.int32)[update]
    return jnp.append(row, update.astype(jnp.int32))[slots.position]


def seen_in_turn(state: State, version: Array | tuple[()]) -> Seen:
    """Return the state that a client sees that began with a version; in rounds, as it is.

    Args:
      state: before the update in which the turn ends.
      version: () int32.
    """
    if isinstance(version, tuple):
        return Seen(state, 0)
    model = jax.tree.map(lambda ring: ring[version % len(ring)], state.past)
    return Seen(state._replace(round=version, global_model=model), state.round - version)


def is_whole(per_round: PerRound, version: Array) -> Array:
    """Tell whether a version goes out whole, () bool: the first, and those that are not sparse."""
    return (version == 0) | (per_round.density[jnp.maximum(version - 1, 0)] >= 1)
