"""One thing that a study shows, and the rule by which an effect is named.

The rule is the same for every arm and for both directions. An effect is named only where there are
three seeds or more, the 95% interval of the seed-wise differences excludes zero and, among several
comparisons, Holm's adjusted p is below 0.05 too. Otherwise the outcome is "no difference seen";
with one seed or two, or without an interval, it is "cannot tell".
"""

import math
from typing import NamedTuple

from lipsjax.analysis.comparison import Row
from lipsjax.analysis.stats import Interval

ALPHA = 0.05
"""Level of Holm's adjusted p below which an effect is named."""

FEWEST = 3
"""Seeds from which on an effect is named. How far two seeds scatter says next to nothing of how far
others would, and counts of examples are often off by the same number in both."""

TOO_FEW = f"two seeds are too few to name an effect, which takes {FEWEST}"
"""What is said where there is an interval, and nothing is named for want of seeds."""

NO_DIFFERENCE = "no difference seen"
UNKNOWN = "cannot tell"


class Finding(NamedTuple):
    """One thing that a study shows."""

    subject: str  # "lips against dense", or the reference alone
    cell: str  # label of the cell, "" in a study of one, or where cells are counted
    topic: str  # "Personalised accuracy", ...
    outcome: str  # "helps", "hurts", NO_DIFFERENCE, UNKNOWN, or a word of its topic
    detail: str  # the rest of the sentence, with its interval

    @property
    def sentence(self) -> str:
        """The finding as one line of text."""
        topic = self.topic if self.topic.endswith("?") else f"{self.topic}:"
        return f"{', '.join(filter(None, (self.subject, self.cell)))}. {topic} {self.detail}"


def outcome(row: Row, measure: str, *, up: str, down: str) -> str:
    """What a row's difference on one measure allows one to say.

    Args:
      row: a row that is compared with the reference.
      measure: a key of :data:`lipsjax.analysis.comparison.MEASURES`.
      up: the word for a difference above zero.
      down: the word for a difference below zero.

    Returns:
      One of the two words, "no difference seen", or "cannot tell" where there is no interval or
      there are fewer seeds than :data:`FEWEST`.
    """
    return named(row.differences[measure].interval, row.adjusted[measure], up=up, down=down)


def named(interval: Interval, adjusted: float, *, up: str, down: str) -> str:
    """What an interval and its Holm-adjusted p allow one to say; words as of :func:`outcome`."""
    word = against_zero(interval, up=up, down=down)
    return NO_DIFFERENCE if word in (up, down) and adjusted >= ALPHA else word


def against_zero(interval: Interval, *, up: str, down: str) -> str:
    """Where an interval lies: one of two words, or that it holds zero, or that one cannot tell."""
    if math.isnan(usable(interval).low):
        return UNKNOWN
    if interval.low <= 0 <= interval.high:
        return NO_DIFFERENCE
    return up if interval.mean > 0 else down


def usable(interval: Interval) -> Interval:
    """The interval, without bounds where it is of too few seeds for anything to follow from it.

    Example:
      >>> usable(Interval(0.5, 0.25, 0.75, 2))
      Interval(mean=0.5, low=nan, high=nan, n=2)
    """
    return interval if interval.n >= FEWEST else interval._replace(low=math.nan, high=math.nan)


def is_too_few(interval: Interval) -> bool:
    """Whether there is an interval, of too few seeds."""
    return not math.isnan(interval.low) and interval.n < FEWEST
