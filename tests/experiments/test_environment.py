"""What a machine does to a command: signals, closed streams, limits, folders that are not there.

Each ends in one line, or goes on, and the same command goes on afterwards.
"""

import errno
import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from helpers import commands, killing
from helpers.commands import MLP, TINY, refusal
from helpers.kill_sweep import children, is_alive
from lipsjax.experiments import command
from lipsjax.runs import startup
from lipsjax.runs.config import Execution

SWEEP = (*TINY, *MLP, "--rounds", "4", "--seeds", "1")
GUARDED = """
import sys, time
from lipsjax.experiments import command
command.GRACE = 0.5

def main(argv):
    print("begun", flush=True)
    {body}

command.guarded(main)
"""


def start(body, **options):
    """Starts a command that only does this."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", GUARDED.format(body=body)], text=True, **pipes)


def said_by(process, **given):
    """Returns what a process says as errors until it ends; none is left behind."""
    try:
        return process.communicate(timeout=20, **given)[1]
    finally:
        process.kill()


def stopped_by(number, body):
    """Sends a signal to a command that has begun; returns status and what it said."""
    with start(body) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.2)
        process.send_signal(number)
        said = said_by(process)
    return process.returncode, said


STOPPED = "stopped; the same command goes on where it was\n"
LOST_IN_A_CALLBACK = """
    import gc
    def callback(phase, info):
        if phase == "start":
            for _ in range(30_000_000):
                pass
    gc.callbacks.append(callback)
    while True:
        gc.collect()
"""
SWALLOWED = """
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""
BODIES = {
    "waits": "time.sleep(60)",
    "is in a callback of the garbage collector": LOST_IN_A_CALLBACK,
    "swallows it": SWALLOWED,
    "is in C": "import hashlib; hashlib.pbkdf2_hmac('md5', b'', b'', 2**31 - 1)",
}


@pytest.mark.whole
@pytest.mark.parametrize("body", BODIES)
def test_a_signal_ends_whatever_a_command_is_at(body):
    assert stopped_by(signal.SIGINT, BODIES[body]) == (130, STOPPED)


STARTS = {
    "a module": ["-m", "lipsjax.experiments.run"],
    "the script": [
        "-c",
        "import sys; sys.argv = ['/bin/lipsjax', 'run']; "
        "from lipsjax.experiments.cli import main; main()",
    ],
}


@pytest.mark.whole
@pytest.mark.parametrize("how", STARTS)
def test_a_command_that_is_stopped_while_it_is_imported(tmp_path, how):
    """A stand-in for a library that takes long to import tells when it is at it."""
    (tmp_path / "tyro.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    argv = [sys.executable, *STARTS[how]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        argv, text=True, env=os.environ | {"PYTHONPATH": path}, **pipes
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        said = said_by(process)
    assert (process.returncode, said) == (130, STOPPED)


@pytest.mark.whole
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_schedulers_and_terminals_send_ends_it_in_a_line(name):
    number = getattr(signal, name)
    assert stopped_by(number, "time.sleep(60)") == (128 + number, STOPPED)


@pytest.mark.whole
def test_a_signal_that_was_ignored_before_stays_ignored():
    """As of nohup."""
    ignore = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    argv = [sys.executable, "-c", f"import signal; {ignore}\n" + GUARDED.format(body="input()")]
    with subprocess.Popen(
        argv, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert said_by(process, input="\n") == ""
    assert process.returncode == 0


def test_a_command_leaves_signals_as_they_were():
    numbers = command.STOPPING
    before = [signal.getsignal(number) for number in numbers]
    hook = sys.unraisablehook
    with mock.patch("sys.argv", ["x"]):
        command.guarded(lambda argv: None)
    assert [signal.getsignal(number) for number in numbers] == before
    assert sys.unraisablehook is hook
    assert signal.set_wakeup_fd(-1) == -1


def run_to(out, number, *, workers, what):
    """Starts a sweep, and sends a signal to it and, as a terminal does, to its workers."""
    argv = (*SWEEP, "--seeds", "2", "--rounds", "2000", "--devices", "1", "--workers", workers)
    module = "lipsjax.experiments.sweep"
    argv = [sys.executable, "-m", module, *killing.last_of_each((*argv, "--out", str(out)))]
    settings = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(
        argv,
        text=True,
        start_new_session=True,
        **settings,
    ) as process:
        if what == "workers":
            end = time.monotonic() + killing.DEADLINE
            while not (found := children(process.pid)) and time.monotonic() < end:
                time.sleep(0.01)
        else:
            killing.wait_for(process, out, what)
            found = children(process.pid)
        os.killpg(process.pid, number)
        said = said_by(process)
    time.sleep(0.5)
    assert not [worker for worker in found if is_alive(worker)]
    return process.returncode, said


@pytest.mark.slow
def test_workers_that_have_hardly_begun_say_nothing(tmp_path):
    """The terminal sends Ctrl-C to them too, while they import.

    One that has not yet read what it is to do, as its parent ends, is told so by Python itself.
    """
    status, said = run_to(tmp_path, signal.SIGINT, workers="2", what="workers")
    assert status == 130
    assert said.startswith(STOPPED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_sweep_with_workers_that_is_stopped(tmp_path, name):
    number = getattr(signal, name)
    ended = run_to(tmp_path, number, workers="2", what="metrics.jsonl")
    assert ended == (128 + number, STOPPED)
    assert not list(tmp_path.rglob("report.html"))


# Streams.


def into(stream, body="print('more')"):
    """Runs a command whose standard output is a stream."""
    process = start(body, stdout=stream)
    said = said_by(process)
    return process.returncode, said


@pytest.mark.whole
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_output_that_is_full_is_called_so():
    with Path("/dev/full").open("w") as full:
        said = "error: the output cannot be printed: no space left on device\n"
        assert into(full) == (2, said)
        process = start("raise ValueError('no')", stdout=subprocess.DEVNULL, stderr=full)
        assert process.wait(timeout=20) == 2


@pytest.mark.whole
def test_a_command_without_standard_streams(tmp_path):
    """What it opens is not taken for one of them, and printed into."""
    path = tmp_path / "mine"
    body = f"file = open({str(path)!r}, 'w'); print('x', flush=True); file.write('y'); file.close()"
    script = GUARDED.format(body=body)
    argv = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, script]
    assert subprocess.run(argv, timeout=20).returncode == 0
    assert path.read_text() == "y"


def test_characters_that_the_output_does_not_have():
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    with mock.patch("sys.stdout", out), mock.patch("sys.argv", ["x"]):
        command.guarded(lambda argv: print("dense – LIPS"))
    assert raw.getvalue() == b"dense ? LIPS\n"


def test_arguments_that_are_no_text(tmp_path):
    out = tmp_path / os.fsdecode(b"a\xff")
    refusal(
        commands.call("sweep", *SWEEP, "--out", str(out)), "an argument is not in utf-8", "udcff"
    )
    assert not list(tmp_path.iterdir())


# Memory.

WITHOUT_ROOM = {
    "a library": ImportError("libx.so: failed to map segment from shared object"),
    "a thread": RuntimeError("can't start new thread"),
    "a process": OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
}


@pytest.mark.parametrize("what", WITHOUT_ROOM)
def test_no_room_is_no_memory(what, capsys):
    def main(_):
        raise WITHOUT_ROOM[what]

    with mock.patch("sys.argv", ["x"]), pytest.raises(SystemExit, match="2"):
        command.guarded(main)
    said = capsys.readouterr().err
    assert said.startswith("error: not enough memory")
    assert "not foreseen" not in said


def test_too_few_addresses_for_jax():
    startup.check_addresses(float("inf"))
    startup.check_addresses(3.0 * 2**30)
    with pytest.raises(
        ValueError, match=r"ulimit -v allows 1\.4 GiB, and JAX needs at least 3 GiB"
    ):
        startup.check_addresses(1.4 * 2**30)


@pytest.mark.whole
def test_a_command_with_too_few_addresses(tmp_path):
    argv = [sys.executable, "-m", "lipsjax.experiments.sweep", "--out", str(tmp_path / "out")]
    shell = ["sh", "-c", 'ulimit -v 1500000 && exec "$@"', "sh", *argv]
    ended = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    refusal(
        commands.Ended(ended.returncode, ended.stdout, ended.stderr), "ulimit -v allows 1.4 GiB"
    )
    assert not (tmp_path / "out").exists()


# The cache of compiled programs.


def test_which_cache_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert startup.is_writable(tmp_path / "new" / "folder")
    assert not startup.is_writable(tmp_path / "file")
    assert not startup.is_writable(tmp_path / "file" / "below")


@pytest.mark.whole
def test_a_cache_that_cannot_be_written_is_said_once(tmp_path):
    (tmp_path / "file").write_text("")
    body = "from lipsjax.runs import startup; from lipsjax.runs.config import Execution; "
    body += "startup.start_jax(Execution()); import jax; jax.numpy.ones(3); jax.numpy.zeros(3)"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "file" / "xla")}
    with start(body, env=os.environ | cache) as process:
        said = said_by(process)
    assert process.returncode == 0
    assert said.startswith(f"note: the cache {tmp_path / 'file' / 'xla'} cannot be written")
    assert said.count("\n") == 1


# Several processes.

OTHERS = {
    "a host that nobody knows": ("nohost.invalid:5000", 1, "there is no host nohost.invalid"),
    "a port that cannot be": ("127.0.0.1:99999", 0, "must be in 1..65535"),
}


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("what", OTHERS)
def test_an_address_at_which_nobody_can_meet(what):
    coordinator, index, words = OTHERS[what]
    with pytest.raises(ValueError, match=words):
        startup.join_processes(Execution(coordinator=coordinator, processes=2, process=index))


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        coordinator = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match="cannot be listened at: address already in use"):
            startup.join_processes(Execution(coordinator=coordinator, processes=2, process=0))


@pytest.mark.whole
@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_meet(index):
    coordinator = free_address()
    body = "from lipsjax.runs import startup; from lipsjax.runs.config import Execution; "
    body += "startup.TOLD_AFTER, startup.MEET = 0.5, 1; "
    body += f"startup.start_jax(Execution(coordinator={coordinator!r}, processes=2, "
    body += f"process={index}))"
    with start(body) as process:
        told, line = said_by(process).splitlines()
    assert process.returncode == 2
    assert told == f"waits up to 1 s for all processes at {coordinator}"
    assert line.startswith(f"error: {coordinator} cannot be reached, or not all processes came")


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["RuntimeError", "ValueError"])
def test_a_process_whose_other_has_ended_waits_for_nobody(kind):
    body = "import atexit; atexit.register(time.sleep, 60); "
    body += f"raise {kind}('UNKNOWN: Gloo all-reduce failed: Connection closed by peer')"
    with start(body) as process:
        said = said_by(process)
    assert process.returncode == 2
    assert said.startswith("error: another process of this command has ended")
    assert said.count("\n") == 1
