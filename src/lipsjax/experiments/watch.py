"""What a person sees while runs go on."""

import math
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lipsjax.experiments import processes
from lipsjax.experiments.trial import Progress as TrialProgress

PLAIN_WIDTH = 100
"""Columns of a text that goes to a file or a pipe."""


def make_console() -> Console:
    """Return a console as wide as the terminal, or 100 columns; it prints in process 0 alone."""
    width = None if Console().is_terminal else PLAIN_WIDTH
    return Console(width=width, quiet=not processes.is_main())


class Watch:
    """A bar for the trial and one for all of them; plain lines where there is no terminal.

    Args:
      trials: how many there are.
      rounds: of all of them together.
    """

    def __init__(self, *, trials: int, rounds: int):
        self.console = make_console()
        self._trials, self._rounds = trials, rounds
        self._begun = 0  # trials
        self._before = 0  # rounds of the trials before this one
        self._of_trial = 0
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
        self._trial = self._progress.add_task("", figures="")
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

    def begin(self, name: str, rounds: int) -> None:
        """Begin a trial."""
        self._begun += 1
        self._before, self._of_trial = self._before + self._of_trial, rounds
        self._name = f"{self._begun}/{self._trials} {name}"
        self._progress.reset(self._trial, total=rounds, description=self._name, figures="compiling")
        self._progress.update(self._all, completed=self._before)

    def report(self, progress: TrialProgress) -> None:
        """Show how far the trial is."""
        self._fresh += progress.fresh
        done = self._before + progress.done
        figures, left = describe(progress), f"{self._left(done)} left"
        self._progress.update(self._all, completed=done, figures=left)
        self._progress.update(
            self._trial,
            completed=progress.done,
            figures=figures if self._trials > 1 else f"{figures}  {left}",
        )
        if not self.console.is_terminal:
            elapsed = format_time(time.monotonic() - self._start)
            rounds = f"{progress.done}/{progress.rounds}"
            self.say(f"{elapsed:>7}  {self._name}  {rounds}  {figures}  {left}")

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
