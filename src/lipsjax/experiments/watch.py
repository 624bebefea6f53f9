"""What a person sees while runs go on."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lipsjax.experiments.trial import Progress as TrialProgress


class Watch:
    """A line for the study and one for the trial; plain lines where there is no terminal.

    Args:
      trials: how many there are.
    """

    def __init__(self, trials: int):
        self.console = Console()
        self._trials, self._done, self._began = trials, 0, time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]:<34}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self._study = self._progress.add_task("rounds of all trials", figures="", total=None)
        self._trial = self._progress.add_task("", figures="")

    def __enter__(self) -> "Watch":
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def plan(self, rounds: int) -> None:
        """Say how many rounds there are in all."""
        self._progress.update(self._study, total=rounds)

    def begin(self, name: str, rounds: int) -> None:
        """Begin a trial."""
        self._done += 1
        self._name = f"{self._done}/{self._trials} {name}"
        self._progress.reset(self._trial, total=rounds, description=self._name, figures="compiling")

    def skip(self, rounds: int) -> None:
        """Count the rounds of a trial that was found finished."""
        self._progress.advance(self._study, rounds)
        self._progress.update(self._trial, completed=rounds, figures="found finished")

    def report(self, progress: TrialProgress) -> None:
        """Show how far the trial is."""
        speed = progress.fresh / progress.seconds
        accuracy = progress.newest.get("accuracy_dense", float("nan"))
        figures = f"accuracy {accuracy:6.1%}  {speed:5.1f} rounds/s"
        self._progress.update(self._trial, completed=progress.done, figures=figures)
        self._progress.advance(self._study, progress.fresh)
        if not self.console.is_terminal:
            elapsed = time.monotonic() - self._began
            self.console.print(
                f"{elapsed:6.0f} s  {self._name}  round {progress.done}/{progress.rounds}  {figures}",
                highlight=False,
                soft_wrap=True,
            )

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line, highlight=False, soft_wrap=True)
