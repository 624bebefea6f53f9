"""The simulated clock, against hand-computed figures."""

import numpy as np
import pytest

from lipsjax import sites
from lipsjax.rounds import Turns
from lipsjax.sites import Device, Work
from lipsjax.sites.clock import link_seconds, step_seconds

SLOW = Device("slow", gflops=1.0, up_mbit=1.0, down_mbit=2.0)
FAST = Device("fast", gflops=10.0, up_mbit=10.0, down_mbit=20.0)
HALF = Device("half", gflops=5.0, up_mbit=4.0, down_mbit=8.0, availability=0.5)
THREE = (SLOW, FAST, HALF)
# 2 GFLOP a step; 4 Mbit up and 8 Mbit down in each of three rounds
WORK = Work(
    np.array([5, 10, 4]), np.full(3, 2e9), np.full((3, 3), 4_000_000), np.full((3, 3), 8_000_000)
)
# training 5 x 2, 10 x 0.2, 4 x 0.4; links 4 + 4, 0.4 + 0.4, 1 + 1; half is there half the time
SECONDS = [18.0, 2.8, 7.2]


def test_a_clock_of_three_clients_by_hand():
    np.testing.assert_allclose(step_seconds(THREE, 2e9), [2.0, 0.2, 0.4])
    np.testing.assert_allclose(link_seconds(THREE, 4e6, 8e6), [8.0, 0.8, 2.0])
    clock = sites.round_clock(THREE, WORK)
    np.testing.assert_allclose(clock.busy(4e6, 8e6), SECONDS)
    everyone = clock.of_round(0, np.arange(3), 4e6, 8e6)
    assert everyone["simulated_seconds"] == pytest.approx(18.0)
    assert everyone["idle_share"] == pytest.approx(1 - 28.0 / 54.0)
    two = clock.of_round(1, np.array([1, 2]), 4e6, 8e6)
    assert two["simulated_seconds"] == pytest.approx(7.2)


def test_bits_that_a_round_moves_count_and_not_those_of_others():
    clock = sites.round_clock(THREE, WORK)
    assert clock.of_round(0, np.array([0]), 0.0, 0.0)["simulated_seconds"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("deadline", "late", "expected"),
    [
        (18.0, "fewer_steps", (5, 10, 4)),
        (12.0, "fewer_steps", (2, 10, 4)),
        (9.9, "fewer_steps", (0, 10, 4)),
        (6.0, "fewer_steps", (0, 10, 2)),  # 6 s are 3 available ones, 1 of them for steps
        (1.3, "fewer_steps", (0, 2, 0)),
        (12.0, "left_out", (0, 10, 4)),
        (7.1, "left_out", (0, 10, 0)),
    ],
)
def test_a_deadline_by_hand(deadline, late, expected):
    whole = late == "left_out"
    assert sites.afford(THREE, [WORK], deadline=deadline, whole=whole).steps == expected
    clock = sites.round_clock(THREE, WORK, expected)
    assert clock.of_round(0, np.arange(3), 4e6, 8e6)["simulated_seconds"] <= deadline + 1e-9


@pytest.mark.parametrize(("late", "least"), [("fewer_steps", "1 s"), ("left_out", "2.8 s")])
def test_a_deadline_that_nobody_meets_says_which_one_would(late, least):
    with pytest.raises(ValueError, match=f"deadline must be at least {least}, .* not 0.5"):
        sites.afford(THREE, [WORK], deadline=0.5, whole=late == "left_out")
    shortest = float(least.split()[0])
    assert any(sites.afford(THREE, [WORK], deadline=shortest, whole=late == "left_out").steps)


def test_turns_by_hand():
    """Fast ends at 2.8, 5.6, ...; half at 7.2, 14.4; slow at 18."""
    clock, seconds = sites.turn_clock(THREE, WORK)
    np.testing.assert_allclose(seconds, SECONDS)
    table = sites.take_turns(seconds, buffer=2, updates=3)
    # fast waits from 2.8 for half at 7.2; they begin anew, fast at 10.0 waits for half at 14.4;
    # then fast at 17.2, and slow, from the first model, at 18.0
    np.testing.assert_array_equal(table.turns.clients, [[1, 2], [1, 2], [0, 1]])
    np.testing.assert_array_equal(table.turns.began, [[0, 0], [1, 1], [0, 2]])
    np.testing.assert_allclose(table.updates, [7.2, 14.4, 18.0])
    np.testing.assert_allclose(table.ended, [[2.8, 7.2], [10.0, 14.4], [18.0, 17.2]])
    clock = clock._replace(table=table)
    first = clock.of_round(0, np.array([1, 2]), 0, 0)
    assert first == pytest.approx({"simulated_seconds": 7.2, "idle_share": 4.4 / 14.4})
    last = clock.of_round(2, np.array([0, 1]), 0, 0)
    assert last == pytest.approx({"simulated_seconds": 3.6, "idle_share": 0.8 / 21.6})
    of_sites = clock.of_sites(rounds=3, cohort=2)
    assert [site["turns"] for site in of_sites] == [1, 3, 2]


@pytest.mark.parametrize("buffer", [1, 2, 3, 5])
def test_a_table_of_turns_holds_together(buffer):
    """Each client's turns follow each other, and none is in an update before it has ended."""
    rng = np.random.default_rng(buffer)
    seconds = rng.uniform(0.5, 9.0, 5)
    table = sites.take_turns(seconds, buffer=buffer, updates=40)
    turns = table.turns
    times = np.append(0.0, table.updates)
    assert (np.diff(table.updates) >= 0).all()
    for client in range(5):
        updates, place = np.nonzero(turns.clients == client)
        began = turns.began[updates, place]
        np.testing.assert_array_equal(began, np.append(0, updates + 1)[: len(began)])
        ended = table.ended[updates, place]
        np.testing.assert_allclose(ended - times[began], seconds[client])
        assert (ended <= table.updates[updates] + 1e-12).all()


def test_all_clients_in_a_buffer_wait_for_the_slowest_as_in_rounds():
    _, seconds = sites.turn_clock(THREE, WORK)
    table = sites.take_turns(seconds, buffer=3, updates=4)
    assert not table.turns.staleness.any()
    np.testing.assert_allclose(np.diff(table.updates, prepend=0.0), max(SECONDS))


def test_turns_need_the_same_bits_in_every_round():
    with pytest.raises(ValueError, match="every turn must move as much: here it is 1 to 3 bits up"):
        sites.turn_clock(THREE, WORK._replace(up_bits=np.array([[1], [2], [3]]) * [1, 1, 1]))


@pytest.mark.parametrize("buffer", [0, 4])
def test_a_buffer_is_of_clients(buffer):
    with pytest.raises(ValueError, match=f"buffer must be in 1..3, the clients, not {buffer}"):
        sites.take_turns(np.ones(3), buffer=buffer, updates=1)


def test_the_most_versions_are_those_of_the_slowest():
    turns = Turns(np.array([[1], [1], [0]]), np.array([[0], [1], [0]]))
    assert turns.versions == 3


def test_every_shipped_class_has_a_source():
    for name, device in sites.SHIPPED.items():
        assert device.name == name
        assert "top500-benchmark" in device.source
        assert "FCC" in device.source
        assert f"{device.gflops:g}" in device.source


HEAD = "device,gflops,up_mbit,down_mbit"
BAD = {
    "": "holds no sites",
    HEAD: "holds no sites",
    "device,gflops,up_mbit\nrig,1,1": "has no column down_mbit",
    f"{HEAD},speed\nrig,1,1,1,9": "column 'speed' is not read; allowed are site, device",
    f"{HEAD}\nrig,fast,1,1": "row 1: gflops must be a number, not 'fast'",
    f"{HEAD}\nrig,1,1,1\nrig,1,0,1": "row 2: up_mbit must be a number above 0, not 0",
    f"{HEAD}\nrig,nan,1,1": "row 1: gflops must be a number above 0, not nan",
    f"{HEAD}\nrig,1,1,-2": "row 1: down_mbit must be a number above 0, not -2",
    f"{HEAD},availability\nrig,1,1,1,1.5": r"availability must be in \(0, 1\], not 1.5",
    f"{HEAD},availability\nrig,1,1,1,0": "availability must be a number above 0, not 0",
    f"{HEAD},price_per_hour\nrig,1,1,1,-1": "price_per_hour must be a number at least 0, not -1",
    f"site,{HEAD}\na,rig,1,1,1\na,rig,1,1,1": "row 2: the site 'a' is there twice",
}


@pytest.mark.parametrize("text", BAD, ids=[str(i) for i in range(len(BAD))])
def test_tables_that_cannot_be_read(tmp_path, text):
    file = tmp_path / "sites.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=BAD[text]) as caught:
        sites.read(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv cannot be read: no such file"):
        sites.read(tmp_path / "none.csv")
