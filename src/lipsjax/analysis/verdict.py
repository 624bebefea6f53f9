"""What a study lets one say, in plain sentences that each follow from an interval.

Whether the setting is stuck (:mod:`~lipsjax.analysis.diagnosis`), what each arm changes, whether
it is the saliency (:mod:`~lipsjax.analysis.controls`), and with prices what it is worth
(:mod:`~lipsjax.analysis.value`). One rule for all of them names an effect or does not:
:mod:`~lipsjax.analysis.finding`. Bits are counted, not estimated: there equality is exact.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lipsjax.analysis.comparison import Row, is_pooled
from lipsjax.analysis.controls import controls_of
from lipsjax.analysis.controls import findings_of as control_findings
from lipsjax.analysis.diagnosis import alone_beside, diagnose, gain_over_alone
from lipsjax.analysis.diagnosis import findings_of as diagnosis_findings
from lipsjax.analysis.finding import (
    FEWEST,
    NO_DIFFERENCE,
    TOO_FEW,
    UNKNOWN,
    Finding,
    against_zero,
    is_too_few,
    outcome,
)
from lipsjax.analysis.value import appraise
from lipsjax.analysis.value import findings_of as value_findings
from lipsjax.analysis.wording import bounds, capped, clipped, format_bits

__all__ = ["NO_DIFFERENCE", "STUCK", "UNKNOWN", "Finding", "findings", "outcome", "verdict"]

FULL_CELLS = 2
"""A study of more cells than this is told in counts of cells."""

FULL_ARMS = 12
"""A study of more arms than this is told in counts of comparisons."""

STUCK = "Stuck in its middle layers?"
DIVERGED = "Diverged"


class _Measure(NamedTuple):
    key: str  # of lipsjax.analysis.comparison.MEASURES
    up: str  # the outcome of a difference above zero
    down: str
    name: str
    scale: float = 1.0  # from the measure to the unit shown
    digits: int = 3
    unit: str = ""
    most: float = math.inf  # what a difference can be, on either side of zero


_ACCURACY = {
    "Personalised accuracy": _Measure(
        "personalised", "helps", "hurts", "accuracy", 100, 2, " points", most=1
    ),
    "Global accuracy": _Measure("global", "helps", "hurts", "accuracy", 100, 2, " points", most=1),
}
# rounds that begin from a masked model are left out of inertia: comparison.free_rounds
_WINDOWS = {"whole run, unmasked rounds": "", "last 10%, unmasked rounds": "_end"}
_ROUNDS = _Measure(
    "rounds_to_target", "more rounds", "fewer rounds", "rounds to the target", 1, 1, " rounds"
)
_SECONDS = _Measure("seconds", "longer run", "shorter run", "time per run", 1, 1, " s")
_MOVES_LESS = "middle layers move less than stem and classifier"
_MOVES_MORE = "middle layers move more than stem and classifier"
_SENTENCES = {
    _MOVES_LESS: f"Its {_MOVES_LESS}",
    _MOVES_MORE: f"Its {_MOVES_MORE}",
    NO_DIFFERENCE: "No difference seen between its middle layers and stem and classifier",
    UNKNOWN: "Cannot tell",
}


def verdict(rows: Sequence[Row], prices: Mapping[str, float | None] | None = None) -> list[str]:
    """What the rows of a study show, one sentence per finding.

    Args:
      rows: the rows of :func:`lipsjax.analysis.comparison.compare`.
      prices: of the study, if any.

    Returns:
      The sentences of :func:`findings`, in their order.
    """
    return [found.sentence for found in findings(rows, prices)]


def findings(
    rows: Sequence[Row], prices: Mapping[str, float | None] | None = None
) -> list[Finding]:
    """What the rows of a study show: is it stuck, what does each arm change, is it the saliency?

    Args:
      rows: the rows of :func:`lipsjax.analysis.comparison.compare`.
      prices: of the study, if any.

    Returns:
      Whether the setting is stuck; for the reference, whether its middle layers move less than its
      outer ones; for every other row, personalised accuracy, global accuracy, inertia, rounds to
      the target, bits, time and, with prices, value; of transient sparsity what it gains over
      training alone; for any row in how many seeds it diverged; then LIPS against its controls. A
      study of more than two cells is told in counts of cells, one
      of more than twelve arms in counts of comparisons.
    """
    setting = [found for diagnosis in diagnose(rows) for found in diagnosis_findings(diagnosis)]
    controls = control_findings(controls_of(rows))
    values = {(value.cell, value.arm): value for value in appraise(rows, prices) or ()}
    found = []
    for row in rows:
        found += _of_row(row)
        alone = alone_beside(row, rows)
        if row.transient and alone is not None and alone.arm != row.reference:
            found.append(gain_over_alone(row, alone))
        if (row.cell, row.arm) in values:
            found += value_findings(values[row.cell, row.arm])
    many_cells = len({row.cell for row in rows}) > FULL_CELLS
    if many_cells:
        setting, controls = _counted(setting), _counted(controls)
    if len({row.arm for row in rows}) > FULL_ARMS:
        return [*setting, *_by_topic(found), *controls]
    if many_cells:
        return [*setting, *_counted(found), *controls]
    return [*setting, *_merged(sorted(found, key=lambda f: f.topic != STUCK)), *controls]


def _of_row(row: Row) -> list[Finding]:
    diverged = [_diverged(row)] if row.diverged else []
    if row.is_reference:
        return [_stuck(row), *diverged]
    return [
        *diverged,
        *(_accuracy(row, topic) for topic in _ACCURACY),
        *(_inertia(row, window) for window in _WINDOWS),
        _rounds(row),
        _bits(row),
        _time(row),
    ]


def _finding(row: Row, topic: str, outcome: str, detail: str) -> Finding:
    subject = row.arm if row.is_reference else f"{row.arm} against {row.reference}"
    return Finding(subject, row.cell, topic, outcome, detail)


def _accuracy(row: Row, topic: str) -> Finding:
    measure = _ACCURACY[topic]
    found = outcome(row, measure.key, up=measure.up, down=measure.down)
    if found == UNKNOWN:
        return _finding(row, topic, found, _untold(row, measure))
    interval = row.differences[measure.key].interval
    if found != NO_DIFFERENCE:
        detail = f"{row.arm} {found}, {_shown(row, measure)}."
    elif interval.low <= 0 <= interval.high:
        detail = f"no difference seen, {_shown(row, measure)}; {_ruled_out(row, measure)}."
    else:
        detail = f"no difference seen once all comparisons are counted, {_shown(row, measure)}."
    return _finding(row, topic, found, detail)


def _ruled_out(row: Row, measure: _Measure) -> str:
    """Which gains and losses an interval that holds zero rules out, of those that there could be.

    The reference leaves no more to gain than what it lacks to 100%, and no more to lose than it
    has.
    """
    found = row.differences[measure.key].interval
    reached = row.means[measure.key].mean - found.mean
    could = (("a gain", found.high, 1 - reached), ("a loss", -found.low, reached))
    # never "above 0.00", of which nothing is left that would round to something
    parts = [
        f"{what} above {max(100 * limit, 0.01):.2f}" for what, limit, most in could if limit < most
    ]
    if not parts:
        return "no gain or loss that there could be is ruled out"
    return f"{' or '.join(parts)} points is ruled out at this level"


def _inertia(row: Row, window: str) -> Finding:
    end = _WINDOWS[window]
    index = _Measure(
        f"inertia{end}", "higher inertia index", "lower inertia index", "inertia index"
    )
    step = _Measure(
        f"step{end}",
        "larger step of the middle layers",
        "smaller step of the middle layers",
        "the step of the middle layers",
        100,
        2,
        "% of their norm per round",
    )
    topic = f"Inertia ({window})"
    words = [outcome(row, m.key, up=m.up, down=m.down) for m in (index, step)]
    if row.differences[index.key].interval.n < FEWEST:
        return _finding(row, topic, UNKNOWN, _untold(row, index))
    clauses = (
        f"{_named(word, measure)}, {_shown(row, measure)}"
        if word != UNKNOWN
        else f"{measure.name} not measured in every seed"
        for word, measure in zip(words, (index, step), strict=True)
    )
    return _finding(row, topic, words[0], f"{'; '.join(clauses)}.")


def _rounds(row: Row) -> Finding:
    """How many rounds to the target, if every seed of both arms reaches it."""
    topic = "Rounds to the target"
    found = outcome(row, _ROUNDS.key, up=_ROUNDS.up, down=_ROUNDS.down)
    interval = row.differences[_ROUNDS.key].interval
    if interval.n >= 2 and math.isnan(interval.mean):
        detail = "cannot tell, the target is not reached in every seed of both arms."
        return _finding(row, topic, UNKNOWN, detail)
    if found == UNKNOWN:
        return _finding(row, topic, found, _untold(row, _ROUNDS))
    return _finding(row, topic, found, f"{_named(found, _ROUNDS)}, {_shown(row, _ROUNDS)}.")


def _diverged(row: Row) -> Finding:
    seed, reason = row.diverged[0]
    detail = (
        f"{row.arm} {row.share_diverged}; the first, seed {seed}: {reason.rstrip('.')}. What else "
        "is said of it is of the seeds that did not."
    )
    return _finding(row, DIVERGED, row.share_diverged, detail)


def _bits(row: Row) -> Finding:
    saved = {way: row.differences[f"{way}link_bits"].interval for way in ("up", "down")}
    used = {way: row.means[f"{way}link_bits"].mean for way in ("up", "down")}
    if any(math.isnan(interval.mean) for interval in saved.values()):
        return _finding(row, "Bits", UNKNOWN, "cannot tell, no seed counted bits in both arms.")
    if all(interval.mean == 0 and not interval.low < 0 for interval in saved.values()):
        detail = (
            f"{row.arm} saved no bits in this run: like {row.reference} it moved "
            f"{format_bits(used['up'])} up and {format_bits(used['down'])} down per run."
        )
        return _finding(row, "Bits", "saved no bits", detail)
    parts = " and ".join(
        f"as many bits {way}"
        if interval.mean == 0
        else f"{format_bits(abs(interval.mean))} {'more' if interval.mean > 0 else 'fewer'} {way}"
        for way, interval in saved.items()
    )
    detail = f"{row.arm} moved {parts} per run than {row.reference}."
    if is_pooled(row.config):
        detail += " What it takes to bring the examples to one site is not counted."
    net = sum(interval.mean for interval in saved.values())
    return _finding(row, "Bits", "more bits" if net > 0 else "fewer bits", detail)


def _time(row: Row) -> Finding:
    found = outcome(row, "seconds", up=_SECONDS.up, down=_SECONDS.down)
    if found == UNKNOWN:
        return _finding(row, "Time", found, _untold(row, _SECONDS))
    detail = f"{_named(found, _SECONDS)} without compiling, {_shown(row, _SECONDS)}."
    return _finding(row, "Time", found, detail)


def _stuck(row: Row) -> Finding:
    """Do the middle layers of the reference arm move less than its outer layers?"""
    if len(row.seeds) < 2:
        detail = f"Cannot tell, {_finished(len(row.seeds))}, so there is no interval."
        return _finding(row, STUCK, UNKNOWN, detail)
    told: dict[str, list[str]] = {}
    for window, end in _WINDOWS.items():
        found = row.means[f"inertia{end}"]
        word = against_zero(found, up=_MOVES_LESS, down=_MOVES_MORE)
        known = not math.isnan(found.low)
        shown = f"{found.mean:.3f} ({bounds(capped(found), digits=3)}) " if known else ""
        told.setdefault(word, []).append(f"{shown}over the {window}")
    detail = "; ".join(
        f"{_SENTENCES[word]}: inertia index {' and '.join(windows)}"
        for word, windows in told.items()
    )
    *_, last = told
    why = f", and {TOO_FEW}" if len(row.seeds) < FEWEST else ""
    return _finding(row, STUCK, last, f"{detail}; {len(row.seeds)} seeds{why}.")


def _merged(found: Sequence[Finding]) -> list[Finding]:
    """The same findings, those that say the same of several topics as one."""
    topics: dict[Finding, list[str]] = {}
    for finding in found:
        topics.setdefault(finding._replace(topic=""), []).append(finding.topic)
    return [said._replace(topic=", ".join(names)) for said, names in topics.items()]


def _counted(found: Sequence[Finding]) -> list[Finding]:
    """The same findings as counts of cells, one for each subject and topic."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in found:
        groups.setdefault((finding.subject, finding.topic), []).append(finding)
    counted = []
    for (subject, topic), members in groups.items():
        cells: dict[str, list[str]] = {}
        for member in members:
            cells.setdefault(member.outcome, []).append(member.cell)
        detail = "; ".join(_in_cells(word, labels, len(members)) for word, labels in cells.items())
        word = next(iter(cells)) if len(cells) == 1 else "mixed"
        counted.append(Finding(subject, "", topic, word, f"{detail}."))
    return counted


def _by_topic(found: Sequence[Finding]) -> list[Finding]:
    """What references show and what diverged as it is, all else in counts of comparisons."""
    kept = [f for f in found if f.topic in (STUCK, DIVERGED)]
    topics: dict[str, dict[str, list[str]]] = {}
    for finding in found:
        if finding.topic in (STUCK, DIVERGED):
            continue
        arm = finding.subject.partition(" against ")[0]
        label = ", ".join(filter(None, (arm, finding.cell)))
        topics.setdefault(finding.topic, {}).setdefault(finding.outcome, []).append(label)
    for topic, words in topics.items():
        total = sum(map(len, words.values()))
        detail = "; ".join(
            _in_cells(word, labels, total, "comparisons") for word, labels in words.items()
        )
        word = next(iter(words)) if len(words) == 1 else "mixed"
        kept.append(Finding(f"{total} comparisons", "", topic, word, f"{detail}."))
    return kept


def _in_cells(word: str, labels: Sequence[str], total: int, kind: str = "cells") -> str:
    nothing = word in (NO_DIFFERENCE, UNKNOWN)
    if word.startswith("diverged"):  # which is found only where it happened
        return f"{word} ({' | '.join(labels)})"
    if len(labels) == total:
        return f"{word} in {'any of the' if nothing else 'all'} {total} {kind}"
    named = "" if nothing else f" ({' | '.join(labels)})"
    return f"{word} in {len(labels)} of {total} {kind}{named}"


def _named(word: str, measure: _Measure) -> str:
    return f"{word} in {measure.name}" if word == NO_DIFFERENCE else word


def _untold(row: Row, measure: _Measure) -> str:
    """Why one cannot tell."""
    n = row.differences[measure.key].interval.n
    if is_too_few(row.differences[measure.key].interval):
        return f"cannot tell, {TOO_FEW}: {measure.name} {_shown(row, measure)}."
    if n < 2:
        return (
            f"cannot tell, {_finished(n)} in both arms, so there is no interval and nothing can be "
            "concluded."
        )
    return f"cannot tell, {measure.name} was not measured in every seed."


def _finished(seeds: int) -> str:
    return "only 1 seed is finished" if seeds else "no seed is finished"


def _shown(row: Row, measure: _Measure) -> str:
    """A difference with its interval, seeds and, among several, its adjusted p."""
    interval = clipped(row.differences[measure.key].interval, -measure.most, measure.most)
    mean = f"{measure.scale * interval.mean:+.{measure.digits}f}{measure.unit}"
    span = bounds(interval, scale=measure.scale, digits=measure.digits, sign="+")
    p = f"; Holm-adjusted p {row.adjusted[measure.key]:.2g}" if row.comparisons > 1 else ""
    return f"{mean} ({span}, {interval.n} seeds{p})"
