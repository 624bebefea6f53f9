"""Compare arms over seeds and a grid: ``python -m lipsjax.experiments.sweep [STUDY.toml]``."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from lipsjax.experiments import command
from lipsjax.experiments.config import (
    Config,
    Execution,
    Prices,
    SparsityConfig,
    cohort_size,
    to_dict,
)
from lipsjax.experiments.study import (
    Planned,
    Study,
    cells,
    expand,
    load_study,
    nearest,
    references,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Compare arms (by default dense federated averaging with LIPS) over seeds and a grid.

    A STUDY.toml before the options says what the defaults are; every option overrides it. Trials
    that are finished are found and not run again; one that was stopped goes on.
    """

    name: str
    """Title of the report."""
    seeds: int
    """Runs per arm and cell; their seeds are seed, seed + 1, ..."""
    arms: tuple[str, ...]
    """Arms to run, of those that the study defines; the first is the reference."""
    grid: tuple[str, ...] = ()
    """Fields and their values, as in 'partition.alpha=[0.1, 1.0]'; replaces the study's grid."""
    target: float | None = None
    """Accuracy that rounds and bits are counted to; none: 95% of what the reference ends with."""
    prices: Prices = Prices()
    """What costs and gains are worth; without any, no money is shown."""
    sparsity: SparsityConfig = SparsityConfig()
    """Transient sparsity of the arms that have it."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)
    execution: Annotated[Execution, tyro.conf.arg(name="")] = Execution()


S = TypeVar("S", bound=Sweep)


def read_arguments(argv: list[str], kind: type[S], program: str) -> tuple[Study, S]:
    """Return the study that a command line asks for, and all its options.

    Args:
      argv: STUDY.toml, if any, then options.
      kind: of the options.
      program: how the command is called.

    Raises:
      ValueError: for what cannot be read, or does not exist.
    """
    study, options = Study(), list(argv)
    if options and not options[0].startswith("-"):
        study = load_study(Path(options.pop(0)))
    shared = ("name", "seeds", "target", "prices", "sparsity", "config", "execution")
    defaults = kind(arms=tuple(study.arms), **{n: getattr(study, n) for n in shared})
    chosen = command.parse(kind, options, program=program, default=defaults)
    for arm in chosen.arms:
        if arm not in study.arms:
            hint = nearest(arm, study.arms)
            raise ValueError(f"unknown arm {arm!r}{hint}; the study has {', '.join(study.arms)}")
    grid = dict(_grid_entry(text) for text in chosen.grid) if chosen.grid else study.grid
    asked = dataclasses.replace(
        study,
        arms={arm: study.arms[arm] for arm in chosen.arms},
        grid=grid,
        **{name: getattr(chosen, name) for name in shared},
    )
    return asked, chosen


def _grid_entry(text: str) -> tuple[str, Any]:
    name, _, values = text.partition("=")
    try:
        return name.strip(), tomllib.loads(f"values = {values}")["values"]
    except tomllib.TOMLDecodeError:
        raise ValueError(f"grid must be like 'partition.alpha=[0.1, 1.0]', not {text!r}") from None


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for a study that cannot be run, and then nothing has been written; or if trials
        diverged, after the others have been run.
    """
    study, _ = read_arguments(argv, Sweep, "lipsjax sweep")
    trials = expand(study)
    for trial in trials:
        command.check_devices(study.execution.devices, cohort_size(trial.config))
    command.start_jax(study.execution)
    from lipsjax import recording
    from lipsjax.experiments import processes
    from lipsjax.experiments.prepare import prepare
    from lipsjax.experiments.report import draw
    from lipsjax.experiments.trial import DivergedError, run_dir_of, run_trial
    from lipsjax.experiments.watch import Watch

    # cells that do not differ for an arm, as a grid of sparsity for dense, share its runs
    runs = {run_dir_of(trial.config, study.execution): trial for trial in reversed(trials)}
    for trial in runs.values():
        prepare(trial.config, study.execution)  # what cannot be run is refused before all else
    out = Path(study.execution.out)
    processes.agree(lambda: write_study(out, study, trials, command.command_line("sweep", argv)))
    finished = processes.agree(lambda: [recording.is_finished(run) for run in runs])
    found = [run for run, is_done in zip(runs, finished, strict=True) if is_done]
    todo = {run: t for run, t in reversed(runs.items()) if run not in found}
    diverged = []
    with Watch(trials=len(todo), rounds=sum(t.config.rounds for t in todo.values())) as watch:
        if found:
            watch.say(f"{len(found)} of {len(runs)} runs found finished")
        for trial in todo.values():
            name = f"{trial.arm}, seed {trial.seed}"
            watch.begin(name, trial.config.rounds)
            try:
                run_trial(trial.config, study.execution, watch.report, watch.say)
            except DivergedError as error:
                diverged.append(f"{name}: {error}")
                watch.say(f"stopped {diverged[-1]}")
    if len(diverged) < len(runs):
        processes.agree(lambda: draw(out, watch.console))
    if diverged:
        raise ValueError(f"{len(diverged)} of {len(runs)} runs diverged; the first, {diverged[0]}")


def write_study(out: Path, study: Study, trials: list[Planned], line: str) -> None:
    """Record which runs make the study."""
    import jax

    from lipsjax import recording
    from lipsjax.experiments.prepare import versions
    from lipsjax.experiments.trial import run_dir_of

    labelled = [
        {"label": ", ".join(f"{n} = {v}" for n, v in overrides.items()), "overrides": overrides}
        for overrides in cells(study)
    ]
    device = jax.devices()[0]
    out.mkdir(parents=True, exist_ok=True)
    recording.write_json(
        out / "study.json",
        {
            "name": study.name,
            "description": study.description,
            "command": line,
            "versions": versions(),
            "platform": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
            "reference": next(iter(study.arms)),
            "target": study.target,
            "prices": to_dict(study.prices),
            "arms": list(study.arms),
            "references": references(study),
            "cells": labelled,
            "trials": [
                {
                    "arm": trial.arm,
                    "cell": trial.cell,
                    "seed": trial.seed,
                    "run": run_dir_of(trial.config, study.execution).name,
                }
                for trial in trials
            ],
        },
    )


if __name__ == "__main__":
    command.guarded(main)
