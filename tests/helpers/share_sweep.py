"""A sweep of 24 trials that two hosts share, one of which is killed for good, or paused for long.

    python -m helpers.share_sweep

A host is a process group under a name of its own (``helpers/host.py``). The exit status is 1 if a
trial did not finish, was trained to its end twice, or was begun again though nobody had died, if
the table (but for what a clock measures) or a bit of any run's metrics differs from those of a
sweep on one host that shares nothing, or if anything is left of leases.
"""

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from helpers import killing, xla
from helpers.kill_sweep import SWEEP, TRIALS, done, finish, table
from helpers.options import last_of_each

HOST = Path(__file__).with_name("host.py")
FIRST = 6
"""Trials that are finished when a host is killed."""


class Host(NamedTuple):
    """A process group that runs the sweep, and what it prints."""

    process: subprocess.Popen
    said: Path

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def text(self) -> str:
        return self.said.read_text()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wrong = compare(Path(folder))
    print("\n".join(wrong) or "the same table, and no trial was run twice")
    sys.exit(bool(wrong))


def compare(folder: Path) -> list[str]:
    """Returns what is wrong with sweeps that two hosts shared."""
    whole, cache = folder / "whole", folder / "cache"
    finish(whole, cache)
    wrong = []
    for lose in (kill, pause):
        out, log = folder / lose.__name__, folder / f"{lose.__name__}.log"
        with both(out, log, cache) as (lost, other):
            again = lose(out, log, lost, other)
        told = [*ended_once(log, again), *same(whole, out), *left(out)]
        wrong += [f"{lose.__name__}: {each}" for each in told]
    return wrong


def kill(out: Path, log: Path, lost: Host, other: Host) -> int:
    """Kills a host for good; returns how many trials may have been begun again."""
    wait(lost, lambda: len(done(out)) >= FIRST and "ended" in of_host(log, "lost"))
    lost.signal(signal.SIGKILL)
    lost.process.wait()
    print(f"killed a host with {len(done(out))} of {TRIALS} trials finished")
    end_well(other)
    assert "is taken over from lost" in other.text(), other.text()
    return 2  # one of each worker


def pause(_: Path, log: Path, lost: Host, other: Host) -> int:
    """Pauses a host for longer than others wait; returns how many trials were begun again."""
    wait(lost, lambda: "begun" in of_host(log, "lost"))
    lost.signal(signal.SIGSTOP)
    end_well(other)
    lost.signal(signal.SIGCONT)
    end_well(lost)
    assert "is taken over from lost" in other.text(), other.text()
    assert "goes on elsewhere, as this host was not heard of" in lost.text(), lost.text()
    return 2


@contextlib.contextmanager
def both(out: Path, log: Path, cache: Path) -> Iterator[tuple[Host, Host]]:
    """Starts two hosts, and ends what is left of them."""
    hosts = [start(name, out, log, cache) for name in ("lost", "other")]
    try:
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            with contextlib.suppress(ProcessLookupError):
                host.signal(signal.SIGKILL)
            host.process.wait()


def start(name: str, out: Path, log: Path, cache: Path) -> Host:
    arguments = last_of_each((*SWEEP, "--share", "--out", str(out)))
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla.quick_flags(),
        **xla.cache_settings(cache),
        "HOST_NAME": name,
        "HOST_LOG": str(log),
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    said = log.with_suffix(f".{name}")
    with said.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(HOST), *arguments],
            env=inherited | settings,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Host(process, said)


def wait(host: Host, is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + killing.DEADLINE
    while not is_so():
        assert host.process.poll() is None, f"it ended before it was lost: {host.text()}"
        assert time.monotonic() < end, f"not seen in {killing.DEADLINE} s: {host.text()}"
        time.sleep(0.02)


def end_well(host: Host) -> None:
    assert host.process.wait(timeout=killing.DEADLINE) == 0, host.text()


def of_host(log: Path, name: str) -> str:
    """Returns what a host has noted, of what it trains."""
    lines = log.read_text().splitlines() if log.exists() else []
    return "\n".join(line for line in lines if line.split()[2] == name)


def ended_once(log: Path, again: int) -> Iterator[str]:
    """Yields which trials were not trained to their ends once, and whether too many were begun."""
    noted = collections.Counter(tuple(line.split()[:2]) for line in log.read_text().splitlines())
    ended = {run: count for (what, run), count in noted.items() if what == "ended"}
    begun = sum(count for (what, _), count in noted.items() if what == "begun")
    if len(ended) != TRIALS:
        yield f"{len(ended)} trials were trained to their ends"
    yield from (f"{run} was so {count} times" for run, count in ended.items() if count > 1)
    if not TRIALS <= begun <= TRIALS + again:
        yield f"{begun} trials were begun"
    hosts = {line.split()[2] for line in log.read_text().splitlines()}
    if hosts != {"lost", "other"}:
        yield f"only {hosts} ran trials"


def same(whole: Path, shared: Path) -> Iterator[str]:
    """Yields how a shared sweep differs from another."""
    if table(whole) != table(shared):
        yield "the tables differ"
    for run in (whole / "runs").iterdir():
        for name in ("metrics.jsonl", "metrics.csv", "summary.json", "config.json"):
            if (run / name).read_bytes() != (shared / "runs" / run.name / name).read_bytes():
                yield f"{run.name} has another {name}"


def left(out: Path) -> Iterator[str]:
    """Yields what is there beside runs and pages."""
    yield from (f"{path} is left" for path in (out / "runs").glob(".*"))
    pages = {path.name for path in out.iterdir()}
    yield from (f"{name} is left" for name in pages if re.search(r"\.(tmp|beat)$", name))


if __name__ == "__main__":
    main()
