"""Parameter counts, layers, padding and lowerings of the models."""

import math
import typing
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.worlds import simulate, world
from lipsjax import fedavg, models, transient_sparsity, tree
from lipsjax.local import LocalTraining, model_loss
from lipsjax.metrics.flops import flops
from lipsjax.models import convolution, layers
from lipsjax.models.build import NAMES, NORMS
from lipsjax.models.convolution import CONVOLUTIONS
from lipsjax.models.pooling import max_pool
from lipsjax.models.vit import patch_size
from lipsjax.runs.config import ModelName
from lipsjax.strategies import moon
from lipsjax.strategies.layerwise import layer_index
from lipsjax.strategy import RunContext

QUICK, SLOW = ("mlp", "cnn", "resnet8", "vit"), ("vgg5", "resnet6", "resnet10", "resnet18")
EACH = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
IMAGES = [name for name in NAMES if name != "conv1d"]  # of series: test_series.py
STAGES = ("resnet8", "resnet10")
CONVOLVING = ("cnn", "vgg5", "resnet6", "resnet8", "resnet10", "resnet18")


def build(name, shape=(8, 8, 2), classes=3, width=4, **options):
    return models.build(name, num_classes=classes, input_shape=shape, width=width, **options)


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def drawn(model):
    """Variables, without a compile, whose scales, biases and statistics are not as at first."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        if path[-1].key == "kernel":
            return rng.normal(size=x.shape) / math.sqrt(math.prod(x.shape[:-1]))
        return rng.uniform(0.5, 1.5, x.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model))


def predict(model, variables, images, mask, *, train):
    return jax.jit(lambda v, x, m: model.apply(v, x, mask=m, train=train))(variables, images, mask)


def test_the_models_are_those_of_the_config():
    assert typing.get_args(ModelName) == NAMES
    assert {*QUICK, *SLOW} == {*IMAGES}


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("vgg5", 10, 3_918_858),
        ("resnet6", 10, 314_954),
        ("resnet8", 10, 1_235_274),
        ("resnet8", 100, 1_258_404),
        ("resnet10", 200, 5_008_392),
        ("resnet18", 1000, 11_689_512),  # as torchvision documents its own, of the same layers
    ],
)
def test_published_parameters(name, classes, count):
    assert tree.size(shapes_of(build(name, (32, 32, 3), classes, width=None)).params) == count


def test_parameters_of_resnet18_by_hand():
    stem = 7 * 7 * 3 * 64 + 2 * 64
    count = stem + 512 * 10 + 10
    before = 64
    for channels in (64, 128, 256, 512):
        convolutions = 9 * before * channels + 3 * 9 * channels * channels
        count += convolutions + 4 * 2 * channels
        if before != channels:
            count += before * channels + 2 * channels  # a shortcut
        before = channels
    assert tree.size(shapes_of(build("resnet18", (32, 32, 3), 10, width=None)).params) == count


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_parameters_of_an_mlp_by_hand(norm):
    each = 2 * 7 if norm == "batch" else 7  # scale and shift, or a bias
    count = (5 * 4 * 3 * 7 + each) + 2 * (7 * 7 + each) + (7 * 6 + 6)
    model = build("mlp", (5, 4, 3), 6, width=7, depth=2, norm=norm)
    assert tree.size(shapes_of(model).params) == count
    assert [layer.name for layer in model.layers] == ["stem", "dense1", "dense2", "classifier"]


def test_parameters_of_a_vit_by_hand():
    width, patches = 12, 49  # 28 x 28 in patches of 4 x 4
    stem = 4 * 4 * width + width + patches * width
    attention = 4 * (width * width + width)
    dense = width * 4 * width + 4 * width + 4 * width * width + width
    block = attention + dense + 2 * 2 * width
    count = stem + 2 * block + 2 * width + width * 10 + 10
    model = build("vit", (28, 28, 1), 10, width=width, depth=2)
    assert tree.size(shapes_of(model).params) == count


@pytest.mark.parametrize("name", IMAGES)
def test_every_kernel_is_declared_once_and_in_order(name):
    model = build(name, (16, 16, 1), depth=2)
    kernels = tree.pick(shapes_of(model).params, lambda p: p.endswith("kernel"))
    declared = ["/".join(layer.path) for layer in model.layers]
    assert sorted(declared) == sorted(kernels)
    roles = [layer.role for layer in model.layers]
    assert roles == ["stem", *["middle"] * (len(roles) - 2), "classifier"]
    for layer, path in zip(model.layers, declared, strict=True):
        assert kernels[path].ndim == {"dense": 2, "conv": 4}[layer.kind]
    assert {layer.kind for layer in model.layers[:-1]} == {
        "conv" if name in CONVOLVING else "dense"
    }


@pytest.mark.parametrize("name", IMAGES)
def test_every_leaf_belongs_to_a_layer(name):
    model = build(name, (16, 16, 1), depth=2)
    owned = {layer.name: set() for layer in model.layers}
    for path in tree.pick(shapes_of(model)._asdict(), lambda p: True):
        index = layer_index(path, model.layers)
        assert index is not None, path
        owned[model.layers[index].name].add(path)
        assert models.is_norm(path) == ("norm_" in path)
    for layer in model.layers:
        assert f"params/{'/'.join(layer.path)}" in owned[layer.name]
    has_bias = "classifier" if name not in ("vgg5", "vit") else None
    for layer in model.layers:
        biased = f"params/{'/'.join(layer.path[:-1])}/bias" in owned[layer.name]
        assert biased == (has_bias in (None, layer.name))
    normed = {name for name, paths in owned.items() if any(map(models.is_norm, paths))}
    if name == "vit":
        before = {f"block{i}_{part}" for i in (1, 2) for part in ("query", "mlp1")}
        assert normed == {*before, "classifier"}
        assert "params/stem/position" in owned["stem"]
    else:
        assert normed == {layer.name for layer in model.layers[:-1]}


NORMED = [
    ("mlp", "batch"),
    ("cnn", "group"),
    ("resnet8", "batch"),
    ("vit", "batch"),
    *(pytest.param(name, "none", marks=pytest.mark.slow) for name in ("mlp", "cnn", "resnet8")),
    pytest.param("cnn", "batch", marks=pytest.mark.slow),
    pytest.param("resnet8", "group", marks=pytest.mark.slow),
    *(pytest.param(name, norm, marks=pytest.mark.slow) for name in SLOW for norm in NORMS),
]


@pytest.mark.parametrize(("name", "norm"), NORMED)
def test_padding_weighs_nothing(name, norm):
    shape = (16, 16, 2)  # on 8 by 8 the last maps of a ResNet are one place, nothing to a group
    model = build(name, shape, norm=norm, param_dtype=jnp.float64)
    images = np.random.default_rng(0).normal(size=(5, *shape))
    garbage = np.concatenate([images, np.full((2, *shape), 1e3)])
    variables = drawn(model)
    alone = predict(model, variables, images, np.ones(5, bool), train=True)
    padded = predict(model, variables, garbage, np.arange(7) < 5, train=True)
    np.testing.assert_allclose(alone[0], padded[0][:5], rtol=1e-10, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), alone[1], padded[1])


@pytest.mark.parametrize("name", EACH)
def test_features_are_what_the_classifier_reads(name):
    model = build(name, (5, 7, 2), param_dtype=jnp.float64)
    variables = drawn(model)
    images = np.random.default_rng(0).normal(size=(3, 5, 7, 2))
    found = predict(model, variables, images, np.ones(3, bool), train=False)
    head = variables.params["classifier"]
    logits = found.features @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(found.logits, logits, rtol=1e-10, atol=1e-12)
    assert np.std(found.logits, axis=0).min() > 1e-6  # images differ to it


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "vgg5", "resnet8", "resnet18"])
def test_lowerings_agree(name):
    images = np.random.default_rng(0).normal(size=(4, 7, 6, 2))
    labels, mask = jnp.arange(4) % 3, jnp.arange(4) < 3

    def gradient(conv):
        # batch statistics of three single pixels would make much of how sums are rounded
        model = build(name, (7, 6, 2), width=8, conv=conv, norm="group", param_dtype=jnp.float64)
        loss = jax.value_and_grad(model_loss(model), has_aux=True)
        return jax.jit(loss)(*drawn(model), images, labels, mask)

    theirs = gradient("grouped")
    for conv in ("loop", "patches"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
            gradient(conv),
            theirs,
        )


def attention_by_hand(params, block, x):
    """Attention of one image's tokens [T, width], head by head."""

    def dense(part, x):
        layer = params[f"{block}_{part}"]
        return x @ layer["kernel"] + layer["bias"]

    q, k, v = (dense(part, x) for part in ("query", "key", "value"))
    size, mixed = x.shape[1] // 4, np.empty_like(x)
    for head in range(4):
        own = slice(head * size, (head + 1) * size)
        scores = np.exp(q[:, own] @ k[:, own].T / math.sqrt(size))
        mixed[:, own] = scores / scores.sum(1, keepdims=True) @ v[:, own]
    return dense("out", mixed)


def vit_by_hand(params, image):
    """Logits of one image [5, 7, C], whose patches of 2 x 2 stand out by a row and a column."""

    def norm(name, x):
        layer, x = params[f"norm_{name}"]["norm"], x - x.mean(1, keepdims=True)
        return x / np.sqrt(x.var(1, keepdims=True) + 1e-5) * layer["scale"] + layer["bias"]

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    image = np.pad(image, ((0, 1), (0, 1), (0, 0)))
    patches = [image[i : i + 2, j : j + 2].ravel() for i in range(0, 6, 2) for j in range(0, 8, 2)]
    x = dense(params["stem"]["patches"], np.stack(patches)) + params["stem"]["position"]
    for block in ("block1", "block2"):
        x = x + attention_by_hand(params, block, norm(f"{block}_query", x))
        y = dense(params[f"{block}_mlp1"], norm(f"{block}_mlp1", x))
        y = y / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + dense(params[f"{block}_mlp2"], y)
    return dense(params["classifier"], norm("classifier", x).mean(0, keepdims=True))[0]


def test_a_vit_is_what_it_is_by_hand():
    model = build("vit", (5, 7, 2), width=8, depth=2, param_dtype=jnp.float64)
    variables = drawn(model)
    images = np.random.default_rng(0).normal(size=(3, 5, 7, 2))
    found = predict(model, variables, images, np.ones(3, bool), train=True).logits
    expected = [vit_by_hand(variables.params, image) for image in images]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 40), 2), ((5, 7), 2), ((16, 16), 2), ((17, 16), 4), ((224, 224), 32)]
)
def test_patches_are_at_most_64(shape, size):
    assert patch_size(*shape) == size


@pytest.mark.parametrize("shape", [(4, 4, 1), pytest.param((33, 32, 3), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EACH)
def test_images_of_other_sizes(name, shape):
    model = build(name, shape)
    assert_predicts(model, shape)


@pytest.mark.parametrize("name", ["mlp", "vit"])
def test_signals_are_images_of_one_row(name):
    assert_predicts(build(name, (1, 40, 1)), (1, 40, 1))


def assert_predicts(model, shape):
    def logits(variables):
        images = jnp.zeros((2, *shape), jnp.float32)
        return model.apply(variables, images, mask=jnp.ones(2, bool), train=True).logits

    assert jax.eval_shape(logits, shapes_of(model)).shape == (2, 3)


def assert_learns(model, strategy, rounds=2):
    # whole batches: statistics of one example of a single pixel say nothing, and deep nets diverge
    training, data = LocalTraining(optax.sgd(0.01), 1, 4), world([8, 4, 8])
    state, metrics, _ = simulate(model, strategy, data, rounds=rounds, training=training)
    assert np.isfinite(metrics.client_loss).all()
    for name in ("accuracy_after", "global_accuracy", "inertia_index"):
        assert np.isfinite(metrics.scalars[name]).all(), name
    assert metrics.layers["step"].shape == (rounds, len(model.layers))
    assert (metrics.layers["step"] > 0).all()  # every layer moves
    return state


@pytest.mark.whole
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet6", "vit"])
def test_two_rounds_of_fedavg(name):
    assert_learns(build(name, (5, 5, 1), 4, depth=1), fedavg())


@pytest.mark.whole
@pytest.mark.parametrize(
    "name",
    # resnet8 and resnet10 have a stage more each than resnet6, and no other parts
    ["mlp", *(pytest.param(n, marks=pytest.mark.slow) for n in IMAGES[1:] if n not in STAGES)],
)
@pytest.mark.slow
def test_two_rounds_of_lips(name):
    model = build(name, (5, 5, 1), 4, depth=1)
    kinds = ("conv",) if name in CONVOLVING else ("dense",)
    lips = transient_sparsity(fedavg(), every=1, kinds=kinds)
    assert lips.sparsifier is not None
    run = RunContext(rounds=2, num_examples=(1,), layers=model.layers)
    assert lips.sparsifier(run).layers == model.layers[1:-1]
    state = assert_learns(model, lips)
    kept = [np.unpackbits(bits, axis=1).mean() for bits in state["packed_masks"]]
    np.testing.assert_allclose(kept, 0.75, atol=0.02)  # half at first, all after the last round


@pytest.mark.whole
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "vit"])
def test_moon_reads_the_features_of(name):
    assert_learns(build(name, (5, 5, 1), 4, depth=1), moon())


FLAX = {
    "lhs_dilation": (1, 1),
    "rhs_dilation": (1, 1),
    "dimension_numbers": jax.lax.conv_dimension_numbers(
        (1, 8, 8, 1), (3, 3, 1, 1), ("NHWC", "HWIO", "NHWC")
    ),
    "feature_group_count": 1,
}
# kernel, stride, padding, channels, image: every way of the lowering, at its borders
CONVOLUTION_CASES = [
    (3, 1, "SAME", 8, (8, 8)),
    (3, 1, "VALID", 9, (9, 7)),
    (3, 1, ((1, 1), (0, 2)), 8, (5, 6)),
    (3, 1, "SAME", 2, (8, 8)),
    (3, 2, ((1, 1), (1, 1)), 8, (9, 7)),
    (7, 2, ((3, 3), (3, 3)), 3, (9, 8)),
    (1, 2, "VALID", 4, (9, 7)),
    (1, 1, "SAME", 8, (3, 4)),
    (3, 1, "SAME", 8, (2, 2)),
    (3, 2, ((1, 1), (1, 1)), 4, (2, 1)),
    (3, 1, "SAME", 3, (1, 3)),
]


def trained_twice(conv, x, w, stride, padding):
    """Outputs and gradients of two steps in a scan, for clients with kernels of their own."""

    def loss(x, w):
        y = conv(x, w, (stride, stride), padding, **FLAX)
        return jnp.sum(jnp.sin(y) * jnp.arange(1.0, 1 + y.shape[-1])), y

    def one(x, w):
        def step(w, _):
            (_, y), (dx, dw) = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, w)
            return w - 0.01 * dw, (y, dx, dw)

        return jax.lax.scan(step, w, None, length=2)

    return jax.jit(jax.vmap(one))(x, w)


@pytest.mark.parametrize("lowering", ["loop", pytest.param("patches", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CONVOLUTION_CASES, ids=str)
def test_lowerings_are_convolutions(lowering, case):
    size, stride, padding, channels, image = case
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, *image, channels)), rng.normal(size=(2, size, size, channels, 5))
    ours = trained_twice(CONVOLUTIONS[lowering], x, w / size, stride, padding)
    theirs = trained_twice(CONVOLUTIONS["grouped"], x, w / size, stride, padding)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, theirs)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("near", "at_once"), [(1, 1), (2, 2), (4, 3), (6, 6), (40, 6)])
def test_patches_of_a_few_images_at_a_time_are_convolutions(near, at_once, stride):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 6, 8, 8, 2)), rng.normal(size=(2, 3, 3, 2, 5))
    theirs = trained_twice(CONVOLUTIONS["grouped"], x, w, stride, "SAME")
    values = (8 // stride) ** 2 * 3 * 3 * 2  # of an image's patches
    with (
        mock.patch.object(convolution, "_NEAR", near * values),
        mock.patch.object(convolution, "_patches", wraps=convolution._patches) as patches,
    ):
        ours = trained_twice(CONVOLUTIONS["loop"], x, w, stride, "SAME")
    assert {len(call.args[0]) for call in patches.call_args_list} == {at_once}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, theirs)


WINOGRAD_CASES = [  # kernel, padding, channels, features, image
    ((3, 3), "SAME", 32, 32, (8, 16)),
    ((3, 3), "VALID", 32, 40, (15, 16)),
    ((3, 1), "SAME", 40, 32, (9, 15)),
    ((3, 2), ((2, 1), (0, 1)), 32, 32, (10, 13)),
    ((3, 3), ((0, 2), (2, 0)), 32, 32, (13, 11)),
]


def _gradients(conv, x, w, dy, padding):
    y, pull = jax.vjp(lambda x, w: conv(x, w, (1, 1), padding, **FLAX), x, w)
    return y, *pull(jnp.asarray(dy[:, : y.shape[1], : y.shape[2]], y.dtype))


@pytest.mark.parametrize("case", WINOGRAD_CASES, ids=str)
def test_convolutions_of_few_products_are_convolutions(case):
    kernel, padding, channels, features, image = case
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4, *image, channels)), rng.normal(size=(*kernel, channels, features))
    dy = rng.normal(size=(4, 20, 20, features))
    theirs = _gradients(CONVOLUTIONS["grouped"], x, w, dy, padding)
    with mock.patch.object(convolution, "_direct", side_effect=AssertionError("another way")):
        ours = _gradients(CONVOLUTIONS["loop"], x, w, dy, padding)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())


def test_convolutions_of_few_products_lose_little_to_rounding():
    # in float32, against float64, no more than four times what XLA's own convolution loses
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4, 16, 16, 64)), rng.normal(size=(3, 3, 64, 64))
    dy = rng.normal(size=(4, 16, 16, 64))
    exact = _gradients(CONVOLUTIONS["grouped"], x, w, dy, "SAME")
    x, w = x.astype(np.float32), w.astype(np.float32)

    def error(conv):
        found = _gradients(conv, x, w, dy, "SAME")
        assert all(y.dtype == jnp.float32 for y in found)
        return [
            float(np.abs(y - e).mean() / np.abs(e).mean())
            for y, e in zip(found, exact, strict=True)
        ]

    for ours, theirs in zip(
        error(CONVOLUTIONS["loop"]), error(CONVOLUTIONS["grouped"]), strict=True
    ):
        assert ours < 4 * theirs
        assert ours < 1e-6


@pytest.mark.parametrize("image", [(16, 16), (7, 20)])
def test_convolutions_of_few_products_count_as_they_are_written(image):
    x, w = jnp.ones((2, 4, *image, 32)), jnp.ones((2, 3, 3, 32, 40))

    def count(conv):
        def one(x, w):
            return _gradients(conv, x, w, np.ones((4, *image, 40)), "SAME")

        def step(w, _):
            y, dx, dw = jax.vmap(one)(x, w)
            return w + dw, (y, dx)

        return flops(jax.make_jaxpr(lambda w: jax.lax.scan(step, w, None, length=5))(w))

    pass_of_a_step = 2 * 9 * 32 * 40 * math.prod(image) * 4 * 2
    written = 3 * 5 * pass_of_a_step
    assert count(CONVOLUTIONS["loop"]) == written
    assert count(CONVOLUTIONS["patches"]) == written


def test_bfloat16_is_convolved_as_it_is_written():
    x, w = jnp.ones((4, 16, 16, 64), jnp.bfloat16), jnp.ones((3, 3, 64, 64), jnp.bfloat16)
    with mock.patch.object(convolution, "_winograd", side_effect=AssertionError("loses bits")):
        y = CONVOLUTIONS["loop"](x, w, (1, 1), "SAME", **FLAX)
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 8, 8, 0]) == 9 * 64


def test_grouped_and_dilated_convolutions_are_refused():
    x, w = jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 1, 2))
    for options in ({"feature_group_count": 2}, {"rhs_dilation": (2, 2)}):
        with pytest.raises(ValueError, match="plain convolutions"):
            CONVOLUTIONS["loop"](x, w, (1, 1), "SAME", **options)


@pytest.mark.parametrize(
    ("window", "stride", "padding", "image"),
    [
        (2, 2, "VALID", (8, 8)),
        (2, 2, "VALID", (7, 9)),
        (3, 2, ((1, 1), (1, 1)), (8, 7)),
        (3, 2, "SAME", (4, 4)),
        (3, 1, "SAME", (5, 3)),
        (2, 3, "VALID", (7, 8)),
    ],
)
def test_max_pool_and_its_gradient(window, stride, padding, image):
    # rounded, so that maxima tie; the gradient goes to the first, as in reduce_window
    x = np.random.default_rng(0).normal(size=(2, 3, *image, 4)).round(1).clip(0)

    def run(pool):
        def loss(x):
            y = pool(x)
            return jnp.sum(jnp.sin(y + 1.3)), y

        return jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True)))(x)

    shape, strides = (window, window), (stride, stride)
    ours = run(lambda x: max_pool(x, shape, strides, padding))
    theirs = run(lambda x: nn.max_pool(x, shape, strides, padding))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours, theirs
    )


def test_batch_norm_is_flax_without_the_padding():
    rng = np.random.default_rng(0)
    x, scale, bias = rng.normal(size=(5, 4, 3, 6)), rng.normal(size=6), rng.normal(size=6)
    weights, mask = rng.normal(size=(5, 4, 3, 6)), np.array([1.0, 1.0, 0.0, 1.0, 0.0])
    real = mask.astype(bool)

    def ours(x, scale, bias):
        y, mean, var = layers.batch_norm(x, scale, bias, mask)
        return jnp.sum((y * weights)[real]), (mean, var)

    def theirs(x, scale, bias):
        # Flax keeps running statistics in float32, hence the tolerance
        norm = nn.BatchNorm(False, epsilon=layers.EPSILON, momentum=0.0, dtype=jnp.float64)
        statistics = {"mean": np.zeros(6), "var": np.ones(6)}
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": statistics}
        y, new = norm.apply(variables, x[real], mutable=["batch_stats"])
        return jnp.sum(y * weights[real]), (new["batch_stats"]["mean"], new["batch_stats"]["var"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        jax.jit(jax.value_and_grad(ours, (0, 1, 2), has_aux=True))(x, scale, bias),
        jax.jit(jax.value_and_grad(theirs, (0, 1, 2), has_aux=True))(x, scale, bias),
    )


@pytest.mark.parametrize("mean", [0, 100, 1000])
def test_batch_norm_loses_no_more_than_its_inputs_have_lost(mean):
    """In float32 against NumPy's textbook in float64, for a mean of so many deviations."""
    rng, scale = np.random.default_rng(0), np.ones(6, np.float32)
    x = (rng.normal(size=(40, 8, 8, 6)) + mean).astype(np.float32)
    dy = (rng.normal(size=x.shape) + (x - mean)).astype(np.float32)

    def ours(x, scale, bias):
        y, *_ = layers.batch_norm(x, scale, bias, np.ones(40, np.float32))
        return jnp.vdot(y, dy), y

    (d_x, d_scale, d_bias), y = jax.jit(jax.grad(ours, (0, 1, 2), has_aux=True))(
        x, scale, 0 * scale
    )
    axes, count = (0, 1, 2), 40 * 8 * 8
    centred = x.astype(float) - x.mean(axes, dtype=float)
    inverse = 1 / np.sqrt((centred**2).mean(axes) + layers.EPSILON)
    expected, cotangent = centred * inverse, dy.astype(float)
    of_bias, of_scale = cotangent.sum(axes), (cotangent * expected).sum(axes)
    of_x = inverse * (cotangent - of_bias / count - expected * of_scale / count)
    lost = (1 + mean) * np.finfo(np.float32).eps
    np.testing.assert_allclose(y, expected, rtol=0, atol=4 * lost)
    np.testing.assert_allclose(d_scale, of_scale, rtol=4 * lost)
    np.testing.assert_allclose(d_bias, of_bias, rtol=1e-5)
    np.testing.assert_allclose(d_x, of_x, rtol=0, atol=4 * lost * np.abs(of_x).max())


def test_batch_norm_of_units_is_that_of_pixels():
    rng, mask = np.random.default_rng(0), np.array([1.0, 1.0, 0.0, 1.0, 0.0])
    x, scale, bias = rng.normal(size=(5, 6)), rng.normal(size=6), rng.normal(size=6)

    def loss(x, scale, bias, shape):
        y, mean, var = layers.batch_norm(x.reshape(shape), scale, bias, mask)
        return jnp.sum(jnp.sin(y.reshape(5, 6)) * mask[:, None]), (mean, var)

    units, pixels = (
        jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias, shape)
        for shape in ((5, 6), (5, 1, 1, 6))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), units, pixels)


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 6)])
def test_dense_is_flax_and_its_gradient(shape):
    x = np.random.default_rng(0).normal(size=shape)

    def loss(variables, x, layer):
        return jnp.sum(jnp.tanh(layer(3, param_dtype=jnp.float64).apply(variables, x)))

    variables = nn.Dense(3, param_dtype=jnp.float64).init(jax.random.key(0), x)
    ours, flax = (jax.grad(loss, (0, 1))(variables, x, layer) for layer in (layers.Dense, nn.Dense))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ours, flax)


def test_integer_images_are_scaled():
    model = build("mlp", (8, 8, 1))
    variables, mask = drawn(model), np.ones(2, bool)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    whole, *_ = predict(model, variables, images, mask, train=False)
    scaled, *_ = predict(model, variables, images.astype(np.float32) / 255, mask, train=False)
    np.testing.assert_allclose(whole, scaled, rtol=1e-6)


def test_normalised_images_have_mean_0_and_deviation_1():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    images[..., 2] = 51  # a channel that never changes
    pixels = images.reshape(-1, 3) / 255
    mean, deviation = pixels.mean(0), pixels.std(0)
    deviation[2] = 0.0  # as it is, but for rounding
    by_hand = (images / 255 - mean) / np.where(deviation > 0, deviation, 1)
    options = {"shape": (8, 8, 3), "param_dtype": jnp.float64}
    plain = build("mlp", **options)
    normalised = build("mlp", normalise=(mean, deviation), **options)
    variables, mask = drawn(plain), np.ones(2, bool)
    expected = predict(plain, variables, by_hand, mask, train=False).logits
    for given in (images, images / 255):  # floating ones are taken as they are
        found = predict(normalised, variables, given, mask, train=False).logits
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vgg"}, "model must be one of mlp, cnn, conv1d, vgg5, .*, vit, not 'vgg'"),
        ({"norm": "layer"}, "norm must be one of batch, group, none, not 'layer'"),
        ({"name": "mlp", "norm": "group"}, "norm of mlp must be one of batch, none, not 'group'"),
        ({"name": "vit", "norm": "none"}, "norm of vit must be one of batch, group, not 'none'"),
        ({"conv": "fft"}, "conv must be one of"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, not 'float16'"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"name": "mlp", "depth": 0}, "depth must be at least 1, not 0"),
        ({"name": "vit", "depth": -1}, "depth must be at least 1, not -1"),
        ({"name": "vit", "width": 10}, "width of vit must be a multiple of its 4 heads, not 10"),
        ({"input_shape": (2, 8, 1)}, "images must be at least 4 x 4 for cnn, not 2 x 8"),
        (
            {"name": "vgg5", "input_shape": (8, 3, 1)},
            "images must be at least 4 x 4 for vgg5, not 8 x 3",
        ),
        (
            {"name": "resnet18", "input_shape": (1, 40, 1)},
            "images must be at least 4 x 4 for resnet18, not 1 x 40",
        ),
        (
            {"normalise": ([0.5] * 3, [0.2] * 3)},
            r"a finite mean for each of 1 channels, not \[0.5, 0.5, 0.5\]",
        ),
        ({"normalise": ([0.5], [np.nan])}, r"a finite deviation for each of 1 channels, not \[nan"),
        ({"normalise": ([0.5], [-0.2])}, r"deviations of at least 0, not \[-0.2\]"),
        (
            {"input_shape": (7, 7, 1), "width": 4, "norm": "group"},
            "norm group has nothing to normalise of 8 channels on maps of one place: 8 groups have",
        ),
        (
            {"name": "conv1d", "input_shape": (7, 1), "width": 2, "norm": "group"},
            "norm group has nothing to normalise of 4 channels on maps of one place: 4 groups have",
        ),
    ],
)
def test_refused(options, message):
    good = {"name": "cnn", "num_classes": 3, "input_shape": (8, 8, 1)}
    with pytest.raises(ValueError, match=message):
        models.build(**{**good, **options})


@pytest.mark.parametrize(
    ("size", "width", "norm"),
    [(8, 4, "group"), (7, 8, "group"), (7, 3, "group"), (7, 4, "none"), (7, 4, "batch")],
)
def test_a_norm_of_two_values_or_more_lets_images_through(size, width, norm):
    """At the very border of what is refused: two places, or groups of two channels or three."""
    model = build("cnn", (size, size, 1), width=width, norm=norm)
    images, mask = np.random.default_rng(0).normal(size=(4, size, size, 1)), np.ones(4, bool)
    features = predict(model, drawn(model), images, mask, train=True).features
    assert np.std(features, axis=0).max() > 0.01
