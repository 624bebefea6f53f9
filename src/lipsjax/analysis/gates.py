r"""Gates of a stage: go, no-go or open, each from an interval over seeds, never from a bare mean.

A gate is a bound X on one number of one arm. With the 95% interval [low, high] of that number over
seeds, "at least X" is

.. math:: go \text{ if } low \ge X, \quad no\text{-}go \text{ if } high < X, \quad
    open \text{ else,}

and "at most X" its mirror. An open gate says how many seeds would make the interval just clear X,
if mean and spread stayed what they are: about even odds, as the mean of those seeds is as likely to
fall on either side of today's. A stage is a go if all of its gates are, and a no-go if one is. A
false go therefore needs every gate to be wrong, and has a chance of 2.5% at most; a false no-go
needs one of them, and has 2.5% for each. Both are of one look: looking again with more seeds, at
plain intervals, adds to them (see ``docs/concepts/statistics.md``).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from lipsjax.analysis.comparison import Row, compare, difference
from lipsjax.analysis.finding import FEWEST
from lipsjax.analysis.sites import worst_sites
from lipsjax.analysis.stats import Interval, mean_interval, paired_difference, seeds_needed
from lipsjax.analysis.value import Prices, cost
from lipsjax.recording import StudyRecording

Kind = Literal["gain", "over_alone", "accuracy", "worst_site", "bits", "minutes", "money"]
COSTS = ("bits", "minutes", "money")
"""Kinds that are bounded from above, of a run."""
GO = "go"
NO_GO = "no-go"
OPEN = "open"
MOST_SEEDS = 1000
"""Seeds above which none are asked for: the mean lies so near the bound that it stays open."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """A bound on one number of one arm."""

    gate: Kind
    """gain: over another arm; over_alone: over the arm that trains alone; accuracy: the arm's own;
    worst_site: the lowest accuracy of any site, the arm's own or over that of another arm; bits,
    minutes, money: of a run."""
    arm: str
    """The arm that is to pass."""
    over: str | None = None
    """The arm that it is compared with: of gain and over_alone one, of worst_site one or none."""
    accuracy: Literal["personalised", "global"] = "personalised"
    """Which accuracy, of gain, over_alone and accuracy."""
    at_least: float | None = None
    """Bound of accuracies, in percent, and of their differences, in points."""
    at_most: float | None = None
    """Bound of costs: bits both ways, minutes without compiling, or money of the study's prices."""

    @property
    def bound(self) -> float:
        """The bound, whichever way it is."""
        bound = self.at_most if self.gate in COSTS else self.at_least
        return math.nan if bound is None else bound

    @property
    def is_level(self) -> bool:
        """Whether it bounds an accuracy itself, and no difference or cost."""
        return self.gate == "accuracy" or (self.gate == "worst_site" and self.over is None)


class GateResult(NamedTuple):
    """What a gate says of a stage."""

    gate: Gate
    interval: Interval  # in the gate's unit
    word: str  # GO, NO_GO or OPEN
    seeds: int | None = None  # of an open one: all the seeds that would just settle it
    why: str = ""  # what else than the interval has decided, or keeps it open


def decide(gate: Gate, interval: Interval, *, diverged: str = "") -> GateResult:
    """Decide one gate from its interval.

    Args:
      gate: the bound.
      interval: of the gate's number, in its unit; of equal bits, which are counted, without width.
      diverged: which arm diverged in how many seeds, in words; what the others show is no go.

    Returns:
      The result. Of fewer than three seeds nothing but equal bits is decided.

    Example:
      >>> gate = Gate(gate="gain", arm="lips", over="dense", at_least=1.0)
      >>> decide(gate, Interval(2.0, 1.5, 2.5, 5)).word
      'go'
      >>> found = decide(gate, Interval(0.0, -2.0, 2.0, 5))
      >>> found.word, found.seeds
      ('open', 13)
    """
    is_exact = gate.gate == "bits" and interval.low == interval.high
    known = is_exact or (interval.n >= FEWEST and not math.isnan(interval.low))
    word = _place(gate, interval) if known else OPEN
    if word == NO_GO or (word == GO and not diverged):
        return GateResult(gate, interval, word)
    if diverged:
        return GateResult(gate, interval, OPEN, why=diverged)
    if interval.n < FEWEST:
        return GateResult(gate, interval, OPEN, FEWEST, f"fewer than {FEWEST} seeds decide nothing")
    if not known:
        return GateResult(gate, interval, OPEN, why="not measured in every seed")
    seeds = _settling(interval, gate.bound)
    why = "" if seeds else f"so near its bound that {MOST_SEEDS} seeds would not settle it"
    return GateResult(gate, interval, OPEN, seeds, why)


def judge(study: StudyRecording, gates: Sequence[Gate]) -> list[GateResult]:
    """Decide the gates of a study of one cell.

    Args:
      study: the recorded study, none of whose trials is missing.
      gates: of arms that the study has.

    Returns:
      A result for each gate, in their order. An arm that diverged in every seed is a no-go.
    """
    rows = {row.arm: row for row in compare(study)} if study.trials else {}
    return [_judge(gate, study, rows) for gate in gates]


def verdict(results: Sequence[GateResult]) -> str:
    """What the gates of a stage say together: no-go if one does, go if all do, else open.

    Example:
      >>> gate = Gate(gate="bits", arm="lips", at_most=8.0)
      >>> verdict([decide(gate, Interval(8.0, 8.0, 8.0, 1)), decide(gate, Interval(9, 9, 9, 1))])
      'no-go'
    """
    words = {result.word for result in results}
    return next((word for word in (NO_GO, OPEN) if word in words), GO)


def seeds_wanted(results: Sequence[GateResult]) -> int | None:
    """How many seeds in all would settle what is open; None where seeds settle nothing of it."""
    return max((result.seeds for result in results if result.seeds), default=None)


def _judge(gate: Gate, study: StudyRecording, rows: Mapping[str, Row]) -> GateResult:
    arm, other = rows.get(gate.arm), rows.get(gate.over or "")
    if arm is None or not arm.seeds:
        none = Interval(math.nan, math.nan, math.nan, 0)
        return GateResult(gate, none, NO_GO, why=f"{gate.arm} diverged in every seed")
    told = [f"{row.arm} {row.share_diverged}" for row in (arm, other) if row and row.diverged]
    return decide(gate, _interval(gate, arm, other, study), diverged="; ".join(told))


def _interval(gate: Gate, arm: Row, other: Row | None, study: StudyRecording) -> Interval:
    """The number of a gate over seeds, in its unit."""
    if gate.gate == "worst_site":
        return _scaled(_of_worst_site(gate, study))
    if other is not None:
        return _scaled(difference(arm, other, gate.accuracy).interval)
    if gate.gate == "accuracy":
        return _scaled(arm.means[gate.accuracy])
    costs = [_cost(gate.gate, numbers, study.prices) for numbers in arm.values.values()]
    if gate.gate == "bits" and len(set(costs)) == 1:
        return Interval(costs[0], costs[0], costs[0], len(costs))
    return mean_interval(costs)


def _of_worst_site(gate: Gate, study: StudyRecording) -> Interval:
    """The lowest accuracy of any site, or its difference from that of another arm."""
    arm = worst_sites(study, 0, gate.arm)
    if gate.over is None:
        return mean_interval(list(arm.accuracies.values()), step=arm.step)
    other = worst_sites(study, 0, gate.over)
    common = sorted(arm.accuracies.keys() & other.accuracies.keys())
    ours, theirs = ([each.accuracies[seed] for seed in common] for each in (arm, other))
    return paired_difference(ours, theirs, step=min(arm.step, other.step)).interval


def _cost(kind: Kind, numbers: Mapping[str, float], prices: Prices) -> float:
    """What a run costs; NaN where it is not known."""
    if kind == "bits":
        return numbers["uplink_bits"] + numbers["downlink_bits"]
    if kind == "minutes":
        return numbers["seconds"] / 60
    found = cost(numbers, prices)
    return math.nan if found is None else found


def _scaled(interval: Interval) -> Interval:
    """An interval of accuracies in percent."""
    mean, low, high = (100 * value for value in interval[:3])
    return Interval(mean, low, high, interval.n)


def _place(gate: Gate, interval: Interval) -> str:
    """On which side of the bound an interval lies, or that it holds it."""
    low, high, bound = interval.low, interval.high, gate.bound
    if gate.gate in COSTS:
        low, high, bound = -high, -low, -bound
    return GO if low >= bound else NO_GO if high < bound else OPEN


def _settling(interval: Interval, bound: float) -> int | None:
    """Seeds whose interval would end at the bound, at the mean and spread seen; None of too many.

    An open interval reaches over its bound, so these are always more than there are.
    """
    distance, half = abs(interval.mean - bound), (interval.high - interval.low) / 2
    if distance * MOST_SEEDS <= half:  # far above them, and by zero none can be counted
        return None
    seeds = max(seeds_needed(interval, distance) or 0, interval.n + 1)
    return seeds if seeds <= MOST_SEEDS else None
