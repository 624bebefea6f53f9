"""Draw a study's table and page again from its recordings: ``lipsjax report DIR``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lipsjax.experiments import command


@dataclasses.dataclass(frozen=True)
class Report:
    """Draw the table and the page of a study again, from its recordings alone."""

    directory: Annotated[Path, tyro.conf.Positional] = Path("results")
    """Directory of the study: what --out was."""


def draw(out: Path, console: Console) -> None:
    """Write ``report.html`` and ``table.csv``; print the table and the verdict."""
    from lipsjax import recording
    from lipsjax.comparison import compare
    from lipsjax.report import summary_table, write_report, write_table
    from lipsjax.verdict import verdict

    page = write_report(out)
    study = recording.read_study(out)
    write_table(study, out / "table.csv")
    console.print(summary_table(study, width=console.width))
    sentences = Table.grid(padding=(0, 1))
    for sentence in verdict(compare(study)):
        sentences.add_row("•", Text(sentence))
    console.print("", sentences, f"\nreport: {page}", highlight=False, markup=False, sep="\n")


def main(argv: list[str]) -> None:
    """Run the command."""
    options = command.parse(Report, argv, program="lipsjax report", default=Report())
    from lipsjax.experiments.watch import make_console

    draw(options.directory, make_console())


if __name__ == "__main__":
    command.guarded(main)
