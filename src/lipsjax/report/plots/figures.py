"""What all figures share: how they look, how they come onto a page, and the numbers they show.

A figure is a :class:`Drawing`: panels, each a Matplotlib figure of its own, so that a page can set
them side by side or below each other, and the table of the numbers that they show. Its colours
become CSS variables in the page, which gives each a light and a dark value; colours that are not in
:data:`PAINTS`, as those of heat maps, stay what they are.
"""

import base64
import io
import math
import re
import textwrap
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lipsjax.report.plots.roles import DARK, LIGHT, Look
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


GREY = "#6b6b6b"
INK = LIGHT["dense"]
TICK = "#444c55"
AXIS = "#9aa1a9"
GRID = "#e3e6ea"
PLATE = "#eceef1"
"""Ground of heat maps, seen where they have no value."""
PAPER = "#fefefe"
"""Ground of the page; not white, which is an ink of heat maps."""

PAINTS = (
    Paint("ink", INK, DARK["dense"]),
    Paint("tick", TICK, "#b3bac2"),
    Paint("axis", AXIS, "#6d757e"),
    Paint("grid", GRID, "#2c333a"),
    Paint("plate", PLATE, "#262c33"),
    Paint("paper", PAPER, "#14181d"),
    Paint("grey", GREY, "#a3abb4"),
    *(Paint(role, LIGHT[role], DARK[role]) for role in LIGHT if role != "dense"),
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


def percent_axis(ax: Axes, which: Literal["x", "y"]) -> None:
    """Ticks of an axis of accuracies in percent, and none of it below 0 or above 100%."""
    axis = getattr(ax, f"{which}axis")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 6):g}%"))
    low, high = getattr(ax, f"get_{which}lim")()
    getattr(ax, f"set_{which}lim")(max(low, 0.0), min(high, 1.0))


def plain_log(axis: Axis, text: Callable[[float], str]) -> None:
    """Ticks of a logarithmic axis, whose limits are set, at round numbers written plainly."""
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Three or more round numbers between two bounds above zero, where there are so many.

    Example:
      >>> log_ticks(0.8, 1200), log_ticks(2.5, 40), log_ticks(1, 1e9)
      ([1.0, 10.0, 100.0, 1000.0], [3.0, 10.0, 30.0], [1.0, 100.0, 10000.0, 1000000.0, 100000000.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(10, 100)):
        scale = 10 if len(steps) > 9 else 1
        numbers = [float(f"{step / scale}e{power}") for power in powers for step in steps]
        found = [number for number in numbers if low <= number <= high]
        if len(found) >= 3:
            break
    return found[:: math.ceil(len(found) / (most + 1))]


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
    plain = re.sub(r"[ \t\r\n]+", " ", name).strip()  # no-break spaces stay
    wrapped = textwrap.fill(plain, width, max_lines=lines, placeholder="…")
    if len(wrapped) <= 1 < len(name):  # a first word that is too long leaves its mark alone
        wrapped = f"{name[: width - 1]}…"
    return wrapped.replace("$", r"\$")


@styled
def line_key(lines: Sequence[tuple[str, Look]], *, markers: bool = False) -> Figure:
    """A legend as a figure of its own, for panels that share it: label and look of each line."""
    figure = Figure(figsize=(PANEL, 0.1 + 0.2 * math.ceil(len(lines) / 2)))
    handles = [
        Line2D(
            *([], []),
            color=look.colour,
            linestyle="-" if markers else look.dash,
            marker=look.marker if markers else "",
            markersize=4.5,
            label=label_of(label, 26, lines=1),
        )
        for label, look in lines
    ]
    figure.legend(handles=handles, loc="center left", ncols=2)
    return figure


def arm_key(arms: Mapping[str, Look], *, markers: bool = False) -> Figure:
    """The legend of arms, by their lines or by the markers of their points."""
    return line_key(list(arms.items()), markers=markers)


def tag(artist: Artist, arm: str, tip: str = "", *, of_seed: bool = False) -> None:
    """Give an artist the class of its arm in the page, and what is said on pointing at it.

    A line of one seed is of the class ``seed`` too, so that a script can tell it from the mean.
    """
    classes = f"{arm_class(arm)} seed" if of_seed else arm_class(arm)
    artist.set_gid(f"{classes}|{tip}" if tip else classes)


def arm_class(arm: str) -> str:
    """The class of all SVG elements of an arm, another one for another name.

    Example:
      >>> arm_class("lips"), arm_class("moon + lips")
      ('arm-lips', 'arm-moon-lips-cbdb')
    """
    slug = re.sub(r"[^a-z0-9]+", "-", arm.lower()).strip("-")
    digest = "" if slug == arm else f"-{zlib.crc32(arm.encode()) & 0xFFFF:04x}"
    return f"arm-{slug}{digest}"


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
    element = re.sub(r"""<g id=(["'])(arm-[a-z0-9-]*(?: seed)?)(?:\|(.*?))?\1>""", _tagged, element)
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


def _tagged(group: re.Match[str]) -> str:
    """A group with the class of its arm, and what is said on pointing at it."""
    title = f"<title>{group[3]}</title>" if group[3] else ""
    return f'<g class="arm {group[2]}">{title}'


def _painted(style: re.Match[str]) -> str:
    """A style whose inks are variables."""
    return re.sub(r"#[0-9a-f]{6}\b", lambda colour: _VARIABLES.get(colour[0], colour[0]), style[0])
