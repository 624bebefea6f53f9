"""Seconds a round, and what a transient-sparse round costs beside a dense one.

Of adaptive LIPS a dense round, in which it looks at how far layers moved and chooses no mask.

python benchmarks/rounds.py --json rounds.json
"""

import functools
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from measure import Case, Figure, interleave, ratio, report, start_jax
from workloads import WORKLOADS, Workload, make_data, make_simulation, resnet8

from lipsjax.simulation import Simulation
from lipsjax.sparsity import transient_sparsity

SPARSE, DENSE, ROUNDS = 1, 3, 4
"""A round after and before a sparse broadcast, one with neither, and T."""


SWEEPS = {
    "chunk": (1, 2, 5, 10),
    "conv": ("loop", "patches"),
    "clients": (20, 50, 100),
    "arithmetic": ("float32", "bfloat16"),
}
"""Values by setting; of devices all numbers are tried. Arithmetic is of w2 alone."""

Name = Literal["w1", "w2", "w3"]


@dataclass(frozen=True)
class Options:
    """What is timed."""

    workloads: tuple[Name, ...] = ("w1", "w2", "w3")
    """Which workloads."""
    lips: tuple[Name, ...] = ("w2",)
    """Of which of them a sparse and a dense round of LIPS are timed too."""
    sweep: tuple[Literal["chunk", "conv", "devices", "clients", "arithmetic"], ...] = ()
    """What else varies, beside the first value of each: see SWEEPS."""
    compiles: int = 3
    """Compilations of w2 with an empty cache, and as many with one that has it; 0: none."""
    pairs: Annotated[int, tyro.conf.arg(metavar="N")] = 15
    """Interleaved repeats behind each ratio."""
    repeats: int = 5
    """Timed rounds behind each time of w1 and w3."""
    chunk: int = 1
    """Clients trained at once on each device, as one vmap."""
    devices: int | None = None
    """CPU devices; one per core by default."""
    json: Path | None = None
    """Write the figures here."""
    only_compile: bool = False
    """Compile the workload, print the seconds, and end."""


def half_sparse(strategy):
    """Wrap a strategy in LIPS: broadcasts of the first half of the rounds are sparse, then none."""
    return transient_sparsity(
        strategy,
        density=lambda progress: 0.5 if progress < 0.5 else 1.0,
        every=1,
    )


def adaptive(strategy):
    """Wrap a strategy in adaptive LIPS."""
    return transient_sparsity(strategy, trigger="inertia")


def prepared(simulation: Simulation, data, key):
    """Compile one round; return seconds, the data on devices, and the state before round 0."""
    placed, state = simulation.place(data), simulation.init(key)
    seconds = simulation.compile(1)
    return seconds, placed, state


def one_round(simulation: Simulation, placed, host) -> Case:
    """Time one round from a state on the host, the same every time: ``run`` donates its state."""
    return Case(
        run=lambda state: simulation.run(state, placed, 1),
        prepare=lambda: simulation.from_host(host),
    )


def time_sweep(workload: Workload, what: str, options: Options, devices: int) -> list[Figure]:
    """Time a round for several values of one setting, in turn; of clients, the time of each."""
    values = SWEEPS[what] if what != "devices" else tuple(range(1, devices + 1))
    cases, clients = {}, {}
    for value in values:
        given: dict[str, Any] = {"chunk": options.chunk, "devices": options.devices}
        setting = workload
        if what == "clients":
            setting = workload._replace(clients=value, cohort=value)
        elif what == "arithmetic":
            setting = workload._replace(model=functools.partial(resnet8, arithmetic=str(value)))
        else:
            given[what] = value
        key, data = jax.random.key(0), make_data(setting)
        simulation = make_simulation(setting, data, **given)
        _, placed, state = prepared(simulation, data, key)
        cases[value] = one_round(simulation, placed, simulation.to_host(state))
        clients[value] = setting.cohort
    times: dict[Any, list[float]] = interleave(cases, options.repeats)
    each = {value: [t / clients[value] for t in times[value]] for value in values}
    first = values[0]
    return [
        ratio(f"{workload.name}_{what}_{value}_over_{first}", each[value], each[first])
        for value in values[1:]
    ]


def time_compile(options: Options) -> list[Figure]:
    """Trace and compile a round of w2 in new processes: nothing in the cache, then all of it."""
    command = [sys.executable, __file__, "--workloads", "w2", "--only-compile"]
    command += ["--chunk", str(options.chunk)]
    figures: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(options.compiles):
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
            for state in figures:
                done = subprocess.run(
                    command, env=environment, stdout=subprocess.PIPE, text=True, check=True
                )
                figures[state].append(float(done.stdout))
    return [Figure(f"w2_compile_{state}", "s", seconds) for state, seconds in figures.items()]


def time_dense(workload: Workload, options: Options) -> list[Figure]:
    """Compile a dense round and time it."""
    key, data = jax.random.key(0), make_data(workload)
    simulation = make_simulation(workload, data, chunk=options.chunk)
    seconds, placed, state = prepared(simulation, data, key)
    case = one_round(simulation, placed, simulation.to_host(state))
    times = interleave({"round": case}, options.repeats)["round"]
    return [
        Figure(f"{workload.name}_compile", "s", [seconds]),
        Figure(f"{workload.name}_round", "s", times),
        Figure(f"{workload.name}_rate", "GFLOP/s", [workload.round_flops / t / 1e9 for t in times]),
    ]


def lips_cases(workload: Workload, chunk: int) -> tuple[dict[str, Case], dict[str, float]]:
    """Compile LIPS, adaptive LIPS and FedAvg; return rounds of them, and seconds of compiling.

    The sparse round starts from masked models and ends with the choice of the next masks. All have
    the same model; the dense ones have the same batches too.
    """
    key, data = jax.random.key(0), make_data(workload)
    if workload.cohort < workload.clients:  # masks of last gradients need every client
        workload = workload._replace(clients=workload.cohort)
        data = make_data(workload)
    lips = make_simulation(workload, data, wrap=half_sparse, rounds=ROUNDS, chunk=chunk)
    triggered = make_simulation(workload, data, wrap=adaptive, rounds=ROUNDS, chunk=chunk)
    fedavg = make_simulation(workload, data, rounds=ROUNDS, chunk=chunk)
    lips_seconds, placed, state = prepared(lips, data, key)
    triggered_seconds, _, watched = prepared(triggered, data, key)
    seconds, _, plain = prepared(fedavg, data, key)
    state, _ = lips.run(state, placed, 1)
    assert int(state.round) == SPARSE, "round 0 is done"
    assert bool(state.sparse), "masks are on their way"
    sparse = lips.to_host(state)
    there = {"round": np.asarray(DENSE, np.int32)}
    dense = {**sparse, **there, "sparse": np.zeros((), bool)}
    there["global_model"] = sparse["global_model"]
    plain = {**fedavg.to_host(plain), **there}
    watched = {**triggered.to_host(watched), **there}
    cases = {
        "fedavg": one_round(fedavg, placed, plain),
        "dense": one_round(lips, placed, dense),
        "adaptive": one_round(triggered, placed, watched),
        "sparse": one_round(lips, placed, sparse),
    }
    return cases, {"fedavg": seconds, "lips": lips_seconds, "adaptive": triggered_seconds}


def time_lips(workload: Workload, options: Options) -> list[Figure]:
    """Time a sparse and a dense round of LIPS, dense ones of adaptive LIPS and FedAvg, in turn."""
    cases, compiled = lips_cases(workload, options.chunk)
    times = interleave(cases, options.pairs)
    rate = [workload.round_flops / t / 1e9 for t in times["fedavg"]]
    return [
        Figure(f"{workload.name}_compile", "s", [compiled["fedavg"]]),
        Figure(f"{workload.name}_compile_lips", "s", [compiled["lips"]]),
        Figure(f"{workload.name}_compile_adaptive", "s", [compiled["adaptive"]]),
        Figure(f"{workload.name}_round", "s", times["fedavg"]),
        Figure(f"{workload.name}_rate", "GFLOP/s", rate),
        Figure(f"{workload.name}_round_lips_dense", "s", times["dense"]),
        Figure(f"{workload.name}_round_lips_sparse", "s", times["sparse"]),
        Figure(f"{workload.name}_round_adaptive_dense", "s", times["adaptive"]),
        ratio(f"{workload.name}_sparse_over_dense", times["sparse"], times["dense"]),
        ratio(f"{workload.name}_lips_dense_over_fedavg", times["dense"], times["fedavg"]),
        ratio(f"{workload.name}_adaptive_dense_over_lips", times["adaptive"], times["dense"]),
        ratio(f"{workload.name}_adaptive_dense_over_fedavg", times["adaptive"], times["fedavg"]),
    ]


def main(options: Options) -> None:
    """Time what was asked for and report it."""
    devices = start_jax(options.devices)
    if options.only_compile:
        workload = WORKLOADS[options.workloads[0]]
        print(make_simulation(workload, make_data(workload), chunk=options.chunk).compile(1))
        return
    figures = time_compile(options) if options.compiles else []
    for name in options.workloads:
        measure = time_lips if name in options.lips else time_dense
        figures += measure(WORKLOADS[name], options)
        for what in options.sweep:
            figures += time_sweep(WORKLOADS[name], what, options, devices)
    title = f"rounds: {devices} CPU devices, chunk {options.chunk}"
    report(title, figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
