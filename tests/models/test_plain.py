"""Flax modules of any origin: layers by rule, in the order in which data meets them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.worlds import simulate, world
from lipsjax import fedavg, models, transient_sparsity
from lipsjax.local import LocalTraining


class Zigzag(nn.Module):
    """Named so that neither the alphabet nor the order of making them is that of their use."""

    def setup(self):
        self.a_head = nn.Dense(4)
        self.z_stem = nn.Conv(3, (3, 3))
        self.b_late = nn.Dense(6)
        self.c_early = nn.Conv(5, (3, 3))

    def __call__(self, x):
        x = nn.relu(self.c_early(nn.relu(self.z_stem(x))))
        return self.a_head(nn.relu(self.b_late(x.mean((1, 2)))))


class Normalised(nn.Module):
    groups: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.GroupNorm(2)(x) if self.groups else nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(4)(nn.relu(x).mean((1, 2)))


class Careless(nn.Module):
    """Takes a mask and does nothing with it."""

    @nn.compact
    def __call__(self, x, *, mask, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        return nn.Dense(4)(nn.relu(x).mean((1, 2)))


def test_layers_are_in_the_order_of_their_use():
    model = models.from_flax(Zigzag(), (8, 8, 1))
    assert [(x.name, x.role, x.kind) for x in model.layers] == [
        ("z_stem", "stem", "conv"),
        ("c_early", "middle", "conv"),
        ("b_late", "middle", "dense"),
        ("a_head", "classifier", "dense"),
    ]


def test_a_kernel_that_is_used_twice_is_one_layer():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            shared = nn.Dense(8, name="shared")
            x = nn.Dense(8, name="stem")(x.reshape(len(x), -1))
            return nn.Dense(4, name="head")(shared(nn.relu(shared(x))))

    assert [x.name for x in models.from_flax(Twice(), (8, 8, 1)).layers] == [
        "stem",
        "shared",
        "head",
    ]


def test_predictions_are_those_of_the_module():
    module = Zigzag()
    model = models.from_flax(module, (8, 8, 1))
    variables = model.init(jax.random.key(0))
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    found = model.apply(variables, images, mask=jnp.ones(3, bool), train=False).logits
    np.testing.assert_array_equal(found, module.apply({"params": variables.params}, images))


def test_statistics_that_padding_would_enter_are_refused():
    with pytest.raises(ValueError, match="Normalised has running statistics and takes no mask"):
        models.from_flax(Normalised(), (8, 8, 1))
    with pytest.raises(ValueError, match=r"Careless hands its mask to no nn\.BatchNorm"):
        models.from_flax(Careless(), (8, 8, 1))
    assert models.is_norm("params/GroupNorm_0/scale")
    assert len(models.from_flax(Normalised(groups=True), (8, 8, 1)).layers) == 2


def test_modules_that_are_no_models_are_refused():
    with pytest.raises(ValueError, match="Dense has 1 kernels"):
        models.from_flax(nn.Dense(3), (5,))
    with pytest.raises(ValueError, match="Zigzag cannot be called on such inputs"):
        models.from_flax(Zigzag(), (5,))


@pytest.mark.slow
@pytest.mark.whole
def test_a_plain_module_trains_under_transient_sparsity():
    class Small(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x.reshape(len(x), -1)
            for width in (8, 8, 8):
                x = nn.relu(nn.Dense(width, param_dtype=jnp.float64)(x))
            return nn.Dense(4, param_dtype=jnp.float64)(x)

    data = world([6, 9, 4])
    model = models.from_flax(Small(), data.train.inputs.shape[1:])
    lips = transient_sparsity(fedavg(), density=0.5, every=1, kinds=("dense",))
    training = LocalTraining(optax.sgd(0.1), 1, 4)
    state, metrics, _ = simulate(model, lips, data, rounds=2, training=training)
    assert [x.role for x in model.layers] == ["stem", "middle", "middle", "classifier"]
    assert np.isfinite(metrics.layers["step"]).all()
    assert len(state["packed_masks"]) == 2  # of the middle layers


@pytest.mark.parametrize(
    ("width", "parameters"), [(None, 1_235_274), (64, 1_235_274), (32, 312_490)]
)
def test_resnets_take_a_width(width, parameters):
    """Half of the width by hand: 9 c^2 of 3x3 convolutions, c d of shortcuts, 2 c of norms."""
    model = models.build("resnet8", num_classes=10, input_shape=(32, 32, 3), width=width)
    shapes = jax.eval_shape(model.init, jax.random.key(0)).params
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters
