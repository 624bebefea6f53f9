"""What each arm would take the sites, by the simulated clock, and whom it serves."""

import math

from lipsjax.analysis.comparison import Row, recordings_of
from lipsjax.analysis.hours import device_classes
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import gained, money, percent
from lipsjax.recording import StudyRecording

LEVERS = (
    *("arm", "hours", "accuracy, %", "points more than the reference"),
    *("hours to the target", "waiting, %", "worst devices, %"),
)
CLASSES = ("arm", "devices", "sites", "turns of each", "steps of a turn, %", "accuracy, %", "cost")
NOTE = (
    "Hours are simulated: counted operations over the speed of each device, counted bits over its "
    "link, and no time for the server. Masks of transient sparsity save neither. Accuracies are "
    "personalised, means over seeds of the last 10% of rounds with 95% intervals; waiting is the "
    "share of their time in which sites wait for others."
)


def lever_lines(rows: list[Row]) -> list[list[str]]:
    """Return a line per cell and arm, as `LEVERS` has it; none where no arm has a clock.

    Args:
      rows: of the comparison.

    Returns:
      Texts, not escaped.
    """
    return [_lever(row) for row in rows if row.values and not math.isnan(row.means["hours"].mean)]


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


def _lever(row: Row) -> list[str]:
    means = row.means
    more = "" if row.is_reference else gained(row.differences["personalised"].interval)
    return [
        f"{row.arm} ({row.cell})" if row.cell else row.arm,
        _hours(means["hours"]),
        percent(means["personalised"]),
        more,
        _hours(means["hours_to_target"]),
        f"{100 * means['idle_share'].mean:.3g}",
        percent(means["worst_devices"]),
    ]


def _hours(interval: Interval) -> str:
    """Hours to three digits, with an interval where seeds differ.

    >>> _hours(Interval(1.234, 1.2, 1.3, 5)), _hours(Interval(2.0, 2.0, 2.0, 5))
    ('1.23 [1.2, 1.3]', '2')
    """
    if math.isnan(interval.mean):
        return "not reached"
    known = not math.isnan(interval.low) and interval.low != interval.high
    between = f" [{interval.low:.3g}, {interval.high:.3g}]" if known else ""
    return f"{interval.mean:.3g}{between}"
