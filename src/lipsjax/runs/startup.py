"""What must be settled before JAX starts: processes, devices, the compilation cache."""

import contextlib
import math
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lipsjax.runs.config import Execution

MEET = 60
"""Seconds that processes of one command wait for each other."""
TOLD_AFTER = 5
LEAST_ADDRESSES = 3 * 2**30
"""Bytes of address space with which a command comes to its end on two cores.

Measured with the default run: 2.7 GiB are enough; at 2.5 the C library ends the process in a line
of its own, at 2.1 a library cannot be loaded, and at 1.5 nothing is said.
"""


def check_devices(devices: int | None, clients: int) -> None:
    """Refuse a number of devices of which some would have nothing to do.

    Raises:
      ValueError: if it is not in 1..clients.
    """
    if devices is not None and not 1 <= devices <= max(clients, 1):
        raise ValueError(f"devices must be in 1..{clients}, the clients of a round, not {devices}")


def start_jax(execution: Execution) -> None:
    """Settle what must be settled before JAX starts: processes, the host's devices, the cache.

    Raises:
      ValueError: if JAX cannot start on the platform that ``JAX_PLATFORMS`` asks for, the processes
        cannot find each other, or the system allows less memory than JAX needs.
    """
    check_addresses(allowed_addresses())
    import jax

    processes = join_processes(execution)
    if execution.devices is not None or "JAX_NUM_CPU_DEVICES" not in os.environ:
        here = -(-execution.devices // processes) if execution.devices else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", here or 1)
    _settle_cache()
    try:
        jax.devices()
    except RuntimeError as error:
        raise ValueError(f"JAX cannot start: {error}") from None
    if jax.process_count() > 1:
        _tie_processes(_coordinator(execution))


def _tie_processes(coordinator: str | None) -> None:
    """End with the other processes, should one end before its time."""
    import jax

    from lipsjax.runs import lifeline
    from lipsjax.runs.processes import agree

    known = coordinator or "auto"
    host = known.rpartition(":")[0] if known != "auto" else agree(socket.gethostname)
    lifeline.tie(host, jax.process_index(), jax.process_count(), agree)


def _coordinator(execution: Execution) -> str | None:
    """Return where process 0 is met, if it is said."""
    return execution.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")


def _settle_cache() -> None:
    """Keep compiled programs, and say once where that cannot be; JAX says it of every program."""
    import jax

    cache = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if cache is None and (found := cache_dir()):
        cache = str(found)
        jax.config.update("jax_compilation_cache_dir", cache)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if not cache or "://" in cache:
        return
    if not is_writable(Path(cache)) and multiprocessing.parent_process() is None:
        note = "cannot be written: programs that it lacks are compiled anew each time"
        print(f"note: the cache {cache} {note}", file=sys.stderr)


def is_writable(folder: Path) -> bool:
    """Tell whether files can be made in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def allowed_addresses() -> float:
    """Return the bytes that this process may address, by ``ulimit -v``; infinite without limit."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return math.inf if limit == resource.RLIM_INFINITY else float(limit)


def check_addresses(allowed: float) -> None:
    """Refuse a limit under which JAX would crash without a word.

    Raises:
      ValueError: naming the limit, and what is needed at least.
    """
    if allowed < LEAST_ADDRESSES:
        raise ValueError(
            f"not enough memory: ulimit -v allows {allowed / 2**30:.1f} GiB, and JAX needs at "
            f"least {LEAST_ADDRESSES / 2**30:.0f} GiB of addresses, of which it fills few"
        )


def cache_dir() -> Path | None:
    """Return where compiled programs are kept; None for a user without a home, as in containers."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "lipsjax" / "xla"
    try:
        return Path.home() / ".cache" / "lipsjax" / "xla"
    except RuntimeError:
        return None


def join_processes(execution: Execution) -> int:
    """Join the processes of this command, if there are several, and count them if that is known.

    Options come before the environment variables ``JAX_COORDINATOR_ADDRESS``,
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.

    Raises:
      ValueError: if what is given does not say who they are, or they cannot be reached.
    """
    coordinator = _coordinator(execution)
    if coordinator == "auto":
        _initialize("no SLURM, Open MPI or Cloud TPU pod is found here, for --coordinator auto")
        return 1
    count = _given(execution.processes, "JAX_NUM_PROCESSES")
    index = _given(execution.process, "JAX_PROCESS_ID")
    if coordinator is None:
        if execution.processes is None and execution.process is None:
            return 1
        raise ValueError("--processes and --process need --coordinator HOST:PORT, of process 0")
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(f"coordinator must be HOST:PORT or auto, not {coordinator!r}")
    if count is None or index is None:
        raise ValueError("--coordinator HOST:PORT needs --processes and --process")
    if count < 1:
        raise ValueError(f"processes must be at least 1, not {count}")
    if not 0 <= index < count:
        raise ValueError(f"process must be in 0..{count - 1}, not {index}")
    _check_address(coordinator, index)
    _initialize(f"{coordinator} cannot be reached", coordinator, count, index)
    return count


def _given(option: int | None, variable: str) -> int | None:
    if option is not None or variable not in os.environ:
        return option
    if not os.environ[variable].isdecimal():
        raise ValueError(f"{variable} must be a number, not {os.environ[variable]!r}")
    return int(os.environ[variable])


def _check_address(coordinator: str, index: int) -> None:
    """Refuse an address at which processes cannot meet.

    Raises:
      ValueError: for a host that nobody knows, or a port that cannot be, or is taken.
    """
    host, _, port = coordinator.rpartition(":")
    if not 0 < int(port) < 2**16:
        raise ValueError(f"the port of {coordinator} must be in 1..{2**16 - 1}")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError):
        raise ValueError(f"{coordinator} cannot be reached: there is no host {host}") from None
    if index == 0:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("", int(port)))
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise ValueError(f"{coordinator} cannot be listened at: {why}") from None


@contextlib.contextmanager
def _in_time(where: str) -> Iterator[None]:
    """Say what is waited for, and end the process where it does not come.

    JAX itself waits for five minutes, and then crashes.
    """
    met = threading.Event()

    def watch() -> None:
        if met.wait(TOLD_AFTER):
            return
        print(f"waits up to {MEET} s for all processes at {where}", file=sys.stderr, flush=True)
        if not met.wait(MEET - TOLD_AFTER):
            problem = f"{where} cannot be reached, or not all processes came there"
            print(f"error: {problem} within {MEET} s", file=sys.stderr, flush=True)
            os._exit(2)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        met.set()


def _initialize(problem: str, *who: Any) -> None:
    import jax

    # JAX takes SIGTERM for itself, to save states before a machine is taken away
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _in_time(str(who[0])) if who else contextlib.nullcontext():
            jax.distributed.initialize(*who)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{problem}: {error}") from None
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
