"""A study in five lines, for those who decide and do not read tables.

What was asked and of what; whether the setting is stuck; whether transient sparsity helps, on
global accuracy too where that differs; what it costs, in rounds to the target too where those
differ; what to do next, where training alone may be ahead and arms may have diverged. Each line
follows from the same intervals as the verdict (:mod:`lipsjax.analysis.verdict`), so that nothing is
said here that is not shown there.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from lipsjax.analysis.cards import subjects
from lipsjax.analysis.comparison import Row, compare, difference
from lipsjax.analysis.controls import controls_of
from lipsjax.analysis.diagnosis import (
    DECISIVE,
    NOT_STUCK,
    THRESHOLD,
    Diagnosis,
    alone_beside,
    diagnose,
)
from lipsjax.analysis.finding import (
    FEWEST,
    NO_DIFFERENCE,
    TOO_FEW,
    UNKNOWN,
    is_too_few,
    outcome,
    usable,
)
from lipsjax.analysis.stats import Interval, seeds_needed, seeds_range
from lipsjax.analysis.value import NEVER, PAYS_ALWAYS, Prices, Value, appraise
from lipsjax.analysis.wording import bounds, capped, counted, format_bits, money, points, shown
from lipsjax.recording import StudyRecording
from lipsjax.report.running import counted_running
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
        f"{_effect(rows, judged)}{_others_diverged(rows, judged)}.",
        _cost(rows, judged, _values(rows, judged, study.prices)),
        _advice(rows, judged),
    ]


def advise(row: Row, alone: Row | None = None) -> str:
    """Whether an arm is worth going on with, by its personalised accuracy.

    Args:
      row: a row that is compared with a reference.
      alone: the row of its cell whose clients train alone, if there is one.

    Returns:
      "go" where it helps, and diverged in no seed; "no-go" where it hurts, where a gain above one
      point is ruled out, where training alone is ahead of it with the whole interval, or where no
      seed is left that did not diverge; "not known" elsewhere.
    """
    if row.diverged and not row.seeds:
        return NO_GO
    if loss_to(row, alone) is not None:
        return NO_GO
    word = outcome(row, DECISIVE, up=GO, down=NO_GO)
    if word == GO:
        return OPEN if row.diverged else GO
    if word == NO_GO:
        return word
    return NO_GO if usable(row.differences[DECISIVE].interval).high < THRESHOLD else OPEN


def loss_to(row: Row, alone: Row | None) -> Interval | None:
    """How far training alone is ahead of an arm, where it is with its whole interval."""
    if alone is None:
        return None
    found = difference(alone, row, DECISIVE).interval
    return found if usable(found).low > 0 else None


def _question(study: StudyRecording) -> str:
    cells, arms = len(study.cells), len(study.arms)
    diverged = study.diverged
    unjudged = (*study.missing, *diverged)
    seeds = {trial.seed for trial in study.trials} | {trial["seed"] for trial in unjudged}
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
    unfinished = (
        f"; {counted(missing, 'trial')} not finished{counted_running(study)}" if missing else ""
    )
    unfinished += f"; {counted(len(diverged), 'trial')} diverged" if diverged else ""
    return (
        f"Question: {study.name} – {what}, {counted(len(seeds), 'seed')}{grid}, on "
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
            f"inertia index {shown(capped(d.inertia), digits=2)}, where above 0 the middle layers "
            "lag"
        )
    decided = [*(found[DECISIVE] for found in (d.gain, d.loss) if found), d.inertia]
    if any(is_too_few(interval) for interval in decided):
        facts.append(TOO_FEW)
    return f"Setting: {'; '.join([d.outcome, *facts])}{lacking}."


def _effect(rows: Sequence[Row], judged: Sequence[Row]) -> str:
    if not judged:
        others = [row for row in rows if not row.is_reference]
        if not others:
            return "Effect: there is one arm alone, so nothing is compared"
        words = [_plain(outcome(row, DECISIVE, up="helps", down="hurts")) for row in others]
        told = _in_how_many(words, "comparison")
        return (
            f"Effect: {NONE}; on personalised accuracy, another arm {told}"
            f"{_on_global(others, of_all=True)}"
        )
    words = [outcome(row, DECISIVE, up="helps", down="hurts") for row in judged]
    controls = [control.outcome() for control in controls_of(rows)]
    against = f"; against its controls: {_in_how_many(controls, 'comparison')}" if controls else ""
    if len(judged) > NAMED:
        told = _in_how_many([_plain(word) for word in words], "comparison")
        ended = _in_any_diverged(judged)
        return (
            f"Effect: on personalised accuracy, transient sparsity {told}{ended}"
            f"{_on_global(judged, of_all=True)}{against}"
        )
    told = "; ".join(_told(row, word) for row, word in zip(judged, words, strict=True))
    return f"Effect: on personalised accuracy, {told}{_on_global(judged)}{against}"


def _told(row: Row, word: str) -> str:
    """What a row shows on the decisive accuracy, and in how many seeds it shows nothing."""
    interval = row.differences[DECISIVE].interval
    ended = f", and {row.share_diverged}" if row.diverged else ""
    if row.diverged and not row.seeds:
        return f"{_label(row)} cannot be judged, as it {row.share_diverged}"
    if not interval.n:
        return f"{_label(row)} has no seed in common with {row.reference}{ended}"
    why = f", as {TOO_FEW}" if is_too_few(interval) else ""
    return f"{_label(row)} {_plain(word)}{why}, {points(interval)}{ended}"


def _on_global(rows: Sequence[Row], *, of_all: bool = False) -> str:
    """Effects on global accuracy, where they are not those on personalised accuracy."""
    seen = {"up": "helps", "down": "hurts"}
    words = [outcome(row, "global", **seen) for row in rows]
    apart = [
        (row, word)
        for row, word in zip(rows, words, strict=True)
        if word in seen.values() and word != outcome(row, DECISIVE, **seen)
    ]
    if not apart:
        return ""
    if of_all and len(rows) > 1:
        return f"; on global accuracy, it {_in_how_many([_plain(w) for w in words], 'comparison')}"
    told = (f"{_label(r)} {word}, {points(r.differences['global'].interval)}" for r, word in apart)
    return f"; on global accuracy, {'; '.join(told)}"


def _in_any_diverged(rows: Sequence[Row]) -> str:
    """In how many of many comparisons a seed diverged."""
    count = sum(bool(row.diverged) for row in rows)
    if not count:
        return ""
    return f", and some seed diverged in {count} of {counted(len(rows), 'comparison')}"


def _others_diverged(rows: Sequence[Row], judged: Sequence[Row]) -> str:
    """Which arms diverged beside those that are judged."""
    told = {(row.cell, row.arm) for row in judged}
    others = [row for row in rows if row.diverged and (row.cell, row.arm) not in told]
    if len(others) > NAMED:
        return f"; some seed of {counted(len(others), 'other row')} diverged"
    return "".join(f"; {_label(row)} {row.share_diverged}" for row in others)


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
    return f"Cost: {told}{_to_target(judged, at)}{_worth(values)}."


def _to_target(judged: Sequence[Row], at: Mapping[tuple[str, str], Row]) -> str:
    """Where arms that cost the same per run do not take the same rounds to the target accuracy."""
    seen = {"up": "more rounds", "down": "fewer rounds"}
    words = [outcome(row, "rounds_to_target", **seen) for row in judged]
    if len(judged) > NAMED:
        named = [word for word in words if word in seen.values()]
        parts = [f"{w} in {named.count(w)} of {len(words)}" for w in dict.fromkeys(named)]
        return f"; to the target accuracy, {', '.join(parts)} comparisons" if parts else ""
    told = []
    for row, word in zip(judged, words, strict=True):
        other, found = at[row.cell, row.reference], row.differences["rounds_to_target"].interval
        if word in seen.values():
            told.append(
                f"{_label(row)} takes {abs(found.mean):.1f} {word} to the target accuracy than "
                f"{other.arm} ({bounds(found, digits=1, sign='+')}, {counted(found.n, 'seed')})"
            )
        elif abs(row.differences["reached"].interval.mean) > 0:  # which NaN is not
            told.append(
                f"{_label(row)} reaches the target accuracy in {_reached(row)}, {other.arm} in "
                f"{_reached(other)}"
            )
    return "".join(f"; {part}" for part in told)


def _reached(row: Row) -> str:
    share = row.means["reached"]
    return f"{round(share.mean * share.n)} of {counted(share.n, 'seed')}"


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
    ahead = _alone_is_ahead(rows)
    if not judged:
        return f"Next: {OPEN}, as {NONE}{ahead}."
    alone = [alone_beside(row, rows) for row in judged]
    advice = [advise(row, own) for row, own in zip(judged, alone, strict=True)]
    # more seeds do not settle what an arm that diverges is worth
    unsettled = [
        row for row, word in zip(judged, advice, strict=True) if word == OPEN and not row.diverged
    ]
    settle = _settle([row.differences[DECISIVE].interval for row in unsettled])
    if len(judged) > NAMED:
        named = [_label(row) for row, word in zip(judged, advice, strict=True) if word == GO]
        where = f" ({' | '.join(named)})" if 0 < len(named) <= NAMED else ""
        told = _in_how_many(advice, "comparison").replace(f"{GO} in", f"{GO}{where} in", 1)
        return f"Next: {told}{ahead}{f'; {settle}' if unsettled else ''}."
    told = "; ".join(
        f"{word} for {_label(row)}, {_reason(row, word, own)}"
        for row, word, own in zip(judged, advice, alone, strict=True)
    )
    if any(loss_to(row, own) for row, own in zip(judged, alone, strict=True)):
        ahead = ""  # it is said already
    stuck = [d.outcome for d in diagnose(rows)]
    is_idle = set(stuck) == {NOT_STUCK} and GO not in advice
    idle = " – the setting is not stuck, so there is little to free" if is_idle else ""
    return f"Next: {told}{idle}{ahead}{f'; {settle}' if unsettled else ''}."


def _alone_is_ahead(rows: Sequence[Row]) -> str:
    """Where training alone is clearly ahead of federating, which no number of seeds changes."""
    diagnoses = [d for d in diagnose(rows) if d.gain]
    lost = [d for d in diagnoses if usable(d.gain[DECISIVE]).high < 0]
    if not lost:
        return ""
    if len(diagnoses) > 1:
        return f"; training alone is ahead of federating in {len(lost)} of {len(diagnoses)} cells"
    (d,) = lost
    mean, low, high, n = d.gain[DECISIVE]
    behind = points(Interval(-mean, -high, -low, n))
    return f"; training alone ({d.local}) is ahead of {d.arm}, {behind}"


def _reason(row: Row, word: str, alone: Row | None) -> str:
    if row.diverged and not row.seeds:
        return f"as it {row.share_diverged}"
    behind = loss_to(row, alone)
    if alone is not None and behind is not None:
        return f"as training alone ({alone.arm}) is ahead of it, {points(behind)}"
    seen = outcome(row, DECISIVE, up="it helps", down="it hurts")
    if word == OPEN and row.diverged:
        but = "it helps where it did not, but" if seen == "it helps" else "it"
        return f"as {but} {row.share_diverged}"
    if word != OPEN and seen in (NO_DIFFERENCE, UNKNOWN):
        return f"as a gain of {100 * THRESHOLD:g} point or more is ruled out"
    if word != OPEN:
        return f"as {seen}"
    interval = row.differences[DECISIVE].interval
    if seen == UNKNOWN:
        return f"as {TOO_FEW}" if is_too_few(interval) else "as there is no interval"
    if interval.low <= 0 <= interval.high:
        return "as gain and loss are both possible"
    return "as no difference is seen once all comparisons are counted"


def _settle(intervals: Sequence[Interval]) -> str:
    """What would tell; for several, what the most scattered one asks for.

    The spread over a few seeds is itself known roughly only, so a range is given.
    """
    known = [interval for interval in intervals if not math.isnan(usable(interval).low)]
    counts = [seeds_needed(own, WANTED) or 0 for own in known]
    is_narrow = all(n <= own.n for n, own in zip(counts, known, strict=True))
    if is_narrow and len(known) < len(intervals):
        return (
            f"what would settle it: at least {FEWEST} seeds in both arms; how many more is not "
            "known, as fewer do not tell how far seeds scatter"
        )
    if is_narrow:
        return (
            f"the intervals reach less than {100 * WANTED:g} point to either side, so what is left "
            "is whether so small an effect matters"
        )
    n, widest = max(zip(counts, known, strict=True))
    least, most = seeds_range(widest, WANTED) or (n, n)
    which = "for the most scattered one, " if len(intervals) > 1 else ""
    return (
        f"what would settle it: {which}{least} to {most} seeds, with which the interval would "
        f"reach {100 * WANTED:g} point to either side ({n} at the spread observed, which "
        f"{widest.n} seeds tell roughly)"
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
    total = counted(len(words), noun)
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
