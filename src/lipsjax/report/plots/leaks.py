"""The figure of what arms give away."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lipsjax.analysis.comparison import Row
from lipsjax.analysis.leakage import MAIN, Leak
from lipsjax.analysis.wording import clipped, percent
from lipsjax.report.plots.effects import cross
from lipsjax.report.plots.figures import (
    Drawing,
    arm_key,
    interval_columns,
    panel,
    percent_axis,
    styled,
)
from lipsjax.report.plots.forest import accuracy
from lipsjax.report.plots.roles import looks_of_rows

MOST_IMAGES = 5
"""Of a victim, in a gallery."""
TITLES = {
    "label": "Labels right",
    "linear": "Identified, linear layer",
    "gradient": "Identified, L-BFGS",
    "cosine": "Identified, signed Adam",
}


@styled
def leakage(rows: Sequence[Row], leaks: Mapping[str, Sequence[Leak]]) -> Drawing | None:
    """What each arm gives away against how accurate it is, a panel for each attack and attacker.

    Args:
      rows: of the arms of one cell.
      leaks: by arm.

    Returns:
      The first round attacked; None if no attack on labels or images was recorded.
    """
    look = looks_of_rows(rows)
    of = {row.arm: row for row in rows}
    first = min((x.round for each in leaks.values() for x in each), default=0)
    chosen = {
        (x.attack, x.attacker): None
        for each in leaks.values()
        for x in each
        if x.attack in TITLES and x.round == first
    }
    table, panels = [], []
    for attack, attacker in chosen:
        figure, ax = panel()
        ax.set_title(f"{TITLES[attack]}, {attacker}")
        for arm, each in leaks.items():
            leak = next((x for x in each if x[:4] == (attack, attacker, first, MAIN[attack])), None)
            if leak is None or arm not in of:
                continue
            found, exact = clipped(leak.interval, 0.0, 1.0), accuracy(of[arm], "personalised")
            tip = f"{arm}: {percent(found)}%, accuracy {percent(exact)}%"
            cross(ax, arm, exact, found, look[arm], tip)
            table.append((attack, attacker, first, arm, *found, *exact[:3]))
        percent_axis(ax, "x")
        percent_axis(ax, "y")
        ax.set_ylim(-0.03, 1.03)
        ax.set_xlabel("personalised accuracy")
        panels.append(figure)
    if not panels:
        return None
    return Drawing(
        panels=tuple(panels),
        columns=(
            *("attack", "attacker", "round", "arm", *interval_columns(("leak",)), "n"),
            *interval_columns(("accuracy",)),
        ),
        rows=tuple(table),
        key=arm_key(look, markers=True),
    )


@styled
def gallery(pictures: Mapping[str, Mapping[str, np.ndarray]]) -> Drawing | None:
    """One victim's images, and what an attack made of them, a row for each arm.

    Args:
      pictures: by arm, ``true`` and ``found`` [n, H, W, channels], within 0..1.

    Returns:
      One panel; None where nothing was kept, or inputs are no images.
    """
    shown = {arm: each for arm, each in pictures.items() if each["true"].ndim == 4}
    if not shown:
        return None
    most = max(len(each["true"][:MOST_IMAGES]) for each in shown.values())
    lines = [(f"{arm}: {which}", each[key][:MOST_IMAGES])
             for arm, each in shown.items()
             for which, key in (("held", "true"), ("found", "found"))]  # fmt: skip
    figure = Figure(figsize=(0.55 * most + 1.6, 0.55 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), most, squeeze=False)
    for (title, images), row in zip(lines, axes, strict=True):
        for ax in row:
            ax.axis("off")
        row[0].set_title(title, loc="left", fontsize=6, pad=1)
        for ax, image in zip(row, images, strict=False):
            grey = image[..., 0] if image.shape[-1] == 1 else np.clip(image, 0, 1)
            ax.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return Drawing(
        panels=(figure,),
        columns=("arm", "image", "mse"),
        rows=tuple(
            (arm, i, float(np.mean((a - b) ** 2)))
            for arm, each in shown.items()
            for i, (a, b) in enumerate(zip(each["true"], each["found"], strict=True))
        ),
    )
