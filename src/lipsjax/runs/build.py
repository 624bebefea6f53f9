"""From a config and an execution to everything a run needs; all that can be refused is, here."""

import dataclasses
import functools
import importlib.metadata
import inspect
import json
import math
import platform
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lipsjax import clients, datasets, models, partition, simulation, strategies, tree
from lipsjax.augmentation import augmentation
from lipsjax.local import LocalTraining
from lipsjax.metrics.costs import Bits, round_bits
from lipsjax.models import Normalise
from lipsjax.rounds import Participation
from lipsjax.runs import processes, trackers
from lipsjax.runs.config import Config, Execution, LocalConfig, cohort_size, num_clients, to_dict
from lipsjax.runs.data import check_numbers, share_out
from lipsjax.runs.machine import FILLED, Machine, fitting_chunk, here, program_bytes
from lipsjax.runs.startup import check_devices
from lipsjax.runs.study import nearest
from lipsjax.simulation import Simulation
from lipsjax.sparsity.density import SCHEDULES, check_density
from lipsjax.sparsity.shrinking import transient_shrink
from lipsjax.sparsity.transient import transient_sparsity
from lipsjax.strategies import Strategy, fedavg, keep_local
from lipsjax.types import Model, PyTree

LARGEST_CHUNK = 32
PACKAGES = ("lipsjax", "jax", "jaxlib", "flax", "optax", "numpy")


class Prepared(NamedTuple):
    """A run, ready to start."""

    config: Config
    fingerprint: str  # of the data set
    plan: dict[str, Any]
    setup: dict[str, Any]  # what reports need to know about it
    simulation: Simulation
    data: clients.ClientData
    bits: tuple[Bits, ...]  # per round


def prepare(
    config: Config,
    execution: Execution,
    plan: dict[str, Any] | None = None,
    machine: Machine | None = None,
) -> Prepared:
    """Load, partition, build; compile nothing, but where the chunk depends on memory.

    Args:
      config: the science.
      execution: how to run it, resolved into a plan.
      plan: a recorded plan to follow instead, when a run goes on.
      machine: to plan for; None: the devices here.

    Returns:
      A :class:`Prepared` run. Runs that differ in the seed alone share one simulation, and so
      its compiled program, unless clients overlap or differ in size: then shapes differ by seed.

    Raises:
      ValueError: for anything in the config that cannot be run.
    """
    check_numbers(config)
    trackers.check(execution.trackers)
    dataset, fingerprint = load(config.dataset, execution.data_dir)
    machine = here() if machine is None else machine
    if plan is None:
        plan = processes.agree(lambda: resolve(execution, cohort_size(config), machine))
    among = {"processes": machine.processes, "process": jax.process_index()}
    parts, data = share_out(config, dataset, **among)
    if machine.platform != "cpu":  # a CPU's products are float32 as they are
        jax.config.update("jax_default_matmul_precision", plan["precision"])
    normalise = _statistics(config.dataset, execution.data_dir) if config.model.normalise else None
    build = functools.partial(_simulation, config, data, dataset.num_classes, normalise, machine)
    if plan["chunk"] == "auto":
        plan = plan | {"chunk": _largest_chunk(build, plan, machine)}
    sim = build(plan)
    variables = jax.eval_shape(sim.setup.model.init, jax.random.key(0))
    layers = sim.setup.model.layers
    sizes = [w.size for w in tree.kernels(variables.params, layers)]
    setup = {
        "layers": [{**x._asdict(), "size": n} for x, n in zip(layers, sizes, strict=True)],
        "num_params": tree.size(variables.params),
        "num_classes": dataset.num_classes,
        "survey": partition.describe(parts, dataset).to_dict(),
    }
    return Prepared(config, fingerprint, plan, setup, sim, data, _bits(sim, variables))


@functools.lru_cache(maxsize=4)
def load(name: str, data_dir: str | None) -> tuple[datasets.Dataset, str]:
    """Load a data set once per process; return it and its fingerprint.

    Raises:
      ValueError: if it cannot be loaded in some process, or is not the same in all.
    """

    def read():
        dataset = datasets.load(name, data_dir)
        return dataset, datasets.fingerprint(dataset)

    dataset, fingerprint = processes.together(read)
    of_main = processes.agree(lambda: fingerprint)

    def check():
        if fingerprint != of_main:
            raise ValueError(f"{name} holds other examples here than in process 0")

    processes.together(check)
    return dataset, fingerprint


@functools.lru_cache(maxsize=4)
def _statistics(name: str, data_dir: str | None) -> Normalise:
    """Return mean and deviation of each channel over the training split, once per process."""
    return datasets.channel_statistics(load(name, data_dir)[0].train.images)


def resolve(execution: Execution, clients: int, machine: Machine) -> dict[str, Any]:
    """Decide what the execution leaves open, and note what would change the bits.

    Args:
      execution: what was asked for.
      clients: that take part in a round; more devices than that would idle.
      machine: whose devices there are.

    Returns:
      The plan of a run; its chunk may still be "auto", where it depends on memory.

    Raises:
      ValueError: for an execution that is not possible here.
    """
    on_cpu = machine.platform == "cpu"
    check_devices(execution.devices, clients)
    devices = execution.devices or _usable_devices(clients, machine)
    conv = execution.conv
    if conv == "auto":
        conv = "loop" if on_cpu else "grouped"
    # on CPU one client at a time keeps its patches in cache; elsewhere width pays
    chunk = 1 if on_cpu and execution.chunk == "auto" else execution.chunk
    if execution.rounds_per_call < 1:
        raise ValueError(f"rounds_per_call must be at least 1, not {execution.rounds_per_call}")
    return {
        "platform": machine.platform,
        "device": machine.kind,
        "host": platform.platform(),
        "python": platform.python_version(),
        "processes": machine.processes,
        "devices": devices,
        "chunk": chunk,
        "conv": conv,
        "precision": execution.precision,
        "rounds_per_call": execution.rounds_per_call,
        "versions": versions(),
    }


def describe_plan(plan: dict[str, Any], dtype: str) -> str:
    """Return a plan in a line."""
    where = f"{plan['devices']} x {plan['device']}"
    if plan["processes"] > 1:
        where += f" in {plan['processes']} processes"
    products = dtype
    if plan["platform"] != "cpu" and dtype == "float32":
        products += f" at precision {plan['precision']}"
    return f"plan: {where}, chunk {plan['chunk']}, convolution {plan['conv']}, {products}"


def _usable_devices(clients: int, machine: Machine) -> int:
    """Return how many devices have something to do, as many in each process."""
    useful = min(len(machine.devices), clients)
    return max(useful // machine.processes, 1) * machine.processes


def _largest_chunk(
    build: Callable[[dict[str, Any]], Simulation],
    plan: dict[str, Any],
    machine: Machine,
) -> int:
    """Return how many clients of a chunk fit in the memory of a device, up to LARGEST_CHUNK."""
    if machine.memory is None:
        return LARGEST_CHUNK

    def needed(chunk: int) -> int:
        return program_bytes(build(plan | {"chunk": chunk}).program(plan["rounds_per_call"]))

    largest = min(LARGEST_CHUNK, build(plan | {"chunk": LARGEST_CHUNK}).setup.chunk)
    # all processes compile, as the program is theirs together; process 0 decides
    chunk = fitting_chunk(needed, FILLED * machine.memory, largest)
    return processes.agree(lambda: chunk)


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the bits of a run."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


_built: dict[str, Simulation] = {}


def _simulation(
    config: Config,
    data: clients.ClientData,
    num_classes: int,
    normalise: Normalise | None,
    machine: Machine,
    plan: dict[str, Any],
) -> Simulation:
    """Build a simulation, or find one that differs in nothing but seed and examples."""
    mesh = simulation.client_mesh(plan["devices"], machine.devices)
    science = to_dict(dataclasses.replace(config, seed=0))
    shapes = [(x.shape, str(x.dtype)) for x in jax.tree.leaves(data)]
    key = json.dumps(
        [science, plan, shapes, data.num_examples.tolist(), num_classes, normalise], sort_keys=True
    )
    if key not in _built:
        if len(_built) == 8:  # compiled programs are large
            _built.clear()
        _built[key] = _build(config, plan, data, num_classes, normalise, mesh)
    return _built[key]


def _build(
    config: Config,
    plan: dict[str, Any],
    data: clients.ClientData,
    num_classes: int,
    normalise: Normalise | None,
    mesh: Mesh,
) -> Simulation:
    model = models.build(
        config.model.name,
        num_classes=num_classes,
        image_shape=data.train.images.shape[1:],
        width=config.model.width,
        depth=config.model.depth,
        norm=config.model.norm,
        normalise=normalise,
        conv=plan["conv"],
        dtype=config.model.dtype,
    )
    local = config.local
    return simulation.build(
        model,
        build_strategy(config, model, num_classes),
        LocalTraining(
            build_optimizer(local),
            local.epochs,
            local.batch_size,
            rate=_rate(local.schedule, config.rounds),
            augment=augmentation(local.augmentation),
        ),
        rounds=config.rounds,
        data=data,
        cohort_size=cohort_size(config),
        evaluate_every=config.evaluation.every,
        clients_on_global=config.evaluation.clients_on_global,
        participation=Participation(**to_dict(config.participation)),
        new_clients=config.partition.new_clients,
        tune_epochs=config.evaluation.tune_epochs,
        mesh=mesh,
        chunk=plan["chunk"],
    )


def build_strategy(config: Config, model: Model, num_classes: int) -> Strategy:
    """Build the strategy that a config describes, and what is wrapped around it.

    From the inside: the strategy, personal leaves, faults, compression, clipping, aggregation, and,
    outermost, masks. A strategy that is made of masks, or that goes around any other, goes around
    all of that.

    Raises:
      ValueError: for options that do not exist, or wrappers that make no sense together.
    """
    chosen, faults = config.strategy, config.faults
    factory = _factory(chosen.name)
    goes_around = "strategy" in inspect.signature(factory).parameters
    strategy = fedavg() if goes_around else _named(factory, config, model)
    if chosen.norm != "global":
        with_biases = chosen.norm == "local_with_biases"
        if config.model.norm == "none" and not with_biases:
            raise ValueError("strategy.norm='local' needs a model with normalisation, not 'none'")
        strategy = keep_local(
            strategy,
            lambda path: models.is_norm(path) or (with_biases and models.is_bias(path)),
        )
    if goes_around and chosen.name == "ditto":  # the shared model alone is compressed
        strategy = _named(factory, config, model, strategy=strategy)
    if faults.clients:
        strategy = strategies.faulty(strategy, num_classes=num_classes, **to_dict(faults))
    options = chosen.compression_options
    if chosen.compression == "none" and options:
        raise ValueError(f"strategy.compression_options need a compression, not none: {options}")
    if chosen.compression == "sign_majority":
        _check_options(strategies.sign_majority, options, given=["strategy"])
        strategy = strategies.sign_majority(strategy, **options)
    elif chosen.compression != "none":
        codec = getattr(strategies, chosen.compression)
        _check_options(codec, options)
        strategy = strategies.compress(strategy, codec(**options))
    if chosen.clip_norm is not None:
        strategy = strategies.clip(strategy, norm=chosen.clip_norm)
    if chosen.aggregation == "median":
        strategy = strategies.median(strategy)
    elif chosen.aggregation == "trimmed_mean":
        strategy = strategies.trimmed_mean(strategy, trim=chosen.trim)
    if goes_around and chosen.name != "ditto":
        strategy = _named(factory, config, model, strategy=strategy)
    if config.sparsity is None:
        return strategy
    masks = to_dict(config.sparsity)
    density = check_density(masks.pop("density"))
    schedule = SCHEDULES[masks.pop("schedule")](density)
    operation = masks.pop("operation")
    if operation == "mask":
        return transient_sparsity(strategy, layers=model.layers, density=schedule, **masks)
    return transient_shrink(
        strategy,
        layers=model.layers,
        density=schedule,
        every=masks["every"],
        perturb=operation == "shrink_perturb",
        kinds=masks["kinds"],
    )


def _factory(name: str) -> Callable[..., Strategy]:
    """Return the function that makes a strategy."""
    return getattr(strategies, name)


def _named(
    factory: Callable[..., Strategy], config: Config, model: Model, **given: Strategy
) -> Strategy:
    """Call a strategy's function with its options, and what it must know of the run."""
    name, local = config.strategy.name, config.local
    parameters = inspect.signature(factory).parameters
    known = {
        "learning_rate": local.learning_rate,
        "momentum": local.options.get("momentum", 0.0),
        "participation": cohort_size(config) / num_clients(config),
        "layers": model.layers,
        "rounds": config.rounds,
        "epochs": local.epochs,
    }
    _check_options(factory, config.strategy.options, given=[*known, *given, "kinds"])
    counts_steps = "learning_rate" in parameters or "momentum" in parameters
    if counts_steps and (local.optimizer != "sgd" or local.options.get("nesterov")):
        raise ValueError(
            f"strategy {name} needs local.optimizer 'sgd' without nesterov, as it divides by how "
            f"far its steps go, not {local.optimizer!r} with {local.options}"
        )
    if counts_steps and local.schedule != "constant":
        raise ValueError(
            f"strategy {name} needs local.schedule 'constant', as it divides by how far its steps "
            f"go, not {local.schedule!r}"
        )
    filled = {name: value for name, value in known.items() if name in parameters}
    return factory(**config.strategy.options, **filled, **given)


def _check_options(
    factory: Callable[..., Any], options: dict[str, Any], given: Iterable[str] = ()
) -> None:
    """Refuse options that a function does not take, or that are given already."""
    allowed = [n for n in inspect.signature(factory).parameters if n not in given]
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"unknown option {option!r} of {factory.__name__}{nearest(option, allowed)}; "
                f"allowed are {', '.join(allowed) or 'none'}"
            )


def build_optimizer(local: LocalConfig) -> optax.GradientTransformation:
    """Build an optax optimizer by name.

    Raises:
      ValueError: if optax has none of that name, or it does not take an option.

    Example:
      >>> _ = build_optimizer(LocalConfig(optimizer="adam", options={"b1": 0.8}))
    """
    factory = getattr(optax, local.optimizer, None)
    known = inspect.isfunction(factory) and "learning_rate" in inspect.signature(factory).parameters
    if not known or factory is None:
        raise ValueError(
            f"optimizer must be one of optax that takes a learning rate (sgd, adam, "
            f"adamw, ...), not {local.optimizer!r}"
        )
    allowed = [n for n in inspect.signature(factory).parameters if n != "learning_rate"]
    for name in local.options:
        if name not in allowed:
            raise ValueError(
                f"unknown option {name!r} of {local.optimizer}; local.options replaces all of "
                f"them, allowed are {', '.join(allowed)}"
            )
    for field in ("learning_rate", "weight_decay"):
        if getattr(local, field) < 0:
            raise ValueError(f"{field} must be at least 0, not {getattr(local, field)}")
    example = {"kernel": jnp.ones((2, 2))}
    try:
        optimizer = factory(local.learning_rate, **local.options)
        if local.weight_decay:
            optimizer = optax.chain(optax.add_decayed_weights(local.weight_decay), optimizer)
        jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), example)
    except Exception as error:  # whatever optax makes of a value that it cannot use
        raise ValueError(
            f"optimizer {local.optimizer} with options {local.options} cannot be used: {error}"
        ) from None
    return optimizer


def _rate(schedule: str, rounds: int) -> Callable[[jax.Array], jax.Array] | None:
    """Return round -> factor of the learning rate: 1 at the first, 0 after the last."""
    if schedule == "linear":
        return lambda t: 1 - t / rounds
    if schedule == "cosine":
        return lambda t: (1 + jnp.cos(jnp.pi * t / rounds)) / 2
    return None


def _bits(sim: Simulation, variables: PyTree) -> tuple[Bits, ...]:
    """Count the bits of every round, if all of its clients arrive."""
    strategy, (densities, tables) = sim.setup.strategy, sim.schedule
    up, down = strategy.traffic(variables, len(densities))
    downlink, masks = strategy.downlink, {}
    if downlink is not None and downlink.layers:
        kernels = tree.kernels(variables.params, downlink.layers)
        masks = {
            "maskable": sum(w.size for w in kernels),
            "held": downlink.hold == math.inf,
            "relative": strategy.relative,
            "gradient": downlink.gradient,
            "shared": downlink.shared,
        }
    kept = [
        int(counts.sum()) if density < 1 and counts.size else None
        for density, counts in zip(densities, tables.kept, strict=True)
    ]
    return tuple(
        round_bits(
            clients=sim.setup.cohort,
            uplink=int(up[t]),
            downlink=int(down[t]),
            kept=kept[t],
            kept_before=kept[t - 1] if t else None,
            **masks,
        )
        for t in range(len(densities))
    )
