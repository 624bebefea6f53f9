"""What a study would take on devices that need not be here: ``python -m lipsjax.experiments.plan``.

Programs are compiled ahead of time; nothing is run and nothing is recorded.
"""

import dataclasses
import math
import os
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from lipsjax.experiments import command
from lipsjax.experiments.sweep import Sweep, read_arguments
from lipsjax.runs import startup
from lipsjax.runs.config import Execution, cohort_size
from lipsjax.runs.study import Planned, Study, cells, expand, program_key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Sweep):
    """Say what a study would take: memory, FLOPs, bytes, collectives, hours, and what it costs.

    Programs are compiled for devices that need not be here. A STUDY.toml before the options says
    what the defaults are; every option overrides it, but for what an arm or the grid sets itself.
    """

    device: str = "cpu"
    """cpu, or a TPU's generation and shape, as v5e:2x2 (needs pip install 'lipsjax[tpu]')."""
    price_per_hour: float | None = None
    """Price of all these devices together, in any currency; none: no cost is shown."""
    json: Path | None = None
    """Also write everything here."""
    share: Annotated[bool, tyro.conf.Suppress] = False
    verbose: Annotated[bool, tyro.conf.Suppress] = False
    """Neither is of a plan."""


class Program(NamedTuple):
    """What a round of one arm and cell takes, on each device where nothing else is said."""

    name: str
    trials: int
    rounds: int  # of all its trials
    devices: int
    chunk: int
    memory: float  # bytes
    fits: bool | None  # None: the device's memory is not known
    flops: float  # of a round, all devices together
    bytes: float  # of a round, to and from memory
    collectives: dict[str, tuple[float, float]]  # of a round: kind -> how many, bytes
    compute_seconds: float | None  # of a round at the peak rate; None: it is not known
    memory_seconds: float | None

    @property
    def seconds(self) -> float | None:
        """Seconds of a round at best: the slower of products and memory."""
        if self.compute_seconds is None or self.memory_seconds is None:
            return None
        return max(self.compute_seconds, self.memory_seconds)


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for a study that cannot be run, or a device that is not known.
    """
    study, options = read_arguments(argv, Plan, "lipsjax plan")
    price = options.price_per_hour
    if price is not None and not 0 < price < math.inf:
        raise ValueError(f"price_per_hour must be above 0, not {price}")
    trials = expand(study)
    for trial in trials:
        startup.check_devices(study.execution.devices, cohort_size(trial.config))
    on_cpu = options.device == "cpu"
    os.environ["JAX_PLATFORMS"] = "cpu"  # of a TPU only the compiler is used
    here = dataclasses.replace(study.execution, coordinator=None, processes=None, process=None)
    startup.start_jax(here if on_cpu else dataclasses.replace(here, devices=None))
    from lipsjax.runs import machine
    from lipsjax.runs.watch import make_console

    target = machine.here() if on_cpu else machine.tpu(options.device)
    rates = machine.measure_cpu() if on_cpu else machine.TPU_RATES.get(target.kind)
    console, programs = make_console(), []
    groups = _by_program(trials)
    with console.status("") as status:
        for number, same in enumerate(groups, start=1):
            name = _name(study, same)
            status.update(f"compiling {number}/{len(groups)} {name} for {options.device}")
            programs.append(_examine(name, same, study.execution, target, rates))
    total = _total(programs, price)
    what = {"device": options.device, "kind": target.kind, "devices": len(target.devices)}
    if options.json is not None:
        from lipsjax.recording import write_json

        each = [p._asdict() | {"seconds": p.seconds} for p in programs]
        write_json(options.json, what | total | {"programs": each})
    console.print(_table(programs, f"{options.device}: {len(target.devices)} x {target.kind}"))
    console.print(*_sentences(programs, total, price), sep="\n", highlight=False)
    if study.until is not None:
        console.print("That is the most: planned looks may end the study sooner.")


def _by_program(trials: list[Planned]) -> list[list[Planned]]:
    """Group trials by what is compiled for them, which is the same but for the seed."""
    groups: dict[str, list[Planned]] = {}
    for trial in trials:
        same = groups.setdefault(program_key(trial.config), [])
        if all(trial.config != other.config for other in same):  # cells may share runs
            same.append(trial)
    return list(groups.values())


def _name(study: Study, trials: list[Planned]) -> str:
    """Return the arm that a program is of, and its cell if there are several."""
    overrides = cells(study)[trials[0].cell]
    return ", ".join([trials[0].arm, *(f"{name} = {value}" for name, value in overrides.items())])


def _examine(
    name: str, trials: list[Planned], execution: Execution, target: Any, rates: Any
) -> Program:
    """Compile a round of trials that share a program, and count what it takes."""
    from lipsjax.metrics import flops as program
    from lipsjax.runs.machine import FILLED, PASSES, program_bytes
    from lipsjax.runs.prepare import prepare

    config = trials[0].config
    execution = dataclasses.replace(execution, rounds_per_call=1)
    prepared = prepare(config, execution, machine=target)
    sim, devices = prepared.simulation, prepared.plan["devices"]
    compiled = sim.compiled(1)
    flops, moved = program.flops(sim.trace(1).jaxpr), program.traffic(compiled.as_text() or "")
    memory, passes, share = program_bytes(compiled), 1, 1
    if target.platform == "cpu":
        share = devices  # they are parts of what was measured
    elif config.model.dtype == "float32":
        passes = PASSES[prepared.plan["precision"]]
    return Program(
        name=name,
        trials=len(trials),
        rounds=sum(trial.config.rounds for trial in trials),
        devices=devices,
        chunk=sim.spec.placement.chunk,
        memory=memory,
        fits=None if target.memory is None else memory <= FILLED * target.memory,
        flops=flops * devices,
        bytes=moved.bytes,
        collectives=moved.collectives,
        compute_seconds=None if rates is None else flops * passes * share / rates.flops,
        memory_seconds=None if rates is None else moved.bytes * share / rates.bandwidth,
    )


def _total(programs: list[Program], price: float | None) -> dict[str, Any]:
    """Return what all trials take together, at best."""
    seconds = [p.seconds for p in programs]
    hours = None
    if None not in seconds:
        hours = sum(p.rounds * (p.seconds or 0.0) for p in programs) / 3600
    cost = None if hours is None or price is None else hours * price
    return {
        "trials": sum(p.trials for p in programs),
        "rounds": sum(p.rounds for p in programs),
        "hours": hours,
        "cost": cost,
    }


def _table(programs: list[Program], title: str) -> Any:
    """Return a table with a row for each program."""
    from rich.table import Table

    table = Table(title=title)
    table.add_column("arm")
    headings = ("chunk", "memory", "GFLOP", "GB moved", "collectives", "at best", "rounds/h")
    for heading in headings:
        table.add_column(heading, justify="right")
    for p in programs:
        fits = {True: "fits", False: "[bold]too much[/bold]", None: ""}[p.fits]
        collectives = (
            f"{count:.0f} {kind}, {size / 1e6:.2f} MB"
            for kind, (count, size) in sorted(p.collectives.items())
        )
        at_best = rate = "–"
        if p.seconds:
            at_best = f"{p.seconds * 1e3:.3g} ms, {_bound(p)}"
            rate = f"{3600 / p.seconds:,.0f}"
        table.add_row(
            p.name,
            str(p.chunk),
            f"{p.memory / 2**20:.0f} MiB {fits}".strip(),
            f"{p.flops / 1e9:.4g}",
            f"{p.bytes / 1e9:.3g}",
            "; ".join(collectives) or "none",
            at_best,
            rate,
        )
    return table


def _bound(p: Program) -> str:
    """Return what keeps a round from being shorter."""
    assert p.compute_seconds is not None
    return "products" if p.compute_seconds == p.seconds else "memory"


def _sentences(programs: list[Program], total: dict[str, Any], price: float | None) -> list[str]:
    """Return what the table means, and what it leaves out."""
    lines = [
        "A round is the costliest that an arm has: measured, and sparse where it is sparse at all. "
        "GFLOP are of all devices, memory, bytes and collectives of each. At best: at the peak "
        "rates of products and memory, with nothing lost (on a CPU, of products alone); what small "
        "programs lose, compiling and the host come on top.",
    ]
    work = f"{total['trials']} runs, {total['rounds']} rounds"
    if total["hours"] is None:
        lines.append(f"{work}; the peak rates of this device are not known here.")
    else:
        cost = "" if price is None else f", {total['cost']:.3g} at {price:g} an hour"
        lines.append(f"{work}: at best {_duration(total['hours'])}{cost}.")
    for p in programs:
        if p.fits is False:
            lines.append(f"{p.name} does not fit: a smaller --chunk or more devices need less.")
    return lines


def _duration(hours: float) -> str:
    """Return hours, or seconds where they are few.

    >>> _duration(0.001), _duration(2.5)
    ('3.6 s', '2.5 hours')
    """
    return f"{hours:.3g} hours" if hours >= 0.1 else f"{hours * 3600:.3g} s"


if __name__ == "__main__":
    command.guarded(main)
