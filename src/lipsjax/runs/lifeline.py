"""What ties the processes of one command: where one ends before its time, the others end too.

JAX tells of it only where a process sends to the one that is gone. One that waits for it waits on,
until heartbeats have been missed for more than a minute and JAX ends the process in C++. So every
process holds a connection to process 0 on which nothing is said until one of them ends; whatever
ends a process, its system closes the connection. Imports nothing that takes time.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

LEAVES, STOPPED = b".", b"!"
"""What a process says that has done its work, and one that was asked to stop."""
MEET = 10.0
"""Seconds that processes wait for each other's connections."""
GRACE = 5.0
"""Seconds in which a process may end in a line of its own, where all fail for one reason."""
HEARD = 1.0
"""Seconds in which the others end, before process 0 does; without it, JAX would end them."""
ENDED = 2


class Lifeline(NamedTuple):
    """The connections of this process: of process 0 to all others, of these to process 0."""

    connections: list[socket.socket]
    is_main: bool

    def tell(self, word: bytes) -> None:
        """Say a word to those who are still there; process 0 waits until they have ended."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.sendall(word)
        if self.is_main and word == STOPPED:
            time.sleep(HEARD)


_lines: list[Lifeline] = []  # of this process: one, or none
_ending = threading.Lock()  # never let go: a process ends once, and says so once


def tie(host: str, index: int, count: int, agree: Callable[[Callable[[], Any]], Any]) -> None:
    """Connect this process to process 0, and watch the others in a thread for each.

    Where no connection can be made, as through a firewall, nothing is watched.

    Args:
      host: of process 0, as others reach it.
      index: of this process.
      count: of processes.
      agree: returns in all processes what a function returns in process 0.
    """
    if count == 1:
        return
    connections: list[socket.socket] = []
    with contextlib.ExitStack() as held:
        server = held.enter_context(_server()) if index == 0 else None
        port, word = agree(lambda: (server and server.getsockname()[1], os.urandom(16)))
        with contextlib.suppress(OSError):
            if server is None:
                connections.append(socket.create_connection((host.strip("[]"), port), timeout=MEET))
                connections[0].sendall(word)
            else:
                server.settimeout(MEET)
            while server is not None and len(connections) < count - 1:
                connection, _ = server.accept()
                connection.settimeout(MEET)
                if connection.recv(len(word)) == word:
                    connections.append(connection)
                else:  # a stranger's
                    connection.close()
    _lines[:] = [Lifeline(connections, index == 0)]
    for connection in connections:
        connection.settimeout(None)
        threading.Thread(target=_watch, args=(connection,), daemon=True).start()


def _server() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _watch(connection: socket.socket) -> None:
    said = b""
    with contextlib.suppress(OSError):  # of a connection that breaks
        said = connection.recv(1)
    if said == LEAVES:
        return
    if said != STOPPED:
        time.sleep(GRACE)
    end_alone()


def leave() -> None:
    """Tell the other processes that this one has done its work."""
    for line in _lines:
        line.tell(LEAVES)


def stop() -> None:
    """Tell the other processes that this one was asked to stop, and ends at once."""
    if _lines and _ending.acquire(blocking=False):
        _lines[0].tell(STOPPED)


def fail() -> None:
    """Let the other processes know that this one has failed, and end it if its end takes long.

    Where all fail for one reason they end in step; where one fails alone, its end in JAX would wait
    for the others.
    """
    if not _lines or not _ending.acquire(blocking=False):  # so that it is not told of itself
        return
    for line in _lines:
        for connection in line.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        after = threading.Timer(GRACE + HEARD if line.is_main else GRACE / 2, os._exit, [ENDED])
        after.daemon = True
        after.start()


def end_alone() -> NoReturn:
    """End without the others of several processes, for which the end of JAX waits and crashes."""
    _ending.acquire()
    with contextlib.suppress(OSError, ValueError):
        print(
            "error: another process of this command has ended, and its own last line says why; "
            "the same command, in all processes, goes on where it was",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
    for line in _lines:
        line.tell(STOPPED)
    os._exit(ENDED)
