"""How many seeds of a recorded study would find an effect, and what they take.

The statistics are those of :mod:`lipsjax.analysis.power`; here they meet recorded studies.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lipsjax.analysis.comparison import Row, compare, paired, step_between
from lipsjax.analysis.finding import FEWEST
from lipsjax.analysis.power import seeds_for_power
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.value import Prices, cost
from lipsjax.recording import StudyRecording


class Need(NamedTuple):
    """What it takes to find an effect of an arm in a cell."""

    row: Row
    reference: Row
    paired: int  # seeds that are finished in both arms
    spread: Interval | None  # deviation of the differences between seeds; None: too few tell it
    seeds: int | None  # needed at that spread
    low: int | None  # at the ends of its interval
    high: int | None


class Took(NamedTuple):
    """What further seeds take, both arms together."""

    minutes: float  # NaN where nothing was timed
    cost: float | None  # None without prices


def needs(study: StudyRecording, *, effect: float, power: float, measure: str) -> list[Need]:
    """What each compared arm needs, cell by cell.

    Args:
      study: the recorded study.
      effect: difference of accuracy that is to be found, above 0.
      power: with which chance it is to be found, in (0, 1).
      measure: "personalised" or "global".

    Raises:
      ValueError: if no trial of the study is finished, or as
        :func:`lipsjax.analysis.power.seeds_for_power`.
    """
    rows = compare(study)
    at = {(row.cell, row.arm): row for row in rows}
    return [
        _need(row, at[row.cell, row.reference], effect, power, measure)
        for row in rows
        if not row.is_reference
    ]


def _need(row: Row, reference: Row, effect: float, power: float, measure: str) -> Need:
    ours, theirs = paired(row, reference, measure)
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    count = len(differences)
    if count < FEWEST or not all(map(math.isfinite, differences)):
        return Need(row, reference, count, None, None, None, None)
    step = step_between(row, reference, measure)
    found = seeds_for_power(differences, effect, power, step=step)
    return Need(row, reference, count, found.spread, found.seeds, found.low, found.high)


def takes(rows: Sequence[Row], seeds: int, prices: Prices) -> Took:
    """What it takes to bring some rows to so many seeds each.

    Args:
      rows: of :func:`lipsjax.analysis.comparison.compare`, each once.
      seeds: how many each is to have.
      prices: of the study.
    """
    minutes, priced, money = 0.0, False, 0.0
    for row in rows:
        further = max(0, seeds - len(row.seeds))
        minutes += further * (row.means["seconds"].mean + row.means["compile_seconds"].mean) / 60
        costs = [cost(values, prices) for values in row.values.values()]
        known = [each for each in costs if each is not None]
        if known:
            priced = True
            money += further * sum(known) / len(known)
    return Took(minutes, money if priced else None)
