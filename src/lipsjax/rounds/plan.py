"""What a compiled round is made from, what it carries, and a device's share of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.local import LocalTraining
from lipsjax.strategies.base import Strategy
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
    chunk: int
    ragged: bool  # whether some client has steps of padding alone
    measures: bool  # whether any round is measured
    clients_on_global: bool

    @property
    def slots(self) -> int:
        """Places for clients on each device, padded to whole chunks."""
        per_device = -(-self.cohort // self.devices)
        return -(-per_device // self.chunk) * self.chunk


class Tables(NamedTuple):
    """What is known of every round before the run starts."""

    measured: Any  # [T] bool
    sparse: Any  # [T] bool, whether the broadcast after the round is sparse
    kept: Any  # [T, groups] int32


class State(NamedTuple):
    """All that goes from one round to the next."""

    round: Array  # () int32, rounds done
    average: Variables  # the server's model
    server: PyTree  # of the strategy
    clients: PyTree  # of the strategy, [K, ...]
    bits: Kernels  # masks on their way to the slots of the next round, uint8 [slots, bytes]
    sparse: Array  # () bool, whether these masks count
    reference: Kernels  # the server's after round DRIFT_REFERENCE


class Metrics(NamedTuple):
    """A round in figures; NaN where one is not defined or was not measured."""

    scalars: dict[str, Array]  # () each
    layers: dict[str, Array]  # [L] each
    client_loss: Array  # [slots] training loss summed over steps; the host looks for NaN here


class Updated(NamedTuple):
    """What stands after an aggregation."""

    average: Variables
    server: PyTree
    clients: PyTree  # [K, ...]


class Slots(NamedTuple):
    """One device's share of a cohort."""

    ids: Array  # [slots] int32
    present: Array  # [slots] bool, False on padding


def cohort(setup: Setup, key: Array, round_index: Array) -> Array:
    """Draw who takes part: [C] ids, uniform without replacement; all, in order, if C = K."""
    everyone = jnp.arange(setup.num_clients, dtype=jnp.int32)
    if setup.cohort == setup.num_clients:
        return everyone
    draw = derive(key, round_index, SERVER, Purpose.COHORT)
    return jax.random.permutation(draw, everyone)[: setup.cohort]


def my_slots(setup: Setup, key: Array, round_index: Array) -> Slots:
    """Return this device's share of a round's cohort."""
    ids = cohort(setup, key, round_index)
    ids = jnp.pad(ids, (0, setup.devices * setup.slots - setup.cohort))
    start = jax.lax.axis_index(AXIS) * setup.slots
    mine = jax.lax.dynamic_slice_in_dim(ids, start, setup.slots)
    position = start + jnp.arange(setup.slots, dtype=jnp.int32)
    return Slots(mine, position < setup.cohort)


def scan_chunks(setup: Setup, share: Callable, inputs: PyTree) -> tuple[PyTree, PyTree]:
    """Call ``share(chunk) -> (sums, outputs)`` chunk by chunk; leaves of inputs are [slots, ...].

    Returns the added-up sums, and the outputs, [slots, ...].
    """

    def split(x):
        return x.reshape(-1, setup.chunk, *x.shape[1:])

    def body(total, chunk):
        sums, outputs = share(chunk)
        return jax.tree.map(jnp.add, total, sums), outputs

    chunks = jax.tree.map(split, inputs)
    sums, _ = jax.eval_shape(share, jax.tree.map(lambda x: x[0], chunks))
    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums)
    total, outputs = jax.lax.scan(body, total, chunks)
    return total, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)


def where_measured(setup: Setup, measured: Array, function: Callable, *args):
    """Call a function on measured rounds only; zeros in its shape otherwise."""
    if not setup.measures:
        return None

    def zeros():
        shapes = jax.eval_shape(function, *args)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    return jax.lax.cond(measured, lambda: function(*args), zeros)


def delivery_to(setup: Setup, key: Array, after: Array, client: Array, bits, sparse):
    """Return what goes to a client beside the average of round ``after``."""
    if setup.strategy.downlink is None:
        return None
    return Delivery(bits, derive(key, after, client, Purpose.REFILL), sparse)
