"""Whole sweeps, one worker on all cores against one worker a core, from empty and filled caches.

    python benchmarks/sweeps.py --json sweeps.json

Each sweep is the default study with fewer seeds, in a process of its own, from command to report.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Figure, ratio, report

SWEEP = ("--seeds", "2", "--rounds", "40")


def sweep(workers: int, cache: Path) -> float:
    """Return the seconds of a sweep whose compiled programs are kept in ``cache``."""
    with tempfile.TemporaryDirectory() as out:
        begin = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "lipsjax.experiments.sweep", *SWEEP),
                *("--workers", str(workers), "--out", out),
            ],
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - begin


def main() -> None:
    """Time the sweeps in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    seconds: dict[tuple[str, int], list[float]] = {}
    for repeat in range(options.repeats):
        for workers in (1, cores) if repeat % 2 == 0 else (cores, 1):
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    taken = sweep(workers, Path(cache))
                    seconds.setdefault((state, workers), []).append(taken)
    figures = [Figure(f"sweep_{s}_{w}_workers", "s", t) for (s, w), t in seconds.items()]
    for state in ("cold", "warm"):
        name = f"sweep_{state}_1_over_{cores}_workers"
        figures.append(ratio(name, seconds[state, 1], seconds[state, cores]))
    report("Trials side by side", figures, options.json)


if __name__ == "__main__":
    main()
