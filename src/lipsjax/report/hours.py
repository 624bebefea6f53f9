"""What each arm would take the sites, by the simulated clock, and whom it serves."""

import math

from lipsjax.analysis.comparison import Row, recordings_of
from lipsjax.analysis.hours import Unit, device_classes, unit_for
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import clipped, gained, money, percent
from lipsjax.recording import StudyRecording

CLASSES = ("arm", "devices", "sites", "turns of each", "steps of a turn, %", "accuracy, %", "cost")
NOTE = (
    "Time is simulated: counted operations over the speed of each device, counted bits over its "
    "link, and none for the server. Masks of transient sparsity save neither. Accuracies are "
    "personalised, means over seeds of the last 10% of rounds with 95% intervals, differences seed "
    "by seed from the arm's reference; waiting is the share of their time in which sites wait for "
    "others."
)


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
    return [[*head, "waiting, %", "worst devices, %"], *(_lever(row, unit) for row in timed)]


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
                    percent(found.accuracy),
                    "" if math.isnan(found.cost) else money(found.cost),
                ]
                for found in device_classes(runs)
            ]
    return lines


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
