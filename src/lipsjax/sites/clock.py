"""A simulated clock: counted work over the speed of devices, counted bits over that of links."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lipsjax.sites.devices import Device
from lipsjax.sites.turns import Timetable

LATE = ("fewer_steps", "left_out")
"""What becomes of a site that does not end all its steps before the deadline."""


class Work(NamedTuple):
    """What a round asks of each site."""

    steps: np.ndarray  # [K] int, local steps
    step_flops: np.ndarray | float  # [K] of one step of each, or of all
    up_bits: np.ndarray  # [T, K] int, that each sends in a round; [T] where all send as much
    down_bits: np.ndarray  # the same of what it receives

    def most(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the most bits up and down that a round may ask for: [K] each, or () of all."""
        return self.up_bits.max(axis=0), self.down_bits.max(axis=0)


class Clock(NamedTuple):
    """How long the rounds of a run take at the sites."""

    devices: tuple[Device, ...]  # [K]
    work: Work  # that a round asks for
    steps: np.ndarray  # [K] int, local steps of a turn; 0 of a client that never trains
    table: Timetable | None = None  # where clients take turns; None: in rounds, all together

    def busy(self, up_bits: np.ndarray | float, down_bits: np.ndarray | float) -> np.ndarray:
        """Return how long a turn of each client takes, [K] seconds; 0 of one without any.

        That is training, its link, and waiting for a device that is not available all the time.

        Args:
          up_bits: [K] that each sends, or that all do.
          down_bits: [K] that each receives, or that all do.
        """
        available = np.array([device.availability for device in self.devices])
        training = self.steps * step_seconds(self.devices, self.work.step_flops)
        links = link_seconds(self.devices, up_bits, down_bits)
        return np.where(self.takes_part, (training + links) / available, 0.0)

    @property
    def takes_part(self) -> np.ndarray:
        """Whether each client ever trains, [K] bool."""
        return self.steps > 0

    def of_sites(self, *, rounds: int, cohort: int) -> list[dict[str, Any]]:
        """Return what each client has and does, to be recorded.

        Args:
          rounds: T.
          cohort: C; of drawn clients turns are those that each has on average.

        Returns:
          Per client its device, and ``turns`` in which it trains to an end, ``steps`` as a share of
          all that a round asks for, and ``turn_seconds``.
        """
        clients = len(self.devices)
        turns = np.where(self.takes_part, rounds * cohort / clients, 0)
        if self.table is not None:
            turns = np.bincount(self.table.turns.clients.ravel(), minlength=clients)
        lasts = self.busy(*self.work.most())
        shares = self.steps / self.work.steps
        return [
            {**device._asdict(), "turns": float(n), "steps": float(s), "turn_seconds": float(t)}
            for device, n, s, t in zip(self.devices, turns, shares, lasts, strict=True)
        ]

    def of_round(
        self,
        t: int,
        cohort: np.ndarray,
        up_bits: np.ndarray | float,
        down_bits: np.ndarray | float,
    ) -> dict[str, float]:
        """Return how long a round takes, and which share of that its clients wait, on average.

        Args:
          t: the round, or the update.
          cohort: [C] ids of its clients.
          up_bits: [C] that each of them sends, or that all do.
          down_bits: [C] that each of them receives, or that all do.

        Returns:
          ``simulated_seconds`` and ``idle_share``; of turns, the share of the time from the start
          of each turn to the update that it is in.
        """
        if self.table is not None:
            updates, ended = self.table.updates, self.table.ended[t]
            before = np.append(0.0, updates)
            lasted = updates[t] - before[self.table.turns.began[t]]
            idle = float(np.sum(updates[t] - ended) / np.sum(lasted))
            return {"simulated_seconds": float(updates[t] - before[t]), "idle_share": idle}
        moved = np.zeros((2, len(self.devices)))
        moved[0, cohort], moved[1, cohort] = up_bits, down_bits
        members = np.asarray(cohort)[self.takes_part[cohort]]
        busy = self.busy(*moved)[members]
        if not len(busy):
            return {"simulated_seconds": 0.0, "idle_share": 0.0}
        return {
            "simulated_seconds": float(busy.max()),
            "idle_share": float(1 - busy.mean() / busy.max()),
        }


def step_seconds(devices: Sequence[Device], step_flops: np.ndarray | float) -> np.ndarray:
    """Return how long a local step takes on each device, [K] seconds; of [K] FLOPs or of all.

    >>> step_seconds([Device("a", 2.0, 1, 1), Device("b", 4.0, 1, 1)], 8e9).tolist()
    [4.0, 2.0]
    """
    return step_flops / (1e9 * np.array([device.gflops for device in devices]))


def link_seconds(
    devices: Sequence[Device], up_bits: np.ndarray | float, down_bits: np.ndarray | float
) -> np.ndarray:
    """Return how long a round's bits take on each link, [K] seconds; of [K] bits or of all.

    >>> link_seconds([Device("a", 1.0, 2.0, 10.0)], 4e6, 1e7).tolist()
    [3.0]
    """
    up, down = (np.array([getattr(d, name) for d in devices]) for name in ("up_mbit", "down_mbit"))
    return up_bits / (1e6 * up) + down_bits / (1e6 * down)


def limits(
    devices: Sequence[Device], work: Work, *, deadline: float, late: str = "fewer_steps"
) -> tuple[int, ...]:
    """Return how many local steps each site can do before a deadline.

    Of D seconds a site has ``a D``, a its availability; what its link takes for the most bits that
    a round may ask for is left off, and the rest is steps, rounded down.

    Args:
      devices: [K].
      work: of a round.
      deadline: D, seconds.
      late: "fewer_steps": a site does those that it can, and is left out if it can do none;
        "left_out": one that cannot do all is left out.

    Returns:
      [K] steps, 0 of who is left out.

    Raises:
      ValueError: if no site is in time, naming the shortest deadline that one could meet.

    Example:
      >>> slow, fast = Device("slow", 1.0, 1.0, 1.0), Device("fast", 10.0, 1.0, 1.0)
      >>> work = Work(np.array([4, 4]), 1e9, np.array([10**6]), np.array([10**6]))
      >>> limits([slow, fast], work, deadline=4.0)
      (2, 4)
      >>> limits([slow, fast], work, deadline=4.0, late="left_out")
      (0, 4)
    """
    if late not in LATE:
        raise ValueError(f"late must be one of {', '.join(LATE)}, not {late!r}")
    links, step = link_seconds(devices, *work.most()), step_seconds(devices, work.step_flops)
    available = np.array([device.availability for device in devices])
    # the floor of 2.9999999 steps is 3: a deadline that is exactly met is met
    can = np.floor((available * deadline - links) / step + 1e-9)
    found = np.clip(can, 0, work.steps).astype(int)
    if late == "left_out":
        found = np.where(found < work.steps, 0, found)
    if not found.any():
        wanted = work.steps if late == "left_out" else np.ones_like(work.steps)
        least = float(((links + wanted * step) / available).min())
        raise ValueError(
            f"deadline must be at least {_round_up(least):g} s, in which one site is done, not "
            f"{deadline:g}"
        )
    return tuple(found.tolist())


def _round_up(value: float) -> float:
    """Round up to three digits.

    >>> _round_up(1.2301)
    1.24
    """
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return round(math.ceil(value / unit) * unit, 12)


def round_clock(
    devices: Sequence[Device], work: Work, most_steps: Sequence[int] | None = None
) -> Clock:
    """Return the clock of rounds, in which the server waits for all who take part.

    Args:
      devices: [K].
      work: of a round.
      most_steps: [K] that a deadline leaves; None: all.
    """
    steps = work.steps if most_steps is None else np.minimum(work.steps, most_steps)
    return Clock(tuple(devices), work, steps)


def turn_clock(devices: Sequence[Device], work: Work) -> tuple[Clock, np.ndarray]:
    """Return the clock of turns, without their table, and the seconds of each client's turn, [K].

    Raises:
      ValueError: if rounds ask for different numbers of bits, as then turns have no one length.
    """
    for name, bits in (("up", work.up_bits), ("down", work.down_bits)):
        if (bits != bits[0]).any():
            raise ValueError(
                f"where clients do not wait for each other every turn must move as much: here it "
                f"is {bits.min()} to {bits.max()} bits {name}"
            )
    clock = round_clock(devices, work)
    return clock, clock.busy(*work.most())
