"""What was asked of the stages that have begun in OUT, and what is known of them. No JAX here.

What a stage must show, and with how many seeds, is kept in ``OUT/NN-name/stage.json`` from before
its first run, so that no bound follows a result, and every time that seeds are raised is counted.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lipsjax.analysis.comparison import compare
from lipsjax.analysis.gates import GO, NO_GO, Gate, judge, verdict
from lipsjax.analysis.value import cost
from lipsjax.recording import RecordingError, StudyRecording, read_study, write_json
from lipsjax.recording.files import read_json
from lipsjax.report.stages import NOT_BEGUN, NOT_FINISHED, Outcome
from lipsjax.runs.config import Execution, Prices, to_dict
from lipsjax.runs.fields import from_dict, shown
from lipsjax.runs.stages import Stage, Stages
from lipsjax.runs.study import Study, expand

FOLDER = re.compile(r"\d\d-[A-Za-z0-9][\w-]*", re.ASCII)
RECORD = "stage.json"
PAGES = ("report.html", "survey.html")
"""Pages of a study."""


class Begun(NamedTuple):
    """What was asked of a stage when it began, and with how many seeds since."""

    study: Study
    gates: tuple[Gate, ...]
    seeds: tuple[int, ...]  # asked for at first, and each time they were raised


def with_seeds(stage: Stage, outcome: Outcome, asked: int | None) -> Stage:
    """Return a stage with the seeds that it is to be judged by: they are never fewer than before.

    Args:
      stage: as the file has it.
      outcome: what is known of it.
      asked: how many seeds the command line asks for; None: no more.

    Raises:
      ValueError: for fewer seeds than the stage has, or more where it is decided.
    """
    before = outcome.seeds[-1] if outcome.seeds else 0
    has = max(stage.study.seeds, before)
    if asked is not None and asked < has:
        raise ValueError(
            f"--seeds {stage.name}={asked}: the stage {stage.name} has {has}, and seeds can only "
            "be raised"
        )
    study = dataclasses.replace(stage.study, seeds=asked or has)
    if outcome.word in (GO, NO_GO) and study.seeds > before:
        raise ValueError(
            f"the stage {stage.name} is decided with {before} seeds, {outcome.word}, and takes no "
            f"more: {study.seeds} would be one more look at what is settled"
        )
    try:
        expand(study)
    except ValueError as error:
        raise ValueError(f"--seeds {stage.name}={asked}: {error}") from None
    return stage._replace(study=study)


def outcome_of(out: Path, stage: Stage, begun: Begun | None) -> Outcome:
    """Return what is known of a stage, from its recordings alone.

    Args:
      out: OUT.
      stage: as the file has it.
      begun: what was asked of it.

    Raises:
      RecordingError: if its recordings cannot be read.
    """
    unknown = Outcome(
        name=stage.name,
        title=stage.study.name,
        description=stage.study.description,
        folder=stage.folder,
        gates=stage.gates,
        seeds=() if begun is None else begun.seeds,
        word=NOT_BEGUN if begun is None else NOT_FINISHED,
    )
    folder = out / stage.folder
    if begun is None or not (folder / "study.json").is_file():
        return unknown
    study = read_study(folder)._replace(prices=to_dict(stage.study.prices))
    asked = dataclasses.replace(stage.study, seeds=begun.seeds[-1])
    planned = {(trial.arm, trial.seed) for trial in expand(asked)}
    ended = {(t.arm, t.seed) for t in study.trials} | {
        (t["arm"], t["seed"]) for t in study.diverged
    }
    pages = tuple(page for page in PAGES if (folder / page).is_file())
    known = unknown._replace(
        runs=len(planned), finished=len(study.trials), pages=pages, **_spent(study)
    )
    if ended != planned:  # killed before its end, or before it was begun with more seeds
        return known
    results = tuple(judge(study, stage.gates))
    return known._replace(word=verdict(results), results=results)


def _spent(study: StudyRecording) -> dict[str, Any]:
    """Return the minutes that the finished runs of a study took, compiling too, and their price."""
    rows = compare(study) if study.trials else []
    numbers = [each for row in rows for each in row.values.values()]
    prices = [cost(each, study.prices) for each in numbers]
    known = [price for price in prices if price is not None]
    return {
        "seconds": sum(each["seconds"] + each["compile_seconds"] for each in numbers),
        "money": sum(known) if known else None,
    }


def read_begun(out: Path, stage: Stage) -> Begun | None:
    """Return what was asked of a stage when it began; None of one that has not.

    Raises:
      RecordingError: if its record cannot be read.
    """
    path = out / stage.folder / RECORD
    if not path.exists():
        return None
    record = read_json(path)
    try:
        seeds = tuple(record["seeds"])
        if not seeds or not all(type(n) is int and n > 0 for n in seeds):
            raise ValueError(f"seeds are {shown(seeds)}")
        gates = tuple(from_dict(Gate, gate) for gate in record["gates"])
        return Begun(from_dict(Study, record["study"]), gates, seeds)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordingError(
            f"{path} is damaged: {error}; delete {path.parent} to begin the stage anew"
        ) from None


def write_begun(out: Path, stage: Stage, begun: Begun | None) -> Begun:
    """Record what is asked of a stage, before it is run; return the record."""
    before = () if begun is None else begun.seeds
    seeds = before if before[-1:] == (stage.study.seeds,) else (*before, stage.study.seeds)
    folder = out / stage.folder
    folder.mkdir(parents=True, exist_ok=True)
    study = dataclasses.replace(stage.study, execution=Execution())  # which decides nothing
    record = {"seeds": seeds, "study": dataclasses.asdict(study)}
    gates = [dataclasses.asdict(gate) for gate in stage.gates]
    write_json(folder / RECORD, record | {"gates": gates})
    return Begun(stage.study, stage.gates, seeds)


def check_unchanged(out: Path, stages: Stages, begun: Mapping[str, Begun | None]) -> None:
    """Refuse stages that are not those that were begun in OUT.

    A stage that has not begun may change, as may titles, how and where runs are executed, and
    seeds, which may be raised.

    Raises:
      ValueError: naming the stage, and what has changed.
    """
    folders = {stage.folder for stage in stages.stages}
    for path in sorted(out.glob(f"*/{RECORD}")):
        if FOLDER.fullmatch(path.parent.name) and path.parent.name not in folders:
            raise ValueError(
                f"{path.parent} is a stage that was begun and is no longer there under that number "
                "and name; choose another --out"
            )
    for stage in stages.stages:
        before = begun[stage.name]
        changed = [] if before is None else list(_changes(stage, before))
        if changed:
            raise ValueError(
                f"the stage {stage.name} has begun, and has changed since: {', '.join(changed)}; "
                f"change it back, choose another --out, or delete {out / stage.folder} to begin it "
                "anew"
            )


def _changes(stage: Stage, before: Begun) -> Iterator[str]:
    """Yield the fields that decide something in which a stage is not what it was."""
    study, old = stage.study, before.study
    for field in ("config", "sparsity"):
        yield from _apart(to_dict(getattr(study, field)), to_dict(getattr(old, field)), field)
    for arm in {**study.arms, **old.arms}:
        if study.arms.get(arm) != old.arms.get(arm):
            yield f"arms.{arm}"
    if study.arms == old.arms and list(study.arms) != list(old.arms):
        yield "the order of arms"
    money = any(gate.gate == "money" for gate in stage.gates)
    if money and _costs(study.prices) != _costs(old.prices):
        yield "prices, by which money is judged"
    if stage.gates != before.gates:
        yield "gates"


def _costs(prices: Prices) -> tuple[float | None, float | None]:
    return prices.per_gb, prices.per_device_hour


def _apart(own: Mapping[str, Any], other: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield the dotted names of the fields in which two tables differ."""
    for name in {**own, **other}:
        first, second = own.get(name), other.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _apart(first, second, f"{where}.{name}")
        elif first != second:
            yield f"{where}.{name}"
