"""Figures over rounds, and of who holds what: from recordings to a :class:`Drawing`.

Functions that compare arms take ``Arms``: arm -> the recordings of its seeds in one cell, empty
where none is finished. The order of arms fixes their colours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from lipsjax.analysis.comparison import aggregation_gain, middle_step, outer_step
from lipsjax.analysis.stats import mean_interval
from lipsjax.analysis.steps import steps_of
from lipsjax.datasets.base import show
from lipsjax.recording import Recording
from lipsjax.report.plots.figures import (
    COLOURS,
    GREY,
    INK,
    PLATE,
    SMALL,
    Drawing,
    arm_key,
    cell_name,
    colour_key,
    colours,
    dashes,
    interval_columns,
    label_of,
    line_key,
    panel,
    share,
    styled,
)

Arms = Mapping[str, Sequence[Recording]]
"""arm -> recordings of its seeds."""


MOST_PANELS = 4
"""Arms that have a panel of full width each."""


class Curve(NamedTuple):
    """Means over seeds and their intervals, over the rounds where every seed has a value."""

    rounds: np.ndarray  # [R] int
    bands: np.ndarray  # [R, 3]: mean, low, high


@styled
def accuracy_curves(arms: Arms) -> Drawing:
    """Accuracy of the dense global model over rounds, the arms compared.

    Args:
      arms: recordings of one cell.

    Returns:
      A panel of personalised accuracy and one of that on the global test set. Lines are means over
      seeds, bands 95% intervals.
    """
    titles = {"accuracy_dense": "Personalised accuracy", "global_accuracy": "Global test set"}
    finished, dash = _finished(arms), dashes(list(arms))
    curves = _accuracies_of(finished, tuple(titles))
    panels = []
    for name, title in titles.items():
        figure, ax = _over_rounds()
        for arm, (colour, _) in finished.items():
            _line(ax, curves[arm][name], colour, dash=dash[arm])
        ax.set_title(title)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panels.append(figure)
    return Drawing(
        panels=tuple(panels),
        columns=("arm", "round", *interval_columns(titles)),
        rows=_table(curves),
        key=arm_key(list(arms)),
    )


@styled
def stages(arms: Arms) -> Drawing:
    """Personalised accuracy within a round: before, of the dense global model, and after.

    Args:
      arms: recordings of one cell.

    Returns:
      One panel per arm, on one scale. Lines are means over seeds, bands 95% intervals.
    """
    names = ("accuracy_before", "accuracy_dense", "accuracy_after")
    finished = _finished(arms)
    curves = _accuracies_of(finished, names)
    panels = []
    for arm, (colour, _) in finished.items():
        figure, ax = _arm_panel(arm, len(finished))
        before, dense, after = (curves[arm][name] for name in names)
        _line(ax, before, GREY, dash="--")
        _line(ax, after, colour, dash=":")
        _line(ax, dense, colour)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panels.append((figure, ax))
    share([ax for _, ax in panels], y=True)
    return Drawing(
        panels=tuple(figure for figure, _ in panels),
        columns=("arm", "round", *interval_columns(names)),
        rows=_table(curves),
        key=line_key(
            [
                ("clients' models, before", GREY, "--"),
                ("dense global model", INK, "-"),
                ("model sent out, after", INK, ":"),
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
    names = list(dict.fromkeys(arm for arms in cells.values() for arm in arms))
    shade, dash = colours(names), dashes(names)
    panels, columns = [], {}
    for label, arms in cells.items():
        figure, ax = _over_rounds(width=SMALL, height=1.45, ticks=3)
        for arm, (_, runs) in _finished(arms).items():
            curve = _curve(_scalar(runs, "accuracy_dense"))
            style = {"color": shade[arm], "linestyle": dash[arm], "linewidth": 1.2}
            ax.plot(curve.rounds, curve.bands[:, 0], **style)
            columns[f"{label}: {arm}"] = curve
        ax.set_title(label_of(cell_name(label), 26), fontsize=7, fontweight="normal")
        ax.set_xlabel("")
        ax.tick_params(labelsize=7)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
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
        key=arm_key(names),
    )


@styled
def inertia_heatmap(arms: Arms) -> Drawing:
    """How far each layer of the server's model moves in each round, one panel per arm.

    Args:
      arms: recordings of one cell.

    Returns:
      Layer x round images of ``step``, mean over seeds, on one logarithmic colour scale;
      triangles stand where a sparse model was sent.
    """
    finished = _finished(arms)
    steps = {
        arm: np.mean([run.layers["step"] for run in runs], axis=0)
        for arm, (_, runs) in finished.items()
    }
    norm = _log_norm(np.concatenate([step.ravel() for step in steps.values()]))
    names = [layer["name"] for layer in next(iter(finished.values()))[1][0].setup["layers"]]
    panels = []
    for arm, step in steps.items():
        figure, ax = _over_rounds(height=0.85 + 0.17 * len(names))
        ax.imshow(step.T, norm=norm, cmap="cividis", aspect="auto", interpolation="nearest")
        ax.set_facecolor(PLATE)
        ax.set_title(label_of(arm, 40), pad=13)
        ax.set_yticks(range(len(names)), names)
        ax.grid(visible=False)
        ax.tick_params(axis="y", length=0)
        _mark_sparse(ax, finished[arm][1][0])
        panels.append(figure)
    key, bar = colour_key(norm, "cividis", "step, % of norm per round")
    _log_percent(bar.ax.xaxis)
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
      Mean ``step`` over rounds on a logarithmic axis; means and 95% intervals over seeds are taken
      of the logarithm.
    """
    finished = _finished(arms)
    curves, panels = {}, []
    for arm, (colour, runs) in finished.items():
        curves[arm] = {
            "stem_classifier": _curve(_stack(runs, outer_step), log=True),
            "middle": _curve(_stack(runs, middle_step), log=True),
        }
        figure, ax = _arm_panel(arm, len(finished))
        _line(ax, curves[arm]["stem_classifier"], GREY, dash="--")
        _line(ax, curves[arm]["middle"], colour)
        ax.set_yscale("log")
        _log_percent(ax.yaxis)
        panels.append((figure, ax))
    share([ax for _, ax in panels], y=True)
    return Drawing(
        panels=tuple(figure for figure, _ in panels),
        columns=("arm", "round", *interval_columns(("stem_classifier", "middle"))),
        rows=_table(curves),
        key=line_key([("stem, classifier", GREY, "--"), ("middle layers", INK, "-")]),
    )


@styled
def changes(arms: Arms) -> Drawing:
    """Changes of the middle layers' relative step against those of the aggregation gain.

    Args:
      arms: recordings of one cell.

    Returns:
      A panel per arm with a dot for each pair of consecutive evaluated rounds of each seed: what
      :func:`lipsjax.analysis.comparison.coupling` correlates.
    """
    panels, table = [], []
    for arm, (colour, runs) in _finished(arms).items():
        figure, ax = panel(width=SMALL, height=1.7)
        for run in runs:
            step, gain = middle_step(run), aggregation_gain(run)
            known = np.flatnonzero(~np.isnan(step) & ~np.isnan(gain))
            moved, gained = 100 * np.diff(step[known]), 100 * np.diff(gain[known])
            _dots(ax, moved, gained, colour)
            table += zip(
                *([arm] * len(moved), [run.config["seed"]] * len(moved), known[1:].tolist()),
                *(moved.tolist(), gained.tolist()),
                strict=True,
            )
        ax.set_title(label_of(arm), fontsize=8)
        ax.set_xlabel("relative step, % of norm", fontsize=7)
        ax.set_ylabel("gain, points", fontsize=7)
        ax.tick_params(labelsize=7)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        panels.append((figure, ax))
    share([ax for _, ax in panels], x=True, y=True)
    return Drawing(
        panels=tuple(figure for figure, _ in panels),
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
    image = ax.imshow(held, cmap="Blues", aspect="auto", interpolation="nearest", vmin=0)
    ax.set_facecolor(PLATE)
    ax.grid(visible=False)
    one = "client" if sites is None else "site"
    ax.set_xlabel(one)
    ax.set_ylabel("class")
    ax.xaxis.set_major_locator(MaxNLocator(min(clients, 20), integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(min(classes, 10), integer=True))
    if sites is not None and clients <= 24:
        ax.set_xticks(range(clients), list(map(_tick, sites)))
        if turned:
            ax.tick_params(axis="x", rotation=60)
    if names is not None and classes <= 20:
        ax.set_yticks(range(classes), list(map(_tick, names)))
    if clients <= 24 and classes <= 20 and counts.max() < 1000:
        for (y, x), count in np.ndenumerate(counts):
            if count:
                ink = "#ffffff" if count > 0.55 * counts.max() else "#222222"
                ax.text(x, y, str(count), ha="center", va="center", fontsize=6, color=ink)
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


def _finished(arms: Arms) -> dict[str, tuple[str, Sequence[Recording]]]:
    shade = colours(list(arms))
    return {arm: (shade[arm], runs) for arm, runs in arms.items() if runs}


def _over_rounds(*, ticks: int = 6, **size: float):
    """A panel with rounds on its horizontal axis."""
    figure, ax = panel(**size)
    ax.set_xlabel("round")
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10]))
    return figure, ax


def _arm_panel(arm: str, count: int):
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


def _log_percent(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten, written as percentages."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    axis.set_minor_formatter(NullFormatter())


def _stack(runs: Sequence[Recording], curve: Callable[[Recording], np.ndarray]) -> np.ndarray:
    return np.stack([curve(run) for run in runs])


def _scalar(runs: Sequence[Recording], name: str) -> np.ndarray:
    return np.stack([run.scalars[name] for run in runs])


def _accuracies_of(
    finished: Mapping[str, tuple[str, Sequence[Recording]]], names: Sequence[str]
) -> dict[str, dict[str, Curve]]:
    """Curves of accuracies, arm -> scalar -> curve, their bands within 0 and 1."""
    return {
        arm: {name: _accuracy(runs, name) for name in names} for arm, (_, runs) in finished.items()
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
    return Curve(rounds, np.exp(bands) if log else bands)


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


def _dots(ax: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
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


def _line(ax: Axes, curve: Curve, colour: str, *, dash: str = "-") -> None:
    """Mean over seeds and its interval."""
    mean, low, high = curve.bands.T
    ax.plot(curve.rounds, mean, color=colour, linestyle=dash)
    if not np.isnan(low).all():
        ax.fill_between(curve.rounds, low, high, color=colour, alpha=0.18, linewidth=0)


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
        color=COLOURS[1],
        markersize=4,
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )
    marks.set_in_layout(False)
