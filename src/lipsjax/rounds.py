"""One communication round, as one device sees it: its share of the cohort, in chunks of a vmap.

Everything here runs inside ``shard_map`` over the ``clients`` axis: sums over the cohort end in
``psum``, and nothing else crosses devices. Clients pass through a scan over chunks that carries
weighted sums, so memory does not grow with their number.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.local import LocalTraining, model_loss, train, whole_gradient
from lipsjax.metrics import inertia
from lipsjax.metrics.evaluation import Score, evaluate
from lipsjax.strategies.base import Strategy
from lipsjax.types import Array, Delivery, Kernels, Model, PyTree, Received, Variables

AXIS = "clients"
EVALUATION_BATCH = 100
"""Examples predicted at once; bounds the memory of patches and leaves results alone."""


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


class Slots(NamedTuple):
    """One device's share of a cohort."""

    ids: Array  # [slots] int32
    present: Array  # [slots] bool, False on padding


class Personal(NamedTuple):
    """Personalised scores, summed over clients so that each counts the same."""

    accuracy: Array
    loss: Array
    clients: Array

    @classmethod
    def of(cls, score: Score) -> "Personal":
        """Take one client's score."""
        return cls(score.accuracy, score.mean_loss, jnp.ones_like(score.loss))


class Measured(NamedTuple):
    """What is measured while clients train, summed over them."""

    movement: inertia.Movement
    before: Personal  # own models on own test sets
    on_global: Personal  # own models on the global test set


class Totals(NamedTuple):
    """What the server learns of a round, summed over clients."""

    message: PyTree  # weighted
    weight: Array
    loss: Array
    examples: Array
    measured: Measured | None


class Trained(NamedTuple):
    """What training leaves in each slot for what comes later in the round."""

    memory: PyTree  # new client state
    gradient: Kernels  # last ones of the layers asked for
    loss: Array


def cohort(setup: Setup, key: Array, round_index: Array) -> Array:
    """Draw who takes part: [C] ids, uniform without replacement; all, in order, if C = K."""
    everyone = jnp.arange(setup.num_clients, dtype=jnp.int32)
    if setup.cohort == setup.num_clients:
        return everyone
    draw = derive(key, round_index, SERVER, Purpose.COHORT)
    return jax.random.permutation(draw, everyone)[: setup.cohort]


def run_round(
    setup: Setup, key: Array, data: ClientData, tables: Tables, state: State
) -> tuple[State, Metrics]:
    """Do one round: train, average, decide what goes out, and measure all of it.

    Args:
      setup: static.
      key: the run's root key; not consumed.
      data: all clients' examples, the same on every device.
      tables: per-round decisions.
      state: after the rounds before; ``bits`` is this device's share.

    Returns:
      The state after the round, and its metrics.
    """
    strategy, layers = setup.strategy, setup.model.layers
    t = state.round
    measured = tables.measured[t]
    slots = _my_slots(setup, key, t)
    totals, trained = _train_cohort(setup, key, data, state, slots, measured)
    totals = jax.lax.psum(totals, AXIS)
    mean = tree.scale(1 / totals.weight, totals.message)
    average, server = strategy.update(state.server, state.average, mean)
    clients = _remember(setup, state.clients, slots, trained.memory)
    dense = _personal_dense(setup, data, (server, clients, average), slots, measured)
    bits, sparse, after = _deliver(
        setup, key, data, tables, (server, clients, average), state, trained.gradient, dense
    )
    before, now = tree.kernels(state.average.params, layers), tree.kernels(average.params, layers)
    reference = tree.select(t <= inertia.DRIFT_REFERENCE, now, state.reference)
    scalars = {"loss_train": totals.loss / totals.examples}
    by_layer = {}
    if setup.measures:
        assert totals.measured is not None
        overall = jax.lax.psum(_score_global_share(setup, data, average, measured), AXIS)
        scalars |= {
            **_personal("before", totals.measured.before),
            **_personal("dense", dense),
            **_personal("after", after),
            "global_accuracy": overall.accuracy,
            "global_loss": overall.mean_loss,
            "global_accuracy_clients": _mean(totals.measured.on_global).accuracy,
            "global_loss_clients": _mean(totals.measured.on_global).loss,
        }
        by_layer = _inertia(totals.measured.movement, before, now, reference, t)
        scalars["inertia_index"] = inertia.inertia_index(by_layer["step"], layers)
        nan = lambda x: jnp.where(measured, x, jnp.nan)  # noqa: E731
        by_layer = jax.tree.map(nan, by_layer)
        scalars = {k: v if k == "loss_train" else nan(v) for k, v in scalars.items()}
    new = State(t + 1, average, server, clients, bits, sparse, reference)
    return new, Metrics(scalars, by_layer, jnp.where(slots.present, trained.loss, 0))


def _my_slots(setup: Setup, key: Array, round_index: Array) -> Slots:
    ids = cohort(setup, key, round_index)
    ids = jnp.pad(ids, (0, setup.devices * setup.slots - setup.cohort))
    start = jax.lax.axis_index(AXIS) * setup.slots
    mine = jax.lax.dynamic_slice_in_dim(ids, start, setup.slots)
    position = start + jnp.arange(setup.slots, dtype=jnp.int32)
    return Slots(mine, position < setup.cohort)


def _scan_chunks(setup: Setup, share: Callable, inputs: PyTree) -> tuple[PyTree, PyTree]:
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


def _where_measured(setup: Setup, measured: Array, function: Callable, *args):
    """Call a function on measured rounds only; zeros in its shape otherwise."""
    if not setup.measures:
        return None

    def zeros():
        shapes = jax.eval_shape(function, *args)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    return jax.lax.cond(measured, lambda: function(*args), zeros)


def _delivery(setup: Setup, key: Array, after: Array, client: Array, bits, sparse):
    """Return what goes to a client beside the average of round ``after``."""
    if setup.strategy.downlink is None:
        return None
    return Delivery(bits, derive(key, after, client, Purpose.REFILL), sparse)


def _train_cohort(
    setup: Setup, key: Array, data: ClientData, state: State, slots: Slots, measured: Array
) -> tuple[Totals, Trained]:
    """Train this device's clients and add up what they send."""
    strategy, layers = setup.strategy, setup.model.layers

    def measure(client, start, result, weight):
        moved = inertia.movement(
            tree.kernels(start.params, layers),
            tree.kernels(result.variables.params, layers),
            result.last_gradient_norm,
            weight,
        )
        own = Personal.of(_score_own(setup, data, client, result.variables))
        if not setup.clients_on_global:
            return Measured(moved, own, jax.tree.map(lambda x: x * jnp.nan, own))
        positions = data.global_index
        score = _score(setup, data, result.variables, positions, jnp.ones_like(positions, bool))
        return Measured(moved, own, Personal.of(score))

    def one(client, memory, bits):
        delivery = _delivery(setup, key, state.round - 1, client, bits, state.sparse)
        start = strategy.receive(state.server, memory, state.average, delivery)
        received = Received(start, state.server, memory, delivery)
        result = train(
            derive(key, state.round, client, Purpose.BATCHES),
            received,
            data.train,
            data.train_index[client],
            data.train_mask[client],
            training=setup.training._replace(
                optimizer=strategy.optimizer(setup.training.optimizer, received)
            ),
            loss_fn=strategy.loss(model_loss(setup.model), received),
            layers=layers,
            ragged=setup.ragged,
            gradient_layers=strategy.gradient_layers,
        )
        message, memory = strategy.send(received, result)
        count = jnp.sum(data.train_mask[client], dtype=jnp.int32)
        weight = jnp.asarray(strategy.weight(count), result.loss.dtype)
        totals = Totals(
            message=tree.scale(weight, message),
            weight=weight,
            loss=result.loss,
            examples=result.examples.astype(result.loss.dtype),
            measured=_where_measured(setup, measured, measure, client, start, result, weight),
        )
        return totals, Trained(memory, result.last_gradient, result.loss)

    def share(chunk):
        ids, present, bits = chunk
        memory = jax.tree.map(lambda x: x[ids], state.clients)
        totals, trained = jax.vmap(one)(ids, memory, bits)
        return tree.weighted_sum(present, totals), trained

    return _scan_chunks(setup, share, (slots.ids, slots.present, state.bits))


def _remember(setup: Setup, clients: PyTree, slots: Slots, memory: PyTree) -> PyTree:
    """Put the cohort's new client states among those of all K, on every device alike."""
    if not jax.tree.leaves(clients):
        return clients
    nowhere = jnp.where(slots.present, slots.ids, setup.num_clients)
    ids, memory = jax.lax.all_gather((nowhere, memory), AXIS, tiled=True)
    return jax.tree.map(lambda old, new: old.at[ids].set(new, mode="drop"), clients, memory)


def _score(setup: Setup, data: ClientData, variables: Variables, index, mask) -> Score:
    return evaluate(setup.model, variables, data.test, index, mask, batch_size=EVALUATION_BATCH)


def _score_own(setup: Setup, data: ClientData, client: Array, variables: Variables) -> Score:
    index, mask = data.test_index[client], data.test_mask[client]
    return _score(setup, data, variables, index, mask)


def _score_global_share(setup: Setup, data: ClientData, average: Variables, measured: Array):
    """Score the average on this device's share of the global test set."""
    total = data.global_index.shape[0]
    share = -(-total // setup.devices)
    start = jax.lax.axis_index(AXIS) * share
    padded = jnp.pad(data.global_index, (0, share * setup.devices - total))
    index = jax.lax.dynamic_slice_in_dim(padded, start, share)
    mask = start + jnp.arange(share, dtype=jnp.int32) < total
    return _where_measured(setup, measured, lambda: _score(setup, data, average, index, mask))


def _personal_dense(setup, data, model: tuple, slots: Slots, measured: Array) -> Personal | None:
    """Score the dense average, as each client would receive it, on the cohort's own test sets."""
    server, clients, average = model

    def one(client, memory):
        variables = setup.strategy.receive(server, memory, average, None)
        return Personal.of(_score_own(setup, data, client, variables))

    def share(chunk):
        ids, present = chunk
        memory = jax.tree.map(lambda x: x[ids], clients)
        return tree.weighted_sum(present, jax.vmap(one)(ids, memory)), ()

    def everyone():
        return jax.lax.psum(_scan_chunks(setup, share, (slots.ids, slots.present))[0], AXIS)

    return _where_measured(setup, measured, everyone)


def _deliver(
    setup: Setup,
    key: Array,
    data: ClientData,
    tables: Tables,
    model: tuple,
    state: State,
    last_gradient: Kernels,
    dense: Personal | None,
) -> tuple[PyTree, Array, Personal | None]:
    """Choose the masks of the next round's clients, and score what they will receive.

    Returns this device's packed masks, whether they count, and the personalised scores of the
    models that go out.
    """
    downlink, t = setup.strategy.downlink, state.round
    if downlink is None:
        return state.bits, state.sparse, dense
    server, clients, average = model
    slots = _my_slots(setup, key, t + 1)

    def scores(client, memory, last):
        variables = setup.strategy.receive(server, memory, average, None)
        if downlink.gradient == "fresh":
            gradient = _fresh_gradient(setup, data, client, variables, server, memory)
        elif downlink.gradient == "stored":
            gradient = downlink.stored(memory)[0]
        else:
            gradient = downlink.last(last)
        return downlink.score(variables.params, gradient, derive(key, t, client, Purpose.MASK))

    def masks(client, memory, last):
        bits = downlink.mask(scores(client, memory, last), tables.kept[t])
        if downlink.gradient != "stored":
            return bits
        has_one = downlink.stored(memory)[1]
        return jax.tree.map(lambda b: jnp.where(has_one, b, jnp.uint8(255)), bits)

    def after(client, memory, bits):
        delivery = _delivery(setup, key, t, client, bits, jnp.ones((), bool))
        variables = setup.strategy.receive(server, memory, average, delivery)
        return Personal.of(_score_own(setup, data, client, variables))

    def mean_scores():
        def share(chunk):
            ids, present, last = chunk
            memory = jax.tree.map(lambda x: x[ids], clients)
            count = jnp.sum(data.train_mask[ids], axis=1, dtype=jnp.int32)
            weight = jnp.where(present, setup.strategy.weight(count), 0)
            each = jax.vmap(scores)(ids, memory, last)
            dtype = jax.tree.leaves(each)[0].dtype
            weight = weight.astype(dtype)
            return (tree.weighted_sum(weight, each), jnp.sum(weight)), ()

        sums, _ = _scan_chunks(setup, share, (slots.ids, slots.present, last_gradient))
        total, weight = jax.lax.psum(sums, AXIS)
        return tree.scale(1 / weight, total)

    def sparse_branch():
        common = downlink.mask(mean_scores(), tables.kept[t]) if downlink.shared else None

        def share(chunk):
            ids, present, last = chunk
            memory = jax.tree.map(lambda x: x[ids], clients)
            if common is None:
                bits = jax.vmap(masks)(ids, memory, last)
            else:
                bits = jax.tree.map(lambda b: jnp.broadcast_to(b, (len(ids), *b.shape)), common)
            each = _where_measured(
                setup, tables.measured[t], lambda: jax.vmap(after)(ids, memory, bits)
            )
            return tree.weighted_sum(present, each), bits

        sums, bits = _scan_chunks(setup, share, (slots.ids, slots.present, last_gradient))
        return bits, jax.lax.psum(sums, AXIS)

    sparse = tables.sparse[t]
    bits, out = jax.lax.cond(sparse, sparse_branch, lambda: (state.bits, dense))
    return bits, sparse, out


def _fresh_gradient(setup: Setup, data: ClientData, client, variables, server, memory):
    """Return a client's gradient of the average over all its examples, by masked layer."""
    received = Received(variables, server, memory, None)
    gradient = whole_gradient(
        received,
        data.train,
        data.train_index[client],
        data.train_mask[client],
        batch_size=setup.training.batch_size,
        loss_fn=model_loss(setup.model),
    )
    assert setup.strategy.downlink is not None
    return tree.kernels(gradient, setup.strategy.downlink.layers)


def _mean(total: Personal) -> Personal:
    return Personal(total.accuracy / total.clients, total.loss / total.clients, total.clients)


def _personal(name: str, total: Personal | None) -> dict[str, Array]:
    assert total is not None
    mean = _mean(total)
    return {f"accuracy_{name}": mean.accuracy, f"loss_{name}": mean.loss}


def _inertia(movement, before, now, reference, t) -> dict[str, Array]:
    drift = inertia.drift(now, reference)
    defined = t >= inertia.DRIFT_REFERENCE
    return {
        **{name: jnp.where(defined, values, jnp.nan) for name, values in drift.items()},
        "step": inertia.step(now, before),
        **inertia.movement_measures(movement, before),
    }
