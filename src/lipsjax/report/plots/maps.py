"""Where in a grid an arm helps or hurts: a map of its differences from its reference."""

from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lipsjax.analysis.comparison import Row
from lipsjax.analysis.decision import BETTER, EQUIVALENT, OPEN, UNDECIDED, WORSE
from lipsjax.analysis.finding import NO_DIFFERENCE, UNKNOWN, outcome
from lipsjax.report.plots.figures import PAPER, PLATE, Drawing, colour_key, panel, styled
from lipsjax.report.plots.forest import ACCURACIES, EFFECT_COLUMNS, effect

PLANNED = {BETTER: "⇑", WORSE: "⇓", EQUIVALENT: "≈", UNDECIDED: "◇", OPEN: "…"}
MARKS = {
    **{"helps": "▲", "hurts": "▼", "gains": "▲", "loses": "▼", NO_DIFFERENCE: "○", UNKNOWN: "?"},
    **PLANNED,
}
"""Outcome of an interval or of planned looks -> its sign, for readers without colour."""

_UNNAMED = (NO_DIFFERENCE, UNKNOWN, UNDECIDED, OPEN)

Claims = Mapping[tuple[str, str, str], str]
"""Label of a cell, arm, measure -> what planned looks say of it."""

_DIVERGING = "RdBu"


class Grid(NamedTuple):
    """A study's cells as the product of one to three fields."""

    fields: tuple[str, ...]  # short names
    values: tuple[tuple[str, ...], ...]  # of each field, in the study's order
    place: Mapping[str, tuple[int, ...]]  # label of a cell -> index of its value of each field

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a panel; a single field is laid out in columns."""
        sizes = [len(values) for values in self.values]
        return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])

    def at(self, label: str) -> tuple[int, int, int]:
        """Panel, row and column of a cell."""
        place = self.place[label]
        if len(place) == 1:
            return 0, 0, place[0]
        return (place[2] if len(place) == 3 else 0), place[0], place[1]


def grid_of(cells: Sequence[Mapping[str, Any]]) -> Grid | None:
    """The grid that a study's cells make.

    Args:
      cells: those of the study, each with its ``label`` and the fields that it overrides.

    Returns:
      The grid of the fields with more than one value; none where there are no such fields or more
      than three, or where the cells are not their full product.

    Example:
      >>> cells = [{"label": f"a.b = {v}", "overrides": {"a.b": v}} for v in (1, 2)]
      >>> grid_of(cells)
      Grid(fields=('b',), values=(('1', '2'),), place={'a.b = 1': (0,), 'a.b = 2': (1,)})
    """
    overrides = [
        {name: str(value) for name, value in cell.get("overrides", {}).items()} for cell in cells
    ]
    if any(chosen.keys() != overrides[0].keys() for chosen in overrides):
        return None
    known = {name: list(dict.fromkeys(c[name] for c in overrides)) for name in overrides[0]}
    known = {name: values for name, values in known.items() if len(values) > 1}
    places = [tuple(vs.index(c[name]) for name, vs in known.items()) for c in overrides]
    full = list(product(*(range(len(values)) for values in known.values())))
    if not 1 <= len(known) <= 3 or sorted(places) != full:
        return None
    return Grid(
        fields=_short(list(known)),
        values=tuple(map(tuple, known.values())),
        place={cell["label"]: place for cell, place in zip(cells, places, strict=True)},
    )


def largest_difference(rows: Sequence[Row]) -> float:
    """Largest absolute difference in accuracy of any row; a hundredth where there is none."""
    found = [
        abs(row.differences[measure].interval.mean)
        for row in rows
        if not row.is_reference
        for measure in ACCURACIES
    ]
    return max((value for value in found if value > 0), default=0.01)


def found(row: Row, measure: str, claims: Claims) -> str:
    """What planned looks say of a row, or its outcome where none were planned; of MARKS."""
    claim = claims.get((row.cell, row.arm, measure))
    return claim or outcome(row, measure, up="helps", down="hurts")


@styled
def effect_map(
    rows: Sequence[Row], grid: Grid, *, limit: float, claims: Claims = MappingProxyType({})
) -> Drawing:
    """Accuracy differences of one arm from its reference, over the cells of a grid.

    Args:
      rows: rows of that arm, one per cell, of :func:`lipsjax.analysis.comparison.compare`.
      grid: the cells.
      limit: end of the colour scale on both sides of zero, as :func:`largest_difference` has it.
      claims: what planned looks decided, of :func:`lipsjax.analysis.planned.claims_of`.

    Returns:
      For personalised and for global accuracy one panel per value of the third field; rows are the
      values of the first, columns those of the second. A cell holds the difference in points and
      the sign of what planned looks say of it, or of its outcome where none were planned.
    """
    norm = Normalize(-100 * limit, 100 * limit)
    by_panel: dict[int, list[Row]] = {}
    for row in rows:
        by_panel.setdefault(grid.at(row.cell)[0], []).append(row)
    panels = []
    for measure, title in ACCURACIES.items():
        for index, members in sorted(by_panel.items()):
            figure, ax = _cells(members, grid, measure, norm, claims)
            third = f", {grid.fields[2]} {grid.values[2][index]}" if len(grid.fields) == 3 else ""
            ax.set_title(title + third)
            panels.append(figure)
    key, _ = colour_key(norm, _DIVERGING, f"points above {rows[0].reference}")
    return Drawing(
        panels=tuple(panels),
        columns=(*grid.fields, *EFFECT_COLUMNS, "planned"),
        rows=tuple(
            (*_values(grid, row), *effect(row, m), claims.get((row.cell, row.arm, m), ""))
            for m in ACCURACIES
            for row in rows
        ),
        key=key,
    )


def _cells(
    rows: Sequence[Row], grid: Grid, measure: str, norm: Normalize, claims: Claims
) -> tuple[Figure, Axes]:
    """One panel: a coloured cell for each row, with its number and its sign."""
    height, width = grid.shape
    figure, ax = panel(height=0.8 + 0.36 * height)
    points = np.full(grid.shape, np.nan)
    size = 8.0 if width <= 5 else 6.8
    for row in rows:
        _, y, x = grid.at(row.cell)
        value = points[y, x] = 100 * row.differences[measure].interval.mean
        word = found(row, measure, claims)
        sign = MARKS[word]
        text = sign if np.isnan(value) else f"{sign} {round(value, 1) + 0.0:+.1f}".replace("-", "−")
        ink = _ink(value, norm)
        weight = "normal" if word in _UNNAMED else "bold"
        style: dict[str, Any] = {"fontsize": size, "fontweight": weight, "color": ink}
        ax.text(x, y, text, ha="center", va="center", **style)
    edges = np.arange(width + 1) - 0.5, np.arange(height + 1) - 0.5
    ax.pcolormesh(
        *edges,
        np.ma.masked_invalid(points),
        norm=norm,
        cmap=_DIVERGING,
        edgecolors=PAPER,
        linewidth=1.5,
    )
    ax.set_facecolor(PLATE)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xticks(range(width), grid.values[min(len(grid.values), 2) - 1])
    ax.set_xlabel(grid.fields[min(len(grid.values), 2) - 1])
    ax.set_yticks([])
    if len(grid.values) > 1:
        ax.set_yticks(range(height), grid.values[0])
        ax.set_ylabel(grid.fields[0])
    return figure, ax


def _ink(value: float, norm: Normalize) -> str:
    """White or dark, whichever can be read on the cell of a value."""
    if np.isnan(value):
        return "#777777"
    red, green, blue, _ = mpl.colormaps[_DIVERGING](norm(value))
    return "#ffffff" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else "#222222"


def _values(grid: Grid, row: Row) -> tuple[str, ...]:
    """The fields' values in a row's cell."""
    return tuple(vs[i] for vs, i in zip(grid.values, grid.place[row.cell], strict=True))


def _short(fields: Sequence[str]) -> tuple[str, ...]:
    """The last part of each dotted name, where that tells them apart.

    >>> _short(["partition.train_examples", "partition.alpha"])
    ('train examples', 'alpha')
    """
    last = [name.rpartition(".")[2].replace("_", " ") for name in fields]
    return tuple(last) if len(set(last)) == len(last) else tuple(fields)
