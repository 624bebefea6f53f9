"""Every inertia measure on trees worked out by hand; evaluation and bits likewise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.worlds import tiny_model, world
from lipsjax import tree
from lipsjax.metrics import inertia
from lipsjax.metrics.costs import Bits, round_bits
from lipsjax.metrics.evaluation import evaluate
from lipsjax.types import Layer

LAYERS = (
    Layer("z_stem", "stem", "conv", ("z", "kernel")),
    Layer("a_middle", "middle", "conv", ("a", "kernel")),
    Layer("m_head", "classifier", "dense", ("m", "kernel")),
)


def kernels(*values):
    return tuple(jnp.array(v, jnp.float64) for v in values)


def test_relative_step():
    old = kernels([3.0, 4.0], [0.0, 2.0], [1.0, 0.0])
    new = kernels([3.0, 4.0], [0.0, 1.0], [1.0, 3.0])
    np.testing.assert_allclose(inertia.relative_step(new, old), [0.0, 0.5, 3.0])


def test_inertia_index():
    # middle 0.5; outer layers (0 + 3) / 2 = 1.5
    index = inertia.inertia_index(jnp.array([0.0, 0.5, 3.0]), LAYERS)
    assert float(index) == pytest.approx(1 - 0.5 / 1.5)
    # equal movement is no inertia, a middle that stands still is all of it
    assert float(inertia.inertia_index(jnp.array([1.0, 1.0, 1.0]), LAYERS)) == 0
    assert float(inertia.inertia_index(jnp.array([1.0, 0.0, 1.0]), LAYERS)) == 1


def test_drift():
    now, reference = kernels([3.0, 4.0], [1.0, 0.0]), kernels([4.0, 3.0], [0.0, 2.0])
    drift = inertia.drift(now, reference)
    np.testing.assert_allclose(drift["drift_cosine"], [24 / 25, 0.0])
    np.testing.assert_allclose(drift["drift_l1"], [2.0, 3.0])
    np.testing.assert_allclose(drift["drift_l2"], [np.sqrt(2), np.sqrt(5)])
    np.testing.assert_allclose(drift["relative_drift"], [np.sqrt(2) / 5, np.sqrt(5) / 2])


def total_deltas(starts, ends, weights, norms):
    shares = [
        inertia.delta_sums(s, e, jnp.array(n), jnp.float64(w))
        for s, e, w, n in zip(starts, ends, weights, norms, strict=True)
    ]
    return jax.tree.map(lambda *xs: sum(xs), *shares)


def test_clients_that_agree_cancel_nothing():
    start = kernels([0.0, 0.0])
    ends = [kernels([1.0, 0.0]), kernels([3.0, 0.0])]
    total = total_deltas([start, start], ends, [0.5, 0.5], [[2.0], [4.0]])
    measures = inertia.delta_measures(total, kernels([0.0, 4.0]))
    np.testing.assert_allclose(measures["client_step"], [2.0 / 4.0])
    np.testing.assert_allclose(measures["cancellation"], [0.0], atol=1e-15)
    np.testing.assert_allclose(measures["alignment"], [1.0])
    np.testing.assert_allclose(measures["grad_norm"], [3.0])


def test_clients_that_oppose_cancel_all():
    start = kernels([0.0, 0.0])
    ends = [kernels([2.0, 0.0]), kernels([-1.0, 0.0])]
    # weights 1 : 2 make the weighted mean zero
    total = total_deltas([start, start], ends, [1.0, 2.0], [[0.0], [0.0]])
    measures = inertia.delta_measures(total, kernels([1.0, 0.0]))
    np.testing.assert_allclose(measures["cancellation"], [1.0])
    np.testing.assert_allclose(measures["alignment"], [-1.0])


def test_alignment_is_the_mean_over_pairs():
    start = kernels([0.0, 0.0])
    ends = [kernels([1.0, 0.0]), kernels([0.0, 5.0]), kernels([2.0, 2.0])]
    total = total_deltas([start] * 3, ends, [1.0, 1.0, 1.0], [[0.0]] * 3)
    measures = inertia.delta_measures(total, kernels([1.0, 1.0]))
    np.testing.assert_allclose(measures["alignment"], [(0 + 2 / np.sqrt(2)) / 3])
    lengths = 1 + 5 + np.sqrt(8)
    np.testing.assert_allclose(measures["cancellation"], [1 - np.hypot(3, 7) / lengths])


def test_deltas_are_from_what_each_client_received():
    total = total_deltas(
        [kernels([1.0]), kernels([0.0])], [kernels([2.0]), kernels([1.0])], [1.0, 1.0], [[0.0]] * 2
    )
    np.testing.assert_allclose(inertia.delta_measures(total, kernels([1.0]))["client_step"], [1])


def test_alignment_leaves_out_who_did_not_move():
    start = kernels([0.0, 0.0])
    ends = [kernels([1.0, 0.0]), kernels([0.0, 0.0]), kernels([1.0, 0.0])]
    total = total_deltas([start] * 3, ends, [1.0] * 3, [[0.0]] * 3)
    np.testing.assert_allclose(
        inertia.delta_measures(total, kernels([1.0, 0.0]))["alignment"], [1.0]
    )
    alone = total_deltas([start], ends[:1], [1.0], [[0.0]])
    assert np.isnan(inertia.delta_measures(alone, kernels([1.0, 0.0]))["alignment"]).all()


def test_kernels_keep_the_order_of_the_layers():
    params = {"a": {"kernel": 1.0}, "m": {"kernel": 2.0}, "z": {"kernel": 3.0}}
    assert tree.kernels(params, LAYERS) == (3.0, 1.0, 2.0)
    replaced = tree.with_kernels(params, LAYERS, (6.0, 4.0, 5.0))
    assert replaced == {"a": {"kernel": 4.0}, "m": {"kernel": 5.0}, "z": {"kernel": 6.0}}


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_evaluation_does_not_depend_on_batches(batch_size):
    data, model = world([4], test=6), tiny_model()
    variables = jax.jit(model.init)(jax.random.key(0))
    index, mask = jnp.arange(10), jnp.arange(10) < 7
    pool = jax.tree.map(jnp.asarray, data.test)
    score = jax.jit(partial(evaluate, model, batch_size=batch_size))(variables, pool, index, mask)
    predict = jax.jit(partial(model.apply, mask=np.ones(7, bool), train=False))
    logits, *_ = predict(variables, data.test.inputs[:7])
    labels = data.test.labels[:7]
    assert float(score.accuracy) == np.mean(np.argmax(logits, 1) == labels)
    expected = -np.mean(np.asarray(jax.nn.log_softmax(logits))[np.arange(7), labels])
    assert float(score.mean_loss) == pytest.approx(expected, rel=1e-12)


def test_bits_by_hand():
    # 3 clients, 100 values of 32 bits, 80 maskable, 20 kept
    dense = 3 * 100 * 32
    common = {"clients": 3, "uplink": 9600, "downlink": 9600, "maskable": 80}
    assert round_bits(**common) == Bits(dense, dense, dense, dense)
    sparse = 3 * ((100 - 80 + 20) * 32 + 80)
    scores = 3 * 80 * 32
    magnitude = round_bits(**common, kept=20)
    assert magnitude == Bits(dense, dense, dense, sparse)
    saliency = round_bits(**common, kept=20, gradient="last_local")
    assert saliency == Bits(dense, dense, dense + scores, sparse)
    assert round_bits(**common, kept=20, gradient="fresh") == Bits(dense, dense, dense, dense)
    shared = round_bits(**common, kept=20, gradient="last_local", shared=True)
    assert shared == Bits(dense + scores, dense + 3 * 80, dense + scores, sparse)


def test_bits_where_masks_are_held_or_starts_are_known():
    dense, bitmap = 3 * 100 * 32, 3 * 80
    common = {"clients": 3, "uplink": 9600, "downlink": 9600, "maskable": 80, "kept_before": 20}
    held = round_bits(**common, kept=20, held=True)
    sparse = dense - 3 * 60 * 32
    assert held == Bits(dense, dense, sparse, sparse + bitmap)
    relative = round_bits(**common, relative=True, gradient="last_local")
    assert relative == Bits(dense + bitmap, dense, dense, dense)
    assert round_bits(**common, relative=True).uplink == dense  # the server can choose it itself
