"""Equal config and plan give equal bits, also across a kill and a resume."""

import os
import random
import shutil
from pathlib import Path
from unittest import mock

import pytest

from helpers import commands, killing
from lipsjax import recording
from lipsjax.recording.checkpoints import Checkpoints
from lipsjax.runs import trial

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was left alone."""
    out = tmp_path_factory.mktemp("whole")
    assert commands.run(out).status == 0
    return out


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped between the metrics and the checkpoint of its third call."""
    commands.stop_at_save(tmp_path, 3)
    return tmp_path


def checkpoint(out, index):
    """Returns a checkpoint by its age: -1 is the newest."""
    found = commands.run_dir(out).glob("checkpoints/*.npz")
    return sorted(found, key=lambda path: int(path.stem.partition("-")[0]))[index]


def test_twice_the_same_bits(whole, tmp_path):
    assert commands.run(tmp_path).status == 0
    assert commands.files(tmp_path) == commands.files(whole)
    assert {"metrics.jsonl", "metrics.csv", "summary.json", "plan.json"} <= {
        Path(name).name for name in commands.files(whole)
    }
    assert len(list(commands.run_dir(whole).glob("checkpoints/*"))) == 2


def test_a_finished_run_is_found_and_not_run_again(whole, tmp_path):
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    ended = commands.run(out)
    assert ended.status == 0
    assert "found finished, and not run again" in ended.out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_metrics_after_the_checkpoint_are_done_again(whole, stopped):
    metrics = commands.run_dir(stopped) / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"round": 6, "densi')  # and a write that was cut off
    assert metrics.read_bytes().count(b"\n") == 6
    ended = commands.run(stopped)
    assert "goes on after round 4 of 6" in ended.out
    assert commands.files(stopped) == commands.files(whole)


STATEFUL = (
    *("--model.name", "mlp", "--model.depth", "1"),
    *("--strategy.name", "ditto", "--strategy.compression", "top_k", "--strategy.cohort", "2"),
    *("--participation.dropout", "0.3", "--participation.stragglers", "0.5"),
    *("--partition.new-clients", "1", "--evaluation.tune-epochs", "1"),
)


@pytest.mark.slow
def test_what_clients_keep_survives_a_stop(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert commands.run(whole, *STATEFUL).status == 0
    commands.stop_at_save(stopped, 3, *STATEFUL)
    assert "goes on after round 4 of 6" in commands.run(stopped, *STATEFUL).out
    assert commands.files(stopped) == commands.files(whole)


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2]}.get(how, content))
    if how == "flipped":
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])


@pytest.mark.parametrize("how", ["empty", "truncated", "flipped"])
def test_a_damaged_checkpoint_is_passed_over(whole, stopped, how):
    damage(checkpoint(stopped, -1), how)
    ended = commands.run(stopped)
    assert "the checkpoint after round 4 is damaged and passed over" in ended.out
    assert "goes on after round 2 of 6" in ended.out
    assert commands.files(stopped) == commands.files(whole)


def test_a_run_without_a_whole_checkpoint_starts_again(whole, stopped):
    for index in (0, 1):
        damage(checkpoint(stopped, index), "truncated")
    ended = commands.run(stopped)
    assert "after round 4 is damaged" in ended.out
    assert "after round 2 is damaged" in ended.out
    assert "has no whole checkpoint and starts again" in ended.out
    assert commands.files(stopped) == commands.files(whole)


def test_a_run_without_the_metrics_of_its_checkpoint_starts_again(whole, stopped):
    metrics = commands.run_dir(stopped) / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join([lines[0], b"\0\0\0\n", *lines[2:]]))
    ended = commands.run(stopped)
    assert "has metrics of only 1 of 4 rounds" in ended.out
    assert "starts again" in ended.out
    assert commands.files(stopped) == commands.files(whole)


def test_a_checkpoint_of_another_version_is_refused(stopped):
    folder = commands.run_dir(stopped)
    Checkpoints(folder).save(5, {"other": checkpoint(stopped, -1).stat().st_size})
    ended = commands.run(stopped)
    assert ended.status == 2
    assert "holds the state of another version; choose another --out" in ended.err


def test_leftovers_of_a_killed_process_are_removed(whole, stopped):
    folder = commands.run_dir(stopped)
    (folder / "checkpoints" / ".6-0.npz.tmp").write_bytes(b"half")
    left = folder.with_name(f".{folder.name}.1.tmp")
    left.mkdir()
    assert commands.run(stopped).status == 0
    assert not left.exists()
    assert commands.files(stopped) == commands.files(whole)


def test_a_run_goes_on_as_planned_when_it_began(whole, stopped):
    ended = commands.run(stopped, "--rounds-per-call", "3", "--chunk", "2")
    assert "goes on with rounds_per_call 2, as begun, not 3" in ended.out
    assert "goes on with chunk 1, as begun, not 2" in ended.out
    assert commands.files(stopped) == commands.files(whole)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"versions": {"jax": "0.1"}}, "with other package versions: its bits may differ"),
        ({"platform": "tpu"}, "was begun on 1 x tpu, which is not here"),
        ({"devices": 512}, "was begun on 512 x cpu, which is not here"),
    ],
)
def test_a_run_says_that_its_bits_may_differ(stopped, change, part):
    path = commands.run_dir(stopped) / "plan.json"
    recording.write_json(path, recording.read_plan(path.parent) | change)
    with mock.patch.object(trial, "_train"):
        ended = commands.run(stopped)
    assert part in ended.out
    assert ("versions" in change) == (
        recording.read_plan(path.parent)["versions"] == {"jax": "0.1"}
    )


@pytest.mark.slow
def test_killed(tmp_path):
    """In a process of its own, by the system, somewhere after the first checkpoints."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = (*killing.TINY, "--rounds", "30", "--devices", "1")
    run = {"arguments": arguments, "cache": tmp_path / "cache"}
    killing.finish(whole, **run)
    process = killing.start(out, **run)
    killing.kill_at(process, out, 2)
    left = killing.found(out)
    assert 2 <= left.saved < 30, left
    said = killing.finish(out, **run)
    assert "goes on after round" in said
    assert killing.content(out) == killing.content(whole), f"{left}; {said}"


@pytest.mark.slow
def test_killed_at_two_moments(tmp_path):
    """In a round and, after it had gone on, in a checkpoint; in processes of its own."""
    rng = random.Random(os.urandom(8))
    whole, out = tmp_path / "whole", tmp_path / "out"
    run = {"arguments": (*killing.LIPS, "--rounds", "50"), "cache": tmp_path / "cache"}
    killing.finish(whole, **run)

    process = killing.start(out, **run)
    killing.kill_at(process, out, rng.randint(1, 15))
    first = second = killing.found(out)
    for _ in range(4):
        process = killing.start(out, **run)
        killing.kill_in_checkpoint(process, out, skip=rng.randint(1, 4))
        second = killing.found(out)
        if second.saving:  # else the write was quicker than the signal
            break

    said = killing.finish(out, **run)
    moments = f"{first}; {second}; {said}"
    assert killing.content(out) == killing.content(whole), moments
    assert second.saving, moments
    assert first.saved <= second.saved, moments
