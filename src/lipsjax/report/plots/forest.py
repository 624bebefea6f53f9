"""Forest plots: how accurate each arm is, and what it changes, with intervals, a line for each."""

import math
import re
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from lipsjax.analysis.comparison import Row
from lipsjax.analysis.controls import is_lips
from lipsjax.analysis.finding import outcome, usable
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import clipped, gained, percent, points
from lipsjax.report.plots.figures import (
    INK,
    TICK,
    Drawing,
    cell_name,
    percent_axis,
    share,
    styled,
    tag,
)
from lipsjax.report.plots.lines import interval_bar, named_lines
from lipsjax.report.plots.roles import LIGHT, Look, looks_of_rows

ACCURACIES = {"personalised": "Personalised accuracy", "global": "Global accuracy"}
"""Measure -> its heading."""

PRIMARY = "personalised"

MOST_IN_SUMMARY = 14
"""Lines of the forest plot of the first screen; a larger study has a map, or the whole plot."""

EFFECT_COLUMNS = (
    *("arm", "reference", "measure", "difference", "low", "high", "seeds", "p_adjusted"),
    "outcome",
)


def effect(row: Row, measure: str) -> tuple[Any, ...]:
    """A row's difference on one accuracy as a line of a table with EFFECT_COLUMNS."""
    interval, adjusted = gain(row, measure), row.adjusted[measure]
    word = outcome(row, measure, up="helps", down="hurts")
    return (row.arm, row.reference, measure, *interval, adjusted, word)


def gain(row: Row, measure: str) -> Interval:
    """A row's difference on one accuracy as it is drawn: no more than 100 points either way."""
    return clipped(row.differences[measure].interval, -1.0, 1.0)


def accuracy(row: Row, measure: str) -> Interval:
    """A row's accuracy as it is drawn: within 0 and 100%."""
    return clipped(row.means[measure], 0.0, 1.0)


@styled
def summary_forest(rows: Sequence[Row]) -> Drawing:
    """What every arm changes in personalised accuracy, small enough for a first screen.

    Args:
      rows: of all arms; those of the reference are left out.

    Returns:
      One panel, a line per cell and arm, with the number beside its interval. Of an arm that
      diverged, or has fewer seeds than an effect is named from, it is said so in words. No panel
      where no arm has an interval to draw, or there are more lines than :data:`MOST_IN_SUMMARY`.
    """
    compared = [row for row in rows if not row.is_reference]
    columns = ("cell", *EFFECT_COLUMNS)
    table = tuple((row.cell, *effect(row, PRIMARY)) for row in compared)
    if len(compared) > MOST_IN_SUMMARY or not any(map(_is_drawn, compared)):
        return Drawing((), columns, table)
    look = looks_of_rows(rows)
    figure, ax = named_lines(_summary_title(rows), _names(compared), line=0.24)
    beside = ax.get_yaxis_transform()  # x as a share of the axes, y a line
    for y, row in enumerate(compared):
        if _is_drawn(row):
            ax.plot([0, 0], [y - 0.5, y + 0.5], color=TICK, linewidth=0.9, zorder=1)
            _effect_bar(ax, row, PRIMARY, y, look[row.arm], size=5.5)
            text, place, ink = _typeset(gained(gain(row, PRIMARY))), 1.03, INK
        else:
            text, place, ink = _undrawn(row), 0.02, TICK
        told = ax.text(place, y, text, transform=beside, va="center", fontsize=8, color=ink)
        tag(told, row.arm, _tip(row, PRIMARY))
    for place, text, side in ((0, "← worse", "left"), (1, "better →", "right")):
        at: dict[str, Any] = {"xy": (place, 0), "xytext": (0, -17), "textcoords": "offset points"}
        ax.annotate(text, xycoords="axes fraction", ha=side, va="top", color=TICK, **at)
    return Drawing((figure,), columns, table)


@styled
def forest(rows: Sequence[Row]) -> Drawing:
    """Differences from the reference arm with their intervals.

    Args:
      rows: those of the reference are left out.

    Returns:
      A panel of personalised and one of global accuracy, one line per cell and arm.

    Raises:
      ValueError: if no row is compared with a reference.
    """
    compared = [row for row in rows if not row.is_reference]
    if not compared:
        raise ValueError("a study of the reference arm alone has no differences to draw")
    look = looks_of_rows(rows)
    one = len({row.reference for row in compared}) == 1
    panels = []
    for measure, title in ACCURACIES.items():
        figure, ax = named_lines(title, _names(compared))
        _zero(ax)
        for y, row in enumerate(compared):
            _effect_bar(ax, row, measure, y, look[row.arm])
        ax.set_xlabel(f"points above {compared[0].reference if one else 'its reference'}")
        panels.append((figure, ax))
    share([ax for _, ax in panels], x=True)
    return Drawing(
        panels=tuple(figure for figure, _ in panels),
        columns=("cell", *EFFECT_COLUMNS),
        rows=tuple((row.cell, *effect(row, m)) for m in ACCURACIES for row in compared),
    )


@styled
def pairs(rows: Sequence[Row]) -> Drawing:
    """Accuracy of each arm, alone and with the transient sparsity that is compared with it.

    Args:
      rows: of all arms.

    Returns:
      A panel of personalised and one of global accuracy, one line per arm without transient
      sparsity: means over seeds with 95% intervals, and beside it, in another colour, those of the
      arm with it whose reference it is, if there is one.
    """
    bases = [row for row in rows if not row.transient]
    # of several that are compared with one arm, LIPS, else the first
    transient = sorted((row for row in rows if row.transient), key=lambda r: is_lips(r.config))
    others = {(row.cell, row.reference): row for row in transient}
    names = [f"{cell_name(row.cell)} {row.arm}" for row in bases]
    alone, wrapped = Look(LIGHT["dense"]), Look(LIGHT["lips"], marker="s")
    panels, table = [], []
    for measure, title in ACCURACIES.items():
        figure, ax = named_lines(title, names, line=0.26)
        for y, row in enumerate(bases):
            both = ((row, alone, -0.16), (others.get((row.cell, row.arm)), wrapped, 0.16))
            for drawn, look, shift in both:
                if drawn is not None:
                    found = accuracy(drawn, measure)
                    tip = f"{drawn.arm}: {percent(found)}%"
                    interval_bar(ax, drawn.arm, found, y + shift, look, tip=tip)
                    table.append((row.cell, drawn.arm, measure, *found))
        percent_axis(ax, "x")
        panels.append((figure, ax))
    for look, label in ((alone, "alone"), (wrapped, "with transient sparsity")):
        style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 4.5}
        panels[0][1].plot([], [], label=label, **style)
    panels[0][0].legend(loc="outside lower center", ncols=2)
    return Drawing(
        panels=tuple(figure for figure, _ in panels),
        columns=("cell", "arm", "measure", "mean", "low", "high", "seeds"),
        rows=tuple(table),
    )


def _names(compared: Sequence[Row]) -> list[str]:
    """A name for each line: of the cell where one arm is compared, else of both.

    An arm with a reference of its own, other than the first line's, is told with it.
    """
    one_arm = len({row.arm for row in compared}) == 1

    def name(row: Row) -> str:
        cell = cell_name(row.cell)
        if one_arm and row.cell:
            return cell
        own = "" if row.reference == compared[0].reference else f" vs {row.reference}"
        return f"{cell} {row.arm}{own}".strip()

    return [name(row) for row in compared]


def _summary_title(rows: Sequence[Row]) -> str:
    """What the summary shows, and how accurate the reference is, where there is one row of it."""
    references = [row for row in rows if row.is_reference]
    if len(references) != 1:
        names = {row.reference for row in rows}
        return f"Points of accuracy against {names.pop() if len(names) == 1 else 'its reference'}"
    (reference,) = references
    level = f" ({100 * reference.means[PRIMARY].mean:.1f}%)" if reference.seeds else ""
    return f"Points of accuracy against {reference.arm}{level}"


def _zero(ax: Axes) -> None:
    ax.axvline(0, color=TICK, linewidth=0.9)


def _effect_bar(
    ax: Axes, row: Row, measure: str, y: float, look: Look, *, size: float = 4.5
) -> None:
    found, tip = gain(row, measure), _tip(row, measure)
    interval_bar(ax, row.arm, found, y, look, scale=100, size=size, tip=tip)


def _tip(row: Row, measure: str) -> str:
    """What is said on pointing at a difference."""
    found = gain(row, measure)
    return "" if math.isnan(found.mean) else f"{row.arm}: {_typeset(points(found))}"


def _is_drawn(row: Row) -> bool:
    return not row.diverged and not math.isnan(usable(gain(row, PRIMARY)).low)


def _undrawn(row: Row) -> str:
    """Why an arm has no interval, in a few words."""
    found = row.differences[PRIMARY].interval
    if row.diverged:
        return row.share_diverged
    if not found.n or math.isnan(found.mean):
        return "no seed to compare yet"
    seeds = "one seed" if found.n == 1 else f"{found.n} seeds"
    return f"{_typeset(gained(found._replace(low=math.nan)))} from {seeds}: too few to judge"


def _typeset(text: str) -> str:
    """The text with minus signs for hyphens before digits."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)
