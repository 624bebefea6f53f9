"""How a command that was asked to stop ends: in one line. Imports nothing that takes time."""

import contextlib
import os
import pathlib
import re
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

SHOW_CURSOR = "\x1b[?25h"

_stopping = threading.Lock()


def stop(number: int) -> NoReturn:
    """Say that the command was stopped, and end the process as shells and schedulers expect it."""
    _stopping.acquire()  # never let go: the line is printed once
    with contextlib.suppress(OSError, ValueError):  # of a terminal that is gone
        if sys.stdout.isatty():
            print(SHOW_CURSOR, end="", flush=True)
        print("stopped; the same command goes on where it was", file=sys.stderr, flush=True)
    if (lifeline := sys.modules.get("lipsjax.runs.lifeline")) is not None:
        lifeline.stop()
    # without the interpreter's end, which crashes while XLA's threads still compute
    os._exit(128 + number)


def _is_command(argv: Sequence[str], original: Sequence[str]) -> bool:
    """Whether this process is the script or a module of the package, and none of its workers.

    >>> module = "lipsjax.experiments.run"
    >>> _is_command(["-m", "--lips"], ["python", "-um", module, "--lips"])
    True
    >>> _is_command(["-m"], ["python", f"-m{module}"])
    True
    >>> _is_command(["-m"], ["python", "-m", "pytest"]), _is_command(["try-lipsjax"], [])
    (False, False)
    """
    if "--multiprocessing-fork" in original or not argv:
        return False
    if argv[0] == "-m":  # as Python calls a module that it is about to run, before its arguments
        return bool(re.fullmatch(r"(-\w*m)?lipsjax(\..*)?", original[-len(argv)]))
    return pathlib.PurePath(argv[0]).stem == "lipsjax"


def _stop_while_imported() -> None:
    """Let Ctrl-C end a command in a line before it has begun, unless it is ignored."""
    if not _is_command(sys.argv, sys.orig_argv):
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)


def stop_as_python_does() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, where it ends a command in a line."""
    if signal.getsignal(signal.SIGINT) is _on_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _on_interrupt(number: int, _: FrameType | None) -> NoReturn:
    stop(number)


_stop_while_imported()
