"""How many seeds would find an effect: ``lipsjax power RESULTS --effect 1``.

From the recordings of a study alone; nothing is run, nothing is written, and JAX is not started.
"""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lipsjax.experiments import command
from lipsjax.recording import StudyRecording

WIDTH = 80
"""Columns of what is printed."""
MEASURES = {"personalised": "personalised accuracy", "global": "global accuracy"}


@dataclasses.dataclass(frozen=True)
class Power:
    """Say how many seeds would find an effect of each arm, how long they take, and the command.

    The spread of the differences between seeds is read from a recorded study, with its own
    interval, as a few seeds tell it roughly.
    """

    directory: Annotated[Path, tyro.conf.Positional] = Path("results")
    """Directory of the study: what --out was."""
    effect: float = 1.0
    """Difference from the reference that is to be found, in points of accuracy."""
    power: float = 0.8
    """Chance of finding it, if it is there."""
    measure: Literal["personalised", "global"] = "personalised"
    """Accuracy that is compared."""


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for what is no effect or no chance, or a directory that holds no study.
    """
    options = command.parse(Power, argv, program="lipsjax power", default=Power())
    if not 0 < options.effect <= 100:
        raise ValueError(f"effect must be above 0 and at most 100 points, not {options.effect:g}")
    if not 0.05 < options.power < 1:
        raise ValueError(f"power must be above 0.05 and below 1, not {options.power:g}")
    from rich.console import Console

    from lipsjax.analysis.needed import needs
    from lipsjax.recording import read_study

    study = read_study(options.directory)
    found = needs(study, effect=options.effect / 100, power=options.power, measure=options.measure)
    if not found:
        raise ValueError(f"{options.directory} compares no arms: it has {', '.join(study.arms)}")
    console = Console(width=WIDTH)
    known = [need for need in found if need.seeds is not None]
    if not known:
        console.print(_too_few(found), highlight=False, markup=False)
        return
    console.print(_asked(options), "", _table(study, found), "", sep="\n", highlight=False)
    for line in _next(study, found, known):
        console.print(line, highlight=False, markup=False, soft_wrap=line.startswith("python "))


def _too_few(found: list[Any]) -> str:
    """Say that nothing can be told."""
    from lipsjax.analysis.finding import FEWEST
    from lipsjax.analysis.wording import counted

    most = max(need.paired for need in found)
    return (
        f"{counted(most, 'seed')} in both arms do not tell how far seeds scatter, so "
        f"nobody knows how many are needed: run at least {FEWEST}, better 5."
    )


def _asked(options: Power) -> str:
    from lipsjax.analysis.wording import counted

    return (
        f"Seeds to find a difference of {counted(options.effect, 'point')} of "
        f"{MEASURES[options.measure]} with a chance of {options.power:.0%}, by a two-sided t test "
        "of paired differences at 5%."
    )


def _table(study: StudyRecording, found: list[Any]) -> Any:
    """Return a row for each compared arm and cell."""
    import rich.box
    from rich.table import Table
    from rich.text import Text

    from lipsjax.analysis.needed import takes

    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("arm", overflow="fold", min_width=8)
    priced = any(price is not None for price in study.prices.values())
    heads = ("seeds", "spread, points", "needed", "range", "minutes")
    for head in (*heads, *(["cost"] if priced else [])):
        table.add_column(head, justify="right", overflow="fold")
    for need in found:
        row = need.row
        name = f"{row.arm}, {row.cell}" if row.cell else row.arm
        if need.seeds is None:
            table.add_row(Text(name), str(need.paired), *["–"] * (len(table.columns) - 2))
            continue
        took = takes((row, need.reference), need.seeds, study.prices)
        spread = need.spread
        cells = [
            str(need.paired),
            f"{100 * spread.mean:.2f} [{100 * spread.low:.2f}, {100 * spread.high:.2f}]",
            str(need.seeds),
            f"{need.low} to {need.high}",
            _minutes(took.minutes),
            *([_money(took.cost)] if priced else []),
        ]
        table.add_row(*map(Text, (name, *cells)))
    return table


def _next(study: StudyRecording, found: list[Any], known: list[Any]) -> list[str]:
    """Return what the table means, and what to run."""
    from lipsjax.analysis.finding import FEWEST
    from lipsjax.analysis.needed import takes
    from lipsjax.analysis.wording import duration

    lines = [
        "Spread: standard deviation of the differences between seeds, with its 95% interval, whose "
        "ends give the range. Minutes: of the seeds that are lacking in both arms, compiling "
        "included, one run after the other; workers share them.",
    ]
    if len(known) < len(found):
        lines.append(f"–: fewer than {FEWEST} seeds in both arms do not tell how far they scatter.")
    # controls that are far away need no such precision
    wanted = [need for need in known if need.row.transient] or known
    seeds = max(need.seeds for need in wanted)
    arms = ", ".join(dict.fromkeys(need.row.arm for need in wanted))
    if all(need.seeds <= need.paired for need in wanted):
        return [*lines, "", f"At the spread observed, {arms} has seeds enough."]
    if study.decisions is not None:
        return [
            *lines,
            "",
            "How many seeds this study has was planned before its first run: more of them are "
            "another study, with another --out.",
        ]
    rows = {(row.cell, row.arm): row for need in found for row in (need.row, need.reference)}
    took = takes(list(rows.values()), seeds, study.prices)
    price = "" if took.cost is None else f" and cost {_money(took.cost)}"
    told = f"{seeds} seeds, for {arms}, take {duration(60 * took.minutes)} more{price}"
    line = again(study.command, seeds)
    if line is None:
        return [*lines, "", f"{told}: run the study again with seeds = {seeds}."]
    return [*lines, "", f"{told}:", "", line]


def again(line: str, seeds: int) -> str | None:
    """Return the command of a study with another number of seeds; None if it was no sweep.

    Example:
      >>> again("python -m lipsjax.experiments.sweep a.toml --seeds=3 --out 'my results'", 20)
      "python -m lipsjax.experiments.sweep a.toml --out 'my results' --seeds 20"
    """
    from lipsjax.report.next_step import with_option

    is_sweep = line.split()[:3] == ["python", "-m", "lipsjax.experiments.sweep"]
    if not is_sweep or "--until" in line.split():
        return None
    return with_option(line, "--seeds", str(seeds)) or None


def _minutes(minutes: float) -> str:
    return "not timed" if math.isnan(minutes) else f"{minutes:.1f}"


def _money(amount: float | None) -> str:
    from lipsjax.analysis.wording import money

    return "–" if amount is None else money(amount)


if __name__ == "__main__":
    command.guarded(main)
