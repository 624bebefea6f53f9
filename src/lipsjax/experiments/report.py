"""Draw a study's table and page again from its recordings: ``lipsjax report DIR``."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lipsjax.experiments import command

Format = Literal["html", "md"]


@dataclasses.dataclass(frozen=True)
class Report:
    """Draw the table and the report of a study again, from its recordings alone."""

    directory: Annotated[Path, tyro.conf.Positional] = Path("results")
    """Directory of the study: what --out was."""
    format: Format = "html"
    """html: a page to look at, report.html; md: Markdown for a paper, report.md."""


def draw(out: Path, console: Console, form: Format = "html") -> None:
    """Write the report and ``table.csv``; print table, summary and verdict."""
    from lipsjax import recording
    from lipsjax.analysis.comparison import compare
    from lipsjax.analysis.verdict import verdict
    from lipsjax.report.html import write_report
    from lipsjax.report.markdown import write_markdown
    from lipsjax.report.summary import executive
    from lipsjax.report.terminal import summary_table, write_table
    from lipsjax.runs.config import Config
    from lipsjax.runs.fields import from_dict

    study = recording.read_study(out)
    for trial in study.trials:  # pages read more of a config than a recording checks
        try:
            from_dict(Config, trial.recording.config)
        except ValueError as error:
            run = out / "runs" / trial.run
            raise ValueError(
                f"{run / 'config.json'}: {error}; delete {run} to run it again"
            ) from None
    path = write_markdown(out) if form == "md" else write_report(out)
    write_table(study, out / "table.csv")
    console.print(summary_table(study, width=console.width))
    sentences = Table.grid(padding=(0, 1))
    for number, line in enumerate(executive(study), start=1):
        sentences.add_row(f"{number}.", Text(line))
    sentences.add_row()
    for sentence in verdict(compare(study), study.prices):
        sentences.add_row("•", Text(sentence))
    console.print("", sentences, f"\nreport: {path}", highlight=False, markup=False, sep="\n")
    if (out / "survey.html").exists():
        console.print(f"survey: {out / 'survey.html'}", highlight=False, markup=False)


def main(argv: list[str]) -> None:
    """Run the command."""
    options = command.parse(Report, argv, program="lipsjax report", default=Report())
    from lipsjax.runs.watch import make_console

    draw(options.directory, make_console(), options.format)


if __name__ == "__main__":
    command.guarded(main)
