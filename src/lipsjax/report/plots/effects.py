"""Figures of what arms cost, what moves with it, and of sites.

Those of arms take rows of :func:`lipsjax.analysis.comparison.compare`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lipsjax.analysis.comparison import Row
from lipsjax.analysis.sites import Site
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import clipped, format_bits, gained, percent, shown
from lipsjax.report.plots.figures import (
    PLATE,
    TICK,
    Drawing,
    arm_key,
    cell_name,
    interval_columns,
    panel,
    percent_axis,
    styled,
    tag,
)
from lipsjax.report.plots.forest import ACCURACIES, accuracy
from lipsjax.report.plots.lines import around, interval_bar, name_beside, named_lines
from lipsjax.report.plots.roles import Look, looks_of_rows

SAME = 0.02
"""Share by which the costs of arms differ at most where a figure of them would show nothing."""

MOST_LINES = 24
"""Lines that have a name each."""


@styled
def sites(
    listed: Sequence[Site], arms: Sequence[str], look: Mapping[str, Look], *, alone: str | None
) -> Drawing:
    """Accuracy of each site, and what it gains over training alone.

    Args:
      listed: the sites, a line each.
      arms: that are drawn.
      look: of each arm, as :func:`lipsjax.report.plots.looks_of` has it.
      alone: the arm that trains alone; None: there is none, and no second panel.

    Returns:
      A panel of accuracies and one of differences from the arm that trains alone: means over
      seeds with 95% intervals.
    """
    names = [site.name if site.trains else f"{site.name} (held out)" for site in listed]
    table, panels = [], []
    for measure, title, by_arm in (
        ("accuracy", "Accuracy of each site", _site_accuracies),
        ("gain", f"Gain over {alone}", _site_gains),
    ):
        drawn = [arm for arm in arms if any(arm in by_arm(site) for site in listed)]
        if not drawn:
            continue
        figure, ax = named_lines(title, names, line=max(0.22, 0.11 * len(arms)))
        for y, site in enumerate(listed):
            if y % 2:  # a ground behind every other site holds its arms together
                ax.axhspan(y - 0.5, y + 0.5, color=PLATE, linewidth=0, zorder=0)
            for place, arm in zip(around(y, len(drawn)), drawn, strict=True):
                found = by_arm(site).get(arm)
                if found is None or math.isnan(found.mean):
                    continue
                told = gained(found) if measure == "gain" else f"{percent(found)}%"
                tip, scale = f"{site.name}, {arm}: {told}", 100 if measure == "gain" else 1
                interval_bar(ax, arm, found, place, look[arm], scale=scale, size=4, tip=tip)
                table.append((site.name, arm, measure, *found))
        if measure == "gain":
            ax.axvline(0, color=TICK, linewidth=0.9)
            ax.set_xlabel(f"points above {alone}")
        else:
            percent_axis(ax, "x")
            ax.set_xlabel("accuracy")
        panels.append(figure)
    return Drawing(
        panels=tuple(panels),
        columns=("site", "arm", "measure", "mean", "low", "high", "seeds"),
        rows=tuple(table),
        key=arm_key({arm: look[arm] for arm in arms}, markers=True),
    )


def _site_accuracies(site: Site) -> dict[str, Interval]:
    return {arm: clipped(found, 0.0, 1.0) for arm, found in site.accuracies.items()}


def _site_gains(site: Site) -> dict[str, Interval]:
    compared = site.against_alone.items()
    return {arm: clipped(found.difference.interval, -1.0, 1.0) for arm, found in compared}


class Cost(NamedTuple):
    """One thing that a run costs."""

    of: Callable[[Row], Interval]
    label: str  # of its axis
    text: Callable[[float], str]  # a number with its unit


@styled
def cost(rows: Sequence[Row]) -> Drawing:
    """What each arm costs against the accuracy that it reaches.

    Args:
      rows: of the arms of one cell.

    Returns:
      Personalised and global accuracy over bits moved per run, up and down together, then over
      floating-point operations where they were counted, else over seconds. A dot is the mean over
      seeds, its lines 95% intervals, its arm's name is written beside it. A cost that is the same
      in all arms, to :data:`SAME`, has no panel, though its numbers are in the table.
    """
    finished, look = [row for row in rows if row.seeds], looks_of_rows(rows)
    panels, table = [], []
    for name, kind in _costs(finished).items():
        drawn = [row for row in finished if not math.isnan(kind.of(row).mean)]
        for measure, title in ACCURACIES.items():
            table += [
                (row.arm, name, *_spent(row, kind)[:3], measure, *accuracy(row, measure))
                for row in drawn
            ]
            if _differs([kind.of(row).mean for row in drawn]):
                figure, ax = _cost_panel(drawn, kind, measure, look)
                ax.set_title(title)
                panels.append((figure, ax))
    return Drawing(
        panels=tuple(figure for figure, _ in panels),
        columns=(
            *("arm", "cost", *interval_columns(("cost",))),
            *("measure", *interval_columns(("accuracy",)), "seeds"),
        ),
        rows=tuple(table),
    )


def _costs(finished: Sequence[Row]) -> dict[str, Cost]:
    """Bits, and operations where they were counted, else seconds."""
    if any(row.means["flops"].mean > 0 for row in finished):
        work = {"flops": Cost(_mean_of("flops"), "operations per run", _si("FLOP"))}
    else:
        work = {"seconds": Cost(_mean_of("seconds"), "time per run", _si("s"))}
    return {"bits": Cost(_bits, "moved per run, up and down", format_bits)} | work


def _mean_of(measure: str) -> Callable[[Row], Interval]:
    return lambda row: row.means[measure]


def _spent(row: Row, kind: Cost) -> Interval:
    return clipped(kind.of(row), 0.0, math.inf)


def _differs(costs: Sequence[float]) -> bool:
    """Whether there is anything to see of costs side by side.

    >>> _differs([100.0, 101.0]), _differs([100.0, 110.0]), _differs([0.0, 0.0])
    (False, True, False)
    """
    return len(costs) > 1 and max(costs) - min(costs) > SAME * max(costs)


def _cost_panel(
    drawn: Sequence[Row], kind: Cost, measure: str, look: Mapping[str, Look]
) -> tuple[Figure, Axes]:
    figure, ax = panel(height=max(2.35, 0.75 + 0.17 * len(drawn)))
    for row in drawn:
        spent, reached = _spent(row, kind), accuracy(row, measure)
        tip = f"{row.arm}: {percent(reached)}% for {kind.text(spent.mean)}"
        cross(ax, row.arm, spent, reached, look[row.arm], tip)
    ax.margins(x=0.12, y=0.08)
    percent_axis(ax, "y")
    ax.set_xlim(left=max(0.0, ax.get_xlim()[0]))
    named = [(kind.of(row).mean, row.means[measure].mean, row.arm, look[row.arm]) for row in drawn]
    name_beside(figure, ax, named)
    ax.set_xlabel(kind.label)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: kind.text(value)))
    return figure, ax


@styled
def coupling(rows: Sequence[Row]) -> Drawing:
    """Whether the middle layers' relative step and what aggregation gains go together, per arm.

    Args:
      rows: of all arms and cells.

    Returns:
      One panel with a line for each cell and arm: the rank correlation of their first differences
      within a run, its mean over seeds and 95% interval. Of many cells, the lines of an arm stand
      close together under its name.
    """
    measured = [row for row in rows if not math.isnan(row.means["coupling"].mean)]
    look = looks_of_rows(rows)
    title = "Relative step and aggregation gain"
    if len(measured) > MOST_LINES:
        arms = list(dict.fromkeys(row.arm for row in measured))
        at = {arm: iter(around(i, sum(r.arm == arm for r in measured)))
              for i, arm in enumerate(arms)}  # fmt: skip
        figure, ax = named_lines(title, arms, line=0.55)
        places, size = [next(at[row.arm]) for row in measured], 2.5
    else:
        names = [f"{cell_name(row.cell)} {row.arm}" for row in measured]
        figure, ax = named_lines(title, names)
        places, size = range(len(names)), 4.5
    ax.axvline(0, color=TICK, linewidth=0.9)
    for y, row in zip(places, measured, strict=True):
        found = _correlation(row)
        tip = f"{row.arm}: {shown(found, digits=2)}"
        interval_bar(ax, row.arm, found, y, look[row.arm], size=size, tip=tip)
    ax.set_xlim(-1.05, 1.05)
    ax.set_xlabel("rank correlation within a run")
    return Drawing(
        panels=(figure,),
        columns=("cell", "arm", *interval_columns(("coupling",)), "seeds"),
        rows=tuple((row.cell, row.arm, *_correlation(row)) for row in measured),
    )


def _correlation(row: Row) -> Interval:
    return clipped(row.means["coupling"], -1.0, 1.0)


def cross(ax: Axes, arm: str, x: Interval, y: Interval, look: Look, tip: str) -> None:
    """A marker with its intervals along both axes."""
    style: dict[str, Any] = {"color": look.colour, "linewidth": 1.2}
    bars = ax.plot([x.low, x.high], [y.mean, y.mean], [x.mean, x.mean], [y.low, y.high], **style)
    fill = "none" if math.isnan(y.low) else look.colour
    style = {"color": look.colour, "marker": look.marker, "markerfacecolor": fill}
    style |= {"clip_on": False}  # a cost may be none
    for artist in (*bars, *ax.plot([x.mean], [y.mean], markersize=5, **style)):
        tag(artist, arm, tip)


def _bits(row: Row) -> Interval:
    """Bits up and down per run: the sum of two means, whose intervals do not add."""
    up, down = row.means["uplink_bits"], row.means["downlink_bits"]
    exact = up.low == up.high and down.low == down.high
    total = up.mean + down.mean
    bound = total if exact else math.nan
    return Interval(total, bound, bound, up.n)


def _si(unit: str) -> Callable[[float], str]:
    """Writes numbers with decimal prefixes."""

    def text(value: float) -> str:
        prefixes = ("", "k", "M", "G", "T", "P", "E")
        power = int(math.log10(abs(value)) // 3) if value else 0
        power = min(max(power, 0), len(prefixes) - 1)
        return f"{value / 1000**power:.4g} {prefixes[power]}{unit}"

    return text
