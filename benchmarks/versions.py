"""The same rounds by two checkouts of lipsjax, in turn: what a change costs in time.

git worktree add ../before v0.2.0 && python benchmarks/versions.py --before ../before

Each checkout runs in a process of its own, which compiles once and then times one round for every
line that it is sent; the two never run at the same moment. Both need `lips_cases` in their
`benchmarks/rounds.py`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro
from children import Child
from measure import Figure, ratio, report

CHILD = """
import sys
sys.path[:0] = ["benchmarks", "src"]
import measure, rounds, workloads
measure.start_jax(None)
cases, compiled = rounds.lips_cases(workloads.WORKLOADS[sys.argv[1]], 1)
for case in cases.values():
    measure.once(case)
print(compiled["lips"], flush=True)
for line in sys.stdin:
    print(measure.once(cases[line.strip()])[0], flush=True)
"""


@dataclass(frozen=True)
class Options:
    """What is compared."""

    before: Path
    """The other checkout."""
    workload: Literal["w1", "w2", "w3"] = "w2"
    """Whose rounds."""
    cases: tuple[Literal["fedavg", "dense", "sparse", "adaptive"], ...] = ("dense", "sparse")
    """Which rounds: of federated averaging, a dense and a sparse one of LIPS, a dense one of
    adaptive LIPS."""
    pairs: Annotated[int, tyro.conf.arg(metavar="N")] = 30
    """Interleaved pairs behind each ratio."""
    json: Path | None = None
    """Write the figures here."""


class Checkout(NamedTuple):
    """A process of one checkout, and the seconds it took to compile."""

    child: Child
    compiled: float


def start(folder: Path, workload: str) -> Checkout:
    """Start the process of one checkout and wait until its rounds are compiled."""
    child = Child([sys.executable, "-c", CHILD, workload], folder=folder)
    return Checkout(child, child.answer())


def main(options: Options) -> None:
    """Time both and report the ratios, after over before."""
    here = Path(__file__).resolve().parent.parent
    checkouts = {
        "before": start(options.before.resolve(), options.workload),
        "after": start(here, options.workload),
    }
    seconds: dict[str, dict[str, list[float]]] = {
        case: {name: [] for name in checkouts} for case in options.cases
    }
    for pair in range(options.pairs):
        for case in options.cases:
            for name in sorted(checkouts, reverse=bool(pair % 2)):  # each is first half of the time
                seconds[case][name].append(checkouts[name].child.ask(case))
        so_far = (
            f"{case} {times['after'][-1] / times['before'][-1]:.3f}"
            for case, times in seconds.items()
        )
        print(
            f"pair {pair + 1} of {options.pairs}: {', '.join(so_far)}", file=sys.stderr, flush=True
        )
    figures = [
        Figure(f"{options.workload}_{name}_compile_lips", "s", [checkout.compiled])
        for name, checkout in checkouts.items()
    ]
    for case, times in seconds.items():
        label = f"{options.workload}_{case}"
        figures += [Figure(f"{label}_{name}", "s", times[name]) for name in checkouts]
        figures.append(ratio(f"{label}_after_over_before", times["after"], times["before"]))
    report("versions: after over before", figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
