"""Where the time of a sweep goes, from command to report.

python benchmarks/sweep_parts.py --json sweep_parts.json

The default study with fewer seeds, with one worker, in a process of its own: with an empty cache of
compiled programs; once more with what the first left there; and so with less evaluation, down to
the first and the last round alone, which tells what evaluation takes. A function's time is its own,
less that of functions within it that are of another part.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from measure import Figure, report

START = "imports"
EVALUATED = "train and evaluate"
PARTS = (START, "data", "build", "trace", "lower", "compile", EVALUATED, "record", "report", "rest")
TAKEN_AS = {
    "lipsjax.runs.prepare": {"load_for": "data", "share_out": "data", "prepare": "build"},
    "lipsjax.runs.trial": {"load_for": "data", "prepare": "build", "_record": "record"},
    "lipsjax.experiments.report": {"draw": "report"},
    "lipsjax.experiments.survey": {"write_survey": "report"},
}
"""Module -> function -> part. What a module has imported from another is its own name there."""
METHODS = {
    "trace": "trace",
    "lower": "lower",
    "compiled": "compile",
    "place": "data",
    "run": EVALUATED,
    "to_host": "record",
}
"""Method of a simulation -> part."""
EVALUATIONS = {
    "as it is": (),
    "own models on own test sets alone": ("--evaluation.clients-on-global", "False"),
    "every fifth round": ("--evaluation.every", "5"),
    "every tenth round": ("--evaluation.every", "10"),
    "first and last round": ("--evaluation.every", "1000"),
}
"""What is evaluated -> arguments of the sweep. What the last leaves is taken for training alone."""


@dataclass(frozen=True)
class Options:
    """What is timed."""

    seeds: int = 2
    """Seeds of the study; its other settings are those of the default."""
    repeats: int = 3
    """Sweeps of each kind, in turn."""
    json: Path | None = None
    """Write the figures here."""
    inside: bool = False
    """Run one sweep in this process, print the seconds of its parts, and end."""
    out: Path = Path("results")
    """Of the sweep inside."""
    evaluation: str = "as it is"
    """Of the sweep inside, one of EVALUATIONS."""


class Clock:
    """Seconds by part; a part's time is its own, less that of others within it."""

    def __init__(self, begin: float):
        self.seconds: dict[str, float] = {}
        self._open = ["rest"]
        self._since = begin

    def _turn(self) -> None:
        now = time.time()
        name = self._open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is inside to a part."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def over(self, name: str, function: Any) -> Any:
        """Return a function whose calls count to a part, until all of their result is there."""
        import jax

        @functools.wraps(function)
        def timed(*args, **kwargs):
            with self.part(name):
                result = function(*args, **kwargs)
                return jax.block_until_ready(result) if name == EVALUATED else result

        return timed


def run_inside(options: Options) -> None:
    """Run one sweep, timed by part."""
    import importlib

    begin = float(os.environ["SWEEP_BEGAN"])
    clock = Clock(begin)
    with clock.part(START):
        from lipsjax.experiments import sweep
        from lipsjax.simulation import Simulation

        modules = {name: importlib.import_module(name) for name in TAKEN_AS}
    clock.seconds[START] += clock.seconds.pop("rest")  # Python's own start
    for name, functions in TAKEN_AS.items():
        for function, part in functions.items():
            setattr(modules[name], function, clock.over(part, getattr(modules[name], function)))
    for method, part in METHODS.items():
        setattr(Simulation, method, clock.over(part, getattr(Simulation, method)))
    argv = ["--seeds", str(options.seeds), "--workers", "1", "--out", str(options.out)]
    argv += EVALUATIONS[options.evaluation]
    with contextlib.redirect_stdout(sys.stderr), clock.part("rest"):
        sweep.main(argv)
    print(json.dumps(clock.seconds))


def one_sweep(options: Options, cache: Path, evaluation: str) -> dict[str, float]:
    """Run a sweep in a process of its own; return seconds by part."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--inside", "--seeds", str(options.seeds)]
        command += ["--out", out, "--evaluation", evaluation]
        began = {"SWEEP_BEGAN": repr(time.time()), "JAX_COMPILATION_CACHE_DIR": str(cache)}
        done = subprocess.run(
            command, env=os.environ | began, check=True, capture_output=True, text=True
        )
    return json.loads(done.stdout)


def main(options: Options) -> None:
    """Time sweeps and print their parts."""
    if options.inside:
        run_inside(options)
        return
    taken: dict[str, list[dict[str, float]]] = {"cold": []} | {name: [] for name in EVALUATIONS}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as cache:
            taken["cold"].append(one_sweep(options, Path(cache), "as it is"))
            for evaluation in EVALUATIONS:
                taken[evaluation].append(one_sweep(options, Path(cache), evaluation))
    figures = []
    for kind in ("cold", "as it is"):
        wholes = [sum(parts.values()) for parts in taken[kind]]
        figures.append(Figure(f"{kind}: all", "s", wholes))
        figures += [
            Figure(f"{kind}: {name}", "s", [parts.get(name, 0.0) for parts in taken[kind]])
            for name in PARTS
        ]
    *evaluations, least = EVALUATIONS
    for kind in evaluations:
        pairs = zip(taken[kind], taken[least], strict=True)
        shares = [max(1 - without[EVALUATED] / parts[EVALUATED], 0.0) for parts, without in pairs]
        figures.append(Figure(f"{kind}: evaluation, of train and evaluate", "share", shares))
    report(f"The default sweep, {options.seeds} seeds, one worker", figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
