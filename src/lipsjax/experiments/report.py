"""Draw a study's table and page again from its recordings: ``lipsjax report DIR``."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lipsjax.experiments import command
from lipsjax.recording import Recording, StudyRecording
from lipsjax.recording.files import finite
from lipsjax.runs.config import Config, to_dict
from lipsjax.runs.data import check_numbers
from lipsjax.runs.fields import from_dict

Format = Literal["html", "md", "csv", "parquet", "latex", "svg", "png", "pdf"]


PAGES = ("html", "md")
"""Formats that hold all of the report."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Draw the table and the report of a study again, from its recordings alone."""

    directory: Annotated[Path, tyro.conf.Positional] = Path("results")
    """Directory of the study: what --out was."""
    format: Format = "html"
    """html: a page to look at, report.html; md: Markdown for a paper, report.md; csv, parquet: a
    row per run and round, per layer, per site and per comparison; latex: the comparison, table.tex;
    svg, png, pdf: every figure."""
    anonymise: command.Flag = False
    """Write to DIRECTORY/anonymous, without names of sites, classes, data and the study, commands
    and paths, as these can identify people. Arms keep their names, and recordings all of theirs."""
    verbose: command.Flag = False
    """Print tables site by site, and the verdict sentence by sentence, too."""


def draw(
    out: Path,
    console: Console,
    form: Format = "html",
    *,
    anonymise: bool = False,
    verbose: bool = False,
) -> None:
    """Write the report, ``table.csv`` and ``sites.csv``; print the table, five lines, the path.

    Args:
      out: directory of the study.
      console: what is printed to.
      form: of the report.
      anonymise: whether names are left out.
      verbose: whether to print what is known site by site, and the verdict, too.
    """
    from lipsjax import recording
    from lipsjax.analysis.comparison import compare
    from lipsjax.analysis.planned import sentences as decided
    from lipsjax.analysis.verdict import verdict
    from lipsjax.report.anonymise import FOLDER, anonymous_study
    from lipsjax.report.hours import write_classes
    from lipsjax.report.leakage import write_leakage
    from lipsjax.report.sites import write_sites
    from lipsjax.report.summary import executive
    from lipsjax.report.terminal import site_lines, summary_table, write_table

    study = recording.read_study(out)
    for trial in study.trials:
        _check_config(trial.recording, out / "runs" / trial.run)
    if anonymise:
        study, out = anonymous_study(study), out / FOLDER
        out.mkdir(exist_ok=True)
    paths = write(study, out, form)
    write_table(study, out / "table.csv")
    write_sites(study, out / "sites.csv")
    write_leakage(study, out / "leakage.csv")
    write_classes(study, out / "device_classes.csv")
    console.print(summary_table(study, width=console.width))
    console.print("", _listed(executive(study), numbered=True), highlight=False)
    if found := decided(study):
        console.print("", _listed(found), highlight=False)
    if verbose:
        for line in site_lines(study):
            console.print("", line, highlight=False, markup=False)
        console.print("", _listed(verdict(compare(study), study.prices)), highlight=False)
    told = [f"{'report' if form in PAGES else form}: {path}" for path in paths]
    if anonymise and (out.parent / "survey.html").exists():
        told.append(f"with names still: {out.parent / 'survey.html'}")
    if verbose and (out / "survey.html").exists():
        told.append(f"survey: {out / 'survey.html'}")
    console.print("", *told, highlight=False, markup=False, soft_wrap=True, sep="\n")


def _listed(sentences: Iterable[str], *, numbered: bool = False) -> Table:
    """Return sentences as a list whose lines stand below each other."""
    table = Table.grid(padding=(0, 1))
    for number, sentence in enumerate(sentences, start=1):
        table.add_row(f"{number}." if numbered else "•", Text(sentence))
    return table


def write(study: StudyRecording, out: Path, form: Format) -> list[Path]:
    """Write a study in one format; return the files, or the folder, that were written."""
    from lipsjax.report import html, latex, markdown, results

    if form in ("csv", "parquet"):
        return results.write_tables(study, out, form)
    if form in ("svg", "png", "pdf"):
        return [results.write_figures(study, out, form)]
    texts = {"html": html.write_report, "md": markdown.write_markdown, "latex": latex.write_latex}
    return [texts[form](out, study)]


def _check_config(run: Recording, folder: Path) -> None:
    """Refuse a recorded config that pages cannot be read from; a recording checks less of it.

    Raises:
      ValueError: naming the file, and what to do.
    """
    where = folder / "config.json"
    try:
        config = from_dict(Config, run.config)
        check_numbers(config)
        whole = to_dict(config)
        sections = {name for name, value in whole.items() if isinstance(value, dict)}
        lacking = sections - run.config.keys() - {"data"}  # how data were read, which no page tells
        # of when it was recorded, when there may have been fewer fields
        whole = {name: _among(whole.get(name), value) for name, value in run.config.items()}
        if lacking:
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        if finite(whole) != run.config:
            raise ValueError("it lacks fields, or holds values that no run records")
    except ValueError as error:
        raise ValueError(f"{where} is damaged: {error}; delete {folder} to run it again") from None


def _among(values: Any, recorded: Any) -> Any:
    """Return the fields that were recorded."""
    if isinstance(values, dict) and isinstance(recorded, dict):
        return {name: values[name] for name in recorded if name in values}
    return values


def main(argv: list[str]) -> None:
    """Run the command."""
    options = command.parse(Report, argv, program="lipsjax report", default=Report())
    from lipsjax.runs.watch import make_console

    draw(
        options.directory,
        make_console(),
        options.format,
        anonymise=options.anonymise,
        verbose=options.verbose,
    )


if __name__ == "__main__":
    command.guarded(main)
