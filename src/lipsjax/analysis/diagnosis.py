"""Is a setting stuck? What federating gains over training alone, and still loses to pooled data.

The controls are found by their configs, whatever they are called: an arm whose clients train alone
(strategy ``local``) and one that holds the examples of all at one site (``partition.pooled``). A
setting is

* stuck, if pooled training is ahead by more than :data:`THRESHOLD` and the inertia index of the
  last 10% of rounds is above 0, so that the middle layers move less than stem and classifier;
* not stuck, if pooled training is ahead by less than that, or the inertia index is below 0;

each with the whole 95% interval over three seeds or more, and in all other cases one cannot tell.
Differences are seed by seed; they are not corrected for the number of cells.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from lipsjax.analysis.comparison import Row, difference, is_local, is_pooled, step_between
from lipsjax.analysis.finding import (
    NO_DIFFERENCE,
    TOO_FEW,
    UNKNOWN,
    Finding,
    against_zero,
    is_too_few,
    usable,
)
from lipsjax.analysis.stats import Interval, paired_difference, ratio_interval
from lipsjax.analysis.wording import bounds, capped, points

THRESHOLD = 0.01
"""Accuracy by which pooled training is ahead where a setting can be stuck: one point."""

DECISIVE = "personalised"
"""The accuracy that decides: of each client's own kind of examples, the primary measure. The global
one is shown beside it, as models of single clients often do well on their own mix alone."""

ACCURACIES = ("personalised", "global")
SETTING = "Is this setting stuck?"
ALONE = "Against training alone"
STUCK = "stuck"
NOT_STUCK = "not stuck"


class Diagnosis(NamedTuple):
    """What the controls of one cell say of its federated arm; intervals are in accuracy."""

    cell: str
    arm: str  # the federated arm: the reference, or else the first that is dense and no control
    local: str | None  # the arm whose clients train alone, if there is one
    pooled: str | None  # the arm of one site with all examples, if there is one
    gain: Mapping[str, Interval]  # accuracy -> arm - local; empty without that control
    loss: Mapping[str, Interval]  # accuracy -> pooled - arm; empty without that control
    captured: Mapping[str, Interval]  # accuracy -> (arm - local) / (pooled - local)
    inertia: Interval  # index of the arm, over the last 10% of rounds
    outcome: str  # STUCK, NOT_STUCK or UNKNOWN


def diagnose(rows: Sequence[Row]) -> list[Diagnosis]:
    """What the controls say of each cell.

    Args:
      rows: the rows of :func:`lipsjax.analysis.comparison.compare`.

    Returns:
      One diagnosis per cell that has a federated arm. ``captured`` holds only those accuracies in
      which pooled training is ahead of local training with its whole interval: elsewhere there is
      nothing to have a share of.
    """
    cells = (list(members) for _, members in groupby(rows, lambda row: row.cell))
    return [found for members in cells if (found := _diagnose(members)) is not None]


def findings_of(diagnosis: Diagnosis) -> list[Finding]:
    """A diagnosis in sentences.

    Args:
      diagnosis: of one cell.

    Returns:
      Whether the setting is stuck, then gain, loss and share captured, as far as there are
      controls.
    """
    d = diagnosis
    found = [Finding(d.arm, d.cell, SETTING, d.outcome, f"{_answer(d)}.")]
    if d.gain:
        words, detail = _told(d.gain, up="gains", down="loses")
        topic = f"Federating against training alone ({d.local})"
        found.append(Finding(d.arm, d.cell, topic, words, detail))
    if d.loss:
        words, detail = _told(d.loss, up="pooled is ahead", down="pooled is behind")
        topic = f"Pooled data ({d.pooled}) against federating"
        found.append(Finding(d.arm, d.cell, topic, words, detail))
    if d.gain and d.loss:
        detail = "; ".join(f"{name} accuracy: {_share(d, name)}" for name in ACCURACIES)
        word = "measured" if DECISIVE in d.captured else UNKNOWN
        topic = "Share of what pooling gains over training alone"
        found.append(Finding(d.arm, d.cell, topic, word, f"{detail}."))
    return found


def alone_beside(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of the same cell whose clients train alone, if there is another one that is."""
    beside = (r for r in rows if r.cell == row.cell and r.arm != row.arm and is_local(r.config))
    return next(beside, None)


def gain_over_alone(row: Row, alone: Row) -> Finding:
    """What an arm gains over training alone, whatever it is compared with."""
    gain = {m: difference(row, alone, m).interval for m in ACCURACIES}
    words, detail = _told(gain, up="gains", down="loses")
    return Finding(f"{row.arm} against {row.reference}", row.cell, ALONE, words, detail)


def _diagnose(members: Sequence[Row]) -> Diagnosis | None:
    """Of the rows of one cell."""
    finished = [row for row in members if row.config]  # of others it is not known what they are
    plain = [row for row in finished if not (is_local(row.config) or is_pooled(row.config))]
    dense = [row for row in plain if row.is_reference] + [r for r in plain if not r.transient]
    if not dense:
        return None
    arm = dense[0]
    local = next((row for row in members if is_local(row.config)), None)
    pooled = next((r for r in members if is_pooled(r.config) and not is_local(r.config)), None)
    loss = {} if pooled is None else {m: difference(pooled, arm, m).interval for m in ACCURACIES}
    captured = {}
    if local is not None and pooled is not None:
        shares = {m: _captured(arm, local, pooled, m) for m in ACCURACIES}
        captured = {m: share for m, share in shares.items() if share is not None}
    gain = {} if local is None else {m: difference(arm, local, m).interval for m in ACCURACIES}
    inertia = arm.means["inertia_end"]
    return Diagnosis(
        cell=arm.cell,
        arm=arm.arm,
        local=None if local is None else local.arm,
        pooled=None if pooled is None else pooled.arm,
        gain=gain,
        loss=loss,
        captured=captured,
        inertia=inertia,
        outcome=_outcome(loss.get(DECISIVE), inertia),
    )


def _captured(arm: Row, local: Row, pooled: Row, measure: str) -> Interval | None:
    """Share of pooled - local that the arm has, over the seeds of all three."""
    seeds = sorted(arm.values.keys() & local.values.keys() & pooled.values.keys())
    ours, alone, all_in_one = (
        [row.values[seed][measure] for seed in seeds] for row in (arm, local, pooled)
    )
    steps = step_between(arm, local, measure), step_between(pooled, local, measure)
    possible = paired_difference(all_in_one, alone, step=steps[1]).interval
    if not usable(possible).low > 0:
        return None
    gained, gainable = (
        [a - b for a, b in zip(each, alone, strict=True)] for each in (ours, all_in_one)
    )
    share = ratio_interval(gained, gainable, steps=steps)
    return None if math.isnan(share.mean) else share


def _outcome(loss: Interval | None, inertia: Interval) -> str:
    """By the rule of the module; comparisons with NaN are False."""
    loss, inertia = loss and usable(loss), usable(inertia)
    if loss is not None and loss.low > THRESHOLD and inertia.low > 0:
        return STUCK
    if (loss is not None and loss.high < THRESHOLD) or inertia.high < 0:
        return NOT_STUCK
    return UNKNOWN


def _answer(d: Diagnosis) -> str:
    """The outcome, what it follows from, and the rule."""
    loss, limit = d.loss.get(DECISIVE), f"{100 * THRESHOLD:g} point"
    if loss is None:
        pooled = "no arm trains on pooled data, so the loss to it is not known"
    elif math.isnan(loss.mean):
        pooled = f"the loss to {d.pooled} was not measured in every seed of both arms"
    else:
        where = (
            TOO_FEW
            if is_too_few(loss)
            else f"more than {limit}"
            if loss.low > THRESHOLD
            else f"less than {limit}"
            if loss.high < THRESHOLD
            else f"not clearly more or less than {limit}"
        )
        pooled = f"{d.pooled} against {d.arm} {points(loss)}, {where}"
    word = against_zero(d.inertia, up="less than", down="more than")
    if word == UNKNOWN:
        middle = "whether its middle layers move less than stem and classifier is not known"
        middle += f", as {TOO_FEW}" if is_too_few(d.inertia) else ""
    else:
        how = "not clearly less or more than" if word == NO_DIFFERENCE else word
        middle = (
            f"its middle layers move {how} stem and classifier, inertia index "
            f"{d.inertia.mean:.3f} ({bounds(capped(d.inertia), digits=3)})"
        )
    alone = "" if d.local else "; no arm trains alone, so what federating gains is not known"
    return (
        f"{d.outcome[0].upper()}{d.outcome[1:]}: {pooled}; {middle}{alone}. Decided on {DECISIVE} "
        f"accuracy: stuck is pooled ahead by more than {limit} and an inertia index above 0, each "
        "with its whole interval"
    )


def _told(intervals: Mapping[str, Interval], *, up: str, down: str) -> tuple[str, str]:
    """The outcome of the decisive accuracy, and a sentence on both."""
    words = {name: against_zero(found, up=up, down=down) for name, found in intervals.items()}
    clauses = (
        f"{name} accuracy: not measured in every seed of both arms"
        if math.isnan(intervals[name].mean)
        else f"{name} accuracy: {word}, as {TOO_FEW}, {points(intervals[name])}"
        if is_too_few(intervals[name])
        else f"{name} accuracy: {word}, {points(intervals[name])}"
        for name, word in words.items()
    )
    return words[DECISIVE], f"{'; '.join(clauses)}."


def _share(d: Diagnosis, name: str) -> str:
    share = d.captured.get(name)
    if share is None:
        return f"not given, as {d.pooled} is not clearly ahead of {d.local}"
    return f"{100 * share.mean:.0f}% ({bounds(share, scale=100, digits=0)}%)"
