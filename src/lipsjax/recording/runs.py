"""Run directories: what a run was, what it measured, and that it is finished.

::

    OUT/runs/HASH/config.json   the science and the behaviour number; HASH is their digest
                  plan.json     how and where it ran: versions, devices, chunk, convolution ...
                  setup.json    layers, parameters, FLOPs of a round, the clients' class mix
                  metrics.jsonl a line per round; reproducible to the bit
                  timings.jsonl a line per compiled call
                  checkpoints/  of lipsjax.recording.checkpoints
                  metrics.csv, summary.json   written last: the run is finished

Files are written aside and renamed; metrics are appended, and cut back to the checkpoint when a
run goes on. Imports no JAX.
"""

import contextlib
import csv
import hashlib
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lipsjax.recording import files
from lipsjax.recording.behaviour import BEHAVIOUR, behaviour_of, migrate_config
from lipsjax.recording.files import RecordingError

PLAN = (
    "platform",
    "processes",
    "devices",
    "chunk",
    "conv",
    "precision",
    "rounds_per_call",
    "versions",
)
"""What a plan holds at least."""


class Recording(NamedTuple):
    """One run as recorded; symbols as in :mod:`lipsjax.types`."""

    config: dict[str, Any]  # its fields as they are called now
    plan: dict[str, Any]
    setup: dict[str, Any]
    scalars: dict[str, np.ndarray]  # [T] float64 each, NaN where not measured
    layers: dict[str, np.ndarray]  # [T, L] float64 each
    seconds: float  # of compiled calls, without compiling
    compile_seconds: float
    behaviour: int = BEHAVIOUR  # of the code that recorded it


def run_hash(config: dict[str, Any], data_fingerprint: str) -> str:
    """Return the name of a run's directory: a digest of its science and of the behaviour number.

    >>> run_hash({"a": 1, "b": 2}, "") == run_hash({"b": 2, "a": 1}, "")
    True
    """
    text = files.canonical(_identity(config, data_fingerprint))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _identity(config: dict[str, Any], data_fingerprint: str) -> dict[str, Any]:
    """Return what config.json holds."""
    return {"behaviour": BEHAVIOUR, "config": config, "data_fingerprint": data_fingerprint}


def check(run_dir: Path, *, config: dict, data_fingerprint: str) -> None:
    """Refuse a run directory that is of another config or another behaviour.

    Raises:
      RecordingError: if it is, or cannot be read.
    """
    path = run_dir / "config.json"
    recorded, wanted = files.read_json(path), _identity(config, data_fingerprint)
    if files.canonical(recorded) == files.canonical(wanted):
        return
    if isinstance(recorded, dict):
        with files.reading(path):
            number = behaviour_of(recorded)
        if number != BEHAVIOUR:
            raise RecordingError(
                f"{run_dir} was recorded by behaviour {number}, and this is behaviour {BEHAVIOUR}: "
                "it can be reported, and not gone on with; choose another --out"
            )
    raise RecordingError(f"{run_dir} holds a run of another config; choose another --out")


def note_of_others(out_dir: Path) -> str | None:
    """Return a line on the runs of OUT that are of another behaviour; None if there are none."""
    count = 0
    for path in out_dir.glob("runs/[!.]*/config.json"):
        with contextlib.suppress(RecordingError):  # what is damaged is told when it is asked for
            count += _recorded(path)[1] != BEHAVIOUR
    if not count:
        return None
    return (
        f"{out_dir} holds {count} run{'' if count == 1 else 's'} of another behaviour, as this is "
        f"{BEHAVIOUR}: they can be reported, and nothing goes on from them"
    )


def create(run_dir: Path, *, config: dict, data_fingerprint: str, plan: dict, setup: dict) -> None:
    """Make a run directory, whole or not at all.

    Args:
      run_dir: named by :func:`run_hash`.
      config: the science.
      data_fingerprint: digest of the data set.
      plan: how it is run.
      setup: layers, sizes, FLOPs, survey.

    Raises:
      OSError: if it cannot be written.
      RecordingError: if another process has just made it.
    """
    temporary = run_dir.with_name(f".{run_dir.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        files.write_json(temporary / "config.json", _identity(config, data_fingerprint))
        files.write_json(temporary / "plan.json", plan)
        files.write_json(temporary / "setup.json", setup)
        temporary.rename(run_dir)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if run_dir.exists():
            raise files.busy(run_dir) from None
        raise


def read_plan(run_dir: Path) -> dict[str, Any]:
    """Read the plan that a run was begun with.

    Raises:
      RecordingError: if it cannot be read, or lacks what a run needs to go on.
    """
    path = run_dir / "plan.json"
    plan = files.read_json(path)
    with files.reading(path):
        return plan | {name: plan[name] for name in PLAN}


def truncate(run_dir: Path, rounds: int) -> int:
    """Cut metrics and timings back to the first rounds, those that a checkpoint covers.

    Args:
      run_dir: of the run.
      rounds: how many rounds the checkpoint covers.

    Returns:
      How many rounds have metrics; fewer than asked for if the file was damaged.
    """
    files.cut(run_dir / "timings.jsonl", lambda row, _: row["first_round"] < rounds)
    return files.cut(run_dir / "metrics.jsonl", lambda row, i: row["round"] == i < rounds)


def finish(run_dir: Path, summary: dict[str, Any]) -> None:
    """Write the table of all rounds, then mark the run as finished."""
    rows = read_table(run_dir)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_atomically(run_dir / "metrics.csv", text.getvalue())
    files.write_json(run_dir / "summary.json", summary)


def read_table(run_dir: Path, first: int = 0) -> list[dict[str, Any]]:
    """Read what is recorded so far as metrics.csv has it: ``step/conv1``, with a name per layer.

    Args:
      run_dir: of the run.
      first: round to begin with.

    Returns:
      A row per round; None where it was not measured.

    Raises:
      RecordingError: if it cannot be read.
    """
    with files.reading(run_dir / "setup.json"):
        names = [layer["name"] for layer in files.read_json(run_dir / "setup.json")["layers"]]
    with files.reading(run_dir / "metrics.jsonl"):
        return [_flatten(row, names) for row in files.read_lines(run_dir / "metrics.jsonl")[first:]]


def is_finished(run_dir: Path) -> bool:
    """Tell whether a run is finished."""
    return (run_dir / "summary.json").exists()


def read(run_dir: Path) -> Recording:
    """Read one run, finished or not, of this behaviour or an earlier one.

    Raises:
      RecordingError: if it is no run directory, or a file in it cannot be read.
    """
    plan, setup = read_plan(run_dir), files.read_json(run_dir / "setup.json")
    config, behaviour = _recorded(run_dir / "config.json")
    with files.reading(run_dir / "config.json"):
        rounds = config["rounds"]
    with files.reading(run_dir / "timings.jsonl"):
        timings = files.read_lines(run_dir / "timings.jsonl")
        seconds = [float(sum(row[n] for row in timings)) for n in ("seconds", "compile_seconds")]
    with files.reading(run_dir / "setup.json"):
        unknown = [None] * len(setup["layers"])
    with files.reading(run_dir / "metrics.jsonl"):
        rows = files.read_lines(run_dir / "metrics.jsonl")
        indices = [row["round"] for row in rows]
        if indices != list(range(rounds if is_finished(run_dir) else len(rows))):
            raise ValueError(f"it holds {len(rows)} rounds, and not all of {rounds} in order")
        names = sorted({name for row in rows for name in row if name != "layers"})
        measures = sorted({name for row in rows for name in row.get("layers", {})})
        return Recording(
            config=config,
            plan=plan,
            setup=setup,
            scalars={name: _array([row.get(name) for row in rows]) for name in names},
            layers={
                name: _array([row.get("layers", {}).get(name, unknown) for row in rows])
                for name in measures
            },
            seconds=seconds[0],
            compile_seconds=seconds[1],
            behaviour=behaviour,
        )


def _recorded(path: Path) -> tuple[dict[str, Any], int]:
    """Read a config.json: the config, its fields as they are called now, and the behaviour."""
    recorded = files.read_json(path)
    with files.reading(path):
        return migrate_config(recorded["config"]), behaviour_of(recorded)


def _array(values: Sequence[Any]) -> np.ndarray:
    return np.array(values, dtype=float)  # None becomes NaN


def _flatten(row: dict[str, Any], layer_names: list[str]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if name != "layers"}
    for measure, values in row.get("layers", {}).items():
        flat |= {f"{measure}/{n}": v for n, v in zip(layer_names, values, strict=True)}
    return flat
