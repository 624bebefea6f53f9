"""Compare arms over seeds and a grid: ``python -m lipsjax.experiments.sweep [STUDY.toml]``."""

import contextlib
import dataclasses
import functools
import itertools
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import tyro

from lipsjax.experiments import command
from lipsjax.runs import arms, startup
from lipsjax.runs.config import (
    Config,
    Execution,
    Prices,
    SparsityConfig,
    cohort_size,
    fit_devices,
    to_dict,
)
from lipsjax.runs.fields import names_set, overlaps, shown
from lipsjax.runs.study import (
    SECTIONS,
    Batch,
    Planned,
    Study,
    cells,
    each_in_turn,
    expand,
    fields_of,
    label_of,
    program_key,
    references,
)
from lipsjax.runs.until import Until


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Compare arms over seeds and a grid: what federating gains and loses, and what LIPS changes.

    A STUDY.toml before the options says what the defaults are; every option overrides it, but for
    what an arm or the grid sets itself. One that names own parts runs their code. Trials that are
    finished are found and not run again; one that was stopped goes on.
    """

    name: str
    """Title of the report."""
    seeds: int
    """Runs per arm and cell; their seeds are seed, seed + 1, ..."""
    until: Literal["decided"] | None = None
    """decided: run seeds batch by batch, with planned looks, until all comparisons are decided."""
    margin: float = Until.margin
    """Points of accuracy within which a difference does not matter; of --until decided."""
    max_seeds: int = Until.max_seeds
    """Seeds of the last look; of --until decided."""
    looks: tuple[int, ...] = Until.looks
    """Seeds at each look, the last equal to --max-seeds; none: of 8 12 16 24 32 40 those below
    --max-seeds, then it; of --until decided."""
    measures: tuple[Literal["personalised", "global"], ...] = Until.measures
    """Accuracies that are decided about; of --until decided."""
    order: Literal["recycled", "gated"] = Until.order
    """How comparisons share the error: recycled on each claim, or one after the other; of --until
    decided."""
    decide: tuple[str, ...] = Until.arms
    """Arms that are decided about, the others run the study's seeds; none: all compared ones; of
    --until decided."""
    most_runs: int | None = Until.most_runs
    """Runs that the whole study does not exceed, what is open then is not decided; none: no limit;
    of --until decided."""
    arms: tuple[str, ...]
    """Arms to run: those that the study defines, or that are known by name, which --help lists; the
    first is the reference."""
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
    share: command.Flag = False
    """Run only trials that no other host runs, where several are given this command and see OUT;
    those of a host that dies are taken over."""
    verbose: command.Flag = False
    """Print tables site by site, and the verdict sentence by sentence, too."""


MOMENT = 5.0
"""Seconds for which hosts that share trials may hold OUT, as they begin."""
VICTIMS = 8
"""Attacked at once."""
S = TypeVar("S", bound=Sweep)
UNTIL = {
    **{name: name for name in ("margin", "max_seeds", "looks", "measures", "order", "most_runs")},
    "decide": "arms",
}
"""Options of planned looks -> fields of Until."""


def read_arguments(argv: list[str], kind: type[S], program: str) -> tuple[Study, S]:
    """Return the study that a command line asks for, and all its options.

    Args:
      argv: STUDY.toml, if any, then options.
      kind: of the options.
      program: how the command is called.

    Raises:
      ValueError: for what cannot be read, or does not exist.
    """
    study, options = command.read_study(argv)
    shared = ("name", "seeds", "target", "prices", "sparsity", "config", "execution")
    own = study.until or Until()
    looks = {option: getattr(own, field) for option, field in UNTIL.items()}
    looks["until"] = None if study.until is None else "decided"
    defaults = kind(arms=tuple(study.arms), **looks, **{n: getattr(study, n) for n in shared})
    chosen = command.parse(kind, options, program=program, default=defaults)
    grid = _read_grid(chosen.grid) if chosen.grid else study.grid
    asked = dataclasses.replace(
        study,
        arms=arms.choose(chosen.arms, study.arms, where="--arms"),
        grid=grid,
        until=_read_until(chosen, command.options_given(options)),
        **{name: getattr(chosen, name) for name in shared},
    )
    _check_reach(asked, command.options_given(options))
    return each_in_turn(asked), chosen


def _read_until(chosen: Sweep, given: list[str]) -> Until | None:
    """Return what is asked of looks, or refuse options that reach none, or say it twice."""
    if chosen.until is None:
        for option in UNTIL:
            if (name := f"--{option.replace('_', '-')}") in given:
                raise ValueError(f"{name} is of planned looks: it needs --until decided")
        return None
    if "--seeds" in given:
        raise ValueError(
            "--seeds and --until decided both say how many seeds are run: leave one of them out "
            "(--max-seeds bounds the latter)"
        )
    return Until(**{field: getattr(chosen, option) for option, field in UNTIL.items()})


def _check_reach(study: Study, options: list[str]) -> None:
    """Refuse an option that an arm or the grid would replace.

    Raises:
      ValueError: naming both.
    """
    own = {
        f"the arm {arm}": {n for n in names_set(each, SECTIONS) if arms.heeds(each, n)}
        for arm, each in study.arms.items()
    }
    own["the grid"] = {
        field for name, values in study.grid.items() for field in fields_of(name, values)
    }
    for option in options:
        field = option.removeprefix("--").replace("-", "_")
        for who, fields in own.items():
            for name in fields:
                if overlaps(field, name):
                    raise ValueError(
                        f"{option} does not reach {who}, which sets {name} itself: leave the "
                        "option out, or change the study"
                    )


def _read_grid(entries: Iterable[str]) -> dict[str, Any]:
    grid: dict[str, Any] = {}
    for entry in entries:
        name, values = _grid_entry(entry)
        if name in grid:
            raise ValueError(f"--grid names {name} twice")
        grid[name] = values
    return grid


def _grid_entry(text: str) -> tuple[str, Any]:
    name, _, values = text.partition("=")
    try:
        return name.strip(), tomllib.loads(f"values = {values}")["values"]
    except tomllib.TOMLDecodeError:
        raise ValueError(
            f"grid must be like 'partition.alpha=[0.1, 1.0]', not {shown(text)}"
        ) from None


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for a study that cannot be run, and then nothing has been written; or if trials
        diverged, after the others have been run.
    """
    study, options = read_arguments(argv, Sweep, "lipsjax sweep")
    most = max(cohort_size(trial.config) for trial in expand(study))
    startup.check_devices(study.execution.devices, most)
    from lipsjax.runs.looks import check_out, looks_for

    check_out(Path(study.execution.out), looks_for(study), known=False)
    startup.start_jax(study.execution)
    line = command.command_line("sweep", argv)
    run_study(study, line, verbose=options.verbose, share=options.share)


class Told(NamedTuple):
    """What a callback is told after every compiled call of some rounds of a trial."""

    arm: str
    cell: str  # label of the cell, "" in a study of one
    seed: int
    done: int  # rounds
    rounds: int
    newest: dict[str, Any]  # metrics of the last round measured, as they are recorded


Callback = Callable[[Told], str | None]
"""What it returns, if anything, is why the trial is to stop there."""


def run_study(study: Study, line: str, *, verbose: bool = False, share: bool = False) -> None:
    """Run what is not finished of a study, and draw its report; JAX has started.

    Args:
      study: what is to be run.
      line: the command, for the record.
      verbose: whether to print all that follows.
      share: whether other hosts run trials of it, too.

    Raises:
      ValueError: as :func:`main`.
    """
    ended = carry_out(study, line, verbose=verbose, share=share)
    if diverged := ended.diverged:
        raise ValueError(
            f"{len(diverged)} of {len(ended.runs)} runs diverged; the first, {diverged[0]}"
        )


class Ended(NamedTuple):
    """How the runs of a study ended that are not finished."""

    runs: list[Path]  # all of them
    diverged: list[str]  # in words, each
    stopped: list[str]  # by a callback


def carry_out(
    study: Study,
    line: str,
    callbacks: Sequence[Callback] = (),
    *,
    verbose: bool = False,
    share: bool = False,
) -> Ended:
    """Run what is not finished of a study, and draw its report; JAX has started.

    Args:
      study: what is to be run.
      line: the command, for the record.
      callbacks: told how far trials are, in this process; with some, a trial that one stopped
        before is left as it is.
      verbose: whether to print all that follows.
      share: whether other hosts run trials of it, too.

    Returns:
      What diverged and what was stopped.

    Raises:
      ValueError: for a study that cannot be run, and then nothing has been written.
    """
    import jax

    from lipsjax.runs import processes
    from lipsjax.runs.looks import batches, check_budget, check_out, looks_for
    from lipsjax.runs.shared import check_share
    from lipsjax.runs.trial import run_dir_of
    from lipsjax.runs.workers import count_workers

    trials, platform = expand(study), jax.devices()[0].platform
    # by all trials, not those that are left: what each gets of the machine does not change
    workers = count_workers(study.execution, len(trials), platform, processes=jax.process_count())
    if share:
        check_share(study, jax.process_count())
    # cells that do not differ for an arm, as a grid of sparsity for dense, share its runs
    folders = [run_dir_of(trial.config, study.execution) for trial in trials]
    _check_arms(trials, folders)
    runs = dict(reversed(list(zip(reversed(folders), reversed(trials), strict=True))))
    _check(runs.values(), study)  # what cannot be run is refused before all else
    out, due = Path(study.execution.out), iter([Batch(trials)])
    looks = looks_for(study, [folder.name for folder in folders])
    if looks is not None:
        of = {_place(trial): folder for trial, folder in zip(trials, folders, strict=True)}
        check_budget(study, looks, trials, lambda trial: of[_place(trial)])
        due = batches(study, looks, trials, lambda trial: of[_place(trial)], line)
    with contextlib.ExitStack() as held:
        alone = _beside(out, folders) if share else _alone(out, folders, looks=looks is not None)
        processes.agree(lambda: held.enter_context(alone))
        processes.agree(lambda: check_out(out, looks))
        return _run_and_draw(study, line, due, workers, callbacks, verbose=verbose, share=share)


@contextlib.contextmanager
def _alone(out: Path, folders: list[Path], *, looks: bool) -> Iterator[None]:
    """Hold OUT against sweeps of another study; those of this one go on side by side.

    With planned looks they do not: none of them could tell when a look is due.

    Raises:
      RecordingError: if another study is being run there.
    """
    from lipsjax import recording

    for folder in folders:
        recording.check_free(folder)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(recording.lock(out))
        except recording.BusyError:
            if looks:
                raise
            _check_study(out, folders)
        yield


@contextlib.contextmanager
def _beside(out: Path, folders: list[Path]) -> Iterator[None]:
    """Go on beside sweeps of this study that share its trials, and no others.

    Raises:
      RecordingError: if a sweep that does not share them, or another study, is being run there.
    """
    from lipsjax import recording

    out.mkdir(parents=True, exist_ok=True)
    try:
        # who shares holds it for a moment, as here; who does not, to the end
        with recording.lock(out, wait=MOMENT):
            pass
    except recording.BusyError:
        raise recording.BusyError(
            f"{out} is being written by a sweep that does not share its trials: stop that one, and "
            "start both with --share"
        ) from None
    if any(recording.is_shared(out / "runs" / run) for run in _planned_runs(out)):
        _check_study(out, folders)
    yield


def _planned_runs(out: Path) -> tuple[str, ...]:
    from lipsjax import recording

    planned = recording.planned(out)
    return () if planned is None else planned.runs


def _check_study(out: Path, folders: list[Path]) -> None:
    """Refuse a study that is another than the one of OUT, which is being run."""
    from lipsjax import recording

    other = recording.planned(out)
    if other is not None and other.runs != tuple(folder.name for folder in folders):
        raise recording.RecordingError(
            f"{out} is being written by another study, {other.command}; choose another --out"
        )


def _run_and_draw(
    study: Study,
    line: str,
    due: Iterator[Batch],
    workers: int,
    callbacks: Sequence[Callback],
    *,
    verbose: bool,
    share: bool,
) -> Ended:
    """Run what is not finished of each batch of a study, and draw its pages."""
    from lipsjax import recording
    from lipsjax.experiments.report import draw
    from lipsjax.runs import processes
    from lipsjax.runs.watch import make_console

    out = Path(study.execution.out)
    replaced = processes.agree(lambda: recording.replaceable(out))
    first = processes.agree(lambda: next(due))  # what is refused is so before all else
    notes = _survey(study, first.trials[0].config, line)
    if replaced not in (None, line):
        notes.insert(0, f"the study before in {out}, its runs kept: {replaced}")
    ended = Ended([], [], [])
    for batch in itertools.chain([first], _agreed(due)):
        processes.agree(functools.partial(write_study, out, study, batch, line))
        ended = _run_batch(study, batch, ended, notes, workers, callbacks, share=share)
    if study.attack is not None:
        _attack(study, ended.runs)
    if len(ended.diverged) + len(ended.stopped) < len(ended.runs):
        processes.agree(lambda: draw(out, make_console(), verbose=verbose))
    return ended


def _attack(study: Study, runs: Iterable[Path]) -> None:
    """Attack the runs that are finished and send anything, and record it beside them."""
    from lipsjax import recording
    from lipsjax.runs.attack import attack_run, fitting, forget_programs
    from lipsjax.runs.replay import open_run

    assert study.attack is not None
    newest = None
    for run_dir in (run for run in runs if recording.is_finished(run)):
        run = open_run(run_dir, study.execution)
        if run.prepared.simulation is not newest:  # of another arm, whose programs are others
            forget_programs()
            newest = run.prepared.simulation
        config = fitting(study.attack, run.prepared)
        if config is not None:
            with recording.lock(run_dir):
                attack_run(run, config, chunk=VICTIMS, minutes=None, say=print)


def _agreed(due: Iterator[Batch]) -> Iterator[Batch]:
    """Yield in every process the batches that process 0 finds."""
    from lipsjax.runs import processes

    while (batch := processes.agree(lambda: next(due, None))) is not None:
        yield batch


def _survey(study: Study, config: Config, line: str) -> list[str]:
    """Write what the sites hold; return what is worth telling of them."""
    from lipsjax.experiments.survey import write_survey
    from lipsjax.runs import processes
    from lipsjax.runs.dataset import load_for

    config = dataclasses.replace(
        config, partition=dataclasses.replace(config.partition, pooled=False)
    )
    dataset, _ = load_for(config, study.execution.data_dir)
    cell, out = label_of(cells(study)[0]), Path(study.execution.out)
    processes.agree(lambda: write_survey(dataset, config, out, line, cell).page)
    if dataset.sites is None or config.partition.kind == "natural":
        return []
    return [
        f"{dataset.name} names {len(dataset.sites.names)} sites, and these clients are made up: "
        "--partition.kind natural makes the sites the clients"
    ]


def _run_batch(
    study: Study,
    batch: Batch,
    before: Ended,
    notes: list[str],
    workers: int,
    callbacks: Sequence[Callback],
    *,
    share: bool,
) -> Ended:
    """Run what is not finished of a batch, and was not run in those before; return all so far."""
    from lipsjax import recording
    from lipsjax.analysis.planned import where_at
    from lipsjax.runs import processes
    from lipsjax.runs.dataset import load_for
    from lipsjax.runs.trial import is_finished, run_dir_of
    from lipsjax.runs.watch import Watch

    # cells that do not differ for an arm, as a grid of sparsity for dense, share its runs
    runs = {run_dir_of(t.config, study.execution): t for t in reversed(batch.trials)}
    runs = {run: trial for run, trial in reversed(runs.items()) if run not in before.runs}
    prints = {run: load_for(t.config, study.execution.data_dir)[1] for run, t in runs.items()}
    todo = processes.agree(
        lambda: [t for run, t in runs.items() if not is_finished(run, t.config, prints[run])]
    )
    begun = [(to_dict(t.config), prints[run]) for run, t in runs.items() if not run.exists()]
    rounds: Counter[str] = Counter()
    for trial in todo:
        rounds[program_key(trial.config)] += trial.config.rounds
    with Watch(trials=len(todo), rounds=rounds, workers=min(workers, len(todo))) as watch:
        for note in (*notes, *recording.notes_of_others(Path(study.execution.out), begun)):
            watch.say(note)
        if len(todo) < len(runs):
            watch.say(f"{len(runs) - len(todo)} of {len(runs)} runs found finished")
        if batch.decisions is not None:
            watch.say(where_at(batch.decisions))
        diverged, stopped = _run(study, todo, workers, watch, callbacks, share=share)
    return Ended([*before.runs, *runs], [*before.diverged, *diverged], [*before.stopped, *stopped])


def _place(trial: Planned) -> tuple[int, str, int]:
    return trial.cell, trial.arm, trial.seed


def _check_arms(trials: list[Planned], folders: list[Path]) -> None:
    """Refuse two arms, or two cells, that are the same runs, as of one data set under two names."""
    found: dict[tuple[int, Path], str] = {}
    for trial, folder in zip(trials, folders, strict=True):
        twin = found.setdefault((trial.cell, folder), trial.arm)
        if twin != trial.arm:
            raise ValueError(f"the arms {twin} and {trial.arm} are the same runs: nothing differs")
    in_cell: dict[int, list[Path]] = {}
    for trial, folder in zip(trials, folders, strict=True):
        in_cell.setdefault(trial.cell, []).append(folder)
    cells: dict[tuple[Path, ...], int] = {}
    for cell, runs in in_cell.items():
        if (twin := cells.setdefault(tuple(runs), cell)) != cell:
            raise ValueError(f"grid: cells {twin + 1} and {cell + 1} are the same runs")


def _check(trials: Iterable[Planned], study: Study) -> None:
    """Refuse what cannot be run, or attacked; trials that differ in the seed alone are alike."""
    from lipsjax.runs.prepare import prepare

    for trial in {program_key(trial.config): trial for trial in trials}.values():
        prepared = prepare(trial.config, fit_devices(study.execution, trial.config))
        if study.attack is not None:
            from lipsjax.runs import attack

            if config := attack.fitting(study.attack, prepared):
                attack.check(config, prepared)


def _run(
    study: Study,
    todo: list[Planned],
    workers: int,
    watch: Any,
    callbacks: Sequence[Callback],
    *,
    share: bool,
) -> tuple[list[str], list[str]]:
    """Run trials to their ends, here or in several processes.

    Returns:
      What diverged and what was stopped, in words.
    """
    from lipsjax.runs.shared import SharedQueue
    from lipsjax.runs.trial import run_dir_of
    from lipsjax.runs.workers import Queue, Task, run_tasks

    overrides, execution = cells(study), study.execution
    tasks = [
        Task(i, _name(trial, overrides[trial.cell]), trial.config) for i, trial in enumerate(todo)
    ]
    trials = Queue(tasks)
    if share:
        watch.say(f"trials are shared with all that run this command on {execution.out}")
        trials = SharedQueue(
            tasks,
            lambda task: run_dir_of(task.config, execution),
            say=watch.say,
            elsewhere=lambda task: watch.elsewhere(
                task.name, task.config.rounds, program=program_key(task.config)
            ),
        )
    if workers > 1 and tasks:
        watch.say(f"{workers} workers run trials side by side")
        ended = run_tasks(
            trials,
            execution,
            workers=workers,
            begin=lambda task, i: watch.begin(
                task.name, task.config.rounds, worker=i, program=program_key(task.config)
            ),
            say=watch.say,
        )
        return [f"{task.name}: {error}" for task, error in ended], []
    with contextlib.closing(trials):
        return _run_here(study, trials, todo, watch, callbacks)


def _run_here(
    study: Study,
    trials: Any,
    todo: list[Planned],
    watch: Any,
    callbacks: Sequence[Callback],
) -> tuple[list[str], list[str]]:
    """Run trials in this process, one after the other; return as :func:`_run`."""
    from lipsjax import recording
    from lipsjax.runs.trial import DivergedError, StoppedError, run_dir_of, run_trial

    overrides, execution = cells(study), study.execution
    diverged, stopped = [], []
    for task, leased in trials.each():
        trial = todo[task.number]
        before = recording.stopped(run_dir_of(task.config, execution)) if callbacks else None
        if before is not None:
            stopped.append(f"{task.name}: {before}")
            watch.say(f"left as it was stopped {stopped[-1]}")
            continue
        show = watch.begin(task.name, task.config.rounds, program=program_key(task.config))
        report = _telling(callbacks, trial, label_of(overrides[trial.cell]), show)
        try:
            run_trial(task.config, fit_devices(execution, task.config), report, watch.say, leased)
        except DivergedError as error:
            diverged.append(f"{task.name}: {error}")
            watch.say(f"stopped {diverged[-1]}")
        except StoppedError as error:
            stopped.append(f"{task.name}: {error}")
            watch.say(f"stopped {stopped[-1]}")
        except (ValueError, OSError) as error:
            if (failure := trials.fail(task, error)) is error:
                raise
            if failure is not None:
                raise failure from None
            continue
        trials.end(task)
    return [*diverged, *(f"{task.name}: {error}" for task, error in trials.diverged)], stopped


def _telling(
    callbacks: Sequence[Callback], trial: Planned, cell: str, show: Callable[[Any], None]
) -> Callable[[Any], str | None]:
    """Return what shows how far a trial is, and tells callbacks; the first that says so stops it.

    Raises:
      ValueError: when called, for a callback that returns anything but a text or nothing.
    """

    def report(progress: Any) -> str | None:
        show(progress)
        told = Told(
            trial.arm, cell, trial.seed, progress.done, progress.rounds, dict(progress.newest)
        )
        reasons = [callback(told) for callback in callbacks]
        for reason in reasons:
            if reason is not None and (not isinstance(reason, str) or not reason.strip()):
                raise ValueError(
                    f"a callback must return None, or why to stop as a text, not {shown(reason)}"
                )
        return next((" ".join(reason.split()) for reason in reasons if reason), None)

    return report


def _name(trial: Planned, overrides: dict[str, Any]) -> str:
    """Return what a trial is called: its arm, its cell if there are several, and its seed."""
    cell = (f"{name.rpartition('.')[2]} {value}" for name, value in overrides.items())
    return ", ".join([trial.arm, *cell, f"seed {trial.seed}"])


def write_study(out: Path, study: Study, batch: Batch, line: str) -> None:
    """Record which runs make the study so far, and what is decided of it."""
    import jax

    from lipsjax import recording
    from lipsjax.runs.resolve import versions
    from lipsjax.runs.trial import run_dir_of

    labelled = [
        {"label": label_of(overrides), "overrides": overrides} for overrides in cells(study)
    ]
    device = jax.devices()[0]
    found = batch.decisions
    decided = {} if found is None else {"decisions": recording.decisions_as_json(found)}
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
                for trial in batch.trials
            ],
            **decided,
        },
    )


if __name__ == "__main__":
    command.guarded(main)
