"""The smallest steps of measures, by hand: of whom and of how many examples they are counts."""

import numpy as np
import pytest

from helpers.edited_study import SMALL, edit, rows_of
from helpers.fake_study import write_study
from lipsjax.analysis.steps import denominator, steps_of
from lipsjax.recording import read_study


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Four clients of ninety test examples, and a global test set of at most 1000."""
    path = write_study(tmp_path_factory.mktemp("steps"), **SMALL, test_examples=90)
    return read_study(path).trials[0].recording


def changed(recording, *, accuracy=None, sizes=None, **config):
    """The recording with other fields of its config, test sizes and global accuracies."""
    recorded = dict(recording.config)
    for name, fields in config.items():
        recorded[name] = recorded[name] | fields
    if accuracy is not None:
        accuracy = {"global_accuracy": np.array(accuracy, np.float32).astype(float)}
        recording = recording._replace(scalars=recording.scalars | accuracy)
    if sizes is not None:
        counts = [[size, 0] for size in sizes]
        recording = recording._replace(setup={**recording.setup, "survey": {"test_counts": counts}})
    return recording._replace(config=recorded)


def test_personalised_accuracy_is_a_mean_over_the_clients_of_a_cohort(recording):
    assert steps_of(recording)["personalised"] == 1 / 360
    assert steps_of(changed(recording, sizes=[90, 50, 20, 10]))["personalised"] == 1 / 360
    assert steps_of(changed(recording, strategy={"cohort": 2}))["personalised"] == 1 / 180
    pooled = changed(recording, partition={"pooled": True}, sizes=[360])
    assert steps_of(pooled)["personalised"] == 1 / 360


def test_new_clients_are_counted_apart(recording):
    found = steps_of(changed(recording, partition={"new_clients": 2}, sizes=[9] * 4 + [5, 7]))
    assert found["personalised"] == 1 / 36
    assert found["new"] == found["new_tuned"] == 1 / 14
    assert "new" not in steps_of(recording)


@pytest.mark.parametrize("examples", [97, 360, 1000])
def test_the_size_of_a_global_test_set_is_told_from_its_accuracies(recording, examples):
    counts = np.random.default_rng(0).integers(0, examples, 20)
    told = changed(recording, accuracy=counts / examples)
    assert steps_of(told)["global"] == 1 / examples
    unbounded = changed(told, evaluation={"global_examples": None})
    assert steps_of(unbounded)["global"] == 1 / examples


def test_accuracies_that_tell_nothing_of_a_test_set_give_a_safe_step(recording):
    # no counts at all: the bound of the config, or what all clients have
    assert steps_of(recording)["global"] == 1 / 1000
    assert steps_of(changed(recording, evaluation={"global_examples": None}))["global"] == 1 / 360
    # a curve that does not change: no fewer than a client has, of the same split
    assert steps_of(changed(recording, accuracy=[0.5] * 20))["global"] == 1 / 30


def test_recordings_without_a_survey_take_what_was_asked_for(recording):
    old = recording._replace(setup={"layers": recording.setup["layers"]})
    assert steps_of(old)["personalised"] == 1 / (4 * 30)


def test_what_is_reached_in_rounds_moves_in_steps_of_evaluated_ones(recording):
    found = steps_of(changed(recording, evaluation={"every": 5}))
    assert (found["reached"], found["rounds_to_target"]) == (1, 5)
    np.testing.assert_allclose(found["bits_to_target"], 5 * 2 * 2.4e7)


def test_what_is_no_count_has_no_step(recording):
    found = steps_of(recording)
    assert not found.keys() & {"inertia", "inertia_end", "step", "seconds", "uplink_bits", "flops"}


def test_denominator_by_hand():
    assert denominator([1 / 3, 0.5], most=100) == 6
    assert denominator([0.0, 1.0], most=100) == 1
    assert denominator(np.float32([301 / 359, np.nan]), most=1000) == 359
    assert denominator([], most=100) is None
    assert denominator([np.nan], most=100) is None
    assert denominator([301 / 359], most=358) is None


def test_a_difference_moves_in_the_finer_step_of_its_arms(tmp_path):
    write_study(tmp_path, **SMALL, test_examples=90)
    edit(tmp_path, "lips", {"strategy": {"cohort": 2}})
    dense, lips = rows_of(tmp_path)
    assert (dense.steps["personalised"], lips.steps["personalised"]) == (1 / 360, 1 / 180)
    found = lips.differences["personalised"].interval
    # noise of 0.2 points is below a step: t(3, 0.975) / sqrt(4) = 1.591
    np.testing.assert_allclose(found.high - found.low, 2 * 1.5912232 / 360, rtol=1e-6)
