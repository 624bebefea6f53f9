"""Locks of run directories: of living processes, of killed ones, and where there is no fcntl."""

import subprocess
import sys

import pytest

from lipsjax import recording

HOLD = """
import sys, time
from pathlib import Path
from lipsjax import recording
with recording.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
BARE = """
import sys
sys.modules["fcntl"] = None
sys.modules["array_record"] = None
from lipsjax.experiments import survey
survey.main(sys.argv[1:])
"""
SMALL = ("--partition.clients", "3", "--partition.train-examples", "5")


def test_a_lock_is_held_by_one_and_ends_with_its_process(tmp_path):
    argv = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            busy = f"^{tmp_path} is being written by another process$"
            with pytest.raises(recording.RecordingError, match=busy), recording.lock(tmp_path):
                pass
        finally:
            other.kill()
    with recording.lock(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_what_a_killed_process_left_aside_is_deleted(tmp_path):
    run, left = tmp_path / "run", tmp_path / ".run.123.tmp"
    for folder in (run, left):
        folder.mkdir()
    recording.delete_left(run)
    assert not left.exists()
    assert run.exists()


WRITE = """
import sys
from pathlib import Path
from lipsjax import recording
with recording.whole_file(Path(sys.argv[1])) as file:
    file.write(b"theirs" * 1000)
    print("open", flush=True)
    sys.stdin.readline()
"""


def other_writer(path):
    """Starts a process that is in the middle of a file, until it reads a line."""
    argv = [sys.executable, "-c", WRITE, str(path)]
    other = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "open\n"
    return other


def test_two_processes_write_one_file_and_each_is_whole(tmp_path):
    path = tmp_path / "study.json"
    with other_writer(path) as other:
        recording.write_atomically(path, "mine")
        assert path.read_text() == "mine"
        other.communicate("\n")
    assert other.returncode == 0
    assert path.read_text() == "theirs" * 1000
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_deleted_by_the_next(tmp_path):
    path = tmp_path / "study.json"
    with other_writer(path) as other:
        other.kill()
    assert len(list(tmp_path.iterdir())) == 1
    recording.write_atomically(path, "mine")
    assert list(tmp_path.iterdir()) == [path]


def survey(out, *argv):
    return subprocess.run(
        [sys.executable, "-c", BARE, *argv, "--out", str(out)], capture_output=True, text=True
    )


@pytest.mark.whole
def test_a_survey_needs_neither_fcntl_nor_array_record(tmp_path):
    ended = survey(tmp_path, *SMALL)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "survey.html").exists()
