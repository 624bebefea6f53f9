"""What each arm would take and cost the sites, by the simulated clock, and whom it serves."""

import math
from pathlib import Path

from lipsjax.analysis.comparison import Row, recordings_of
from lipsjax.analysis.hours import Unit, device_classes, unit_for
from lipsjax.analysis.money import UNKNOWN, Against, Spending, spendings
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import clipped, gained, money, percent, shown
from lipsjax.recording import StudyRecording, write_atomically
from lipsjax.report.table import table_text

CLASSES = (
    "arm",
    "devices",
    "sites",
    "turns of each",
    "steps of a turn, %",
    "does in part",
    "accuracy, %",
    "cost",
)
NOTE = (
    "Time is simulated: counted operations over the speed of each device, counted bits over its "
    "link, and none for the server. Masks of transient sparsity save neither. Accuracies are "
    "personalised, means over seeds of the last 10% of rounds with 95% intervals, differences seed "
    "by seed from the arm's reference; waiting is the share of their time in which sites wait for "
    "others."
)
MONEY_NOTE = (
    "Money is what the devices of a class cost in a run: their price per hour times the simulated "
    "hours of their turns; devices without a price are left out. The return on money is points of "
    "accuracy over training alone per unit of cost; a lever is points against the arm's reference "
    "per unit of money that is saved, or spent more. Ratios are of means over seeds, with 95% "
    "intervals of their own (Fieller), each by itself and without Holm's correction; there is none "
    "where the cost, or its difference, is zero or not known."
)
WITHOUT_ALONE = (
    " No arm trains alone here, so that what federating returns is not known: take an arm with "
    "strategy.name = local."
)
NOBODY = Against("", UNKNOWN, UNKNOWN)


def levers(rows: list[Row]) -> list[list[str]]:
    """Return the table of levers, its head first: a line per cell and arm that has a clock.

    Args:
      rows: of the comparison.

    Returns:
      Texts, not escaped; nothing where no arm has a clock.
    """
    timed = [row for row in rows if row.values and not math.isnan(row.means["hours"].mean)]
    if not timed:
        return []
    unit = unit_for(max(row.means["hours"].mean for row in timed))
    head = ["arm", unit.name, "accuracy, %", "difference, points", f"{unit.name} to target"]
    table = [[*head, "waiting, %", "worst devices, %"], *(_lever(row, unit) for row in timed)]
    costs = [row.means["device_cost"] for row in timed]
    if all(math.isnan(cost.mean) for cost in costs):
        return table
    return [[*line, text] for line, text in zip(table, ["cost", *map(_money, costs)], strict=True)]


def class_lines(study: StudyRecording) -> list[list[str]]:
    """Return a line per cell, arm and class of devices, as `CLASSES` has it; texts, not escaped.

    Args:
      study: the recorded study.
    """
    lines = []
    for index, cell in enumerate(study.cells):
        for arm, runs in recordings_of(study, index).items():
            name = f"{arm} ({cell['label']})" if cell["label"] else arm
            lines += [
                [
                    name,
                    found.name,
                    str(found.sites),
                    f"{found.turns:.4g}",
                    f"{100 * found.steps:.3g}",
                    _in_part(found.parts),
                    percent(found.accuracy),
                    _money(found.cost),
                ]
                for found in device_classes(runs)
            ]
    return lines


def money_lines(study: StudyRecording) -> list[list[str]]:
    """Return what each class of devices has for its money, the head first; texts, not escaped.

    Args:
      study: the recorded study.

    Returns:
      A line per cell, arm and class. What it returns over training alone is in it where an arm
      trains alone; nothing where no device has a price.
    """
    found = spendings(study)
    if not found:
        return []
    alone = next((each.alone.arm for each in found if each.alone is not None), None)
    unit = unit_of_money(max(each.cost.mean for each in found if not math.isnan(each.cost.mean)))
    per = f"points per {unit:g}"
    over = [] if alone is None else [f"points over {alone}", f"return, {per}"]
    head = ["arm", "devices", "cost", *over, "against", "cost, difference", "points, difference"]
    lines = [_spent(each, unit, has_alone=alone is not None) for each in found]
    return [[*head, f"lever, {per}"], *lines]


def unit_of_money(most: float) -> float:
    """Return the amount that ratios are per: 1, or the power of ten below the highest cost.

    Accuracies have 100 points, of which a unit that is far above all costs would show thousands.

    >>> unit_of_money(0.025), unit_of_money(0.6), unit_of_money(12.0), unit_of_money(0.0)
    (0.01, 0.1, 1.0, 1.0)
    """
    return 10.0 ** min(0, math.floor(math.log10(most))) if most > 0 else 1.0


def money_note(study: StudyRecording) -> str:
    """Return what stands below :func:`money_lines`."""
    lacks = "" if any(each.alone for each in spendings(study)) else WITHOUT_ALONE
    return MONEY_NOTE + lacks


def write_classes(study: StudyRecording, path: Path) -> bool:
    """Write what each class of devices costs and has, as CSV; tell whether there is any.

    Args:
      study: the recorded study.
      path: file to write, replaced whole; an old one is removed where there is nothing to write.
    """
    found = spendings(study)
    if not found:
        path.unlink(missing_ok=True)
        return False
    bounds = ("mean", "low", "high")
    names = ("cost", "alone_points", "return", "reference_cost", "reference_points", "lever")
    head = ["cell", "arm", "devices", "alone", "reference", "lever_per"]
    rows = []
    for each in found:
        alone, reference = each.alone or NOBODY, each.reference or NOBODY
        told = (each.cost, alone.points, each.returned, reference.cost, reference.points)
        numbers = [x for interval in (*told, each.lever) for x in interval[:3]]
        per = "" if math.isnan(each.lever.mean) else _per(each)
        rows.append(
            [each.cell, each.arm, each.devices, alone.arm, reference.arm, per]
            + ["" if math.isnan(x) else x for x in numbers]
        )
    columns = [f"{name}_{bound}" for name in names for bound in bounds]
    write_atomically(path, table_text([*head, *columns], rows))
    return True


def _spent(spending: Spending, unit: float, *, has_alone: bool) -> list[str]:
    alone, reference = spending.alone or NOBODY, spending.reference or NOBODY
    over = [_points(alone.points), _ratio(spending.returned, unit)] if has_alone else []
    lever = _ratio(spending.lever, unit)
    return [
        f"{spending.arm} ({spending.cell})" if spending.cell else spending.arm,
        spending.devices,
        _money(spending.cost),
        *over,
        reference.arm,
        _money(reference.cost, sign="+"),
        _points(reference.points),
        f"{lever} {_per(spending)}" if lever else "",
    ]


def _per(spending: Spending) -> str:
    return "saved" if spending.saves else "more"


def _points(interval: Interval) -> str:
    return "" if math.isnan(interval.mean) else shown(clipped(interval, -100, 100), sign="+")


def _ratio(interval: Interval, unit: float) -> str:
    """Points per unit of money to three digits, with their interval; nothing where not known.

    >>> _ratio(Interval(12.34, -5, 123456.7, 5), 0.1)
    '+1.23 [-0.5, 12,300]'
    """
    if math.isnan(interval.mean):
        return ""
    mean, low, high = (f"{float(f'{unit * value:.3g}'):,g}" for value in interval[:3])
    return f"{'+' if interval.mean > 0 else ''}{mean} [{low}, {high}]"


def _money(interval: Interval, *, sign: str = "") -> str:
    """An amount with its interval where seeds differ; nothing where it is not known.

    >>> _money(Interval(2.5, 2.5, 2.5, 5)), _money(Interval(2.5, 2.25, 2.75, 5), sign="+")
    ('2.50', '+2.50 [2.25, 2.75]')
    """
    if math.isnan(interval.mean):
        return ""
    mean = money(interval.mean, sign=sign if interval.mean else "")
    return (
        f"{mean} [{money(interval.low)}, {money(interval.high)}]"
        if interval.low < interval.high
        else mean
    )


def _in_part(parts: dict[str, tuple[float, float]]) -> str:
    """Return what sites do in part, in words; nothing of what they do whole.

    >>> _in_part({"width": (0.5, 0.5), "fraction": (0.01, 0.1), "density": (1.0, 1.0)})
    'width 0.5, fraction 0.01 to 0.1'
    """
    words = {
        name: f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        for name, (low, high) in parts.items()
        if low < 1
    }
    return ", ".join(f"{name} {share}" for name, share in words.items())


def _lever(row: Row, unit: Unit) -> list[str]:
    means = row.means
    more = "" if row.is_reference else gained(row.differences["personalised"].interval)
    return [
        f"{row.arm} ({row.cell})" if row.cell else row.arm,
        _time(means["hours"], unit),
        percent(means["personalised"]),
        more,
        _time(means["hours_to_target"], unit),
        f"{100 * means['idle_share'].mean:.3g}",
        percent(means["worst_devices"]),
    ]


def _time(interval: Interval, unit: Unit) -> str:
    """Hours in another unit to three digits, with an interval where seeds differ.

    >>> _time(Interval(1.234, 1.2, 1.3, 5), Unit("hours", 1))
    '1.23 [1.2, 1.3]'
    >>> _time(Interval(2, 2, 2, 5), Unit("minutes", 60))
    '120'
    """
    if math.isnan(interval.mean):
        return "not reached"
    mean, low, high = (unit.in_hour * value for value in clipped(interval, 0, math.inf)[:3])
    between = f" [{low:.3g}, {high:.3g}]" if low < high else ""
    return f"{mean:.3g}{between}"
