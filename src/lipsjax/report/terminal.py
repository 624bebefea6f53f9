"""The comparison of a study as a table: for the terminal, and as a file of all digits."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import rich.box
from rich.table import Table
from rich.text import Text

from lipsjax.analysis.comparison import Row, compare
from lipsjax.analysis.finding import FEWEST, outcome
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import capped, format_bits, gained, percent, shown
from lipsjax.recording import StudyRecording, write_atomically
from lipsjax.report.html import diverged_trials, further_measures, missing_trials
from lipsjax.report.running import running
from lipsjax.report.setting import seeds_stand_for
from lipsjax.report.sites import Section, gain_text, sections, site_text, spread_texts
from lipsjax.report.table import table_text


def summary_table(study: StudyRecording, *, width: int = 100) -> Table:
    """The comparison as a table for the terminal.

    Args:
      study: the recorded study.
      width: columns of the terminal; in fewer than 100, intervals go below their means, which
        fits 80.

    Returns:
      One line per cell and arm, and a second one with its differences from the reference.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    rows = compare(study)
    numbers = {label: i for i, label in enumerate(dict.fromkeys(row.cell for row in rows), start=1)}
    several = len(numbers) > 1
    own = ", or from the arm after vs" if len(_references(rows)) > 1 else ""
    further = further_measures(rows)
    legend = [
        "Mean [95% interval] over n seeds, last 10% of rounds; below it the seed-wise difference "
        f"from {study.reference}{own}, with * where, of {FEWEST} seeds or more, the interval "
        "excludes zero"
        f"{' and Holm-adjusted p < 0.05' if rows[0].comparisons > 1 else ''}. "
        "Bits and seconds per run; seconds without compiling.",
        *(f"Not finished: {n} of {arm}." for arm, n in missing_trials(study).items()),
        *(f"Running on {line}." for line in running(study)),
        *(f"Diverged: {n} of {arm}." for arm, n in diverged_trials(study).items()),
        *(f"{number}: {label}" for label, number in numbers.items() if several),
    ]
    table = Table(
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        title=Text(study.name),
        title_justify="left",
        caption=Text("\n".join(legend)),
        caption_justify="left",
    )
    table.add_column("arm", overflow="fold", min_width=6)
    for name in (
        "n",
        "personalised %",
        "global %",
        *(f"{name} %" for name in further.values()),
        "inertia index",
        "bits",
        "s",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row, following in zip(rows, [*rows[1:], rows[0]], strict=True):
        arm = f"{numbers[row.cell]}: {row.arm}" if several else row.arm
        if row.reference not in (study.reference, row.arm):
            arm += f"\nvs {row.reference}"
        cells = _numbers(row, further, narrow=width < 100 + 16 * len(further))
        table.add_row(Text(arm), *cells, end_section=row.cell != following.cell)
    return table


MOST_SECTIONS = 4
"""Cells whose sites the terminal shows; of more, they are in sites.csv."""


def site_lines(study: StudyRecording) -> list[Table | Text]:
    """What the terminal shows site by site: a table of each cell, and what follows from it.

    Args:
      study: the recorded study.

    Returns:
      Nothing where no site is recorded, or where there are too many cells.
    """
    shown = sections(study)
    if not 0 < len(shown) <= MOST_SECTIONS:
        return []
    lines: list[Table | Text] = []
    for section in shown:
        lines.append(_site_table(section) if section.sites else _spread_table(section))
        lines.append(Text("\n".join(f"• {note}" for note in section.notes)))
    return [*lines, Text(seeds_stand_for(study.trials[0].recording.config["partition"]))]


def _titled(section: Section) -> Table:
    title = ": ".join(filter(None, ("Site by site", section.label)))
    return Table(
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        title=Text(title),
        title_justify="left",
    )


def _site_table(section: Section) -> Table:
    """Each site with its accuracies, and below them what it gains over training alone."""
    table = _titled(section)
    table.add_column("site", overflow="fold", min_width=6)
    for name in ("examples", "classes", *(f"{arm} %" for arm in section.arms)):
        table.add_column(Text(name), justify="right", overflow="fold")
    for site in section.sites:
        name = site.name if site.trains else f"{site.name} (held out)"
        cells = [f"{site.train_examples:.4g}", f"{site.classes:.3g}"]
        for arm in section.arms:
            gain = gain_text(site, arm)
            cells.append(f"{site_text(site, arm)}\n{gain}" if gain else site_text(site, arm))
        table.add_row(*map(Text, (name, *cells)))
    return table


def _spread_table(section: Section) -> Table:
    """How the accuracies of made-up clients lie."""
    table = _titled(section)
    table.add_column("arm", overflow="fold", min_width=6)
    for name in ("worst %", "quarter", "median", "quarter", "best", "range", "deviation", "ahead"):
        table.add_column(name, justify="right")
    for arm in section.arms:
        texts = [text.split(" ")[0] for text in spread_texts(section.table.spreads[arm])]
        table.add_row(*map(Text, (arm, *texts)))
    return table


def write_table(study: StudyRecording, path: Path) -> None:
    """Writes the comparison as CSV, all digits, one line per cell and arm.

    Intervals are Student's, as computed, so that others can compute with them: one of an accuracy
    may go beyond 0 or 1, where page and terminal end it.

    Args:
      study: the recorded study.
      path: file to write, replaced whole.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    compared = compare(study)
    measures = list(compared[0].means)
    columns = [f"{m}_{part}" for m in measures for part in ("mean", "low", "high")]
    columns += [
        f"{m}_difference_{part}" for m in measures for part in ("mean", "low", "high", "p", "holm")
    ]
    rows = []
    for row in compared:
        paired = row.differences["personalised"].interval.n if row.differences else ""
        cells: list[Any] = [v for m in measures for v in row.means[m][:3]]
        for m in measures:
            found = row.differences.get(m)
            cells += [*found.interval[:3], found.p, row.adjusted[m]] if found else [""] * 5
        rows.append([row.cell, row.arm, row.reference, len(row.seeds), paired, *cells])
    heads = ["cell", "arm", "reference", "seeds", "paired_seeds", *columns]
    write_atomically(path, table_text(heads, rows))


def _references(rows: list[Row]) -> set[str]:
    """The arms that others are compared with."""
    return {row.reference for row in rows}


def _numbers(row: Row, further: Iterable[str], *, narrow: bool) -> list[Text]:
    """What the terminal's table shows of a row, its differences below."""

    def with_difference(key: str, mean: str, found: Callable[[Interval], str]) -> str:
        if row.is_reference:
            return mean
        star = "*" if outcome(row, key, up="*", down="*") == "*" else " "
        return f"{mean} \n{found(row.differences[key].interval)}{star}"

    def both(key: str) -> str:
        return with_difference(key, percent(row.means[key]), gained)

    up, down = (format_bits(row.means[f"{way}link_bits"].mean) for way in ("up", "down"))
    seconds = row.means["seconds"].mean
    texts = (
        str(len(row.seeds)),
        both("personalised"),
        both("global"),
        *(both(measure) for measure in further),
        with_difference(
            "inertia_end",
            shown(capped(row.means["inertia_end"]), digits=2),
            lambda found: shown(found, digits=2, sign="+"),
        ),
        f"{up} up\n{down} dn",
        "" if math.isnan(seconds) else f"{seconds:.1f}",
    )
    return [Text(text.replace(" [", "\n[") if narrow else text) for text in texts]
