"""A study that is run until it is decided: which trials are due before each planned look.

The plan is recorded before the first run, and what is found at a look is a function of the plan and
of the runs up to it. So whatever kills the command, the same one finds the same decisions again,
look by look, and goes on with the runs that are missing. No run is begun beyond the next look.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lipsjax import recording
from lipsjax.analysis.decision import Plan, check_plan
from lipsjax.analysis.planned import End, end_of, is_settled, last_looks, take
from lipsjax.recording import Comparison, Decided, Decisions, Looks, RecordingError
from lipsjax.runs.study import Batch, Planned, Study, cells, label_of, references
from lipsjax.runs.until import decided_arms, looks_of


def looks_for(study: Study, runs: Sequence[str] = ()) -> Looks | None:
    """Return the plan of a study's looks; None if it has none.

    Args:
      study: with all its fields checked.
      runs: names of all runs that may be needed, in the order of its trials.

    Raises:
      ValueError: for what no statistics can follow.
    """
    if study.until is None:
        return None
    until, others, labels = (
        study.until,
        references(study),
        [label_of(each) for each in cells(study)],
    )
    comparisons = tuple(
        Comparison(arm, others[arm], cell, measure)
        for cell in range(len(labels))
        for arm in decided_arms(until, others)
        for measure in until.measures
    )
    plan = Plan(
        margin=until.margin / 100,
        looks=looks_of(until),
        comparisons=tuple(each.key for each in comparisons),
        order=until.order,
    )
    check_plan(plan)
    return Looks(
        margin=plan.margin,
        looks=plan.looks,
        order=plan.order,
        alpha=plan.alpha,
        equivalence=plan.equivalence,
        spending=plan.spending,
        comparisons=comparisons,
        cells=tuple(labels),
        seed=study.config.seed,
        runs=recording.digest_runs(runs),
    )


def check_out(out: Path, looks: Looks | None, *, known: bool = True) -> bool:
    """Refuse an OUT whose plan of looks is another than this study's; tell whether it has one.

    Args:
      out: OUT.
      looks: of the study that is to be run there; None if it has none.
      known: whether the names of its runs are known yet.

    Raises:
      RecordingError: naming what differs, and what to do.
    """
    found = recording.read_looks(out)
    if found is None:
        return False
    planned, command = found
    do = f"choose another --out, or go on with {command}"
    if looks is None:
        raise RecordingError(
            f"{out} is looked at as planned before its first run, and these runs are not in that "
            f"plan: {do}"
        )
    for name in Looks._fields:
        ours, theirs = getattr(looks, name), getattr(planned, name)
        if ours != theirs and (known or name != "runs"):
            told = f"its {name} are {_shown(theirs)}, not {_shown(ours)}"
            if name == "runs":
                told = "its runs are of another config, other data or another behaviour"
            raise RecordingError(f"{out} holds another plan of looks: {told}; {do}")
    return True


def _shown(value: Any) -> str:
    """Return a field of a plan in a few words."""
    if not isinstance(value, tuple):
        return str(value)
    told = [each.key if isinstance(each, Comparison) else str(each) for each in value]
    return ", ".join(told[:6]) + (f" and {len(told) - 6} more" if len(told) > 6 else "")


def check_budget(
    study: Study, looks: Looks, trials: Sequence[Planned], folder_of: Callable[[Planned], Path]
) -> None:
    """Refuse a budget that does not reach to the first look.

    Args:
      study: the study.
      looks: its plan.
      trials: all that may be run.
      folder_of: run directory of a trial.

    Raises:
      ValueError: saying what it must be.
    """
    most = study.until.most_runs if study.until is not None else None
    first = len({folder_of(trial) for trial in due(study, looks, trials, 1, ())})
    if most is not None and first > most:
        raise ValueError(
            f"most_runs must be at least {first}, the runs of the first look, not {most}"
        )


def check_ahead(
    looks: Looks, number: int, all_runs: Mapping[Path, Planned], due: Container[Path]
) -> None:
    """Refuse runs beyond a look that has not been taken: somebody may have looked at them.

    Args:
      looks: the plan.
      number: of the look, from 1.
      all_runs: run directory -> its trial.
      due: run directories that are due at this look.

    Raises:
      RecordingError: naming one.
    """
    compared = {(each.cell, each.arm) for each in looks.comparisons}
    last = looks.seed + looks.looks[number - 1] - 1
    for folder, trial in all_runs.items():
        is_ahead = (trial.cell, trial.arm) in compared and trial.seed > last
        if is_ahead and folder not in due and folder.exists():
            raise RecordingError(
                f"{folder} is of seed {trial.seed} of {trial.arm}, beyond look {number} of "
                f"{len(looks.looks)}, which ends with seed {last}: who has seen such runs may have "
                "looked without a plan; choose another --out"
            )


def due(
    study: Study, looks: Looks, trials: Sequence[Planned], number: int, found: Sequence[Decided]
) -> list[Planned]:
    """Return the trials that a look needs, of all that may be run.

    A comparison that is settled needs no more; its arms go on as long as another one needs them.

    Args:
      study: the study.
      looks: its plan.
      trials: all that may be run.
      number: of the look, from 1.
      found: what was found at the one before.
    """
    last = last_looks(looks, number, found)
    # arms that are not decided about have what they are compared with in all their seeds
    least = study.seeds if study.until is not None and study.until.arms else 0
    needed: dict[tuple[int, str], int] = {}
    for comparison in looks.comparisons:
        seeds = looks.looks[last[comparison] - 1]
        for arm in (comparison.arm, comparison.reference):
            place = comparison.cell, arm
            needed[place] = max(needed.get(place, least), seeds)
    return [
        trial
        for trial in trials
        if trial.seed - looks.seed < needed.get((trial.cell, trial.arm), study.seeds)
    ]


def batches(
    study: Study,
    looks: Looks,
    trials: Sequence[Planned],
    folder_of: Callable[[Planned], Path],
    line: str,
) -> Iterator[Batch]:
    """Yield the trials that are due before each look that lacks some, and in the end all of them.

    The plan is recorded before the first batch. Whoever asks for the next one has run the trials of
    the one before.

    Args:
      study: the study.
      looks: its plan.
      trials: all that may be run.
      folder_of: run directory of a trial.
      line: the command, for the record.

    Yields:
      The trials and what was decided before them; in the last batch, what was decided in the end.

    Raises:
      ValueError: for a run that was not run to its end, or that nobody asked for.
    """
    out = Path(study.execution.out)
    most = study.until.most_runs if study.until is not None else None
    is_recorded = recording.read_looks(out) is not None
    # so that a run of an earlier look that was deleted, as one that is damaged, is run again
    reached = recording.looks_taken(out) + 1 if is_recorded else 1
    ends: dict[tuple[int, str, int], End | None] = {}
    found = tuple(map(_unknown, looks.comparisons))
    batch = Batch([])
    for number in range(1, len(looks.looks) + 1):
        wanted = due(study, looks, trials, number, found)
        folders = {folder_of(trial) for trial in wanted}
        lacking = not all(map(_has_ended, folders))
        if lacking or not is_recorded:
            last = min(max(number, reached), len(looks.looks))
            check_ahead(looks, last, {folder_of(t): t for t in trials}, folders)
        if lacking and most is not None and len(folders) > most:
            given_up = Decisions(looks, number - 1, most, True, tuple(map(_given_up, found)))
            batch = batch._replace(decisions=given_up)
            break
        if not is_recorded:
            recording.record_looks(out, looks, line)
            is_recorded = True
        batch = Batch(wanted, Decisions(looks, number - 1, most, False, found))
        if lacking:
            yield batch
        _read_ends(ends, looks, number, wanted, folder_of)
        found = take(ends, looks, number, found)
        batch = Batch(wanted, Decisions(looks, number, most, False, found))
        if is_settled(found):
            break
    yield batch


def _has_ended(folder: Path) -> bool:
    return recording.is_finished(folder) or recording.diverged(folder) is not None


def _read_ends(
    ends: dict[tuple[int, str, int], End | None],
    looks: Looks,
    number: int,
    trials: Sequence[Planned],
    folder_of: Callable[[Planned], Path],
) -> None:
    """Add what the runs of a look ended with, of those that are compared."""
    compared = {
        (each.cell, arm) for each in looks.comparisons for arm in (each.arm, each.reference)
    }
    for trial in trials:
        place, folder = (trial.cell, trial.arm, trial.seed), folder_of(trial)
        if place in ends or (trial.cell, trial.arm) not in compared:
            continue
        if recording.is_finished(folder):
            ends[place] = end_of(recording.read(folder))
        elif recording.diverged(folder) is not None:
            ends[place] = None
        else:
            raise ValueError(
                f"seed {trial.seed} of {trial.arm} was not run to its end, so look {number} cannot "
                "be taken; the same command goes on"
            )


def _unknown(comparison: Comparison) -> Decided:
    """Return a comparison of which nothing was seen."""
    return Decided(comparison, "open", 0, 0, math.nan, math.nan, math.nan)


def _given_up(found: Decided) -> Decided:
    """Return what is open as not decided."""
    return found._replace(claim="not decided") if found.claim == "open" else found
