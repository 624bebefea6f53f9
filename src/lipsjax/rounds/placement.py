"""Where clients are: which device trains each client of a round, and where its state lies.

Every client's state lies on one device, its *home*, in the process that holds its examples; so
states are [rows, ...] on each device. A client of a round trains in a *slot* of a device, at home
if all clients take part; of a cohort, states travel to where their clients train and back, [C, ...]
each way.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax.types import Array, PyTree

AXIS = "clients"


class Placement(NamedTuple):
    """How clients are spread over devices; all static."""

    num_clients: int  # K that train
    cohort: int  # C, or slots of a Poisson cohort
    devices: int
    processes: int  # each has as many devices, next to each other in the mesh
    chunk: int  # clients that a device trains at once, as one vmap
    poisson: bool = False  # whether the cohort has slots for more clients than it may have

    @property
    def local_devices(self) -> int:
        """Devices of one process."""
        return self.devices // self.processes

    @property
    def block(self) -> int:
        """Clients whose examples one process holds."""
        return -(-self.num_clients // self.processes)

    @property
    def slots(self) -> int:
        """Places for clients on each device, padded to whole chunks.

        Of several processes each trains its own clients, so that one may have to train as many of
        a cohort as it has.
        """
        per_device = -(-min(self.cohort, self.block) // self.local_devices)
        return -(-per_device // self.chunk) * self.chunk

    @property
    def rows(self) -> int:
        """Clients whose state lies on one device."""
        return -(-self.block // self.local_devices)

    @property
    def all_take_part(self) -> bool:
        """Whether every client trains in every round."""
        return self.cohort == self.num_clients and not self.poisson


class Slots(NamedTuple):
    """One device's share of a cohort."""

    everyone: Array  # [C] int32, the cohort
    drawn: Array  # [C] bool, which of them take part: all, but of a Poisson cohort
    ids: Array  # [slots] int32
    present: Array  # [slots] bool, False on padding and of who is not drawn
    position: Array  # [slots] int32, in the cohort; C on padding


def home_of(placement: Placement, ids: Array) -> Array:
    """Return where the states of clients lie: ``device * rows + row``, int32 like ids.

    The clients of a process are dealt out to its devices in blocks.
    """
    of_process = placement.local_devices * placement.rows
    return ids // placement.block * of_process + ids % placement.block


def slot_of(placement: Placement, ids: Array) -> Array:
    """Return where each client of a cohort trains: ``device * slots + slot``, [C] int32.

    At home, if all take part; of a cohort, a client goes to the process that holds its examples,
    and there to the devices in turn.

    Args:
      placement: static.
      ids: [C] the cohort.
    """
    if placement.all_take_part:
        home = home_of(placement, ids)
        return home // placement.rows * placement.slots + home % placement.rows
    owner = ids // placement.block
    of_owner = owner[:, None] == jnp.arange(placement.processes)
    rank = jnp.sum((jnp.cumsum(of_owner, axis=0, dtype=jnp.int32) - 1) * of_owner, axis=1)
    local = placement.local_devices
    return (owner * local + rank % local) * placement.slots + rank // local


def own_slots(placement: Placement, cohort: Array, drawn: Array | int) -> Slots:
    """Return this device's share of a cohort [C], of which the first so many are drawn."""
    size = len(cohort)
    padding = jnp.full(placement.devices * placement.slots, size, jnp.int32)
    position = padding.at[slot_of(placement, cohort)].set(jnp.arange(size, dtype=jnp.int32))
    mine = jax.lax.dynamic_slice_in_dim(
        position, jax.lax.axis_index(AXIS) * placement.slots, placement.slots
    )
    ids, drawn = jnp.where(mine < size, cohort[mine], 0), jnp.minimum(drawn, size)
    return Slots(cohort, jnp.arange(size, dtype=jnp.int32) < drawn, ids, mine < drawn, mine)


def new_client_slots(placement: Placement, new_clients: int) -> Slots:
    """Return this device's share of the clients that never train, whose ids follow the others'."""
    first = placement.num_clients
    here = -(-new_clients // placement.devices)
    here = -(-here // placement.chunk) * placement.chunk
    position = jax.lax.axis_index(AXIS) * here + jnp.arange(here, dtype=jnp.int32)
    present = position < new_clients
    everyone = first + jnp.arange(new_clients, dtype=jnp.int32)
    drawn = jnp.ones(new_clients, bool)
    ids = jnp.where(present, first + position, first)
    return Slots(everyone, drawn, ids, present, position)


def in_cohort_order(slots: Slots, values: Array) -> Array:
    """Collect what clients have on all devices: [slots, ...] -> [C, ...] in the cohort's order."""
    empty = jnp.zeros((len(slots.everyone), *values.shape[1:]), values.dtype)
    mine = empty.at[slots.position].set(values, mode="drop")
    return jax.lax.psum(mine, AXIS)


def by_client(slots: Slots, values: Array, clients: int) -> Array:
    """Put what clients have here where their ids are: [slots] -> [clients], 0 elsewhere.

    A sum over devices makes it that of all clients.
    """
    place = jnp.where(slots.present, slots.ids, clients)
    return jnp.zeros(clients, values.dtype).at[place].set(values, mode="drop")


def states_in_slots(placement: Placement, states: PyTree, slots: Slots) -> PyTree:
    """Bring the states of the clients in this device's slots here.

    Args:
      placement: static.
      states: that are at home here, [rows, ...] each.
      slots: of this device.

    Returns:
      [slots, ...] each; anything on padding.
    """
    if not jax.tree.leaves(states):
        return states
    if placement.all_take_part:  # slots and rows are the same clients in the same order
        extra = placement.slots - placement.rows
        return jax.tree.map(lambda x: jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)), states)
    row, is_here = _rows(placement, slots.everyone)

    def send(x):
        mine = jnp.where(is_here.reshape(-1, *[1] * (x.ndim - 1)), x[row], 0)
        return jax.lax.psum(mine, AXIS)[slots.position].astype(x.dtype)

    return jax.tree.map(send, states)


def states_at_home(placement: Placement, states: PyTree, slots: Slots, new: PyTree) -> PyTree:
    """Bring the new states of the slots' clients home; undo :func:`states_in_slots`."""
    if not jax.tree.leaves(states):
        return states
    if placement.all_take_part:
        return jax.tree.map(lambda x: x[: placement.rows], new)
    row, is_here = _rows(placement, slots.everyone)
    row = jnp.where(is_here & slots.drawn, row, placement.rows)

    def take(old, new):
        everyone = in_cohort_order(slots, new)
        return old.at[row].set(everyone.astype(old.dtype), mode="drop")

    return jax.tree.map(take, states, new)


def _rows(placement: Placement, ids: Array) -> tuple[Array, Array]:
    """Return the row of each client's state here, and whether its home is here."""
    row = home_of(placement, ids) - jax.lax.axis_index(AXIS) * placement.rows
    is_here = (row >= 0) & (row < placement.rows)
    return jnp.where(is_here, row, 0), is_here


def scan_chunks(
    placement: Placement, share: Callable, slots: Slots, *inputs: PyTree
) -> tuple[PyTree, PyTree]:
    """Call ``share(ids, present, *inputs) -> (sums, outputs)`` on every chunk of the slots.

    Leaves of inputs are [slots, ...]. Returns the added-up sums, and the outputs, [slots, ...].
    """

    def split(x):
        return x.reshape(-1, placement.chunk, *x.shape[1:])

    chunks = jax.tree.map(split, (slots.ids, slots.present, *inputs))
    share = jax.jit(share, inline=True)  # its shapes and the loop's body are of one trace
    shapes = jax.eval_shape(share, *jax.tree.map(lambda x: x[0], chunks))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(total, chunk):
        if placement.processes == 1 and not placement.poisson:  # slots are as many as clients
            sums, outputs = share(*chunk)
        else:
            sums, outputs = jax.lax.cond(jnp.any(chunk[1]), lambda: share(*chunk), lambda: nothing)
        return jax.tree.map(jnp.add, total, sums), outputs

    total, _ = nothing
    total, outputs = jax.lax.scan(body, total, chunks)
    return total, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
