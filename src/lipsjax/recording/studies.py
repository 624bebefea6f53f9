"""Studies: ``OUT/study.json`` says which runs make which arms and cells. Imports no JAX."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lipsjax.recording import files, leases
from lipsjax.recording.attacks import AttackRecording, read_attacks
from lipsjax.recording.behaviour import BEHAVIOUR
from lipsjax.recording.files import RecordingError
from lipsjax.recording.plans import Decisions, read_decisions
from lipsjax.recording.runs import Recording, behaviour_at, diverged, is_finished, read, stopped

STUDY = ("name", "description", "command", "versions", "platform", "reference")
"""Fields of a study that are taken over as they are."""
PRICES = ("per_gb", "per_device_hour", "per_point")
"""Prices that a study may give."""
TRIAL = ("arm", "cell", "seed", "run")
"""Fields of a trial that is planned."""


RUN = re.compile(r"\w[\w.-]*")
"""Names of run directories."""


class Trial(NamedTuple):
    """A finished run and its place in a study."""

    arm: str
    cell: int
    seed: int
    run: str
    recording: Recording
    attacks: tuple[AttackRecording, ...] = ()


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
    missing: tuple[
        dict[str, Any], ...
    ]  # trials without a finished run, with the reason if a rule stopped them, or who runs them
    diverged: tuple[dict[str, Any], ...]  # trials that cannot be finished, with the reason
    references: dict[str, str]  # arm -> the arm that it is compared with
    target: float | None  # accuracy that rounds and bits are counted to; None: of the reference
    prices: dict[str, float | None]  # by the names of PRICES; None where none is given
    decisions: Decisions | None = None  # of planned looks; None where none were planned


def read_study(out_dir: Path) -> StudyRecording:
    """Read a study and those of its trials that are finished.

    Raises:
      RecordingError: if there is no study, a file of it cannot be read, or its runs are of more
        than one behaviour, so that their numbers cannot be compared.
    """
    path = out_dir / "study.json"
    if not path.is_file():
        raise RecordingError(f"{out_dir} holds no study: there is no study.json")
    study = files.read_json(path)
    with files.reading(path):
        planned = [{name: trial[name] for name in TRIAL} for trial in study["trials"]]
        fields = {name: study[name] for name in STUDY}
        arms, cells = tuple(study["arms"]), tuple(study["cells"])
        references = dict.fromkeys(arms, study["reference"]) | study.get("references", {})
        # recordings from before there were any do not say so
        target, given = _number(study.get("target")), study.get("prices", {})
        prices = {name: _number(given.get(name)) for name in PRICES}
        decided = study.get("decisions")
        decisions = None if decided is None else read_decisions(out_dir, decided)
        unknown = {trial["arm"] for trial in planned}.difference(arms)
        if unknown or not all(0 <= trial["cell"] < len(cells) for trial in planned):
            raise ValueError("a trial is of an arm or a cell that the study does not have")
        compared = () if decisions is None else decisions.plan.comparisons
        if any({c.arm, c.reference} - {*arms} or c.cell >= len(cells) for c in compared):
            raise ValueError("a comparison is of an arm or a cell that the study does not have")
        _check_types(fields | prices | {"target": target}, arms, cells, references, planned)
    done, missing, failed = [], [], []
    for trial in planned:
        run_dir = out_dir / "runs" / trial["run"]
        held = leases.held_by(run_dir)  # before, as one that is then given back is finished
        if is_finished(run_dir):
            attacks = tuple(read_attacks(run_dir))
            done.append(Trial(**trial, recording=read(run_dir), attacks=attacks))
        elif reason := diverged(run_dir):
            failed.append(trial | {"reason": reason})
        elif held is not None:
            told = {"held_by": held.who, "since": held.since, "heard": held.heard}
            missing.append(trial | told)
        else:
            reason = stopped(run_dir)
            missing.append(trial if reason is None else trial | {"reason": f"stopped {reason}"})
    _check_behaviours(out_dir, done)
    return StudyRecording(
        **fields,
        arms=arms,
        cells=cells,
        trials=tuple(done),
        missing=tuple(missing),
        diverged=tuple(failed),
        references=references,
        target=target,
        prices=prices,
        decisions=decisions,
    )


class Plan(NamedTuple):
    """What a study.json says without its runs being read."""

    command: str
    runs: tuple[str, ...]  # names of the directories


def planned(out_dir: Path) -> Plan | None:
    """Return what is to be run in OUT; None if there is no study, or none that can be read."""
    path = out_dir / "study.json"
    try:
        with files.reading(path):
            study = files.read_json(path)
            return Plan(str(study["command"]), tuple(str(t["run"]) for t in study["trials"]))
    except RecordingError:
        return None


def replaceable(out_dir: Path) -> str | None:
    """Return the command of the study that another one would replace; None if there is none.

    Raises:
      RecordingError: if its runs are of another behaviour: nothing could draw its report again.
    """
    study = planned(out_dir)
    if study is None:
        return None
    found = (behaviour_at(out_dir / "runs" / run) for run in study.runs)
    older = [number for number in found if number is not None and number != BEHAVIOUR]
    if older:
        raise RecordingError(
            f"{out_dir} holds a study of behaviour {min(older)}, and this is behaviour "
            f"{BEHAVIOUR}: choose another --out, so that its report can still be drawn"
        )
    return study.command


def _check_behaviours(out_dir: Path, trials: Iterable[Trial]) -> None:
    runs: dict[int, list[str]] = {}
    for trial in trials:
        runs.setdefault(trial.recording.behaviour, []).append(trial.run)
    if len(runs) > 1:
        told = "; ".join(f"behaviour {n}: {', '.join(names)}" for n, names in sorted(runs.items()))
        raise RecordingError(
            f"{out_dir} compares runs of more than one behaviour, whose numbers differ ({told}); "
            "run the older ones again in another --out"
        )


def _check_types(fields, arms, cells, references, planned) -> None:
    """Raise ValueError for a value of another type than pages read."""
    texts = {name: fields[name] for name in STUDY if name != "versions"}
    texts |= {f"arm {i}": arm for i, arm in enumerate(arms)}
    texts |= {f"label of cell {i}": cell["label"] for i, cell in enumerate(cells)}
    texts |= {f"reference of {arm}": reference for arm, reference in references.items()}
    texts |= {f"version of {name}": text for name, text in dict(fields["versions"]).items()}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{name} is {str(text)[:80]!r}, not a text")
    if not arms or {fields["reference"], *references, *references.values()} - set(arms):
        raise ValueError("a reference is no arm of the study")
    for cell in cells:
        if not isinstance(cell.get("overrides", {}), dict):
            raise ValueError("the overrides of a cell are no table")
    for name in ("target", *PRICES):
        if fields[name] is not None and not math.isfinite(fields[name]):
            raise ValueError(f"{name} is {fields[name]}, not a finite number")
    for trial in planned:
        for name in ("cell", "seed"):
            if type(trial[name]) is not int:
                raise ValueError(f"{name} of a trial is {str(trial[name])[:80]!r}, not an integer")
        if not RUN.fullmatch(trial["run"]):  # it is a folder's name, and no path
            raise ValueError(f"a run is called {trial['run'][:80]!r}")


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
