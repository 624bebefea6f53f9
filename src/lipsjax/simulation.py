"""A federated run: built once, then a pure function of data and state.

Many rounds are one compiled program: a scan over rounds inside ``shard_map`` over devices, with
clients in chunks of a vmap inside each round (:mod:`lipsjax.rounds`).
"""

import functools
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.local import LocalTraining
from lipsjax.rounds import (
    AXIS,
    Metrics,
    Participation,
    PerRound,
    Placement,
    RoundSpec,
    State,
    run_round,
)
from lipsjax.rounds.decision import start_trigger
from lipsjax.rounds.participation import EVERYONE, Turns, draw_cohort, poisson_slots
from lipsjax.rounds.participation import check as check_participation
from lipsjax.rounds.placement import home_of, slot_of
from lipsjax.rounds.spec import Measure
from lipsjax.rounds.versions import start_past
from lipsjax.strategies.private import check_protected_masks
from lipsjax.strategy import Rank, RunContext, Sparsifier, Strategy, uniform
from lipsjax.types import Array, Model, PyTree, Variables


class Schedule(NamedTuple):
    """What is decided per round on the host, before anything is compiled."""

    densities: np.ndarray  # [T] float64; 1 is a dense broadcast, or one that a trigger decides on
    per_round: PerRound


class Simulation:
    """A federated run over some devices: ``init``, then ``run`` from state to state.

    :func:`build` makes it, once the parts are known to fit. It keeps compiled programs, and
    nothing of a run: a state has all that goes from one round to the next, the key included.

    Attributes:
      spec: what the compiled round is made from.
      schedule: what is decided for every round.
      mesh: of the devices.
    """

    def __init__(self, spec: RoundSpec, schedule: Schedule, mesh: Mesh, data: ClientData):
        self.spec, self.schedule, self.mesh = spec, schedule, mesh
        self._data_shapes = jax.tree.map(_shape_of, data)
        self._shardings = _shardings(mesh)
        self._compiled: dict[int, jax.stages.Compiled] = {}
        self._home = np.asarray(home_of(spec.placement, jnp.arange(spec.run.num_clients)))
        self._many_rounds = _many_rounds(spec, mesh)
        self._start = jax.jit(
            functools.partial(_initial_state, spec), out_shardings=self._shardings
        )
        self._cohort = jax.jit(functools.partial(draw_cohort, spec.run, spec.participation))
        self._sizes = jax.jit(jax.vmap(lambda key, t: self._cohort(key, t).size, (None, 0)))

    def init(self, key: Array) -> State:
        """Return the state before the first round.

        Args:
          key: the run's root key, ``jax.random.key(seed)``; all draws of the run derive from it.

        Raises:
          ValueError: for a key of another kind than ``jax.random.key`` makes here.
        """
        expected = jax.random.key(0)
        if getattr(key, "dtype", None) != expected.dtype or key.shape != ():
            raise ValueError(f"key must be one of jax.random.key(seed), not {key!r}")
        return self._start(self._known(key))

    def place(self, data: ClientData) -> ClientData:
        """Copy the examples of this process's clients to each of its devices: [devices, ...]."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))

        def copy_to_each(x):
            shape = (self.mesh.size, *x.shape)
            return jax.make_array_from_callback(shape, sharding, lambda _: x[np.newaxis])

        return jax.tree.map(copy_to_each, jax.tree.map(np.asarray, data))

    def run(self, state: State, data: ClientData, rounds: int) -> tuple[State, Metrics]:
        """Run some rounds.

        Args:
          state: of :meth:`init` or of rounds before; donated.
          data: of :meth:`place`.
          rounds: how many; each number is a program of its own.

        Returns:
          The state after them, and their metrics, [rounds, ...] each.

        Raises:
          ValueError: for more rounds than are left of T, or if a Poisson cohort is larger than its
            slots.
        """
        _check_range("rounds of a call", rounds, 1, self.spec.run.rounds - int(state.round))
        if self.spec.run.poisson:
            self._check_sizes(state, rounds)
        return self.compiled(rounds)(state, data, self.schedule.per_round)

    def _check_sizes(self, state: State, rounds: int) -> None:
        """Raise ValueError if a cohort is larger than its slots, which no ledger covers."""
        first, slots = int(state.round), self.spec.run.slots
        sizes = np.asarray(self._sizes(state.key, jnp.arange(first, first + rounds)))
        over = np.flatnonzero(sizes > slots)
        if len(over):
            raise ValueError(
                f"round {first + over[0]} draws {sizes[over[0]]} clients, and there are {slots} "
                "slots: this run ends here; take another seed"
            )

    def trace(self, rounds: int) -> jax.stages.Traced:
        """Trace ``run`` for a number of rounds; needs none of the devices."""
        shardings = self._shardings

        def shape(sharding, x):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        state = jax.eval_shape(functools.partial(_initial_state, self.spec), jax.random.key(0))
        fields = zip(shardings, state, strict=True)
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (self.mesh.size, *x.shape), x.dtype, sharding=shardings.packed_masks
            ),
            self._data_shapes,
        )
        shapes = State(*(jax.tree.map(functools.partial(shape, s), x) for s, x in fields))
        return self._many_rounds.trace(shapes, placed, self.schedule.per_round, rounds)

    def lower(self, rounds: int) -> jax.stages.Lowered:
        """Lower ``run`` for a number of rounds; needs none of the devices."""
        return self.trace(rounds).lower()

    def compiled(self, rounds: int) -> jax.stages.Compiled:
        """Return the compiled program of a number of rounds; compile it if it is new."""
        if rounds not in self._compiled:
            self._compiled[rounds] = self.lower(rounds).compile()
        return self._compiled[rounds]

    def compile(self, rounds: int) -> float:
        """Compile ``run`` for a number of rounds; return the seconds it took, 0 if it was done."""
        if rounds in self._compiled:
            return 0.0
        begin = time.perf_counter()
        self.compiled(rounds)
        return time.perf_counter() - begin

    def trace_training(self) -> jax.stages.Traced:
        """Trace one round of the whole cohort on one device, without any measuring.

        What is computed in it does not depend on the devices and the chunk of the simulation. Of
        branches both are in it, such as a gradient that only sparse broadcasts need.
        """
        alone = client_mesh(1, list(self.mesh.devices.flat[:1]))
        silent = self.spec._replace(
            measures=False,
            new_clients=0,
            tune_epochs=0,
            placement=self.spec.placement._replace(devices=1, processes=1, chunk=1),
        )
        return Simulation(silent, self.schedule, alone, self._data_shapes).trace(1)

    def cohort(self, key: Array, round_index: int) -> np.ndarray:
        """Return the ids of the clients that are drawn for a round, [C] or as many as there are."""
        ids, size = self._cohort(key, jnp.int32(round_index))
        return np.asarray(ids)[: int(size)]

    def to_host(self, state: State) -> dict[str, PyTree]:
        """Return what a checkpoint holds: NumPy, the same for any devices, processes and chunk."""
        # slots and rows depend on devices, chunk and processes; a checkpoint has clients by id, and
        # masks in the cohort's order
        packed, clients = jax.tree.map(_everywhere, (state.packed_masks, state.client_states))
        if packed:
            slot = self._slots(state.key, int(state.round))
            drawn = len(self.cohort(state.key, int(state.round)))  # no mask is anybody else's
            packed = jax.tree.map(lambda b: _first(b[slot], drawn), packed)
        clients = jax.tree.map(lambda x: x[self._home], clients)
        key = jax.random.key_data(state.key)
        host = state._replace(key=key, packed_masks=packed, client_states=clients)
        return jax.tree.map(np.asarray, host._asdict())

    def from_host(self, host: dict[str, PyTree]) -> State:
        """Undo :meth:`to_host` on this simulation's devices."""
        placement, packed = self.spec.placement, host["packed_masks"]
        if packed:
            slot = self._slots(jax.random.wrap_key_data(host["key"]), int(host["round"]))
            size = placement.devices * placement.slots
            packed = jax.tree.map(lambda b: _spread(b, slot, size), packed)
        rows = placement.devices * placement.rows
        clients = jax.tree.map(lambda x: _spread(x, self._home, rows), host["client_states"])
        placed = State(**{**host, "packed_masks": packed, "client_states": clients})
        fields = zip(placed, self._shardings, strict=True)
        state = State(*(jax.tree.map(functools.partial(_put, s), x) for x, s in fields))
        return state._replace(key=jax.random.wrap_key_data(state.key))

    def _slots(self, key: Array, round_index: int) -> np.ndarray:
        """Return where each client of a round's cohort trains, [C]."""
        ids = self._cohort(key, jnp.int32(round_index)).ids
        return np.asarray(slot_of(self.spec.placement, ids))

    def _known(self, key: Array) -> Array:
        """Return a key that the devices of all processes know."""
        words = _put(self._shardings.key, np.asarray(jax.random.key_data(key)))
        return jax.random.wrap_key_data(words)


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
    # in this order: devices of one process lie together, as rounds.placement has them
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
    measures: tuple[Measure, ...] = (),
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
      tune_epochs: after the last round the cohort and the new clients fine-tune for so long,
        and are scored; 0: they do not.
      measures: functions ``(old params, new params, layers) -> {name: number}`` of the global model
        before and after a round, recorded with its scalars.
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
      >>> shape = dataset.train.inputs.shape[1:]
      >>> model = models.build("mlp", num_classes=4, input_shape=shape, width=4, depth=1)
      >>> training = LocalTraining(optax.sgd(0.1), epochs=1, batch_size=4)
      >>> simulation = build(model, fedavg(), training, rounds=2, data=data)
      >>> state = simulation.init(jax.random.key(0))
      >>> state, metrics = simulation.run(state, simulation.place(data), 2)
      >>> metrics.layers["step"].shape
      (2, 3)
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
    chex.assert_rank(data.train.inputs, {2, 3, 4})
    chex.assert_equal_shape([data.train_index, data.train_mask])
    chex.assert_equal_shape([data.test_index, data.test_mask])
    processes = len({device.process_index for device in mesh.devices.flat})
    if new_clients and processes > 1:
        raise ValueError(f"new_clients need one process, not {processes}")
    slots, overflow = size, 0.0
    if participation.sampling == "poisson":
        slots, overflow = poisson_slots(clients=training_clients, expected=size, rounds=rounds)
    run = RunContext(
        rounds=rounds,
        num_examples=tuple(map(int, data.num_examples[:training_clients])),
        layers=model.layers,
        training=training,
        cohort=size,
        all_arrive=participation.all_arrive,
        sampling=participation.sampling,
        slots=slots,
        overflow=overflow,
    )
    if participation.sampling != "uniform" and 1 < training_clients == size:
        raise ValueError(
            f"sampling {_SAMPLED[participation.sampling]} needs a cohort below {size}, the "
            "clients: where all take part, nothing is drawn"
        )
    if participation.sampling == "cyclic" and training_clients % size:
        raise ValueError(
            f"sampling in turn needs a cohort that divides {training_clients}, the clients, not "
            f"{size}"
        )
    if participation.sampling == "examples" and training_clients > 1:
        # who is drawn by examples has been weighed by them, as in FedProx (arXiv 1812.06127)
        strategy = strategy._replace(weight=uniform)
    try:
        strategy.check(run)
    except ValueError as error:
        raise ValueError(f"{strategy.name}: {error}") from error
    sparsifier = None if strategy.sparsifier is None else strategy.sparsifier(run)
    if sparsifier is not None:
        check_protected_masks(strategy, run, sparsifier)
    if participation.limits is not None and len(participation.limits) != training_clients:
        raise ValueError(
            f"limits must be of {training_clients} clients, not {len(participation.limits)}"
        )
    if participation.turns is not None:
        _check_turns(participation.turns, run, strategy, sparsifier, processes)
    if Rank.EXAMPLES in strategy.wrappers:
        _check_held_once(data)
    initial = jax.eval_shape(model.init, jax.random.key(0))
    _check_optimizer(training.optimizer, initial)
    # refuses what the model has not
    jax.eval_shape(functools.partial(strategy.init_client, run), initial)
    placement = Placement(training_clients, slots, mesh.size, processes, chunk, run.poisson)
    widest = -(-min(slots, placement.block) * processes // mesh.size)
    spec = RoundSpec(
        model=model,
        strategy=strategy,
        training=training,
        run=run,
        sparsifier=sparsifier,
        total_weight=sum(float(strategy.weight(jnp.int32(n))) for n in run.num_examples),
        placement=placement._replace(chunk=min(chunk, widest)),
        participation=participation,
        ragged=_is_ragged(data, training.batch_size),
        measures=evaluate_every > 0,
        clients_on_global=clients_on_global,
        new_clients=new_clients,
        tune_epochs=tune_epochs,
        own_measures=tuple(measures),
    )
    return Simulation(spec, _schedule(spec, initial, evaluate_every), mesh, data)


def _check_held_once(data: ClientData) -> None:
    """Raise ValueError if an example is there twice, as no bound on one of them covers both."""
    held = np.asarray(data.train_index)[np.asarray(data.train_mask)]
    ids, counts = np.unique(held, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"private_examples needs every example at one site and once, and example "
            f"{ids[counts.argmax()]} is there {counts.max()} times"
        )


def _check_turns(
    turns: Turns, run: RunContext, strategy: Strategy, sparsifier: Sparsifier | None, processes: int
) -> None:
    """Raise ValueError for what does not work where clients do not wait for each other."""
    shape = (run.rounds, run.cohort)
    if turns.clients.shape != shape or turns.began.shape != shape:
        raise ValueError(
            f"turns must be of {run.rounds} updates with {run.cohort} clients each, not of "
            f"{turns.clients.shape} and {turns.began.shape}"
        )
    if turns.clients.min() < 0 or turns.clients.max() >= run.num_clients:
        raise ValueError(f"turns must name clients in 0..{run.num_clients - 1}")
    if not strategy.takes_turns:
        raise ValueError(
            f"{strategy.name} cannot work where clients do not wait for each other: its server "
            "must know from which version a message comes; fedbuff does"
        )
    if processes > 1:
        raise ValueError(f"turns need one process, not {processes}")
    allowed = {Rank.KEEP, Rank.FAULT, Rank.ENCODE, Rank.CLIP, Rank.BROADCAST}
    masks = strategy.wrappers.get(Rank.BROADCAST)
    for rank, wrapper in strategy.wrappers.items():
        if rank not in allowed or (wrapper == masks and sparsifier is None):
            raise ValueError(
                f"{wrapper} cannot work where clients do not wait for each other: it needs rounds"
            )
    if sparsifier is None:
        return
    if sparsifier.shared or sparsifier.trigger is not None or sparsifier.hold == math.inf:
        raise ValueError(
            f"{masks} needs masks of each client, by a schedule, that training may leave, where "
            "clients do not wait for each other"
        )


_SAMPLED = {"examples": "by examples", "poisson": "by Poisson's rule", "cyclic": "in turn"}


def _check_optimizer(optimizer: optax.GradientTransformation, initial: Variables) -> None:
    """Refuse an optimizer that draws: with a fresh state every round it repeats what it drew."""

    def draws(state) -> bool:
        return "rng_key" in getattr(state, "_fields", ())

    state = jax.eval_shape(optimizer.init, initial.params)
    if any(map(draws, jax.tree.leaves(state, is_leaf=draws))):
        raise ValueError(
            "the local optimizer draws noise from a key in its state, which begins anew in every "
            "round of every client: all would add the same noise; use one that does not draw"
        )


def _initial_state(spec: RoundSpec, key: Array) -> State:
    """Return the state before the first round: initial weights, states, no masks on their way."""
    strategy, placement = spec.strategy, spec.placement
    model = spec.model.init(derive(key, 0, SERVER, Purpose.INIT))
    client_state = strategy.init_client(spec.run, model)
    slots, rows, packed = (
        placement.devices * placement.slots,
        placement.devices * placement.rows,
        (),
    )
    if spec.sparsifier is not None:
        masked = tree.kernels(model.params, spec.sparsifier.layers)
        packed = tuple(jnp.zeros((slots, math.ceil(w.size / 8)), jnp.uint8) for w in masked)
    kernels = tree.kernels(model.params, spec.model.layers)
    return State(
        key=key,
        round=jnp.zeros((), jnp.int32),
        global_model=model,
        server_state=strategy.init_server(spec.run, model, derive(key, 0, SERVER, Purpose.SERVER)),
        client_states=jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, *x.shape)), client_state),
        packed_masks=packed,
        sparse=jnp.zeros((), bool),
        density=jnp.ones((), jnp.float32),
        reference=jax.tree.map(jnp.zeros_like, kernels),
        trigger=start_trigger(spec, kernels),
        past=start_past(spec, model),
    )


def _many_rounds(spec: RoundSpec, mesh: Mesh):
    """Return ``(state, data, per_round, rounds) -> (state, metrics)``, jitted over the mesh."""
    specs = _by_field(PartitionSpec(), PartitionSpec(AXIS))

    @functools.partial(jax.jit, static_argnames="rounds", donate_argnames="state")
    def many_rounds(state: State, data: ClientData, per_round: PerRound, rounds: int):
        def of_one_device(state, data, per_round):
            held = jax.tree.map(lambda x: x[0], data)

            def body(state, _):
                return run_round(spec, held, per_round, state)

            return jax.lax.scan(body, state, length=rounds)

        # without check_vma: code for one client stays free of device axes, and gradients with
        # respect to replicated parameters stay local; tests count collectives and compare meshes
        return jax.shard_map(
            of_one_device,
            mesh=mesh,
            in_specs=(specs, PartitionSpec(AXIS), PartitionSpec()),
            out_specs=(specs, PartitionSpec()),
            check_vma=False,
        )(state, data, per_round)

    return many_rounds


def _by_field(common: Any, own: Any) -> State:
    """Return a state whose every field is ``common``, but for what each device has of its own."""
    fields = dict.fromkeys(State._fields, common)
    return State(**{**fields, "packed_masks": own, "client_states": own})


def _shardings(mesh: Mesh) -> State:
    """Return how each field of a state lies on the devices."""
    return _by_field(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS)))


def _shape_of(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _everywhere(x: Array) -> np.ndarray:
    """Return an array that is spread over devices, whole, on every process."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def _spread(values: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """Put values [C, ...] at their places of [size, ...]; the rest is zero."""
    spread = np.zeros((size, *values.shape[1:]), values.dtype)
    spread[place] = values
    return spread


def _first(values: np.ndarray, count: int) -> np.ndarray:
    """Keep the first rows; the rest is zero."""
    return np.where(np.arange(len(values))[:, None] < count, values, 0)


def _put(sharding: Any, x: np.ndarray) -> Array:
    """Put an array that every process holds on the devices of all."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _schedule(spec: RoundSpec, initial, evaluate_every: int) -> Schedule:
    rounds, sparsifier = spec.run.rounds, spec.sparsifier
    if sparsifier is None or sparsifier.trigger is not None:  # nothing is decided before the run
        densities, kept = np.ones(rounds), np.zeros((rounds, 1), np.int32)
    else:
        densities, kept = sparsifier.kept(initial)
    measured = np.zeros(rounds, bool)
    if evaluate_every:
        measured[::evaluate_every] = measured[-1] = True
    last = np.arange(rounds) == rounds - 1
    sparse = _sparse_after(densities, spec.participation.turns)
    per_round = PerRound(measured, last, sparse, densities.astype(np.float32), kept)
    return Schedule(densities, per_round)


def _sparse_after(densities: np.ndarray, turns: Turns | None) -> np.ndarray:
    """Return after which rounds [T] some receiver's model is sparse.

    In rounds it is the newest one; of turns, any version that those of the next update began with.

    >>> turns = Turns(np.array([[0], [1], [0]]), np.array([[0], [0], [1]]))
    >>> _sparse_after(np.array([0.5, 1.0, 1.0]), turns)  # client 0 begins anew after update 0
    array([False,  True, False])
    """
    if turns is None:
        return densities < 1
    sparse = np.append(False, densities < 1)  # by version; the first goes out whole
    return np.append(sparse[turns.began[1:]].any(axis=1), False)


def _is_ragged(data: ClientData, batch_size: int) -> bool:
    """Return whether some client has steps that hold padding alone."""
    steps = -(-np.asarray(data.num_examples) // batch_size)
    return bool((steps < -(-data.train_mask.shape[1] // batch_size)).any())


def _check_range(name: str, value: int, low: int, high: int | None) -> None:
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be {allowed}, not {value}")
