"""Trials side by side: who takes what, who dies, and that a table does not depend on it."""

import dataclasses
import os
import random
import subprocess

import pytest

from helpers.commands import MLP, TINY, call, refusal
from helpers.kill_sweep import children, compare, is_alive, table
from lipsjax.runs.config import Config, Execution, SparsityConfig
from lipsjax.runs.study import program_key
from lipsjax.runs.workers import Task, choose, count_workers

LIPS = Config(sparsity=SparsityConfig())
AT = TINY.index("--devices")
SWEEP = (*TINY[:AT], *TINY[AT + 2 :], *MLP)


def tasks(*configs):
    return [Task(i, str(i), config) for i, config in enumerate(configs)]


def test_a_worker_stays_with_the_program_that_it_has_compiled():
    waiting = tasks(Config(seed=1), LIPS, dataclasses.replace(LIPS, seed=1))
    assert choose(waiting, program_key(LIPS), []).number == 1
    assert choose(waiting, program_key(Config()), []).number == 0


def test_a_worker_begins_where_no_other_is():
    waiting = tasks(Config(seed=1), LIPS)
    assert choose(waiting, None, [program_key(Config())]).number == 1
    assert choose(waiting, None, []).number == 0


def test_a_worker_helps_at_the_end():
    waiting = tasks(Config(seed=3), Config(seed=4))
    assert choose(waiting, program_key(LIPS), [program_key(Config())]).number == 1


@pytest.mark.parametrize(
    ("execution", "trials", "platform", "expected"),
    [
        (Execution(workers=3), 10, "cpu", 3),
        (Execution(workers=3), 2, "cpu", 2),
        (Execution(workers=3), 0, "cpu", 1),
        (Execution(devices=1), 10, "cpu", 1),
        (Execution(), 10, "gpu", 1),
    ],
)
def test_how_many_workers(execution, trials, platform, expected):
    assert count_workers(execution, trials, platform) == expected


@pytest.mark.parametrize(
    ("execution", "platform", "words"),
    [
        (Execution(workers=0), "cpu", "workers must be at least 1 or auto, not 0"),
        (Execution(workers=2), "gpu", "workers must be 1 or auto with the platform gpu, not 2"),
    ],
)
def test_workers_that_cannot_be(execution, platform, words):
    with pytest.raises(ValueError, match=words):
        count_workers(execution, 5, platform)


def test_workers_of_several_processes():
    assert count_workers(Execution(), 10, "cpu", processes=2) == 1
    with pytest.raises(ValueError, match="workers must be 1 or auto with 2 processes, not 3"):
        count_workers(Execution(workers=3), 10, "cpu", processes=2)


def test_a_sweep_of_no_workers_writes_nothing(tmp_path):
    out = tmp_path / "out"
    refusal(call("sweep", *SWEEP, "--out", str(out), "--workers", "0"), "workers must be", "not 0")
    assert not out.exists()


@pytest.mark.slow
def test_two_workers_give_the_table_of_one(tmp_path):
    for workers in ("1", "2"):
        ended = call(
            *("sweep", *SWEEP, "--seeds", "2", "--workers", workers),
            *("--out", str(tmp_path / workers)),
        )
        assert ended.status == 0, ended.err
    assert "2 workers run trials side by side" in ended.out
    one, two = (table(tmp_path / workers) for workers in ("1", "2"))
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("personalised_mean", "global_mean", "inertia_mean"):
            # of one device and of several: sums of float32 in another order
            assert float(ours[name]) == pytest.approx(float(theirs[name]), abs=0.05), name


@pytest.mark.whole
@pytest.mark.slow
def test_what_diverges_in_a_worker_is_told(tmp_path):
    ended = call(
        *("sweep", *SWEEP, "--seeds", "2", "--workers", "2", "--out", str(tmp_path)),
        *("--local.learning-rate", "1e30"),
    )
    refusal(ended, "4 of 4 runs diverged", "the loss is not finite in round 0")


@pytest.mark.slow
def test_a_sweep_whose_processes_are_killed(tmp_path):
    assert compare(tmp_path, 2, random.Random(0)) == []


@pytest.mark.whole
def test_who_is_a_worker():
    assert children(os.getpid()) == []
    assert is_alive(os.getpid())
    process = subprocess.Popen(["sleep", "60"])
    assert is_alive(process.pid)
    process.kill()
    process.wait()
    assert not is_alive(process.pid)
