"""The table of own measures, which a study names itself: their units are not known here."""

import math

from lipsjax.analysis.comparison import MEASURES, Row
from lipsjax.analysis.stats import Interval

HEAD = ("measure", "arm", "seeds", "mean", "difference from the reference", "p")


def own_lines(rows: list[Row]) -> list[list[str]]:
    """Return a line per own measure, cell and arm, as `HEAD` has it; none where there are none.

    Args:
      rows: of the comparison; an arm in a cell of a grid goes by both.

    Returns:
      Texts, not escaped; empty where nothing was measured, or an arm is the reference.
    """
    names = [name for name in (rows[0].means if rows else ()) if name not in MEASURES]
    return [_line(row, name) for name in names for row in rows]


def _line(row: Row, name: str) -> list[str]:
    arm = f"{row.arm} ({row.cell})" if row.cell else row.arm
    mean, seeds = _shown(row.means[name]), str(len(row.seeds))
    return [name, arm, seeds, mean, *_difference(row, name)]


def _difference(row: Row, name: str) -> list[str]:
    if row.is_reference:
        return ["", ""]
    p = row.adjusted[name]
    return [_shown(row.differences[name].interval), "" if math.isnan(p) else f"{p:.2g}"]


def _shown(interval: Interval) -> str:
    """A mean with its interval in brackets, to four digits.

    >>> _shown(Interval(0.0123456, 0.01, 0.02, 3)), _shown(Interval(2, math.nan, math.nan, 1))
    ('0.01235 [0.01, 0.02]', '2')
    """
    if math.isnan(interval.mean):
        return ""
    known = not math.isnan(interval.low)
    between = f" [{interval.low:.4g}, {interval.high:.4g}]" if known else ""
    return f"{interval.mean:.4g}{between}"
