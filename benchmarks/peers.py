"""A round against what one would use instead, which must first give the same average.

Example: ``pip install -e '.[bench]' && python benchmarks/peers.py --json peers.json``.

The check runs in float64. In float32 single rounding errors grow over the steps of these workloads
(a ReLU that flips, a step size near the edge), so that PyTorch differs from itself by percents when
its initial weights change by 1e-7; that difference is reported, and decides nothing.

Peers: ``loop``, a tight PyTorch loop in one process with all cores (channels-last, ``foreach`` SGD,
no data loader); ``forked``, the same in one process of one thread per core; ``vmap``, clients
vmapped by ``torch.func``, 5 at a time; ``naive``, JAX with ``nn.Conv`` and a vmap over clients, of
w2 alone and of few clients. Their images are floats and in batches before the clock starts; lipsjax
gathers and converts inside its round.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measure import Case, Figure, interleave, once, ratio, report, start_jax
from workloads import WORKLOADS, Workload, make_data, make_simulation

from lipsjax.keys import Purpose, derive
from lipsjax.local import batch_order

try:
    import naive_jax
    import torch
    import torch_loop
    import torch_vmap
    import torch_workers
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
    peers: tuple[Literal["loop", "forked", "vmap", "naive"], ...] = (
        "loop",
        "forked",
        "vmap",
        "naive",
    )
    """What lipsjax is timed with."""
    repeats: int = 5
    """Timed rounds of each, interleaved."""
    naive_clients: int = 2
    """Clients of w2 that the naive form trains, and lipsjax beside it."""
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
        mask = jnp.ones(workload.examples, bool)
        return batch_order(batches, mask, epochs=workload.epochs, batch_size=workload.batch_size)[0]

    rows = [data.train_index[client][np.asarray(order(client))] for client in cohort]
    return [(data.train.inputs[r], data.train.labels[r]) for r in rows]


def worst_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, str]:
    """Return the largest relative difference of two averages, and the array that has it."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    scaled = {
        name: float(np.abs(ours[name] - theirs[name]).max() / np.abs(ours[name]).max())
        for name in ours
    }
    worst = max(scaled, key=lambda name: np.nan_to_num(scaled[name], nan=np.inf))
    return scaled[worst], worst


Gap = tuple[float, str]
"""Largest difference between two averages, and the array that has it."""


class Peers(NamedTuple):
    """One round of each on the same data, initial weights and batches, and how far they agree."""

    cases: dict[str, Case]
    gaps: dict[str, Gap]  # to lipsjax, by peer


def make_peers(
    workload: Workload, names: Sequence[str], options: Options, dtype: Any, held: ExitStack
) -> Peers:
    """Compile, prepare and run a round of each, in one floating type, and compare the averages."""
    key, data = jax.random.key(0), make_data(workload)
    simulation = make_simulation(workload, data, chunk=options.chunk, dtype=dtype)
    placed = simulation.place(data)
    host = simulation.to_host(simulation.init(key))
    batches = round_batches(workload, data, key, simulation.cohort(key, 0))
    initial = torch_loop.to_torch(host["global_model"])
    cases = {
        "lipsjax": Case(
            lambda state: simulation.run(state, placed, 1)[0],
            lambda: simulation.from_host(host),
        )
    }
    ours = torch_loop.to_torch(once(cases["lipsjax"])[1].global_model)
    gaps = {}
    for name in names:
        if name == "forked":  # the loop once more, whose average is looked at there
            workers = torch_workers.Workers(workload, initial, batches, torch.get_num_threads())
            held.callback(workers.close)
            cases[name] = Case(lambda _, workers=workers: workers.round())
            continue
        if name == "naive":
            train = naive_jax.make_round(workload, host["global_model"], batches)
        else:
            module = {"loop": torch_loop, "vmap": torch_vmap}[name]
            train = module.make_round(workload, initial, batches)
        cases[name] = Case(lambda _, train=train: train())
        average = once(cases[name])[1]
        theirs = (
            torch_loop.to_torch(average)
            if name == "naive"
            else torch_loop.comparable(average, workload)
        )
        gaps[name] = worst_difference(ours, theirs)
    return Peers(cases, gaps)


def check(workload: Workload, names: Sequence[str], options: Options) -> dict[str, Gap]:
    """Return the differences in float64, or stop if one does not do the same thing."""
    in_process = [name for name in names if name != "forked"]
    with jax.enable_x64(True), ExitStack() as held:
        gaps = make_peers(workload, in_process, options, np.float64, held).gaps
    for name, (gap, where) in gaps.items():
        if not gap <= TOLERANCE:
            sys.exit(f"{workload.name}: {name} differs by {gap:.1e} in {where}; nothing timed")
    return gaps


LABELS = {
    "loop": "torch_loop",
    "forked": "torch_forked",
    "vmap": "torch_vmap",
    "naive": "naive_vmap",
}
"""Peers as the names of figures have them."""


def compare(workload: Workload, options: Options, peak: float) -> list[Figure]:
    """Check that all averages agree after a round, then time all."""
    names = [name for name in options.peers if name != "naive"]
    figures, times = time_peers(workload, names, options)
    figures.append(
        Figure(
            f"{workload.name}_fraction_of_matmul_peak",
            "1",
            [workload.round_flops / t / 1e9 / peak for t in times],
        )
    )
    if "naive" in options.peers and workload.name == "w2":
        few = workload._replace(clients=options.naive_clients, cohort=options.naive_clients)
        figures += time_peers(few, ["naive"], options, suffix="_of_few")[0]
    return figures


def time_peers(
    workload: Workload, names: Sequence[str], options: Options, suffix: str = ""
) -> tuple[list[Figure], list[float]]:
    """Check some peers, time them and lipsjax in turn; return figures, and lipsjax's times."""
    exact, label = check(workload, names, options), workload.name
    with ExitStack() as held:
        peers = make_peers(workload, names, options, np.float32, held)
        times = interleave(peers.cases, options.repeats)
    figures = [Figure(f"{label}_lipsjax_round{suffix}", "s", times["lipsjax"])]
    for name in names:
        peer = LABELS[name]
        if name in exact:
            figures += [
                Figure(f"{label}_{peer}_difference_float64", "relative", [exact[name][0]]),
                Figure(f"{label}_{peer}_difference_float32", "relative", [peers.gaps[name][0]]),
            ]
        figures += [
            Figure(f"{label}_{peer}_round{suffix}", "s", times[name]),
            ratio(f"{label}_speedup_over_{peer}", times[name], times["lipsjax"]),
        ]
    return figures, times["lipsjax"]


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
