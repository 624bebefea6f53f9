"""Figures over rounds, and of who holds what: from recordings to a :class:`Drawing`.

Functions that compare arms take ``Arms``: arm -> the recordings of its seeds in one cell, empty
where none is finished. The order of arms fixes their colours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lipsjax.analysis.comparison import (
    aggregation_gain,
    is_local,
    middle_step,
    outer_step,
)
from lipsjax.analysis.hours import elapsed_hours, unit_for
from lipsjax.analysis.stats import mean_interval
from lipsjax.analysis.steps import steps_of
from lipsjax.datasets.base import show
from lipsjax.recording import Recording
from lipsjax.report.plots.figures import (
    AXIS,
    GREY,
    INK,
    PANEL,
    PLATE,
    SMALL,
    Drawing,
    arm_key,
    cell_name,
    colour_key,
    interval_columns,
    label_of,
    line_key,
    panel,
    percent_axis,
    plain_log,
    share,
    styled,
    tag,
)
from lipsjax.report.plots.lines import name_beside
from lipsjax.report.plots.roles import LIGHT, Arms, Dash, Look, looks_of_arms

MOST_PANELS = 4
"""Arms that have a panel of full width each."""

MOST_SPREADS = 5
"""Lines that all have their seeds or bands; of more, those of controls are in the table alone."""

BAND_FROM = 5
"""Seeds from which on their interval is drawn as a band; fewer have a thin line each."""

DIGIT = 4.4
"""Points; the width of a digit in a cell of a heat map."""


TITLES = {"accuracy_dense": "Personalised accuracy", "global_accuracy": "Global test set"}
"""Accuracies that are drawn, and what their panels are called."""

_FILLED = LinearSegmentedColormap.from_list(
    "filled", [(0.184, 0.435, 0.816, share) for share in (0.1, 1.0)]
)
"""From next to nothing to blue: as it lets the ground through, it reads alike on light and dark."""


class Curve(NamedTuple):
    """Means over seeds and their intervals, over the rounds where every seed has a value."""

    rounds: np.ndarray  # [R] int
    bands: np.ndarray  # [R, 3]: mean, low, high
    seeds: np.ndarray  # [S, R]: the values of each


class Drawn(NamedTuple):
    """An arm that has finished runs."""

    look: Look
    runs: Sequence[Recording]


@styled
def accuracy_curves(arms: Arms) -> Drawing:
    """Accuracy of the dense global model over rounds, the arms compared.

    Args:
      arms: recordings of one cell.

    Returns:
      A panel of personalised accuracy and one of that on the global test set, each where some arm
      has it. Thick lines are means over seeds; up to four seeds have a thin line each, more a band
      of the 95% interval. Names stand at the ends of lines.
    """
    finished = _finished(arms)
    curves = _accuracies_of(finished, tuple(TITLES))
    return Drawing(
        panels=_accuracy_panels(finished, curves, _over_rounds),
        columns=("arm", "round", *interval_columns(TITLES)),
        rows=_table(curves),
    )


@styled
def accuracy_hours(arms: Arms) -> Drawing:
    """Accuracy of the dense global model over simulated time, the arms compared.

    Args:
      arms: recordings of one cell.

    Returns:
      Panels as of :func:`accuracy_curves`; none where no run has a clock. A round stands where it
      ends on average over seeds.
    """
    finished = {
        arm: drawn
        for arm, drawn in _finished(arms).items()
        if "simulated_seconds" in drawn.runs[0].scalars
    }
    ends = {arm: _stack(drawn.runs, elapsed_hours).mean(axis=0) for arm, drawn in finished.items()}
    unit = unit_for(max((each[-1] for each in ends.values()), default=0.0))
    curves = _accuracies_of(finished, tuple(TITLES))
    timed = {
        arm: {
            name: c._replace(rounds=unit.in_hour * ends[arm][c.rounds])
            for name, c in of_arm.items()
        }
        for arm, of_arm in curves.items()
    }

    def empty(**size: float) -> tuple[Figure, Axes]:
        figure, ax = panel(**size)
        ax.set_xlabel(f"simulated {unit.name}")
        return figure, ax

    return Drawing(
        panels=_accuracy_panels(finished, timed, empty),
        columns=("arm", f"simulated {unit.name}", *interval_columns(TITLES)),
        rows=_table(timed),
    )


def _accuracy_panels(
    finished: Mapping[str, Drawn],
    curves: Mapping[str, Mapping[str, Curve]],
    empty: Callable[..., tuple[Figure, Axes]],
) -> tuple[Figure, ...]:
    """Draw a panel for each accuracy that some arm has, on panels that are empty before."""
    panels = []
    for name, title in TITLES.items():
        drawn = {arm: curves[arm][name] for arm in finished if curves[arm][name].rounds.size}
        if not drawn:
            continue
        figure, ax = empty(height=max(2.35, 0.75 + 0.17 * len(drawn)))
        for arm, curve in drawn.items():
            look = finished[arm].look
            spread = look.is_told or len(drawn) <= MOST_SPREADS
            _line(ax, curve, look.colour, dash=look.dash, arm=arm, spread=spread)
        ax.set_title(title)
        ax.margins(x=0.01)
        percent_axis(ax, "y")
        ends = [
            (float(curve.rounds[-1]), float(curve.bands[-1, 0]), arm, finished[arm].look)
            for arm, curve in drawn.items()
        ]
        name_beside(figure, ax, ends)
        panels.append(figure)
    return tuple(panels)


@styled
def stages(arms: Arms) -> Drawing:
    """Personalised accuracy within a round: before, of the dense global model, and after.

    Args:
      arms: recordings of one cell.

    Returns:
      One panel per arm, on one scale; lines and bands as in :func:`accuracy_curves`.
    """
    names = ("accuracy_before", "accuracy_dense", "accuracy_after")
    finished = _finished(arms)
    curves = _accuracies_of(finished, names)
    panels = []
    for arm, drawn in finished.items():
        figure, ax = _arm_panel(arm, len(finished))
        before, dense, after = (curves[arm][name] for name in names)
        _line(ax, before, GREY, dash="--", arm=arm, part="before")
        _line(ax, after, drawn.look.colour, dash=":", arm=arm, part="after")
        _line(ax, dense, drawn.look.colour, arm=arm, part="global model")
        percent_axis(ax, "y")
        panels.append((figure, ax))
    share([ax for _, ax in panels], y=True)
    return Drawing(
        panels=tuple(figure for figure, _ in panels),
        columns=("arm", "round", *interval_columns(names)),
        rows=_table(curves),
        key=line_key(
            [
                ("clients' models, before", Look(GREY, "--")),
                ("dense global model", Look(INK, "-")),
                ("model sent out, after", Look(INK, ":")),
            ]
        ),
    )


@styled
def accuracy_cells(cells: Mapping[str, Arms]) -> Drawing:
    """Personalised accuracy over rounds in many cells, a small panel for each.

    Args:
      cells: label of a cell -> the recordings of its arms.

    Returns:
      Small panels on one scale, with the mean over seeds of each arm's dense global model, and
      their legend.
    """
    every: dict[str, Sequence[Recording]] = {}
    for arms in cells.values():
        for arm, runs in arms.items():
            every[arm] = every.get(arm) or runs
    looks = looks_of_arms(every)
    panels, columns = [], {}
    for label, arms in cells.items():
        figure, ax = _over_rounds(width=SMALL, height=1.45, ticks=3)
        for arm, runs in arms.items():
            if runs:
                curve = _curve(_scalar(runs, "accuracy_dense"))
                style: dict[str, Any] = {"color": looks[arm].colour, "linestyle": looks[arm].dash}
                (line,) = ax.plot(curve.rounds, curve.bands[:, 0], linewidth=1.2, **style)
                tag(line, arm, arm)
                columns[f"{label}: {arm}"] = curve
        ax.set_title(label_of(cell_name(label), 26), fontsize=7, fontweight="normal")
        ax.set_xlabel("")
        ax.tick_params(labelsize=7)
        percent_axis(ax, "y")
        ax.yaxis.set_major_locator(MaxNLocator(4))
        panels.append((figure, ax))
    share([ax for _, ax in panels], x=True, y=True)
    return Drawing(
        panels=tuple(figure for figure, _ in panels),
        columns=("round", *columns),
        rows=tuple(
            (number, *(_mean_in(curve, number) for curve in columns.values()))
            for number in sorted({int(n) for curve in columns.values() for n in curve.rounds})
        ),
        key=arm_key(looks),
    )


@styled
def inertia_heatmap(arms: Arms) -> Drawing:
    """How far each layer of the server's model moves in each round, one panel per arm.

    Args:
      arms: recordings of one cell.

    Returns:
      Layer x round images of ``step``, mean over seeds, on one logarithmic colour scale;
      triangles stand where a sparse model was sent. A round that was not measured has the colour
      of the one before it that was.
    """
    finished = _finished(arms)
    steps = {
        arm: np.mean([run.layers["step"] for run in drawn.runs], axis=0)
        for arm, drawn in finished.items()
    }
    norm = _log_norm(np.concatenate([step.ravel() for step in steps.values()]))
    names = [layer["name"] for layer in next(iter(finished.values())).runs[0].setup["layers"]]
    panels = []
    for arm, step in steps.items():
        figure, ax = _over_rounds(height=0.85 + 0.17 * len(names))
        image = _stretched(step).T
        ax.imshow(image, norm=norm, cmap="cividis", aspect="auto", interpolation="nearest")
        ax.set_facecolor(PLATE)
        ax.set_title(label_of(arm, 40), pad=13)
        ax.set_yticks(range(len(names)), names)
        ax.grid(visible=False)
        ax.tick_params(axis="y", length=0)
        _mark_sparse(ax, finished[arm].runs[0])
        panels.append(figure)
    key, bar = colour_key(norm, "cividis", "how far a layer moves in a round, % of its norm")
    plain_log(bar.ax.xaxis, _percent)
    return Drawing(
        panels=tuple(panels),
        columns=("arm", "round", *names),
        rows=tuple((arm, i, *row) for arm, step in steps.items() for i, row in enumerate(step)),
        key=key,
    )


@styled
def relative_steps(arms: Arms) -> Drawing:
    """Relative step of the middle layers against that of the outer ones, one panel per arm.

    Args:
      arms: recordings of one cell.

    Returns:
      Mean ``step`` over rounds on a logarithmic axis, lines and bands as in
      :func:`accuracy_curves`; means and 95% intervals over seeds are taken of the logarithm.
    """
    finished = _finished(arms)
    curves, panels = {}, []
    for arm, drawn in finished.items():
        curves[arm] = {
            "stem_classifier": _curve(_stack(drawn.runs, outer_step), log=True),
            "middle": _curve(_stack(drawn.runs, middle_step), log=True),
        }
        figure, ax = _arm_panel(arm, len(finished))
        ax.set_yscale("log")
        outer, middle = curves[arm]["stem_classifier"], curves[arm]["middle"]
        _line(ax, outer, GREY, dash="--", arm=arm, part="stem and classifier")
        _line(ax, middle, drawn.look.colour, arm=arm, part="middle layers")
        panels.append((figure, ax))
    share([ax for _, ax in panels], y=True)
    for _, ax in panels:
        plain_log(ax.yaxis, _percent)
    return Drawing(
        panels=tuple(figure for figure, _ in panels),
        columns=("arm", "round", *interval_columns(("stem_classifier", "middle"))),
        rows=_table(curves),
        key=line_key(
            [
                ("stem and classifier", Look(GREY, "--")),
                ("middle layers", Look(INK)),
            ]
        ),
    )


@styled
def changes(arms: Arms) -> Drawing:
    """Changes of the middle layers' relative step against those of the aggregation gain.

    Args:
      arms: recordings of one cell.

    Returns:
      A panel per arm with a dot for each pair of consecutive evaluated rounds of each seed: what
      :func:`lipsjax.analysis.comparison.coupling` correlates. None where no arm has such a pair.
    """
    panels, table = [], []
    for arm, drawn in _finished(arms).items():
        figure, ax = panel(width=SMALL, height=1.7)
        for line in (ax.axhline, ax.axvline):
            line(0, color=AXIS, linewidth=0.7, zorder=0.5)
        for run in drawn.runs:
            step, gain = middle_step(run), aggregation_gain(run)
            known = np.flatnonzero(~np.isnan(step) & ~np.isnan(gain))
            moved, gained = 100 * np.diff(step[known]), 100 * np.diff(gain[known])
            tag(_dots(ax, moved, gained, drawn.look.colour), arm, arm)
            table += zip(
                *([arm] * len(moved), [run.config["seed"]] * len(moved), known[1:].tolist()),
                *(moved.tolist(), gained.tolist()),
                strict=True,
            )
        ax.set_title(label_of(arm), fontsize=8)
        ax.set_xlabel("change of step, % of norm", fontsize=7)
        ax.set_ylabel("change of gain, points", fontsize=7)
        ax.tick_params(labelsize=7)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        panels.append((figure, ax))
    share([ax for _, ax in panels], x=True, y=True)
    return Drawing(
        panels=tuple(figure for figure, _ in panels) if table else (),
        columns=("arm", "seed", "round", "step_change", "gain_change"),
        rows=tuple(table),
    )


@styled
def class_mix(recording: Recording) -> Drawing:
    """How many training examples of each class each client holds.

    Args:
      recording: any run of the cell; its seed drew the mix.

    Returns:
      A class x client image of counts, written into the cells where they fit.
    """
    counts = np.asarray(recording.setup["survey"]["train_counts"]).T
    classes, clients = counts.shape
    # made-up clients have numbers alone, and so had all in older recordings
    sites, names = (recording.setup.get(name) for name in ("site_names", "class_names"))
    turned = sites is not None and max(map(len, sites)) * clients > 60
    height = min(6.0, 0.7 + 0.18 * max(classes, 4)) + (0.6 if turned else 0.0)
    figure, ax = panel(height=height)
    held = np.ma.masked_equal(counts, 0)
    image = ax.imshow(held, cmap=_FILLED, aspect="auto", interpolation="nearest", vmin=0)
    ax.set_facecolor(PLATE)
    ax.grid(visible=False)
    one = "client" if sites is None else "site"
    ax.set_xlabel(one)
    ax.set_ylabel("class")
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(min(classes, 10), integer=True))
    if sites is not None and clients <= 24:
        ax.set_xticks(range(clients), list(map(_tick, sites)))
        if turned:
            ax.tick_params(axis="x", rotation=60)
    if names is not None and classes <= 20:
        ax.set_yticks(range(classes), list(map(_tick, names)))
    cell = 72 * (PANEL - 0.6) / clients  # points
    if classes <= 20 and len(str(counts.max())) * DIGIT < cell:
        for (y, x), count in np.ndenumerate(counts):
            if count:
                ink = "#ffffff" if count > 0.85 * counts.max() else INK
                ax.text(x, y, str(count), ha="center", va="center", fontsize=6.8, color=ink)
    else:
        figure.colorbar(image, ax=ax, pad=0.015).set_label("training examples")
    shown = range(clients) if sites is None else sites
    return Drawing(
        panels=(figure,),
        columns=(one, *(f"class {name}" for name in names or range(classes))),
        rows=tuple((site, *map(int, column)) for site, column in zip(shown, counts.T, strict=True)),
    )


def _tick(name: str) -> str:
    """A name beside an axis; no mathematics is read into it."""
    return show(name, 14).replace("$", r"\$")


def _finished(arms: Arms) -> dict[str, Drawn]:
    looks = looks_of_arms(arms)
    return {arm: Drawn(looks[arm], runs) for arm, runs in arms.items() if runs}


def _over_rounds(*, ticks: int = 6, **size: float) -> tuple[Figure, Axes]:
    """A panel with rounds on its horizontal axis."""
    figure, ax = panel(**size)
    ax.set_xlabel("round")
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10]))
    return figure, ax


def _arm_panel(arm: str, count: int) -> tuple[Figure, Axes]:
    """A panel of one arm with rounds on its horizontal axis; small, if there are many."""
    if count <= MOST_PANELS:
        figure, ax = _over_rounds()
        ax.set_title(label_of(arm, 40))
        return figure, ax
    figure, ax = _over_rounds(width=SMALL, height=1.6, ticks=3)
    ax.set_title(label_of(arm), fontsize=8)
    ax.set_xlabel("")
    ax.tick_params(labelsize=7)
    return figure, ax


def _percent(share: float) -> str:
    """A share as a percentage, with as many digits as it takes."""
    return f"{100 * share:.4g}%"


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values [T, L] whose rounds without any have those of the one before, or of the first.

    >>> nan = np.nan
    >>> _stretched(np.array([[nan], [1.0], [nan], [2.0]])).ravel().tolist()
    [1.0, 1.0, 1.0, 2.0]
    """
    known = np.flatnonzero(~np.isnan(values).all(axis=1))
    if not known.size:
        return values
    last = np.searchsorted(known, np.arange(len(values)), side="right") - 1
    return values[known[np.maximum(last, 0)]]


def _stack(runs: Sequence[Recording], curve: Callable[[Recording], np.ndarray]) -> np.ndarray:
    return np.stack([curve(run) for run in runs])


def _scalar(runs: Sequence[Recording], name: str) -> np.ndarray:
    """A scalar of each seed, [S, T]; of clients that train alone, the accuracy of their models."""
    return np.stack([_measured(run, name) for run in runs])


def _measured(run: Recording, name: str) -> np.ndarray:
    alone = name == "global_accuracy" and is_local(run.config)  # nobody receives a global model
    missing = np.full(len(run.scalars["round"]), np.nan)
    return run.scalars.get("global_accuracy_clients" if alone else name, missing)


def _accuracies_of(
    finished: Mapping[str, Drawn], names: Sequence[str]
) -> dict[str, dict[str, Curve]]:
    """Curves of accuracies, arm -> scalar -> curve, their bands within 0 and 1."""
    return {
        arm: {name: _accuracy(drawn.runs, name) for name in names}
        for arm, drawn in finished.items()
    }


def _accuracy(runs: Sequence[Recording], name: str) -> Curve:
    measure = "global" if name.startswith("global") else "personalised"
    step = min(steps_of(run)[measure] for run in runs)
    curve = _curve(_scalar(runs, name), step=step)
    return curve._replace(bands=np.clip(curve.bands, 0.0, 1.0))  # NaN stays NaN


def _curve(values: np.ndarray, *, log: bool = False, step: float = 0.0) -> Curve:
    """Mean over seeds and its interval of values [seeds, T], of their logarithm if asked for."""
    values = np.where(values > 0, values, np.nan) if log else values
    rounds = np.flatnonzero(~np.isnan(values).any(axis=0))
    drawn = np.log(values[:, rounds]) if log else values[:, rounds]
    bands = [mean_interval(column, step=step)[:3] for column in drawn.T]
    bands = np.array(bands).reshape(-1, 3)
    return Curve(rounds, np.exp(bands) if log else bands, values[:, rounds])


def _table(curves: Mapping[str, Mapping[str, Curve]]) -> tuple[tuple, ...]:
    """One line per arm and round: every curve's mean and bounds."""
    lines = []
    for arm, named in curves.items():
        at = [
            dict(zip(curve.rounds.tolist(), curve.bands, strict=True)) for curve in named.values()
        ]
        nothing = np.full(3, np.nan)
        lines += [
            (arm, number, *(float(v) for band in at for v in band.get(number, nothing)))
            for number in sorted(set().union(*at))
        ]
    return tuple(lines)


def _mean_in(curve: Curve, number: int) -> float:
    """The mean in one round, NaN where there is none."""
    (found,) = np.nonzero(curve.rounds == number)
    return float(curve.bands[found[0], 0]) if found.size else float("nan")


def _dots(ax: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> Line2D:
    """Small dots as the round caps of lines without length: one path, however many there are."""
    gap = np.full_like(x, np.nan)
    (dots,) = ax.plot(
        np.stack([x, x, gap], axis=1).ravel(),
        np.stack([y, y, gap], axis=1).ravel(),
        color=colour,
        alpha=0.6,
        linewidth=2,
        solid_capstyle="round",
    )
    dots.get_path().should_simplify = False
    return dots


def _line(
    ax: Axes,
    curve: Curve,
    colour: str,
    *,
    arm: str,
    dash: Dash = "-",
    part: str = "",
    spread: bool = True,
) -> None:
    """Mean over seeds; with their spread, each of few seeds thin, or the interval of many."""
    tip = f"{arm}, {part}" if part else arm
    above = 2.2 if spread else 2.0  # what stands for itself lies on what stands for any
    style: dict[str, Any] = {"color": colour, "linestyle": dash, "zorder": above}
    (line,) = ax.plot(curve.rounds, curve.bands[:, 0], **style)
    tag(line, arm, tip)
    if spread and len(curve.seeds) >= BAND_FROM:
        low, high = curve.bands[:, 1:].T
        band = ax.fill_between(curve.rounds, low, high, color=colour, alpha=0.18, linewidth=0)
        tag(band, arm, tip)
    elif spread and len(curve.seeds) > 1:
        for own in ax.plot(curve.rounds, curve.seeds.T, linewidth=0.6, alpha=0.5, **style):
            tag(own, arm, tip, of_seed=True)


def _log_norm(values: np.ndarray) -> LogNorm:
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return LogNorm(0.1, 1.0)
    # A single value would leave the scale without width.
    return LogNorm(float(positive.min()) * 0.99, float(positive.max()) * 1.01)


def _mark_sparse(ax: Axes, recording: Recording) -> None:
    """Triangles between the round that ended in a sparse broadcast and the next."""
    sparse = np.flatnonzero(recording.scalars["density"] < 1)
    (marks,) = ax.plot(
        sparse + 0.5,
        np.full(sparse.size, 1.06),
        "v",
        color=LIGHT["lips"],
        markersize=4,
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )
    marks.set_in_layout(False)
