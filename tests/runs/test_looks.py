"""A study that is really run until it is decided, by workers, killed and gone on with."""

import json
import os
import signal
import time

import pytest

from helpers import killing
from helpers.commands import MLP
from helpers.kill_sweep import children, is_alive
from lipsjax import recording

SWEEP = (
    *("--dataset", "synthetic", "--rounds", "2", "--rounds-per-call", "2", "--workers", "2"),
    *("--partition.clients", "3", "--partition.train-examples", "20", "--local.epochs", "1"),
    *("--model.width", "8", "--evaluation.global-examples", "50", "--arms", "dense", "lips"),
    *("--until", "decided", "--margin", "1", "--max-seeds", "3", "--looks", "2", "3"),
    *MLP,
)
DEADLINE = 1800.0  # of a machine that others use too


def finish(out, cache):
    with killing.start(out, SWEEP, cache=cache, command="sweep") as process:
        text, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, text
    return text


def done(out):
    """Names of the finished runs."""
    return {path.parent.name for path in out.glob("runs/[!.]*/summary.json")}


def kill_when(out, cache, count):
    """Kills a sweep, and with it its workers, once so many of its runs are finished."""
    process = killing.start(out, SWEEP, cache=cache, command="sweep")
    end = time.monotonic() + DEADLINE
    while len(done(out)) < count:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    while any(map(is_alive, workers)):  # they end with their parent, and hold their runs till then
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The study as nobody killed it, what it said, and the programs that it compiled."""
    folder = tmp_path_factory.mktemp("looks")
    return folder / "whole", finish(folder / "whole", folder / "cache"), folder / "cache"


@pytest.mark.slow
def test_killed_and_gone_on_with_it_ends_with_the_same_decisions(alone, tmp_path):
    (whole, said, cache), broken = alone, tmp_path / "broken"
    assert "look 1 of 2: 2 seeds; 1 of 1 comparisons open" in said
    kill_when(broken, cache, 1)
    first, second = (recording.read_looks(out) for out in (whole, broken))
    assert first is not None
    assert second is not None
    assert first[0] == second[0]  # the commands differ in --out
    kill_when(broken, cache, 5)
    finish(broken, cache)
    first, second = (json.loads((out / "study.json").read_text()) for out in (whole, broken))
    assert first["decisions"] == second["decisions"]
    assert first["trials"] == second["trials"]
    assert done(whole) == done(broken) == {trial["run"] for trial in first["trials"]}
    for run in done(whole):
        one, other = (out / "runs" / run / "metrics.jsonl" for out in (whole, broken))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_workers_do_not_run_ahead_of_a_look(alone):
    """Seed 2 is begun only after all runs of seeds 0 and 1 were finished."""
    out = alone[0]
    study = json.loads((out / "study.json").read_text())
    assert study["decisions"]["taken"] == 2
    begun, ended = {}, {}
    for trial in study["trials"]:
        folder = out / "runs" / trial["run"]
        place = trial["arm"], trial["seed"]
        begun[place] = (folder / "config.json").stat().st_mtime_ns
        ended[place] = (folder / "summary.json").stat().st_mtime_ns
    first = max(when for (_, seed), when in ended.items() if seed < 2)
    assert all(when > first for (_, seed), when in begun.items() if seed == 2)
