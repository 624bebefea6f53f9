"""Processes that time one thing for every line that they are sent."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Child:
    """A process that prints one figure when it is ready, and one for every line it is sent."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ):
        self.process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> float:
        """Wait for the next figure.

        Raises:
            ChildProcessError: the process ended instead.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ChildProcessError(f"its process ended with status {self.process.wait()}")
        return float(line)

    def ask(self, line: str) -> float:
        """Send a line and return the figure that answers it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        """Close its input, which ends it, and wait."""
        self.process.communicate()
