r"""What an arm is worth: its costs and gains in the currency of the prices that a study gives.

With g gigabytes moved in a run, summed over clients and both ways, and h device-hours, a run costs

.. math:: cost = g \cdot per\_gb + h \cdot per\_device\_hour

and an arm that is a points of accuracy better than its reference has a benefit of
:math:`a \cdot per\_point`. It breaks even at the price per point at which benefit and extra cost
are equal. Only what has a price is counted, and without any price there is no money at all. Of an
arm that diverged in any seed it is not said that it pays.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lipsjax.analysis.comparison import Row, is_pooled, paired, step_between
from lipsjax.analysis.finding import (
    NO_DIFFERENCE,
    TOO_FEW,
    UNKNOWN,
    Finding,
    is_too_few,
    named,
)
from lipsjax.analysis.stats import Interval, mean_interval, paired_difference, ratio_interval
from lipsjax.analysis.wording import clipped, money

Prices = Mapping[str, float | None]
"""per_gb, per_device_hour, per_point -> price; None, or not there, where none is given."""

COSTS = {"per_gb": "bits", "per_device_hour": "device-hours"}
"""What costs: price -> what it is of."""

PAYS_FROM = "pays from a price on"
PAYS_ALWAYS = "pays at any price"
PAYS_BELOW = "pays below a price"
NEVER = "never pays"
PAYS = (PAYS_FROM, PAYS_ALWAYS, PAYS_BELOW)


class Value(NamedTuple):
    """An arm against its reference in one cell, in money per run; None where a price is missing."""

    cell: str
    arm: str
    reference: str
    priced: tuple[str, ...]  # what costs are counted of: "bits", "device-hours"
    cost: Interval | None  # of the arm
    reference_cost: Interval | None
    extra: Interval | None  # cost of the arm - cost of the reference, seed by seed
    gain: Interval  # accuracy points of the arm - those of the reference, personalised
    seen: str  # "gains", "loses", or that none is seen: :mod:`lipsjax.analysis.finding`
    benefit: Interval | None  # gain times its price
    net: Interval | None  # benefit - extra
    break_even: Interval | None  # price per point at which extra and benefit are equal
    outcome: str  # one of the words above, UNKNOWN, or "" without a cost
    diverged: str = ""  # "diverged in 1 of 5 seeds"


def gigabytes(numbers: Mapping[str, float]) -> float:
    """Gigabytes (10^9 bytes) that a run moved, up and down as run, over all clients and rounds.

    Args:
      numbers: measure -> number of one run, as in ``Row.values``.

    Returns:
      The number; NaN where bits were not counted.

    Example:
      >>> gigabytes({"uplink_bits": 6e9, "downlink_bits": 2e9})
      1.0
    """
    return (numbers["uplink_bits"] + numbers["downlink_bits"]) / 8e9


def cost(numbers: Mapping[str, float], prices: Prices) -> float | None:
    """What a run costs, of what has a price.

    A device-hour is an hour of one of the devices that the study ran on, and stands for the same
    work on clients' devices that are as fast: the measured seconds of the compiled rounds, times
    the devices of the plan. Evaluation is in it, compiling is not; of clients that were simulated
    side by side on a device, it holds the sum.

    Args:
      numbers: measure -> number of one run, as in ``Row.values``.
      prices: of the study.

    Returns:
      The sum; None where neither bits nor device-hours have a price.

    Example:
      >>> run = {"uplink_bits": 6e9, "downlink_bits": 2e9, "device_hours": 0.5}
      >>> cost(run, {"per_gb": 2.0, "per_device_hour": 3.0})
      3.5
    """
    amounts = {"per_gb": gigabytes(numbers), "per_device_hour": numbers["device_hours"]}
    priced = [amounts[name] * price for name in COSTS if (price := prices.get(name)) is not None]
    return sum(priced) if priced else None


def appraise(rows: Sequence[Row], prices: Prices | None) -> list[Value] | None:
    """What each arm costs and brings against its reference.

    Args:
      rows: the rows of :func:`lipsjax.analysis.comparison.compare`.
      prices: of the study.

    Returns:
      One value per row that is compared with a reference, over the seeds that both have finished;
      none of pooled data, as what it costs to bring the examples to one site is not known. None
      where no price is given.
    """
    if prices is None or all(price is None for price in prices.values()):
        return None
    at = {(row.cell, row.arm): row for row in rows}
    return [
        _value(row, at[row.cell, row.reference], prices)
        for row in rows
        if not row.is_reference and not is_pooled(row.config)
    ]


def findings_of(value: Value) -> list[Finding]:
    """A value in a sentence.

    Args:
      value: of one row.

    Returns:
      One finding, which says what has no price, too.
    """
    v = value
    subject = f"{v.arm} against {v.reference}"
    if v.gain.n < 2 or math.isnan(v.gain.low):
        detail = "cannot tell, there is no interval of what the arm gains."
        return [Finding(subject, v.cell, "Value", UNKNOWN, detail)]
    parts = []
    if v.cost is None or v.reference_cost is None or v.extra is None:
        parts.append("bits and device-hours have no price, so no cost is known")
    elif math.isnan(v.extra.mean):
        parts.append("what costs was not measured in every seed")
    else:
        parts.append(
            f"{v.arm} costs {money(v.cost.mean)} per run and {v.reference} "
            f"{money(v.reference_cost.mean)}, a difference of {_amount(v.extra)}, counting "
            f"{' and '.join(v.priced)}"
        )
    if v.benefit is None:
        parts.append("a point of accuracy has no price, so no benefit is known")
    else:
        parts.append(f"benefit {_amount(v.benefit)}")
    if v.net is not None and not math.isnan(v.net.mean):
        parts.append(f"benefit less extra cost {_amount(v.net)}")
    if v.outcome:
        parts.append(_break_even(v))
    elif is_too_few(v.gain):
        parts.append(TOO_FEW)
    return [Finding(subject, v.cell, "Value", v.outcome or v.seen, f"{'; '.join(parts)}.")]


def _value(row: Row, reference: Row, prices: Prices) -> Value:
    ours, theirs = paired(row, reference, "personalised")
    gained = [100 * (a - b) for a, b in zip(ours, theirs, strict=True)]
    step, per_point = 100 * step_between(row, reference, "personalised"), prices.get("per_point")
    gain = mean_interval(gained, step=step)
    seeds = sorted(row.values.keys() & reference.values.keys())
    own = [cost(row.values[seed], prices) for seed in seeds]
    others = [cost(reference.values[seed], prices) for seed in seeds]
    ours, theirs = ([c for c in each if c is not None] for each in (own, others))
    is_priced = any(prices.get(name) is not None for name in COSTS)
    extra = [a - b for a, b in zip(ours, theirs, strict=True)]
    extra_interval = mean_interval(extra) if is_priced else None
    seen = named(gain, row.adjusted["personalised"], up="gains", down="loses")
    word = "" if extra_interval is None else _outcome(seen, extra_interval)
    if row.diverged and word in PAYS:
        word = UNKNOWN
    benefit = net = None
    if per_point is not None:
        worth, least = [per_point * points for points in gained], per_point * step
        benefit = clipped(mean_interval(worth, step=least), -100 * per_point, 100 * per_point)
        net = paired_difference(worth, extra, step=least).interval if is_priced else None
    return Value(
        cell=row.cell,
        arm=row.arm,
        reference=reference.arm,
        priced=tuple(kind for name, kind in COSTS.items() if prices.get(name) is not None),
        cost=mean_interval(ours) if is_priced else None,
        reference_cost=mean_interval(theirs) if is_priced else None,
        extra=extra_interval,
        gain=gain,
        seen=seen,
        benefit=benefit,
        net=net,
        break_even=ratio_interval(extra, gained, steps=(0.0, step))
        if word in (PAYS_FROM, PAYS_BELOW)
        else None,
        outcome=word,
        diverged=row.share_diverged,
    )


def _outcome(seen: str, extra: Interval) -> str:
    """Whether there is a price per point at which the arm pays."""
    if math.isnan(extra.low):
        return UNKNOWN
    if seen == "gains":
        if extra.high <= 0:
            return PAYS_ALWAYS
        return PAYS_FROM if extra.low > 0 else UNKNOWN
    if seen == "loses":
        if extra.high < 0:
            return PAYS_BELOW
        return NEVER if extra.low >= 0 else UNKNOWN
    # equal counts in every seed are no difference seen, and not a difference of zero
    return UNKNOWN


def _break_even(v: Value) -> str:
    if v.outcome == UNKNOWN:
        why = (
            f"it {v.diverged}"
            if v.diverged
            else TOO_FEW
            if is_too_few(v.gain)
            else "no gain or loss in accuracy is seen"
            if v.seen == NO_DIFFERENCE
            else "costs were not measured"
            if v.extra is None or math.isnan(v.extra.low)
            else "it may cost more or less than its reference"
        )
        return f"break-even is not known, as {why}"
    if v.break_even is None:
        return (
            "it costs no more and gains, at any price of a point"
            if v.outcome == PAYS_ALWAYS
            else "it never pays, as it gains nothing and saves nothing"
        )
    low, high = (money(bound) for bound in v.break_even[1:3])
    price = f"{money(v.break_even.mean)} (95% interval {low} to {high})"
    if v.outcome == PAYS_FROM:
        return f"it breaks even where a point is worth {price}"
    return f"it saves money and loses accuracy, which pays where a point is worth less than {price}"


def _amount(interval: Interval) -> str:
    """An amount with its interval."""
    if math.isnan(interval.low):
        return money(interval.mean, sign="+")
    low, high = (money(bound, sign="+") for bound in interval[1:3])
    return f"{money(interval.mean, sign='+')} (95% interval {low} to {high})"
