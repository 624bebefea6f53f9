"""The trials of a sweep that several hosts run together, as one of them knows them.

All run the same command on one OUT that they see. A trial is run by who holds its lease
(:mod:`lipsjax.recording.leases`); who finds none that is free waits for those of the others, and
takes over those whose holder has died.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lipsjax import recording
from lipsjax.recording import leases
from lipsjax.recording.leases import Lease, Patience
from lipsjax.runs.study import Study, program_key
from lipsjax.runs.workers import Ended, Given, Task, choose

POLL = 1.0
"""Seconds between two looks at what others hold."""


def check_share(study: Study, processes: int) -> None:
    """Refuse what several hosts cannot do together.

    Raises:
      ValueError: naming it, and what to do.
    """
    execution = study.execution
    if study.until is not None:
        raise ValueError(
            "--share and --until decided: no host could tell when a look is due, as others may run "
            "beyond it; leave one of them out"
        )
    if processes > 1:
        raise ValueError(
            f"--share is of hosts that run whole trials, and these {processes} processes run one "
            "together: leave --share or --coordinator out"
        )
    if study.attack is not None:
        raise ValueError(
            "--share runs trials and attacks none: take [attack] out of the study, and run it with "
            "[attack] and without --share when all trials are finished"
        )
    if execution.trackers:
        raise ValueError(
            "--share cannot keep two hosts from writing to one tracker: leave --trackers out"
        )


class SharedQueue:
    """Trials that are left, of which other hosts take some.

    Args:
      tasks: those that are not finished.
      folder_of: directory of a trial's run.
      say: called with lines that are worth telling.
      elsewhere: called with a trial that another host has run to its end.
    """

    poll = POLL

    def __init__(
        self,
        tasks: Sequence[Task],
        folder_of: Callable[[Task], Path],
        *,
        say: Callable[[str], None],
        elsewhere: Callable[[Task], None],
    ):
        self._free, self._theirs = list(tasks), list[Task]()
        self._folder_of, self._say, self._elsewhere = folder_of, say, elsewhere
        self._held: dict[int, Lease] = {}
        self._patience, self._looked = Patience(), 0.0
        self.diverged: list[Ended] = []
        """Trials that diverged on other hosts."""

    def is_empty(self) -> bool:
        """Tell whether all trials have ended, here or elsewhere, or are held here."""
        return not (self._free or self._theirs)

    def take(self, mine: str | None, others: Iterable[str | None] = ()) -> Given | None:
        """Hold a trial and return it; None if other hosts hold all that are left.

        Args:
          mine: program that the one who asks has compiled last.
          others: programs of those beside it.
        """
        self._look_at_theirs()
        while self._free:
            theirs = {program_key(task.config) for task in self._theirs}
            task = choose(self._free, mine, theirs.union(others))
            self._free.remove(task)
            # one whose worker was killed is held still
            lease = self._held.get(task.number) or self._hold(task)
            if lease is not None:
                self._held[task.number] = lease
                return Given(task, lease.work)
        if self._theirs:
            self._say(self._waiting())
        return None

    def each(self) -> Iterator[Given]:
        """Yield one trial after the other; whoever asks for the next has ended the one before."""
        mine = None
        while not self.is_empty():
            if (given := self.take(mine)) is None:
                time.sleep(self.poll)
                continue
            mine = program_key(given.task.config)
            yield given

    def again(self, task: Task) -> None:
        """Put a trial back whose worker died; this host goes on holding it."""
        self._free.insert(0, task)

    def end(self, task: Task) -> bool:
        """Let go of a trial that ended here; tell whether it was held until then.

        One that was taken over meanwhile is waited for, as another host runs it.
        """
        try:
            self._held.pop(task.number).give_back()
        except recording.BusyError:
            gone = f"this host was not heard of for {leases.GONE:.0f} s"
            self._say(f"{task.name} goes on elsewhere, as {gone}: what was done here is left")
            self._theirs.append(task)
            return False
        return True

    def fail(self, task: Task, error: Exception) -> Exception | None:
        """Let go of a trial that failed; return why, None if it was taken over meanwhile."""
        lease = self._held[task.number]
        if not self.end(task):
            return None
        told = str(error).replace(str(lease.work), str(lease.run_dir))
        return recording.RecordingError(told) if isinstance(error, ValueError) else error

    def close(self) -> None:
        """Let go of all that is held, so that others need not wait."""
        for lease in self._held.values():
            _let_go(lease)
        self._held.clear()

    def _hold(self, task: Task) -> Lease | None:
        """Hold a trial; None, and it is noted why, if it has ended or another host holds it."""
        if self._has_ended(task):
            return None
        lease = None
        try:
            lease = self._claim(task)
            if lease is not None:
                if self._has_ended(task):  # a moment before
                    _let_go(lease)
                    return None
                lease.bring()
                return lease
        except recording.BusyError:
            if lease is not None:
                _let_go(lease)
        self._theirs.append(task)
        return None

    def _claim(self, task: Task) -> Lease | None:
        run_dir = self._folder_of(task)
        seen = leases.look(run_dir)
        if seen is None:
            return leases.claim(run_dir)
        if not self._patience.is_gone(run_dir, seen):
            return None
        lease = leases.take_over(run_dir, seen)
        self._say(f"{task.name} is taken over from {leases.holder(seen)}, which has died")
        return lease

    def _has_ended(self, task: Task) -> bool:
        """Tell whether a trial has been run to its end, and note it."""
        run_dir = self._folder_of(task)
        if recording.is_finished(run_dir):
            leases.tidy(run_dir)
        elif (reason := recording.diverged(run_dir)) is not None:
            told = f"{reason}; delete {run_dir} to try again"
            self.diverged.append(Ended(task, told))
            self._say(f"stopped {task.name}: {told}")
        else:
            return False
        self._elsewhere(task)
        return True

    def _look_at_theirs(self) -> None:
        """Drop trials that others have ended, and free those that nobody holds any more."""
        if time.monotonic() - self._looked < self.poll:
            return
        self._looked = time.monotonic()
        left = [task for task in self._theirs if not self._has_ended(task)]
        free = [task for task in left if self._is_free(task)]
        self._theirs = [task for task in left if task not in free]
        self._free += free

    def _is_free(self, task: Task) -> bool:
        run_dir = self._folder_of(task)
        seen = leases.look(run_dir)
        return seen is None or self._patience.is_gone(run_dir, seen)

    def _waiting(self) -> str:
        found = (leases.look(self._folder_of(task)) for task in self._theirs)
        who = ", ".join(sorted({leases.holder(seen) for seen in found if seen is not None}))
        count = len(self._theirs)
        what = "a trial" if count == 1 else f"{count} trials"
        return f"waits for {what} of {who or 'other hosts'}"


def _let_go(lease: Lease) -> None:
    """Give a lease back that may have been lost."""
    with contextlib.suppress(recording.BusyError):
        lease.give_back()
