r"""What each class of devices has for its money: points of accuracy per unit of it.

A class of devices costs c in a run (:func:`lipsjax.analysis.hours.class_costs`), and its sites are
a points better than where each trains alone. What money returns is

.. math:: a / c

where the study has an arm that trains alone; without it nothing says what federating gains, as no
recording holds an accuracy from before its first round. Against the reference of an arm, what
counts is the accuracy that goes or comes with each unit of money that the arm saves, or costs
more. Both are ratios of means over seeds with Fieller's interval
(:func:`lipsjax.analysis.stats.ratio_interval`). There is none where a cost, or a difference of
costs, is not known to be above or below zero.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from lipsjax.analysis.comparison import is_local, trials_of
from lipsjax.analysis.hours import class_accuracies, class_costs, members_of
from lipsjax.analysis.stats import Interval, mean_interval, ratio_interval
from lipsjax.recording import Recording, StudyRecording

UNKNOWN = Interval(math.nan, math.nan, math.nan, 0)
ROUNDING = 1e-9
"""Share of a cost below which a difference is none."""


class Against(NamedTuple):
    """A class of devices in one arm less the same class in another, seed by seed."""

    arm: str  # the other one
    cost: Interval  # more than there
    points: Interval  # of accuracy, more than there


class Spending(NamedTuple):
    """A class of devices in one arm of a cell; without a number where its cost is unknown."""

    cell: str
    arm: str
    devices: str
    cost: Interval  # of all its sites in a run
    alone: Against | None  # than the arm that trains alone; None: there is none, or this is it
    returned: Interval  # points more than alone, per unit of its cost
    reference: Against | None  # than the arm that this one is compared with; None: it is itself
    lever: Interval  # points more than the reference, per unit of money saved or spent more

    @property
    def saves(self) -> bool:
        """Whether the lever is per unit saved; else it is per unit spent more."""
        return self.reference is not None and self.reference.cost.high < 0


Runs = Mapping[int, Recording]
"""Seed -> run."""


def spendings(study: StudyRecording) -> list[Spending]:
    """Return what each class of devices has for its money, cell by cell and arm by arm.

    Args:
      study: the recorded study.

    Returns:
      Nothing of runs without devices; nothing at all where no device has a price.
    """
    found = [
        spending
        for cell in range(len(study.cells))
        for arm in study.arms
        for spending in _of_arm(study, cell, arm)
    ]
    return found if any(not math.isnan(each.cost.mean) for each in found) else []


def _of_arm(study: StudyRecording, cell: int, arm: str) -> list[Spending]:
    runs = _runs(study, cell, arm)
    first = next(iter(runs.values()), None)
    if first is None or "devices" not in first.setup:
        return []
    alone = next((other for other in study.arms if _is_alone(_runs(study, cell, other))), None)
    others = {"alone": alone, "reference": study.references[arm]}
    compared = {
        name: _runs(study, cell, other) if other is not None and other != arm else {}
        for name, other in others.items()
    }
    return [
        _spending(study.cells[cell]["label"], arm, name, runs, compared, others)
        for name in members_of(first.setup["devices"])
    ]


def _is_alone(runs: Runs) -> bool:
    return any(is_local(run.config) for run in runs.values())


def _runs(study: StudyRecording, cell: int, arm: str) -> Runs:
    return {trial.seed: trial.recording for trial in trials_of(study, cell, arm)}


def _spending(
    cell: str,
    arm: str,
    devices: str,
    runs: Runs,
    compared: Mapping[str, Runs],
    names: Mapping[str, str | None],
) -> Spending:
    costs = {seed: class_costs(run).get(devices, math.nan) for seed, run in runs.items()}
    against, ratios = {}, {}
    for name, others in compared.items():
        seeds = sorted(runs.keys() & others.keys())
        points = [_points_more(runs[s], others[s], devices) for s in seeds]
        more = [_cost_more(costs[s], others[s], devices) for s in seeds]
        step = min((_step(runs[s], devices) for s in seeds), default=0.0)
        of_money = [costs[s] for s in seeds] if name == "alone" else more
        extra = mean_interval(more)
        against[name] = Against(names[name] or "", extra, mean_interval(points, step=step))
        if name == "reference" and extra.high < 0:
            of_money = [-amount for amount in more]
        ratios[name] = ratio_interval(points, of_money, steps=(step, 0.0)) if seeds else UNKNOWN
    return Spending(
        cell=cell,
        arm=arm,
        devices=devices,
        cost=mean_interval(list(costs.values())),
        alone=against["alone"] if compared["alone"] else None,
        returned=ratios["alone"],
        reference=against["reference"] if compared["reference"] else None,
        lever=ratios["reference"],
    )


def _points_more(run: Recording, other: Recording, devices: str) -> float:
    """Points of accuracy that the sites of a class have more in one run than in another."""
    grouped = run.setup["devices"]
    ours, theirs = (class_accuracies(each, grouped).get(devices) for each in (run, other))
    return math.nan if ours is None or theirs is None else 100 * (ours - theirs)


def _cost_more(cost: float, other: Recording, devices: str) -> float:
    theirs = class_costs(other).get(devices, math.nan)
    return 0.0 if abs(cost - theirs) <= ROUNDING * abs(theirs) else cost - theirs


def _step(run: Recording, devices: str) -> float:
    """Points that one test example of a class of devices is worth at least; 0: not known."""
    members = members_of(run.setup["devices"])[devices]
    counts = run.setup.get("survey", {}).get("test_counts")
    most = max((sum(counts[k]) for k in members), default=0) if counts else 0
    return 100 / (len(members) * most) if most else 0.0
