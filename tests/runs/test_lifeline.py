"""Where one of several processes ends before its time, the others end in a line, and soon."""

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from lipsjax.runs import lifeline

WAITS = """
import sys, time
from lipsjax.experiments import command
from lipsjax.runs import lifeline
port, word, index, body = int(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3]), sys.argv[4]
lifeline._server = lambda: lifeline.socket.create_server(("127.0.0.1", port))
lifeline.GRACE, sys.argv = 1.0, sys.argv[:1]
def main(_):
    lifeline.tie("127.0.0.1", index, 3, lambda decide: (port, word))
    print("tied", flush=True)
    exec(body)
command.guarded(main)
"""
WORKS = "time.sleep(60)"
LINE = (
    "error: another process of this command has ended, and its own last line says why; the same "
    "command, in all processes, goes on where it was\n"
)
STOPPED = "stopped; the same command goes on where it was\n"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def started(*bodies):
    """Three processes that are tied, each of which does what its text says."""
    port, found = str(free_port()), []
    for index, body in enumerate(bodies):
        command = [sys.executable, "-c", WAITS, port, "sixteen letters.", str(index), body]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        found.append(subprocess.Popen(command, **pipes))
        if index == 0:
            wait_for(int(port))
    for process in found:
        assert process.stdout.readline() == "tied\n", process.communicate()
    return found


def wait_for(port):
    """Waits until somebody listens, by taking the port oneself."""
    for _ in range(600):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                return
        time.sleep(0.05)
    raise AssertionError("nobody listens")


def ends(processes):
    """How each ended: status, and what it said."""
    said = [process.communicate(timeout=30)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.mark.whole
@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_who_is_stopped_tells_the_others(which):
    processes = started(WORKS, WORKS, WORKS)
    processes[which].send_signal(signal.SIGTERM)
    found = ends(processes)
    assert found.pop(which) == (143, STOPPED)
    assert found == [(2, LINE)] * 2


@pytest.mark.whole
def test_who_is_killed_says_nothing_and_is_missed():
    processes = started(WORKS, WORKS, WORKS)
    processes[2].kill()
    found = ends(processes)
    assert found.pop(2) == (-9, "")
    assert found == [(2, LINE)] * 2


@pytest.mark.whole
@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_who_fails_alone_ends_the_others_and_waits_for_nobody(which):
    bodies = [WORKS] * 3
    bodies[which] = (
        "import atexit; atexit.register(time.sleep, 60); raise ValueError('no such thing')"
    )
    found = ends(started(*bodies))
    assert found.pop(which) == (2, "error: no such thing\n")
    assert found == [(2, LINE)] * 2


@pytest.mark.whole
def test_who_fails_with_the_others_says_why_itself():
    assert (
        ends(started(*["raise ValueError('no such thing')"] * 3))
        == [(2, "error: no such thing\n")] * 3
    )


@pytest.mark.whole
def test_who_has_done_its_work_ends_nobody():
    found = ends(started("time.sleep(3)", "", "time.sleep(2)"))
    assert found == [(0, "")] * 3


def test_strangers_are_no_part_of_it(monkeypatch):
    server = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(lifeline, "_server", lambda: server)
    monkeypatch.setattr(lifeline, "_lines", [])
    monkeypatch.setattr(lifeline, "_watch", lambda *_: None)
    known = (server.getsockname()[1], b"w" * 16)

    def come():
        for word in (b"GET / HTTP/1.1\r\n", known[1]):
            with socket.create_connection(("127.0.0.1", known[0])) as connection:
                connection.sendall(word)

    visitors = threading.Thread(target=come)
    visitors.start()
    lifeline.tie("127.0.0.1", 0, 2, lambda decide: known)
    visitors.join()
    (line,) = lifeline._lines
    assert len(line.connections) == 1
    line.connections[0].close()


def test_one_process_is_tied_to_nobody():
    lifeline.tie("nowhere", 0, 1, lambda decide: pytest.fail("agreed"))
    lifeline.leave()
    lifeline.stop()
    lifeline.fail()
    assert not lifeline._lines


def test_no_connection_is_no_error(monkeypatch):
    monkeypatch.setattr(lifeline, "_lines", [])
    lifeline.tie("127.0.0.1", 1, 2, lambda decide: (free_port(), b"w" * 16))
    (line,) = lifeline._lines
    assert not line.connections
