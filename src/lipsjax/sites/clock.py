"""A simulated clock: counted work over the speed of devices, counted bits over that of links."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lipsjax.sites.devices import Device
from lipsjax.sites.money import budgets_for, payable_seconds
from lipsjax.sites.turns import Timetable


class Work(NamedTuple):
    """What a round asks of each site."""

    steps: np.ndarray  # [K] int, local steps
    step_flops: np.ndarray  # [K], of one step
    up_bits: np.ndarray  # [T, K] int, that it sends in each round
    down_bits: np.ndarray  # [T, K] int, that it receives

    def most(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the most bits up and down that a round may ask of each, [K]."""
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
    """Return how long a local step takes on each device, [K] seconds; of [K] FLOPs, or of one.

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


class Affordable(NamedTuple):
    """What sites can do of a round before a deadline, and within their budgets."""

    choice: tuple[int, ...]  # [K] which of the works that were offered each does
    steps: tuple[int, ...]  # [K] local steps of it; 0 of who is left out


def afford(
    devices: Sequence[Device],
    works: Sequence[Work],
    *,
    deadline: float = math.inf,
    turns: float = 1.0,
    whole: bool = False,
) -> Affordable:
    """Return what of a round each site can do before a deadline and within its budget.

    A budget is a deadline of the site's own (:func:`lipsjax.sites.money.payable_seconds`), and the
    earlier one counts. Of D seconds a site has ``a D``, a its availability; what its link takes for
    the most bits that a round may ask for is left off, and the rest is steps, rounded down. A site
    does the first of the works whose steps it ends; who ends none does what it can of the last.

    Args:
      devices: [K].
      works: of a round, from what is asked for to less and less.
      deadline: D, seconds.
      turns: of each in a run, over which a budget is spread.
      whole: leave out who cannot end the last of the works either.

    Raises:
      ValueError: if no site is in time, naming the shortest deadline that one could meet, or if
        none can pay, naming the least budget that one could keep to.

    Example:
      >>> slow, fast = Device("slow", 1.0, 1.0, 1.0), Device("fast", 10.0, 1.0, 1.0)
      >>> work = Work(*(np.array(x) for x in ([4, 4], [1e9, 1e9], [[10**6] * 2], [[10**6] * 2])))
      >>> afford([slow, fast], [work], deadline=4.0).steps
      (2, 4)
      >>> afford([slow, fast], [work], deadline=4.0, whole=True).steps
      (0, 4)
      >>> afford([slow, fast], [work, work._replace(step_flops=np.full(2, 5e8))], deadline=4.0)
      Affordable(choice=(1, 0), steps=(4, 4))
    """
    available = np.array([device.availability for device in devices])
    seconds = available * np.minimum(deadline, payable_seconds(devices, turns))
    can = np.array([_steps_within(devices, work, seconds) for work in works])
    ends = can == np.array([work.steps for work in works])
    choice = np.where(ends.any(axis=0), ends.argmax(axis=0), len(works) - 1)
    steps = can[choice, np.arange(len(devices))]
    last = works[-1]
    if whole:
        steps = np.where(ends.any(axis=0), steps, 0)
    if not steps.any():
        wanted = last.steps if whole else np.ones_like(last.steps)
        turn = link_seconds(devices, *last.most()) + wanted * step_seconds(devices, last.step_flops)
        turn /= available
        in_time = _steps_within(devices, last, available * deadline) >= wanted
        if in_time.any():
            needed = np.where(in_time, budgets_for(devices, turns, turn), math.inf)
            cheapest = devices[int(needed.argmin())]
            raise ValueError(
                f"budget must be at least {_round_up(float(needed.min())):g}, by which one site "
                f"({cheapest.name}) pays for its {turns:g} turns, not {cheapest.budget:g}"
            )
        raise ValueError(
            f"deadline must be at least {_round_up(float(turn.min())):g} s, in which one site is "
            f"done, not {deadline:g}"
        )
    return Affordable(tuple(choice.tolist()), tuple(steps.tolist()))


def _steps_within(devices: Sequence[Device], work: Work, seconds: np.ndarray) -> np.ndarray:
    """Return how many of its steps each site can do in seconds of its device, [K] each."""
    left = seconds - link_seconds(devices, *work.most())
    # the floor of 2.9999999 steps is 3: a deadline that is exactly met is met
    can = np.floor(left / step_seconds(devices, work.step_flops) + 1e-9)
    return np.clip(can, 0, work.steps).astype(int)


def chosen(works: Sequence[Work], choice: Sequence[int]) -> Work:
    """Return what a round asks of sites that do different works of it.

    >>> one = Work(*(np.array(x) for x in ([4, 4], [1e9, 1e9], [[8, 8]], [[8, 8]])))
    >>> chosen([one, one._replace(up_bits=np.array([[2, 2]]))], [1, 0]).up_bits.tolist()
    [[2, 8]]
    """
    clients = np.arange(len(choice))

    def of_each(*values: np.ndarray) -> np.ndarray:
        return np.stack(values, axis=-2)[..., list(choice), clients]

    return Work(*map(of_each, *works))


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
      most_steps: [K] that a deadline or budgets leave; None: all.
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
