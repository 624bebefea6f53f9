"""What a compiled round is made from, what it carries, and a device's share of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.local import LocalTraining
from lipsjax.rounds.participation import Participation
from lipsjax.strategy import Strategy
from lipsjax.types import Array, Delivery, Kernels, Model, PyTree, Variables

AXIS = "clients"


class Setup(NamedTuple):
    """What a compiled round is made from; all static."""

    model: Model
    strategy: Strategy
    training: LocalTraining
    num_clients: int  # K
    cohort: int  # C
    devices: int
    processes: int  # each has as many devices, next to each other in the mesh
    chunk: int
    ragged: bool  # whether some client has steps of padding alone
    measures: bool  # whether any round is measured
    clients_on_global: bool
    participation: Participation
    sizes: tuple[int, ...]  # examples of each client, [K]
    new_clients: int  # who never train, after the K in the data
    tune_epochs: int  # of fine-tuning after the last round

    @property
    def slots(self) -> int:
        """Places for clients on each device, padded to whole chunks.

        Of several processes each trains its own clients, so that one may have to train as many of
        a cohort as it has.
        """
        most = min(self.cohort, self.block)
        per_device = -(-most // (self.devices // self.processes))
        return -(-per_device // self.chunk) * self.chunk

    @property
    def rows(self) -> int:
        """Clients whose state lies on one device."""
        return -(-self.block // (self.devices // self.processes))

    @property
    def all_take_part(self) -> bool:
        """Whether every client trains in every round."""
        return self.cohort == self.num_clients

    @property
    def block(self) -> int:
        """Clients whose examples one process holds."""
        return -(-self.num_clients // self.processes)


class Tables(NamedTuple):
    """What is known of every round before the run starts."""

    measured: Any  # [T] bool
    tuned: Any  # [T] bool, whether clients fine-tune after the round, to be scored
    sparse: Any  # [T] bool, whether the broadcast after the round is sparse
    density: Any  # [T] float32, of that broadcast
    kept: Any  # [T, groups] int32


class State(NamedTuple):
    """All that goes from one round to the next."""

    round: Array  # () int32, rounds done
    average: Variables  # the server's model
    server: PyTree  # of the strategy
    clients: PyTree  # of the strategy, [rows, ...] at home on each device
    bits: Kernels  # masks on their way to the slots of the next round, uint8 [slots, bytes]
    sparse: Array  # () bool, whether these masks count
    density: Array  # () float32, of what is on its way
    reference: Kernels  # the server's after round DRIFT_REFERENCE


class Metrics(NamedTuple):
    """A round in figures; NaN where one is not defined or was not measured."""

    scalars: dict[str, Array]  # () each
    layers: dict[str, Array]  # [L] each
    client_loss: Array  # [C] training loss summed over steps; the host looks for NaN here


class Updated(NamedTuple):
    """What stands after an aggregation."""

    average: Variables
    server: PyTree
    clients: PyTree  # [rows, ...]


class Slots(NamedTuple):
    """One device's share of a cohort."""

    everyone: Array  # [C] int32, the cohort
    ids: Array  # [slots] int32
    present: Array  # [slots] bool, False on padding
    position: Array  # [slots] int32, in the cohort; C on padding


def cohort(setup: Setup, key: Array, round_index: Array) -> Array:
    """Draw who takes part: [C] ids without replacement; all, in order, if C = K."""
    everyone = jnp.arange(setup.num_clients, dtype=jnp.int32)
    if setup.all_take_part:
        return everyone
    draw = derive(key, round_index, SERVER, Purpose.COHORT)
    if setup.participation.sampling == "examples":
        # in the order of exponential clocks whose rates are the numbers of examples
        sizes = jnp.array(setup.sizes, jnp.float32)
        clocks = jax.random.exponential(draw, (setup.num_clients,), jnp.float32) / sizes
        return jnp.argsort(clocks)[: setup.cohort].astype(jnp.int32)
    return jax.random.permutation(draw, everyone)[: setup.cohort]


def homes(setup: Setup, ids: Array) -> Array:
    """Return where the states of clients lie: ``device * rows + row``, int32 like ids.

    The clients of a process are dealt out to its devices in blocks.
    """
    local = setup.devices // setup.processes
    return ids // setup.block * (local * setup.rows) + ids % setup.block


def places(setup: Setup, ids: Array) -> Array:
    """Return where each client of a cohort trains: ``device * slots + slot``, [C] int32.

    At home, if all take part; of a cohort, a client goes to the process that holds its examples,
    and there to the devices in turn.

    Args:
      setup: static.
      ids: [C] the cohort.
    """
    if setup.all_take_part:
        home = homes(setup, ids)
        return home // setup.rows * setup.slots + home % setup.rows
    owner = ids // setup.block
    of_owner = owner[:, None] == jnp.arange(setup.processes)
    rank = jnp.sum((jnp.cumsum(of_owner, axis=0, dtype=jnp.int32) - 1) * of_owner, axis=1)
    local = setup.devices // setup.processes
    return (owner * local + rank % local) * setup.slots + rank // local


def my_slots(setup: Setup, key: Array, round_index: Array) -> Slots:
    """Return this device's share of a round's cohort."""
    ids = cohort(setup, key, round_index)
    place = places(setup, ids)
    padding = jnp.full(setup.devices * setup.slots, setup.cohort, jnp.int32)
    position = padding.at[place].set(jnp.arange(setup.cohort, dtype=jnp.int32))
    mine = jax.lax.dynamic_slice_in_dim(
        position, jax.lax.axis_index(AXIS) * setup.slots, setup.slots
    )
    present = mine < setup.cohort
    return Slots(ids, jnp.where(present, ids[mine], 0), present, mine)


def in_order(setup: Setup, slots: Slots, values: Array) -> Array:
    """Collect what clients have on all devices, in the cohort's order: [slots, ...] -> [C, ...]."""
    empty = jnp.zeros((setup.cohort, *values.shape[1:]), values.dtype)
    mine = empty.at[slots.position].set(values, mode="drop")
    return jax.lax.psum(mine, AXIS)


def new_slots(setup: Setup) -> Slots:
    """Return this device's share of the clients that never train."""
    count, first = setup.new_clients, setup.num_clients
    here = -(-count // setup.devices)
    here = -(-here // setup.chunk) * setup.chunk
    position = jax.lax.axis_index(AXIS) * here + jnp.arange(here, dtype=jnp.int32)
    present = position < count
    everyone = first + jnp.arange(count, dtype=jnp.int32)
    return Slots(everyone, jnp.where(present, first + position, first), present, position)


def scan_chunks(
    setup: Setup, share: Callable, slots: Slots, *inputs: PyTree
) -> tuple[PyTree, PyTree]:
    """Call ``share(ids, present, *inputs) -> (sums, outputs)`` on every chunk of the slots.

    Leaves of inputs are [slots, ...]. Returns the added-up sums, and the outputs, [slots, ...].
    """

    def split(x):
        return x.reshape(-1, setup.chunk, *x.shape[1:])

    chunks = jax.tree.map(split, (slots.ids, slots.present, *inputs))
    share = jax.jit(share, inline=True)  # its shapes and the loop's body are of one trace
    shapes = jax.eval_shape(share, *jax.tree.map(lambda x: x[0], chunks))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(total, chunk):
        if setup.processes == 1:  # slots are as many as clients
            sums, outputs = share(*chunk)
        else:
            sums, outputs = jax.lax.cond(jnp.any(chunk[1]), lambda: share(*chunk), lambda: nothing)
        return jax.tree.map(jnp.add, total, sums), outputs

    total, _ = nothing
    total, outputs = jax.lax.scan(body, total, chunks)
    return total, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)


def where_measured(setup: Setup, measured: Array, function: Callable, *args):
    """Call a function on measured rounds only; zeros in its shape otherwise."""
    if not setup.measures:
        return None

    once = jax.jit(function, inline=True)  # its shapes and its branch are of one trace

    def zeros():
        shapes = jax.eval_shape(once, *args)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    return jax.lax.cond(measured, lambda: once(*args), zeros)


def delivery_to(setup: Setup, key: Array, after: Array, client: Array, bits, sparse, density):
    """Return what goes to a client beside the average of round ``after``."""
    if setup.strategy.downlink is None:
        return None
    return Delivery(bits, derive(key, after, client, Purpose.REFILL), sparse, density)
