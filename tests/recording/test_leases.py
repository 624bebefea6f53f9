"""Leases: claimed by one, renewed, taken over, and nothing left to write for who lost."""

import os
import subprocess
import threading
import time

import numpy as np
import pytest

from lipsjax import recording
from lipsjax.recording import files, leases
from lipsjax.recording.checkpoints import Checkpoints
from lipsjax.recording.leases import Beat, Patience, claim, look, take_over

SCIENCE = {"config": {}, "data_fingerprint": "", "plan": {}, "setup": {}}
ROWS = [{"round": 0, "first_round": 0}, {"round": 1, "first_round": 1}]


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "0f"


@pytest.fixture
def clock(monkeypatch):
    """Sets what leases take for the time, by a clock that only goes forward."""
    now = [0.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: now[0])

    def go_on(seconds):
        now[0] += seconds

    return go_on


def begun(run_dir):
    """A lease of a run that has recorded two rounds."""
    lease = claim(run_dir)
    recording.create(lease.work, **SCIENCE)
    recording.append(lease.work / "metrics.jsonl", ROWS)
    return lease


def names(run_dir):
    return sorted(path.name for path in run_dir.parent.iterdir())


def at_once(do, count=8):
    """Calls a function in threads; returns what it returned in those that were not refused."""
    done, barrier = [], threading.Barrier(count)

    def one():
        barrier.wait()
        try:
            done.append(do())
        except recording.BusyError:
            return

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def test_a_run_is_recorded_aside_while_it_is_held(run_dir):
    lease = begun(run_dir)
    assert names(run_dir) == [".0f"]
    with pytest.raises(recording.BusyError, match=f"^{run_dir} is being written by another"):
        claim(run_dir)
    assert names(run_dir) == [".0f"]  # nothing of the one that was refused
    lease.give_back()
    assert names(run_dir) == ["0f"]
    assert len(files.read_lines(run_dir / "metrics.jsonl")) == 2


def test_a_run_goes_on_where_it_was(run_dir):
    begun(run_dir).give_back()
    lease = claim(run_dir)
    lease.bring()
    assert names(run_dir) == [".0f"]
    assert len(files.read_lines(lease.work / "metrics.jsonl")) == 2
    lease.give_back()
    assert names(run_dir) == ["0f"]


def test_what_a_process_without_a_lease_writes_is_left_to_it(run_dir):
    begun(run_dir).give_back()
    lease = claim(run_dir)
    with recording.lock(run_dir), pytest.raises(recording.BusyError):
        lease.bring()
    lease.give_back()
    assert names(run_dir) == ["0f"]


@pytest.mark.parametrize("_", range(5))
def test_one_of_many_claims(run_dir, _):
    (lease,) = at_once(lambda: claim(run_dir))
    assert look(run_dir).token == lease.work.parent.name
    lease.give_back()
    assert names(run_dir) == []


@pytest.mark.parametrize("_", range(5))
def test_one_of_many_takes_over(run_dir, _):
    dead = begun(run_dir)
    seen = look(run_dir)
    (lease,) = at_once(lambda: take_over(run_dir, seen))
    assert dead.is_lost()
    assert not lease.is_lost()
    lease.give_back()
    assert names(run_dir) == ["0f"]


def test_a_beat_changes_and_who_waits_sees_it(run_dir, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.02)
    monkeypatch.setattr(leases, "GONE", 0.3)
    monkeypatch.setattr(files, "is_alive", lambda process: True)
    lease, patience, seen = claim(run_dir), Patience(), set()
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        assert not patience.is_gone(run_dir, look(run_dir))
        seen.add(look(run_dir))
        time.sleep(0.02)
    assert len(seen) > 3
    lease.give_back()


@pytest.mark.parametrize("content", ["a\nmachine-a\n1\n0\n", "", "no beat", "a\nmachine-a\n-\n"])
def test_who_does_not_change_for_long_is_gone(run_dir, clock, content):
    patience, seen = Patience(), Beat("1", content)
    assert not patience.is_gone(run_dir, seen)
    for _ in range(int(leases.GONE // 10)):
        clock(10)
        assert not patience.is_gone(run_dir, seen)
    clock(10)
    assert patience.is_gone(run_dir, seen)
    assert not patience.is_gone(run_dir, seen._replace(token="2"))


def test_a_change_at_the_last_moment_counts(run_dir, clock):
    patience = Patience()
    for beats in range(3):
        for _ in range(int(leases.GONE // 10)):
            assert not patience.is_gone(run_dir, Beat("1", str(beats)))
            clock(10)


def test_who_was_paused_itself_takes_nobody_for_dead(run_dir, clock):
    patience, seen = Patience(), Beat("1", "")
    patience.is_gone(run_dir, seen)
    clock(100 * leases.GONE)
    assert not patience.is_gone(run_dir, seen)


def test_a_process_of_this_machine_that_has_ended_is_gone_at_once(run_dir):
    process = subprocess.Popen(["true"])
    process.wait()
    here = Beat("1", f"a\n{files.machine()}\n{process.pid}\n0\n")
    assert Patience().is_gone(run_dir, here)
    assert not Patience().is_gone(run_dir, Beat("1", f"a\n{files.machine()}\n{os.getpid()}\n0\n"))
    assert not Patience().is_gone(run_dir, Beat("1", f"a\nother\n{process.pid}\n0\n"))


@pytest.mark.parametrize(
    "write",
    [
        lambda work: recording.append(work / "metrics.jsonl", ROWS),
        lambda work: recording.write_json(work / "plan.json", {}),
        lambda work: Checkpoints(work).save(2, {"w": np.ones(1)}),
        lambda work: recording.finish(work, {}),
        lambda work: recording.diverge(work, "why"),
        lambda work: recording.create(work, **SCIENCE),
    ],
)
def test_who_lost_a_run_cannot_write_to_it(run_dir, write):
    slow = begun(run_dir)
    quick = take_over(run_dir, look(run_dir))
    before = {path: path.read_bytes() for path in run_dir.parent.rglob("*") if path.is_file()}
    assert len(before) > 3
    with pytest.raises((FileNotFoundError, recording.RecordingError)):
        write(slow.work)
    with pytest.raises(recording.BusyError):
        slow.give_back()
    after = {path: path.read_bytes() for path in run_dir.parent.rglob("*") if path.is_file()}
    assert after == before
    quick.give_back()
    assert names(run_dir) == ["0f"]


def test_what_was_open_when_a_run_was_lost_goes_nowhere(run_dir):
    slow = begun(run_dir)
    with (slow.work / "metrics.jsonl").open("a") as file:
        quick = take_over(run_dir, look(run_dir))
        assert recording.truncate(quick.work, 2) == 2  # as a run that goes on does first
        file.write('{"round": 2}\n')
    assert files.read_lines(quick.work / "metrics.jsonl") == ROWS
    quick.give_back()


def test_a_lost_run_is_noticed_by_the_beat(run_dir, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.01)
    slow = begun(run_dir)
    quick = take_over(run_dir, look(run_dir))
    slow._thread.join(timeout=5)
    assert not slow._thread.is_alive()
    assert slow.is_lost()
    quick.give_back()


def test_what_is_left_of_a_holder_that_died_as_it_let_go(run_dir):
    dead = begun(run_dir)
    recording.write_json(dead.work / "summary.json", {})
    leases.tidy(run_dir)
    assert names(run_dir) == [".0f"]  # not finished where it belongs
    dead.work.rename(run_dir)
    leases.tidy(run_dir)
    assert names(run_dir) == ["0f"]


def test_a_file_that_another_machine_writes_is_left_to_it(tmp_path, monkeypatch):
    path = tmp_path / "study.json"
    with monkeypatch.context() as there:
        there.setattr(files, "machine", lambda: "there")
        there.setattr(files.os, "getpid", lambda: 2**22 + 1)  # no process of this machine
        other = files.whole_file(path)
        other.__enter__().write(b"theirs")
    recording.write_atomically(path, "mine")
    assert path.read_text() == "mine"
    other.__exit__(None, None, None)
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lease_that_is_no_folder_is_refused(run_dir):
    run_dir.with_name(".0f").write_text("mine")
    with pytest.raises(recording.RecordingError, match=r"\.0f is no folder, as a lease is; delete"):
        claim(run_dir)
    assert run_dir.with_name(".0f").read_text() == "mine"


def test_a_run_that_is_held_is_refused_without_a_lease(run_dir):
    recording.check_free(run_dir)
    lease = claim(run_dir)
    with pytest.raises(recording.BusyError, match=r"is shared, and held by .* --share goes on"):
        recording.check_free(run_dir)
    lease.give_back()
    recording.check_free(run_dir)
