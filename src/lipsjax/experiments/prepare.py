"""From a config and an execution to everything a run needs; all that can be refused is, here."""

import dataclasses
import functools
import importlib.metadata
import inspect
import json
import platform
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lipsjax import clients, datasets, models, partition, simulation, tree
from lipsjax.experiments.config import Config, Execution, LocalConfig, to_dict
from lipsjax.local import LocalTraining
from lipsjax.metrics.costs import Bits, round_bits
from lipsjax.simulation import Simulation
from lipsjax.sparsity.density import SCHEDULES, check_density
from lipsjax.sparsity.transient import transient_sparsity
from lipsjax.strategies import Strategy, fedavg, keep_local
from lipsjax.types import Model, PyTree

PACKAGES = ("lipsjax", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")


class Prepared(NamedTuple):
    """A run, ready to start."""

    config: Config
    fingerprint: str  # of the data set
    plan: dict[str, Any]
    setup: dict[str, Any]  # what reports need to know about it
    simulation: Simulation
    data: clients.ClientData
    bits: tuple[Bits, ...]  # per round


def prepare(config: Config, execution: Execution, plan: dict[str, Any] | None = None) -> Prepared:
    """Load, partition, build; compile nothing.

    Args:
      config: the science.
      execution: how to run it, resolved into a plan.
      plan: a recorded plan to follow instead, when a run goes on.

    Returns:
      A :class:`Prepared` run. Runs that differ in the seed alone share one simulation, and so
      its compiled program.

    Raises:
      ValueError: for anything in the config that cannot be run.
    """
    dataset, fingerprint = load(config.dataset, execution.data_dir)
    parts, data = share_out(config, dataset)
    plan = resolve(execution) if plan is None else plan
    sim = _simulation(config, plan, data, dataset.num_classes)
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
    """Load a data set once per process; return it and its fingerprint."""
    dataset = datasets.load(name, data_dir)
    return dataset, datasets.fingerprint(dataset)


def share_out(
    config: Config, dataset: datasets.Dataset
) -> tuple[partition.Partition, clients.ClientData]:
    """Partition a data set among the clients, as the config and its seed say."""
    wanted = config.partition
    if wanted.clients < 1:
        raise ValueError(f"clients must be at least 1, not {wanted.clients}")
    train_sizes = np.asarray(wanted.train_examples)
    if train_sizes.ndim == 0:
        train_sizes = np.full(wanted.clients, train_sizes)
    if len(train_sizes) != wanted.clients:
        raise ValueError(
            f"train_examples must be one number or {wanted.clients}, one per client, not "
            f"{len(train_sizes)}"
        )
    sizes = {
        "train_sizes": train_sizes,
        "test_sizes": np.full(wanted.clients, wanted.test_examples),
    }
    # two streams, so that the global test set does not depend on how clients were drawn
    for_clients, for_test = np.random.default_rng(config.seed).spawn(2)
    if wanted.kind == "iid":
        parts = partition.iid(dataset, rng=for_clients, **sizes)
    else:
        parts = partition.dirichlet(
            dataset, alpha=wanted.alpha, overlap=wanted.overlap, rng=for_clients, **sizes
        )
    limit = config.evaluation.global_examples
    return parts, clients.stack(dataset, parts, global_examples=limit, rng=for_test)


def resolve(execution: Execution) -> dict[str, Any]:
    """Decide what the execution leaves open, and note what would change the bits."""
    backend = jax.default_backend()
    on_cpu = backend == "cpu"
    devices = len(jax.devices()) if execution.devices is None else execution.devices
    conv = execution.conv
    if conv == "auto":
        conv = "patches" if on_cpu else "grouped"
    chunk = execution.chunk
    if chunk is None:
        # on CPU one client at a time keeps its patches in cache; elsewhere width pays
        chunk = 1 if on_cpu else 32
    if execution.rounds_per_call < 1:
        raise ValueError(f"rounds_per_call must be at least 1, not {execution.rounds_per_call}")
    return {
        "platform": backend,
        "device": jax.devices()[0].device_kind,
        "host": platform.platform(),
        "python": platform.python_version(),
        "devices": devices,
        "chunk": chunk,
        "conv": conv,
        "rounds_per_call": execution.rounds_per_call,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the bits of a run."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


_built: dict[str, Simulation] = {}


def _simulation(
    config: Config, plan: dict[str, Any], data: clients.ClientData, num_classes: int
) -> Simulation:
    """Build a simulation, or find one that differs in nothing but seed and examples."""
    science = to_dict(dataclasses.replace(config, seed=0))
    shapes = [(x.shape, str(x.dtype)) for x in jax.tree.leaves(data)]
    key = json.dumps([science, plan, shapes, data.num_examples.tolist(), num_classes])
    if key not in _built:
        if len(_built) == 8:  # compiled programs are large
            _built.clear()
        _built[key] = _build(config, plan, data, num_classes)
    return _built[key]


def _build(
    config: Config, plan: dict[str, Any], data: clients.ClientData, num_classes: int
) -> Simulation:
    model = models.build(
        config.model.name,
        num_classes=num_classes,
        image_shape=data.train.images.shape[1:],
        width=config.model.width,
        norm=config.model.norm,
        conv=plan["conv"],
    )
    local = config.local
    return simulation.build(
        model,
        build_strategy(config, model),
        LocalTraining(build_optimizer(local), local.epochs, local.batch_size),
        rounds=config.rounds,
        data=data,
        cohort_size=config.strategy.cohort,
        evaluate_every=config.evaluation.every,
        clients_on_global=config.evaluation.clients_on_global,
        mesh=simulation.client_mesh(plan["devices"]),
        chunk=plan["chunk"],
    )


def build_strategy(config: Config, model: Model) -> Strategy:
    """Build the strategy that a config describes, wrapped if it has a ``sparsity``."""
    strategy = fedavg()
    if config.strategy.norm != "global":
        with_biases = config.strategy.norm == "local_with_biases"
        strategy = keep_local(
            strategy,
            lambda path: models.is_norm(path) or (with_biases and models.is_bias(path)),
        )
        if config.model.norm == "none" and not with_biases:
            raise ValueError("strategy.norm='local' needs a model with normalisation, not 'none'")
    if config.sparsity is None:
        return strategy
    options = to_dict(config.sparsity)
    density = check_density(options.pop("density"))
    schedule = SCHEDULES[options.pop("schedule")](density)
    return transient_sparsity(strategy, layers=model.layers, density=schedule, **options)


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
                f"unknown option {name!r} of {local.optimizer}; allowed are {', '.join(allowed)}"
            )
    if not local.learning_rate >= 0:
        raise ValueError(f"learning_rate must be at least 0, not {local.learning_rate}")
    return factory(local.learning_rate, **local.options)


def _bits(sim: Simulation, variables: PyTree) -> tuple[Bits, ...]:
    """Count the bits of every round."""
    strategy, schedule = sim.setup.strategy, sim.schedule
    downlink = strategy.downlink
    common = {"clients": sim.setup.cohort, "values": strategy.exchanged(variables)}
    if downlink is None:
        return (round_bits(**common),) * len(schedule.densities)
    maskable = sum(w.size for w in tree.kernels(variables.params, downlink.layers))
    return tuple(
        round_bits(
            **common,
            maskable=maskable,
            kept=int(kept.sum()) if density < 1 else None,
            gradient=downlink.gradient,
            shared=downlink.shared,
        )
        for density, kept in zip(schedule.densities, schedule.tables.kept, strict=True)
    )
