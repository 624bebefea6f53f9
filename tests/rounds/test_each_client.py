"""Accuracy of each client and of each class: what is summed anyway, kept one by one."""

import jax
import numpy as np
import pytest

from helpers.worlds import simulate, tiny_model, world
from lipsjax import fedavg
from lipsjax.rounds import evaluation

SIZES = [9, 2, 6, 5, 7]


def run(**options):
    data = world(SIZES)
    mask = data.test_mask.copy()
    mask[2] = False  # a client without test examples
    data = data._replace(test_mask=mask)
    _, metrics, sim = simulate(tiny_model(), fedavg(), data, rounds=3, evaluate_every=2, **options)
    return data, metrics, sim


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_cohort_is_known_and_nobody_else(devices):
    _, metrics, sim = run(devices=devices, cohort_size=3, chunk=2)
    each, scalars = metrics.by["clients"]["accuracy"], metrics.scalars
    assert each.shape == (3, 5)
    assert np.isnan(each[1]).all()
    for t in (0, 2):
        drawn = set(sim.cohort(jax.random.key(1), t).tolist())
        known = set(np.flatnonzero(~np.isnan(each[t])).tolist())
        assert known == drawn - {2}
        np.testing.assert_allclose(np.nanmean(each[t]), scalars["accuracy_dense"][t], rtol=1e-9)


@pytest.mark.slow
def test_two_devices_keep_the_same_as_one():
    (data, one, _), (_, two, _) = (run(devices=n, cohort_size=3) for n in (1, 2))
    for group in ("clients", "classes"):
        np.testing.assert_array_equal(one.by[group]["accuracy"], two.by[group]["accuracy"])
    counts = np.bincount(data.test.labels[data.global_index], minlength=4)
    classes = one.by["classes"]["accuracy"]
    assert np.isnan(classes[1]).all()
    for t in (0, 2):
        found = np.nansum(classes[t] * counts) / counts.sum()
        np.testing.assert_allclose(found, one.scalars["global_accuracy"][t], rtol=1e-9)


@pytest.mark.slow
def test_of_too_many_clients_none_is_listed(monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_LISTED", 4)
    _, metrics, _ = run()
    assert metrics.by.keys() == {"classes"}
    assert np.isfinite(metrics.scalars["accuracy_dense"][[0, 2]]).all()
