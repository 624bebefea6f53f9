"""What all figures share: how they look, how they come onto a page, and the numbers they show.

A figure is a :class:`Drawing`: panels, each a Matplotlib figure of its own, so that a page can set
them side by side or below each other, and the table of the numbers that they show. Its colours
become CSS variables in the page, which gives each a light and a dark value; colours that are not in
:data:`PAINTS`, as those of heat maps, stay what they are.

References:
  Okabe and Ito, `Color Universal Design <https://jfly.uni-koeln.de/color/>`_, 2008.
"""

import base64
import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lipsjax.report.table import table_text

PANEL = 3.7
"""Inches; two panels fill the text column of the page, one fills that of a phone."""

SMALL = 1.8
"""Inches; the width of a panel among many."""


class Drawing(NamedTuple):
    """A figure of the page."""

    panels: tuple[Figure, ...]  # one below the other, or side by side
    columns: tuple[str, ...]  # names of the table's columns
    rows: tuple[tuple[Any, ...], ...]  # what the panels show
    key: Figure | None = None  # what all panels share: a colour bar, a legend


class Paint(NamedTuple):
    """A colour of the figures, on light and on dark ground."""

    name: str  # of the CSS variable
    light: str
    dark: str


Dash = Literal["-", "--", "-.", ":"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Of arms: Okabe and Ito's, which colour-blind readers can tell apart."""
GREY = "#6b6b6b"
INK = "#1d2329"
TICK = "#444c55"
AXIS = "#9aa1a9"
GRID = "#e3e6ea"
PLATE = "#eceef1"
"""Ground of heat maps, seen where they have no value."""
PAPER = "#fefefe"
"""Ground of the page; not white, which is an ink of heat maps."""

PAINTS = (
    Paint("ink", INK, "#e6e9ed"),
    Paint("tick", TICK, "#b3bac2"),
    Paint("axis", AXIS, "#6d757e"),
    Paint("grid", GRID, "#2c333a"),
    Paint("plate", PLATE, "#262c33"),
    Paint("paper", PAPER, "#14181d"),
    Paint("grey", GREY, "#a3abb4"),
    *(
        Paint(f"arm{i}", light, dark)
        for i, (light, dark) in enumerate(
            zip(
                COLOURS,
                ("#4aa8e0", "#ff8540", "#2ec79b", "#e5a3c8", "#8fd0f5", "#ffc14d"),
                strict=True,
            )
        )
    ),
)
"""Every colour that follows the reader's choice of light or dark."""

_VARIABLES = {paint.light: f"var(--{paint.name})" for paint in PAINTS}

styled = mpl.rc_context(
    {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8.5,
        "text.parse_math": False,  # a dollar in a name is a dollar
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": AXIS,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "xtick.color": TICK,
        "ytick.color": TICK,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.5,
    }
)
"""Decorates a function that draws."""


def colours(arms: Sequence[str]) -> dict[str, str]:
    """Arm -> its colour, by order of first appearance."""
    return {arm: COLOURS[i % len(COLOURS)] for i, arm in enumerate(dict.fromkeys(arms))}


def dashes(arms: Sequence[str]) -> dict[str, Dash]:
    """Arm -> the dash of its lines, another one once the colours begin again."""
    kinds: tuple[Dash, ...] = ("-", "--", "-.", ":")
    known = enumerate(dict.fromkeys(arms))
    return {arm: kinds[i // len(COLOURS) % len(kinds)] for i, arm in known}


def cell_name(label: str) -> str:
    """A cell's label as a figure has room for it; lines break between fields alone.

    >>> cell_name("partition.train_examples = 10, partition.alpha = 0.1").replace(chr(160), " ")
    'train examples 10, alpha 0.1'
    """
    named = re.sub(r"(?<![\w.])(?:\w+\.)*(\w+) = ", r"\1 ", label).replace("_", " ")
    return named.replace(" ", chr(160)).replace(f",{chr(160)}", ", ")


def panel(*, width: float = PANEL, height: float = 2.35) -> tuple[Figure, Axes]:
    """A figure of one panel, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def share(axes: Sequence[Axes], *, x: bool = False, y: bool = False) -> None:
    """Gives panels the same limits: those that hold all that any of them shows."""
    for wanted, which in ((x, "x"), (y, "y")):
        if wanted and axes:
            limits = [getattr(ax, f"get_{which}lim")() for ax in axes]
            bounds = min(low for low, _ in limits), max(high for _, high in limits)
            for ax in axes:
                getattr(ax, f"set_{which}lim")(bounds)


def colour_key(norm: Normalize, cmap: str, label: str) -> tuple[Figure, Colorbar]:
    """A colour bar as a figure of its own, for panels that share it."""
    figure, ax = panel(height=0.55)
    bar = figure.colorbar(ScalarMappable(norm, cmap), cax=ax, orientation="horizontal")
    bar.set_label(label)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure, bar


def label_of(name: str, width: int = 24, *, lines: int = 2) -> str:
    r"""A name as a figure shows it: at most so many lines, and no formula between dollars.

    Example:
      >>> label_of("dense"), label_of("on and on and on", width=9, lines=1)
      ('dense', 'on and…')
      >>> print(label_of("$x$"))
      \$x\$
    """
    wrapped = textwrap.fill(" ".join(name.split()), width, max_lines=lines, placeholder="…")
    if len(wrapped) <= 1 < len(name):  # a first word that is too long leaves its mark alone
        wrapped = f"{name[: width - 1]}…"
    return wrapped.replace("$", r"\$")


@styled
def line_key(lines: Sequence[tuple[str, str, Dash]]) -> Figure:
    """A legend as a figure of its own, for panels that share it: label, colour, dash."""
    figure = Figure(figsize=(PANEL, 0.1 + 0.2 * math.ceil(len(lines) / 2)))
    handles = [
        Line2D([], [], color=colour, linestyle=dash, label=label_of(label, 26, lines=1))
        for label, colour, dash in lines
    ]
    figure.legend(handles=handles, loc="center left", ncols=2)
    return figure


def arm_key(arms: Sequence[str]) -> Figure:
    """The legend of arms."""
    shade, dash = colours(arms), dashes(arms)
    return line_key([(arm, shade[arm], dash[arm]) for arm in shade])


def svg(figure: Figure, name: str, label: str) -> str:
    """A figure as an SVG element for an HTML page, equal bytes for equal figures.

    Args:
      figure: the figure; its texts stay texts, its inks become CSS variables.
      name: unique on the page, so that the identifiers of two figures never meet.
      label: what a screen reader says.

    Returns:
      The ``<svg>`` element, without XML header, metadata, comments or unused identifiers.
    """
    text = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with (
        mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}),
        warnings.catch_warnings(),
    ):
        # The browser's fonts draw the texts, whatever Matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(text, format="svg", metadata=metadata, dpi=200)
    element = text.getvalue()[text.getvalue().index("<svg") :].strip()
    element = re.sub(r"<!--.*?-->\n?", "", element, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', element))
    element = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", element)
    element = re.sub(r' d="[^"]*"', _shortened, element)
    element = re.sub(r' style="[^"]*"', _painted, element)
    return element.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(label)}" ', 1)


def csv_text(drawing: Drawing) -> str:
    r"""The numbers of a figure as CSV, six significant digits, empty where nothing was measured.

    Example:
      >>> csv_text(Drawing((), ("arm", "mean"), (("lips", 2 / 3), ("local", math.nan))))
      'arm,mean\nlips,0.666667\nlocal,\n'
    """
    return table_text(drawing.columns, ([_cell(value) for value in row] for row in drawing.rows))


def csv_link(drawing: Drawing) -> str:
    """The same as a ``data:`` address, which a page holds within itself."""
    encoded = base64.b64encode(csv_text(drawing).encode()).decode()
    return f"data:text/csv;charset=utf-8;base64,{encoded}"


def interval_columns(names: Iterable[str]) -> tuple[str, ...]:
    """Names of the columns of means and their bounds."""
    return tuple(f"{name}_{part}" for name in names for part in ("mean", "low", "high"))


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _shortened(path: re.Match[str]) -> str:
    """A path with hundredths of a point, which no screen shows."""
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", path[0])


def _painted(style: re.Match[str]) -> str:
    """A style whose inks are variables."""
    return re.sub(r"#[0-9a-f]{6}\b", lambda colour: _VARIABLES.get(colour[0], colour[0]), style[0])
