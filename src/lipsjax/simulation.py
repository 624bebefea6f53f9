"""A federated run: built once, then a pure function of a key, data and state.

Many rounds are one compiled program: a scan over rounds inside ``shard_map`` over devices, with
clients in chunks of a vmap inside each round (:mod:`lipsjax.rounds`).
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.local import LocalTraining
from lipsjax.metrics.flops import flops
from lipsjax.rounds import (
    AXIS,
    Metrics,
    Participation,
    Setup,
    State,
    Tables,
    cohort,
    homes,
    places,
    run_round,
)
from lipsjax.rounds.participation import check as check_participation
from lipsjax.strategy import Strategy
from lipsjax.types import Array, Model, PyTree

EVERYONE = Participation()


class Schedule(NamedTuple):
    """What is decided per round on the host, before anything is compiled."""

    densities: np.ndarray  # [T] float64; 1 is a dense broadcast
    tables: Tables


class Simulation(NamedTuple):
    """A run as pure functions; nothing here holds state."""

    init: Callable[[Array], State]
    """Root key -> state before the first round."""
    run: Callable[[State, Array, ClientData, int], tuple[State, Metrics]]
    """(state, key, data, rounds) -> state and metrics, [rounds, ...] each. State is donated."""
    trace: Callable[[int], jax.stages.Traced]
    """Trace ``run`` for a number of rounds; needs none of the devices."""
    program: Callable[[int], jax.stages.Compiled]
    """Compile ``run`` for a number of rounds, once; needs none of the devices."""
    compile: Callable[[int], float]
    """Compile ``run`` for a number of rounds; return the seconds it took, 0 if it was done."""
    training_flops: Callable[[], float]
    """FLOPs of one round without any measuring; see :func:`lipsjax.metrics.flops.flops`.

    Of the whole cohort, the same for any devices and chunk. What is computed counts: padded
    examples, and of branches the costliest, so that a gradient that only sparse broadcasts need is
    in it. Traced when first asked for, which takes seconds; nothing is compiled."""
    place: Callable[[ClientData], ClientData]
    """Copy the examples of this process's clients to each of its devices: [devices, ...] each."""
    cohort: Callable[[Array, int], np.ndarray]
    """(key, round) -> ids of the clients that take part, [C]."""
    to_host: Callable[[State, Array], PyTree]
    """(state, key) -> what a checkpoint holds; the same for any devices, processes and chunk."""
    from_host: Callable[[PyTree, Array], State]
    """Undo ``to_host`` on this simulation's devices."""
    schedule: Schedule
    setup: Setup


def client_mesh(devices: int | None = None, among: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh of one axis, ``clients``, over devices, as many of each process.

    Args:
      devices: how many in all; None: every one.
      among: which devices there are; None: those that JAX finds.

    Raises:
      ValueError: if there are fewer devices, or no equal share for every process.
    """
    present = jax.devices() if among is None else among
    owners = sorted({device.process_index for device in present})
    count = len(present) if devices is None else devices
    if not 1 <= count <= len(present):
        raise ValueError(f"devices must be in 1..{len(present)} here, not {devices}")
    if count % len(owners):
        raise ValueError(
            f"devices must be a multiple of {len(owners)}, the number of processes, not {count}"
        )
    of_each = [[d for d in present if d.process_index == p] for p in owners]
    chosen = [d for each in of_each for d in each[: count // len(owners)]]
    # in this order: devices of one process lie together, as rounds.places has them
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def build(
    model: Model,
    strategy: Strategy,
    training: LocalTraining,
    *,
    rounds: int,
    data: ClientData,
    cohort_size: int | None = None,
    evaluate_every: int = 1,
    clients_on_global: bool = True,
    participation: Participation = EVERYONE,
    new_clients: int = 0,
    tune_epochs: int = 0,
    mesh: Mesh | None = None,
    chunk: int = 1,
) -> Simulation:
    """Build a simulation; everything that can be refused is refused here.

    Args:
      model: the network.
      strategy: what clients and server exchange, with or without transient sparsity.
      training: the clients' optimizer, epochs and batch size.
      rounds: T, which the density schedule runs over.
      data: shapes and numbers of examples are read; other data of the same may be passed to
        ``run``.
      cohort_size: C clients per round; None: all K.
      evaluate_every: rounds between measured rounds, counted from the first; the last is always
        measured; 0: nothing is measured.
      clients_on_global: whether each client's own model also meets the global test set.
      participation: how clients are drawn, and which of them arrive; of a round that nobody ends,
        nothing stays.
      new_clients: how many of the data's clients, the last ones, never train; they are scored after
        the last round.
      tune_epochs: after the last round the cohort and the new clients fine-tune for so long, and
        are scored; 0: they do not.
      mesh: of one axis ``clients``; None: all devices.
      chunk: clients trained at once on each device, as one vmap.

    Returns:
      A :class:`Simulation`.

    Raises:
      ValueError: for a value out of range, or a combination that cannot work.

    Example:
      >>> import jax, numpy as np, optax
      >>> from lipsjax import LocalTraining, clients, datasets, fedavg, models, partition
      >>> rng = np.random.default_rng(0)
      >>> sizes = np.full(4, 8)
      >>> dataset = datasets.load("synthetic")
      >>> parts = partition.iid(dataset, train_sizes=sizes, test_sizes=sizes, rng=rng)
      >>> data = clients.stack(dataset, parts, global_examples=16, rng=rng)
      >>> shape = dataset.train.images.shape[1:]
      >>> model = models.build(
      ...     "cnn", num_classes=dataset.num_classes, image_shape=shape, width=2)
      >>> training = LocalTraining(optax.sgd(0.1), epochs=1, batch_size=4)
      >>> simulation = build(model, fedavg(), training, rounds=2, data=data)
      >>> key = jax.random.key(0)
      >>> state, metrics = simulation.run(simulation.init(key), key, simulation.place(data), 2)
      >>> metrics.layers["step"].shape
      (2, 5)
    """
    mesh = client_mesh() if mesh is None else mesh
    _check_range("rounds", rounds, 1, None)
    _check_range("new_clients", new_clients, 0, data.num_clients - 1)
    _check_range("tune_epochs", tune_epochs, 0, None)
    training_clients = data.num_clients - new_clients
    size = training_clients if cohort_size is None else cohort_size
    _check_range("cohort", size, 1, training_clients)
    check_participation(participation)
    _check_range("chunk", chunk, 1, None)
    _check_range("epochs", training.epochs, 1, None)
    _check_range("batch_size", training.batch_size, 1, None)
    _check_range("evaluation every", evaluate_every, 0, None)
    chex.assert_rank(data.train.images, 4)
    chex.assert_equal_shape([data.train_index, data.train_mask])
    chex.assert_equal_shape([data.test_index, data.test_mask])
    processes = len({device.process_index for device in mesh.devices.flat})
    if new_clients and processes > 1:
        raise ValueError(f"new_clients need one process, not {processes}")
    setup = Setup(
        model=model,
        strategy=strategy,
        training=training,
        num_clients=training_clients,
        cohort=size,
        devices=mesh.size,
        processes=processes,
        chunk=min(chunk, -(-min(size, -(-training_clients // processes)) * processes // mesh.size)),
        ragged=_is_ragged(data, training.batch_size),
        measures=evaluate_every > 0,
        clients_on_global=clients_on_global,
        participation=participation,
        sizes=tuple(map(int, data.num_examples[:training_clients])),
        new_clients=new_clients,
        tune_epochs=tune_epochs,
    )
    initial = jax.eval_shape(model.init, jax.random.key(0))
    jax.eval_shape(strategy.init_client, initial)  # refuses what the model has not
    schedule = _schedule(setup, initial, rounds, evaluate_every)
    _check_downlink(setup, data)
    shared, replicated = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((AXIS,), ()))
    shardings = _by_field(replicated, shared)
    tables = schedule.tables
    start = jax.jit(functools.partial(_initial_state, setup), out_shardings=shardings)
    many_rounds = _many_rounds(setup, mesh)
    home = np.asarray(homes(setup, jnp.arange(setup.num_clients)))
    compiled: dict[int, jax.stages.Compiled] = {}

    def place(data: ClientData) -> ClientData:
        def copy_to_each(x):
            return jax.make_array_from_callback(
                (mesh.size, *x.shape), shared, lambda _: x[np.newaxis]
            )

        return jax.tree.map(copy_to_each, jax.tree.map(np.asarray, data))

    def known(key: Array) -> Array:
        """Return a key that the devices of all processes know."""
        words = _put(replicated, np.asarray(jax.random.key_data(key)))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(key))

    shapes = _shapes(setup, data, mesh, State(*shardings))

    def trace(count: int) -> jax.stages.Traced:
        return many_rounds.trace(*shapes, tables, count)

    @functools.cache
    def training_flops() -> float:
        # on one device: on several, slots without a client would count
        silent = setup._replace(measures=False, new_clients=0, tune_epochs=0)
        silent = silent._replace(devices=1, processes=1, chunk=1)
        alone = client_mesh(1, list(mesh.devices.flat[:1]))
        spread = (NamedSharding(alone, PartitionSpec(*axes)) for axes in ((), (AXIS,)))
        placed = _shapes(silent, data, alone, State(*_by_field(*spread)))
        return flops(_many_rounds(silent, alone).trace(*placed, tables, 1).jaxpr)

    def program(count: int) -> jax.stages.Compiled:
        if count not in compiled:
            compiled[count] = trace(count).lower().compile()
        return compiled[count]

    def compile_run(count: int) -> float:
        if count in compiled:
            return 0.0
        begin = time.perf_counter()
        program(count)
        return time.perf_counter() - begin

    def run(state: State, key: Array, data: ClientData, count: int):
        _check_range("rounds of a call", count, 1, rounds - int(state.round))
        return program(count)(state, known(key), data, tables)

    def places_of(key: Array, t: int) -> np.ndarray:
        return np.asarray(places(setup, cohort(setup, key, jnp.int32(t))))

    def to_host(state: State, key: Array) -> PyTree:
        # slots and rows depend on devices, chunk and processes; a checkpoint has clients by id, and
        # masks in the cohort's order
        bits, clients = jax.tree.map(_everywhere, (state.bits, state.clients))
        if bits:
            place = places_of(key, int(state.round))
            bits = jax.tree.map(lambda b: b[place], bits)
        clients = jax.tree.map(lambda x: x[home], clients)
        return jax.tree.map(np.asarray, state._replace(bits=bits, clients=clients)._asdict())

    def from_host(host: PyTree, key: Array) -> State:
        bits, clients = host["bits"], host["clients"]
        if bits:
            place = places_of(key, int(host["round"]))
            bits = jax.tree.map(lambda b: _spread(b, place, setup.devices * setup.slots), bits)
        clients = jax.tree.map(lambda x: _spread(x, home, setup.devices * setup.rows), clients)
        host = host | {"bits": bits, "clients": clients}
        return State(
            *(
                jax.tree.map(functools.partial(_put, sharding), value)
                for value, sharding in zip(State(**host), shardings, strict=True)
            )
        )

    return Simulation(
        init=lambda key: start(known(key)),
        run=run,
        trace=trace,
        program=program,
        compile=compile_run,
        training_flops=training_flops,
        place=place,
        cohort=lambda key, t: np.asarray(cohort(setup, key, jnp.int32(t))),
        to_host=to_host,
        from_host=from_host,
        schedule=schedule,
        setup=setup,
    )


def _initial_state(setup: Setup, key: Array) -> State:
    """Return the state before the first round: initial weights, states, no masks on their way."""
    strategy = setup.strategy
    average = setup.model.init(derive(key, 0, SERVER, Purpose.INIT))
    memory = strategy.init_client(average)
    slots, rows, bits = setup.devices * setup.slots, setup.devices * setup.rows, ()
    if strategy.downlink is not None:
        masked = tree.kernels(average.params, strategy.downlink.layers)
        bits = tuple(jnp.zeros((slots, math.ceil(w.size / 8)), jnp.uint8) for w in masked)
    return State(
        round=jnp.zeros((), jnp.int32),
        average=average,
        server=strategy.init_server(average, derive(key, 0, SERVER, Purpose.SERVER)),
        clients=jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, *x.shape)), memory),
        bits=bits,
        sparse=jnp.zeros((), bool),
        density=jnp.ones((), jnp.float32),
        reference=jax.tree.map(jnp.zeros_like, tree.kernels(average.params, setup.model.layers)),
    )


def _many_rounds(setup: Setup, mesh: Mesh):
    """Return ``(state, key, data, tables, count) -> (state, metrics)``, jitted over the mesh."""
    state_specs = _by_field(PartitionSpec(), PartitionSpec(AXIS))

    @functools.partial(jax.jit, static_argnames="count", donate_argnames="state")
    def many_rounds(state: State, key: Array, data: ClientData, tables: Tables, count: int):
        def of_one_device(state, key, data, tables):
            held = jax.tree.map(lambda x: x[0], data)

            def body(state, _):
                return run_round(setup, key, held, tables, state)

            return jax.lax.scan(body, state, length=count)

        # without check_vma: code for one client stays free of device axes, and gradients with
        # respect to replicated parameters stay local; tests count collectives and compare meshes
        return jax.shard_map(
            of_one_device,
            mesh=mesh,
            in_specs=(state_specs, PartitionSpec(), PartitionSpec(AXIS), PartitionSpec()),
            out_specs=(state_specs, PartitionSpec()),
            check_vma=False,
        )(state, key, data, tables)

    return many_rounds


def _everywhere(x: Array) -> np.ndarray:
    """Return an array that is spread over devices, whole, on every process."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def _spread(rows: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """Put rows [C, ...] at their places of [size, ...]; the rest is zero."""
    spread = np.zeros((size, *rows.shape[1:]), rows.dtype)
    spread[place] = rows
    return spread


def _shapes(setup: Setup, data: ClientData, mesh: Mesh, shardings: State) -> tuple:
    """Return state, key and placed data as shapes and shardings."""

    def shape(sharding, x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    state = jax.eval_shape(functools.partial(_initial_state, setup), jax.random.key(0))
    fields = zip(shardings, state, strict=True)
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((mesh.size, *x.shape), x.dtype, sharding=shardings.bits),
        jax.tree.map(np.asarray, data),
    )
    return (
        State(*(jax.tree.map(functools.partial(shape, s), x) for s, x in fields)),
        shape(shardings.average, jax.random.key(0)),
        placed,
    )


def _put(sharding: Any, x: np.ndarray) -> Array:
    """Put an array that every process holds on the devices of all."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _by_field(common: Any, own: Any) -> State:
    """Return a state whose every field is ``common``, but for what each device has of its own."""
    return State(**{**dict.fromkeys(State._fields, common), "bits": own, "clients": own})


def _schedule(setup: Setup, initial, rounds: int, evaluate_every: int) -> Schedule:
    downlink = setup.strategy.downlink
    if downlink is None:
        densities, kept = np.ones(rounds), np.zeros((rounds, 1), np.int32)
    else:
        densities, kept = downlink.kept(initial, rounds)
    measured = np.zeros(rounds, bool)
    if evaluate_every:
        measured[::evaluate_every] = measured[-1] = True
    last = np.arange(rounds) == rounds - 1
    tables = Tables(measured, last, densities < 1, densities.astype(np.float32), kept)
    return Schedule(densities, tables)


def _is_ragged(data: ClientData, batch_size: int) -> bool:
    """Tell whether some client has steps that hold padding alone."""
    steps = -(-np.asarray(data.num_examples) // batch_size)
    return bool((steps < -(-data.train_mask.shape[1] // batch_size)).any())


def _check_downlink(setup: Setup, data: ClientData) -> None:
    downlink = setup.strategy.downlink
    if downlink is None:
        return
    if downlink.gradient == "last_local" and setup.cohort < setup.num_clients:
        raise ValueError(
            f"gradient='last_local' needs every client in every round, not {setup.cohort} of "
            f"{setup.num_clients}: use gradient='stored' or 'fresh'"
        )
    if downlink.gradient == "last_local" and not setup.participation.all_arrive:
        raise ValueError(
            "gradient='last_local' needs every client to end every round: with dropout, deaths or "
            "stragglers use gradient='stored' or 'fresh'"
        )
    steps = setup.training.epochs * -(-data.train_mask.shape[1] // setup.training.batch_size)
    if steps < downlink.hold < math.inf:
        raise ValueError(
            f"hold must be at most {steps}, the local steps of a round, not {downlink.hold}"
        )


def _check_range(name: str, value: int, low: int, high: int | None) -> None:
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be {allowed}, not {value}")
