"""Plans of looks: ``OUT/looks.json`` says when a study is looked at, before its first run.

It is written once, with its digest, and never changed: a look that is not in it cannot be taken.
What the looks gave is in ``OUT/study.json``, as it comes. Imports no JAX.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lipsjax.recording import files
from lipsjax.recording.files import RecordingError

NAME = "looks.json"

CLAIMS = ("better", "worse", "equivalent", "open", "not decided")
"""What a comparison may be found to be."""


class Comparison(NamedTuple):
    """An arm that is compared with its reference, in one measure of one cell."""

    arm: str
    reference: str
    cell: int  # index in the study's cells
    measure: str

    @property
    def key(self) -> str:
        """What it is called in a plan; no two are called the same."""
        return f"{self.cell} | {self.arm} | {self.reference} | {self.measure}"


class Looks(NamedTuple):
    """A plan of looks, and of which study it is."""

    margin: float  # accuracy
    looks: tuple[int, ...]  # seeds at each
    order: str
    alpha: float
    equivalence: float
    spending: str
    comparisons: tuple[Comparison, ...]
    cells: tuple[str, ...]  # their labels
    seed: int  # the first
    runs: str  # digest of the names of all runs that may be needed


class Decided(NamedTuple):
    """What a comparison was found to be at the last look."""

    comparison: Comparison
    claim: str  # of CLAIMS
    look: int  # the last that it was read at, from 1; of a claim, that of the claim; 0: none yet
    seeds: int  # at that look
    estimate: float  # accuracy
    low: float
    high: float


class Decisions(NamedTuple):
    """A plan of looks and what they gave so far."""

    plan: Looks
    taken: int  # looks
    most_runs: int | None  # the budget, if there was one
    spent: bool  # whether the next look would have gone beyond it
    found: tuple[Decided, ...]  # in the order of the plan's comparisons


def digest_runs(names: Sequence[str]) -> str:
    """Return the digest of the names of runs.

    >>> digest_runs(["a", "b"]) == digest_runs(["b", "a"])
    False
    """
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def record_looks(out_dir: Path, plan: Looks, command: str) -> None:
    """Write a plan, whole or not at all.

    Raises:
      OSError: if it cannot be written.
    """
    recorded = _as_json(plan)
    about = {"digest": _digest(recorded), "command": command}
    files.write_json(out_dir / NAME, {**about, "plan": recorded})


def read_looks(out_dir: Path) -> tuple[Looks, str] | None:
    """Read the plan of OUT and the command that recorded it; None if there is none.

    Raises:
      RecordingError: if it cannot be read, or is not as it was recorded.
    """
    path = out_dir / NAME
    if not path.exists():
        return None
    with _with_remedy(), files.reading(path):
        found = files.read_json(path)
        plan = found["plan"]
        if found["digest"] != _digest(plan):
            raise RecordingError(f"{path} is not as it was recorded: its digest is another")
        comparisons = tuple(Comparison(**each) for each in plan["comparisons"])
        lists = {"comparisons": comparisons, "looks": tuple(plan["looks"])}
        return Looks(**{**plan, **lists, "cells": tuple(plan["cells"])}), str(found["command"])


@contextlib.contextmanager
def _with_remedy():
    """Say of a damaged plan what to do."""
    try:
        yield
    except RecordingError as error:
        raise RecordingError(
            f"{error}; nothing can be decided without it: choose another --out"
        ) from None


def decisions_as_json(found: Decisions) -> dict[str, Any]:
    """Return decisions as study.json holds them; the plan has its own file."""
    each = [d._asdict() | {"comparison": d.comparison._asdict()} for d in found.found]
    return found._asdict() | {"plan": _digest(_as_json(found.plan)), "found": each}


def read_decisions(out_dir: Path, recorded: dict[str, Any]) -> Decisions:
    """Return the decisions that a study.json holds, with their plan.

    Raises:
      RecordingError: if the plan is not there, or another, or what was found cannot be read.
    """
    known = read_looks(out_dir)
    if known is None:
        raise RecordingError(f"{out_dir} holds decisions, and not their plan, {NAME}")
    plan, _ = known
    if recorded["plan"] != _digest(_as_json(plan)):
        raise RecordingError(f"{out_dir} holds decisions of another plan than its {NAME}")
    found = tuple(map(_decided, recorded["found"]))
    if tuple(each.comparison for each in found) != plan.comparisons:
        raise ValueError("what was decided is not what was planned")
    return Decisions(
        plan, int(recorded["taken"]), recorded["most_runs"], bool(recorded["spent"]), found
    )


def _decided(recorded: dict[str, Any]) -> Decided:
    claim, look = recorded["claim"], recorded["look"]
    if claim not in CLAIMS or type(look) is not int:
        raise ValueError(f"a decision is {str(claim)[:80]!r} at look {str(look)[:80]!r}")
    numbers = {
        name: float("nan") if recorded[name] is None else float(recorded[name])
        for name in ("estimate", "low", "high")
    }
    comparison = Comparison(**recorded["comparison"])
    return Decided(comparison, claim, look, int(recorded["seeds"]), **numbers)


def _as_json(plan: Looks) -> dict[str, Any]:
    return plan._asdict() | {"comparisons": [each._asdict() for each in plan.comparisons]}


def _digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(files.canonical(plan).encode()).hexdigest()[:16]
