"""What sharing compiled executables would save workers of a sweep, against JAX's compilation cache.

    python benchmarks/executables.py --json executables.json

The programs of the default study, in fresh processes in turn: one traces, lowers and compiles each,
and finds it in the cache, as a worker does today; the other deserializes each from a file that a
first process wrote (``jax.experimental.serialize_executable``). Then a whole default sweep, to
count how often a worker compiles a program that another one has compiled: only that is saved.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Figure, report

KINDS = ("store", "cached", "shared")
PARTS = ("trace", "lower", "compile", "serialize", "deserialize")


def inside(kind: str, folder: Path) -> None:
    """Make the programs of the default study ready in this process; print seconds by part."""
    from lipsjax.runs import startup
    from lipsjax.runs.config import Execution, fit_devices
    from lipsjax.runs.study import default_study, expand, program_key

    startup.start_jax(Execution(devices=None))
    import jax
    from jax.experimental import serialize_executable

    from lipsjax.runs.prepare import prepare

    programs = {program_key(t.config): t.config for t in reversed(expand(default_study()))}
    taken: dict[str, float] = dict.fromkeys((*PARTS, "bytes"), 0.0)
    taken["programs"] = len(programs)
    for number, config in enumerate(programs.values()):
        execution = fit_devices(Execution(devices=1), config)
        prepared = prepare(config, execution)
        rounds = prepared.plan["rounds_per_call"]
        path = folder / f"{number}.pickle"
        if kind == "shared":
            begin = time.perf_counter()
            payload, leaves = pickle.loads(path.read_bytes())
            # trees cannot be pickled: that of the results would have to be made anew, or traced
            flat = jax.tree.structure(tuple(range(leaves)))
            devices = list(prepared.simulation.mesh.devices.flat)
            serialize_executable.deserialize_and_load(
                payload, flat, flat, execution_devices=devices
            )
            taken["deserialize"] += time.perf_counter() - begin
            continue
        begin = time.perf_counter()
        traced = prepared.simulation.trace(rounds)
        taken["trace"] += time.perf_counter() - begin
        begin = time.perf_counter()
        lowered = traced.lower()
        taken["lower"] += time.perf_counter() - begin
        begin = time.perf_counter()
        compiled = lowered.compile()
        taken["compile"] += time.perf_counter() - begin
        if kind == "store":
            begin = time.perf_counter()
            payload, tree, _ = serialize_executable.serialize(compiled)
            path.write_bytes(pickle.dumps((payload, tree.num_leaves)))
            taken["serialize"] += time.perf_counter() - begin
            taken["bytes"] += path.stat().st_size
    print(json.dumps(taken))


def process(kind: str, folder: Path, cache: Path) -> dict[str, float]:
    """Make all programs ready in a process of its own; return seconds by part."""
    command = [sys.executable, __file__, "--inside", kind, "--folder", str(folder)]
    done = subprocess.run(command, env=_with(cache), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def sweep(cache: Path) -> tuple[float, int, int]:
    """Run the default sweep; return seconds, programs compiled by all workers, and workers."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "lipsjax.experiments.sweep", "--out", out]
        begin = time.perf_counter()
        subprocess.run(command, env=_with(cache), check=True, capture_output=True)
        seconds = time.perf_counter() - begin
        lines = (path.read_text().splitlines() for path in Path(out).glob("runs/*/timings.jsonl"))
        rows = [json.loads(line) for each in lines for line in each]
    return seconds, sum(row["compile_seconds"] > 0 for row in rows), len(os.sched_getaffinity(0))


def _with(cache: Path) -> dict[str, str]:
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PLATFORMS": "cpu",
    }


def main() -> None:
    """Time both ways in turn, then count what a sweep would save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=6, help="of both ways")
    parser.add_argument("--sweeps", type=int, default=1, help="default sweeps, all compiled before")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--inside", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.inside, options.folder)
        return
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        folder, cache = Path(one), Path(other)
        process("cached", folder, cache)  # fills the cache
        taken["store"].append(process("store", folder, cache))
        for repeat in range(options.repeats):
            for kind in ("cached", "shared") if repeat % 2 == 0 else ("shared", "cached"):
                taken[kind].append(process(kind, folder, cache))
        whole = [sweep(cache) for _ in range(options.sweeps)]
    programs = taken["store"][0]["programs"]
    ways = {kind: [_ready(each) / programs for each in taken[kind]] for kind in KINDS[1:]}
    saved = [a - b for a, b in zip(ways["cached"], ways["shared"], strict=True)]
    parts = [
        Figure(
            f"{kind}: {part}, of a program", "s", [each[part] / programs for each in taken[kind]]
        )
        for kind, part in (
            *(("cached", part) for part in ("trace", "lower", "compile")),
            ("shared", "deserialize"),
            ("store", "serialize"),
        )
    ]
    figures = [
        *parts,
        Figure("saved, of a program that another worker has compiled", "s", saved),
        Figure("size of a program", "MB", [taken["store"][0]["bytes"] / programs / 1e6]),
    ]
    if whole:
        again = [max(compiled - programs, 0.0) for _, compiled, _ in whole]
        store = taken["store"][0]["serialize"]
        figures += [
            Figure("default sweep", "s", [seconds for seconds, _, _ in whole]),
            Figure("default sweep: programs made ready by a second worker", "", again),
            Figure(
                "default sweep: what sharing would save, workers taking turns",
                "share",
                [
                    (count * _median(saved) - store) / workers / seconds
                    for count, (seconds, _, workers) in zip(again, whole, strict=True)
                ],
            ),
        ]
    report("Executables that workers share", figures, options.json)


def _ready(seconds: dict[str, float]) -> float:
    """Return the seconds until all programs were ready, without those of storing them."""
    return sum(seconds[part] for part in PARTS if part != "serialize")


def _median(values: list[float]) -> float:
    return Figure("", "", values).value


if __name__ == "__main__":
    main()
