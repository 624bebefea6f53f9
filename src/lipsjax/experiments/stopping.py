"""How a command that was asked to stop ends: in one line. Imports nothing that takes time."""

import contextlib
import os
import signal
import sys
import threading
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
    # without the interpreter's end, which crashes while XLA's threads still compute
    os._exit(128 + number)


def _stop_while_imported() -> None:
    """Let Ctrl-C end a command in a line before it has begun, unless it is ignored."""
    # as Python calls a module that it is about to run, and as the script is called; not its workers
    is_command = sys.argv[:1] and sys.argv[0].endswith(("-m", "lipsjax", "lipsjax.exe"))
    if not is_command or "--multiprocessing-fork" in sys.orig_argv:
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: stop(number))


_stop_while_imported()
