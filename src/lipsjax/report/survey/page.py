"""A survey as a table for the terminal, as a page, and as JSON."""

import base64
import io
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
from PIL import Image
from rich.table import Table
from rich.text import Text

from lipsjax.clients import ClientData
from lipsjax.datasets.base import show
from lipsjax.partition import Survey
from lipsjax.partition.survey import SiteFacts
from lipsjax.recording import write_atomically
from lipsjax.report import templating
from lipsjax.report.survey.checklist import Item
from lipsjax.report.survey.words import Called, Remark
from lipsjax.report.table import table_text

MOST_ROWS = 30
"""Clients that the terminal shows one by one; of more, quantiles."""
MOST_DRAWN = 60
"""Clients that the page shows one by one."""
MOST_CLASSES = 100
"""Classes that the page shows."""
MOST_LETTERS = 12
"""Of the name of a class, above its column."""
MOST_WIDE = 30
"""Of the name of a site, in the terminal."""
MOST_LABEL = 16
"""Of the name of a site, before its row of the page."""
MOST_PICTURES = 8
"""Clients of which the page shows an image."""

_PER_CLIENT = ("examples", "classes", "entropy", "largest class")
_FORMS = ("{:,.0f}", "{:.0f}", "{:.2f}", "{:.0%}")
_QUANTILES = {
    "least": 0,
    "a quarter below": 0.25,
    "median": 0.5,
    "a quarter above": 0.75,
    "most": 1,
}


def table(survey: Survey, sites: Sequence[str] | None = None) -> Table:
    """Returns what clients hold as a table for the terminal, one by one or as quantiles.

    Args:
      survey: what clients hold.
      sites: their names, where they are sites that the data name.
    """
    shown = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    columns = (survey.num_examples, survey.num_held, survey.label_entropy, survey.largest_share)
    values = np.stack(columns, axis=1)
    called = Called(sites)
    first, names = called.one, [show(name, MOST_WIDE) for name in called.all(len(values))]
    if len(values) > MOST_ROWS:
        first, names = "of each column", list(_QUANTILES)
        values = np.quantile(values, list(_QUANTILES.values()), axis=0)
    shown.add_column(first)
    for name in _PER_CLIENT:
        shown.add_column(name, justify="right")
    for name, row in zip(names, values, strict=True):
        texts = (form.format(value) for form, value in zip(_FORMS, row, strict=True))
        shown.add_row(Text(name), *texts)
    return shown


def write_page(
    path: Path,
    survey: Survey,
    found: list[Remark],
    *,
    title: str,
    setting: str,
    command: str,
    pictures: Mapping[int, str] | None = None,
    names: Sequence[str] | None = None,
    sites: Sequence[str] | None = None,
    facts: SiteFacts | None = None,
    todo: Sequence[Item] = (),
    seeds: str = "",
    report: bool = False,
) -> None:
    """Writes a survey as one page that needs no other file and no network.

    Args:
      path: file to write, replaced whole.
      survey: what clients hold.
      found: what `remarks` says of it.
      title: of the page.
      setting: how the data was shared out, in a sentence.
      command: that made the page.
      pictures: client -> the address of one of its images, as `pictures` makes them.
      names: of the classes, if they have names.
      sites: names of the clients, where they are sites that the data name.
      facts: what sets these sites apart.
      todo: what to record before a pilot.
      seeds: what seeds stand for, in a sentence; empty where nothing need be said.
      report: whether the report of a study on these sites lies, or will lie, beside the page.
    """
    clients, classes = _drawn(survey)
    counts = survey.train_counts[np.ix_(clients, classes)]
    pages = templating.environment()
    rows = zip(clients.tolist(), counts.tolist(), strict=True)
    page = pages.get_template("survey.html").render(
        title=title,
        setting=setting,
        command=command,
        remarks=found,
        survey=survey,
        rows=list(rows),
        classes=[show(names[label] if names else label, MOST_LETTERS) for label in classes],
        largest=int(survey.num_examples.max()),
        top=float((counts / survey.num_examples[clients, None]).max()),  # the darkest shade
        median_examples=float(np.median(survey.num_examples)),
        median_classes=int(np.median(survey.num_held)),
        pictures=pictures or {},
        csv=urllib.parse.quote(_csv(survey, names, sites, facts)),
        called=Called(sites),
        facts=facts,
        todo=todo,
        seeds=seeds,
        report=report,
        short=lambda client: show(Called(sites).label(client), MOST_LABEL),
    )
    write_atomically(path, page)


def _drawn(survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Returns the clients and the classes that the page shows: all, or a choice of them."""
    clients = np.arange(len(survey.num_examples))
    if len(clients) > MOST_DRAWN:
        ordered = np.lexsort((clients, survey.label_entropy))
        clients = ordered[np.linspace(0, len(clients) - 1, MOST_DRAWN).round().astype(int)]
    commonest = np.argsort(-survey.train_counts.sum(axis=0), kind="stable")[:MOST_CLASSES]
    return clients, np.sort(commonest)


def _csv(
    survey: Survey,
    names: Sequence[str] | None,
    sites: Sequence[str] | None,
    facts: SiteFacts | None,
) -> str:
    """Returns everything that the page shows, of all clients."""
    classes = names or range(survey.train_counts.shape[1])
    called = Called(sites)
    further = facts_table(facts) if facts else {}
    columns = (called.one, "examples", "test_examples", "classes", "entropy", "largest_share")
    rows = (
        [
            called.label(client),
            survey.num_examples[client],
            survey.test_counts[client].sum(),
            survey.num_held[client],
            f"{survey.label_entropy[client]:.6g}",
            f"{survey.largest_share[client]:.6g}",
            *(values[client] for values in further.values()),
            *counts,
        ]
        for client, counts in enumerate(survey.train_counts.tolist())
    )
    return table_text([*columns, *further, *(f"class_{label}" for label in classes)], rows)


def facts_table(facts: SiteFacts) -> dict[str, list[Any]]:
    """Returns what was measured of each site, a column each; empty where it was not."""
    shifts = {"label_shift": facts.label_shift, "input_shift": facts.feature_shift}
    found: dict[str, list[Any]] = {}
    for name, shift in shifts.items():
        for column, values in ((name, shift.distance), (f"{name}_chance", shift.floor)):
            found[column] = ["" if np.isnan(value) else f"{value:.6g}" for value in values]
    found["least_value"], found["largest_value"] = (
        [f"{value:.6g}" for value in column] for column in facts.ranges.T
    )
    found["copies"] = facts.repeated.tolist()
    if facts.groups is not None:
        found["groups"] = facts.groups.tolist()
    return found


def pictures(data: ClientData) -> dict[int, str]:
    """Returns the first training image of some clients, as addresses that hold it themselves.

    Args:
      data: what clients hold, distorted if they see differently.

    Returns:
      Client -> a ``data:`` address of a PNG, of at most 8 clients, evenly spaced. Images of other
      than three channels are shown in grey, by their first.
    """
    shown = np.linspace(0, data.num_clients - 1, min(data.num_clients, MOST_PICTURES))
    pixels = data.train.inputs
    low, high = (0, 255) if pixels.dtype == np.uint8 else (pixels.min(), pixels.max())
    found = {}
    for client in np.unique(shown.round().astype(int)).tolist():
        image = (pixels[data.train_index[client, 0]].astype(float) - low) / max(high - low, 1e-12)
        content = io.BytesIO()
        values = (255 * image).round().astype(np.uint8)
        Image.fromarray(values if image.shape[-1] == 3 else values[..., 0]).save(content, "PNG")
        found[client] = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return found


def write_json(
    path: Path,
    survey: Survey,
    found: list[Remark],
    about: dict[str, Any],
    todo: Sequence[Item] = (),
) -> None:
    """Writes everything that a survey found, and of what.

    Args:
      path: file to write, replaced whole.
      survey: what clients hold.
      found: what `remarks` says of it.
      about: what the survey is of.
      todo: what to record before a pilot.
    """
    content = about | {
        "survey": survey.to_dict(),
        "remarks": [remark._asdict() for remark in found],
        "checklist": [item._asdict() for item in todo],
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n")
