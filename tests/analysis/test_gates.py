"""Gates by hand: where intervals lie, how many seeds settle them, and what is never decided."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from helpers.edited_study import LOCAL, SMALL, edit
from helpers.fake_study import with_accuracies, with_diverged, with_sites, write_study
from lipsjax.analysis.gates import (
    GO,
    NO_GO,
    OPEN,
    Gate,
    GateResult,
    decide,
    judge,
    seeds_wanted,
    verdict,
)
from lipsjax.analysis.sites import worst_sites
from lipsjax.analysis.stats import Interval, mean_interval
from lipsjax.recording import read_study

GAIN = Gate(gate="gain", arm="lips", over="dense", at_least=1.0)
BITS = Gate(gate="bits", arm="lips", at_most=100.0)
MINUTES = Gate(gate="minutes", arm="lips", at_most=2.0)


@pytest.mark.parametrize(
    ("gate", "low", "high", "word"),
    [
        (GAIN, 1.0, 3.0, GO),  # the bound itself is good enough
        (GAIN, 1.1, 3.0, GO),
        (GAIN, 0.9, 3.0, OPEN),
        (GAIN, -1.0, 1.0, OPEN),  # so good it may be
        (GAIN, -1.0, 0.9, NO_GO),
        (MINUTES, 1.0, 2.0, GO),
        (MINUTES, 1.0, 2.1, OPEN),
        (MINUTES, 2.0, 2.1, OPEN),
        (MINUTES, 2.1, 2.2, NO_GO),
    ],
)
def test_an_interval_decides_and_not_its_mean(gate, low, high, word):
    assert decide(gate, Interval((low + high) / 2, low, high, 5)).word == word


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_seeds_decide_nothing(n):
    found = decide(GAIN, Interval(50.0, 49.0, 51.0, n))
    assert (found.word, found.seeds) == (OPEN, 3)
    assert "fewer than 3 seeds" in found.why


def test_equal_bits_are_counted_and_decided_by_one_seed():
    assert decide(BITS, Interval(100.0, 100.0, 100.0, 1)).word == GO
    assert decide(BITS, Interval(101.0, 101.0, 101.0, 1)).word == NO_GO
    assert decide(BITS, Interval(50.0, math.nan, math.nan, 1)).word == OPEN
    # an accuracy of no spread is not exact
    assert decide(GAIN, Interval(9.0, 9.0, 9.0, 2)).word == OPEN


def test_what_was_not_measured_stays_open_and_asks_for_no_seeds():
    found = decide(GAIN, Interval(math.nan, math.nan, math.nan, 5))
    assert found == GateResult(GAIN, found.interval, OPEN, None, "not measured in every seed")


def test_what_diverged_is_no_go_but_never_a_go():
    passing, failing = Interval(5.0, 4.0, 6.0, 4), Interval(-5.0, -6.0, -4.0, 4)
    found = decide(GAIN, passing, diverged="lips diverged in 1 of 5 seeds")
    assert (found.word, found.seeds, found.why) == (OPEN, None, "lips diverged in 1 of 5 seeds")
    assert decide(GAIN, failing, diverged="lips diverged in 1 of 5 seeds").word == NO_GO
    assert decide(GAIN, Interval(1.0, 0.0, 2.0, 2), diverged="x").seeds is None


@pytest.mark.parametrize("away", [0.9, 0.5, 0.2, -0.7])
@pytest.mark.parametrize("seed", range(4))
def test_seeds_asked_for_are_the_fewest_that_clear_the_bound(away, seed):
    """Of SciPy's t, at the mean and deviation seen; the bound lies so far from the mean."""
    values = np.random.default_rng(seed).normal(0.0, 2.0, 6)
    distance = away * reaches(values, 6)
    gate = dataclasses.replace(GAIN, at_least=values.mean() - distance)
    found = decide(gate, mean_interval(values))
    assert found.word == OPEN
    assert reaches(values, found.seeds) <= abs(distance) < reaches(values, found.seeds - 1)


def reaches(values, n):
    """Half the width of an interval of so many seeds."""
    return stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)


@pytest.mark.parametrize("away", [0.0, 1e-300, 1e-9, 0.001])
def test_a_mean_at_its_bound_asks_for_no_number_of_seeds(away):
    found = decide(GAIN, Interval(1.0 + away, -1.0 + away, 3.0 + away, 5))
    assert (found.word, found.seeds) == (OPEN, None)
    assert "1000 seeds would not settle it" in found.why


def of(word, seeds=None):
    return GateResult(GAIN, Interval(0.0, 0.0, 0.0, 5), word, seeds)


@pytest.mark.parametrize(
    ("results", "word", "seeds"),
    [
        ([of(GO), of(GO)], GO, None),
        ([of(GO), of(OPEN, 7), of(OPEN, 12)], OPEN, 12),
        ([of(OPEN), of(OPEN, 7)], OPEN, 7),
        ([of(OPEN)], OPEN, None),
        ([of(OPEN, 7), of(NO_GO), of(GO)], NO_GO, 7),
    ],
)
def test_a_stage_is_as_good_as_its_worst_gate(results, word, seeds):
    assert (verdict(results), seeds_wanted(results)) == (word, seeds)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """Three arms with accuracies known by hand, in four seeds."""
    out = write_study(tmp_path_factory.mktemp("gates"), arms=("dense", "lips", "local"), **SMALL)
    edit(out, "local", LOCAL)
    ends = {
        "dense": [0.50, 0.52, 0.54, 0.56],
        "lips": [0.53, 0.55, 0.56, 0.60],  # 3, 3, 2 and 4 points more
        "local": [0.30, 0.40, 0.40, 0.30],
    }
    return with_accuracies(read_study(out), ends)


def number(study, **fields):
    (found,) = judge(study, [Gate(**fields)])
    return found.interval


def test_gains_are_seed_by_seed_and_in_points(made_up):
    found = number(made_up, gate="gain", arm="lips", over="dense", at_least=0)
    t = stats.ttest_1samp([3.0, 3.0, 2.0, 4.0], 0.0).confidence_interval(0.95)
    assert found == pytest.approx((3.0, t.low, t.high, 4))
    alone = number(made_up, gate="over_alone", arm="dense", over="local", at_least=0)
    assert alone.mean == pytest.approx(np.mean([20, 12, 14, 26]))


def test_levels_are_in_percent(made_up):
    found = number(made_up, gate="accuracy", arm="dense", at_least=50)
    assert found.mean == pytest.approx(53.0)
    t = stats.t.interval(0.95, 3, 53.0, np.std([50, 52, 54, 56], ddof=1) / 2)
    assert found[1:3] == pytest.approx(t)


def test_costs_of_a_run(made_up):
    bits = number(made_up, gate="bits", arm="lips", at_most=1)
    assert bits == (20 * 4.8e7, 20 * 4.8e7, 20 * 4.8e7, 4)  # twenty rounds, up and down
    seconds = [t.recording.seconds for t in made_up.trials if t.arm == "lips"]
    minutes = number(made_up, gate="minutes", arm="lips", at_most=1)
    assert minutes == pytest.approx(mean_interval(np.array(seconds) / 60))
    priced = made_up._replace(prices={"per_gb": 2.0, "per_device_hour": None, "per_point": None})
    money = number(priced, gate="money", arm="lips", at_most=1)
    assert money[:3] == pytest.approx([2.0 * 20 * 4.8e7 / 8e9] * 3)


SITES = {  # arm -> seed -> site
    "dense": [
        [0.5, 0.9, 0.7, 0.8],
        [0.6, 0.5, 0.9, 0.8],
        [0.7, 0.7, 0.7, 0.4],
        [0.8, 0.6, 0.9, 0.9],
    ],
    "lips": [
        [0.7, 0.6, 0.9, 0.9],
        [0.9, 0.5, 0.9, 0.9],
        [0.6, 0.6, 0.6, 0.6],
        [0.9, 0.9, 0.9, 0.7],
    ],
    "local": [[0.1, 0.2, 0.3, 0.4]] * 4,
}


def test_the_worst_site_is_another_one_in_every_seed(made_up):
    study = with_sites(made_up, SITES)
    assert dict(worst_sites(study, 0, "dense").accuracies) == {0: 0.5, 1: 0.5, 2: 0.4, 3: 0.6}
    level = number(study, gate="worst_site", arm="dense", at_least=0)
    assert level == pytest.approx(mean_interval([50.0, 50.0, 40.0, 60.0]))
    # 0.6, 0.5, 0.6, 0.7 less 0.5, 0.5, 0.4, 0.6
    apart = number(study, gate="worst_site", arm="lips", over="dense", at_least=0)
    assert apart == pytest.approx(mean_interval([10.0, 0.0, 20.0, 10.0]))


def test_equal_worst_sites_vary_by_a_test_example(made_up):
    alone = number(with_sites(made_up, SITES), gate="worst_site", arm="local", at_least=0)
    half = stats.t.ppf(0.975, 3) * 100 / 10_000 / 2  # of the 10,000 examples of each made-up site
    assert alone == pytest.approx((10.0, 10.0 - half, 10.0 + half, 4))


def test_sites_that_are_not_recorded_leave_the_gate_open(made_up):
    (found,) = judge(made_up, [Gate(gate="worst_site", arm="lips", at_least=0)])
    assert found.word == OPEN
    assert found.interval.n == 0


def test_arms_that_diverged(made_up):
    gates = [
        dataclasses.replace(GAIN, at_least=-50.0),
        Gate(gate="accuracy", arm="dense", at_least=5),
    ]
    some = with_diverged(made_up, ("lips", 0))
    gain, level = judge(some, gates)
    assert (gain.word, gain.why) == (OPEN, "lips diverged in 1 of 4 seeds")
    assert level.word == GO
    every = with_diverged(made_up, *(("lips", seed) for seed in range(4)))
    gain, level = judge(every, gates)
    assert (gain.word, gain.why) == (NO_GO, "lips diverged in every seed")
    nothing = made_up._replace(trials=(), diverged=every.diverged)
    assert [d.word for d in judge(nothing, gates)] == [NO_GO, NO_GO]
    # what it is compared with diverged: nothing is known of the arm itself
    reference = with_diverged(made_up, *(("dense", seed) for seed in range(4)))
    (gain, _) = judge(reference, gates)
    assert (gain.word, gain.why) == (OPEN, "dense diverged in 4 of 4 seeds")
