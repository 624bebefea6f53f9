"""What a person sees while runs go on."""

import collections
import math
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from lipsjax.runs import processes
from lipsjax.runs.trial import Progress as TrialProgress

PLAIN_WIDTH = 100
"""Columns of a text that goes to a file or a pipe."""
BESIDE = 60
"""Columns that a bar and its figures take beside the name of a trial."""
FEWEST = 20
"""Columns of a name, however narrow the terminal."""


class Call(NamedTuple):
    """What some rounds took that are one compiled call, by a clock on the wall."""

    program: str  # what trials share that are compiled alike
    rounds: int
    seconds: float  # with all that trials do again and again, as writing checkpoints
    once: float  # further seconds, of what is done once: compiling, and what precedes it


def time_left(
    calls: Iterable[Call],
    left: Mapping[str, int],
    *,
    workers: int = 1,
    waited: Mapping[str, float] = MappingProxyType({}),
) -> float | None:
    """Estimate how long the rounds that are left will take.

    Of each program p: rounds left x seconds a round, as measured of p, or of all while p has not
    begun; and for each that has not begun, what beginning one has taken. Workers share it all.

    Args:
      calls: that have ended, in any order.
      left: program -> rounds that are left.
      workers: processes that train side by side.
      waited: program -> seconds since a worker began it, of those without a call.

    Returns:
      Seconds; None before the first call.

    Example:
      >>> calls = [Call("dense", rounds=10, seconds=1.0, once=8.0)]
      >>> time_left(calls, {"dense": 30, "lips": 40}, workers=2)
      7.5
    """
    spent: dict[str, list[Call]] = collections.defaultdict(list)
    for call in calls:
        spent[call.program].append(call)
    if not spent:
        return None
    every = [call for of_one in spent.values() for call in of_one]
    beginning = sum(call.once for call in every) / len(spent)
    todo = {program: rounds for program, rounds in left.items() if rounds > 0}
    rounds = sum(count * _pace(spent.get(program, every)) for program, count in todo.items())
    new = todo.keys() - spent.keys()
    begins = sum(max(0.0, beginning - waited.get(program, 0.0)) for program in new)
    return (rounds + begins) / workers


def _pace(calls: list[Call]) -> float:
    """Return the seconds of a round."""
    return sum(call.seconds for call in calls) / sum(call.rounds for call in calls)


class _Figures(ProgressColumn):
    """What is known of a trial; while nothing is, how long it has been compiling."""

    def render(self, task: Task) -> Text:
        figures = task.fields["figures"]
        return Text(figures or f"compiling {format_time(task.elapsed or 0)}")


def make_console() -> Console:
    """Return a console as wide as the terminal, or 100 columns; it prints in process 0 alone."""
    width = None if Console().is_terminal else PLAIN_WIDTH
    return Console(width=width, quiet=not processes.is_main())


class Watch:
    """A bar for each trial that goes on and one for all; plain lines where there is no terminal.

    Args:
      trials: how many there are.
      rounds: of all of them together, by what is compiled for them; a number, if that is not known.
      workers: processes that train side by side.
    """

    def __init__(self, *, trials: int, rounds: int | Mapping[str, int], workers: int = 1):
        self.console = make_console()
        self._trials, self._workers = trials, workers
        self._rounds = {"": rounds} if isinstance(rounds, int) else dict(rounds)
        self._done: dict[str, dict[str, int]] = {}  # program -> trial -> rounds, of finished too
        self._begun: list[str] = []
        self._calls: list[Call] = []
        self._at: dict[int, float] = {}  # worker -> when it last began or reported
        self._first: dict[str, float] = {}  # program -> when a worker first began it
        self._programs: set[tuple[int, str]] = set()  # worker, program that it has begun
        self._said: set[str] = set()
        self._start = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            _Figures(),
            console=self.console,
            transient=True,
        )
        self._bars: dict[int, TaskID] = {}
        self._all = self._progress.add_task(
            "all rounds", total=sum(self._rounds.values()), figures="–", visible=trials > 1
        )

    def __enter__(self) -> "Watch":
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self._progress.stop()

    def begin(
        self, name: str, rounds: int, *, worker: int = 0, program: str = ""
    ) -> Callable[[TrialProgress], None]:
        """Begin a trial.

        Args:
          name: of the trial; of one that was begun before, it goes on.
          rounds: of the trial.
          worker: who runs it; it takes the place of the last one that this worker ran.
          program: what is compiled for it, of those that were announced.

        Returns:
          What shows how far the trial is.
        """
        if name not in self._begun:
            self._begun.append(name)
        label = f"{self._begun.index(name) + 1}/{self._trials} {name}"
        done = self._done.setdefault(program, {})
        done.setdefault(name, 0)
        if worker not in self._bars:
            self._bars[worker] = self._progress.add_task("", figures="")
        bar = self._bars[worker]
        shown = fit(label, max(FEWEST, self.console.width - BESIDE))
        self._progress.reset(bar, total=rounds, description=shown, figures="")
        self._at[worker] = time.monotonic()
        self._first.setdefault(program, self._at[worker])

        def report(progress: TrialProgress) -> None:
            self._calls.append(self._took(worker, program, progress))
            done[name] = progress.done
            figures, left = describe(progress), f"{self._left()} left"
            so_far = sum(sum(trials.values()) for trials in self._done.values())
            self._progress.update(self._all, completed=so_far, figures=left)
            self._progress.update(
                bar,
                completed=progress.done,
                figures=figures if self._trials > 1 else f"{figures}  {left}",
            )
            if not self.console.is_terminal:
                elapsed = format_time(time.monotonic() - self._start)
                so_far = f"{progress.done}/{progress.rounds}"
                self.say(f"{elapsed:>7}  {label}  {so_far}  {figures}  {left}")

        return report

    def elsewhere(self, name: str, rounds: int, *, program: str = "") -> None:
        """Count a trial as done that another host has run."""
        self._done.setdefault(program, {})[name] = rounds

    def say(self, line: str) -> None:
        """Print a line that stays, once: trials have much in common."""
        if line in self._said:
            return
        self._said.add(line)
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _took(self, worker: int, program: str, progress: TrialProgress) -> Call:
        """Return what a call took, apart from what the worker does once for its program.

        Where programs are not known, as those of a search, every trial may have its own.
        """
        now, begun = time.monotonic(), (worker, program) in self._programs
        self._programs.add((worker, program))
        whole, self._at[worker] = now - self._at[worker], now
        once = progress.compile_seconds if begun else whole - progress.seconds
        once = once if program else 0.0
        return Call(program, progress.fresh, whole - once, once)

    def _left(self) -> str:
        """Return the time left, as it is shown."""
        now, known = time.monotonic(), {program for _, program in self._programs}
        waited = {each: now - at for each, at in self._first.items() if each not in known}
        left = {
            program: rounds - sum(self._done.get(program, {}).values())
            for program, rounds in self._rounds.items()
        }
        seconds = time_left(self._calls, left, workers=self._workers, waited=waited)
        return format_time(seconds or 0)


def describe(progress: TrialProgress) -> str:
    """Return the accuracy and the speed of the newest rounds, always as wide."""
    accuracy = progress.newest["accuracy_dense"]
    shown = "     –" if math.isnan(accuracy) else f"{accuracy:6.1%}"
    return f"accuracy {shown} {progress.fresh / progress.seconds:6.1f} rounds/s"


def fit(name: str, width: int) -> str:
    """Return a name that is shortened in the middle, as its end tells seeds apart.

    >>> fit("1/40 shrink_perturb, seed 9", 20), fit("dense", 20)
    ('1/40 shrink…, seed 9', 'dense')
    """
    return name if len(name) <= width else f"{name[: width - 9]}…{name[-8:]}"


def format_time(seconds: float) -> str:
    """Return a duration as minutes and seconds, with hours if there are any.

    >>> format_time(75), format_time(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
