"""Trials of a search: settings asked for by Optuna, run on its seeds, kept in a journal.

A trial is one setting, run on every seed of the search. What is tried is decided by the journal
and the trial's number alone, so that a search which is killed and goes on asks as one left alone.
"""

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from lipsjax import recording
from lipsjax.analysis.comparison import MEASURES
from lipsjax.analysis.hours import accuracy_within
from lipsjax.runs import parts, space
from lipsjax.runs.config import Config, Execution, to_dict
from lipsjax.runs.dataset import load_for
from lipsjax.runs.trial import Progress, run_trial
from lipsjax.runs.watch import Watch

STARTUP = 5
"""Settings tried to their ends before others are measured by them."""


@contextmanager
def opened(question: space.Question, execution: Execution) -> Iterator[tuple[optuna.Study, Path]]:
    """Open the journal of a search for this process alone; return Optuna's study and the folder."""
    asked = {
        "config": to_dict(question.config),
        "space": {name: list(allowed) for name, allowed in question.space.items()},
        "seeds": question.seeds,
        **({} if question.hours is None else {"hours": question.hours}),
    }
    fingerprint = load_for(question.config, execution.data_dir)[1]
    name = recording.run_hash(asked, fingerprint, parts.identity(question.config))
    folder = Path(execution.out) / "search" / name
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / "journal.log"
    with recording.lock(folder):
        _mend(path)
        half = question.config.rounds // 2  # before that, accuracies of little data are noise
        try:
            journal = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                study_name="search",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(STARTUP, n_warmup_steps=half),
            )
            _requeue(journal)
        except (ValueError, KeyError, TypeError) as error:
            raise recording.RecordingError(f"{path} is damaged: {error}") from None
        yield journal, folder


def _mend(path: Path) -> None:
    """Take away what a process killed as it wrote has left: a lock, and a part of a line."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _requeue(journal: optuna.Study) -> None:
    """Put trials that were running when their process ended back, with what they had reported."""
    for left in journal.get_trials(states=(TrialState.RUNNING,)):
        again = create_trial(
            state=TrialState.WAITING,
            params=left.params,
            distributions=left.distributions,
            intermediate_values=left.intermediate_values,
        )
        journal.tell(left.number, state=TrialState.FAIL)
        journal.add_trial(again)


def explore(
    journal: optuna.Study,
    question: space.Question,
    execution: Execution,
    *,
    trials: int,
    timeout: float | None,
) -> None:
    """Try settings until there are enough, or time is up.

    Args:
      journal: of the search.
      question: what is searched.
      execution: how each run is executed.
      trials: how many settings, with those that were tried before.
      timeout: seconds after which no further one is begun; None: no limit.

    Raises:
      ValueError: for a run directory that is damaged, or that another process writes.
    """
    distributions = _distributions(question.space)
    own = {name: space.read(question.config, name) for name in question.space}
    if not journal.trials and space.holds(question.space, own):
        journal.enqueue_trial(own)  # the arm as the study has it
    found, end = len(tried(journal)), time.monotonic() + (math.inf if timeout is None else timeout)
    runs = max(trials - found, 0) * len(question.seeds)
    with Watch(trials=runs, rounds=runs * question.config.rounds) as watch:
        if found:
            watch.say(f"{found} settings found tried")
        for number in range(found + 1, trials + 1):
            if time.monotonic() > end:
                watch.say(f"time is up after {number - 1} of {trials} settings")
                break
            # anew for each, so that a search that goes on asks what it would have asked
            journal.sampler = optuna.samplers.TPESampler(seed=number)
            trial = journal.ask(distributions)
            name = f"setting {number}"
            try:
                value = _try(trial, name, question, execution, watch)
                journal.tell(trial, value)
                ended = f"{value:.1%}"
            except recording.RecordingError:
                raise
            except (optuna.TrialPruned, ValueError) as error:
                ended = str(error)
                trial.set_user_attr("ended", ended)
                journal.tell(trial, state=TrialState.PRUNED)
            watch.say(f"{name}, {space.describe(trial.params)}: {ended}")


def _distributions(searched: space.Space) -> dict[str, Any]:
    """Return the space as Optuna has it."""

    def one(allowed: space.Range | space.Choice) -> Any:
        if isinstance(allowed, space.Choice):
            return CategoricalDistribution(allowed.values)
        if isinstance(allowed.low, int) and isinstance(allowed.high, int):
            return IntDistribution(allowed.low, allowed.high)
        return FloatDistribution(allowed.low, allowed.high)

    return {name: one(allowed) for name, allowed in searched.items()}


def _try(
    trial: optuna.Trial, name: str, question: space.Question, execution: Execution, watch: Watch
) -> float:
    """Run a setting on every seed of the search; return its score.

    Raises:
      optuna.TrialPruned: if it does worse than the median of those before it.
      ValueError: if it cannot be run, or diverges.
    """
    config, scores = space.choose(question.config, trial.params), []
    reported = set(trial.study.trials[trial.number].intermediate_values)  # by one that was killed
    last = len(question.seeds) * config.rounds
    for i, seed in enumerate(question.seeds):

        def tell(progress: Progress, first: int = i * config.rounds, seed: int = seed) -> None:
            accuracy, step = progress.newest["accuracy_dense"], first + progress.done
            # settings whose rounds last differently are not compared round by round
            if math.isnan(accuracy) or step in reported or question.hours is not None:
                return
            estimate = statistics.fmean([*scores, accuracy])  # of as many seeds in every trial
            trial.report(estimate, step)
            if step < last and trial.should_prune():
                raise optuna.TrialPruned(
                    f"stopped in round {progress.done} of seed {seed}, at {estimate:.1%}"
                )

        seeded = dataclasses.replace(config, seed=seed)
        run_dir = run(seeded, f"{name}, seed {seed}", execution, watch, tell)
        scores.append(_score_of(recording.read(run_dir), question))
    return statistics.fmean(scores)


def _score_of(run: recording.Recording, question: space.Question) -> float:
    """Return how good a run is: at its end, or within the hours of the search.

    Raises:
      ValueError: if no evaluated round ends within them.
    """
    if question.hours is None:
        return MEASURES["personalised"](run, math.nan)
    found = accuracy_within(run, question.hours)
    if math.isnan(found):
        raise ValueError(f"no round that is evaluated ends within {question.hours:g} hours")
    return found


def run(
    config: Config, name: str, execution: Execution, watch: Watch, tell: Callable[[Progress], None]
) -> Path:
    """Run one config; return its directory."""
    show = watch.begin(name, config.rounds)

    def report(progress: Progress) -> None:
        show(progress)
        tell(progress)

    return run_trial(config, execution, report, watch.say)


def tried(journal: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have ended: whole ones first, the best of each kind before others."""
    ended = journal.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sorted(ended, key=lambda t: (t.state != TrialState.COMPLETE, -score(t)))


def score(trial: FrozenTrial) -> float:
    """Return the score of a trial, or of one that was stopped its last estimate."""
    last = max(trial.intermediate_values, default=None)
    if trial.value is not None:
        return trial.value
    return -math.inf if last is None else trial.intermediate_values[last]
