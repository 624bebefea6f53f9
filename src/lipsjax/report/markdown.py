"""A study as Markdown, for a paper's appendix or an issue: the page's words and tables."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from lipsjax.analysis.cards import cards
from lipsjax.analysis.comparison import Row, compare
from lipsjax.analysis.verdict import findings
from lipsjax.analysis.wording import capped, duration, format_bits, gained, percent, shown
from lipsjax.recording import StudyRecording, read_study, write_atomically
from lipsjax.report import hours
from lipsjax.report.cards import lines
from lipsjax.report.guarantees import HEAD as GUARANTEES
from lipsjax.report.guarantees import OUTSIDE, guarantee_lines
from lipsjax.report.html import diverged_trials
from lipsjax.report.next_step import Step, next_step
from lipsjax.report.own_measures import HEAD, own_lines
from lipsjax.report.plots import MARKS
from lipsjax.report.running import counted_running, running
from lipsjax.report.setting import describe_arm, describe_setting
from lipsjax.report.sites import Section, gain_text, sections, site_text, spread_texts
from lipsjax.report.summary import executive

COLUMNS = (
    "arm",
    "seeds",
    "personalised, %",
    "difference, points",
    "Holm p",
    "global, %",
    "difference, points",
    "Holm p",
    "inertia index",
    "bits up",
    "bits down",
    "s",
)
TEXTS = ("cell", "arm")
"""Columns that are no numbers."""


def write_markdown(out_dir: Path, study: StudyRecording | None = None) -> Path:
    """Writes ``report.md`` of a recorded study, whole or not at all.

    Args:
      out_dir: folder of the study, in which the file is written.
      study: what to show; read from there if not given.

    Returns:
      The path of the file.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    path = out_dir / "report.md"
    write_atomically(path, markdown(study or read_study(out_dir)))
    return path


def markdown(study: StudyRecording) -> str:
    """A study in GitHub's Markdown; equal recordings give equal text.

    Args:
      study: the recorded study.

    Returns:
      The text, with a line feed at its end.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    rows = compare(study)
    blocks = [f"# {_escape(study.name)}"]
    if study.description:
        blocks.append(_escape(study.description))
    answers = [f"- **{q}** {_escape(answer)}" for q, answer in lines(cards(rows))]
    blocks += ["## In short", "\n".join(answers), *_next(next_step(study, rows))]
    blocks += ["## Summary", _numbered(executive(study)), "## Results", _table(study, rows)]
    blocks.append(_escape(legend(study, rows)))
    if own := own_lines(rows):
        blocks += [_escaped(HEAD, own)]
    if promises := guarantee_lines(rows):
        blocks += ["## What is promised", _escaped(GUARANTEES, promises), OUTSIDE]
    if levers := hours.levers(rows):
        blocks += ["## Hours at the sites", _escaped(levers[0], levers[1:]), hours.NOTE]
        blocks += [_escaped(hours.CLASSES, hours.class_lines(study))]
    if bought := hours.money_lines(study):
        blocks += ["### What accuracy costs", _escaped(bought[0], bought[1:])]
        blocks += [hours.money_note(study)]
    blocks += _site_blocks(study)
    blocks += ["## What this study shows", _bullets(_sentences(study, rows))]
    setting = [
        *describe_setting(study.trials[0].recording),
        *((f"Arm {arm}", describe_arm(study, arm)) for arm in study.arms),
    ]
    blocks += ["## Setting", "\n".join(f"- **{_escape(t)}**: {_escape(d)}" for t, d in setting)]
    versions = ", ".join(f"{name} {version}" for name, version in study.versions.items())
    blocks += [
        "## To run it again",
        _code(study.command),
        _escape(f"Platform {study.platform}; {versions}."),
    ]
    return "\n\n".join(blocks) + "\n"


def _next(step: Step) -> list[str]:
    """What to do next, the command to copy, and how long it takes."""
    took = "" if math.isnan(step.seconds) else f" About {duration(step.seconds)} of computing."
    command = [_code(step.command)] if step.command else []
    return [
        f"**Is it worth going on?** {_escape(step.word)}. {_escape(step.sentence)}{took}",
        *command,
    ]


def _table(study: StudyRecording, rows: list[Row]) -> str:
    head, lines = table_cells(study, rows, _escape)
    # texts to the left, numbers to the right
    rule = [":---" if name in TEXTS else "---:" for name in head]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def table_cells(
    study: StudyRecording, rows: list[Row], escape: Callable[[str], str]
) -> tuple[list[str], list[list[str]]]:
    """The table of a paper, cell by cell.

    Args:
      study: the recorded study.
      rows: its comparison rows.
      escape: makes a name what the format shows as it is.

    Returns:
      The heads of the columns, and as many texts for each row; empty where nothing was measured.
    """
    several = len(study.cells) > 1
    head = ["cell", *COLUMNS] if several else [*COLUMNS]
    lines = []
    for row in rows:
        cells = [escape(row.arm) + _against(study, row, escape), str(len(row.seeds))]
        for measure in ("personalised", "global"):
            mean = row.means[measure]
            cells.append("" if math.isnan(mean.mean) else percent(mean))
            if row.is_reference:
                cells += ["", ""]
                continue
            found, p = row.differences[measure].interval, row.adjusted[measure]
            cells.append("" if math.isnan(found.mean) else gained(found))
            cells.append("" if math.isnan(p) else f"{p:.2g}")
        inertia, seconds = row.means["inertia_end"], row.means["seconds"].mean
        cells += [
            "" if math.isnan(inertia.mean) else shown(capped(inertia), digits=2),
            *(format_bits(row.means[f"{way}link_bits"].mean) for way in ("up", "down")),
            "" if math.isnan(seconds) else f"{seconds:.1f}",
        ]
        lines.append([escape(row.cell), *cells] if several else cells)
    return head, lines


SPREAD_COLUMNS = (
    *("arm", "worst, %", "lowest quarter", "median", "highest quarter", "best"),
    *("best less worst, points", "standard deviation, points", "ahead of training alone, %"),
)


def _site_blocks(study: StudyRecording) -> list[str]:
    """Site by site: a table of each cell's sites, how they lie, and what follows."""
    blocks = []
    for section in sections(study):
        if section.label:
            blocks.append(f"### {_escape(section.label)}")
        if section.sites:
            blocks.append(_site_table(section))
        spreads = section.table.spreads
        rows = [[_escape(arm), *spread_texts(spreads[arm])] for arm in section.arms]
        blocks.append(_lines(SPREAD_COLUMNS, rows))
        blocks.append(_bullets(list(section.notes)))
    return ["## Site by site", *blocks] if blocks else []


def _site_table(section: Section) -> str:
    alone = section.table.alone
    head = ["site", "training examples", "classes held"]
    for arm in section.arms:
        head.append(f"{_escape(arm)}, %")
        if arm in section.sites[0].against_alone:
            head.append(f"{_escape(arm)} less {_escape(alone or '')}, points")
    rows = []
    for site in section.sites:
        name = _escape(site.name) + ("" if site.trains else " (held out)")
        row = [name, f"{site.train_examples:.4g}", f"{site.classes:.3g}"]
        for arm in section.arms:
            row.append(site_text(site, arm))
            if arm in site.against_alone:
                gain = gain_text(site, arm)
                row.append(f"{gain} {MARKS[site.against_alone[arm].outcome]}" if gain else "")
        rows.append(row)
    return _lines(head, rows)


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = [":---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _escaped(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts that are not escaped yet."""
    return _lines(head, [[_escape(text) for text in line] for line in rows])


def legend(study: StudyRecording, rows: list[Row]) -> str:
    """What the numbers of the table are, and what is missing in it; not escaped."""
    count = rows[0].comparisons
    p = (
        f"p of the paired t test after Holm's correction over {count} comparisons"
        if count > 1
        else "p of the paired t test"
    )
    own = " or from the arm after vs" if len({row.reference for row in rows}) > 1 else ""
    missing = (
        f" Not finished: {len(study.missing)} of {len(study.missing) + len(study.trials)} trials"
        f"{counted_running(study)}."
        if study.missing
        else ""
    ) + "".join(f" Running on {line}." for line in running(study))
    diverged = ", ".join(f"{n} of {arm}" for arm, n in diverged_trials(study).items())
    ended = f" Diverged: {diverged}." if diverged else ""
    return (
        "Mean [95% interval] over seeds of the last 10% of rounds; differences are seed by seed, "
        f"from {study.reference}{own}; {p}. Bits and seconds are per run, over all clients; "
        f"seconds without compiling.{missing}{ended}"
    )


def _sentences(study: StudyRecording, rows: list[Row]) -> list[str]:
    return [found.sentence for found in findings(rows, study.prices)]


def _against(study: StudyRecording, row: Row, escape: Callable[[str], str]) -> str:
    apart = row.reference not in (study.reference, row.arm)
    return f" (vs {escape(row.reference)})" if apart else ""


def _numbered(lines: list[str]) -> str:
    return "\n".join(f"{i}. {_escape(line)}" for i, line in enumerate(lines, start=1))


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {_escape(line)}" for line in lines)


def _code(text: str) -> str:
    """A fenced block whose fence is longer than any run of backticks in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    escaped = "".join(f"\\{c}" if c in "\\`*_|<>[]#$~" else c for c in text)
    return " ".join(escaped.split())
