"""What few seeds and coarse accuracies let one say: an effect by chance is none."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from helpers.edited_study import (
    LOCAL,
    POOLED,
    SMALL,
    edit,
    lips_and_controls,
    rows_of,
    study_with_controls,
)
from helpers.fake_study import with_accuracies, write_study
from lipsjax.analysis.comparison import compare
from lipsjax.analysis.controls import SALIENCY, controls_of
from lipsjax.analysis.diagnosis import diagnose
from lipsjax.analysis.finding import NO_DIFFERENCE, UNKNOWN, outcome
from lipsjax.analysis.value import appraise
from lipsjax.analysis.verdict import STUCK, findings, verdict
from lipsjax.recording import read_study
from lipsjax.report.summary import GO, advise, executive

PRICES = {"per_gb": 2.0, "per_device_hour": 3.0, "per_point": 10.0}


def one_example_ahead(path, seeds):
    """Lips is one of 360 test examples ahead of dense, in every seed."""
    study = read_study(write_study(path, **SMALL | {"seeds": seeds}, test_examples=90))
    dense = [(270 + 3 * seed) / 360 for seed in range(seeds)]
    return with_accuracies(study, {"dense": dense, "lips": [a + 1 / 360 for a in dense]})


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_one_example_more_in_every_seed_is_no_effect(tmp_path, seeds):
    study = one_example_ahead(tmp_path, seeds)
    _, lips = compare(study)
    word = outcome(lips, "personalised", up="helps", down="hurts")
    assert word == (UNKNOWN if seeds < 3 else NO_DIFFERENCE)
    found = lips.differences["personalised"]
    np.testing.assert_allclose(found.interval.mean, 1 / 360)
    assert found.p > 0.1
    assert advise(lips) != GO
    assert "helps" not in " ".join([*executive(study), *verdict(compare(study))])


def test_it_is_an_effect_in_many_seeds(tmp_path):
    _, lips = compare(one_example_ahead(tmp_path, 7))
    # t = sqrt(7) with 6 degrees of freedom
    found = lips.differences["personalised"]
    np.testing.assert_allclose(found.p, 2 * scipy_stats.t.sf(math.sqrt(7), 6))
    assert outcome(lips, "personalised", up="helps", down="hurts") == "helps"


def test_two_seeds_name_nothing_however_far_apart(tmp_path):
    rows = rows_of(write_study(tmp_path, gain=0.2, unstick=3.0, **SMALL | {"seeds": 2}))
    said = findings(rows, PRICES)
    told = {f.topic: f for f in said if f.subject == "lips against dense"}
    for topics, found in told.items():
        assert found.outcome == ("saved no bits" if topics == "Bits" else UNKNOWN)
    assert "two seeds are too few to name an effect" in told["Personalised accuracy"].detail
    (stuck,) = [f for f in said if f.topic == STUCK]
    assert stuck.outcome == UNKNOWN
    assert "two seeds are too few" in stuck.detail
    (value,) = appraise(rows, PRICES)
    assert (value.seen, value.outcome, value.break_even) == (UNKNOWN, UNKNOWN, None)
    assert "as two seeds are too few" in told["Value"].detail
    assert "nan" not in " ".join(f.sentence for f in said)


def test_a_price_of_accuracy_alone_names_nothing_either(tmp_path):
    rows = rows_of(write_study(tmp_path, gain=0.2, **SMALL | {"seeds": 2}))
    (said,) = [f for f in findings(rows, {"per_point": 1.0}) if f.topic == "Value"]
    assert said.outcome == UNKNOWN
    assert "two seeds are too few" in said.detail


def test_two_seeds_diagnose_nothing(tmp_path):
    study_with_controls(tmp_path, seeds=2)
    (found,) = diagnose(rows_of(tmp_path))
    assert (found.outcome, found.captured) == (UNKNOWN, {})
    said = [f for f in findings(rows_of(tmp_path)) if f.subject == "dense"]
    assert {f.outcome for f in said} == {UNKNOWN}
    assert "two seeds are too few" in said[0].detail
    setting = executive(read_study(tmp_path))[1]
    assert setting.startswith("Setting: cannot tell; ")
    assert "two seeds are too few" in setting


def test_two_seeds_are_not_stuck_by_inertia_alone(tmp_path):
    study_with_controls(tmp_path, seeds=2, inertia=-5.0)
    (found,) = diagnose(rows_of(tmp_path))
    assert found.outcome == UNKNOWN


def test_two_seeds_say_nothing_of_controls(tmp_path):
    gains = {"x": ({"criterion": "random"}, 0.2), "y": ({"operation": "scale"}, 0.2)}
    rows = rows_of(lips_and_controls(tmp_path, gains, seeds=2))
    assert {c.outcome() for c in controls_of(rows)} == {UNKNOWN}
    said = {f.topic: f for f in findings(rows) if f.subject == "lips against its controls"}
    assert said[SALIENCY].detail == "Cannot tell: no control has 3 seeds in common with it."
    assert "as two seeds are too few" in said["x (criterion random)"].detail


def test_equal_counts_are_no_merit_of_the_saliency(tmp_path):
    gains = {"x": ({"criterion": "random"}, 0.0)}
    study = read_study(lips_and_controls(tmp_path, gains, seeds=3, test_examples=90))
    ends = {"dense": [0.75] * 3, "lips": [0.75 + 1 / 360] * 3, "x": [0.75] * 3}
    (found,) = controls_of(compare(with_accuracies(study, ends)))
    assert found.outcome() == NO_DIFFERENCE


def test_equal_gains_do_not_break_even_at_an_exact_price(tmp_path):
    path = write_study(tmp_path, bits_ratio=2.0, **SMALL | {"seeds": 3}, test_examples=90)
    ends = {"dense": [0.75] * 3, "lips": [0.75 + 36 / 360] * 3}
    rows = compare(with_accuracies(read_study(path), ends))
    (value,) = appraise(rows, {"per_gb": 1.0, "per_point": 1.0})
    # ten points, give or take t(2, 0.975) / sqrt(3) = 2.484 examples of 360
    half = 100 * 2.4841377 / 360
    np.testing.assert_allclose(value.gain[1:3], [10 - half, 10 + half], rtol=1e-6)
    np.testing.assert_allclose(value.benefit[1:3], value.gain[1:3])
    extra = value.extra.mean
    assert value.extra.low == value.extra.high  # bits are counted
    bounds = [extra / (10 + half), extra / (10 - half)]
    np.testing.assert_allclose(value.break_even[1:3], bounds, rtol=1e-6)
    assert value.net.high - value.net.low > half


def test_equal_counts_are_no_share_of_what_pooling_gains(tmp_path):
    """Pooled is one example ahead of training alone in each of three seeds."""
    path = write_study(tmp_path, arms=("dense", "A", "B"), **SMALL | {"seeds": 3}, test_examples=90)
    edit(path, "A", LOCAL)
    edit(path, "B", POOLED)
    edit(path, "dense", {"sparsity": None})
    ends = {"dense": [0.75] * 3, "A": [0.75] * 3, "B": [0.75 + 1 / 360] * 3}
    (found,) = diagnose(compare(with_accuracies(read_study(path), ends)))
    assert "personalised" not in found.captured
    assert found.loss["personalised"].low < 0


def test_equal_rounds_to_the_target_scatter_by_an_evaluation(tmp_path):
    write_study(tmp_path, **SMALL | {"seeds": 3}, evaluate_every=5)
    edit(tmp_path, "dense", {"evaluation": {"every": 5}})
    edit(tmp_path, "lips", {"evaluation": {"every": 5}})
    _, lips = rows_of(tmp_path)
    found = lips.differences["rounds_to_target"].interval
    assert found.high - found.low >= 2 * scipy_stats.t.ppf(0.975, 2) * 5 / math.sqrt(3) - 1e-9


def test_chance_finds_nothing_more_often_than_is_said(tmp_path):
    """Twenty null arms of three seeds, whose accuracies are counts of 360 examples.

    Differences have a deviation of about one example: equal in all three seeds every third study.
    """
    arms = ("dense", *(f"a{i}" for i in range(20)))
    path = write_study(tmp_path, arms=arms, seeds=3, rounds=2, clients=4, test_examples=90)
    study, rng, false = read_study(path), np.random.default_rng(0), 0
    studies = 12
    for _ in range(studies):
        ends = {arm: (np.rint(rng.normal(270, 0.7, 3)) / 360).tolist() for arm in arms}
        rows = compare(with_accuracies(study, ends))
        words = {outcome(row, "personalised", up="+", down="-") for row in rows[1:]}
        false += bool(words & {"+", "-"})
    least = scipy_stats.binomtest(false, studies).proportion_ci(0.95, "exact").low
    assert least <= 0.05, f"{false} of {studies} null studies have a finding"
