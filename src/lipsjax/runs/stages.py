"""Stages of a proof of concept: from a TOML file, checked field by field. No JAX here.

::

    name = "From digits to the pilot"
    [study]
    seeds = 4
    config.dataset = "digits"

    [stages.small]
    title = "A small model, our own data"
    config.model.name = "mlp"
    gates = [{ gate = "gain", arm = "lips", at_least = 0 }]

    [stages.pilot]
    study = "pilot.toml"
    gates = [{ gate = "over_alone", arm = "dense", at_least = 1 }]

A stage is a study: that of ``[study]``, or the file that it names, with its own fields replaced.
What becomes of it: :mod:`lipsjax.runs.begun`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lipsjax.analysis.gates import COSTS, Gate
from lipsjax.runs.arms import choose
from lipsjax.runs.config import Config
from lipsjax.runs.fields import from_dict, nearest, override, shown
from lipsjax.runs.study import Study, expand, load_study, read_toml, references, study_from

OWN = ("title", "study", "gates")
"""Fields of a stage that are not those of a study."""
NAME = re.compile(r"[A-Za-z0-9][\w-]{0,39}", re.ASCII)
MOST_STAGES = 99


class Stage(NamedTuple):
    """A study and what it must show before the next one begins."""

    name: str
    folder: str  # of OUT
    study: Study
    gates: tuple[Gate, ...]


class Stages(NamedTuple):
    """A proof of concept."""

    name: str
    description: str
    stages: tuple[Stage, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    """The fields of a file of stages."""

    name: str = "proof of concept"
    description: str = ""
    study: dict[str, Any] = dataclasses.field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def load_stages(path: Path) -> Stages:
    """Read the stages of a proof of concept from a TOML file.

    Raises:
      ValueError: if it cannot be read, or has a field or a value that does not exist, or a stage
        that cannot be run, or a gate that it could not decide.
    """
    path, values = read_toml(path, "stages are a TOML file")
    try:
        return _stages(from_dict(_File, values), path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _stages(file: _File, beside: Path) -> Stages:
    if not 1 <= len(file.stages) <= MOST_STAGES:
        raise ValueError(
            f"there must be 1 to {MOST_STAGES} stages, as [stages.small], not {len(file.stages)}"
        )
    _refuse_given(file.study, "study.")
    shared = study_from(file.study, "study.")
    found = []
    for number, (name, values) in enumerate(file.stages.items(), start=1):
        if not NAME.fullmatch(name):
            raise ValueError(
                "the name of a stage must be of at most 40 letters, digits, - and _, not "
                f"{shown(name)}"
            )
        where = f"stages.{name}."
        study = _study(name, values, shared, beside)
        found.append(Stage(name, f"{number:02}-{name}", study, _gates(values, study, where)))
    return Stages(file.name, file.description, tuple(found))


def _study(stage: str, values: Mapping[str, Any], shared: Study, beside: Path) -> Study:
    """Return the study of a stage."""
    where = f"stages.{stage}."
    for field in ("title", "study"):
        if not isinstance(text := values.get(field, ""), str):
            raise ValueError(f"{where}{field} must be a text, not {shown(text)}")
    _refuse_given(values, where)
    file = values.get("study")
    study = shared if file is None else load_study(beside / file)
    title = values.get("title", stage if file is None else study.name)
    study = dataclasses.replace(study, name=title)
    allowed = (*OWN, *(field.name for field in dataclasses.fields(Study) if field.name != "name"))
    for field, value in values.items():
        if field not in allowed:
            raise ValueError(
                f"unknown field {where}{field}{nearest(field, allowed)}; allowed are "
                f"{', '.join(allowed)}"
            )
        if field == "arms" and isinstance(value, list):
            study = dataclasses.replace(study, arms=choose(value, study.arms, where=f"{where}arms"))
        elif field not in OWN:
            study = override(study, field, value, where=where)
    _check(study, where)
    return study


def _refuse_given(values: Mapping[str, Any], where: str) -> None:
    """Refuse fields that a stage has in another way."""
    execution = values.get("execution")
    if "name" in values:
        raise ValueError(f"{where}name: the title of a stage is its field title")
    if isinstance(execution, dict) and "out" in execution:
        raise ValueError(f"{where}execution.out: every stage has a folder of its own in --out")


def _check(study: Study, where: str) -> None:
    """Refuse a study that cannot be run, or not as a stage."""
    if study.grid:
        raise ValueError(
            f"{where}grid: a stage is one setting, and its gates are decided there; take the grid "
            f"of {', '.join(study.grid)} out, and make a stage of each cell that counts"
        )
    if study.until is not None:
        raise ValueError(
            f"{where}until: a stage is decided by its gates, after the seeds that it names; "
            "planned looks are of lipsjax sweep"
        )
    for field in ("coordinator", "processes", "process"):
        if getattr(study.execution, field) is not None:
            raise ValueError(f"{where}execution.{field}: stages run in one process")
    try:
        expand(study)
    except ValueError as error:
        raise ValueError(f"{where.rstrip('.')}: {error}") from None


def _gates(values: Mapping[str, Any], study: Study, where: str) -> tuple[Gate, ...]:
    """Return the gates of a stage, each with the arm that it compares with."""
    tables = values.get("gates")
    if not isinstance(tables, list) or not tables:
        raise ValueError(
            f"{where}gates must be a list of tables, at least one, as "
            f'[{{ gate = "gain", arm = "lips", at_least = 0 }}], not {shown(tables)}'
        )
    found: list[Gate] = []
    for number, table in enumerate(tables, start=1):
        place = f"{where}gates, number {number}: "
        if not isinstance(table, dict):
            raise ValueError(f"{place}must be a table, not {shown(table)}")
        if lacking := [field for field in ("gate", "arm") if field not in table]:
            raise ValueError(f"{place}it lacks {' and '.join(lacking)}")
        gate = _resolved(from_dict(Gate, table, place), study, place)
        if gate in found:
            raise ValueError(f"{place}the same as number {found.index(gate) + 1}")
        found.append(gate)
    return tuple(found)


def _resolved(gate: Gate, study: Study, place: str) -> Gate:
    """Return a gate with the arm that it compares with, or refuse one that decides nothing."""
    configs = {trial.arm: trial.config for trial in reversed(expand(study))}
    for field, name in (("arm", gate.arm), ("over", gate.over)):
        if name is not None and name not in study.arms:
            raise ValueError(
                f"{place}{field} must be one of {', '.join(study.arms)}, not {shown(name)}"
                f"{nearest(name, study.arms)}"
            )
    _check_bound(gate, place)
    if gate.gate == "gain" and gate.over is None:
        gate = dataclasses.replace(gate, over=references(study)[gate.arm])
        if gate.over == gate.arm:
            raise ValueError(f"{place}{gate.arm} is what others are compared with: say over = ARM")
    elif gate.gate == "over_alone":
        alone = [arm for arm, config in configs.items() if config.strategy.name == "local"]
        if not alone or gate.over is not None:
            raise ValueError(
                f"{place}over_alone needs "
                + ("no over" if alone else "an arm that trains alone: strategy.name = 'local'")
            )
        gate = dataclasses.replace(gate, over=alone[0])
    elif gate.gate not in ("gain", "worst_site") and gate.over is not None:
        raise ValueError(f"{place}over is of gain and worst_site, not of {gate.gate}")
    if gate.over == gate.arm:
        raise ValueError(f"{place}{gate.arm} would be compared with itself")
    return _measured(gate, study, configs, place)


def _check_bound(gate: Gate, place: str) -> None:
    """Refuse a bound that is the wrong way round, or beyond what can be."""
    wanted, other = ("at_most", "at_least") if gate.gate in COSTS else ("at_least", "at_most")
    if getattr(gate, other) is not None or getattr(gate, wanted) is None:
        raise ValueError(f"{place}{gate.gate} needs {wanted}, and no {other}")
    bound, is_level = gate.bound, gate.is_level
    if gate.gate in COSTS and bound < 0:
        raise ValueError(f"{place}at_most must be at least 0, not {bound:g}")
    if gate.gate not in COSTS and not (0 if is_level else -100) <= bound <= 100:
        span = "percent, 0 to 100" if is_level else "points, -100 to 100"
        raise ValueError(f"{place}at_least must be in {span}, not {bound:g}")
    if is_level and 0 < bound <= 1:
        raise ValueError(
            f"{place}at_least is in percent, and {bound:g} % is next to nothing: write "
            f"{100 * bound:g} for {100 * bound:g} %"
        )


def _measured(gate: Gate, study: Study, configs: Mapping[str, Config], place: str) -> Gate:
    """Return a gate whose number is recorded, or refuse it."""
    if gate.accuracy != "personalised" and gate.gate in ("worst_site", *COSTS):
        raise ValueError(f"{place}accuracy is of gain, over_alone and accuracy, not {gate.gate}")
    if gate.gate == "money" and study.prices.per_gb is study.prices.per_device_hour is None:
        raise ValueError(f"{place}money needs prices.per_gb or prices.per_device_hour")
    for arm in filter(None, (gate.arm, gate.over)):
        config = configs[arm]
        if gate.gate == "worst_site" and config.partition.pooled:
            raise ValueError(f"{place}{arm} pools the data, and has no sites")
        if (
            gate.accuracy == "global"
            and config.strategy.name == "local"
            and not config.evaluation.clients_on_global
        ):
            raise ValueError(
                f"{place}{arm} has no global accuracy without evaluation.clients_on_global"
            )
    return gate


def read_seeds(entries: Sequence[str], stages: Stages) -> dict[str, int]:
    """Read ``NAME=SEEDS ...``, by which seeds of stages are raised.

    Raises:
      ValueError: for a stage that is not there or given twice, or no number of seeds.
    """
    known, found = [stage.name for stage in stages.stages], {}
    for entry in entries:
        name, _, count = entry.partition("=")
        if not re.fullmatch(r"[0-9]{1,9}", count):
            raise ValueError(f"--seeds must be like small=12, not {shown(entry)}")
        if name not in known:
            raise ValueError(
                f"--seeds: unknown stage {shown(name)}{nearest(name, known)}; there are "
                f"{', '.join(known)}"
            )
        if name in found:
            raise ValueError(f"--seeds names {name} twice")
        found[name] = int(count)
    return found
