"""Parameter counts, layers, padding and lowerings of the models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsjax import models, tree
from lipsjax.models import layers


@pytest.mark.parametrize(("classes", "count"), [(10, 1_235_274), (100, 1_258_404)])
def test_resnet8_has_the_published_parameters(classes, count):
    model = models.build("resnet8", num_classes=classes, image_shape=(32, 32, 3))
    assert tree.size(jax.eval_shape(model.init, jax.random.key(0)).params) == count


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_every_kernel_is_declared_once_and_in_order(name):
    model = models.build(name, num_classes=10, image_shape=(16, 16, 1))
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    declared = ["/".join(layer.path) for layer in model.layers]
    present = list(tree.pick(params, lambda p: p.endswith("kernel")))
    assert sorted(declared) == sorted(present)
    assert model.layers[0].role == "stem"
    assert model.layers[-1].role == "classifier"
    assert {x.role for x in model.layers[1:-1]} == {"middle"}


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_padding_weighs_nothing(name, norm):
    model = models.build(
        name, num_classes=3, image_shape=(8, 8, 2), width=4, norm=norm, param_dtype=jnp.float64
    )
    variables = model.init(jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 2))
    garbage = np.concatenate([images, np.full((2, 8, 8, 2), 1e3)])
    alone = model.apply(variables, images, mask=jnp.ones(5, bool), train=True)
    padded = model.apply(variables, garbage, mask=jnp.arange(7) < 5, train=True)
    np.testing.assert_allclose(alone[0], padded[0][:5], rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), alone[1], padded[1])


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 1), (0, 2))])
def test_patches_are_a_convolution(size, stride, padding):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 2, 9, 8, 2)), rng.normal(size=(3, size, size, 2, 4))

    def total(lowering, x, w):
        y = lowering(
            x,
            w,
            (stride, stride),
            padding,
            dimension_numbers=jax.lax.ConvDimensionNumbers(
                (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)
            ),
        )
        return jnp.sum(jnp.sin(y)), y

    for ours, theirs in zip(
        *(
            jax.vmap(jax.value_and_grad(lambda x, w, f=f: total(f, x, w), (0, 1), has_aux=True))(
                x, w
            )
            for f in (layers.CONVOLUTIONS["patches"], jax.lax.conv_general_dilated)
        ),
        strict=True,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), ours, theirs)


def test_integer_images_are_scaled():
    model = models.build("cnn", num_classes=3, image_shape=(8, 8, 1), width=2)
    variables = model.init(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    mask = jnp.ones(2, bool)
    whole, _ = model.apply(variables, images, mask=mask, train=False)
    scaled, _ = model.apply(variables, images.astype(np.float32) / 255, mask=mask, train=False)
    np.testing.assert_allclose(whole, scaled, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vgg"}, "model must be one of cnn, resnet8, not 'vgg'"),
        ({"norm": "layer"}, "norm must be one of batch, group, none, not 'layer'"),
        ({"conv": "fft"}, "conv must be one of"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"image_shape": (2, 8, 1)}, "images must be at least 4 x 4, not 2 x 8"),
    ],
)
def test_refused(options, message):
    good = {"name": "cnn", "num_classes": 3, "image_shape": (8, 8, 1)}
    with pytest.raises(ValueError, match=message):
        models.build(**{**good, **options})
