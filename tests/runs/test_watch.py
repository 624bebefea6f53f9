"""How long a sweep will still take, and what is seen meanwhile."""

import io
import itertools
import types
from typing import NamedTuple
from unittest import mock

import pytest
from rich.console import Console

from lipsjax.runs import watch
from lipsjax.runs.trial import Progress
from lipsjax.runs.watch import Call, Watch, time_left

CALLS, ROUNDS = 4, 10


class Program(NamedTuple):
    once: float  # seconds before its first round
    pace: float  # seconds of a round


def recorded(programs, seeds: int, workers: int):
    """Yields the calls of a sweep as a clock would see them, with what is left after each.

    Written out by hand: workers take the trials of their own program, then those of one that
    nobody has begun, then any.
    """
    waiting: dict[str, int] = dict.fromkeys(programs, seeds)
    clocks, own, events = [0.0] * workers, [""] * workers, []
    begun: set[tuple[int, str]] = set()
    while any(waiting.values()):
        worker = min(range(workers), key=lambda i: clocks[i])
        names = [name for name, count in waiting.items() if count]
        fresh = [name for name in names if name not in own]
        name = own[worker] if own[worker] in names else [*fresh, names[-1]][0]
        waiting[name] -= 1
        once = 0.0 if (worker, name) in begun else programs[name].once
        begun.add((worker, name))
        own[worker] = name
        for call in range(CALLS):
            seconds, apart = ROUNDS * programs[name].pace, 0.0 if call else once
            clocks[worker] += seconds + apart
            events.append((clocks[worker], Call(name, ROUNDS, seconds, apart)))
    events.sort(key=lambda event: event[0])
    left = dict.fromkeys(programs, seeds * CALLS * ROUNDS)
    for number, (at, call) in enumerate(events, start=1):
        left = left | {call.program: left[call.program] - ROUNDS}
        yield at, [each for _, each in events[:number]], left, max(clocks) - at


ALIKE = {name: Program(9.0, 0.05) for name in ("dense", "local", "pooled", "lips")}
APART = {"dense": Program(6.0, 0.05), "local": Program(8.0, 0.04), "lips": Program(12.0, 0.06)}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("programs", [ALIKE, APART], ids=["alike", "apart"])
def test_time_left_is_near_what_is_left(programs, workers):
    longest = max(each.once for each in programs.values())
    for _, calls, left, truth in recorded(programs, 5, workers):
        assert time_left(calls, left, workers=workers) == pytest.approx(truth, rel=0.1, abs=longest)


def test_compiling_is_not_multiplied_by_rounds():
    """After the first of 80 calls: a rule of three of all the time so far says seven times."""
    at, calls, left, truth = next(recorded(ALIKE, 5, 1))
    assert at / ROUNDS * sum(left.values()) > 7 * truth
    assert time_left(calls, left) == pytest.approx(truth)


def test_nothing_is_known_before_the_first_call():
    assert time_left([], {"dense": 40}) is None
    assert time_left([Call("dense", 10, 1.0, 5.0)], {"dense": 0, "lips": 0}) == 0.0


def test_a_program_that_is_slower_is_known_to_be():
    calls = [Call("fast", 10, 1.0, 0.0), Call("slow", 10, 9.0, 0.0)]
    assert time_left(calls, {"fast": 10}) == 1.0
    assert time_left(calls, {"slow": 10}) == 9.0
    assert time_left(calls, {"other": 10}) == 5.0


@pytest.fixture
def clock(monkeypatch):
    """Returns what sets the time."""
    now = [0.0]
    monkeypatch.setattr(watch, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, seconds)


def test_lines_of_a_sweep_count_what_is_done_once_apart(clock):
    out = io.StringIO()
    with (
        mock.patch.object(watch, "make_console", return_value=Console(file=out, width=100)),
        Watch(trials=3, rounds={"a": 40, "b": 20}) as shown,
    ):
        for name, program, begin, ends in (
            ("a, seed 0", "a", 0, (10, 11)),  # 9 s once, 1 s ten rounds
            ("a, seed 1", "a", 11, (13.5, 14.5)),  # 1.5 s more at the begin of each trial
            ("b, seed 0", "b", 14.5, (23.5, 24.5)),
        ):
            clock(begin)
            report = shown.begin(name, 20, program=program)
            for done, (at, before) in enumerate(itertools.pairwise((begin, *ends)), start=1):
                clock(before)
                compiled = 8.5 if before - at > 5 else 0.0
                newest = {"accuracy_dense": 0.5}
                report(Progress(10 * done, 20, newest, 1.0, 10, compiled))
    lefts = [line.split()[-2] for line in out.getvalue().splitlines()]
    # 50 rounds of 0.1 s and 9 s to begin b; 40 rounds; 30 of 0.15 s; 20 of 0.1375 s; 10 of 0.1 s
    assert lefts == ["0:14", "0:13", "0:14", "0:12", "0:01", "0:00"]


def test_compiling_shows_a_clock():
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    with mock.patch.object(watch, "make_console", return_value=console):
        shown = Watch(trials=2, rounds=80)
    report = shown.begin("shrink_perturb, train_examples 10, seed 0", 40, worker=1)
    report(Progress(10, 40, {"accuracy_dense": 0.5}, 1.0, 10))
    shown.begin("dense, seed 0", 40)
    bar = shown._progress.tasks[-1]
    bar.start_time = shown._progress.get_time() - 74.5
    console.print(shown._progress)
    first, second, third = out.getvalue().splitlines()  # of 80 columns each: nothing is wrapped
    assert "all rounds" in first
    assert "rounds/s" in second
    assert ", seed 0" in second
    assert "2/2 dense, seed 0" in third
    assert "compiling 1:15" in third
