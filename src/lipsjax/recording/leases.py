"""Leases: a run that several hosts may do is held by one of them, and taken over if that one dies.

::

    OUT/runs/.HASH/TOKEN/HASH/        the run while it is held; TOKEN is of this one hold alone
                         TOKEN.beat   who holds it, and since when; changes every BEAT seconds
    OUT/runs/HASH/                    the run before and after

Every step is one rename, which file systems that hosts share do at once or not at all:

- *Claim*: a folder with a TOKEN in it becomes ``.HASH``, which fails where there is one.
- *Take over*: TOKEN becomes another TOKEN, which fails for all but one, and leaves the holder
  before without a path: whatever it writes next fails, however late it wakes. What it has open
  then, as a file that a row is appended to, is replaced when the run goes on (``files.cut``).
- *Give back*: the run becomes ``OUT/runs/HASH``; who was taken over has nothing to move there.

No clock of one host is compared with that of another: who waits counts the seconds, by its own
clock, in which the beat does not change. Locks of the kernel (``files.lock``) end with their
process on one machine, and not surely across machines; the SoftFileLease of filelock, which counts
as this module does, is not taken over on NFS and SMB, and does not keep the holder before from
writing. Imports no JAX.
"""

import contextlib
import os
import platform
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import NamedTuple

from lipsjax.recording import files, runs
from lipsjax.recording.files import BusyError, RecordingError

BEAT = 10.0
"""Seconds between changes of the beat of a lease that is held."""
GONE = 180.0
"""Seconds without a change after which a holder is taken for dead.

Longer than a client of NFS may show what is outdated (60 by default), and than most pauses of a
living host. A host that pauses longer loses the run it holds, and no more: it cannot write to it.
"""


class Beat(NamedTuple):
    """What is seen of a lease."""

    token: str
    content: str


class Holder(NamedTuple):
    """Who holds a run, for people to read; times are UTC, and empty where they are not known."""

    who: str
    since: str  # by its own clock
    heard: str  # the last beat, by the clock of the file system


class Lease:
    """A run that this process holds.

    Args:
      run_dir: where the run belongs, OUT/runs/HASH.
      token: of this hold.
      since: when it began.
    """

    def __init__(self, run_dir: Path, token: str, since: str):
        self.run_dir = run_dir
        self._home = _folder(run_dir) / token
        self.work = self._home / run_dir.name
        """Where the run is recorded while it is held."""
        self._token, self._since = token, since
        self._lost = False
        self._given_back = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        beats = 0
        while not self._given_back.wait(BEAT):
            beats += 1
            try:
                _write_beat(self._home, self._token, beats, self._since)
            except FileNotFoundError:
                self._lost = True
                return
            except OSError:
                continue  # as of a full disk, or a network that fails: the next may reach it

    def is_lost(self) -> bool:
        """Tell whether another process has taken the run over."""
        self._lost = self._lost or not self._home.exists()
        return self._lost

    def bring(self) -> None:
        """Move what was recorded of the run before to where it goes on.

        Raises:
          BusyError: if a process writes to it that holds no lease, or the lease is lost.
        """
        if self.work.exists() or not self.run_dir.exists():
            return
        if _is_locked(self.run_dir):
            raise files.busy(self.run_dir)
        try:
            self.run_dir.rename(self.work)
        except FileNotFoundError:
            raise files.busy(self.run_dir) from None

    def give_back(self) -> None:
        """Move the run to where it belongs, and let go of it; nothing is left of the lease.

        Raises:
          BusyError: if the lease is lost, or the run has been made there by a process without one.
        """
        self._given_back.set()
        self._thread.join()
        if self.work.exists():
            try:
                self.work.rename(self.run_dir)
            except OSError:
                if not (self.is_lost() or self.run_dir.exists()):
                    raise
                raise files.busy(self.run_dir) from None
        elif self.is_lost():
            raise files.busy(self.run_dir)
        shutil.rmtree(self._home, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process holds it by now
            _folder(self.run_dir).rmdir()


def claim(run_dir: Path) -> Lease:
    """Hold a run that nobody holds.

    Raises:
      BusyError: if another process holds it.
      OSError: if nothing can be written there.

    Example:
      >>> import tempfile
      >>> run_dir = Path(tempfile.mkdtemp()) / "0f"
      >>> lease = claim(run_dir)
      >>> lease.work.mkdir()
      >>> look(run_dir) is None, run_dir.exists()
      (False, False)
      >>> lease.give_back()
      >>> look(run_dir) is None, run_dir.exists()
      (True, True)
    """
    folder, token, since = _folder(run_dir), secrets.token_hex(8), _utc(time.time())
    aside = folder.with_name(f"{folder.name}.{token}.tmp")
    home = aside / token
    home.mkdir(parents=True)
    try:
        _write_beat(home, token, 0, since)
        aside.rename(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if (folder / token).exists():  # the rename was done, and its answer was lost on the way
            return Lease(run_dir, token, since)
        if look(run_dir) is None and not isinstance(error, FileNotFoundError):
            if folder.exists() and not folder.is_dir():
                raise RecordingError(f"{folder} is no folder, as a lease is; delete it") from None
            if not folder.exists():
                raise
        raise files.busy(run_dir) from None
    return Lease(run_dir, token, since)


def take_over(run_dir: Path, seen: Beat) -> Lease:
    """Hold a run whose holder has died; a holder that has not finds that it lost it.

    Args:
      run_dir: where the run belongs.
      seen: of the holder before.

    Raises:
      BusyError: if another process was faster, or the holder has just given it back.
    """
    folder, token, since = _folder(run_dir), secrets.token_hex(8), _utc(time.time())
    try:
        # before the rename, so that a third process never sees the beat of the holder before
        _write_beat(folder / seen.token, token, 0, since)
        (folder / seen.token).rename(folder / token)
    except FileNotFoundError:
        raise files.busy(run_dir) from None
    return Lease(run_dir, token, since)


def look(run_dir: Path) -> Beat | None:
    """Return what is seen of a run's lease; None if nobody holds the run."""
    try:
        token = min(path.name for path in _folder(run_dir).iterdir())
    except (ValueError, FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Beat(token, (_folder(run_dir) / token / f"{token}.beat").read_text(errors="replace"))
    except OSError:  # taken over, or given back, in between
        return Beat(token, "")


def is_shared(run_dir: Path) -> bool:
    """Tell whether a run is held by lease."""
    return look(run_dir) is not None


def holder(seen: Beat) -> str:
    """Return who holds a run, in words."""
    host, _, process, _ = _read_beat(seen)
    return f"{host or 'a host that does not say its name'} (process {process})"


def held_by(run_dir: Path) -> Holder | None:
    """Return who holds a run; None if nobody does, or a process of this machine that has ended.

    Whether one of another machine has died cannot be seen at once: see :class:`Patience`.
    """
    seen = look(run_dir)
    if seen is None or _has_ended(seen):
        return None
    heard = ""
    with contextlib.suppress(OSError):  # taken over, or given back, in between
        heard = _utc((_folder(run_dir) / seen.token / f"{seen.token}.beat").stat().st_mtime)
    *_, since = _read_beat(seen)
    return Holder(holder(seen), since, heard)


def check_free(run_dir: Path) -> None:
    """Refuse a run that is held by lease.

    Raises:
      BusyError: naming the holder, and what to do.
    """
    seen = look(run_dir)
    if seen is not None:
        raise BusyError(
            f"{run_dir} is shared, and held by {holder(seen)}: lipsjax sweep --share goes on with "
            f"it, after {GONE:.0f} s if that one has died"
        )


class Patience:
    """Tells which holders have died, as seen from here.

    Seconds count in which a beat does not change; of those between two looks at it no more than
    twice BEAT, so that a process which has itself been paused, or waited for its files, does not
    take the others for dead.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Beat, float, float]] = {}  # beat, quiet seconds, when

    def is_gone(self, run_dir: Path, seen: Beat) -> bool:
        """Tell whether a run's holder has died; to be asked again and again.

        One of this machine has died if its process has; else GONE seconds tell.
        """
        if _has_ended(seen):
            return True
        now = time.monotonic()
        before, quiet, then = self._seen.get(run_dir, (seen, 0.0, now))
        quiet = quiet + min(now - then, 2 * BEAT) if seen == before else 0.0
        self._seen[run_dir] = seen, quiet, now
        return quiet > GONE


def tidy(run_dir: Path) -> None:
    """Delete what is left of leases of a finished run, as of a host that died as it let go."""
    if not runs.is_finished(run_dir):
        return
    for left in (_folder(run_dir), *run_dir.parent.glob(f".{run_dir.name}.*.tmp")):
        shutil.rmtree(left, ignore_errors=True)


def _folder(run_dir: Path) -> Path:
    return run_dir.with_name(f".{run_dir.name}")


def _write_beat(home: Path, token: str, beats: int, since: str) -> None:
    lines = [platform.node(), files.machine(), str(os.getpid()), str(beats), since]
    files.write_atomically(home / f"{token}.beat", "\n".join(lines) + "\n")


def _read_beat(seen: Beat) -> tuple[str, str, str, str]:
    """Return host, machine, process and since when; empty texts for what cannot be read."""
    host, machine, process, _, since, *_ = [*seen.content.splitlines(), *[""] * 5]
    return host, machine, process, since


def _has_ended(seen: Beat) -> bool:
    """Tell whether a holder is of this machine, and its process is no more."""
    _, machine, process, _ = _read_beat(seen)
    mine = machine == files.machine() and process.isdecimal()
    return mine and not files.is_alive(int(process))


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _is_locked(folder: Path) -> bool:
    """Tell whether a process of this machine holds a folder without a lease."""
    try:
        with files.lock(folder):
            return False
    except BusyError:
        return True
    except RecordingError:  # where nothing can be locked
        return False
