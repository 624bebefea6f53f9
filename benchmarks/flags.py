"""The same rounds under other XLA flags, and by other interpreters with their JAX, in turn.

python benchmarks/flags.py --flags=--xla_cpu_prefer_vector_width=512 --json flags.json
python benchmarks/flags.py --pythons OTHER/bin/python --json flags.json

Every setting runs in a process of its own, which compiles once and then times one round for every
line that it is sent; no two run at the same moment. Ratios are over this interpreter without flags.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from children import Child
from measure import Figure, ratio, report

CHILD = """
import sys
sys.path[:0] = ["benchmarks", "src"]
import jax, measure, rounds, workloads
measure.start_jax(None)
workload, key = workloads.WORKLOADS[sys.argv[1]], jax.random.key(0)
data = workloads.make_data(workload)
simulation = workloads.make_simulation(workload, data)
compiled, placed, state = rounds.prepared(simulation, data, key)
case = rounds.one_round(simulation, placed, simulation.to_host(state))
measure.once(case)
print(compiled, flush=True)
for line in sys.stdin:
    print(measure.once(case)[0], flush=True)
"""

BASE = "base"


@dataclass(frozen=True)
class Options:
    """What is compared."""

    flags: tuple[str, ...] = ()
    """Flags of XLA, each a setting of its own; several of one setting between quotes."""
    pythons: tuple[Path, ...] = ()
    """Interpreters beside this one, each a setting without flags, and one with each of them."""
    workloads: tuple[Literal["w1", "w2", "w3"], ...] = ("w1", "w2", "w3")
    """Whose rounds."""
    repeats: Annotated[int, tyro.conf.arg(metavar="N")] = 9
    """Interleaved rounds behind each ratio."""
    json: Path | None = None
    """Write the figures here."""


def settings(options: Options) -> dict[str, tuple[str, str]]:
    """Return what each setting is called, with its interpreter and its flags."""
    named = {}
    for place, python in enumerate((sys.executable, *map(str, options.pythons))):
        prefix = f"python_{place}" if place else ""
        for flags in ("", *options.flags):
            short = flags.replace("--xla_cpu_", "").replace("=", "_").replace(" ", "_")
            named["_".join(filter(None, (prefix, short))) or BASE] = (python, flags)
    return named


def measure_workload(workload: str, options: Options) -> list[Figure]:
    """Time a round of every setting, in turn; settings that do not compile are left out."""
    children = {}
    for name, (python, flags) in settings(options).items():
        child = Child([python, "-c", CHILD, workload], os.environ | {"XLA_FLAGS": flags})
        try:
            children[name] = (child, child.answer())
        except ChildProcessError as error:
            print(f"{workload} {name}: left out, {error}", file=sys.stderr, flush=True)
    if BASE not in children:
        raise SystemExit(f"{workload} does not compile without flags, so nothing can be compared")
    names = list(children)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(options.repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            seconds[name].append(children[name][0].ask("round"))
        print(f"{workload}: {repeat + 1} of {options.repeats}", file=sys.stderr, flush=True)
    for child, _ in children.values():
        child.end()
    figures = [Figure(f"{workload}_{BASE}", "s", seconds[BASE])]
    for name in names:
        figures.append(Figure(f"{workload}_{name}_compile", "s", [children[name][1]]))
        if name != BASE:
            figures.append(ratio(f"{workload}_{name}_over_{BASE}", seconds[name], seconds[BASE]))
    return figures


def main(options: Options) -> None:
    """Time every workload and report."""
    if not options.flags and not options.pythons:
        raise SystemExit("nothing to compare: give --flags or --pythons")
    figures = [f for name in options.workloads for f in measure_workload(name, options)]
    report("flags", figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
