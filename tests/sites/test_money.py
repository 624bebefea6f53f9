"""What sites may spend: against hand-computed figures, and never more for any devices."""

import types

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lipsjax import sites
from lipsjax.analysis.hours import device_classes
from lipsjax.sites import Device, Work

# 0.001, 0.001 and 0.002 of money a second; half is there half the time
SLOW = Device("slow", 1.0, 1.0, 2.0, price_per_hour=3.6)
FAST = Device("fast", 10.0, 10.0, 20.0, price_per_hour=3.6)
HALF = Device("half", 5.0, 4.0, 8.0, availability=0.5, price_per_hour=7.2)
# 2 GFLOP a step; 4 Mbit up and 8 Mbit down. A turn takes 10 + 8, 2 + 0.8, (1.6 + 2) / 0.5 seconds
WORK = Work(
    np.array([5, 10, 4]), np.full(3, 2e9), np.full((3, 3), 4_000_000), np.full((3, 3), 8_000_000)
)
TURNS = 10.0


def with_budgets(*budgets):
    return [d._replace(budget=b) for d, b in zip((SLOW, FAST, HALF), budgets, strict=True)]


@pytest.mark.parametrize(
    ("budgets", "deadline", "late", "expected"),
    [
        # 12, 12 and 6 seconds a turn: 4 s of steps at slow; 3 s of half's device, 1 s of steps
        ((0.12, 0.12, 0.12), np.inf, "fewer_steps", (2, 10, 2)),
        ((0.12, 0.12, 0.12), np.inf, "left_out", (0, 10, 0)),
        ((0.18, 0.028, 0.144), np.inf, "left_out", (5, 10, 4)),  # to the last cent
        ((0.1799, 0.0279, 0.1439), np.inf, "fewer_steps", (4, 9, 3)),
        ((0.12, None, 0.12), 2.0, "fewer_steps", (0, 6, 0)),  # the deadline is the earlier one
        ((None, 0.02, None), 12.0, "fewer_steps", (2, 6, 4)),  # each is the earlier one somewhere
    ],
)
def test_a_budget_by_hand(budgets, deadline, late, expected):
    devices = with_budgets(*budgets)
    found = sites.afford(devices, [WORK], deadline=deadline, turns=TURNS, whole=late == "left_out")
    assert found.steps == expected


def test_a_device_without_a_price_is_bound_by_no_budget():
    free = [SLOW._replace(price_per_hour=0.0, budget=1e-9), FAST]
    two = Work(*(x[..., :2] for x in WORK))
    assert sites.afford(free, [two], turns=TURNS).steps == (5, 10)


@pytest.mark.parametrize(
    # a step of each costs 0.1, 0.01 and 0.048 in ten turns, a whole turn 0.18, 0.028 and 0.144
    ("whole", "least"),
    [(False, 0.01), (True, 0.028)],
)
def test_a_budget_that_nobody_keeps_to_says_which_one_would(whole, least):
    short = with_budgets(*[0.99 * least] * 3)
    message = rf"budget must be at least {least:g}, .* \(fast\) .* 10 turns, not {0.99 * least:g}"
    with pytest.raises(ValueError, match=message):
        sites.afford(short, [WORK], turns=TURNS, whole=whole)
    enough = with_budgets(*[least] * 3)
    assert sum(sites.afford(enough, [WORK], turns=TURNS, whole=whole).steps) >= 1


def test_who_is_late_anyway_does_not_say_what_budget_is_needed():
    devices = with_budgets(0.05, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"deadline must be at least 1 s, .* not 0\.5"):
        sites.afford(devices, [WORK], deadline=0.5, turns=TURNS)
    with pytest.raises(ValueError, match=r"budget must be at least 0\.1, .* \(slow\)"):
        sites.afford(devices[:1], [Work(*(x[..., :1] for x in WORK))], deadline=11, turns=TURNS)


@st.composite
def settings_of_sites(draw):
    number = st.floats(0.05, 50.0)
    clients = draw(st.integers(1, 5))
    devices = [
        Device(
            f"site {k}",
            *(draw(number) for _ in range(3)),
            availability=draw(st.floats(0.05, 1.0)),
            price_per_hour=draw(st.floats(0.0, 5.0)),
            budget=draw(st.none() | st.floats(1e-3, 1.0)),
        )
        for k in range(clients)
    ]
    rounds = draw(st.integers(1, 50))
    bits = np.array([[draw(st.integers(0, 10**7)) for _ in range(clients)]] * 2)
    steps = np.array([draw(st.integers(1, 30)) for _ in range(clients)])
    work = Work(steps, np.full(clients, draw(number) * 1e9), bits[:1], bits[1:])
    return devices, work, rounds, draw(st.integers(1, clients)), draw(st.booleans())


@given(settings_of_sites(), st.sampled_from([np.inf, 30.0, 1000.0]))
@settings(derandomize=True, deadline=None, max_examples=80, database=None)
def test_what_is_recorded_as_cost_is_never_above_the_budget(setting, deadline):
    """And whoever does fewer steps could not pay for, or would be late by, one more."""
    devices, work, rounds, cohort, whole = setting
    turns = rounds * cohort / len(devices)
    halved = work._replace(step_flops=work.step_flops / 2, up_bits=work.up_bits // 2)
    works = [work, halved]
    try:
        can = sites.afford(devices, works, deadline=deadline, turns=turns, whole=whole)
    except ValueError:
        assume(False)
    done = sites.chosen(works, can.choice)
    clock = sites.round_clock(devices, done, can.steps)
    recorded = clock.of_sites(rounds=rounds, cohort=cohort)
    run = types.SimpleNamespace(setup={"devices": recorded}, by={})
    one_more = clock._replace(steps=clock.steps + 1).of_sites(rounds=rounds, cohort=cohort)
    for found, device, more in zip(device_classes([run]), devices, one_more, strict=True):
        if not device.price_per_hour:
            assert np.isnan(found.cost.mean)
        elif device.budget is not None:
            assert found.cost.mean <= device.budget * (1 + 1e-8)
        if 0 < found.steps < 1 and device.price_per_hour:
            cost = device.price_per_hour * turns * more["turn_seconds"] / 3600
            over = device.budget is not None and cost > device.budget * (1 - 1e-8)
            assert over or more["turn_seconds"] > deadline * (1 - 1e-8)
