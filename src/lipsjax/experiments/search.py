"""Search for a better setting of an arm, and confirm it: ``python -m lipsjax.experiments.search``.

::

    OUT/search/HASH/journal.log   every trial, as Optuna keeps it; HASH is of what is searched
                    trials.csv    the same for people, the best first
    OUT/runs/HASH                 the runs of trials, as of any command

The best value of a search is the largest of many noisy ones, and so too high. Settings are
therefore tried on seeds of their own, and the best is compared with the reference on the study's.
"""

import dataclasses
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from lipsjax.experiments import command
from lipsjax.experiments.sweep import Sweep, read_arguments, run_study
from lipsjax.runs import space, startup
from lipsjax.runs.config import cohort_size
from lipsjax.runs.study import Study, expand, references

SEEDS_ABOVE = 1000
"""How far the seeds of a search are above those of its study."""
FEW = 10
"""Settings tried to their ends below which importances say nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search(Sweep):
    """Search for the setting of an arm that does best, then confirm it on seeds not searched.

    Each trial is one setting, scored by personalised accuracy in the last 10% of rounds, averaged
    over seeds 1000 above the study's; bad ones are stopped early. The best score is the largest of
    many and so too high (winner's curse): the best setting and the reference are then run on the
    study's own seeds and compared in pairs, as lipsjax sweep does. The same command goes on where
    it was stopped.
    """

    trials: int = 20
    """Settings to try, with those that were tried before."""
    timeout: float | None = None
    """Seconds after which no further setting is begun; none: no limit."""
    arm: str | None = None
    """Arm that is searched; none: the first one with sparsity."""
    hours: float | None = None
    """Score what is reached within so many simulated hours, of sites with devices; none: at the end
    of all rounds."""
    share: Annotated[bool, tyro.conf.Suppress] = False
    """Not of a search, which one process runs."""
    space: tuple[str, ...] = space.DEFAULT
    """Fields and what they may be: [LOW, HIGH] is a range, texts or more values are choices."""


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for what cannot be searched, and then nothing has been written.
    """
    study, options = read_arguments(argv, Search, "lipsjax search")
    question = ask(study, options)
    startup.check_devices(study.execution.devices, cohort_size(question.config))
    if importlib.util.find_spec("optuna") is None:
        raise ValueError("lipsjax search needs optuna: pip install 'lipsjax[search]'")
    startup.start_jax(study.execution)
    import jax

    from lipsjax.runs.explore import explore, opened, tried
    from lipsjax.runs.prepare import prepare
    from lipsjax.runs.watch import make_console

    if jax.process_count() > 1:
        raise ValueError(f"lipsjax search runs in one process, not in {jax.process_count()}")
    for config in (question.config, *space.extremes(question.space, question.config)):
        prepare(config, study.execution)  # what cannot be run is refused before all else
    console = make_console()
    with opened(question, study.execution) as (journal, folder):
        limits = {"trials": options.trials, "timeout": options.timeout}
        explore(journal, question, study.execution, **limits)
        found = tried(journal)
        if not found or found[0].state.name != "COMPLETE":
            raise ValueError(f"none of {len(found)} settings could be tried to its end")
        _write_csv(folder / "trials.csv", found, question)
    console.print(_table(found, question))
    for sentence in _sentences(journal, found, question):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    confirmed = confirmation(study, question, found[0].params, len(found))
    run_study(confirmed, command.command_line("search", argv), verbose=options.verbose)


def ask(study: Study, options: Search) -> space.Question:
    """Return what a command line asks to be searched.

    Raises:
      ValueError: for what cannot be.

    Example:
      >>> study = Study(seeds=2)
      >>> question = ask(study, Search(name="", seeds=2, arms=tuple(study.arms)))
      >>> question.arm, question.reference, question.seeds
      ('lips', 'dense', (1000, 1001))
    """
    if options.trials < 1:
        raise ValueError(f"trials must be at least 1, not {options.trials}")
    if options.timeout is not None and not 0 < options.timeout < math.inf:
        raise ValueError(f"timeout must be above 0 seconds, not {options.timeout}")
    if options.hours is not None and not 0 < options.hours < math.inf:
        raise ValueError(f"hours must be above 0, not {options.hours}")
    if study.until is not None:
        raise ValueError(
            "a search confirms what it finds on the study's seeds, without looks: leave --until out"
        )
    if study.grid:
        raise ValueError(
            f"a search takes no grid, and the study has one of {', '.join(study.grid)}: "
            "give these fields one value, or search them by --space"
        )
    if study.seeds > SEEDS_ABOVE:
        raise ValueError(f"seeds must be at most {SEEDS_ABOVE} in a search, not {study.seeds}")
    configs = {t.arm: t.config for t in reversed(expand(study))}  # of each arm, at its first seed
    sparse = [arm for arm in study.arms if configs[arm].sparsity is not None]
    arm = options.arm if options.arm is not None else next(iter(sparse), list(study.arms)[-1])
    if arm not in study.arms:
        raise ValueError(f"arm must be one of {', '.join(study.arms)}, not {arm!r}")
    reference = references(study)[arm]
    if arm == reference:
        raise ValueError(
            f"arm must be another than {arm!r}, which others are compared with: the study has "
            f"{', '.join(study.arms)}"
        )
    seeds = tuple(study.config.seed + SEEDS_ABOVE + i for i in range(study.seeds))
    config = dataclasses.replace(configs[arm], seed=seeds[0])
    if options.hours is not None and not config.sites.devices:
        raise ValueError(
            f"hours are of a simulated clock, and {arm} has none: give --sites.devices"
        )
    searched = space.read_space(options.space, config, arm)
    return space.Question(arm, reference, config, searched, seeds, options.hours)


def _table(tried: list[Any], question: space.Question) -> Any:
    """Return a table of the trials, the best first."""
    from rich.table import Table

    from lipsjax.runs.explore import score

    table = Table(title=f"settings of {question.arm}")
    table.add_column("accuracy", justify="right")
    for name in question.space:
        table.add_column(name, justify="right")
    table.add_column("")
    for trial in tried:
        reached = score(trial)
        table.add_row(
            "–" if math.isinf(reached) else f"{reached:.1%}",
            *(space.show(trial.params[name]) for name in question.space),
            trial.user_attrs.get("ended", ""),
        )
    return table


def _write_csv(path: Path, tried: list[Any], question: space.Question) -> None:
    from lipsjax.recording import write_atomically
    from lipsjax.report.table import table_text
    from lipsjax.runs.explore import score

    rows = []
    for trial in tried:
        reached = "" if math.isinf(score(trial)) else score(trial)
        values = (trial.params[name] for name in question.space)
        rows.append([reached, *values, trial.user_attrs.get("ended", "whole")])
    write_atomically(path, table_text(["accuracy", *question.space, "ended"], rows))


def _sentences(journal: Any, tried: list[Any], question: space.Question) -> Iterator[str]:
    """Yield what the table means, and what it does not."""
    import optuna

    seeds = f"{question.seeds[0]}..{question.seeds[-1]}"
    yield (
        f"The best of {len(tried)} settings reached {tried[0].value:.1%} on seeds {seeds}. That is "
        "too high an estimate: it is the largest of many noisy ones."
    )
    if len(question.space) > 1 and sum(t.state.name == "COMPLETE" for t in tried) >= FEW:
        parts = optuna.importance.get_param_importances(journal)
        shown = ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
        yield f"What made settings good (PED-ANOVA; few trials say little): {shown}."
    yield (
        f"Now the best ({space.describe(tried[0].params)}) is compared with {question.reference} "
        f"on seeds that were not searched. Nothing of {question.reference} was searched."
    )


def confirmation(study: Study, question: space.Question, best: dict[str, Any], tried: int) -> Study:
    """Return the study that compares the best setting with the reference, on the study's seeds."""
    own = {
        arm: {name: value for name, value in study.arms[arm].items() if name != "against"}
        for arm in (question.reference, question.arm)
    }
    about = (
        f"{_best(question)} is {question.arm} with {space.describe(best)}: the best of {tried} "
        f"settings on seeds {question.seeds[0]}..{question.seeds[-1]}, none of which is compared "
        f"here. Nothing of {question.reference} was searched."
    )
    return dataclasses.replace(
        study,
        name=f"{study.name}, the best of a search",
        description=f"{study.description} {about}".strip(),
        arms={
            question.reference: own[question.reference],
            _best(question): space.as_differences(best, own[question.arm]),
        },
    )


def _best(question: space.Question) -> str:
    return f"best {question.arm}"


if __name__ == "__main__":
    command.guarded(main)
