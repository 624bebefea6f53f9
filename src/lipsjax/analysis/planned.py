"""What planned looks decide of a recorded study, and how that is said.

The statistics are those of :mod:`lipsjax.analysis.decision`; here they meet recorded studies. A
difference is that of a measure of :data:`lipsjax.analysis.comparison.MEASURES`, arm less reference,
seed by seed; of a seed that diverged in either arm it is NaN.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lipsjax.analysis.comparison import MEASURES
from lipsjax.analysis.decision import (
    BETTER,
    CLAIMS,
    EQUIVALENT,
    OPEN,
    UNDECIDED,
    WORSE,
    Decision,
    Plan,
    decide,
    false_claims,
)
from lipsjax.analysis.steps import steps_of
from lipsjax.analysis.wording import counted
from lipsjax.recording import (
    Comparison,
    Decided,
    Decisions,
    Looks,
    Recording,
    StudyRecording,
)

NAMES = {"personalised": "personalised accuracy", "global": "global accuracy"}
"""Measures that are decided about, as sentences call them."""

NAMED = 6
"""Comparisons that are told one by one where there is a grid."""

CALLED = {OPEN: "still open"}
"""Claims that sentences call by another name."""


def plan_of(looks: Looks) -> Plan:
    """The statistics of a recorded plan."""
    return Plan(
        margin=looks.margin,
        looks=looks.looks,
        comparisons=tuple(each.key for each in looks.comparisons),
        alpha=looks.alpha,
        equivalence=looks.equivalence,
        spending=looks.spending,
        order=looks.order,
    )


class End(NamedTuple):
    """What a run ended with."""

    values: Mapping[str, float]  # measure -> accuracy, by the names of NAMES
    steps: Mapping[str, float]  # measure -> the smallest that it makes


Ends = Mapping[tuple[int, str, int], End | None]
"""Cell, arm, seed -> what the run ended with; None if it diverged."""


def end_of(recording: Recording) -> End:
    """Returns what looks need of a finished run."""
    steps = steps_of(recording)
    values = {name: MEASURES[name](recording, math.nan) for name in NAMES}
    return End(values, {name: steps.get(name, 0.0) for name in NAMES})


def differences(
    ends: Ends, comparison: Comparison, seeds: Sequence[int]
) -> tuple[np.ndarray, float]:
    """Differences of a comparison, seed by seed, and the smallest step that they can make.

    Args:
      ends: of all runs so far.
      comparison: what is compared.
      seeds: which, in this order.

    Returns:
      Accuracy of the arm less that of its reference, [n], NaN where one of them diverged; the step.

    Raises:
      KeyError: for a run that has not come to its end.

    Example:
      >>> arm, other = End({"global": 0.75}, {"global": 0.1}), End({"global": 0.5}, {"global": 0.2})
      >>> ends = {(0, "lips", 7): arm, (0, "dense", 7): other}
      >>> differences(ends, Comparison("lips", "dense", 0, "global"), [7])
      (array([0.25]), 0.1)
    """
    arm, reference, cell, measure = comparison
    pairs = [(ends[cell, arm, seed], ends[cell, reference, seed]) for seed in seeds]
    found = np.full(len(pairs), np.nan)
    steps = []
    for i, (ours, theirs) in enumerate(pairs):
        if ours is not None and theirs is not None:
            found[i] = ours.values[measure] - theirs.values[measure]
            steps.append(min(ours.steps[measure], theirs.steps[measure]))
    return found, min(steps, default=0.0)


def take(
    ends: Ends, looks: Looks, number: int, before: Sequence[Decided] = ()
) -> tuple[Decided, ...]:
    """What is decided at a look; what was settled before stays, on the seeds that it had then.

    Args:
      ends: of all runs up to this look.
      looks: the plan.
      number: of the look, from 1.
      before: what was found at the one before.

    Returns:
      A decision for each comparison of the plan, in its order.

    Raises:
      KeyError: for a run that has not come to its end.
    """
    last = last_looks(looks, number, before)
    data, steps = {}, {}
    for comparison in looks.comparisons:
        count = looks.looks[last[comparison] - 1]
        seeds = range(looks.seed, looks.seed + count)
        data[comparison.key], steps[comparison.key] = differences(ends, comparison, seeds)
    found = decide(plan_of(looks), data, steps=steps)
    return tuple(_decided(each, last[each], looks, found[each.key]) for each in looks.comparisons)


def last_looks(looks: Looks, number: int, before: Sequence[Decided] = ()) -> dict[Comparison, int]:
    """The last look that each comparison is read at: the one at which it was settled, or this one.

    Args:
      looks: the plan.
      number: of the look that is to come, from 1.
      before: what was found at the one before.
    """
    settled = {each.comparison: each.look for each in before if each.claim != OPEN}
    return {comparison: settled.get(comparison, number) for comparison in looks.comparisons}


def _decided(comparison: Comparison, last: int, looks: Looks, found: Decision) -> Decided:
    _, low, high, _ = found.interval
    seeds = looks.looks[last - 1]
    return Decided(comparison, found.claim, last, seeds, found.estimate, low, high)


def claims_of(study: StudyRecording) -> dict[tuple[str, str, str], str]:
    """What planned looks say: label of the cell, arm, measure -> claim; empty without a plan."""
    found = () if study.decisions is None else study.decisions.found
    labels = [cell["label"] for cell in study.cells]
    asked = [(each.comparison, each.claim) for each in found]
    return {(labels[of.cell], of.arm, of.measure): claim for of, claim in asked}


def is_settled(found: Iterable[Decided]) -> bool:
    """Tell whether no comparison is open."""
    return all(each.claim != OPEN for each in found)


def where_at(decisions: Decisions) -> str:
    """How far the looks of a study are, in a line for whoever waits."""
    plan, taken = decisions.plan, decisions.taken
    left = sum(each.claim == OPEN for each in decisions.found)
    of_all = f"{left} of {len(decisions.found)} comparisons open"
    if not left or taken == len(plan.looks):
        return f"looks: {taken} of {len(plan.looks)} taken, {of_all}"
    return f"look {taken + 1} of {len(plan.looks)}: {plan.looks[taken]} seeds; {of_all}"


def sentences(study: StudyRecording) -> list[str]:
    """What planned looks decided, a sentence for each comparison, then what it took and means.

    Args:
      study: the recorded study.

    Returns:
      The sentences; none where no looks were planned. Of many cells of a grid, one for each row
      of it.
    """
    decisions = study.decisions
    if decisions is None:
        return []
    told = boundary(study) if len(decisions.found) > NAMED else []
    told = told or [sentence(each, decisions, study) for each in decisions.found]
    return [*told, _took(study, decisions), _means(decisions)]


def boundary(study: StudyRecording) -> list[str]:
    """Where in a grid an arm is better, worse, equivalent or not decided, row by row.

    Args:
      study: the recorded study.

    Returns:
      "train_examples 5: lips against dense, personalised accuracy: better at alpha 0.1; not decided
      at alpha 0.3 and 1.0; equivalent at alpha 10.0.", what is not decided being the band between;
      then in how many cells which is so. None without planned looks, or without a grid.
    """
    cells = [
        {name: str(value) for name, value in cell.get("overrides", {}).items()}
        for cell in study.cells
    ]
    fields = [name for name in cells[0] if len({cell.get(name) for cell in cells}) > 1]
    last = [name.rpartition(".")[2] for name in fields]
    called = dict(zip(fields, last if len({*last}) == len(last) else fields, strict=True))
    if study.decisions is None or not fields:
        return []
    column = fields[min(1, len(fields) - 1)]  # as of the maps
    rows: dict[str, list[tuple[str, str]]] = {}
    for each in study.decisions.found:
        arm, reference, number, measure = each.comparison
        own = [f"{called[name]} {cells[number][name]}" for name in fields if name != column]
        what = f"{arm} against {reference}, {NAMES[measure]}"
        row = f"{', '.join(own)}: {what}" if own else what
        rows.setdefault(row, []).append((each.claim, cells[number][column]))
    return [
        *(f"{row}: {_along(called[column], line)}." for row, line in rows.items()),
        _in_all(study),
    ]


def _along(column: str, line: Sequence[tuple[str, str]]) -> str:
    """Claims along a row of a grid, equal neighbours together."""
    parts = []
    for claim, members in itertools.groupby(line, key=lambda each: each[0]):
        values = [value for _, value in members]
        span = f"{values[0]} to {values[-1]}" if len(values) > 2 else " and ".join(values)
        parts.append(f"{CALLED.get(claim, claim)} at {column} {span}")
    return "; ".join(parts)


def _in_all(study: StudyRecording) -> str:
    """In how many comparisons which claim was made."""
    assert study.decisions is not None
    claims = [each.claim for each in study.decisions.found]
    counts = [
        f"{CALLED.get(claim, claim)} in {claims.count(claim)}"
        for claim in (BETTER, EQUIVALENT, WORSE, UNDECIDED, OPEN)
        if claim in claims
    ]
    margin = counted(100 * study.decisions.plan.margin, "point")
    return f"Of {len(claims)} comparisons, at a margin of {margin}: {', '.join(counts)}."


def sentence(found: Decided, decisions: Decisions, study: StudyRecording) -> str:
    """What is decided of a comparison.

    Args:
      found: the decision.
      decisions: all of them, with their plan.
      study: of which they are.

    Returns:
      "lips is better than dense by more than 1 point of personalised accuracy (claimed at look 3
      of 6, 16 seeds; estimate +2.10 points)."
    """
    arm, reference, cell, measure = found.comparison
    label = study.cells[cell]["label"]
    where = f"{label}: " if label else ""
    margin, name = counted(100 * decisions.plan.margin, "point"), NAMES[measure]
    if found.claim in (BETTER, WORSE):
        told = f"{arm} is {found.claim} than {reference} by more than {margin} of {name}"
    elif found.claim == EQUIVALENT:
        told = f"{arm} and {reference} differ by less than {margin} of {name}"
    elif found.claim == OPEN:
        told = f"{arm} against {reference}, {name}: still open at a margin of {margin}"
    else:
        told = f"{arm} against {reference}, {name}: not decided at a margin of {margin}"
    return f"{where}{told} ({_at(found, decisions)}{_estimate(found)})."


def _at(found: Decided, decisions: Decisions) -> str:
    """At which look a comparison was settled, and why there."""
    plan = decisions.plan
    at = f"look {found.look} of {len(plan.looks)}, {counted(found.seeds, 'seed')}"
    if found.claim in CLAIMS:
        return f"claimed at {at}"
    if found.look == 0:
        return f"no look of {len(plan.looks)} taken"
    if found.claim == OPEN:
        return f"after {at}"
    if math.isnan(found.estimate):
        return f"a seed diverged; {at}"
    if decisions.spent:
        return f"the budget of {decisions.most_runs} runs ended before the next look; {at}"
    return f"after the last look, {counted(found.seeds, 'seed')}"


def _estimate(found: Decided) -> str:
    if math.isnan(found.estimate):
        return ""
    return f"; estimate {100 * found.estimate:+.2f} points"


def _took(study: StudyRecording, decisions: Decisions) -> str:
    """How many runs and minutes all of it took, and of how many there could have been."""
    runs = {trial.run: trial.recording for trial in study.trials}
    minutes = sum(run.seconds + run.compile_seconds for run in runs.values()) / 60
    limit = decisions.most_runs
    budget = "" if limit is None else f" of at most {limit}"
    failed = len({trial["run"] for trial in study.diverged})
    lost = f", {failed} more diverged" if failed else ""
    return (
        f"It took {len(runs)} runs{budget}{lost} and {minutes:.1f} minutes of them, compiling "
        "included."
    )


def _means(decisions: Decisions) -> str:
    """What the decisions guard against, and what the rest of a report does not."""
    plan = decisions.plan
    several = len(plan.comparisons) > 1
    better, equivalent, _ = false_claims(plan.alpha, plan.equivalence, plan.order)
    over = f"all {len(plan.comparisons)} comparisons and " if several else ""
    return (
        f"Planned before the first run: looks after {_listed(plan.looks)} seeds, margin "
        f"{counted(100 * plan.margin, 'point')}. Over {over}all looks, a false better is claimed "
        f"with a chance of at most {better:.1%}, so is a false worse, and a false equivalent "
        f"with at most {equivalent:.1%}. Estimates are corrected for stopping "
        "(median-unbiased); means, intervals and stars elsewhere take no account of the looks, and "
        "are biased where a comparison stopped early."
    )


def _listed(numbers: Sequence[int]) -> str:
    """Numbers as a list in a sentence.

    >>> _listed([8]), _listed([8, 16, 24])
    ('8', '8, 16 and 24')
    """
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last
