"""What a person sees while runs go on."""

import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from lipsjax.runs import processes
from lipsjax.runs.trial import Progress as TrialProgress

PLAIN_WIDTH = 100
"""Columns of a text that goes to a file or a pipe."""


def make_console() -> Console:
    """Return a console as wide as the terminal, or 100 columns; it prints in process 0 alone."""
    width = None if Console().is_terminal else PLAIN_WIDTH
    return Console(width=width, quiet=not processes.is_main())


class Watch:
    """A bar for each trial that goes on and one for all; plain lines where there is no terminal.

    Args:
      trials: how many there are.
      rounds: of all of them together.
    """

    def __init__(self, *, trials: int, rounds: int):
        self.console = make_console()
        self._trials, self._rounds = trials, rounds
        self._done: dict[str, int] = {}  # trial -> rounds, those of finished ones too
        self._fresh = 0  # rounds trained here
        self._said: set[str] = set()
        self._start = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
        )
        self._bars: dict[int, TaskID] = {}
        self._all = self._progress.add_task(
            "all rounds", total=rounds, figures="", visible=trials > 1
        )

    def __enter__(self) -> "Watch":
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self._progress.stop()

    def begin(self, name: str, rounds: int, *, worker: int = 0) -> Callable[[TrialProgress], None]:
        """Begin a trial.

        Args:
          name: of the trial; of one that was begun before, it goes on.
          rounds: of the trial.
          worker: who runs it; it takes the place of the last one that this worker ran.

        Returns:
          What shows how far the trial is.
        """
        numbers = {trial: i for i, trial in enumerate(self._done, start=1)}
        label = f"{numbers.get(name, len(numbers) + 1)}/{self._trials} {name}"
        self._done.setdefault(name, 0)
        if worker not in self._bars:
            self._bars[worker] = self._progress.add_task("", figures="")
        bar = self._bars[worker]
        self._progress.reset(bar, total=rounds, description=label, figures="compiling")

        def report(progress: TrialProgress) -> None:
            self._fresh += progress.fresh
            self._done[name] = progress.done
            done = sum(self._done.values())
            figures, left = describe(progress), f"{self._left(done)} left"
            self._progress.update(self._all, completed=done, figures=left)
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

    def say(self, line: str) -> None:
        """Print a line that stays, once: trials have much in common."""
        if line in self._said:
            return
        self._said.add(line)
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _left(self, done: int) -> str:
        """Estimate the time left from all rounds trained here, with what compiling took."""
        seconds = time.monotonic() - self._start
        return format_time(seconds / self._fresh * (self._rounds - done))


def describe(progress: TrialProgress) -> str:
    """Return the accuracy and the speed of the newest rounds, always as wide."""
    accuracy = progress.newest["accuracy_dense"]
    shown = "     –" if math.isnan(accuracy) else f"{accuracy:6.1%}"
    return f"accuracy {shown} {progress.fresh / progress.seconds:6.1f} rounds/s"


def format_time(seconds: float) -> str:
    """Return a duration as minutes and seconds, with hours if there are any.

    >>> format_time(75), format_time(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
