"""What a study would take its sites: hours of the simulated clock, and who is served by them.

The clock is that of :mod:`lipsjax.sites`; recordings of runs without devices have none.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lipsjax.analysis.stats import Interval, mean_interval
from lipsjax.analysis.stats import primary as end_of
from lipsjax.recording import Recording


class Unit(NamedTuple):
    """A unit of simulated time."""

    name: str
    in_hour: float  # how many of it are an hour


def unit_for(hours: float) -> Unit:
    """Return the unit in which so many hours are two or more; seconds, where they are fewer.

    >>> unit_for(3.0).name, unit_for(0.5).name, unit_for(0.01).name
    ('hours', 'minutes', 'seconds')
    """
    if hours >= 2:
        return Unit("hours", 1.0)
    return Unit("minutes", 60.0) if hours >= 2 / 60 else Unit("seconds", 3600.0)


PARTS = ("width", "density", "fraction")
"""What a site may do in part: of the channels, of the weights, of its update."""


class DeviceClass(NamedTuple):
    """Sites with one device, in the runs of one arm."""

    name: str
    sites: int
    turns: float  # of a site, in which it trains to an end
    steps: float  # of a turn, share of all that a round asks for
    parts: dict[str, tuple[float, float]]  # what a site does in part: its name -> least and most
    accuracy: Interval  # at the end, mean over its sites
    cost: Interval  # of its devices in use, all sites together; NaN where they have no price


def elapsed_hours(recording: Recording) -> np.ndarray:
    """Return the simulated hours from the start to the end of each round, [T]; NaN without a clock.

    Example:
      >>> import types
      >>> run = types.SimpleNamespace(scalars={"simulated_seconds": np.array([1800.0, 1800.0])})
      >>> elapsed_hours(run).tolist()
      [0.5, 1.0]
    """
    seconds = recording.scalars.get("simulated_seconds")
    if seconds is None:
        return np.full(len(recording.scalars["round"]), np.nan)
    return np.cumsum(seconds) / 3600


def accuracy_within(recording: Recording, hours: float) -> float:
    """Return the personalised accuracy that a run has reached within some simulated hours.

    It is that of the last 10% of the rounds that end within them; NaN where none does.

    Example:
      >>> import types
      >>> accuracies = np.array([0.0, 0.25, 0.5, 0.75])
      >>> of_rounds = {"simulated_seconds": np.full(4, 900.0), "accuracy_dense": accuracies}
      >>> accuracy_within(types.SimpleNamespace(scalars=of_rounds), 0.5)
      0.25
    """
    ended = elapsed_hours(recording) <= hours
    return end_of(recording.scalars["accuracy_dense"][ended]) if ended.any() else float("nan")


def idle_share(recording: Recording) -> float:
    """Return the share of the time that sites wait, mean over rounds weighted by their length."""
    seconds = recording.scalars.get("simulated_seconds")
    if seconds is None or not seconds.sum():
        return float("nan")
    return float(np.average(recording.scalars["idle_share"], weights=seconds))


def worst_devices(recording: Recording) -> float:
    """Return the end accuracy of the device class that is served worst; NaN without classes."""
    by_class = class_accuracies(recording)
    return min(by_class.values()) if by_class else float("nan")


def device_classes(runs: Sequence[Recording]) -> list[DeviceClass]:
    """Return what the runs of one arm were to each class of devices, in the sites' order.

    Args:
      runs: of one arm in one cell, a seed each.

    Returns:
      Nothing, where the runs have no devices.
    """
    if not runs or "devices" not in runs[0].setup:
        return []
    devices = runs[0].setup["devices"]
    accuracies, costs = [class_accuracies(run) for run in runs], [class_costs(run) for run in runs]
    return [
        DeviceClass(
            name=name,
            sites=len(members),
            turns=float(np.mean([devices[k]["turns"] for k in members])),
            steps=float(np.mean([devices[k]["steps"] for k in members])),
            parts=_parts([devices[k] for k in members]),
            accuracy=mean_interval([each.get(name, np.nan) for each in accuracies]),
            cost=mean_interval([each.get(name, np.nan) for each in costs]),
        )
        for name, members in members_of(devices).items()
    ]


def _parts(devices: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Return the least and the most of what sites do in part, where it is recorded.

    >>> _parts([{"width": 0.5}, {"width": 1.0}])
    {'width': (0.5, 1.0)}
    """
    found = {name: [d[name] for d in devices if name in d] for name in PARTS}
    return {name: (min(values), max(values)) for name, values in found.items() if values}


def device_cost(recording: Recording) -> float:
    """Return what all devices that have a price cost in a run; NaN where none has.

    Example:
      >>> import types
      >>> pi = {"name": "pi", "price_per_hour": 0.5, "turns": 4.0, "turn_seconds": 1800.0}
      >>> device_cost(types.SimpleNamespace(setup={"devices": [pi, pi]}))
      2.0
    """
    known = [cost for cost in class_costs(recording).values() if not np.isnan(cost)]
    return sum(known) if known else float("nan")


def class_costs(recording: Recording) -> dict[str, float]:
    """Return what the devices of each class cost in a run: price times hours in turns.

    Returns:
      Class -> cost of all its sites; NaN where none of them has a price.
    """
    devices = recording.setup.get("devices", [])
    return {
        name: _cost([devices[k] for k in members]) for name, members in members_of(devices).items()
    }


def _cost(devices: Sequence[Mapping[str, float]]) -> float:
    if not any(device["price_per_hour"] for device in devices):
        return float("nan")
    return sum(d["price_per_hour"] * d["turns"] * d["turn_seconds"] / 3600 for d in devices)


def members_of(devices: Sequence[Mapping[str, str]]) -> dict[str, list[int]]:
    """Return the clients of each class, in their order.

    >>> members_of([{"name": "pi"}, {"name": "rig"}, {"name": "pi"}])
    {'pi': [0, 2], 'rig': [1]}
    """
    found: dict[str, list[int]] = {}
    for k, device in enumerate(devices):
        found.setdefault(device["name"], []).append(k)
    return found


def class_accuracies(
    recording: Recording, devices: Sequence[Mapping[str, str]] | None = None
) -> dict[str, float]:
    """Return the mean end accuracy of the sites of each class, of sites whose accuracy is known.

    Args:
      recording: of one run.
      devices: of its clients, by which they are grouped; None: as the run has recorded them.
    """
    grouped = recording.setup.get("devices", []) if devices is None else devices
    of_each = recording.by.get("clients", {}).get("accuracy")
    if of_each is None or of_each.shape[1] != len(grouped):
        return {}
    ends = np.array([end_of(curve) for curve in of_each.T])
    return {
        name: float(np.nanmean(ends[ids]))
        for name, ids in members_of(grouped).items()
        if np.isfinite(ends[ids]).any()
    }
