"""A proof of concept in stages: ``lipsjax poc STAGES.toml``.

::

    OUT/poc.html              all stages, what each showed and cost, what is next
        01-small/             the first stage: the OUT of a study, as of lipsjax sweep
        01-small/stage.json   what was asked of it, and with how many seeds
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table
from rich.text import Text

from lipsjax.analysis.gates import GO, NO_GO
from lipsjax.analysis.wording import counted, duration
from lipsjax.experiments import command
from lipsjax.report.stages import (
    NOT_BEGUN,
    NOT_FINISHED,
    PAGE,
    Next,
    Outcome,
    bound_text,
    next_step,
    number_text,
    words,
    write_page,
)
from lipsjax.runs import startup
from lipsjax.runs.begun import (
    Begun,
    check_unchanged,
    outcome_of,
    read_begun,
    with_seeds,
    write_begun,
)
from lipsjax.runs.config import cohort_size, fit_devices
from lipsjax.runs.stages import Stage, Stages, load_stages, read_seeds
from lipsjax.runs.study import expand, program_key

STATUS = {GO: 0, NO_GO: 3}
"""Exit status of what stages come to, with --exit-code."""
STATUS_OPEN = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Poc:
    """Run a proof of concept in stages, each a study that must pass its gates before the next.

    Every gate is decided from an interval over seeds: go, no-go, or open, and then the command that
    would settle it is printed. The same command goes on where it was. A no-go is an answer, and the
    command has done its work: it ends with status 0, but see --exit-code.
    """

    stages: Annotated[Path, tyro.conf.Positional] = Path("STAGES.toml")
    """The stages, as docs/howto/poc.md has them. One that names own parts runs their code."""
    out: str = "results/poc"
    """Directory of the page, poc.html, and of a folder for each stage."""
    seeds: tuple[str, ...] = ()
    """Raise the seeds of stages, as small=12; each time is one more look, and is counted."""
    exit_code: command.Flag = False
    """End with status 0 if every stage is a go, 3 at a no-go, 4 if a stage is open."""


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for stages that cannot be run or decided, and then nothing has been written.
    """
    options = command.parse(Poc, argv, program="lipsjax poc", default=Poc())
    out = Path(os.path.expanduser(options.out))  # noqa: PTH111 - as it is where there is no home
    stages = load_stages(options.stages)
    asked = read_seeds(options.seeds, stages)
    begun = {stage.name: read_begun(out, stage) for stage in stages.stages}
    check_unchanged(out, stages, begun)
    outcomes = [outcome_of(out, stage, begun[stage.name]) for stage in stages.stages]
    raised = tuple(
        with_seeds(stage, outcome, asked.get(stage.name))
        for stage, outcome in zip(stages.stages, outcomes, strict=True)
    )
    check_devices(raised)
    again = command_again(options)
    found = carry_out(stages._replace(stages=raised), outcomes, begun, out, again)
    if options.exit_code:
        raise SystemExit(STATUS.get(found.word, STATUS_OPEN))


def command_again(options: Poc) -> str:
    """Return the command that goes on, without seeds.

    >>> command_again(Poc(stages=Path("my stages.toml"), seeds=("small=8",)))
    "lipsjax poc 'my stages.toml'"
    """
    words = [str(options.stages)]
    if options.out != Poc.out:
        words += ["--out", options.out]
    line = command.command_line("poc", words)
    return f"lipsjax poc{line.removeprefix('python -m lipsjax.experiments.poc')}"


def check_devices(stages: Sequence[Stage]) -> None:
    """Refuse devices that some stage cannot fill, or that are not the same in all.

    Raises:
      ValueError: naming the stage.
    """
    wanted = stages[0].study.execution.devices
    for stage in stages:
        devices = stage.study.execution.devices
        if devices != wanted:
            raise ValueError(
                f"stages.{stage.name}.execution.devices must be that of {stages[0].name}, "
                f"{wanted or 'none'}, as all stages run in one process, not {devices or 'none'}"
            )
        startup.check_devices(devices, max(cohort_size(t.config) for t in expand(stage.study)))


def carry_out(
    stages: Stages,
    outcomes: Sequence[Outcome],
    begun: Mapping[str, Begun | None],
    out: Path,
    again: str,
) -> Next:
    """Run what is left of the stages, up to the first that is no go; write and print the page.

    Args:
      stages: with the seeds that they are to be judged by.
      outcomes: what is known of each.
      begun: what was asked of each before.
      out: OUT.
      again: the command that goes on, without seeds.

    Returns:
      What they come to.
    """
    known, count = list(outcomes), len(stages.stages)

    def write() -> None:
        write_page(out / PAGE, stages.name, stages.description, known, again)

    first = next((i for i in range(count) if known[i].word != GO), count)
    if first < count and is_left(stages.stages[first], known[first]):
        start(stages.stages[first:])
        for i in range(first, count):
            stage = stages.stages[i]
            run(stage, begun[stage.name], out, again, place=f"{i + 1} of {count}")
            known[i] = outcome_of(out, stage, read_begun(out, stage))
            write()
            if known[i].word != GO:
                break
    write()
    found = next_step(known, again)
    tell(known, found, out / PAGE)
    return found


def is_left(stage: Stage, outcome: Outcome) -> bool:
    """Tell whether a stage has something to run."""
    if outcome.word in (NOT_BEGUN, NOT_FINISHED):
        return True
    return stage.study.seeds > outcome.seeds[-1]


def start(stages: Sequence[Stage]) -> None:
    """Start JAX, and refuse what cannot be run of the stages that are left before any begins.

    Raises:
      ValueError: naming the stage.
    """
    startup.start_jax(stages[0].study.execution)
    from lipsjax.runs.prepare import prepare

    for stage in stages:
        execution = stage.study.execution
        for trial in {program_key(t.config): t for t in expand(stage.study)}.values():
            try:
                prepare(trial.config, fit_devices(execution, trial.config))
            except ValueError as error:
                raise ValueError(f"stages.{stage.name}: {error}") from None


def run(stage: Stage, begun: Begun | None, out: Path, again: str, *, place: str) -> None:
    """Run what is not finished of a stage, and draw its pages; JAX has started."""
    from lipsjax.experiments import sweep
    from lipsjax.runs.watch import make_console

    write_begun(out, stage, begun)
    title = Text(f"\nStage {place}, {stage.name}: {stage.study.name}", style="bold")
    make_console().print(title, highlight=False)
    execution = dataclasses.replace(stage.study.execution, out=str(out / stage.folder))
    sweep.carry_out(dataclasses.replace(stage.study, execution=execution), again)


def tell(outcomes: Sequence[Outcome], found: Next, page: Path) -> None:
    """Print what every stage showed, what they come to, and what is next."""
    from lipsjax.runs.watch import make_console

    console, table = make_console(), Table.grid(padding=(0, 2, 0, 0))
    for outcome in outcomes:
        about = [outcome.title]
        for seeds in outcome.seeds[-1:]:
            looks = f", {len(outcome.seeds)} looks" if len(outcome.seeds) > 1 else ""
            about.append(f"{counted(seeds, 'seed')}{looks}, {duration(outcome.seconds)}")
        table.add_row(Text(outcome.word, style="bold"), Text(f"{outcome.name}: {'; '.join(about)}"))
        for i, gate in enumerate(outcome.gates):
            result = outcome.results[i] if outcome.results else None
            number = result and number_text(result)
            text = f"{words(gate)}: {f'{number}, ' if number else ''}{bound_text(gate)}"
            text += f" ({result.why})" if result and result.why else ""
            table.add_row("", Text(f"{result.word if result else '–'}  {text}"))
    console.print("", table, "", Text(f"{found.word}: {found.sentence}"), sep="\n", highlight=False)
    for line in (found.command, f"page: {page}"):
        if line:
            console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    command.guarded(main)
