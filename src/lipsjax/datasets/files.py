"""Open what a user names, and say in one line why it cannot be opened."""

import stat
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
