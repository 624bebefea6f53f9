"""Run directories: what a run was, what it measured, and that it is finished.

::

    OUT/study.json              arms, cells, trials and the directories of their runs
    OUT/runs/HASH/config.json   the science; HASH is its digest
                  plan.json     how and where it ran: versions, devices, chunk, convolution ...
                  setup.json    layers, parameters, the clients' class mix
                  metrics.jsonl a line per round; reproducible to the bit
                  timings.jsonl a line per compiled call
                  checkpoints/  of lipsjax.checkpoints
                  metrics.csv, summary.json   written last: the run is finished

Small files are written to a temporary name and renamed; metrics are appended, and cut back to
the checkpoint when a run goes on. Imports no JAX.
"""

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class RecordingError(ValueError):
    """A directory that does not hold what it should; one line that says what."""


class Recording(NamedTuple):
    """One run as recorded; symbols as in :mod:`lipsjax.types`."""

    config: dict[str, Any]
    plan: dict[str, Any]
    setup: dict[str, Any]
    scalars: dict[str, np.ndarray]  # [T] float64 each, NaN where not measured
    layers: dict[str, np.ndarray]  # [T, L] float64 each
    seconds: float  # of compiled calls, without compiling
    compile_seconds: float


class Trial(NamedTuple):
    """A finished run and its place in a study."""

    arm: str
    cell: int
    seed: int
    run: str
    recording: Recording


class StudyRecording(NamedTuple):
    """A study and its finished trials."""

    name: str
    description: str
    command: str
    versions: dict[str, str]
    platform: str
    reference: str  # the arm that others are compared with
    arms: tuple[str, ...]
    cells: tuple[dict[str, Any], ...]
    trials: tuple[Trial, ...]
    missing: tuple[dict[str, Any], ...]  # trials without a finished run


def run_hash(config: dict[str, Any], data_fingerprint: str) -> str:
    """Return the name of a run's directory: a digest of its science.

    >>> run_hash({"a": 1, "b": 2}, "") == run_hash({"b": 2, "a": 1}, "")
    True
    """
    text = _canonical({"config": config, "data_fingerprint": data_fingerprint})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN becomes null."""
    write_atomically(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def check(run_dir: Path, *, config: dict, data_fingerprint: str) -> None:
    """Refuse a run directory that is of another config.

    Raises:
      RecordingError: if it is, or cannot be read.
    """
    science = {"config": _finite(config), "data_fingerprint": data_fingerprint}
    if _canonical(_read_json(run_dir / "config.json")) != _canonical(science):
        raise RecordingError(f"{run_dir} holds a run of another config; choose another --out")


def create(run_dir: Path, *, config: dict, data_fingerprint: str, plan: dict, setup: dict) -> None:
    """Make a run directory, whole or not at all.

    Args:
      run_dir: named by :func:`run_hash`.
      config: the science.
      data_fingerprint: digest of the data set.
      plan: how it is run.
      setup: layers, sizes, survey.

    Raises:
      OSError: if it cannot be written.
    """
    temporary = run_dir.with_name(f".{run_dir.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write_json(
            temporary / "config.json", {"config": config, "data_fingerprint": data_fingerprint}
        )
        write_json(temporary / "plan.json", plan)
        write_json(temporary / "setup.json", setup)
        temporary.rename(run_dir)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_plan(run_dir: Path) -> dict[str, Any]:
    """Read the plan that a run was begun with."""
    return _read_json(run_dir / "plan.json")


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold a run directory for this process alone.

    Raises:
      RecordingError: if another process holds it.
    """
    with (run_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordingError(f"{run_dir} is being written by another process") from None
        yield


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows as JSON lines and see them to the disk; NaN becomes null."""
    with path.open("a") as file:
        file.writelines(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def truncate(run_dir: Path, rounds: int) -> None:
    """Cut metrics and timings back to the first rounds, those that a checkpoint covers."""
    for name, begins in (("metrics.jsonl", "round"), ("timings.jsonl", "first_round")):
        path = run_dir / name
        if not path.exists():
            continue
        kept = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                row = json.loads(line)
            except ValueError:
                break  # the write that was cut off
            if not line.endswith(b"\n") or row[begins] >= rounds:
                break
            kept += len(line)
        os.truncate(path, kept)


def finish(run_dir: Path, summary: dict[str, Any]) -> None:
    """Write the table of all rounds, then mark the run as finished."""
    layer_names = [layer["name"] for layer in _read_json(run_dir / "setup.json")["layers"]]
    rows = [_flatten(row, layer_names) for row in _read_lines(run_dir / "metrics.jsonl")]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(run_dir / "metrics.csv", text.getvalue())
    write_json(run_dir / "summary.json", summary)


def is_finished(run_dir: Path) -> bool:
    """Tell whether a run is finished."""
    return (run_dir / "summary.json").exists()


def read(run_dir: Path) -> Recording:
    """Read one run, finished or not.

    Raises:
      RecordingError: if it is no run directory, or a file in it cannot be read.
    """
    setup = _read_json(run_dir / "setup.json")
    rows = _read_lines(run_dir / "metrics.jsonl")
    timings = _read_lines(run_dir / "timings.jsonl")
    names = sorted({name for row in rows for name in row if name != "layers"})
    measures = sorted({name for row in rows for name in row.get("layers", {})})
    unknown = [None] * len(setup["layers"])
    return Recording(
        config=_read_json(run_dir / "config.json")["config"],
        plan=_read_json(run_dir / "plan.json"),
        setup=setup,
        scalars={name: _array([row.get(name) for row in rows]) for name in names},
        layers={
            name: _array([row.get("layers", {}).get(name, unknown) for row in rows])
            for name in measures
        },
        seconds=sum(row["seconds"] for row in timings),
        compile_seconds=sum(row["compile_seconds"] for row in timings),
    )


def read_study(out_dir: Path) -> StudyRecording:
    """Read a study and those of its trials that are finished.

    Raises:
      RecordingError: if there is no study, or a file of it cannot be read.
    """
    if not (out_dir / "study.json").is_file():
        raise RecordingError(f"{out_dir} holds no study: there is no study.json")
    study = _read_json(out_dir / "study.json")
    done, missing = [], []
    for trial in study["trials"]:
        run_dir = out_dir / "runs" / trial["run"]
        if is_finished(run_dir):
            done.append(Trial(**trial, recording=read(run_dir)))
        else:
            missing.append(trial)
    fields = ("name", "description", "command", "versions", "platform", "reference")
    return StudyRecording(
        **{name: study[name] for name in fields},
        arms=tuple(study["arms"]),
        cells=tuple(study["cells"]),
        trials=tuple(done),
        missing=tuple(missing),
    )


def _canonical(value: Any) -> str:
    return json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    """Return a value as JSON has it: tuples as lists, what is not finite as null."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path} cannot be read: {error}") from None


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path} cannot be read: {error}") from None


def _array(values: Sequence[Any]) -> np.ndarray:
    return np.array(values, dtype=float)  # None becomes NaN


def _flatten(row: dict[str, Any], layer_names: list[str]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if name != "layers"}
    for measure, values in row.get("layers", {}).items():
        flat |= {f"{measure}/{n}": v for n, v in zip(layer_names, values, strict=True)}
    return flat
