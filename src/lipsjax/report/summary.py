"""A study in five lines, for those who decide and do not read tables.

What was asked and of what; whether the setting is stuck; whether transient sparsity helps; what it
costs; what to do next. Each line follows from the same intervals as the verdict
(:mod:`lipsjax.analysis.verdict`), so that nothing is said here that is not shown there.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from lipsjax.analysis.comparison import Row, compare
from lipsjax.analysis.controls import controls_of, is_lips
from lipsjax.analysis.diagnosis import DECISIVE, NOT_STUCK, THRESHOLD, Diagnosis, diagnose
from lipsjax.analysis.finding import NO_DIFFERENCE, UNKNOWN, outcome
from lipsjax.analysis.stats import Interval, seeds_needed
from lipsjax.analysis.value import NEVER, PAYS_ALWAYS, Prices, Value, appraise
from lipsjax.analysis.wording import format_bits, money, points, shown
from lipsjax.recording import StudyRecording
from lipsjax.report.setting import in_a_phrase

WANTED = 0.01
"""Half-width of an interval, in accuracy, with which a study would settle its question: a point."""

NAMED = 3
"""Comparisons that are named one by one; of more, it is told in how many what was seen."""

NONE = "no finished arm has transient sparsity"
GO = "go"
NO_GO = "no-go"
OPEN = "not known"


def executive(study: StudyRecording) -> list[str]:
    """The five lines.

    Args:
      study: the recorded study, with or without controls, of one cell or a grid.

    Returns:
      Exactly five sentences or short groups of them: question, stuck or not, effect, cost, advice.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    rows = compare(study)
    judged = subjects(rows)
    return [
        _question(study),
        _stuck(diagnose(rows)),
        _effect(rows, judged),
        _cost(rows, judged, _values(rows, judged, study.prices)),
        _advice(rows, judged),
    ]


def subjects(rows: Sequence[Row]) -> list[Row]:
    """The compared rows that a summary judges: those of LIPS, else of any transient sparsity."""
    compared = [row for row in rows if not row.is_reference]
    lips = [row for row in compared if is_lips(row.config)]
    return lips or [row for row in compared if row.transient]


def advise(row: Row) -> str:
    """Whether an arm is worth going on with, by its personalised accuracy.

    Args:
      row: a row that is compared with a reference.

    Returns:
      "go" where it helps; "no-go" where it hurts, or where a gain above one point is ruled out;
      "not known" elsewhere.
    """
    word = outcome(row, DECISIVE, up=GO, down=NO_GO)
    if word in (GO, NO_GO):
        return word
    return NO_GO if row.differences[DECISIVE].interval.high < THRESHOLD else OPEN


def _question(study: StudyRecording) -> str:
    cells, arms = len(study.cells), len(study.arms)
    seeds = {trial.seed for trial in study.trials} | {trial["seed"] for trial in study.missing}
    grid = f" in each of {cells} cells" if cells > 1 else ""
    others = ", ".join(arm for arm in study.arms if arm != study.reference)
    what = (
        "one arm"
        if arms == 1
        else f"{others} against {study.reference}"
        if arms - 1 <= NAMED
        else f"{arms - 1} arms against {study.reference}"
        if set(study.references.values()) == {study.reference}
        else f"{arms} arms, each against {study.reference} or a reference of its own"
    )
    missing = len(study.missing)
    unfinished = f"; {_count(missing, 'trial')} not finished" if missing else ""
    return (
        f"Question: {study.name} – {what}, {_count(len(seeds), 'seed')}{grid}, on "
        f"{in_a_phrase(study.trials[0].recording)}{unfinished}."
    )


def _stuck(diagnoses: Sequence[Diagnosis]) -> str:
    if not diagnoses:
        return "Setting: cannot tell, no arm is both federated and dense."
    controls = {"trains alone": diagnoses[0].local, "pools the data": diagnoses[0].pooled}
    missing = [what for what, arm in controls.items() if arm is None]
    lacking = f"; no finished arm {' or '.join(missing)}" if missing else ""
    if len(diagnoses) > 1:
        return f"Setting: {_in_how_many([d.outcome for d in diagnoses], 'cell')}{lacking}."
    (d,) = diagnoses
    facts = [
        f"{text} {points(found[DECISIVE])}"
        for text, found in (
            (f"federating ({d.arm}) against training alone", d.gain),
            (f"pooled data against {d.arm}", d.loss),
        )
        if found and not math.isnan(found[DECISIVE].mean)
    ]
    if not math.isnan(d.inertia.low):
        facts.append(
            f"inertia index {shown(d.inertia, digits=2)}, where above 0 the middle layers lag"
        )
    return f"Setting: {'; '.join([d.outcome, *facts])}{lacking}."


def _effect(rows: Sequence[Row], judged: Sequence[Row]) -> str:
    if not judged:
        others = [row for row in rows if not row.is_reference]
        if not others:
            return "Effect: there is one arm alone, so nothing is compared."
        words = [_plain(outcome(row, DECISIVE, up="helps", down="hurts")) for row in others]
        told = _in_how_many(words, "comparison")
        return f"Effect: {NONE}; on personalised accuracy, another arm {told}."
    words = [outcome(row, DECISIVE, up="helps", down="hurts") for row in judged]
    controls = [control.outcome() for control in controls_of(rows)]
    against = f"; against its controls: {_in_how_many(controls, 'comparison')}" if controls else ""
    if len(judged) > NAMED:
        told = _in_how_many([_plain(word) for word in words], "comparison")
        return f"Effect: on personalised accuracy, transient sparsity {told}{against}."
    told = "; ".join(
        f"{_label(row)} {_plain(word)}, {points(row.differences[DECISIVE].interval)}"
        if row.differences[DECISIVE].interval.n
        else f"{_label(row)} has no seed in common with {row.reference}"
        for row, word in zip(judged, words, strict=True)
    )
    return f"Effect: on personalised accuracy, {told}{against}."


def _cost(rows: Sequence[Row], judged: Sequence[Row], values: Sequence[Value] | None) -> str:
    if not judged:
        reference = next(row for row in rows if row.is_reference)
        return f"Cost: per run, {reference.arm} takes {_spent(reference)}."
    at = {(row.cell, row.arm): row for row in rows}
    if len(judged) > NAMED:
        pairs = [(row, at[row.cell, row.reference]) for row in judged]
        told = (
            f"per run, against its reference, transient sparsity moves {_range(pairs, _moved)} the "
            f"bits, computes {_range(pairs, lambda row: row.means['flops'].mean)} the FLOPs and "
            f"takes {_range(pairs, lambda row: row.means['seconds'].mean)} the time"
        )
    else:
        mine = dict.fromkeys((row.cell, row.reference) for row in judged)
        told = "per run, " + "; ".join(
            f"{_label(row)} takes {_spent(row)}" for row in [*(at[key] for key in mine), *judged]
        )
    return f"Cost: {told}{_worth(values)}."


def _values(
    rows: Sequence[Row], judged: Sequence[Row], prices: Prices | None
) -> list[Value] | None:
    values, chosen = appraise(rows, prices), {(row.cell, row.arm) for row in judged}
    return None if values is None else [v for v in values if (v.cell, v.arm) in chosen]


def _worth(values: Sequence[Value] | None) -> str:
    """What prices make of it; nothing without prices."""
    if values is None:
        return ""
    if len(values) > NAMED:
        words = [value.outcome for value in values if value.outcome]
        return f"; in money: {_in_how_many(words, 'comparison')}" if words else ""
    parts = [part for value in values for part in _in_money(value)]
    return f"; in money: {', '.join(parts)}" if parts else ""


def _in_money(value: Value) -> list[str]:
    parts = []
    if value.extra is not None and not math.isnan(value.extra.mean):
        parts.append(f"{value.arm} costs {money(value.extra.mean, sign='+')} per run")
    if value.benefit is not None and not math.isnan(value.benefit.mean):
        parts.append(f"{value.arm} brings {money(value.benefit.mean, sign='+')}")
    if value.break_even is not None:
        parts.append(f"break-even at {money(value.break_even.mean)} a point")
    elif value.outcome in (NEVER, PAYS_ALWAYS):
        parts.append(f"it {value.outcome}")
    return parts


def _advice(rows: Sequence[Row], judged: Sequence[Row]) -> str:
    if not judged:
        return f"Next: {OPEN}, as {NONE}."
    advice = [advise(row) for row in judged]
    unsettled = [row for row, word in zip(judged, advice, strict=True) if word == OPEN]
    settle = _settle([row.differences[DECISIVE].interval for row in unsettled])
    if len(judged) > NAMED:
        named = [_label(row) for row, word in zip(judged, advice, strict=True) if word == GO]
        where = f" ({' | '.join(named)})" if 0 < len(named) <= NAMED else ""
        told = _in_how_many(advice, "comparison").replace(f"{GO} in", f"{GO}{where} in", 1)
        return f"Next: {told}{f'; {settle}' if unsettled else ''}."
    told = "; ".join(
        f"{word} for {_label(row)}, {_reason(row, word)}"
        for row, word in zip(judged, advice, strict=True)
    )
    stuck = [d.outcome for d in diagnose(rows)]
    is_idle = set(stuck) == {NOT_STUCK} and GO not in advice
    idle = " – the setting is not stuck, so there is little to free" if is_idle else ""
    return f"Next: {told}{idle}{f'; {settle}' if unsettled else ''}."


def _reason(row: Row, word: str) -> str:
    seen = outcome(row, DECISIVE, up="it helps", down="it hurts")
    if word != OPEN and seen in (NO_DIFFERENCE, UNKNOWN):
        return f"as a gain of {100 * THRESHOLD:g} point or more is ruled out"
    if word != OPEN:
        return f"as {seen}"
    if seen == UNKNOWN:
        return "as there is no interval"
    interval = row.differences[DECISIVE].interval
    if interval.low <= 0 <= interval.high:
        return "as gain and loss are both possible"
    return "as no difference is seen once all comparisons are counted"


def _settle(intervals: Sequence[Interval]) -> str:
    """What would tell; for several, what the most scattered one asks for."""
    needed = [seeds_needed(interval, WANTED) for interval in intervals]
    counts = [n for n in needed if n is not None]
    if not counts:
        return "what would settle it: at least 2 seeds in both arms, for there to be an interval"
    if all(n is not None and n <= own.n for n, own in zip(needed, intervals, strict=True)):
        return (
            f"the intervals reach less than {100 * WANTED:g} point to either side, so what is left "
            "is whether so small an effect matters"
        )
    most = "up to " if len(intervals) > 1 else ""
    return (
        f"what would settle it: {most}{max(counts)} seeds, with which the interval would reach "
        f"{100 * WANTED:g} point to either side at the spread observed"
    )


def _spent(row: Row) -> str:
    flops, seconds = (row.means[name].mean for name in ("flops", "seconds"))
    return ", ".join(
        (
            f"{format_bits(_moved(row))} moved",
            "FLOPs not counted" if math.isnan(flops) else f"{flops:.3g} FLOPs",
            "time not known" if math.isnan(seconds) else f"{seconds:.1f} s",
        )
    )


def _moved(row: Row) -> float:
    return row.means["uplink_bits"].mean + row.means["downlink_bits"].mean


def _range(pairs: Iterable[tuple[Row, Row]], number: Callable[[Row], float]) -> str:
    """Between which factors a number of rows is that of their references."""
    ratios = [
        number(row) / number(reference)
        for row, reference in pairs
        if number(reference) > 0 and not math.isnan(number(row))
    ]
    if not ratios:
        return "an unknown share of"
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return f"{low} times" if low == high else f"{low} to {high} times"


def _in_how_many(words: Sequence[str], noun: str) -> str:
    """Words and how often each is, the most frequent first."""
    total = _count(len(words), noun)
    ordered = sorted(dict.fromkeys(words), key=lambda word: -words.count(word))
    if len(ordered) == 1 and len(words) > 1:
        return f"{ordered[0]} in all {total}"
    first, *others = (f"{word} in {words.count(word)}" for word in ordered)
    return ", ".join([f"{first} of {total}", *others])


def _label(row: Row) -> str:
    return f"{row.arm} ({row.cell})" if row.cell else row.arm


def _plain(word: str) -> str:
    return {NO_DIFFERENCE: "makes no difference that is seen", UNKNOWN: "cannot be judged"}.get(
        word, word
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
