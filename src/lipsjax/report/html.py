"""The page of a study: its answer in three cards, what to do next, then the evidence.

It is one file without network, and whole without its script. It links the survey that lies beside
it, by name alone; runs are named and not linked, as a page that is mailed leaves them behind.

Everything is drawn from recordings alone, so a page can be drawn again at any time and gives the
same bytes.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from lipsjax.analysis.cards import TONES, at_ceiling, cards
from lipsjax.analysis.comparison import Row, compare, recordings_of
from lipsjax.analysis.controls import is_lips
from lipsjax.analysis.diagnosis import diagnose
from lipsjax.analysis.finding import FEWEST, Finding
from lipsjax.analysis.planned import claims_of
from lipsjax.analysis.planned import sentences as decided
from lipsjax.analysis.value import appraise
from lipsjax.analysis.verdict import findings
from lipsjax.analysis.wording import (
    capped,
    counted,
    duration,
    format_bits,
    gained,
    money,
    percent,
    shown,
)
from lipsjax.recording import StudyRecording, read_study, write_atomically
from lipsjax.report import cards as card_words
from lipsjax.report import guarantees, hours, leakage, own_measures, plots, templating
from lipsjax.report.glossary import WORDS, linker
from lipsjax.report.next_step import next_step
from lipsjax.report.running import nobodys, running
from lipsjax.report.setting import describe_arm, describe_setting, in_a_phrase, seeds_stand_for
from lipsjax.report.sites import (
    Section,
    accuracy_text,
    gain_text,
    sections,
    site_text,
    spread_texts,
)
from lipsjax.report.summary import executive

MOST_CURVES = 12
"""Arms whose curves are drawn; of more, nobody could tell the lines apart."""

MOST_CELLS = 4
"""Cells whose figures are drawn in full; of more, each has one small panel."""

MOST_LINES = 24
"""Lines of a table or figure that are shown without being asked for."""

READ = ("accuracy", "stages", "relative_steps", "cells")
"""Names of figures whose curves of arms can be read off by pointing at them."""

SETTING = "The setting as it is"
LIPS = "Transient sparsity"
VARIANTS = "Variants and controls of transient sparsity"
OTHERS = "Without transient sparsity: controls and other strategies"
ALL = "All comparisons"

MINOR = ("Inertia", "Rounds", "Bits", "Time", "Value")
"""Topics that are told on request, where an arm has findings on others."""


class Shown(NamedTuple):
    """A figure as the page holds it."""

    drawing: plots.Drawing
    name: str  # unique on the page
    label: str  # what a screen reader says

    @property
    def panels(self) -> list[tuple[Markup, str]]:
        """SVG elements, and the axes of those whose curves can be read off."""
        drawn = [
            Markup(plots.svg(panel, f"{self.name}-{i}", self.label))
            for i, panel in enumerate(self.drawing.panels)
        ]
        read = self.name.startswith(READ)
        # a figure is laid out while it is drawn
        return [
            (element, axes_of(panel) if read else "")
            for element, panel in zip(drawn, self.drawing.panels, strict=True)
        ]

    @property
    def key(self) -> Markup | None:
        """The SVG element of what all panels share."""
        key = self.drawing.key
        return (
            None
            if key is None
            else Markup(plots.svg(key, f"{self.name}-key", f"{self.label}: key"))
        )

    @property
    def link(self) -> str:
        """The numbers as a data: address."""
        return plots.csv_link(self.drawing)

    @property
    def file(self) -> str:
        """Name under which they are saved."""
        return f"{self.name}.csv"

    @property
    def small(self) -> bool:
        """Whether the panels are of the small kind."""
        return self.drawing.panels[0].get_figwidth() < plots.PANEL


def write_report(out_dir: Path, study: StudyRecording | None = None) -> Path:
    """Writes ``report.html`` of a recorded study, whole or not at all.

    Args:
      out_dir: folder of the study, in which the file is written.
      study: what to show; read from there if not given.

    Returns:
      The path of the page. It needs no other file and no network.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    path = out_dir / "report.html"
    has_survey = (out_dir / "survey.html").is_file()
    write_atomically(path, render(study or read_study(out_dir), survey=has_survey))
    return path


def render(study: StudyRecording, *, survey: bool = False) -> str:
    """The page of a recorded study.

    Args:
      study: the recorded study.
      survey: whether the page of its sites lies beside it.

    Returns:
      HTML that needs no other file and no network.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    return _environment().get_template("report.html").render(contents(study), survey=survey)


def figures(study: StudyRecording) -> dict[str, plots.Drawing]:
    """The figures of the page of a recorded study.

    Args:
      study: the recorded study.

    Returns:
      The name of a figure on the page -> its drawing, in the page's order of drawing.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    return {shown.name: shown.drawing for shown in _figures_in(contents(study))}


def _figures_in(value: Any) -> Iterator[Shown]:
    """Yield the figures among what a page is made of, whatever holds them."""
    if isinstance(value, Shown):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(_figures_in, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(_figures_in, value))


def contents(study: StudyRecording) -> dict[str, Any]:
    """What the page of a recorded study is made of, by the names of its template.

    Args:
      study: the recorded study.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    rows = compare(study)
    cells = {
        study.cells[index]["label"]: recordings_of(study, index)
        for index in sorted({trial.cell for trial in study.trials})
    }
    few = len(cells) <= MOST_CELLS
    of_sites = sections(study)
    several = len({row.reference for row in rows}) > 1
    return {
        "study": study,
        "cards": cards(rows),
        "full": full_arm(rows),
        "step": next_step(study, rows),
        "all_arms": _all_arms(rows),
        "seeds_run": len({trial.seed for trial in study.trials}),
        "classes": json.dumps([(plots.arm_class(arm), arm) for arm in study.arms]),
        "summary": executive(study),
        "decisions": decided(study),
        "rows": rows,
        "missing": missing_trials(study),
        "running": running(study),
        "diverged": diverged_trials(study),
        "groups": _grouped(findings(rows, study.prices), rows),
        "values": appraise(rows, study.prices),
        "about": in_a_phrase(study.trials[0].recording) if len(cells) == 1 else "",
        "setting": describe_setting(study.trials[0].recording),
        "arms": [(arm, describe_arm(study, arm)) for arm in study.arms],
        "table": [(label, list(members)) for label, members in groupby(rows, _cell_of)],
        "further": further_measures(rows),
        "own_head": own_measures.HEAD,
        "own_lines": own_measures.own_lines(rows),
        "promise_head": guarantees.HEAD,
        "promises": guarantees.guarantee_lines(rows),
        "promise_note": guarantees.OUTSIDE,
        "levers": hours.levers(rows),
        "class_head": hours.CLASSES,
        "device_classes": hours.class_lines(study),
        "hours_note": hours.NOTE,
        "purchases": hours.money_lines(study),
        "purchases_note": hours.money_note(study),
        "several": several,
        "maps": _maps(study, rows),
        "pairs": Shown(plots.pairs(rows), "pairs", "Each arm, alone and with transient sparsity")
        if several
        else None,
        "forest": _forest(rows),
        "coupling": _coupling(rows),
        "leakage": [_leakage(part, rows, i) for i, part in enumerate(leakage.parts(study))],
        "sites": [(s, _site_figure(study, s, i)) for i, s in enumerate(of_sites)] if few else [],
        "seeds": seeds_stand_for(study.trials[0].recording.config["partition"]),
        "held_out": [s for s in of_sites if s.table.held_out],
        "cells": [_cell(study, rows, label, arms) for label, arms in cells.items()] if few else [],
        "overview": None
        if few
        else Shown(plots.accuracy_cells(cells), "cells", "Accuracy over rounds in each cell"),
    }


def _leakage(part: leakage.Part, rows: Sequence[Row], i: int) -> dict[str, Any]:
    """What the page shows of attacks on the arms of one cell."""
    members = [row for row in rows if row.cell == part.label]
    drawn, seen = plots.leakage(members, part.leaks), plots.gallery(part.pictures)
    label = "What arms give away against their accuracy"
    return {
        "part": part,
        "figure": drawn and Shown(drawn, f"leakage-{i}", label),
        "gallery": seen and Shown(seen, f"gallery-{i}", "Images of one client, held and found"),
    }


def missing_trials(study: StudyRecording) -> dict[str, int]:
    """Arm -> number of its trials that the study asks for, not finished and run by nobody."""
    return dict(Counter(trial["arm"] for trial in nobodys(study)))


def diverged_trials(study: StudyRecording) -> dict[str, int]:
    """Arm -> number of its trials that diverged; older recordings do not say."""
    return dict(Counter(trial["arm"] for trial in study.diverged))


_FURTHER = {"tuned": "fine-tuned", "new": "new clients", "new_tuned": "new, fine-tuned"}


def further_measures(rows: list[Row]) -> dict[str, str]:
    """Accuracies after the last round that some row has: measure -> its heading."""
    return {
        measure: name
        for measure, name in _FURTHER.items()
        if any(row.means[measure].mean >= 0 for row in rows)
    }


def kind_of(row: Row) -> str:
    """Under which heading the findings of a row stand."""
    if row.is_reference:
        return SETTING
    if is_lips(row.config):
        return LIPS
    return VARIANTS if row.transient else OTHERS


def _cell_of(row: Row) -> str:
    return row.cell


def _grouped(found: Iterable[Finding], rows: Sequence[Row]) -> dict[str, dict[str, list[Finding]]]:
    """Findings by the kind of their arm, then by subject, and cell where there are several."""
    kinds = {}
    for row in rows:
        kinds |= {row.arm: SETTING, f"{row.arm} against its controls": VARIANTS}
    kinds |= {f"{r.arm} against {r.reference}": kind_of(r) for r in rows if not r.is_reference}
    groups = {kind: {} for kind in (SETTING, ALL, LIPS, VARIANTS, OTHERS)}
    for finding in found:
        heading = ", ".join(filter(None, (finding.subject, finding.cell)))
        kind = groups[kinds.get(finding.subject, ALL)]
        kind.setdefault(heading, []).append(finding)
    # LIPS against all its controls comes before each of them
    groups[VARIANTS] = dict(sorted(groups[VARIANTS].items(), key=_is_of_one))
    return {kind: headings for kind, headings in groups.items() if headings}


def _is_of_one(group: tuple[str, list[Finding]]) -> bool:
    return not group[1][0].subject.endswith(" against its controls")


def full_arm(rows: Sequence[Row]) -> Row | None:
    """The plain federated arm, where there is one cell and less than a point is left to gain."""
    found = diagnose(rows)
    if len(found) != 1:
        return None
    row = next(r for r in rows if (r.cell, r.arm) == (found[0].cell, found[0].arm))
    return row if at_ceiling(row) else None


def axes_of(figure: Figure) -> str:
    """Where the axes of a drawn figure lie in its SVG, and what values their ends have, as JSON."""
    ax, (width, height) = figure.axes[0], 72 * figure.get_size_inches()  # points
    box = ax.get_position()
    places = {
        "x": (box.x0 * width, box.x1 * width),
        "y": ((1 - box.y0) * height, (1 - box.y1) * height),
    }
    found: dict[str, Any] = {
        which: [
            *(round(float(place), 2) for place in places[which]),
            *(float(f"{value:.6g}") for value in getattr(ax, f"get_{which}lim")()),
            getattr(ax, f"get_{which}scale")() == "log",
        ]
        for which in ("x", "y")
    }
    return json.dumps(found | {"percent": ax.get_yscale() != "log"})


def _all_arms(rows: list[Row]) -> Shown | None:
    """All arms on one axis; none where there is nothing to draw, or too much for a glance."""
    drawing = plots.summary_forest(rows)
    return Shown(drawing, "all-arms", "All arms on one axis") if drawing.panels else None


def _forest(rows: list[Row]) -> Shown | None:
    """The differences of a study; none in a study of the reference alone."""
    if rows[0].comparisons == 0:
        return None
    return Shown(plots.forest(rows), "differences", "Differences from the reference arm")


def _coupling(rows: list[Row]) -> Shown | None:
    """How the relative step and aggregation gain go together, where some arm has enough rounds."""
    if all(math.isnan(row.means["coupling"].mean) for row in rows):
        return None
    return Shown(plots.coupling(rows), "coupling", "Correlation of step and aggregation gain")


def _site_figure(study: StudyRecording, section: Section, index: int) -> Shown | None:
    """The accuracies of sites that have a line each, and what they gain; None of many sites."""
    if len(section.sites) < len(section.table.sites):
        return None
    look = plots.looks_of(study)
    drawing = plots.sites(section.sites, section.arms, look, alone=section.table.alone)
    return Shown(drawing, f"sites-{index}", "Accuracy of each site") if drawing.panels else None


def _maps(study: StudyRecording, rows: list[Row]) -> list[dict[str, Any]]:
    """A map of each arm with transient sparsity, or of each compared arm if none has it."""
    grid = plots.grid_of(study.cells)
    compared = [row for row in rows if not row.is_reference]
    if grid is None or not compared:
        return []
    wanted = [row for row in compared if row.transient] or compared
    limit, claims = plots.largest_difference(wanted), claims_of(study)
    maps = []
    for i, arm in enumerate(dict.fromkeys(row.arm for row in wanted)):
        members = [row for row in compared if row.arm == arm]
        drawing = plots.effect_map(members, grid, limit=limit, claims=claims)
        counts = {
            title: Counter(plots.found(row, measure, claims) for row in members)
            for measure, title in plots.ACCURACIES.items()
        }
        maps.append(
            {
                "arm": arm,
                "reference": members[0].reference,
                "counts": counts,
                "cells": len(members),
                "figure": Shown(drawing, f"map-{i}", f"Where {arm} helps and hurts"),
            }
        )
    return maps


def _cell(study: StudyRecording, rows: list[Row], label: str, arms: plots.Arms) -> dict[str, Any]:
    """What the page shows of one cell: its label, the seed of its class mix, its figures."""
    index = [cell["label"] for cell in study.cells].index(label)
    runs = [run for recordings in arms.values() for run in recordings]
    members = [row for row in rows if row.cell == label]
    drawn = {
        "cost": (plots.cost(members), "Cost against accuracy"),
        "mix": (plots.class_mix(runs[0]), "Training examples per client and class"),
    }
    if len(arms) <= MOST_CURVES:
        drawn |= {
            "accuracy": (plots.accuracy_curves(arms), "Accuracy over rounds"),
            "hours": (plots.accuracy_hours(arms), "Accuracy over simulated time"),
            "stages": (plots.stages(arms), "Accuracy before, of the global model, and after"),
            "steps": (plots.inertia_heatmap(arms), "Relative step of each layer in each round"),
            "relative_steps": (plots.relative_steps(arms), "Relative step, middle and outer"),
            "changes": (plots.changes(arms), "Changes of relative step against changes of gain"),
        }
    return {
        "label": label,
        "seed": runs[0].config["seed"],
        "has_curves": "accuracy" in drawn,
        "sparse": any((run.scalars["density"] < 1).any() for run in runs),
    } | {
        name: Shown(drawing, f"{name}-{index}", title) if drawing.panels else None
        for name, (drawing, title) in drawn.items()
    }


def _reached(row: Row) -> str:
    """How many seeds reach the target."""
    share = row.means["reached"]
    return "" if math.isnan(share.mean) else f"{round(share.mean * share.n)} of {share.n} seeds"


def _environment() -> jinja2.Environment:
    pages = templating.environment()
    pages.tests["minor"] = lambda topic: topic.startswith(MINOR)
    link = linker()
    pages.globals |= {
        "card": card_words,
        "tones": TONES,
        "words": WORDS,
        "linked": link,
        "duration": duration,
        "counted": counted,
        "value": lambda number: (
            "" if math.isnan(number) else Markup(' data-v="{}"').format(f"{number:.6g}")
        ),
        "percent": percent,
        "gained": gained,
        "inertia": lambda interval: shown(capped(interval), digits=2),
        "fewest": FEWEST,
        "bits": format_bits,
        "money": money,
        "reached": _reached,
        "site_text": site_text,
        "gain_text": gain_text,
        "class_text": accuracy_text,
        "spread_texts": spread_texts,
        "number": lambda value: "" if math.isnan(value) else f"{value:.3g}",
        "marks": plots.MARKS,
        "paints": plots.PAINTS,
        "most_lines": MOST_LINES,
    }
    return pages
