"""Trials of a sweep side by side: processes that each train one trial after the other.

What a process knows of the others is in the run directories: a worker that is killed is replaced,
and its trial goes on from its last checkpoint; a sweep that is killed takes its workers with it,
and the same command goes on. Trials that differ in the seed alone share a compiled program, so a
worker is given the seeds of one arm and cell before it takes another.
"""

import collections
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lipsjax.runs import startup
from lipsjax.runs.config import Config, Execution, fit_devices
from lipsjax.runs.study import program_key

if TYPE_CHECKING:
    from lipsjax.runs.shared import SharedQueue

ATTEMPTS = 3
"""How often a trial is begun whose worker dies."""


class Task(NamedTuple):
    """A trial that is to be run."""

    number: int
    name: str
    config: Config


class Ended(NamedTuple):
    """How a trial ended that could not be run to its end."""

    task: Task
    error: str


class Given(NamedTuple):
    """A trial that is to be run now."""

    task: Task
    leased: Path | None = None  # where it is recorded, of one that this host holds by lease


class Queue:
    """Trials that are left, all of them for this command.

    Args:
      tasks: those that share a program next to each other.
    """

    poll: float | None = None
    """Seconds after which there may be news of other hosts: there are none."""

    def __init__(self, tasks: Sequence[Task]):
        self._free = list(tasks)
        self.diverged: list[Ended] = []

    def is_empty(self) -> bool:
        """Tell whether all trials have been begun."""
        return not self._free

    def take(self, mine: str | None, others: Iterable[str | None] = ()) -> Given | None:
        """Return the trial that a worker takes next; arguments as of :func:`choose`."""
        task = choose(self._free, mine, others)
        self._free.remove(task)
        return Given(task)

    def each(self) -> Iterator[Given]:
        """Yield one trial after the other."""
        while self._free:
            yield Given(self._free.pop(0))

    def again(self, task: Task) -> None:
        """Put a trial back whose worker died."""
        self._free.insert(0, task)

    def end(self, _task: Task) -> bool:
        """Note that a trial has ended."""
        return True

    def fail(self, _task: Task, error: Exception) -> Exception | None:
        """Return the error of a trial that failed."""
        return error

    def close(self) -> None:
        """End with trials left."""


def count_workers(execution: Execution, tasks: int, platform: str, *, processes: int = 1) -> int:
    """Return how many processes run trials side by side.

    Args:
      execution: what was asked for.
      tasks: trials that are to be run.
      platform: of JAX's devices.
      processes: that run this command together.

    Raises:
      ValueError: for a number that cannot be, or several on an accelerator or in each of several
        processes.

    Example:
      >>> count_workers(Execution(workers=4), 2, "cpu")
      2
    """
    asked = execution.workers
    alone = platform != "cpu" or processes > 1
    if asked == "auto":
        # who asks for devices has said how a trial is to use this machine
        asked = 1 if alone or execution.devices is not None else len(usable_cores())
    if asked < 1:
        raise ValueError(f"workers must be at least 1 or auto, not {asked}")
    if asked > 1 and alone:
        what = f"{processes} processes" if processes > 1 else f"the platform {platform}"
        raise ValueError(f"workers must be 1 or auto with {what}, not {asked}")
    return max(1, min(asked, tasks))


def usable_cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def run_tasks(
    trials: "Queue | SharedQueue",
    execution: Execution,
    *,
    workers: int,
    begin: Callable[[Task, int], Callable[[Any], None]],
    say: Callable[[str], None],
) -> list[Ended]:
    """Run trials to their ends in several processes.

    Args:
      trials: those that are left.
      execution: how to run each.
      workers: how many processes.
      begin: called with a trial and its worker's number; returns what is told its progress.
      say: called with lines that are worth telling.

    Returns:
      The trials that diverged.

    Raises:
      ValueError: as a trial does; or for one whose worker dies again and again.
    """
    ended, attempts = [], collections.Counter()
    cores = usable_cores()
    share = max(1, len(cores) // workers)
    crew: list[_Worker] = []
    try:
        for i in range(workers):
            own = [cores[(i * share + j) % len(cores)] for j in range(share)]
            crew.append(_Worker(i, execution, own))
        while not trials.is_empty() or any(worker.task for worker in crew):
            for worker in crew:
                if worker.task is None and not trials.is_empty():
                    others = {w.program for w in crew if w is not worker}
                    given = trials.take(worker.program, others)
                    if given is None:  # other hosts have the rest
                        break
                    attempts[given.task.number] += 1
                    worker.give(given, begin(given.task, worker.index))
            busy = {worker.connection: worker for worker in crew if worker.task}
            poll = None if trials.is_empty() else trials.poll
            if not busy and poll is not None:
                time.sleep(poll)
            for connection in multiprocessing.connection.wait(list(busy), poll) if busy else ():
                worker = busy[connection]  # pyright: ignore[reportArgumentType]
                task = worker.task
                assert task is not None
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, OSError):  # the latter if it was killed in the middle of a word
                    killer = worker.replace()
                    if killer is None:
                        raise ValueError(f"{task.name}: its worker failed, as said above") from None
                    if attempts[task.number] == ATTEMPTS:
                        raise ValueError(
                            f"{task.name}: its worker was killed {ATTEMPTS} times, at last by "
                            f"signal {killer}; fewer --workers need less memory"
                        ) from None
                    say(
                        f"the worker of {task.name} was killed by signal {killer}; another goes on "
                        f"(attempt {attempts[task.number] + 1} of {ATTEMPTS})"
                    )
                    trials.again(task)
                    continue
                if kind == "report":
                    worker.report(value)
                elif kind == "say":
                    say(value)
                else:
                    worker.task = None
                    if kind == "diverged":
                        ended.append(Ended(task, value))
                        say(f"stopped {task.name}: {value}")
                    if kind != "failed":
                        trials.end(task)
                    elif (error := trials.fail(task, value)) is not None:
                        raise error
    finally:
        for worker in crew:
            worker.stop()
        trials.close()
    return [*ended, *trials.diverged]


def choose(waiting: Sequence[Task], mine: str | None, others: Iterable[str | None]) -> Task:
    """Return the trial that a worker takes next, so that few programs are compiled twice.

    Args:
      waiting: trials that nobody runs.
      mine: program that the worker has compiled last.
      others: programs of the other workers.

    Returns:
      One of its own program; else the first of a program that no other worker is at; else the
      last, of the program that has most to do after all others have been begun.
    """
    for task in waiting:
        if program_key(task.config) == mine:
            return task
    for task in waiting:
        if program_key(task.config) not in others:
            return task
    return waiting[-1]


class _Worker:
    """A process that trains, and what it is at."""

    def __init__(self, index: int, execution: Execution, cores: list[int]):
        self.index = index
        self._execution, self._cores = execution, cores
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._execution, self._cores))
        with _held_back():
            self._process.start()
        theirs.close()  # so that the end of the worker is the end of the connection
        self.task: Task | None = None
        self.program: str | None = None
        self.report: Callable[[Any], None] = lambda progress: None

    def give(self, given: Given, report: Callable[[Any], None]) -> None:
        task = given.task
        self.task, self.program, self.report = task, program_key(task.config), report
        with contextlib.suppress(OSError):  # if it has died, its connection will say so
            self.connection.send((task.config, given.leased))

    def replace(self) -> int | None:
        """Begin anew; return the signal that ended the process, None if it ended by itself."""
        self._process.join()
        code = self._process.exitcode or 0
        self.stop()
        self._start()
        return -code if code < 0 else None

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Hold back what a terminal sends to all its processes at once.

    A process that is started meanwhile never gets it, not even while it imports: its parent does,
    and ends it.
    """
    if not hasattr(signal, "pthread_sigmask"):  # as on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, execution: Execution, cores: list[int]) -> None:
    """Run the trials that come through a connection, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    # as many devices as there are, so that a run goes on that was begun on all of them
    startup.start_jax(dataclasses.replace(execution, devices=None))
    execution = dataclasses.replace(execution, devices=execution.devices or len(cores))
    from lipsjax.runs.trial import DivergedError, run_trial

    while True:
        try:
            config, leased = connection.recv()
        except EOFError:
            return
        try:
            run_trial(
                config,
                fit_devices(execution, config),
                lambda progress: connection.send(("report", progress)),
                lambda line: connection.send(("say", line)),
                leased,
            )
        except DivergedError as error:
            connection.send(("diverged", str(error)))
        except (ValueError, OSError, MemoryError) as error:
            connection.send(("failed", error))
        else:
            connection.send(("done", None))


def _end_with_parent() -> None:
    """End this process when its parent has ended, however that came."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
