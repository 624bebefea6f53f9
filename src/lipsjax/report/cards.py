"""Cards as pages draw them: the number in words, and where its interval lies on a bar."""

import math
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from lipsjax.analysis.cards import Card, Measured
from lipsjax.analysis.diagnosis import THRESHOLD
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import clipped, counted, shown

STEPS = (1, 2, 5)
"""First digits of the numbers at which a bar ends."""


class Bar(NamedTuple):
    """A number and its interval on an axis around zero; places are percent of its width."""

    mean: float
    low: float  # NaN without an interval
    width: float
    band: (
        float  # how far what is too small to matter reaches, to either side of the middle; 0: none
    )
    end: str  # the number at the right end
    is_cut: bool  # whether some of the interval lies beyond an end


def bar(measured: Measured) -> Bar:
    """Where a number and its interval lie on their bar.

    Args:
      measured: of a card, its mean known.

    Returns:
      The bar: it reaches as far to the left of zero as to the right, at least to two points, or to
      an index of 1, and holds the interval where that is not wider than an accuracy can be.

    Example:
      >>> bar(Measured("a less b", Interval(0.01, -0.01, 0.03, 5)))
      Bar(mean=60.0, low=40.0, width=40.0, band=10.0, end='5', is_cut=False)
    """
    mean, low, high, _ = scaled(measured)
    reach = max(abs(x) for x in (mean, low, high) if not math.isnan(x))
    least, most = (1.0, 2.0) if measured.is_index else (2.0, 100.0)
    end = min(max(_round_number(reach), least), most)
    places = [50 + 50 * min(max(x / end, -1.0), 1.0) for x in (mean, low, high)]
    return Bar(
        mean=round(places[0], 2),
        low=round(places[1], 2),
        width=round(places[2] - places[1], 2),
        band=0.0 if measured.is_index else round(50 * 100 * THRESHOLD / end, 2),
        end=f"{end:g}",
        is_cut=reach > end,
    )


def scaled(measured: Measured) -> Interval:
    """A number of a card in its unit: points of accuracy, or the index as it is."""
    if measured.is_index:
        return measured.interval
    mean, low, high, n = clipped(measured.interval, -1.0, 1.0)
    return Interval(100 * mean, 100 * low, 100 * high, n)


def number(measured: Measured) -> str:
    """The mean alone, with its sign.

    >>> number(Measured("a less b", Interval(-0.0123, -0.02, 0.0, 5)))
    '-1.2'
    """
    return _signed(scaled(measured).mean, _digits(measured))


def spread(measured: Measured) -> str:
    """The unit and the interval in words.

    >>> spread(Measured("a less b", Interval(-0.0123, -0.02, 0.0, 5)))
    'points, 95% interval -2.0 to 0.0'
    >>> spread(Measured("index", Interval(0.5, math.nan, math.nan, 1), is_index=True))
    'no interval from 1 seed'
    """
    found, digits = scaled(measured), _digits(measured)
    unit = "" if measured.is_index else "points, "
    if math.isnan(found.low):
        return f"{unit}no interval from {counted(found.n, 'seed')}"
    return f"{unit}95% interval {_signed(found.low, digits)} to {_signed(found.high, digits)}"


def option(card: Card) -> str:
    """What adds the arms that a card lacks; "" where none does.

    >>> option(Card("?", "Not asked", "open", "", arms=("dense", "my arm", "local")))
    "--arms dense 'my arm' local"
    """
    return f"--arms {shlex.join(card.arms)}" if card.arms else ""


def lines(cards: Sequence[Card]) -> list[tuple[str, str]]:
    """Cards as text: question -> the answer, what it follows from, and what it lacks."""
    return [(card.question, _line(card)) for card in cards]


def _line(card: Card) -> str:
    numbers = "; ".join(
        f"{m.label} {shown(scaled(m), digits=_digits(m), sign='+')}"
        f"{'' if m.is_index else ' points'}"
        for m in card.measured
    )
    lacks = f"{card.lacks} Add {option(card)}." if card.arms else card.lacks
    parts = (f"{card.word}.", card.says, f"({numbers})" if numbers else "", lacks)
    return " ".join(part for part in parts if part)


def _signed(value: float, digits: int) -> str:
    """A number with its sign; what is rounded to zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def _digits(measured: Measured) -> int:
    return 2 if measured.is_index else 1


def _round_number(reach: float) -> float:
    """The smallest number of one round digit that is no less."""
    power = 10.0 ** math.floor(math.log10(reach)) if reach > 0 else 1.0
    return next((step * power for step in STEPS if step * power >= reach), 10 * power)
