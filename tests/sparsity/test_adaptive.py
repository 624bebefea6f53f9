"""The rule of adaptive transient sparsity, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipsjax import fedavg, models, transient_sparsity
from lipsjax.metrics import inertia
from lipsjax.sparsity import linear
from lipsjax.sparsity.adaptive import (
    LEVELS,
    level_densities,
    levels_above,
    remember,
    remembered,
)
from lipsjax.strategy import RunContext
from lipsjax.types import Variables

THRESHOLDS = st.floats(-5, 0.99, allow_subnormal=False)
LAYERS = models.build("cnn", num_classes=10, input_shape=(8, 8, 1)).layers
INERTIA = st.lists(st.floats(-20, 1.5, allow_subnormal=False), min_size=4, max_size=4)


@given(threshold=THRESHOLDS, values=INERTIA)
def test_levels_rise_with_inertia_and_are_sixteen(threshold, values):
    levels = np.asarray(levels_above(threshold)(jnp.sort(jnp.array(values))))
    assert (np.diff(levels) >= 0).all()
    assert ((levels >= 0) & (levels < LEVELS)).all()
    np.testing.assert_array_equal(levels > 0, np.sort(values) > threshold)
    assert (np.diff(level_densities(0.3)[levels]) <= 0).all()


@given(threshold=THRESHOLDS)
def test_every_level_is_reached_within_1e_6_of_its_border(threshold):
    borders = np.linspace(threshold, 1, LEVELS)[:-1]
    levels = levels_above(threshold)
    np.testing.assert_array_equal(levels(jnp.array(borders - 1e-6)), np.arange(LEVELS - 1))
    np.testing.assert_array_equal(levels(jnp.array(borders + 1e-6)), np.arange(1, LEVELS))
    assert levels(jnp.array([1.0]))[0] == LEVELS - 1


@given(rows=st.lists(st.tuples(INERTIA, st.booleans()), max_size=6), window=st.integers(1, 4))
def test_the_last_rounds_that_count_are_remembered(rows, window):
    history = jnp.full((window, 4), jnp.nan)
    for values, counts in rows:
        history = jax.jit(remember)(history, jnp.array(values), jnp.array(counts))
    counted = [values for values, counts in rows if counts][-window:]
    found = np.asarray(remembered(history))
    if not counted:
        assert np.isnan(found).all()
        assert not levels_above(-1e9)(jnp.asarray(found)).any()  # none yet: dense
    else:
        np.testing.assert_allclose(found, np.mean(counted, axis=0), rtol=1e-9, atol=1e-9)


def test_a_round_in_which_nothing_moved_is_not_remembered():
    still = inertia.layer_inertia(jnp.zeros(len(LAYERS)), LAYERS)
    history = remember(jnp.zeros((1, len(LAYERS))), still, jnp.array(True))
    assert not history.any()


@given(steps=st.lists(st.floats(0.01, 5), min_size=5, max_size=5))
def test_the_index_is_the_mean_inertia_of_middle_layers(steps):
    by_layer = inertia.layer_inertia(jnp.array(steps), LAYERS)
    index = inertia.inertia_index(jnp.array(steps), LAYERS)
    np.testing.assert_allclose(jnp.mean(by_layer[1:-1]), index, rtol=1e-9, atol=1e-9)


def test_what_each_level_keeps_is_a_table():
    model = models.build("cnn", num_classes=10, input_shape=(8, 8, 1), width=2)
    run = RunContext(rounds=9, num_examples=(1,), layers=model.layers)
    sparsifier = transient_sparsity(fedavg(), density=0.29, trigger="inertia").sparsifier(run)
    params = {layer.path[0]: {layer.path[1]: np.zeros((5, 20))} for layer in model.layers}
    densities, counts = sparsifier.kept(Variables(params, {}))
    assert counts.shape == (LEVELS, 3)
    assert counts[[0, -1]].tolist() == [[100] * 3, [28] * 3]  # 29 in float32
    np.testing.assert_array_equal(counts[:, 0], np.floor(100 * np.linspace(1, 0.29, LEVELS)))
    np.testing.assert_array_equal(densities, level_densities(0.29))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 1}, "every must be at least 2 with trigger='inertia', not 1"),
        ({"window": 0}, "window must be at least 1, not 0"),
        ({"threshold": 1.0}, "threshold must be a number below 1, not 1.0"),
        ({"threshold": float("nan")}, "threshold must be a number below 1, not nan"),
        ({"density": 1.0}, r"density must be in \(0, 1\) with trigger='inertia', not 1.0"),
        ({"density": 0}, r"density must be in \(0, 1\) with trigger='inertia', not 0"),
        ({"density": linear(0.5)}, "density must be a number with trigger='inertia'"),
        ({"scope": "erk"}, "scope must be 'layer' with trigger='inertia', not 'erk'"),
        ({"scope": "global"}, "scope must be 'layer' with trigger='inertia', not 'global'"),
        ({"trigger": "clock"}, "trigger must be one of schedule, inertia, not 'clock'"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        transient_sparsity(fedavg(), **{"trigger": "inertia", **options})
