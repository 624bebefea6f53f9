"""What the commands share: parsing, one-line errors, JAX's settings. No JAX at import."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from lipsjax.experiments.config import Execution

T = TypeVar("T")

USAGE_ERROR = 2


def parse(kind: Callable[..., T], argv: Sequence[str], *, program: str, default: T) -> T:
    """Parse a command line into a dataclass; wrong usage ends the process with status 2."""
    return tyro.cli(
        kind,
        prog=program,
        args=list(argv),
        default=default,
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )


def guarded(main: Callable[[list[str]], None]) -> None:
    """Run a command; what the user can mend ends in one line and status 2, not a traceback."""
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        fail("stopped; the same command goes on where it was")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{(error.strerror or str(error)).lower()}")
    except ValueError as error:
        fail(str(error))


def fail(message: str) -> None:
    """Print one line and end with status 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR)


def start_jax(execution: Execution) -> None:
    """Settle what must be settled before JAX starts: devices of the host, the compile cache."""
    import jax

    cores = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", execution.devices or cores)
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lipsjax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def command_line(module: str, argv: Sequence[str]) -> str:
    """Return the command as a user would type it again."""
    import shlex

    return shlex.join(["python", "-m", f"lipsjax.experiments.{module}", *argv])
