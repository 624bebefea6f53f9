"""Series and features: conv1d, the MLP of any inputs, and models that do not take them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.worlds import simulate
from lipsjax import (
    augmentation,
    clients,
    datasets,
    fedavg,
    models,
    partition,
    transient_sparsity,
    tree,
)
from lipsjax.local import LocalTraining, model_loss
from lipsjax.models.build import NAMES, NORMS
from lipsjax.models.convolution import CONVOLUTIONS
from lipsjax.strategies.layerwise import layer_index

SERIES, FEATURES = (13, 3), (7,)


def build(name="conv1d", shape=SERIES, width=2, **options):
    return models.build(name, num_classes=4, input_shape=shape, width=width, depth=2, **options)


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def drawn(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(0.2, 1.0, x.shape) - 0.3, shapes_of(model))


def inputs_of(shape, count=5):
    return np.random.default_rng(1).normal(size=(count, *shape))


def predict(model, variables, inputs, *, mask=None, train=False):
    mask = np.ones(len(inputs), bool) if mask is None else mask
    return jax.jit(lambda v, x, m: model.apply(v, x, mask=m, train=train))(variables, inputs, mask)


@pytest.mark.parametrize("norm", NORMS)
def test_parameters_of_a_conv1d_by_hand(norm):
    each = 1 if norm == "none" else 2  # a bias, or scale and shift, of each channel
    layers = [5 * 3 * 2 + 2 * each, 5 * 2 * 4 + 4 * each, *2 * [5 * 4 * 4 + 4 * each]]
    assert tree.size(shapes_of(build(norm=norm)).params) == sum(layers) + 4 * 4 + 4


@pytest.mark.parametrize(("shape", "fan_in"), [(SERIES, 13 * 3), (FEATURES, 7)])
def test_parameters_of_an_mlp_by_hand(shape, fan_in):
    count = fan_in * 2 + 2 * 2 * 2 + 3 * 2 + 2 * 4 + 4
    assert tree.size(shapes_of(build("mlp", shape, norm="none")).params) == count


def test_outer_and_middle_layers_of_a_conv1d():
    model = build()
    kernels = tree.pick(shapes_of(model).params, lambda path: path.endswith("kernel"))
    assert sorted("/".join(layer.path) for layer in model.layers) == sorted(kernels)
    roles = {layer.name: layer.role for layer in model.layers}
    middle = dict.fromkeys(("conv1", "conv2", "conv3"), "middle")
    assert roles == {"stem": "stem", **middle, "classifier": "classifier"}
    assert [kernels[f"{name}/kernel"].shape[:2] for name in ("stem", *middle)] == 4 * [(5, 1)]
    for path in tree.pick(shapes_of(model)._asdict(), lambda path: True):
        assert layer_index(path, model.layers) is not None


def conv1d_by_hand(params, series):
    """Logits of one series [steps, channels], without normalisation, step by step."""
    x = series
    for name in ("stem", "conv1", "conv2", "conv3"):
        kernel, bias = params[name]["kernel"][:, 0], params[name]["bias"]
        padded = np.pad(x, ((2, 2), (0, 0)))
        x = np.stack([np.einsum("kc,kco->o", padded[t : t + 5], kernel) for t in range(len(x))])
        x = np.maximum(x + bias, 0)
        if name in ("stem", "conv2"):
            x = x[: len(x) // 2 * 2].reshape(-1, 2, x.shape[1]).max(axis=1)
    return x.mean(axis=0) @ params["classifier"]["kernel"] + params["classifier"]["bias"]


@pytest.mark.parametrize("conv", CONVOLUTIONS)
@pytest.mark.parametrize("steps", [4, 13])
def test_a_conv1d_is_what_it_is_by_hand(steps, conv):
    model = build(shape=(steps, 3), norm="none", conv=conv, param_dtype=jnp.float64)
    variables, series = drawn(model), inputs_of((steps, 3))
    found = predict(model, variables, series)
    expected = [conv1d_by_hand(variables.params, each) for each in series]
    np.testing.assert_allclose(found.logits, expected, rtol=1e-10)
    head = variables.params["classifier"]
    np.testing.assert_allclose(found.features @ head["kernel"] + head["bias"], expected, rtol=1e-10)


@pytest.mark.parametrize("conv", ["loop", "patches"])
def test_lowerings_have_the_gradients_of_xla(conv):
    labels, mask = jnp.arange(5) % 4, jnp.arange(5) < 4

    def gradient(conv):
        # of 8 channels, from which on the loop goes another way
        model = build(conv=conv, norm="group", width=8, param_dtype=jnp.float64)
        loss = jax.value_and_grad(model_loss(model), has_aux=True)
        return jax.jit(loss)(*drawn(model), inputs_of(SERIES), labels, mask)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
        gradient(conv),
        gradient("grouped"),
    )


@pytest.mark.parametrize(
    ("name", "shape"), [("conv1d", SERIES), ("mlp", SERIES), ("mlp", FEATURES)]
)
def test_padding_weighs_nothing(name, shape):
    model = build(name, shape, param_dtype=jnp.float64)
    inputs, variables = inputs_of(shape), drawn(model)
    garbage = np.concatenate([inputs, np.full((2, *shape), 1e3)])
    alone = predict(model, variables, inputs, train=True)
    padded = predict(model, variables, garbage, mask=np.arange(7) < 5, train=True)
    np.testing.assert_allclose(alone.logits, padded.logits[:5], rtol=1e-10)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10),
        alone.batch_stats,
        padded.batch_stats,
    )


@pytest.mark.parametrize(
    ("name", "shape"), [("conv1d", SERIES), ("mlp", SERIES), ("mlp", FEATURES)]
)
def test_normalised_inputs_have_mean_0_and_deviation_1(name, shape):
    inputs = inputs_of(shape) * 9 + 5
    axes = tuple(range(inputs.ndim - 1))
    mean, deviation = inputs.mean(axes), inputs.std(axes)
    plain = build(name, shape, param_dtype=jnp.float64)
    normalised = build(name, shape, normalise=(mean, deviation), param_dtype=jnp.float64)
    variables = drawn(plain)
    np.testing.assert_allclose(
        predict(normalised, variables, inputs).logits,
        predict(plain, variables, (inputs - mean) / deviation).logits,
        rtol=1e-9,
    )


@pytest.mark.parametrize("kind", ["series", "features"])
@pytest.mark.parametrize("name", NAMES)
def test_models_take_what_they_can_and_name_those_that_do(name, kind):
    shape = SERIES if kind == "series" else FEATURES
    able = {"series": ["mlp", "conv1d"], "features": ["mlp"]}[kind]
    if name in able:
        logits = predict(build(name, shape), drawn(build(name, shape)), inputs_of(shape)).logits
        assert logits.shape == (5, 4)
        return
    with pytest.raises(ValueError) as excinfo:
        models.build(name, num_classes=4, input_shape=shape)
    assert str(excinfo.value) == (
        f"{name} does not take {kind}, here of shape {list(shape)}; models that do are "
        f"{', '.join(able)}"
    )


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("conv1d", (8, 8, 1), r"conv1d does not take images, here of shape \[8, 8, 1\]; models"),
        ("conv1d", (3, 2), "series must have at least 4 steps for conv1d, not 3"),
        ("mlp", (), r"input_shape must be \[H, W, channels\] of images, .*, not \[\]"),
        ("mlp", (2, 8, 8, 1), r"of sizes of at least 1, not \[2, 8, 8, 1\]"),
        ("mlp", (0,), r"of sizes of at least 1, not \[0\]"),
    ],
)
def test_shapes_that_cannot_be_built_for(name, shape, message):
    with pytest.raises(ValueError, match=message):
        build(name, shape)


@pytest.mark.parametrize(("shape", "kind"), [(SERIES, "series"), (FEATURES, "features")])
def test_augmentation_is_of_images_alone(shape, kind):
    assert augmentation.augmentation([], shape) is None
    with pytest.raises(ValueError) as excinfo:
        augmentation.augmentation(["flip", "crop"], shape)
    assert str(excinfo.value) == (
        f"augmentation flip, crop is of images alone, and the data are {kind}: leave it out"
    )


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv1d", (16, 3)),
        *(pytest.param("mlp", s, marks=pytest.mark.slow) for s in ((9,), (16, 3))),
    ],
)
@pytest.mark.slow
def test_two_rounds_of_lips(name, shape):
    rng, sizes = np.random.default_rng(0), np.array([8, 4, 8])
    dataset = datasets.synthetic(input_shape=shape)
    parts = partition.iid(dataset, train_sizes=sizes, test_sizes=sizes, rng=rng)
    data = clients.stack(dataset, parts, global_examples=12, rng=rng)
    kinds = ("conv",) if name == "conv1d" else ("dense",)
    lips = transient_sparsity(fedavg(), every=1, kinds=kinds)
    model, training = build(name, shape, width=4), LocalTraining(optax.sgd(0.01), 1, 4)
    state, metrics, _ = simulate(model, lips, data, rounds=2, training=training)
    for measure in ("accuracy_after", "global_accuracy", "inertia_index"):
        assert np.isfinite(metrics.scalars[measure]).all(), measure
    assert (metrics.layers["step"] > 0).all()  # every layer moves
    kept = [np.unpackbits(bits, axis=1).mean() for bits in state["packed_masks"]]
    # of the middle layers: half at first, all after the last round
    assert len(kept) == len(model.layers) - 2
    np.testing.assert_allclose(kept, 0.75, atol=0.02)
