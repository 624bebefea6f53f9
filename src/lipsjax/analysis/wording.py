"""Numbers as the terminal, the verdict and the report write them."""

import math
from collections.abc import Callable
from typing import NamedTuple

from lipsjax.analysis.stats import Interval


def shown(interval: Interval, *, scale: float = 1.0, digits: int = 1, sign: str = "") -> str:
    """A mean with its interval in brackets; without brackets where there is no interval.

    Args:
      interval: what to show.
      scale: factor from the interval to the unit shown.
      digits: decimals.
      sign: "+" shows the sign of a positive mean too.

    Returns:
      The text, "none" for an interval over no seeds or of what was not measured in each.

    Example:
      >>> shown(Interval(0.5, 0.25, 0.75, 3), scale=100)
      '50.0 [25.0, 75.0]'
    """
    if interval.n == 0 or math.isnan(interval.mean):
        return "none"
    mean = f"{scale * interval.mean:{sign}.{digits}f}"
    low, high = (f"{scale * bound:.{digits}f}" for bound in interval[1:3])
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"


def clipped(interval: Interval, least: float, most: float) -> Interval:
    """An interval as it is shown: not beyond what its measure can be. Its mean is left alone.

    Example:
      >>> clipped(Interval(0.9, 0.5, 1.3, 3), 0.0, 1.0)
      Interval(mean=0.9, low=0.5, high=1.0, n=3)
    """
    low, high = (min(max(bound, least), most) for bound in interval[1:3])  # NaN stays NaN
    return interval._replace(low=low, high=high)


def capped(interval: Interval) -> Interval:
    """An inertia index as it is shown: it is at most 1, where the middle layers stand still."""
    return clipped(interval, -math.inf, 1.0)


def percent(interval: Interval, *, digits: int = 1) -> str:
    """An accuracy in percent, as :func:`shown`, its interval within 0 and 100.

    Example:
      >>> percent(Interval(0.9, 0.5, 1.3, 3))
      '90.0 [50.0, 100.0]'
    """
    return shown(clipped(interval, 0.0, 1.0), scale=100, digits=digits)


def gained(interval: Interval, *, digits: int = 1) -> str:
    """A difference of accuracies in points, as :func:`shown`, its interval within -100 and 100.

    Example:
      >>> gained(Interval(0.05, -1.6, 1.7, 2))
      '+5.0 [-100.0, 100.0]'
    """
    return shown(clipped(interval, -1.0, 1.0), scale=100, digits=digits, sign="+")


def bounds(interval: Interval, *, scale: float = 1.0, digits: int, sign: str = "") -> str:
    """The bounds of an interval in words.

    Args:
      interval: an interval at the level of 95%.
      scale: factor from the interval to the unit shown.
      digits: decimals.
      sign: "+" shows the sign of positive bounds too.

    Returns:
      The text.

    Example:
      >>> bounds(Interval(0.5, 0.25, 0.75, 3), digits=2, sign="+")
      '95% interval +0.25 to +0.75'
    """
    low, high = (f"{scale * bound:{sign}.{digits}f}" for bound in interval[1:3])
    return f"95% interval {low} to {high}"


def points(interval: Interval, *, note: str = "") -> str:
    """A difference of accuracies in points, with its interval and seeds.

    Args:
      interval: of the difference, in accuracy.
      note: what else goes into the brackets.

    Returns:
      The text; of a single seed, without an interval.

    Example:
      >>> points(Interval(0.05, 0.04, 0.06, 5))
      '+5.00 points (95% interval +4.00 to +6.00, 5 seeds)'
    """
    span = (
        "no interval"
        if math.isnan(interval.low)
        else bounds(clipped(interval, -1.0, 1.0), scale=100, digits=2, sign="+")
    )
    extra = f"; {note}" if note else ""
    return f"{100 * interval.mean:+.2f} points ({span}, {counted(interval.n, 'seed')}{extra})"


def counted(number: float, noun: str, *, sign: str = "") -> str:
    """A number with its noun, in the plural unless it is one.

    Example:
      >>> counted(1, "seed"), counted(1.5, "point"), counted(0, "point", sign="+")
      ('1 seed', '1.5 points', '0 points')
    """
    return f"{number:{sign if number else ''}.12g} {noun}{'' if abs(number) == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time as a reader plans with it.

    Example:
      >>> duration(0.2), duration(24), duration(150), duration(9000)
      ('less than a second', '24 seconds', '2 minutes', '2.5 hours')
    """
    if math.isnan(seconds):
        return "a time not recorded"
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return counted(round(seconds), "second")
    if seconds < 5400:
        return counted(round(seconds / 60), "minute")
    return counted(round(seconds / 3600, 1), "hour")


def money(amount: float, *, sign: str = "") -> str:
    """An amount in the currency of a study's prices.

    Args:
      amount: any number.
      sign: "+" shows the sign of a positive amount too.

    Returns:
      Two decimals; of less than a tenth, two significant digits.

    Example:
      >>> money(1234.5), money(0.00321, sign="+")
      ('1,234.50', '+0.0032')
    """
    return f"{amount:{sign},.2f}" if abs(amount) >= 0.1 or amount == 0 else f"{amount:{sign}.2g}"


def format_bits(count: float) -> str:
    """A number of bits with its decimal unit.

    Args:
      count: number of bits; NaN where none were counted.

    Returns:
      Three significant digits and bit, kbit, Mbit, Gbit, Tbit or Pbit.

    Example:
      >>> format_bits(1_234_567.0)
      '1.23 Mbit'
    """
    if math.isnan(count):
        return "not counted"
    count = float(f"{count:.2e}")  # rounded first, so that 999.9 kbit reads 1 Mbit
    power = min(5, max(0, math.floor(math.log10(count) / 3))) if count > 0 else 0
    unit = ("bit", "kbit", "Mbit", "Gbit", "Tbit", "Pbit")[power]
    return f"{count / 1000**power:.4g} {unit}"


class Unit(NamedTuple):
    """How amounts of one kind are written."""

    name: str = ""  # in the plural; empty where the text of a number has it
    digits: int = 2  # decimals of a mean
    sign: str = ""  # "+" shows the sign of a positive number too
    text: Callable[[float], str] | None = None  # a number with its unit, where that is no suffix

    def exactly(self, number: float) -> str:
        """A number that was asked for, such as a bound.

        Example:
          >>> Unit("points", sign="+").exactly(1.0), Unit("%").exactly(62.5)
          ('+1 point', '62.5 %')
        """
        if self.text:
            return self.text(number)
        noun = self.name.removesuffix("s")
        if noun != self.name:
            return counted(number, noun, sign=self.sign)
        return f"{number:.12g} {self.name}"

    def measured(self, interval: Interval) -> str:
        """A mean with its interval; without one where there is none, or no width.

        Example:
          >>> Unit("points", sign="+").measured(Interval(1.25, -0.5, 3.0, 5))
          '+1.25 [-0.50, 3.00] points'
          >>> Unit(text=format_bits).measured(Interval(1e6, 1e6, 1e6, 5))
          '1 Mbit'
        """
        if self.text is None:
            return f"{shown(interval, digits=self.digits, sign=self.sign)} {self.name}"
        if interval.low == interval.high or math.isnan(interval.low):
            return self.text(interval.mean)
        mean, low, high = map(self.text, interval[:3])
        return f"{mean} [{low}, {high}]"
