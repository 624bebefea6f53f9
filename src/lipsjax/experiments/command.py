"""What the commands share: parsing, one-line errors, JAX's settings. No JAX at import."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from lipsjax.experiments.config import Execution
from lipsjax.experiments.study import describe_kind, nearest

T = TypeVar("T")

USAGE_ERROR = 2
INTERRUPTED = 130


def parse(kind: Callable[..., T], argv: Sequence[str], *, program: str, default: T) -> T:
    """Parse a command line into a dataclass.

    Args:
      kind: the dataclass; fields named "" by ``tyro.conf.arg`` give their own fields' names.
      argv: the arguments.
      program: how the command is called, for its help.
      default: what is not given is taken from here.

    Returns:
      The dataclass. ``--help`` prints and ends the process with status 0.

    Raises:
      ValueError: for an unknown option, or a value that it does not take.
    """
    kinds = _option_kinds(kind)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, unknown = typing.cast(Any, tyro.cli)(
                kind,
                prog=program,
                args=list(argv),
                default=default,
                return_unknown_args=True,
                config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(_bad_value(said.getvalue(), argv, kinds)) from None
    sys.stderr.write(said.getvalue())
    if unknown:
        what = "option" if unknown[0].startswith("-") else "argument"
        name = unknown[0].partition("=")[0]
        raise ValueError(
            f"unknown {what} {unknown[0]!r}{nearest(name, kinds)}; {program} --help has all"
        )
    return options


def _option_kinds(kind: Any, prefix: str = "--") -> dict[str, Any]:
    """Return the type of every option, by its name on the command line."""
    kinds: dict[str, Any] = {}
    for name, annotated in typing.get_type_hints(kind, include_extras=True).items():
        inner, *marks = typing.get_args(annotated) if _is_annotated(annotated) else (annotated,)
        option = prefix + name.replace("_", "-")
        if tyro.conf.Suppress in marks or tyro.conf.Positional in marks:
            continue
        if dataclasses.is_dataclass(inner):
            unnamed = any(getattr(mark, "name", None) == "" for mark in marks)
            kinds |= _option_kinds(inner, prefix if unnamed else f"{option}.")
        else:
            kinds[option] = inner
    return kinds


def _is_annotated(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Annotated


def _bad_value(box: str, argv: Sequence[str], kinds: dict[str, Any]) -> str:
    """Return in one line what tyro says in a box."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│| ") for line in plain.splitlines()[1:]]  # the first is the title
    # without a terminal of Unicode, a rule follows the title too
    below = itertools.dropwhile(lambda line: not line.strip("─-"), lines)
    said = " ".join(itertools.takewhile(lambda line: line.strip("─-"), below))
    found = re.match(r"Error parsing (--[\w.-]+): ", said)
    argv = [part for text in argv for part in _split(text)]
    if found is None or found[1] not in argv or found[1] not in kinds:
        return said
    words = describe_kind(kinds[found[1]])
    if words == "a table":
        return f"{found[1]}: {said[found.end() :]}"
    last = len(argv) - argv[::-1].index(found[1])  # of several, the last counts
    given = " ".join(itertools.takewhile(lambda text: not text.startswith("--"), argv[last:]))
    return f"{found[1]} must be {words}, not {given!r}"


def _split(text: str) -> list[str]:
    """Return an option and its value, of ``--option=value``; anything else as it is."""
    return text.split("=", 1) if text.startswith("--") else [text]


def guarded(main: Callable[[list[str]], None]) -> None:
    """Run a command; what the user can mend ends in one line and status 2, not a traceback."""
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr, flush=True)
        # without the interpreter's end, which crashes while XLA's threads still compute
        os._exit(INTERRUPTED)
    except BrokenPipeError:
        # a reader such as head has closed the pipe; the flush at exit must not fail once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except MemoryError as error:
        fail(f"not enough memory: {error}" if str(error) else "not enough memory")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{(error.strerror or str(error)).lower()}")
    except ValueError as error:
        fail(str(error))
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail(f"not enough memory on the device, a smaller --chunk needs less: {error}"[:300])


def fail(message: str) -> None:
    """Print one line and end with status 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR) from None


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
      ValueError: if JAX cannot start on the platform that ``JAX_PLATFORMS`` asks for, or the
        processes cannot find each other.
    """
    import jax

    processes = join_processes(execution)
    if execution.devices is not None or "JAX_NUM_CPU_DEVICES" not in os.environ:
        here = -(-execution.devices // processes) if execution.devices else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", here or 1)
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lipsjax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        jax.devices()
    except RuntimeError as error:
        raise ValueError(f"JAX cannot start: {error}") from None


def join_processes(execution: Execution) -> int:
    """Join the processes of this command, if there are several, and count them if that is known.

    Options come before the environment variables ``JAX_COORDINATOR_ADDRESS``,
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.

    Raises:
      ValueError: if what is given does not say who they are, or they cannot be reached.
    """
    coordinator = execution.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
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
    _initialize(f"{coordinator} cannot be reached", coordinator, count, index)
    return count


def _given(option: int | None, variable: str) -> int | None:
    if option is not None or variable not in os.environ:
        return option
    if not os.environ[variable].isdecimal():
        raise ValueError(f"{variable} must be a number, not {os.environ[variable]!r}")
    return int(os.environ[variable])


def _initialize(problem: str, *who: Any) -> None:
    import jax

    try:
        jax.distributed.initialize(*who)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{problem}: {error}") from None


def command_line(module: str, argv: Sequence[str]) -> str:
    """Return the command as a user would type it again."""
    import shlex

    return shlex.join(["python", "-m", f"lipsjax.experiments.{module}", *argv])
