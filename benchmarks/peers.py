"""A round against a tight PyTorch loop, which must first give the same average.

Example: ``pip install -e '.[bench]' && python benchmarks/peers.py --json peers.json``.

The check runs in float64. In float32 single rounding errors grow over the steps of these workloads
(a ReLU that flips, a step size near the edge), so that PyTorch differs from itself by percents when
its initial weights change by 1e-7; that difference is reported, and decides nothing.

The loop is one process with all cores: channels-last, ``foreach`` SGD, no data loader. Its images
are floats and in batches before the clock starts; lipsjax gathers and converts inside its round.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from measure import Case, Figure, interleave, once, ratio, report, start_jax
from workloads import WORKLOADS, Workload, make_data, make_simulation

from lipsjax.keys import Purpose, derive
from lipsjax.local import batch_order

try:
    import torch
    import torch_loop
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    sys.exit("peers.py needs PyTorch: pip install -e '.[bench]'")

TOLERANCE = 1e-3
"""Of the averages: per array, the largest difference over the largest absolute value."""
SIZES = (2048, 4096)


@dataclass(frozen=True)
class Options:
    """What is timed."""

    workloads: tuple[Literal["w1", "w2", "w3"], ...] = ("w1", "w2", "w3")
    """Which workloads."""
    repeats: int = 5
    """Timed rounds of each, interleaved."""
    chunk: int = 1
    """Clients trained at once on each device, as one vmap."""
    devices: int | None = None
    """CPU devices of JAX; one per core by default."""
    threads: int | None = None
    """Threads of PyTorch; one per core by default."""
    json: Path | None = None
    """Write the figures here."""


def round_batches(workload: Workload, data, key, cohort) -> list[tuple[Any, Any]]:
    """Return each client's images [steps, B, H, W, C] and labels [steps, B] of round 0."""

    @jax.jit
    def order(client):
        batches = derive(key, 0, client, Purpose.BATCHES)
        mask = np.ones(workload.examples, bool)
        return batch_order(batches, mask, epochs=workload.epochs, batch_size=workload.batch_size)[0]

    rows = [data.train_index[client][np.asarray(order(client))] for client in cohort]
    return [(data.train.images[r], data.train.labels[r]) for r in rows]


def worst_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, str]:
    """Return the largest relative difference of two averages, and the array that has it."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    scaled = {
        name: float(np.abs(ours[name] - theirs[name]).max() / np.abs(ours[name]).max())
        for name in ours
    }
    worst = max(scaled, key=lambda name: np.nan_to_num(scaled[name], nan=np.inf))
    return scaled[worst], worst


class Peers(NamedTuple):
    """One round of both on the same data, initial weights and batches, and how far they agree."""

    cases: dict[str, Case]
    difference: float
    where: str


def make_peers(workload: Workload, options: Options, dtype: Any) -> Peers:
    """Compile, prepare and run a round of both, in one floating type, and compare the averages."""
    key, data = jax.random.key(0), make_data(workload)
    simulation = make_simulation(workload, data, chunk=options.chunk, dtype=dtype)
    placed = simulation.place(data)
    host = simulation.to_host(simulation.init(key), key)
    batches = round_batches(workload, data, key, simulation.cohort(key, 0))
    loop = torch_loop.make_round(workload, torch_loop.to_torch(host["average"]), batches)
    cases = {
        "torch": Case(lambda _: loop()),
        "lipsjax": Case(
            lambda state: simulation.run(state, key, placed, 1)[0],
            lambda: simulation.from_host(host, key),
        ),
    }
    ours = torch_loop.to_torch(once(cases["lipsjax"])[1].average)
    theirs = torch_loop.comparable(once(cases["torch"])[1], workload)
    return Peers(cases, *worst_difference(ours, theirs))


def check(workload: Workload, options: Options) -> float:
    """Return the difference in float64, or stop if the two do not do the same thing."""
    with jax.enable_x64(True):
        _, difference, where = make_peers(workload, options, np.float64)
    if not difference <= TOLERANCE:
        sys.exit(f"{workload.name}: averages differ by {difference:.1e} in {where}; nothing timed")
    return difference


def compare(workload: Workload, options: Options, peak: float) -> list[Figure]:
    """Check that both averages agree after a round, then time both."""
    difference = check(workload, options)
    peers = make_peers(workload, options, np.float32)
    times = interleave(peers.cases, options.repeats)
    return [
        Figure(f"{workload.name}_difference_float64", "relative", [difference]),
        Figure(f"{workload.name}_difference_float32", "relative", [peers.difference]),
        Figure(f"{workload.name}_torch_round", "s", times["torch"]),
        Figure(f"{workload.name}_lipsjax_round", "s", times["lipsjax"]),
        ratio(f"{workload.name}_speedup_over_torch_loop", times["torch"], times["lipsjax"]),
        Figure(
            f"{workload.name}_fraction_of_matmul_peak",
            "1",
            [workload.round_flops / t / 1e9 / peak for t in times["lipsjax"]],
        ),
    ]


def products(size: int) -> dict[str, Case]:
    """Return the float32 product of one matrix with itself in both libraries."""
    operand = np.random.default_rng(0).standard_normal((size, size), np.float32)
    on_jax, on_torch = jax.device_put(operand), torch.from_numpy(operand)
    square = jax.jit(lambda x: x @ x)
    return {"jax": Case(lambda _: square(on_jax)), "torch": Case(lambda _: on_torch @ on_torch)}


def matmul_peaks(repeats: int) -> dict[str, list[float]]:
    """Return GFLOP/s of products in both libraries, at the size that is quicker in each."""
    best: dict[str, list[float]] = {}
    for size in SIZES:
        for name, times in interleave(products(size), repeats).items():
            rates = [2 * size**3 / t / 1e9 for t in times]
            best[name] = max(best.get(name, rates), rates, key=max)
    return best


def main(options: Options) -> None:
    """Time what was asked for and report it."""
    devices = start_jax(options.devices)
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    peaks = matmul_peaks(max(5, options.repeats))
    peak = max(max(rates) for rates in peaks.values())
    figures = [Figure(f"{name}_matmul", "GFLOP/s", rates) for name, rates in peaks.items()]
    for name in options.workloads:
        figures += compare(WORKLOADS[name], options, peak)
    title = (
        f"peers: lipsjax on {devices} CPU devices, "
        f"PyTorch {torch.__version__} with {torch.get_num_threads()} threads"
    )
    report(title, figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
