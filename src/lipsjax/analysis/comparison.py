"""From a recorded study to its comparison rows: one per cell and arm, intervals over seeds.

A measure is a function of one recording that gives one number. Each is averaged over an arm's
seeds, and subtracted seed by seed from the reference arm of the same cell. "End" means the last
10% of the rounds (:func:`lipsjax.analysis.stats.primary`). Some measures count to a target
accuracy, which is the same for all arms of a cell (:func:`target_of`). A seed that diverged has no
measure: rows name it, and are of the others.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lipsjax.analysis.hours import device_cost, elapsed_hours, idle_share, worst_devices
from lipsjax.analysis.stats import (
    Difference,
    Interval,
    holm,
    mean_interval,
    paired_difference,
    primary,
    spearman,
)
from lipsjax.analysis.steps import steps_of
from lipsjax.analysis.wording import counted
from lipsjax.recording import Recording, StudyRecording, Trial

TARGET = 0.95
"""Share of the reference's end accuracy that is the target where a study names none."""


class Row(NamedTuple):
    """One arm in one cell of a study."""

    cell: str  # label of the cell, "" in a study of one
    arm: str
    reference: str  # the arm that differences are taken from
    seeds: tuple[int, ...]  # finished seeds
    means: Mapping[str, Interval]  # measure -> interval over this arm's seeds
    differences: Mapping[str, Difference]  # measure -> arm - reference; empty for the reference
    adjusted: Mapping[str, float]  # measure -> p after Holm over all compared rows
    comparisons: int  # how many rows of the study are compared with a reference
    values: Mapping[int, Mapping[str, float]]  # seed -> measure -> number, of finished seeds
    config: Mapping[str, Any]  # of the first finished seed; empty if there is none
    transient: bool = False  # whether the arm is wrapped in transient sparsity
    steps: Mapping[str, float] = MappingProxyType(
        {}
    )  # measure -> the smallest that it makes, if it is a count
    diverged: tuple[tuple[int, str], ...] = ()  # seeds that ended so, and why

    @property
    def is_reference(self) -> bool:
        """Whether this is the arm that the others are compared with."""
        return self.arm == self.reference

    @property
    def share_diverged(self) -> str:
        """In how many of the seeds that came to an end it diverged; "" if in none."""
        count = len(self.diverged)
        ended = count + len(self.seeds)
        return f"diverged in {count} of {counted(ended, 'seed')}" if count else ""


def middle_step(recording: Recording) -> np.ndarray:
    """Mean ``step`` of the middle layers in every round, [T]."""
    return _step(recording, middle=True)


def outer_step(recording: Recording) -> np.ndarray:
    """Mean ``step`` of the outer layers, stem and classifier, in every round, [T]."""
    return _step(recording, middle=False)


def total(recording: Recording, name: str) -> float:
    """Sum of a scalar over the rounds that report it; NaN if none does."""
    values = recording.scalars.get(name, np.array([]))
    reported = values[~np.isnan(values)]
    return float(reported.sum()) if reported.size else float("nan")


def aggregation_gain(recording: Recording) -> np.ndarray:
    """Accuracy after minus before aggregation in every round, [T].

    Both are personalised. After: of the dense global model, as each client predicts with it,
    whatever mask goes out with it. Before: of the clients' own models at the end of local training.
    """
    arrived = "accuracy_dense_arrived"  # of those whose own models are scored, where some drop out
    after = arrived if arrived in recording.scalars else "accuracy_dense"
    return _scalar(recording, after) - _scalar(recording, "accuracy_before")


def coupling(recording: Recording) -> float:
    """Rank correlation of the middle layers' steps with what aggregation gains, in one run.

    Of first differences between evaluated rounds, so that two curves that merely both fall over
    training do not count as related. NaN where there are too few.
    """
    step, gain = middle_step(recording), aggregation_gain(recording)
    known = ~np.isnan(step) & ~np.isnan(gain)
    return spearman(np.diff(step[known]), np.diff(gain[known]))


def round_reached(recording: Recording, target: float) -> int | None:
    """Index of the first evaluated round whose personalised accuracy is at least the target."""
    reached = np.flatnonzero(recording.scalars["accuracy_dense"] >= target)
    return int(reached[0]) if reached.size else None


Measure = Callable[[Recording, float], float]
"""One number of one run, given the target accuracy of its cell."""

MEASURES: dict[str, Measure] = {
    "personalised": lambda r, _: primary(r.scalars["accuracy_dense"]),
    "global": lambda r, _: primary(_global_accuracy(r)),
    "tuned": lambda r, _: _at_the_end(r, "accuracy_tuned"),
    "new": lambda r, _: _at_the_end(r, "accuracy_new"),
    "new_tuned": lambda r, _: _at_the_end(r, "accuracy_new_tuned"),
    "inertia": lambda r, _: primary(r.scalars["inertia_index"], fraction=1.0),
    "inertia_end": lambda r, _: primary(r.scalars["inertia_index"]),
    "step": lambda r, _: primary(middle_step(r), fraction=1.0),
    "step_end": lambda r, _: primary(middle_step(r)),
    "uplink_bits": lambda r, _: total(r, "uplink_bits"),
    "downlink_bits": lambda r, _: total(r, "downlink_bits"),
    "uplink_bits_server_masks": lambda r, _: total(r, "uplink_bits_server_masks"),
    "downlink_bits_server_masks": lambda r, _: total(r, "downlink_bits_server_masks"),
    "seconds": lambda r, _: r.seconds,
    "compile_seconds": lambda r, _: r.compile_seconds,
    "gain": lambda r, _: primary(aggregation_gain(r)),
    "gain_global": lambda r, _: primary(
        _scalar(r, "global_accuracy") - _scalar(r, "global_accuracy_clients")
    ),
    "coupling": lambda r, _: coupling(r),
    "flops": lambda r, _: len(r.scalars["round"]) * r.setup.get("flops_per_round", np.nan),
    "epsilon": lambda r, _: float(_scalar(r, "epsilon")[-1]),
    "device_hours": lambda r, _: r.seconds * r.plan["devices"] / 3600,
    "reached": lambda r, target: _at_target(r, target, lambda first: 1.0, never=0.0),
    "rounds_to_target": lambda r, target: _at_target(r, target, lambda first: first + 1),
    "bits_to_target": lambda r, target: _at_target(r, target, lambda first: _bits_until(r, first)),
    "hours": lambda r, _: float(elapsed_hours(r)[-1]),
    "hours_to_target": lambda r, target: _at_target(
        r, target, lambda first: float(elapsed_hours(r)[first])
    ),
    "idle_share": lambda r, _: idle_share(r),
    "worst_devices": lambda r, _: worst_devices(r),
    "device_cost": lambda r, _: device_cost(r),
}
"""What is compared: name -> one number of one run.

``global`` is of the model that is predicted with: where clients train alone, the mean over their
own models, as nobody receives the global model. ``reached`` is 1 where the target is reached and 0
where not, so that its mean is the share of seeds; rounds, bits and hours to the target are NaN in a
seed that never reaches it, and so is their mean, as a mean over the others would flatter the arm.
Hours are of the simulated clock of runs whose sites have devices, and costs of devices that have a
price; others have none.
"""


def measures_of(study: StudyRecording) -> dict[str, Measure]:
    """What is compared in a study: :data:`MEASURES`, then its own, each over the last rounds."""
    runs = (trial.recording for trial in study.trials)
    own = dict.fromkeys(name for run in runs for name in run.setup.get("own_measures", ()))
    return MEASURES | {name: _of_own(name) for name in own}


def _of_own(name: str) -> Measure:
    return lambda recording, _: primary(_scalar(recording, name))


def is_local(config: Mapping[str, Any]) -> bool:
    """Whether clients train alone: the control without federation."""
    return config.get("strategy", {}).get("name") == "local"


def is_pooled(config: Mapping[str, Any]) -> bool:
    """Whether one site holds the examples of all: the control without clients."""
    return bool(config.get("partition", {}).get("pooled"))


def _scalar(recording: Recording, name: str) -> np.ndarray:
    """A scalar of every round; NaN where it was not recorded, [T]."""
    missing = np.full(len(recording.scalars["round"]), np.nan)
    return recording.scalars.get(name, missing)


def _global_accuracy(recording: Recording) -> np.ndarray:
    alone = is_local(recording.config)
    return _scalar(recording, "global_accuracy_clients" if alone else "global_accuracy")


def _at_target(
    recording: Recording, target: float, count: Callable[[int], float], never: float = np.nan
) -> float:
    if np.isnan(target):
        return np.nan
    first = round_reached(recording, target)
    return never if first is None else float(count(first))


def _bits_until(recording: Recording, last: int) -> float:
    """Bits moved up and down, as run, to the end of a round."""
    moved = _scalar(recording, "uplink_bits") + _scalar(recording, "downlink_bits")
    return float(moved[: last + 1].sum())


def _at_the_end(recording: Recording, name: str) -> float:
    """The last value of a scalar; NaN where it was not asked for."""
    return float(recording.scalars[name][-1]) if name in recording.scalars else float("nan")


def trials_of(study: StudyRecording, cell: int, arm: str) -> tuple[Trial, ...]:
    """Finished trials of one arm in one cell, by seed."""
    chosen = (trial for trial in study.trials if (trial.cell, trial.arm) == (cell, arm))
    return tuple(sorted(chosen, key=lambda trial: trial.seed))


def recordings_of(study: StudyRecording, cell: int) -> dict[str, tuple[Recording, ...]]:
    """Recordings of one cell by arm, in the study's order of arms.

    Args:
      study: the recorded study.
      cell: index of the cell in ``study.cells``.

    Returns:
      arm -> its finished recordings, by seed; empty for an arm without any.
    """
    return {
        arm: tuple(trial.recording for trial in trials_of(study, cell, arm)) for arm in study.arms
    }


def compare(study: StudyRecording) -> list[Row]:
    """Comparison rows of a study, cell by cell, in the study's order of arms.

    Each arm is compared with its own reference, which is the study's where it names no other.
    Differences are taken over the seeds that are finished in both arms. Holm's correction runs
    over all compared rows of the study, measure by measure; with one such row it changes nothing.

    Args:
      study: the recorded study.

    Returns:
      One row per cell and arm; without a finished trial its means are NaN with n = 0.

    Raises:
      ValueError: if no trial is finished, or the reference is not an arm of the study.
    """
    if not study.trials:
        raise ValueError(f"study {study.name!r} has no finished trial: there is nothing to compare")
    for reference in study.references.values():
        if reference not in study.arms:
            raise ValueError(
                f"the reference {reference!r} is not an arm of the study; "
                f"arms: {', '.join(study.arms)}"
            )
    measures, cells = measures_of(study), range(len(study.cells))
    rows = [_row(study, cell, arm, measures) for cell in cells for arm in study.arms]
    return _with_holm(_compared(rows))


def target_of(study: StudyRecording, cell: int) -> float:
    """Accuracy that rounds and bits of a cell are counted to.

    Args:
      study: the recorded study.
      cell: index of the cell in ``study.cells``.

    Returns:
      What the study names; else 95% of the personalised accuracy that the study's reference ends
      with in this cell, its mean over seeds. NaN if no trial of it is finished there.
    """
    if study.target is not None:
        return study.target
    ends = [
        primary(trial.recording.scalars["accuracy_dense"])
        for trial in trials_of(study, cell, study.reference)
    ]
    return TARGET * mean_interval(ends).mean


def paired(a: Row, b: Row, measure: str) -> tuple[list[float], list[float]]:
    """Numbers of two arms over the seeds that are finished in both, in the same order."""
    common = sorted(a.values.keys() & b.values.keys())
    return [a.values[s][measure] for s in common], [b.values[s][measure] for s in common]


def difference(a: Row, b: Row, measure: str) -> Difference:
    """One arm less another over the seeds that are finished in both, whatever their references."""
    return paired_difference(*paired(a, b, measure), step=step_between(a, b, measure))


def step_between(a: Row, b: Row, measure: str) -> float:
    """The smallest step of the difference of two arms: the finer one of theirs."""
    return min(a.steps.get(measure, 0.0), b.steps.get(measure, 0.0))


def _row(study: StudyRecording, cell: int, arm: str, measures: Mapping[str, Measure]) -> Row:
    """A row without its differences."""
    values = _values(study, cell, arm, measures)
    recordings = [trial.recording for trial in trials_of(study, cell, arm)]
    steps = _steps(recordings)
    configs = [recording.config for recording in recordings]
    return Row(
        cell=study.cells[cell]["label"],
        arm=arm,
        reference=study.references[arm],
        seeds=tuple(values),
        means={
            m: mean_interval([v[m] for v in values.values()], step=steps.get(m, 0.0))
            for m in measures
        },
        differences={},
        adjusted={},
        comparisons=0,
        values=values,
        config=configs[0] if configs else {},
        transient=any(config["sparsity"] for config in configs),
        steps=steps,
        diverged=_diverged(study, cell, arm),
    )


def _compared(rows: list[Row]) -> list[Row]:
    """The same rows with their differences from their references."""
    at = {(row.cell, row.arm): row for row in rows}
    return [
        row
        if row.is_reference
        else row._replace(
            differences={m: difference(row, at[row.cell, row.reference], m) for m in row.means}
        )
        for row in rows
    ]


def _with_holm(rows: list[Row]) -> list[Row]:
    """The same rows with Holm's p over all that are compared, measure by measure."""
    compared = [row for row in rows if not row.is_reference]
    adjusted = {m: holm([row.differences[m].p for row in compared]) for m in rows[0].means}
    place = {(row.cell, row.arm): i for i, row in enumerate(compared)}
    return [
        row._replace(
            adjusted={m: float(adjusted[m][place[row.cell, row.arm]]) for m in row.differences},
            comparisons=len(compared),
        )
        for row in rows
    ]


def _values(
    study: StudyRecording, cell: int, arm: str, measures: Mapping[str, Measure]
) -> dict[int, dict[str, float]]:
    """Seed -> measure -> number."""
    free, target = free_rounds(study, cell), target_of(study, cell)
    return {
        trial.seed: {
            name: measure(_only(trial.recording, free), target)
            for name, measure in measures.items()
        }
        for trial in trials_of(study, cell, arm)
    }


def _steps(recordings: Sequence[Recording]) -> dict[str, float]:
    """The smallest step of each measure in any of the seeds."""
    found = [steps_of(recording) for recording in recordings]
    return {m: min(steps[m] for steps in found) for m in (found[0] if found else ())}


def _diverged(study: StudyRecording, cell: int, arm: str) -> tuple[tuple[int, str], ...]:
    """Seeds of one arm in one cell that diverged, and why."""
    chosen = (trial for trial in study.diverged if (trial["cell"], trial["arm"]) == (cell, arm))
    return tuple(sorted((trial["seed"], trial["reason"]) for trial in chosen))


def free_rounds(study: StudyRecording, cell: int) -> np.ndarray:
    """Whether no arm of a cell began a round from a model masked for a moment, [T] bool.

    A round that begins from such a model moves its masked layers by construction, as zeroed weights
    grow back, whatever its clients learn; inertia is compared over the other rounds, the same ones
    in every arm. Masks that are held through a round move nothing.
    """
    runs = [run for arm in recordings_of(study, cell).values() for run in arm]
    free = np.ones(max((len(r.scalars["density"]) for r in runs), default=0), bool)
    for run in runs:
        if run.config["sparsity"] is None:
            continue
        sparse = run.scalars["density"] < 1
        free[1 : len(sparse)] &= ~sparse[:-1]
    return free


def _only(recording: Recording, free: np.ndarray) -> Recording:
    """A recording whose inertia is NaN in the rounds that do not count."""
    index, step = recording.scalars["inertia_index"], recording.layers["step"]
    counts = free[: len(index)]
    return recording._replace(
        scalars={**recording.scalars, "inertia_index": np.where(counts, index, np.nan)},
        layers={**recording.layers, "step": np.where(counts[:, None], step, np.nan)},
    )


def _step(recording: Recording, *, middle: bool) -> np.ndarray:
    chosen = [(layer["role"] == "middle") == middle for layer in recording.setup["layers"]]
    return recording.layers["step"][:, chosen].mean(axis=1)
