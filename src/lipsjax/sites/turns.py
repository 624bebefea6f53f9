"""Who takes part in which update, where the server waits for nobody: known before the run."""

import heapq
from typing import NamedTuple

import numpy as np

from lipsjax.rounds import Turns


class Timetable(NamedTuple):
    """When turns end, in seconds from the start."""

    turns: Turns
    updates: np.ndarray  # [T] float64, when each update is made
    ended: np.ndarray  # [T, C] float64, when each of its turns ended


def take_turns(seconds: np.ndarray, *, buffer: int, updates: int) -> Timetable:
    """Let clients take turns of a known length, and the server update on every so many of them.

    All begin at 0 with version 0. The server updates as soon as ``buffer`` turns have ended, which
    takes no time. A client whose turn is in an update begins anew at once, with the version that
    the update has made; until then it waits, so that no client is twice in one update. Turns that
    end at the same time count in the order of the clients.

    Args:
      seconds: [K] float, of a turn of each client, above 0.
      buffer: C turns of an update, in 1..K.
      updates: T.

    Returns:
      Whose turns, and when.

    Raises:
      ValueError: for a buffer out of range.

    References:
      Nguyen et al., arXiv 2106.06639, where a server replaces who has sent by another client.

    Example:
      >>> table = take_turns(np.array([1.0, 1.0, 4.5]), buffer=2, updates=5)
      >>> table.updates.tolist()  # the third client is in the last update
      [1.0, 2.0, 3.0, 4.0, 5.0]
      >>> table.turns.clients[-1].tolist(), table.turns.staleness[-1].tolist()
      ([0, 2], [0, 4])
    """
    clients = len(seconds)
    if not 1 <= buffer <= clients:
        raise ValueError(f"buffer must be in 1..{clients}, the clients, not {buffer}")
    at_work = [(float(each), k) for k, each in enumerate(seconds)]
    heapq.heapify(at_work)
    version = np.zeros(clients, np.int64)
    members, began, times, ended = [], [], [], []
    for update in range(updates):
        arrived = [heapq.heappop(at_work) for _ in range(buffer)]
        now = arrived[-1][0]
        of_client = sorted((k, end) for end, k in arrived)
        ids = [k for k, _ in of_client]
        members.append(ids)
        began.append(version[ids])
        ended.append([end for _, end in of_client])
        times.append(now)
        version[ids] = update + 1
        for k in ids:
            heapq.heappush(at_work, (now + float(seconds[k]), k))
    return Timetable(Turns(np.array(members), np.array(began)), np.array(times), np.array(ended))
