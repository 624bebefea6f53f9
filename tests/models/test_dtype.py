"""bfloat16 arithmetic with float32 parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import commands
from helpers.worlds import simulate, world
from lipsjax import fedavg, models
from lipsjax.local import model_loss
from lipsjax.models.convolution import CONVOLUTIONS

pytestmark = pytest.mark.slow  # others of the kind are in the default tests


def build(conv="loop", dtype="float32", norm="batch", name="cnn"):
    return models.build(
        name, num_classes=4, input_shape=(5, 5, 1), width=4, norm=norm, conv=conv, dtype=dtype
    )


def gradient(conv, dtype):
    """Of 32 images with labels that say nothing, so that much of it cancels."""
    model = models.build(
        "cnn", num_classes=4, input_shape=(8, 8, 1), width=16, conv=conv, dtype=dtype
    )
    images = jax.random.normal(jax.random.key(3), (32, 8, 8, 1), jnp.float32)
    labels, mask = jnp.arange(32) % 4, jnp.ones(32, bool)
    variables = model.init(jax.random.key(0))
    # not compiled as a whole, which keeps some sums in float32
    found, _ = jax.grad(model_loss(model), has_aux=True)(*variables, images, labels, mask)
    return np.concatenate([x.ravel() for x in jax.tree.leaves(found)])


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.slow
def test_own_rules_round_as_those_of_xla():
    reference, exact = gradient("grouped", "bfloat16"), gradient("grouped", "float32")
    for conv in ("loop", "patches"):
        rounded = gradient(conv, "bfloat16")
        assert distance(rounded, reference) < 0.02, conv  # as 8 bits of mantissa have it
        assert 1e-3 < distance(rounded, exact) < 0.3, conv


@pytest.mark.slow
@pytest.mark.whole
def test_what_a_round_leaves_is_float32():
    state, _, _ = simulate(build(dtype="bfloat16"), fedavg(), world([9, 5]), rounds=1)
    types = {x.dtype for x in jax.tree.leaves((state["global_model"], state["reference"]))}
    assert types == {np.dtype("float32")}


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_products_are_bfloat16_and_the_rest_is_not(name, norm):
    model = build(dtype="bfloat16", norm=norm, name=name)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    images, labels, mask = jnp.ones((3, 5, 5, 1)), jnp.zeros(3, int), jnp.ones(3, bool)

    def gradient(params, statistics):
        return jax.grad(model_loss(model), has_aux=True)(params, statistics, images, labels, mask)

    shapes = jax.eval_shape(gradient, *variables)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {np.dtype("float32")}
    text = str(jax.make_jaxpr(gradient)(*variables))
    products = [line for line in text.splitlines() if "= dot_general[" in line]
    assert products
    assert all(":bf16[" in line for line in products), products


@pytest.mark.slow
@pytest.mark.whole
def test_float32_is_what_it_is_without_a_choice():
    module = models.CNN(4, 4, "batch", CONVOLUTIONS["loop"], jnp.float32)
    data, plain = world([9, 5]), models.from_flax(module, (5, 5, 1))
    states = [simulate(m, fedavg(), data, rounds=2)[0] for m in (plain, build())]
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.slow
def test_a_run_in_bfloat16(tmp_path):
    ended = commands.run(tmp_path, "--model.dtype", "bfloat16", "--lips")
    assert ended.status == 0, ended.err
    assert "chunk 1, convolution loop, bfloat16" in ended.out


def test_another_type_is_refused():
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, not 'float16'"):
        build(dtype="float16")
