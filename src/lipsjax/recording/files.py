"""Files: written whole or not at all, JSON and its lines, locks, and what damaged ones say.

Imports no JAX.
"""

import functools
import glob
import hashlib
import itertools
import json
import math
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np


class RecordingError(ValueError):
    """A directory that does not hold what it should; one line that says what."""


class BusyError(RecordingError):
    """Another process writes there."""


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that is there whole or not at all: written aside, then renamed.

    What is written aside is named by this process and machine, as others may write the same file.

    Raises:
      OSError: naming the file, if it cannot be written; the one before is then left alone.
    """
    temporary = path.with_name(f".{path.name}.{machine()}-{os.getpid()}.tmp")
    try:
        with naming(path, also=temporary):
            _delete_left(path)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _delete_left(path: Path) -> None:
    """Delete what processes of this machine wrote aside for this file that were killed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        whose, _, number = left.name.split(".")[-2].rpartition("-")
        if whose in ("", machine()) and not (number.isdecimal() and is_alive(int(number))):
            left.unlink(missing_ok=True)


@functools.cache
def machine() -> str:
    """Return what tells processes of this machine from those of others that see the same files.

    By its name alone two containers, or two machines that were never named, would be taken for one;
    it is of this boot, as numbers of processes are, and of their namespace.
    """
    known = [platform.node()]
    with suppress(OSError):  # as where there is no /proc
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        known.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:8]


def is_alive(process: int) -> bool:
    """Tell whether there is a process of this number; where nobody can tell, there is."""
    if os.name != "posix":
        return True  # a signal of 0 ends it there
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN becomes null."""
    write_atomically(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows as JSON lines and see them to the disk; NaN becomes null."""
    with naming(path), path.open("a", newline="\n") as file:
        file.writelines(json.dumps(finite(row), allow_nan=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def cut(path: Path, is_wanted: Callable[[dict[str, Any], int], bool]) -> int:
    """Cut a file of JSON lines at the first that is not wanted, or not whole; count the rest.

    The rest is in a new file, so that a process which still has the old one open writes to nothing.
    """
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    kept = list(itertools.takewhile(lambda each: _is_whole(*each, is_wanted), enumerate(lines)))
    with whole_file(path) as file:
        file.writelines(line for _, line in kept)
    return len(kept)


def _is_whole(index: int, line: bytes, is_wanted: Callable[[dict[str, Any], int], bool]) -> bool:
    try:
        return line.endswith(b"\n") and is_wanted(json.loads(line), index)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
      RecordingError: if it cannot be read.
    """
    with _parsing(path):
        return json.loads(path.read_text())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines.

    Raises:
      RecordingError: if they cannot be read.
    """
    with _parsing(path):
        return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Turn what reading JSON from a file leads to into one line that names the file."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise RecordingError(f"{path} cannot be read: not a file")
    try:
        yield
    except RecursionError:
        raise RecordingError(f"{path} cannot be read: nested too deeply") from None
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path} cannot be read: {error}") from None


@contextmanager
def lock(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder for this process alone.

    The system lets go of the lock when its process ends, however that comes, so that a ``.lock``
    which a killed process left does not block.

    Args:
      folder: that is held.
      wait: seconds that another process may hold it before this one gives up.

    Raises:
      BusyError: if another process holds it.
      RecordingError: if it cannot be locked at all.
    """
    import filelock  # not at the top: 50 ms, which nobody else has to wait for

    held = filelock.FileLock(folder / ".lock", timeout=wait)
    try:
        held.acquire()
    except filelock.Timeout:
        raise busy(folder) from None
    except (OSError, NotImplementedError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise RecordingError(
            f"{folder / '.lock'} cannot be locked: {reason}; choose an --out on another disk"
        ) from None
    try:
        yield
    finally:
        held.release()


def busy(folder: Path) -> BusyError:
    """Return the error of a folder that another process writes to."""
    return BusyError(f"{folder} is being written by another process")


def delete_left(run_dir: Path) -> None:
    """Delete what processes that were killed while they made a run left beside it."""
    for left in run_dir.parent.glob(f".{run_dir.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what damaged content leads to into one line that names the file."""
    try:
        yield
    except RecordingError:
        raise
    except KeyError as error:
        raise RecordingError(f"{path} is damaged: it lacks {error}") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise RecordingError(f"{path} is damaged: {error}") from None


@contextmanager
def naming(path: Path, *, also: Path | None = None) -> Iterator[None]:
    """Name the file in errors of the system that do not, as of a full disk, or name another."""
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(also)):
            error.filename, error.filename2 = str(path), None
        raise


def canonical(value: Any) -> str:
    """Return JSON that is the same for equal values, to be compared or digested."""
    return json.dumps(finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def finite(value: Any) -> Any:
    """Return a value as JSON has it: tuples as lists, what is not finite as null."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
