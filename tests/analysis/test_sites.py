"""Sites one by one: answers known by hand, and what no seed may be read as."""

import math

import numpy as np
import pytest

from helpers.fake_study import with_sites, write_study
from lipsjax.analysis.finding import NO_DIFFERENCE, UNKNOWN
from lipsjax.analysis.sites import site_tables
from lipsjax.recording import read_study

NAMES = ("Brno", "Ghent", "Ulm")
ENDS = {
    "dense": [[0.5, 0.8, 0.7], [0.52, 0.78, 0.7], [0.54, 0.82, 0.7]],
    "local": [[0.3, 0.9, 0.7], [0.3, 0.9, 0.68], [0.3, 0.9, 0.72]],
    "lips": [[0.6, 0.8, 0.7], [0.6, 0.82, 0.7], [0.6, 0.78, 0.7]],
}


def study_of(path, ends=ENDS, *, seeds=3, clients=3, test_examples=1000, **options):
    arms = tuple(ends)
    write_study(
        path, arms=arms, seeds=seeds, clients=clients, rounds=10, test_examples=test_examples
    )
    return with_sites(read_study(path), ends, **options)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_of(tmp_path_factory.mktemp("sites"), names=NAMES)


@pytest.fixture(scope="module")
def table(study):
    (found,) = site_tables(study)
    return found


def test_every_site_has_its_mean_in_every_arm(table):
    assert [site.name for site in table.sites] == list(NAMES)
    means = {arm: [site.accuracies[arm].mean for site in table.sites] for arm in table.arms}
    np.testing.assert_allclose(means["dense"], [0.52, 0.8, 0.7])
    np.testing.assert_allclose(means["local"], [0.3, 0.9, 0.7])
    # t of two degrees of freedom at 97.5% is 4.3027
    brno = table.sites[0].accuracies["dense"]
    np.testing.assert_allclose(brno.high - brno.mean, 4.30265 * 0.02 / math.sqrt(3), rtol=1e-5)


def test_the_arm_that_trains_alone_comes_first_then_the_reference(table):
    assert table.alone == "local"
    assert table.arms[:2] == ("local", "dense")


def test_who_gains_and_who_loses(table):
    found = {site.name: site.against_alone["dense"] for site in table.sites}
    assert {name: each.outcome for name, each in found.items()} == {
        "Brno": "gains",
        "Ghent": "loses",
        "Ulm": NO_DIFFERENCE,
    }
    np.testing.assert_allclose(found["Brno"].difference.interval.mean, 0.22)
    # over three sites the smallest p counts three times, the middle one twice
    p = sorted((each.difference.p, each.adjusted) for each in found.values())
    np.testing.assert_allclose([p[0][1], p[1][1]], [3 * p[0][0], 2 * p[1][0]])
    assert "local" not in table.sites[0].against_alone
    assert table.sites[0].against_reference.keys() == {"local", "lips"}


def test_one_test_example_is_the_least_that_is_believed(tmp_path):
    """Two arms that differ by one example of ten in every seed differ by chance."""
    ends = {"dense": [[0.5, 0.9]] * 3, "local": [[0.4, 0.4]] * 3}
    (table,) = site_tables(study_of(tmp_path, ends, clients=2, test_examples=10, names=NAMES[:2]))
    few, many = (site.against_alone["dense"] for site in table.sites)
    assert few.outcome == NO_DIFFERENCE
    assert many.outcome == "gains"


def test_two_seeds_name_nothing(tmp_path):
    (table,) = site_tables(study_of(tmp_path, seeds=2, names=NAMES))
    assert {site.against_alone["dense"].outcome for site in table.sites} == {UNKNOWN}


def test_worst_site_and_spread(table):
    lips, dense = table.spreads["lips"], table.spreads["dense"]
    np.testing.assert_allclose(lips.quantiles["worst"].mean, 0.6)
    np.testing.assert_allclose(lips.quantiles["median"].mean, 0.7)
    np.testing.assert_allclose(lips.quantiles["best"].mean, 0.8)
    np.testing.assert_allclose(dense.spread.mean, (0.3 + 0.26 + 0.28) / 3)
    np.testing.assert_allclose(
        dense.deviation.mean, np.mean([np.std(each) for each in ENDS["dense"]])
    )
    # Ghent is never ahead, Ulm in one seed of three
    assert dense.ahead is not None
    np.testing.assert_allclose(dense.ahead.mean, (1 + 2 + 1) / 9)
    assert table.spreads["local"].ahead is None


def test_a_site_without_test_examples_has_no_accuracy_and_no_say(tmp_path):
    ends = {arm: [[*each[:2], math.nan] for each in seeds] for arm, seeds in ENDS.items()}
    (table,) = site_tables(study_of(tmp_path, ends, names=NAMES))
    assert math.isnan(table.sites[2].accuracies["dense"].mean)
    assert table.sites[2].against_alone["dense"].outcome == UNKNOWN
    np.testing.assert_allclose(table.spreads["dense"].spread.mean, (0.3 + 0.26 + 0.28) / 3)
    # nothing was tested there, so that Holm counts two
    p = sorted((s.against_alone["dense"].difference.p, s) for s in table.sites[:2])
    np.testing.assert_allclose(p[0][1].against_alone["dense"].adjusted, 2 * p[0][0])


def test_made_up_clients_are_others_in_every_seed(tmp_path):
    (table,) = site_tables(study_of(tmp_path))
    assert not table.is_named
    assert [site.name for site in table.sites] == ["0", "1", "2"]
    assert not any(site.against_alone or site.against_reference for site in table.sites)
    assert table.spreads["dense"].ahead is not None


def test_sites_that_are_held_out_come_last_and_are_not_scored_alone(tmp_path):
    held = {arm: [[0.4]] * 3 for arm in ENDS}
    found = study_of(tmp_path, clients=4, names=(*NAMES, "Wien"), held_out=held)
    (table,) = site_tables(found)
    (wien,) = table.held_out
    assert wien.name == "Wien"
    np.testing.assert_allclose(wien.accuracies["dense"].mean, 0.4)
    assert math.isnan(wien.accuracies["local"].mean)
    np.testing.assert_allclose(table.spreads["dense"].spread.mean, (0.3 + 0.26 + 0.28) / 3)


def test_arms_of_other_sites_have_tables_of_their_own(study):
    """As where one arm holds a site out: what stands in one line is one site."""
    trials = tuple(
        trial._replace(
            recording=trial.recording._replace(
                setup=trial.recording.setup | {"site_names": ["Ghent", "Ulm", "Brno"]}
            )
        )
        if trial.arm == "lips"
        else trial
        for trial in study.trials
    )
    first, second = site_tables(study._replace(trials=trials))
    assert set(first.arms) == {"dense", "local"}
    assert second.arms == ("lips",)
    assert not second.sites[0].against_reference


def test_recordings_without_sites_have_no_table(study):
    trials = tuple(t._replace(recording=t.recording._replace(by={})) for t in study.trials)
    assert site_tables(study._replace(trials=trials)) == []


def test_pooled_data_have_no_sites(study):
    trials = tuple(
        t._replace(
            recording=t.recording._replace(
                config=t.recording.config
                | {"partition": t.recording.config["partition"] | {"pooled": t.arm == "lips"}}
            )
        )
        for t in study.trials
    )
    (table,) = site_tables(study._replace(trials=trials))
    assert set(table.arms) == {"dense", "local"}


def test_classes_are_of_models_that_are_predicted_with(tmp_path):
    accuracies = np.linspace(0.1, 1.0, 10).tolist()
    (table,) = site_tables(study_of(tmp_path, names=NAMES, classes=accuracies))
    assert table.classes[0].accuracies.keys() == {"dense", "lips"}
    found = [each.accuracies["dense"].mean for each in table.classes]
    np.testing.assert_allclose(found, accuracies)
