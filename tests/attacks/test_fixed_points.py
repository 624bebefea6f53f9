"""Attacks whose outcome is known: what must be recovered, and what must not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from helpers.sigmoid_net import sigmoid_model
from lipsjax import attacks, models
from lipsjax.attacks.seen import Seen
from lipsjax.local import LocalTraining

ONE_STEP = LocalTraining(optax.sgd(1.0), epochs=1, batch_size=1)
"""Its delta is the gradient of the one example, negated."""


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def digits(count):
    found = load_digits()
    images = found.images[:count, :, :, None] / 16.0
    return jnp.asarray(images), jnp.asarray(found.target[:count], jnp.int32)


def delta_of(model, start, image, label, training=ONE_STEP):
    key, mask = jax.random.key(0), jnp.ones(1, bool)
    return attacks.simulate(model, training, start, image[None], label[None], mask, key)


def deltas_of(model, start, images, labels):
    """Those of many examples by one program, one after the other."""
    of_one = functools.partial(delta_of, model, start)
    found = jax.jit(jax.vmap(of_one))(images, labels)
    return [jax.tree.map(lambda d, i=i: d[i], found) for i in range(len(labels))]


def all_of(delta):
    return jax.tree.map(lambda d: jnp.ones(d.shape, bool), delta)


@pytest.mark.unit
def test_a_biased_linear_first_layer_is_inverted_exactly():
    images, labels = digits(8)
    flat = images.reshape(8, -1)
    model = models.build(
        "mlp", num_classes=10, input_shape=(64,), width=16, norm="none", param_dtype=jnp.float64
    )
    start = model.init(jax.random.key(1))
    first = model.layers[0]
    for image, delta in zip(flat, deltas_of(model, start, flat, labels), strict=True):
        kernel = "/".join(("params", *first.path))
        read = attacks.invert_linear(delta[kernel], delta[kernel.replace("kernel", "bias")])
        best = read.inputs[jnp.argmax(read.strength)]
        assert jnp.abs(best - image).max() < 1e-12


@pytest.mark.unit
def test_labels_of_one_example_are_always_right():
    images, labels = digits(30)
    model = sigmoid_model()
    start = model.init(jax.random.key(0))
    noise = jax.random.uniform(jax.random.key(2), (16, 8, 8, 1))
    prediction = model.apply(start, noise, mask=jnp.ones(16, bool), train=False)
    mean = jnp.mean(jax.nn.softmax(prediction.logits), axis=0)
    for label, delta in zip(labels, deltas_of(model, start, images, labels), strict=True):
        bias = delta["params/classifier/bias"]
        expected = attacks.expected_counts(bias, mean, examples=1, rate=1.0)
        counts = attacks.whole_counts(expected, examples=1)
        assert counts[label] == 1
        assert attacks.overlap(counts, jax.nn.one_hot(label, 10)) == 1


def leaked(seen_of, search, seeds=1):
    """Return the mean squared errors of the best of some restarts, of eight victims, [8]."""
    images, labels = digits(8)
    model = sigmoid_model()
    start = model.init(jax.random.key(0))

    def one(image, label, key):
        seen = seen_of(start, delta_of(model, start, image, label))
        mask, batches = jnp.ones(1, bool), jax.random.key(9)
        objective = attacks.objective_of(model, ONE_STEP, seen, label[None], mask, batches, search)

        def restart(key):
            begin = jax.random.uniform(key, (1, 8, 8, 1))
            return attacks.reconstruct(objective, begin, search, low=0.0, high=1.0)

        found = jax.vmap(restart)(jax.random.split(key, seeds))
        return found.inputs[jnp.argmin(found.objective)]

    keys = jax.random.split(jax.random.key(5), 8)
    found = jax.jit(jax.vmap(one))(images, labels, keys)
    return np.asarray(jnp.mean((found[:, 0] - images) ** 2, axis=(1, 2, 3)))


def whole(start, delta):
    return Seen(start, delta, all_of(delta))


@pytest.mark.whole
def test_dlg_recovers_eight_of_eight_in_one_program():
    errors = leaked(whole, attacks.DLG)
    assert (errors < 1e-3).all(), errors


def largest_tenth(delta):
    flat = jnp.concatenate([jnp.abs(d).ravel() for d in delta.values()])
    least = jnp.sort(flat)[-flat.size // 10]
    return jax.tree.map(lambda d: jnp.where(jnp.abs(d) >= least, d, 0), delta)


def zeros_too(start, delta):
    sent = largest_tenth(delta)
    return Seen(start, sent, all_of(sent))


def what_was_sent(start, delta):
    sent = largest_tenth(delta)
    return Seen(start, sent, jax.tree.map(lambda d: d != 0, sent))


@pytest.mark.slow
@pytest.mark.whole
def test_who_matches_what_was_sent_recovers_what_who_matches_zeros_does_not():
    assert (leaked(what_was_sent, attacks.DLG) < 1e-3).all()
    assert (leaked(zeros_too, attacks.DLG) > 1e-3).all()
