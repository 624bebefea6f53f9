"""Site by site: how good each site's predictions are, who gains and who loses by federating.

A site's accuracy is that of the model which it would receive, on its own test examples, over the
last rounds as of all end measures (:func:`lipsjax.analysis.stats.primary`). Arms are compared seed
by seed, with Holm's correction over the sites of a cell, and no deviation is believed that is
below one of the site's test examples. Seeds are redraws from the data at hand: intervals say
nothing of other sites.

Only data that name sites have sites that are the same in every seed. Made-up clients are drawn
anew with each seed, so that they are listed by number and compared as a whole, never one by one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lipsjax.analysis.comparison import is_local, is_pooled, trials_of
from lipsjax.analysis.controls import is_lips
from lipsjax.analysis.finding import named
from lipsjax.analysis.stats import Difference, Interval, holm, mean_interval, paired_difference
from lipsjax.analysis.stats import primary as end_of
from lipsjax.recording import Recording, StudyRecording

GAINS, LOSES = "gains", "loses"
"""What a site does by an arm, against another arm, where an effect is named."""

SHARES = {"worst": 0.0, "lowest quarter": 0.25, "median": 0.5, "highest quarter": 0.75, "best": 1.0}
"""Quantiles of accuracy over sites, by name."""


class Compared(NamedTuple):
    """A site's accuracy in one arm less that in another, seed by seed."""

    difference: Difference
    adjusted: float  # p after Holm over the sites of the cell

    @property
    def outcome(self) -> str:
        """Whether the site gains or loses, or that no difference is seen or one cannot tell."""
        return named(self.difference.interval, self.adjusted, up=GAINS, down=LOSES)


class Site(NamedTuple):
    """A site, or a made-up client, in one cell of a study."""

    name: str
    trains: bool  # False of a site that is held out
    train_examples: float  # mean over seeds
    test_examples: float
    classes: float  # of which it holds training examples, mean over seeds
    accuracies: Mapping[str, Interval]  # arm -> accuracy
    against_reference: Mapping[str, Compared]  # arm -> less its reference
    against_alone: Mapping[str, Compared]  # arm -> less the arm that trains alone


class Spread(NamedTuple):
    """How the accuracies of an arm lie over the sites that train: intervals over seeds."""

    quantiles: Mapping[str, Interval]  # by the names of SHARES
    spread: Interval  # best less worst
    deviation: Interval  # standard deviation over sites
    ahead: Interval | None  # share of sites above training alone; None where there is no such arm


class Class(NamedTuple):
    """A class of the global test set."""

    name: str
    accuracies: Mapping[str, Interval]  # arm -> accuracy of its global model


class SiteTable(NamedTuple):
    """One cell of a study, site by site."""

    cell: str
    arms: tuple[str, ...]  # alone, then the study's reference, then LIPS, then others
    alone: str | None  # the arm that trains alone
    references: Mapping[str, str]
    is_named: bool  # whether the data name the sites
    sites: tuple[Site, ...]  # those that are held out last
    spreads: Mapping[str, Spread]  # arm -> over the sites that train
    classes: tuple[Class, ...]

    @property
    def held_out(self) -> tuple[Site, ...]:
        """Sites that never trained."""
        return tuple(site for site in self.sites if not site.trains)

    @property
    def trained(self) -> tuple[Site, ...]:
        """Sites that trained."""
        return tuple(site for site in self.sites if site.trains)


class Worst(NamedTuple):
    """The lowest accuracy of any site that trains, whichever site that is."""

    accuracies: Mapping[int, float]  # seed -> accuracy
    step: float  # what one test example of the largest site is worth


Values = dict[int, np.ndarray]
"""Seed -> accuracy of each site, NaN where not known, [sites]."""


def site_tables(study: StudyRecording) -> list[SiteTable]:
    """Tables of all whose recordings hold accuracies client by client, cell by cell.

    Args:
      study: the recorded study.

    Returns:
      A table for the arms of a cell that have the same sites. Recordings from before there were
      any, and of more clients than are recorded one by one, are in none; nor are arms whose data
      are pooled, which have no sites.
    """
    return [table for cell in range(len(study.cells)) for table in _tables(study, cell)]


def worst_sites(study: StudyRecording, cell: int, arm: str) -> Worst:
    """How the worst site fares in an arm, seed by seed.

    Args:
      study: the recorded study.
      cell: index of the cell in ``study.cells``.
      arm: of the study.

    Returns:
      Its accuracies, of the model that it would receive over the last rounds; none of runs whose
      clients are not recorded one by one, or whose data are pooled.
    """
    runs = {t.seed: t.recording for t in trials_of(study, cell, arm) if _has_sites(t.recording)}
    if not runs:
        return Worst({}, 0.0)
    count = _trained(_any(runs))
    steps = _steps(_counts(list(runs.values()), "test_counts"))[:count]
    lowest = {seed: _lowest(_of_sites(run)[:count]) for seed, run in runs.items()}
    return Worst(lowest, float(steps[steps > 0].min(initial=1.0)))


def _lowest(accuracies: np.ndarray) -> float:
    known = accuracies[~np.isnan(accuracies)]
    return float(known.min()) if known.size else math.nan


Runs = dict[str, dict[int, Recording]]
"""Arm -> seed -> run."""


def _tables(study: StudyRecording, cell: int) -> list[SiteTable]:
    """Return a table for each group of arms that have the same sites, as one may hold some out."""
    groups: dict[tuple, Runs] = {}
    for arm in study.arms:
        for trial in trials_of(study, cell, arm):
            if _has_sites(run := trial.recording):
                group = groups.setdefault(_who(run), {})
                group.setdefault(arm, {})[trial.seed] = run
    return [_table(study, study.cells[cell]["label"], runs) for runs in groups.values()]


def _table(study: StudyRecording, label: str, runs: Runs) -> SiteTable:
    values = {
        arm: {seed: _of_sites(run) for seed, run in each.items()} for arm, each in runs.items()
    }
    configs = {arm: _any(each).config for arm, each in runs.items()}
    alone = next((arm for arm, config in configs.items() if is_local(config)), None)
    references = {arm: study.references[arm] for arm in runs}
    first = _any(next(iter(runs.values())))
    finest = _steps(_counts([first], "test_counts"))[: _trained(first)]

    def place(arm: str) -> int:
        first_ones = (arm == alone, arm == study.reference, is_lips(configs[arm]), True)
        return first_ones.index(True)

    return SiteTable(
        cell=label,
        arms=tuple(sorted(runs, key=place)),
        alone=alone,
        references=references,
        is_named=_names(first) is not None,
        sites=_sites(runs, values, references, alone),
        spreads={
            arm: _spread(each, None if alone in (None, arm) else values[alone], finest)
            for arm, each in values.items()
        },
        classes=_classes(runs, first),
    )


def _has_sites(recording: Recording) -> bool:
    """Whether each client's accuracy is known, and clients are more than one that holds it all."""
    is_counted = "test_counts" in recording.setup["survey"]
    return "clients" in recording.by and is_counted and not is_pooled(recording.config)


def _names(recording: Recording) -> list[str] | None:
    """Names of clients, those that never train last; None where the data name none."""
    return recording.setup.get("site_names")


def _who(recording: Recording) -> tuple:
    """What the runs of one table have in common: who trains, and who never does."""
    count = len(recording.setup["survey"]["train_counts"])
    return tuple(_names(recording) or ()), _trained(recording), count


def _any(runs: Mapping[int, Recording]) -> Recording:
    return next(iter(runs.values()))


def _trained(recording: Recording) -> int:
    """How many clients train."""
    return recording.by["clients"]["accuracy"].shape[1]


def _of_sites(recording: Recording) -> np.ndarray:
    """Accuracy of each client at the end, those that never train last, [K + new].

    A client that never trains receives nothing where clients train alone.
    """
    trained = [end_of(curve) for curve in recording.by["clients"]["accuracy"].T]
    count = len(recording.setup["survey"]["train_counts"]) - len(trained)
    new = recording.by.get("new_clients", {}).get("accuracy")
    if new is None or is_local(recording.config):
        return np.array([*trained, *[math.nan] * count])
    return np.array([*trained, *new[-1]])


def _sites(
    runs: Mapping[str, Mapping[int, Recording]],
    values: Mapping[str, Values],
    references: Mapping[str, str],
    alone: str | None,
) -> tuple[Site, ...]:
    everyone = [run for each in runs.values() for run in each.values()]
    first = everyone[0]
    train, test = (_counts(everyone, f"{split}_counts") for split in ("train", "test"))
    steps = _steps(test)
    names = _names(first)
    of_reference, of_alone = {}, {}
    if names is not None:  # made-up clients are others in every seed
        of_reference = {
            arm: _compared(values[arm], values[other], steps)
            for arm, other in references.items()
            if arm != other and other in values
        }
        of_alone = {
            arm: _compared(values[arm], values[alone], steps)
            for arm in runs
            if alone is not None and arm != alone
        }
    return tuple(
        Site(
            name=str(i) if names is None else names[i],
            trains=i < _trained(first),
            train_examples=float(train.sum(axis=2).mean(axis=0)[i]),
            test_examples=float(test.sum(axis=2).mean(axis=0)[i]),
            classes=float((train > 0).sum(axis=2).mean(axis=0)[i]),
            accuracies={arm: _interval(each, i, steps[i]) for arm, each in values.items()},
            against_reference={arm: found[i] for arm, found in of_reference.items()},
            against_alone={arm: found[i] for arm, found in of_alone.items()},
        )
        for i in range(train.shape[1])
    )


def _counts(runs: Sequence[Recording], name: str) -> np.ndarray:
    """Examples of each class that each client holds, [runs, K + new, classes]."""
    return np.array([run.setup["survey"][name] for run in runs], float)


def _steps(test: np.ndarray) -> np.ndarray:
    """What one test example of each client is worth, [K + new]; 0 of a client without any."""
    most = test.sum(axis=2).max(axis=0)
    return np.where(most > 0, 1 / np.maximum(most, 1), 0.0)


def _interval(values: Values, site: int, step: float) -> Interval:
    return mean_interval([each[site] for each in values.values()], step=step)


def _compared(a: Values, b: Values, steps: np.ndarray) -> list[Compared]:
    """Compare two arms at every site over the seeds that both have."""
    common = sorted(a.keys() & b.keys())
    differences = [
        paired_difference([a[s][i] for s in common], [b[s][i] for s in common], step=step)
        for i, step in enumerate(steps)
    ]
    adjusted = holm([found.p for found in differences])
    return [Compared(*each) for each in zip(differences, adjusted.tolist(), strict=True)]


def _spread(values: Values, alone: Values | None, steps: np.ndarray) -> Spread:
    """Summarise an arm seed by seed over the sites that train and have test examples."""
    count, finest = len(steps), float(steps[steps > 0].min(initial=1.0))
    known = {seed: each[:count][~np.isnan(each[:count])] for seed, each in values.items()}

    def over_seeds(measure: Callable[[np.ndarray], float]) -> Interval:
        ends = [measure(each) if each.size else math.nan for each in known.values()]
        return mean_interval(ends, step=finest)

    ahead = None
    if alone is not None:
        common = sorted(values.keys() & alone.keys())
        shares = [_share_ahead(values[s][:count], alone[s][:count]) for s in common]
        ahead = mean_interval(shares, step=1 / count)
    return Spread(
        quantiles={
            name: over_seeds(lambda each, q=q: float(np.quantile(each, q)))
            for name, q in SHARES.items()
        },
        spread=over_seeds(lambda each: float(np.ptp(each))),
        deviation=over_seeds(lambda each: float(each.std())),
        ahead=ahead,
    )


def _share_ahead(a: np.ndarray, b: np.ndarray) -> float:
    """Share of sites whose accuracy is higher in the first arm, of those known in both."""
    known = ~np.isnan(a) & ~np.isnan(b)
    return float((a > b)[known].mean()) if known.any() else math.nan


def _classes(runs: Mapping[str, Mapping[int, Recording]], first: Recording) -> tuple[Class, ...]:
    """Accuracy by class of each arm's global model; of clients that train alone nobody has it."""
    ends = {
        arm: [[end_of(curve) for curve in run.by["classes"]["accuracy"].T] for run in each.values()]
        for arm, each in runs.items()
        if not is_local(_any(each).config) and all("classes" in run.by for run in each.values())
    }
    names = first.setup.get("class_names") or range(first.setup["num_classes"])
    return tuple(
        Class(
            str(name), {arm: mean_interval([of[i] for of in seeds]) for arm, seeds in ends.items()}
        )
        for i, name in enumerate(names)
    )
