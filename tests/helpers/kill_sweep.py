"""Kills a sweep of 24 trials, its parent and its workers in turn, resumes it, and compares.

    python tests/kill_sweep.py --kills 5 --seed 0

A worker that is killed is replaced by the sweep itself; after the parent is killed, the same
command is started again. The exit status is 1 if the table (but for what a clock measures) or a bit
of any run's metrics differs from those of a sweep that was left alone, if a run that was finished
was touched again, or if a worker outlived its parent.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers import killing
from helpers.commands import MLP

SWEEP = (
    *("--dataset", "synthetic", "--rounds", "10", "--rounds-per-call", "2", "--seeds", "4"),
    *("--partition.clients", "3", "--partition.train-examples", "20", "--local.epochs", "1"),
    *("--model.width", "8", "--evaluation.global-examples", "50", "--workers", "2"),
    *("--grid", "partition.alpha=[0.1, 1.0, 10.0]"),
    *MLP,
)
TRIALS = 24
DEADLINE = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5, help="how often something is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = compare(Path(folder), options.kills, random.Random(options.seed))
    print("\n".join(wrong) or "the same table, and nothing finished was run twice")
    sys.exit(bool(wrong))


def compare(folder: Path, kills: int, rng: random.Random) -> list[str]:
    """Returns what is wrong with a sweep that was killed."""
    whole, broken, cache = folder / "whole", folder / "broken", folder / "cache"
    begin = time.monotonic()
    finish(whole, cache)
    seconds = time.monotonic() - begin
    wrong, finished = [], {}
    process = killing.start(broken, SWEEP, cache=cache, command="sweep")
    for number in range(kills):
        # spread over the sweep: so many trials are finished when something is killed
        until = (number + 1) * TRIALS // (kills + 1)
        wait(process, lambda until=until: len(done(broken)) >= until)
        time.sleep(rng.uniform(0, seconds / TRIALS))
        finished = check(broken, finished, wrong)
        workers = children(process.pid)
        if number % 2 == 0:
            os.kill(rng.choice(workers), signal.SIGKILL)
            print(f"killed a worker with {len(finished)} of {TRIALS} trials finished")
            continue
        process.kill()
        process.wait()
        process.stdout.close()
        print(f"killed the sweep with {len(finished)} of {TRIALS} trials finished")
        time.sleep(2)
        if any(is_alive(worker) for worker in workers):
            wrong.append("a worker outlived the sweep")
        process = killing.start(broken, SWEEP, cache=cache, command="sweep")
    text, _ = process.communicate(timeout=DEADLINE)
    if process.returncode:
        wrong.append(f"it ended with status {process.returncode}: {text}")
        return wrong
    check(broken, finished, wrong)
    if table(whole) != table(broken):
        wrong.append("the tables differ")
    for run in (whole / "runs").iterdir():
        other = broken / "runs" / run.name
        if (run / "metrics.jsonl").read_bytes() != (other / "metrics.jsonl").read_bytes():
            wrong.append(f"{run.name} has other metrics")
    return wrong


def check(out: Path, before: dict[str, int], wrong: list[str]) -> dict[str, int]:
    """Returns when each run was finished; notes those that were touched since."""
    now = done(out)
    wrong += [f"{run} was finished and run again" for run in before if now[run] != before[run]]
    return now


def done(out: Path) -> dict[str, int]:
    """Returns the finished runs, and when the last of their files was written."""
    return {
        path.parent.name: max(file.stat().st_mtime_ns for file in path.parent.glob("*.*"))
        for path in out.glob("runs/[!.]*/summary.json")
    }


def table(out: Path) -> list[dict[str, str]]:
    """Returns the table of a study without what a clock has measured."""
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    clocks = ("seconds", "hours")
    return [{k: v for k, v in row.items() if not any(c in k for c in clocks)} for row in rows]


def finish(out: Path, cache: Path) -> None:
    process = killing.start(out, SWEEP, cache=cache, command="sweep")
    text, _ = process.communicate(timeout=DEADLINE)
    if process.returncode:
        raise SystemExit(text)


def wait(process: subprocess.Popen, is_so) -> None:
    end = time.monotonic() + DEADLINE
    while not is_so():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"it ended, or hung, before it could be killed: {process.poll()}")
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Returns the workers of a sweep."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(int(child))
    return found


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    main()
