"""What clients remember between rounds: where it lies, and how it reaches who trains.

Every client's state lies on one device, its home, in the process that holds its examples; so memory
is [K / devices, ...] on each. Where all clients take part they train at home and nothing moves. Of
a cohort, the states go to where its clients train and back, [C, ...] each way.
"""

import jax
import jax.numpy as jnp

from lipsjax.rounds.spec import AXIS, Setup, Slots, homes
from lipsjax.types import Array, PyTree


def recall(setup: Setup, clients: PyTree, slots: Slots) -> PyTree:
    """Return the states of the clients in this device's slots.

    Args:
      setup: static.
      clients: states that are at home here, [rows, ...] each.
      slots: of this device.

    Returns:
      [slots, ...] each; anything on padding.
    """
    if not jax.tree.leaves(clients):
        return clients
    if setup.all_take_part:  # slots and rows are the same clients in the same order
        extra = setup.slots - setup.rows
        return jax.tree.map(lambda x: jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)), clients)
    row, is_here = _rows(setup, slots.everyone)

    def send(x):
        mine = jnp.where(is_here.reshape(-1, *[1] * (x.ndim - 1)), x[row], 0)
        return jax.lax.psum(mine, AXIS)[slots.position].astype(x.dtype)

    return jax.tree.map(send, clients)


def remember(setup: Setup, clients: PyTree, slots: Slots, memory: PyTree) -> PyTree:
    """Bring the new states of the slots' clients home; undo :func:`recall`."""
    if not jax.tree.leaves(clients):
        return clients
    if setup.all_take_part:
        return jax.tree.map(lambda x: x[: setup.rows], memory)
    row, is_here = _rows(setup, slots.everyone)
    row = jnp.where(is_here, row, setup.rows)

    def take(old, new):
        empty = jnp.zeros((setup.cohort, *new.shape[1:]), new.dtype)
        everyone = jax.lax.psum(empty.at[slots.position].set(new, mode="drop"), AXIS)
        return old.at[row].set(everyone.astype(old.dtype), mode="drop")

    return jax.tree.map(take, clients, memory)


def _rows(setup: Setup, ids: Array) -> tuple[Array, Array]:
    """Return the row of each client's state here, and whether its home is here."""
    row = homes(setup, ids) - jax.lax.axis_index(AXIS) * setup.rows
    is_here = (row >= 0) & (row < setup.rows)
    return jnp.where(is_here, row, 0), is_here
