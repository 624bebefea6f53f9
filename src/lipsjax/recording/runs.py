"""Run directories: what a run was, what it measured, and that it is finished.

::

    OUT/study.json              arms, cells, trials and the directories of their runs
    OUT/runs/HASH/config.json   the science; HASH is its digest
                  plan.json     how and where it ran: versions, devices, chunk, convolution ...
                  setup.json    layers, parameters, FLOPs of a round, the clients' class mix
                  metrics.jsonl a line per round; reproducible to the bit
                  timings.jsonl a line per compiled call
                  checkpoints/  of lipsjax.recording.checkpoints
                  metrics.csv, summary.json   written last: the run is finished

Files are written aside and renamed; metrics are appended, and cut back to the checkpoint when a
run goes on. Imports no JAX.
"""

import csv
import fcntl
import hashlib
import io
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

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
STUDY = ("name", "description", "command", "versions", "platform", "reference")
"""Fields of a study that are taken over as they are."""
PRICES = ("per_gb", "per_device_hour", "per_point")
"""Prices that a study may give."""
TRIAL = ("arm", "cell", "seed", "run")
"""Fields of a trial that is planned."""


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
    reference: str  # the arm that others are compared with, where they say no other
    arms: tuple[str, ...]
    cells: tuple[dict[str, Any], ...]
    trials: tuple[Trial, ...]
    missing: tuple[dict[str, Any], ...]  # trials without a finished run
    references: dict[str, str]  # arm -> the arm that it is compared with
    target: float | None  # accuracy that rounds and bits are counted to; None: of the reference
    prices: dict[str, float | None]  # by the names of PRICES; None where none is given


def run_hash(config: dict[str, Any], data_fingerprint: str) -> str:
    """Return the name of a run's directory: a digest of its science.

    >>> run_hash({"a": 1, "b": 2}, "") == run_hash({"b": 2, "a": 1}, "")
    True
    """
    text = _canonical({"config": config, "data_fingerprint": data_fingerprint})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that is there whole or not at all: written aside, then renamed.

    Raises:
      OSError: naming the file, if it cannot be written; the one before is then left alone.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _naming(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


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
      setup: layers, sizes, FLOPs, survey.

    Raises:
      OSError: if it cannot be written.
      RecordingError: if another process has just made it.
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
        if run_dir.exists():
            raise _busy(run_dir) from None
        raise


def read_plan(run_dir: Path) -> dict[str, Any]:
    """Read the plan that a run was begun with.

    Raises:
      RecordingError: if it cannot be read, or lacks what a run needs to go on.
    """
    path = run_dir / "plan.json"
    plan = _read_json(path)
    with _reading(path):
        return plan | {name: plan[name] for name in PLAN}


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
            raise _busy(run_dir) from None
        for left in run_dir.parent.glob(f".{run_dir.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)  # of a process killed in :func:`create`
        yield


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows as JSON lines and see them to the disk; NaN becomes null."""
    with _naming(path), path.open("a") as file:
        file.writelines(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def truncate(run_dir: Path, rounds: int) -> int:
    """Cut metrics and timings back to the first rounds, those that a checkpoint covers.

    Args:
      run_dir: of the run.
      rounds: how many rounds the checkpoint covers.

    Returns:
      How many rounds have metrics; fewer than asked for if the file was damaged.
    """
    _cut(run_dir / "timings.jsonl", lambda row, _: row["first_round"] < rounds)
    return _cut(run_dir / "metrics.jsonl", lambda row, i: row["round"] == i < rounds)


def _cut(path: Path, is_wanted: Callable[[dict[str, Any], int], bool]) -> int:
    """Cut a file of JSON lines at the first that is not wanted, or not whole; count the rest."""
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    kept = list(itertools.takewhile(lambda each: _is_whole(*each, is_wanted), enumerate(lines)))
    os.truncate(path, sum(len(line) for _, line in kept))
    return len(kept)


def _is_whole(index: int, line: bytes, is_wanted: Callable[[dict[str, Any], int], bool]) -> bool:
    try:
        return line.endswith(b"\n") and is_wanted(json.loads(line), index)
    except (ValueError, KeyError, TypeError):
        return False


def finish(run_dir: Path, summary: dict[str, Any]) -> None:
    """Write the table of all rounds, then mark the run as finished."""
    rows = read_table(run_dir)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(run_dir / "metrics.csv", text.getvalue())
    write_json(run_dir / "summary.json", summary)


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
    with _reading(run_dir / "setup.json"):
        names = [layer["name"] for layer in _read_json(run_dir / "setup.json")["layers"]]
    with _reading(run_dir / "metrics.jsonl"):
        return [_flatten(row, names) for row in _read_lines(run_dir / "metrics.jsonl")[first:]]


def is_finished(run_dir: Path) -> bool:
    """Tell whether a run is finished."""
    return (run_dir / "summary.json").exists()


def read(run_dir: Path) -> Recording:
    """Read one run, finished or not.

    Raises:
      RecordingError: if it is no run directory, or a file in it cannot be read.
    """
    plan, setup = read_plan(run_dir), _read_json(run_dir / "setup.json")
    with _reading(run_dir / "config.json"):
        config = _read_json(run_dir / "config.json")["config"]
        rounds = config["rounds"]
    with _reading(run_dir / "timings.jsonl"):
        timings = _read_lines(run_dir / "timings.jsonl")
        seconds = [float(sum(row[n] for row in timings)) for n in ("seconds", "compile_seconds")]
    with _reading(run_dir / "setup.json"):
        unknown = [None] * len(setup["layers"])
    with _reading(run_dir / "metrics.jsonl"):
        rows = _read_lines(run_dir / "metrics.jsonl")
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
        )


def read_study(out_dir: Path) -> StudyRecording:
    """Read a study and those of its trials that are finished.

    Raises:
      RecordingError: if there is no study, or a file of it cannot be read.
    """
    path = out_dir / "study.json"
    if not path.is_file():
        raise RecordingError(f"{out_dir} holds no study: there is no study.json")
    study = _read_json(path)
    with _reading(path):
        planned = [{name: trial[name] for name in TRIAL} for trial in study["trials"]]
        fields = {name: study[name] for name in STUDY}
        arms, cells = tuple(study["arms"]), tuple(study["cells"])
        references = dict.fromkeys(arms, study["reference"]) | study.get("references", {})
        # recordings from before there were any do not say so
        target, given = _number(study.get("target")), study.get("prices", {})
        prices = {name: _number(given.get(name)) for name in PRICES}
        unknown = {trial["arm"] for trial in planned}.difference(arms)
        if unknown or not all(0 <= trial["cell"] < len(cells) for trial in planned):
            raise ValueError("a trial is of an arm or a cell that the study does not have")
        if not all("label" in cell for cell in cells):
            raise ValueError("a cell has no label")
    done, missing = [], []
    for trial in planned:
        run_dir = out_dir / "runs" / trial["run"]
        if is_finished(run_dir):
            done.append(Trial(**trial, recording=read(run_dir)))
        else:
            missing.append(trial)
    return StudyRecording(
        **fields,
        arms=arms,
        cells=cells,
        trials=tuple(done),
        missing=tuple(missing),
        references=references,
        target=target,
        prices=prices,
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what damaged content leads to into one line that names the file."""
    try:
        yield
    except RecordingError:
        raise
    except KeyError as error:
        raise RecordingError(f"{path} is damaged: it lacks {error}") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise RecordingError(f"{path} is damaged: {error}") from None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in errors of the system, such as a full disk, that do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _busy(run_dir: Path) -> RecordingError:
    return RecordingError(f"{run_dir} is being written by another process")


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


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _array(values: Sequence[Any]) -> np.ndarray:
    return np.array(values, dtype=float)  # None becomes NaN


def _flatten(row: dict[str, Any], layer_names: list[str]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if name != "layers"}
    for measure, values in row.get("layers", {}).items():
        flat |= {f"{measure}/{n}": v for n, v in zip(layer_names, values, strict=True)}
    return flat
