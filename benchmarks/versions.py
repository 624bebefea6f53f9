"""The same rounds by two checkouts of lipsjax, in turn: what a change costs in time.

git worktree add ../before v0.2.0 && python benchmarks/versions.py --before ../before

Each checkout runs in a process of its own, which compiles once and then times one round for every
line that it is sent; the two never run at the same moment. Both need `lips_cases` in their
`benchmarks/rounds.py`.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
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


class Checkout:
    """A process of one checkout, and the seconds it took to compile."""

    def __init__(self, folder: Path, workload: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, workload],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.compiled = self._answer()

    def _answer(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.process.args} ended")
        return float(line)

    def time(self, case: str) -> float:
        """Return the seconds of one round."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        return self._answer()


def main(options: Options) -> None:
    """Time both and report the ratios, after over before."""
    here = Path(__file__).resolve().parent.parent
    checkouts = {
        "before": Checkout(options.before.resolve(), options.workload),
        "after": Checkout(here, options.workload),
    }
    seconds: dict[str, dict[str, list[float]]] = {
        case: {name: [] for name in checkouts} for case in options.cases
    }
    for pair in range(options.pairs):
        for case in options.cases:
            for name in sorted(checkouts, reverse=bool(pair % 2)):  # each is first half of the time
                seconds[case][name].append(checkouts[name].time(case))
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
