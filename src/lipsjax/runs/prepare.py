"""From a config and an execution to everything a run needs; all that can be refused is, here."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lipsjax import clients, partition, tree
from lipsjax.datasets import channel_statistics
from lipsjax.models import Normalise
from lipsjax.runs import own, processes, timing, trackers
from lipsjax.runs.build import built_for
from lipsjax.runs.config import Config, Execution, cohort_size, num_clients
from lipsjax.runs.costs import Account, account_of
from lipsjax.runs.data import Shared, check_numbers, share_out
from lipsjax.runs.dataset import load_for
from lipsjax.runs.machine import (
    FILLED,
    Machine,
    fitting_chunk,
    here,
    installed_memory,
    program_bytes,
)
from lipsjax.runs.resolve import resolve
from lipsjax.runs.timing import Sited
from lipsjax.simulation import Simulation
from lipsjax.sites import Clock
from lipsjax.types import PyTree, Variables

LARGEST_CHUNK = 32


class Prepared(NamedTuple):
    """A run, ready to start."""

    config: Config
    fingerprint: str  # of the data set
    plan: dict[str, Any]
    setup: dict[str, Any]  # what reports need to know about it
    simulation: Simulation
    data: clients.ClientData
    account: Account  # of the bits that it moves
    normalise: Normalise | None  # what the model does to its inputs; None: they are as in the data
    clock: Clock | None  # of the sites; None: the config has no devices


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
      its compiled program, unless clients overlap or differ in size: then shapes differ by seed;
      or uint8 images are normalised by what clients hold, which the seed draws.

    Raises:
      ValueError: for anything in the config that cannot be run.
    """
    check_numbers(config)
    timing.check(config)
    trackers.check(execution.trackers)
    dataset, fingerprint = load_for(config, execution.data_dir)
    machine = here() if machine is None else machine
    if plan is None:
        plan = processes.agree(lambda: resolve(execution, cohort_size(config), machine))
    among = {"processes": machine.processes, "process": jax.process_index()}
    shared = share_out(config, dataset, **among)
    data = shared.data
    if machine.platform != "cpu":  # a CPU's products are float32 as they are
        jax.config.update("jax_default_matmul_precision", plan["precision"])
    normalise = _normalisation(config, shared) if config.model.normalise else None
    if normalise is not None and np.issubdtype(data.train.inputs.dtype, np.floating):
        # in the data, not the program, as the numbers are of the seed; bytes stay small
        data, normalise = clients.standardise(data, *normalise), None
    about = data, dataset.num_classes, normalise, shared.names
    build = functools.partial(built_for, config, *about, machine)
    if plan["chunk"] == "auto":
        plan = plan | {"chunk": _largest_chunk(build, plan, machine)}
    sim, clock, given_up = build(plan)
    variables = jax.eval_shape(sim.spec.model.init, jax.random.key(0))
    if machine.platform == "cpu":
        _check_memory(sim, variables, installed_memory())
    layers = sim.spec.model.layers
    sizes = [w.size for w in tree.kernels(variables.params, layers)]
    setup = {
        "layers": [{**x._asdict(), "size": n} for x, n in zip(layers, sizes, strict=True)],
        "num_params": tree.size(variables.params),
        "num_classes": dataset.num_classes,
        "global_examples": len(data.global_index),
        "survey": partition.describe(shared.partition, shared.dataset).to_dict(),
        "input_shape": data.train.inputs.shape[1:],
        "class_names": dataset.class_names,
        "site_names": shared.names,
    }
    if sim.spec.own_measures:
        setup["own_measures"] = own.names_of(sim.spec.own_measures, variables.params, layers)
    if clock is not None:
        devices = clock.of_sites(rounds=config.rounds, cohort=sim.spec.cohort)
        taken = given_up.rows(len(devices))
        setup["devices"] = [device | row for device, row in zip(devices, taken, strict=True)]
    account = account_of(sim, jax.random.key(config.seed))
    return Prepared(config, fingerprint, plan, setup, sim, data, account, normalise, clock)


def _normalisation(config: Config, shared: Shared) -> Normalise:
    """Return mean and deviation of each channel or feature over what clients that train hold.

    It is what they could tell together: the mean, weighted by examples, of what each says of
    itself. New clients have no part in it. Of images in clients that are made up it is over the
    whole training split, as such sets are published with.
    """
    dataset = shared.dataset
    if config.partition.kind != "natural" and dataset.kind == "images":
        return channel_statistics(dataset.train.inputs)
    held = shared.partition.train[: num_clients(config)]
    return channel_statistics(dataset.train.inputs[np.concatenate(held)])


def _check_memory(sim: Simulation, variables: Variables, installed: float) -> None:
    """Refuse what cannot fit: models and client states alone, without data and activations.

    Raises:
      ValueError: naming the bytes that are needed, and those that there are.
    """
    spec = sim.spec
    state = jax.eval_shape(functools.partial(spec.strategy.init_client, spec.run), variables)
    at_once = spec.placement.devices * spec.placement.chunk
    copies = 3 + 3 * at_once  # old, new and summed; of each client weights, gradient, momentum
    needed = _bytes(variables) * copies + _bytes(state) * spec.run.num_clients
    if needed > installed:
        raise ValueError(
            f"a model of {tree.size(variables.params)} parameters and what {spec.run.num_clients} "
            f"clients keep need at least {needed / 2**30:.0f} GiB, and this machine has "
            f"{installed / 2**30:.0f} GiB: a smaller model, or fewer clients, need less"
        )


def _bytes(shapes: PyTree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def _largest_chunk(
    build: Callable[[dict[str, Any]], Sited],
    plan: dict[str, Any],
    machine: Machine,
) -> int:
    """Return how many clients of a chunk fit in the memory of a device, up to LARGEST_CHUNK."""
    if machine.memory is None:
        return LARGEST_CHUNK

    def needed(chunk: int) -> int:
        sim = build(plan | {"chunk": chunk}).simulation
        return program_bytes(sim.compiled(plan["rounds_per_call"]))

    sim = build(plan | {"chunk": LARGEST_CHUNK}).simulation
    largest = min(LARGEST_CHUNK, sim.spec.placement.chunk)
    # all processes compile, as the program is theirs together; process 0 decides
    chunk = fitting_chunk(needed, FILLED * machine.memory, largest)
    return processes.agree(lambda: chunk)
