"""Lines and points with names: what figures of arms and of sites share."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lipsjax.analysis.finding import usable
from lipsjax.analysis.stats import Interval
from lipsjax.report.plots.figures import INK, label_of, panel, tag
from lipsjax.report.plots.roles import Look

LINE = 12.5
"""Points; the height of a line of text."""


def around(centre: float, count: int) -> list[float]:
    """Places of `count` lines that share the space of one."""
    return [centre + 0.7 * ((i + 0.5) / count - 0.5) for i in range(count)]


def named_lines(title: str, names: Sequence[str], *, line: float = 0.22) -> tuple[Figure, Axes]:
    """A panel with a line for each name, from the top; `line` is the height of one in inches."""
    labels = [label_of(name) for name in names]
    lines = sum(1 + label.count("\n") for label in labels)
    figure, ax = panel(height=0.85 + line * max(lines, 2))
    # from the edge of the figure, as long names leave a narrow axes
    figure.suptitle(title, x=0.02, ha="left", fontsize=9, fontweight="bold")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.12)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.set_yticks(range(len(labels)), labels, color=INK)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    return figure, ax


def interval_bar(
    ax: Axes, arm: str, interval: Interval, y: float, look: Look, *,
    scale: float = 1.0, size: float = 4.5, tip: str = "",
) -> None:  # fmt: skip
    """A marker with its interval; hollow where nothing is named from so few seeds."""
    mean, low, high = (scale * value for value in interval[:3])
    (bar,) = ax.plot([low, high], [y, y], color=look.colour, linewidth=0.45 * size)
    bar.set_solid_capstyle("butt")
    fill = "none" if math.isnan(usable(interval).low) else look.colour
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markerfacecolor": fill}
    style |= {"clip_on": False}  # at 100% half of it lies beyond
    (dot,) = ax.plot([mean], [y], markersize=size, **style)
    for artist in (bar, dot):
        tag(artist, arm, tip)


def name_beside(figure: Figure, ax: Axes, points: Sequence[tuple[float, float, str, Look]]) -> None:
    """Names in a column at the right, in the order of their points, so that none hides another.

    Args:
      figure: high enough for them.
      ax: its panel, whose limits are kept.
      points: x, y, arm and look of each.
    """
    points = [point for point in points if not math.isnan(point[1])]
    if not points:
        return
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    column = left + 1.05 * (right - left)
    line = LINE / (72 * figure.get_figheight() - 55)  # as a share of the axes
    points = sorted(points, key=lambda point: point[1])
    wanted = [(y - low) / (high - low) for _, y, _, _ in points]
    for share, (x, y, name, look) in zip(spread(wanted, line), points, strict=True):
        place = low + share * (high - low)
        style: dict[str, Any] = {
            "color": look.colour,
            "linewidth": 0.8,
            "alpha": 0.7,
            "clip_on": False,
        }
        (leader,) = ax.plot([x, column], [y, place], scalex=False, scaley=False, **style)
        text = ax.annotate(
            label_of(name, 22, lines=1),
            (column, place),
            (2, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8,
            annotation_clip=False,
        )
        for artist in (leader, text):
            tag(artist, name)


def spread(wanted: Sequence[float], gap: float) -> np.ndarray:
    """Ascending places near those wanted, at least a gap apart, within 0 and 1 if they fit.

    >>> spread([0.5, 0.5, 1.0], 0.25).tolist()
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
