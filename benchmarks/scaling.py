"""How time and memory of a round grow with registered clients, with the cohort, and with devices.

python benchmarks/scaling.py --json scaling.json
"""

import gc
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro
from measure import Case, Figure, interleave, ratio, report, start_jax
from workloads import WORKLOADS, Workload, make_data, make_simulation

REGISTERED = (100, 1000, 10_000)
COHORTS = (50, 200, 800)
OF_COHORTS = 1000
"""Registered clients where the cohort varies."""


@dataclass(frozen=True)
class Options:
    """What is timed."""

    repeats: int = 7
    """Interleaved rounds behind each time by registered clients and devices."""
    cohort_repeats: int = 5
    """Interleaved rounds behind each time by cohort."""
    memory_rounds: int = 3
    """Rounds whose peak memory is measured, in a process of their own for each setting."""
    chunk: int = 1
    """Clients trained at once on each device, as one vmap."""
    devices: int | None = None
    """CPU devices; one per core by default."""
    json: Path | None = None
    """Write the figures here."""
    child: tuple[int, int] | None = None
    """Measure the memory of a round of so many registered clients and cohort here, and end."""


def make_case(workload: Workload, *, chunk: int, devices: int | None) -> Case:
    """Prepare a training round from a state on the host, the same every time."""
    key, data = jax.random.key(0), make_data(workload)
    simulation = make_simulation(workload, data, chunk=chunk, devices=devices)
    host, placed = simulation.to_host(simulation.init(key)), simulation.place(data)
    return Case(
        run=lambda state: simulation.run(state, placed, 1),
        prepare=lambda: simulation.from_host(host),
    )


def time_settings(
    settings: dict[str, Workload], options: Options, repeats: int
) -> dict[str, list[float]]:
    """Time rounds of several workloads in turn."""
    cases = {
        name: make_case(workload, chunk=options.chunk, devices=options.devices)
        for name, workload in settings.items()
    }
    return interleave(cases, repeats)


def by_registered(options: Options) -> list[Figure]:
    """Time and memory of a round of 50 clients, of 100, 1,000 and 10,000."""
    w1 = WORKLOADS["w1"]
    settings = {str(k): w1._replace(clients=k) for k in REGISTERED}
    times = time_settings(settings, options, options.repeats)
    memory = {k: peak_memory(k, w1.cohort, options) for k in REGISTERED}
    least = REGISTERED[0]
    figures = [Figure(f"w1_round_{k}_clients", "s", times[str(k)]) for k in REGISTERED]
    figures += [Figure(f"w1_memory_{k}_clients", "MiB", memory[k]) for k in REGISTERED]
    for k in REGISTERED[1:]:
        name = f"{k}_over_{least}_clients"
        figures.append(ratio(f"w1_time_{name}", times[str(k)], times[str(least)]))
        figures.append(ratio(f"w1_memory_{name}", memory[k], memory[least]))
    return figures


def by_cohort(options: Options) -> list[Figure]:
    """Time per client and memory of a round of 50, 200 and 800 clients, of 1,000."""
    w1 = WORKLOADS["w1"]._replace(clients=OF_COHORTS)
    settings = {str(c): w1._replace(cohort=c) for c in COHORTS}
    times = time_settings(settings, options, options.cohort_repeats)
    each = {c: [t / c for t in times[str(c)]] for c in COHORTS}
    memory = {c: peak_memory(OF_COHORTS, c, options) for c in COHORTS}
    least = COHORTS[0]
    figures = [Figure(f"cohort_{c}_time_per_client", "s", each[c]) for c in COHORTS]
    figures += [Figure(f"cohort_{c}_memory", "MiB", memory[c]) for c in COHORTS]
    for c in COHORTS[1:]:
        figures.append(ratio(f"cohort_{c}_over_{least}_time_per_client", each[c], each[least]))
        figures.append(ratio(f"cohort_{c}_over_{least}_peak_memory", memory[c], memory[least]))
    return figures


def by_devices(options: Options, devices: int) -> list[Figure]:
    """Time of a round on one and on all CPU devices."""
    figures = []
    for name in ("w1", "w3"):
        workload = WORKLOADS[name]._replace(clients=WORKLOADS[name].cohort)
        cases = {str(n): make_case(workload, chunk=options.chunk, devices=n) for n in (1, devices)}
        times = interleave(cases, options.repeats)
        label = f"{name}_time_{devices}_over_1_devices"
        figures.append(ratio(label, times[str(devices)], times["1"]))
    return figures


def peak_memory(clients: int, cohort: int, options: Options) -> list[float]:
    """Return what rounds take at their peak beyond what lies there at rest, MiB each.

    In a process of its own, whose allocator gives memory back at once.
    """
    command = [sys.executable, __file__, "--child", str(clients), str(cohort)]
    command += ["--chunk", str(options.chunk), "--memory-rounds", str(options.memory_rounds)]
    if options.devices is not None:
        command += ["--devices", str(options.devices)]
    frugal = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        command, env=os.environ | frugal, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def measure_memory(clients: int, cohort: int, options: Options) -> list[float]:
    """Return peak minus rest of each round in this process, MiB, after one to warm up."""
    workload = WORKLOADS["w1"]._replace(clients=clients, cohort=cohort)
    case = make_case(workload, chunk=options.chunk, devices=options.devices)
    grown = []
    for _ in range(1 + options.memory_rounds):
        state = jax.block_until_ready(case.prepare())
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        rest = _status("VmRSS")
        result = jax.block_until_ready(case.run(state))
        grown.append((_status("VmHWM") - rest) / 1024)
        del state, result
    return grown[1:]


def _status(name: str) -> int:
    """Return a figure of this process, KiB, as Linux has it."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def main(options: Options) -> None:
    """Time what was asked for and report it."""
    devices = start_jax(options.devices)
    if options.child is not None:
        print(json.dumps(measure_memory(*options.child, options)))
        return
    parts = [lambda: by_registered(options), lambda: by_cohort(options)]
    if devices > 1:
        parts.append(lambda: by_devices(options, devices))
    figures = []
    for part in parts:  # each tells what is there so far, as all of it takes a quarter of an hour
        figures += part()
        report(f"scaling: {devices} CPU devices, chunk {options.chunk}", figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
