"""Is a setting stuck, and is it the saliency? On made-up studies whose answers are known."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from helpers.edited_study import LOCAL, SMALL, edit, lips_and_controls, rows_of, study_with_controls
from helpers.fake_study import write_study
from lipsjax.analysis.comparison import compare
from lipsjax.analysis.controls import BETTER, SALIENCY, controls_of, is_lips
from lipsjax.analysis.diagnosis import NOT_STUCK, SETTING, STUCK, diagnose
from lipsjax.analysis.finding import NO_DIFFERENCE, UNKNOWN
from lipsjax.analysis.stats import holm
from lipsjax.analysis.verdict import findings
from lipsjax.recording import read_study

# Diagnosis


@pytest.mark.parametrize(
    ("pooled", "inertia", "outcome"),
    [
        (0.05, 0.0, STUCK),
        (0.0, 0.0, NOT_STUCK),  # nothing lost to pooled data
        (-0.2, 0.0, NOT_STUCK),
        (0.05, -2.0, NOT_STUCK),  # the middle layers move more
        (0.01, 0.0, UNKNOWN),  # about at the threshold
        (0.05, math.nan, UNKNOWN),
    ],
)
def test_outcomes_by_the_stated_thresholds(tmp_path, pooled, inertia, outcome):
    (found,) = diagnose(rows_of(study_with_controls(tmp_path, pooled=pooled, inertia=inertia)))
    assert (found.arm, found.local, found.pooled) == ("dense", "A", "B")
    assert found.outcome == outcome


def test_intervals_are_those_of_scipys_paired_test(tmp_path):
    study_with_controls(tmp_path)
    study = read_study(tmp_path)
    end = {
        arm: [
            np.mean(t.recording.scalars["accuracy_dense"][-2:])
            for t in study.trials
            if t.arm == arm
        ]
        for arm in study.arms
    }
    (found,) = diagnose(compare(study))
    for interval, (a, b) in ((found.gain, ("dense", "A")), (found.loss, ("B", "dense"))):
        expected = scipy_stats.ttest_rel(end[a], end[b]).confidence_interval(0.95)
        np.testing.assert_allclose(interval["personalised"][1:3], expected, rtol=1e-9)
    # by hand: (dense - A) / (B - A), of means
    dense, alone, pooled = (np.mean(end[arm]) for arm in ("dense", "A", "B"))
    share = found.captured["personalised"].mean
    np.testing.assert_allclose(share, (dense - alone) / (pooled - alone))
    np.testing.assert_allclose(share, 0.1 / 0.15, atol=0.03)


def test_a_share_is_given_only_where_there_is_something_to_share(tmp_path):
    (found,) = diagnose(rows_of(study_with_controls(tmp_path, pooled=-0.1, local=0.0)))
    assert "personalised" not in found.captured
    shares = [f for f in findings(rows_of(tmp_path)) if f.topic.startswith("Share")]
    assert "B is not clearly ahead of A" in shares[0].detail


def test_global_accuracy_of_clients_alone_is_that_of_their_own_models(tmp_path):
    study_with_controls(tmp_path)
    rows = {row.arm: row for row in rows_of(tmp_path)}
    runs = [t.recording for t in read_study(tmp_path).trials if t.arm == "A"]
    own = np.mean([run.scalars["global_accuracy_clients"][-2:].mean() for run in runs])
    np.testing.assert_allclose(rows["A"].means["global"].mean, own)
    edit(tmp_path, "A", global_accuracy_clients=math.nan)
    (found,) = diagnose(rows_of(tmp_path))
    assert math.isnan(found.gain["global"].mean)
    text = " ".join(f.sentence for f in findings(rows_of(tmp_path)))
    assert "global accuracy: not measured in every seed of both arms" in text


def test_what_is_missing_is_said(tmp_path):
    write_study(tmp_path, **SMALL)
    (found,) = diagnose(rows_of(tmp_path))
    assert found.outcome == UNKNOWN
    assert (found.local, found.pooled, found.gain, found.loss) == (None, None, {}, {})
    (said,) = [f for f in findings(rows_of(tmp_path)) if f.topic == SETTING]
    assert "no arm trains on pooled data" in said.detail
    assert "no arm trains alone" in said.detail


def test_sentences_state_intervals_and_thresholds(tmp_path):
    rows = rows_of(study_with_controls(tmp_path))
    said = {f.topic: f for f in findings(rows)}
    assert said[SETTING].detail.startswith("Stuck: B against dense +")
    assert "more than 1 point" in said[SETTING].detail
    assert "Decided on personalised accuracy" in said[SETTING].detail
    assert said["Federating against training alone (A)"].outcome == "gains"
    assert said["Pooled data (B) against federating"].outcome == "pooled is ahead"
    assert "nan" not in " ".join(f.sentence for f in findings(rows))


def test_the_arm_that_is_judged_is_dense_even_if_the_first_is_a_control(tmp_path):
    write_study(tmp_path, arms=("alone", "fed", "lips"), **SMALL)
    edit(tmp_path, "alone", LOCAL)
    edit(tmp_path, "fed", {"sparsity": None})
    (found,) = diagnose(rows_of(tmp_path))
    assert (found.arm, found.local) == ("fed", "alone")


def test_no_dense_arm_is_no_diagnosis(tmp_path):
    write_study(tmp_path, arms=("alone",), **SMALL)
    edit(tmp_path, "alone", LOCAL)
    assert diagnose(rows_of(tmp_path)) == []


def test_cells_are_diagnosed_each_and_counted(tmp_path):
    study_with_controls(tmp_path, cells=("a", "b", "c"))
    rows = rows_of(tmp_path)
    assert [(d.cell, d.outcome) for d in diagnose(rows)] == [(c, STUCK) for c in "abc"]
    (said,) = [f for f in findings(rows) if f.topic == SETTING]
    assert said.detail == "stuck in all 3 cells."


def test_one_seed_cannot_tell(tmp_path):
    (found,) = diagnose(rows_of(study_with_controls(tmp_path, seeds=1)))
    assert found.outcome == UNKNOWN


# Controls of LIPS


def test_controls_are_found_by_config_and_compared_seed_by_seed(tmp_path):
    gains = {
        "x": ({"criterion": "random"}, 0.1),
        "y": ({"hold": 5, "sharing": "shared"}, 0.0),
        "z": ({"operation": "scale"}, -0.1),
        "sparser": ({"density": 0.1}, 0.1),  # still LIPS
    }
    rows = rows_of(lips_and_controls(tmp_path, gains))
    found = controls_of(rows)
    assert [(c.control, c.differs, c.outcome()) for c in found] == [
        ("x", "criterion random", BETTER),
        ("y", "sharing shared, hold 5", NO_DIFFERENCE),
        ("z", "operation scale", "worse"),
    ]
    by_arm = {row.arm: row for row in rows}
    a, b = ([by_arm[arm].values[s]["personalised"] for s in range(4)] for arm in ("lips", "x"))
    expected = scipy_stats.ttest_rel(a, b)
    np.testing.assert_allclose(found[0].differences["personalised"].p, expected.pvalue)
    np.testing.assert_allclose(
        [c.adjusted["personalised"] for c in found],
        holm([c.differences["personalised"].p for c in found]),
    )
    said = [f for f in findings(rows) if f.subject == "lips against its controls"]
    assert [f.topic for f in said[:2]] == [SALIENCY, "x (criterion random)"]
    assert said[0].outcome == "not shown"
    assert "better than 1 of 2 (x), worse than 1 of 2 (z)" in said[0].detail


def test_better_than_all_is_the_saliency(tmp_path):
    gains = {"x": ({"criterion": "random"}, 0.1), "y": ({"hold": 5}, 0.1)}
    rows = rows_of(lips_and_controls(tmp_path, gains))
    (said,) = [f for f in findings(rows) if f.topic == SALIENCY]
    assert said.outcome == "the saliency"


@pytest.mark.parametrize(
    ("control", "word"),
    [
        ({"criterion": "magnitude"}, "the saliency"),
        ({"operation": "shrink_perturb"}, "the saliency"),
        ({"criterion": "inverted"}, UNKNOWN),  # the opposite does not stand for any disturbance
        ({"hold": 5}, UNKNOWN),  # chosen by saliency too
        ({"sharing": "shared"}, UNKNOWN),
    ],
)
def test_which_controls_can_show_the_saliency(tmp_path, control, word):
    rows = rows_of(lips_and_controls(tmp_path, {"x": (control, 0.1)}))
    (said,) = [f for f in findings(rows) if f.topic == SALIENCY]
    assert said.outcome == word


@pytest.mark.parametrize("other", [{"density": 0.05}, {"every": 1}, {"refill": "init"}])
def test_a_control_differs_in_nothing_else(tmp_path, other):
    rows = rows_of(lips_and_controls(tmp_path, {"x": ({"criterion": "random", **other}, 0.1)}))
    assert controls_of(rows) == []


def test_one_seed_tells_nothing_of_controls(tmp_path):
    rows = rows_of(lips_and_controls(tmp_path, {"x": ({"criterion": "random"}, 0.1)}, seeds=1))
    (said,) = [f for f in findings(rows) if f.topic == SALIENCY]
    assert said.outcome == UNKNOWN


def test_another_strategy_is_no_control(tmp_path):
    rows = rows_of(lips_and_controls(tmp_path, {"x": ({"criterion": "random"}, 0.1)}))
    edit(tmp_path, "x", {"strategy": {"name": "fedprox"}})
    assert len(controls_of(rows)) == 1
    assert controls_of(rows_of(tmp_path)) == []


def test_lips_by_config():
    assert is_lips({"sparsity": {"density": 0.3, "criterion": "saliency"}})  # an older recording
    assert not is_lips({"sparsity": {"criterion": "inverted"}})
    assert not is_lips({"sparsity": None})
    assert not is_lips({})
