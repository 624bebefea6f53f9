"""Run directories: what a run was, what it measured, and that it is finished.

::

    OUT/runs/HASH/config.json   the science and the behaviour number; HASH is their digest
                  plan.json     how and where it ran: versions, devices, chunk, convolution ...
                  setup.json    layers, parameters, FLOPs of a round, the clients' class mix
                  metrics.jsonl a line per round; reproducible to the bit
                  timings.jsonl a line per compiled call
                  checkpoints/  of lipsjax.recording.checkpoints
                  metrics.csv, summary.json   written last: the run is finished
                  diverged.json   instead, of a run that cannot be: why
                  stopped.json    of one that a rule stopped, and that can go on: why

Files are written aside and renamed; metrics are appended, and cut back to the checkpoint when a
run goes on. Imports no JAX.
"""

import contextlib
import csv
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
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

NEEDED = ("round", "density", "accuracy_dense", "global_accuracy", "inertia_index")
"""Scalars that every run records."""

HASH = re.compile("[0-9a-f]{16}")
"""Names of run directories that are digests."""

ROUNDING = 1e-6
"""What a mean of shares may be beyond 0..1."""

GROUPS = ("clients", "classes", "new_clients")
"""Of whom a row may hold accuracies one by one; recordings from before there were any hold none."""

LARGEST = 1e100
"""No measure of a run is beyond; such a number comes from a damaged file."""


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
    by: Mapping[str, Mapping[str, np.ndarray]] = MappingProxyType({})
    """One of GROUPS -> measure -> [T, each], NaN where not measured; only what is recorded."""


def run_hash(
    config: dict[str, Any], data_fingerprint: str, parts: Mapping[str, str] | None = None
) -> str:
    """Return the name of a run's directory: a digest of its science and of the behaviour number.

    Data are known by their content, wherever they were read from, and parts from outside the
    package by the digest of their source.

    >>> run_hash({"a": 1, "b": 2}, "") == run_hash({"b": 2, "a": 1}, "")
    True
    >>> run_hash({"dataset": "mine.npz"}, "5f") == run_hash({"dataset": "copy.npz"}, "5f")
    True
    """
    return _digest(_record_of(config, data_fingerprint, parts))


def _digest(recorded: dict[str, Any]) -> str:
    text = files.canonical(_identity(recorded))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _record_of(
    config: dict[str, Any], data_fingerprint: str, parts: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return what config.json holds; nothing of parts where all are the package's own."""
    record = {"behaviour": BEHAVIOUR, "config": config, "data_fingerprint": data_fingerprint}
    return record | ({"parts": dict(parts)} if parts else {})


def _identity(recorded: dict[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what of a config.json makes two runs the same: all but the way to its files."""
    left_out = ("dataset", "dataset_options", "data", *without)
    config = {name: value for name, value in recorded["config"].items() if name not in left_out}
    if isinstance(model := config.get("model"), dict) and "init" in model:
        config["model"] = {name: value for name, value in model.items() if name != "init"}
    return {**recorded, "config": config}


@contextlib.contextmanager
def _with_remedy(run_dir: Path) -> Iterator[None]:
    """Say of a damaged file what to do."""
    try:
        yield
    except RecordingError as error:
        raise RecordingError(f"{error}; delete {run_dir} to run it again") from None


def check(
    run_dir: Path, *, config: dict, data_fingerprint: str, parts: Mapping[str, str] | None = None
) -> None:
    """Refuse a run directory that is of another config, other parts or another behaviour.

    Raises:
      RecordingError: if it is, or cannot be read.
    """
    path = run_dir / "config.json"
    wanted = _identity(_record_of(config, data_fingerprint, parts))
    with _with_remedy(run_dir), files.reading(path):
        recorded = files.read_json(path)
        number, found = behaviour_of(recorded), _identity(recorded)
    if files.canonical(found) == files.canonical(wanted):
        return
    if number != BEHAVIOUR:
        raise RecordingError(
            f"{run_dir} was recorded by behaviour {number}, and this is behaviour {BEHAVIOUR}: "
            "it can be reported, and not gone on with; choose another --out"
        )
    raise RecordingError(f"{run_dir} holds a run of another config; choose another --out")


def notes_of_others(out_dir: Path, begun: Iterable[tuple[dict[str, Any], str]] = ()) -> list[str]:
    """Return lines on runs of OUT from which one could expect these to go on, and why they do not.

    Args:
      out_dir: OUT.
      begun: configs of the runs that are to begin, each with the fingerprint of its data.

    Returns:
      A line on runs of another behaviour and one on runs of another number of rounds, if any.
    """
    older, rounds = 0, set()
    wanted = {_but_rounds(config, data): config["rounds"] for config, data in begun}
    for path in out_dir.glob("runs/[!.]*/config.json"):
        with contextlib.suppress(RecordingError):  # what is damaged is told when it is asked for
            recorded = files.read_json(path)
            with files.reading(path):
                if behaviour_of(recorded) != BEHAVIOUR:
                    older += 1
                    continue
                config = recorded["config"]
                here = wanted.get(_but_rounds(config, recorded["data_fingerprint"]))
                if here not in (None, config["rounds"]):
                    rounds.add(int(config["rounds"]))
    lines = []
    if older:
        lines.append(
            f"{out_dir} holds {older} run{'' if older == 1 else 's'} of another behaviour, as this "
            f"is {BEHAVIOUR}: they can be reported, and nothing goes on from them"
        )
    if rounds:
        told = ", ".join(map(str, sorted(rounds)))
        lines.append(
            f"the runs of {told} rounds in {out_dir} are not gone on with: schedules of density "
            "and learning rate go over all rounds, so a longer run is another run"
        )
    return lines


def _but_rounds(config: dict[str, Any], data_fingerprint: str) -> str:
    recorded = {"config": config, "data_fingerprint": data_fingerprint}
    return files.canonical(_identity(recorded, without=("rounds",)))


def create(
    run_dir: Path,
    *,
    config: dict,
    data_fingerprint: str,
    plan: dict,
    setup: dict,
    parts: Mapping[str, str] | None = None,
) -> None:
    """Make a run directory, whole or not at all.

    Args:
      run_dir: named by :func:`run_hash`, in a folder that exists: it may be one that another host
        has just moved away.
      config: the science.
      data_fingerprint: digest of the data set.
      plan: how it is run.
      setup: layers, sizes, FLOPs, survey.
      parts: from outside the package, each with the digest of its source.

    Raises:
      OSError: if it cannot be written.
      RecordingError: if another process has just made it.
    """
    temporary = run_dir.with_name(f".{run_dir.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        files.write_json(temporary / "config.json", _record_of(config, data_fingerprint, parts))
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
    with _with_remedy(run_dir):
        return _read_plan(run_dir)


def _read_plan(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "plan.json"
    plan = files.read_json(path)
    with files.reading(path):
        plan = plan | {name: plan[name] for name in PLAN}
        for name in ("processes", "devices", "chunk", "rounds_per_call"):
            if type(plan[name]) is not int or plan[name] < 1:
                raise ValueError(f"{name} is {plan[name]!r}, not a number of at least 1")
        for name in ("platform", "conv", "precision", "versions"):
            if not isinstance(plan[name], dict if name == "versions" else str):
                raise ValueError(f"{name} is {plan[name]!r}")
    return plan


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


def diverge(run_dir: Path, reason: str) -> None:
    """Mark a run as one that cannot be finished."""
    files.write_json(run_dir / "diverged.json", {"reason": reason})


def diverged(run_dir: Path) -> str | None:
    """Return why a run cannot be finished; None if it can, as far as is known.

    Raises:
      RecordingError: if that cannot be read.
    """
    path = run_dir / "diverged.json"
    if not path.exists() or is_finished(run_dir):
        return None
    with _with_remedy(run_dir), files.reading(path):
        return str(files.read_json(path)["reason"])


def stop(run_dir: Path, reason: str, rounds: int) -> None:
    """Record why a run was stopped by a rule, and after how many rounds; it is not finished."""
    files.write_json(run_dir / "stopped.json", {"reason": reason, "rounds": rounds})


def stopped(run_dir: Path) -> str | None:
    """Return why and when a run was stopped by a rule; None if it was not, or went on to its end.

    Raises:
      RecordingError: if that cannot be read.
    """
    path = run_dir / "stopped.json"
    if not path.exists() or is_finished(run_dir):
        return None
    with _with_remedy(run_dir), files.reading(path):
        found = files.read_json(path)
        return f"after {int(found['rounds'])} rounds: {found['reason']}"


def read_table(run_dir: Path, first: int = 0) -> list[dict[str, Any]]:
    """Read what is recorded so far as metrics.csv has it: ``step/conv1``, with a name per layer.

    What is recorded client by client, or class by class, is not in it.

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
    with _with_remedy(run_dir):
        return _read(run_dir)


def _read(run_dir: Path) -> Recording:
    plan, setup = _read_plan(run_dir), files.read_json(run_dir / "setup.json")
    config, behaviour = _recorded(run_dir / "config.json")
    with files.reading(run_dir / "config.json"):
        rounds = _number(config, "rounds", int)
        _number(config, "seed", int)
        _check_name(run_dir)
    with files.reading(run_dir / "setup.json"):
        layers = _layers(setup)
    unknown = [None] * layers
    with files.reading(run_dir / "metrics.jsonl"):
        rows = files.read_lines(run_dir / "metrics.jsonl")
        indices = [row["round"] for row in rows]
        if indices != list(range(rounds if is_finished(run_dir) else len(rows))):
            raise ValueError(f"it holds {len(rows)} rounds, and not all of {rounds} in order")
        names = sorted({name for row in rows for name in row if name not in ("layers", *GROUPS)})
        measures = sorted({name for row in rows for name in row.get("layers", {})})
        if rows and (lacking := {*NEEDED} - {*names} | {"step"} - {*measures}):
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        scalars = {name: _array([row.get(name) for row in rows], len(rows)) for name in names}
        _check_accuracies(scalars)
        by_layer = {
            name: _array(
                [row.get("layers", {}).get(name, unknown) for row in rows], len(rows), layers
            )
            for name in measures
        }
        by = {group: _by(rows, group, config, setup) for group in GROUPS}
    times = _times(run_dir, len(rows))
    return Recording(
        config,
        plan,
        setup,
        scalars,
        by_layer,
        **times,
        behaviour=behaviour,
        by={group: measures for group, measures in by.items() if measures},
    )


def _sizes(config: dict[str, Any], setup: dict[str, Any]) -> dict[str, int]:
    """Return how many clients, classes and new clients a run has, by the names of GROUPS."""
    new = int(config["partition"].get("new_clients", 0))
    clients = len(setup["survey"]["train_counts"]) - new
    return {"clients": clients, "classes": setup["num_classes"], "new_clients": new}


def _by(
    rows: list[dict[str, Any]], group: str, config: dict[str, Any], setup: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Return what rows hold of each of a group, [T, how many there are]; empty if nothing.

    Raises:
      ValueError: for values of another shape, and for accuracies that are no shares.
    """
    names = sorted({name for row in rows for name in row.get(group, {})})
    if not names:
        return {}
    size = _sizes(config, setup)[group]
    unknown = [None] * size
    found = {
        name: _array([row.get(group, {}).get(name, unknown) for row in rows], len(rows), size)
        for name in names
    }
    _check_accuracies({f"{name} of {group}": values for name, values in found.items()})
    return found


def _check_name(run_dir: Path) -> None:
    """Refuse a config that was changed since the folder was named by its digest.

    Raises:
      ValueError: if it was.
    """
    recorded = files.read_json(run_dir / "config.json")
    is_named = HASH.fullmatch(run_dir.name) and behaviour_of(recorded) == BEHAVIOUR
    if is_named and (digest := _digest(recorded)) != run_dir.name:
        raise ValueError(f"it is the config of a run {digest}, not of this folder's")


def _number(values: dict[str, Any], name: str, kind: type = float) -> Any:
    """Return a number that a file must hold.

    Raises:
      ValueError: for another type.
    """
    allowed = int if kind is int else (int, float)
    given = values[name]
    if not isinstance(given, allowed) or isinstance(given, bool) or abs(given) > LARGEST:
        raise ValueError(f"{name} is {str(given)[:80]!r}, and no number of a run")
    return given


def _layers(setup: dict[str, Any]) -> int:
    """Return how many layers a setup.json tells of.

    Raises:
      ValueError: if it does not hold what reports need.
    """
    for layer in setup["layers"]:
        if not (
            isinstance(layer["name"], str) and layer["role"] in ("stem", "middle", "classifier")
        ):
            raise ValueError(f"a layer is {str(layer)[:80]!r}")
    for name in ("num_classes", "num_params"):
        _number(setup, name, int)
    if "flops_per_round" in setup:
        _number(setup, "flops_per_round")
    if "global_examples" in setup and _number(setup, "global_examples", int) < 1:
        raise ValueError("global_examples must be at least 1")
    for name in {"train_counts", "test_counts"} & {"train_counts", *setup["survey"]}:
        counts = np.array(setup["survey"][name], float)
        if counts.ndim != 2 or not (counts >= 0).all() or not counts.sum() > 0:
            raise ValueError(f"the survey's {name} are no table of numbers of examples")
    return len(setup["layers"])


def _times(run_dir: Path, rounds: int) -> dict[str, float]:
    """Return the seconds that a run took; NaN, as not measured, where not all rounds have them."""
    names, path = ("seconds", "compile_seconds"), run_dir / "timings.jsonl"
    if not path.exists():
        return dict.fromkeys(names, float("nan"))
    with files.reading(path):
        timings = files.read_lines(path)
        if sum(row["rounds"] for row in timings) != rounds:
            return dict.fromkeys(names, float("nan"))
        found = {n: _array([row[n] for row in timings], len(timings)) for n in names}
        if any((values < 0).any() for values in found.values()):
            raise ValueError("a time is below 0")
        return {name: float(values.sum()) for name, values in found.items()}


def _recorded(path: Path) -> tuple[dict[str, Any], int]:
    """Read a config.json: the config, its fields as they are called now, and the behaviour."""
    recorded = files.read_json(path)
    with files.reading(path):
        return migrate_config(recorded["config"]), behaviour_of(recorded)


def behaviour_at(run_dir: Path) -> int | None:
    """Return the behaviour that recorded a run; None if there is none that can be read."""
    try:
        return _recorded(run_dir / "config.json")[1]
    except RecordingError:
        return None


def _check_accuracies(scalars: dict[str, np.ndarray]) -> None:
    """Refuse accuracies that are no shares.

    Raises:
      ValueError: naming the measure and the value.
    """
    for name, values in scalars.items():
        beyond = values[(values < -ROUNDING) | (values > 1 + ROUNDING)]  # NaN is neither
        if "accuracy" in name and "gain" not in name and len(beyond):
            raise ValueError(f"{name} is {beyond[0]:g}; allowed are 0..1")


def _array(values: Sequence[Any], *shape: int) -> np.ndarray:
    array = np.array(values, dtype=float)  # None becomes NaN
    if array.shape != shape:
        raise ValueError(f"it holds values of shape {array.shape} where {shape} belong")
    if (np.abs(array) > LARGEST).any():
        raise ValueError(f"it holds numbers beyond {LARGEST:g}")
    return array


def _flatten(row: dict[str, Any], layer_names: list[str]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if name not in ("layers", *GROUPS)}
    for measure, values in row.get("layers", {}).items():
        flat |= {f"{measure}/{n}": v for n, v in zip(layer_names, values, strict=True)}
    return flat
