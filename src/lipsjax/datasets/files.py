"""Open what a user names, and say in one line why it cannot be opened."""

import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from lipsjax.datasets.base import MOST_PATH, DataError, show


def expanded(path: str | Path) -> Path:
    """Returns a path with its "~" resolved.

    >>> expanded("mine.npz").name
    'mine.npz'
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"{show(path, MOST_PATH)}: no such user, or none with a home") from None


def mode(path: Path) -> int | None:
    """Returns what kind of file a path names, as `stat` tells it; None if there is none.

    Raises:
      DataError: nobody may look there, or it cannot be a path at all.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{show(path, MOST_PATH)} cannot be read: {error.strerror}") from None
    except ValueError:  # holds a null, or what the system's encoding has no bytes for
        return None


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file: a pipe would wait for its writer, a device may never end.

    Raises:
      DataError: no such file, another kind of file, or one that may not be read.
    """
    kind, where = mode(path), show(path, MOST_PATH)
    if kind is None:
        raise DataError(f"{where}: no such file")
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe, a socket or a device"
        raise DataError(f"{where} is {what}; allowed is a regular file")
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}") from None


def memory() -> int:
    """Returns the bytes of memory of this machine; the largest number where that is not told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # on Windows, for one
        return sys.maxsize


def check_room(where: str, size: int) -> None:
    """Refuses what has no room in memory twice: as it is read, and as it is then used.

    A few thousand compressed bytes may stand for millions of times as many.

    >>> check_room("mine.npz", 10**18)
    Traceback (most recent call last):
    ...
    lipsjax.datasets.base.DataError: mine.npz has 1e+09 GB of values, more than fit into memory
    """
    if 2 * size > memory():
        raise DataError(f"{where} has {size / 1e9:.3g} GB of values, more than fit into memory")
