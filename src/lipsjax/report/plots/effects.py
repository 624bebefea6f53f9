"""Figures of comparison rows: what differs, what it costs, what moves with it.

All take rows of :func:`lipsjax.analysis.comparison.compare`, but for that of sites.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from lipsjax.analysis.comparison import Row
from lipsjax.analysis.controls import is_lips
from lipsjax.analysis.finding import outcome, usable
from lipsjax.analysis.sites import Site
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import clipped, format_bits
from lipsjax.report.plots.figures import (
    AXIS,
    COLOURS,
    TICK,
    Drawing,
    cell_name,
    colours,
    interval_columns,
    label_of,
    line_key,
    panel,
    share,
    styled,
)

ACCURACIES = {"personalised": "Personalised accuracy", "global": "Global accuracy"}
"""Measure -> its heading."""

MOST_LINES = 24
"""Lines that have a name each."""

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
    shade = colours([row.arm for row in rows])
    one_arm = len({row.arm for row in compared}) == 1
    one = len({row.reference for row in compared}) == 1
    names = [
        cell_name(row.cell) if one_arm and row.cell else f"{cell_name(row.cell)} {row.arm}"
        for row in compared
    ]
    panels = []
    for measure, title in ACCURACIES.items():
        figure, ax = _named_lines(title, names)
        ax.axvline(0, color=TICK, linewidth=0.9)
        for y, row in enumerate(compared):
            _interval(ax, gain(row, measure), y, shade[row.arm], scale=100)
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
    panels, table = [], []
    for measure, title in ACCURACIES.items():
        figure, ax = _named_lines(title, names)
        for y, row in enumerate(bases):
            both = ((row, COLOURS[0], -0.14), (others.get((row.cell, row.arm)), COLOURS[1], 0.14))
            for drawn, colour, shift in both:
                if drawn is not None:
                    _interval(ax, accuracy(drawn, measure), y + shift, colour)
                    table.append((row.cell, drawn.arm, measure, *accuracy(drawn, measure)))
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panels.append((figure, ax))
    for colour, label in ((COLOURS[0], "alone"), (COLOURS[1], "with transient sparsity")):
        panels[0][1].plot([], [], "o-", color=colour, markersize=4.5, label=label)
    panels[0][0].legend(loc="outside lower center", ncols=2)
    return Drawing(
        panels=tuple(figure for figure, _ in panels),
        columns=("cell", "arm", "measure", "mean", "low", "high", "seeds"),
        rows=tuple(table),
    )


@styled
def sites(
    shown: Sequence[Site], arms: Sequence[str], shade: Mapping[str, str], *, alone: str | None
) -> Drawing:
    """Accuracy of each site, and what it gains over training alone.

    Args:
      shown: the sites, a line each.
      arms: that are drawn.
      shade: colour of each arm.
      alone: the arm that trains alone; None: there is none, and no second panel.

    Returns:
      A panel of accuracies and one of differences from the arm that trains alone: means over
      seeds with 95% intervals.
    """
    names = [site.name if site.trains else f"{site.name} (held out)" for site in shown]
    table, panels = [], []
    for title, by_arm in (
        ("Accuracy of each site", _site_accuracies),
        (f"Gain over {alone}", _site_gains),
    ):
        drawn = [arm for arm in arms if any(arm in by_arm(site) for site in shown)]
        if not drawn:
            continue
        is_gain = by_arm is _site_gains
        figure, ax = _named_lines(title, names, line=max(0.22, 0.11 * len(arms)))
        if is_gain:
            ax.axvline(0, color=TICK, linewidth=0.9)
            ax.set_xlabel(f"points above {alone}")
        else:
            ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        for y, site in enumerate(shown):
            for place, arm in zip(_around(y, len(drawn)), drawn, strict=True):
                found = by_arm(site).get(arm)
                if found is None or math.isnan(found.mean):
                    continue
                _interval(ax, found, place, shade[arm], scale=100 if is_gain else 1, size=4)
                table.append((site.name, arm, "gain" if is_gain else "accuracy", *found))
        panels.append(figure)
    return Drawing(
        panels=tuple(panels),
        columns=("site", "arm", "measure", "mean", "low", "high", "seeds"),
        rows=tuple(table),
        key=line_key([(arm, shade[arm], "-") for arm in arms]),
    )


def _site_accuracies(site: Site) -> dict[str, Interval]:
    return {arm: clipped(found, 0.0, 1.0) for arm, found in site.accuracies.items()}


def _site_gains(site: Site) -> dict[str, Interval]:
    compared = site.against_alone.items()
    return {arm: clipped(found.difference.interval, -1.0, 1.0) for arm, found in compared}


@styled
def cost(rows: Sequence[Row]) -> Drawing:
    """What each arm costs against the accuracy that it reaches.

    Args:
      rows: of the arms of one cell.

    Returns:
      Personalised and global accuracy over bits moved per run, up and down together, then over
      floating-point operations where they were counted, else over seconds. A dot is the mean over
      seeds, its lines 95% intervals, its arm's name is written beside it.
    """
    finished = [row for row in rows if row.seeds]
    shade = colours([row.arm for row in rows])
    counted = any(row.means["flops"].mean > 0 for row in finished)
    costs: dict[str, tuple[Callable[[Row], Interval], str, Callable[[float], str]]] = {
        "bits": (_bits, "moved per run, up and down", format_bits),
        "flops": (lambda row: row.means["flops"], "operations per run", _si("FLOP")),
        "seconds": (lambda row: row.means["seconds"], "time per run", _si("s")),
    }
    del costs["seconds" if counted else "flops"]
    panels, table = [], []
    for name, (of, label, unit) in costs.items():
        drawn = [row for row in finished if not math.isnan(of(row).mean)]
        for measure, title in ACCURACIES.items():
            height = max(2.35, 0.75 + 0.17 * len(drawn))
            figure, ax = panel(height=height)
            for row in drawn:
                spent = clipped(of(row), 0.0, math.inf)
                _cross(ax, spent, accuracy(row, measure), shade[row.arm])
                table.append((row.arm, name, *spent[:3], measure, *accuracy(row, measure)))
            ax.margins(x=0.12, y=0.08)
            _name_beside(
                ax,
                [(of(r).mean, r.means[measure].mean, r.arm, shade[r.arm]) for r in drawn],
                height=height,
            )
            ax.set_title(title)
            ax.set_xlabel(label)
            ax.xaxis.set_major_locator(MaxNLocator(3))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _, unit=unit: unit(v)))
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
            panels.append(figure)
    return Drawing(
        panels=tuple(panels),
        columns=(
            *("arm", "cost", *interval_columns(("cost",))),
            *("measure", *interval_columns(("accuracy",)), "seeds"),
        ),
        rows=tuple(table),
    )


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
    shade = colours([row.arm for row in rows])
    title = "Relative step and aggregation gain"
    if len(measured) > MOST_LINES:
        arms = list(dict.fromkeys(row.arm for row in measured))
        at = {arm: iter(_around(i, sum(r.arm == arm for r in measured)))
              for i, arm in enumerate(arms)}  # fmt: skip
        figure, ax = _named_lines(title, arms, line=0.55)
        places, size = [next(at[row.arm]) for row in measured], 2.5
    else:
        names = [f"{cell_name(row.cell)} {row.arm}" for row in measured]
        figure, ax = _named_lines(title, names)
        places, size = range(len(names)), 4.5
    ax.axvline(0, color=TICK, linewidth=0.9)
    for y, row in zip(places, measured, strict=True):
        _interval(ax, _correlation(row), y, shade[row.arm], size=size)
    ax.set_xlim(-1.05, 1.05)
    ax.set_xlabel("rank correlation within a run")
    return Drawing(
        panels=(figure,),
        columns=("cell", "arm", *interval_columns(("coupling",)), "seeds"),
        rows=tuple((row.cell, row.arm, *_correlation(row)) for row in measured),
    )


def _correlation(row: Row) -> Interval:
    return clipped(row.means["coupling"], -1.0, 1.0)


def _around(centre: float, count: int) -> list[float]:
    """Places of `count` lines that share the space of one."""
    return [centre + 0.7 * ((i + 0.5) / count - 0.5) for i in range(count)]


def _named_lines(title: str, names: Sequence[str], *, line: float = 0.22) -> tuple[Figure, Axes]:
    """A panel with a line for each name, from the top; `line` is the height of one in inches."""
    labels = [label_of(name) for name in names]
    lines = sum(1 + label.count("\n") for label in labels)
    figure, ax = panel(height=0.85 + line * max(lines, 2))
    # from the edge of the figure, as long names leave a narrow axes
    figure.suptitle(title, x=0.02, ha="left", fontsize=9, fontweight="bold")
    ax.grid(visible=False, axis="y")
    ax.margins(x=0.12)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    return figure, ax


def _interval(
    ax: Axes, interval: Interval, y: float, colour: str, *, scale: float = 1.0, size: float = 4.5
) -> None:
    """A dot with its interval; hollow where nothing is named from so few seeds."""
    mean, low, high = (scale * value for value in interval[:3])
    width = 0.45 * size
    ax.plot([low, high], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    fill = "none" if math.isnan(usable(interval).low) else colour
    ax.plot([mean], [y], "o", color=colour, markerfacecolor=fill, markersize=size)


def _cross(ax: Axes, x: Interval, y: Interval, colour: str) -> None:
    """A dot with its intervals along both axes."""
    ax.plot([x.low, x.high], [y.mean, y.mean], color=colour, linewidth=1.2)
    ax.plot([x.mean, x.mean], [y.low, y.high], color=colour, linewidth=1.2)
    fill = "none" if math.isnan(y.low) else colour
    ax.plot([x.mean], [y.mean], "o", color=colour, markerfacecolor=fill, markersize=5)


def _name_beside(
    ax: Axes, points: Sequence[tuple[float, float, str, str]], *, height: float
) -> None:
    """Names in a column at the right, in the order of their points, so that none hides another."""
    points = [point for point in points if not math.isnan(point[1])]
    if not points:
        return
    low, high = ax.get_ylim()
    right = ax.get_xlim()[1]
    line = 12.5 / (72 * height - 55)  # a line of text as a share of the axes
    points = sorted(points, key=lambda point: point[1])
    wanted = [(y - low) / (high - low) for _, y, _, _ in points]
    for place, (x, y, name, colour) in zip(_spread(wanted, line), points, strict=True):
        at = low + place * (high - low)
        ax.plot(
            [x, right], [y, at], color=AXIS, linewidth=0.6, zorder=1, clip_on=False, scalex=False
        )
        ax.annotate(
            label_of(name, 22, lines=1),
            (right, at),
            (3, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8,
            annotation_clip=False,
        )
    ax.set_ylim(low, high)


def _spread(wanted: Sequence[float], gap: float) -> np.ndarray:
    """Ascending places near those wanted, at least a gap apart, within 0 and 1 if they fit.

    >>> _spread([0.5, 0.5, 1.0], 0.25).tolist()
    [0.5, 0.75, 1.0]
    """
    places = np.array(wanted)
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(places))):
        places[i] = ceiling = min(places[i], ceiling)
        ceiling -= gap
    return places


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
