"""What LIPS is compared with: its controls, and FedAvg as well tuned as a site would have it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage

from helpers.loop_reference import Loop, flat, unflat
from helpers.oracle import check, reference_model
from helpers.worlds import tiny_model, world
from lipsjax import augmentation, datasets, fedavg, partition
from lipsjax.keys import Purpose, derive
from lipsjax.local import LocalTraining
from lipsjax.runs.build import build_optimizer
from lipsjax.runs.config import Config, LocalConfig, PartitionConfig
from lipsjax.runs.data import share_out
from lipsjax.sparsity import transient_shrink

SIZES = [9, 2, 6, 5]
OPTIONS = {"epochs": 2, "batch_size": 4, "learning_rate": 0.1}


class ShrinkLoop(Loop):
    """Layers times sqrt(d), and noise; the weights that shrink stand where masks would."""

    def choose_masks(self, last):
        density = self.density()
        assert isinstance(density, float)  # of a schedule, not of a trigger
        self.masks = {}
        if density < 1:
            paths = [self.path(layer) for layer in self.masked_layers()]
            self.masks = {c: dict.fromkeys(paths, density) for c in self.cohort(self.t + 1)}

    def thin(self, variables, mask, client, after):
        params, initial = flat(variables.params), flat(self.initial.params)
        keys = jax.random.split(derive(self.key, after, client, Purpose.REFILL), len(mask))
        for key, (path, density) in zip(keys, mask.items(), strict=True):
            w = np.sqrt(density) * params[path]
            if self.sparsity["perturb"]:
                draw = np.array(jax.random.normal(key, w.shape, jnp.float32), np.float64)
                w += np.sqrt(1 - density) * initial[path].std() * draw
            params[path] = w
        return variables._replace(params=unflat(variables.params, params))


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.parametrize("perturb", [pytest.param(False, marks=pytest.mark.slow), True])
def test_shrinking(perturb):
    data, model = world(SIZES), tiny_model()
    # of a power of two, which is the same in float32 and float64
    sparsity = {"schedule": "constant", "density": 0.25, "every": 2, "hold": 0}
    sparsity["kinds"] = ("conv", "dense")
    loop = ShrinkLoop(
        reference_model(),
        data,
        jax.random.key(1),
        rounds=4,
        sparsity={**sparsity, "perturb": perturb},
        cohort=3,
        **OPTIONS,
    )
    strategy = transient_shrink(
        fedavg(),
        density=lambda x: 0.25,
        every=2,
        perturb=perturb,
        kinds=("conv", "dense"),
    )
    # the noise itself is drawn in float32, and its deviation is a sum in another order
    check(
        model,
        strategy,
        data,
        loop,
        rounds=4,
        cohort_size=3,
        chunk=2,
        tolerance=1e-6 if perturb else 1e-9,
    )


class TunedLoop(Loop):
    """A cosine of the round, decay of the weights, and mirrored images."""

    def round(self):
        self.learning_rate = 0.1 * (1 + np.cos(np.pi * self.t / self.rounds)) / 2
        return super().round()

    def shape(self, gradient, params, start, client):
        self.params = params
        return gradient

    def correct(self, gradient, client):
        return jax.tree.map(lambda g, w: g + 0.01 * w, gradient, self.params)

    def distort(self, images, rows, key, epoch):
        keys = jax.random.split(jax.random.fold_in(key, 2**32 - 1), self.epochs)
        out = []
        for image, row in zip(images, rows, strict=True):
            (own,) = jax.random.split(jax.random.fold_in(keys[epoch], int(row)), 1)
            out.append(image[:, ::-1] if jax.random.bernoulli(own) else image)
        return np.stack(out)


@pytest.mark.slow
def test_a_tuned_fedavg():
    data = world(SIZES)
    loop = TunedLoop(reference_model(), data, jax.random.key(1), rounds=3, **OPTIONS)
    optimizer = build_optimizer(LocalConfig(learning_rate=0.1, weight_decay=0.01))
    training = LocalTraining(
        optimizer,
        2,
        4,
        rate=lambda t: (1 + jnp.cos(jnp.pi * t / 3)) / 2,
        augment=augmentation.augmentation(["flip"], (8, 8, 1)),
    )
    # rates are float32 cosines
    check(
        tiny_model(),
        fedavg(),
        data,
        loop,
        rounds=3,
        training=training,
        compare_loss=False,
        tolerance=1e-6,
        chunk=2,
    )


def test_weight_decay_is_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5), rng.normal(size=(4, 5))
    theirs = torch.tensor(start, requires_grad=True)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.05)
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        sgd.step()
    local = LocalConfig(learning_rate=0.1, weight_decay=0.05, options={"momentum": 0.9})
    ours, optimizer = jnp.array(start), build_optimizer(local)
    state = optimizer.init(ours)
    for gradient in gradients:
        updates, state = optimizer.update(jnp.array(gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("degrees", [-12.0, 7.0])
def test_rotation_is_that_of_scipy(degrees):
    image = np.random.default_rng(0).normal(size=(9, 7, 2)).astype(np.float32)
    ours = augmentation.turned(jnp.array(image), jnp.deg2rad(degrees))
    theirs = scipy.ndimage.affine_transform(
        image.astype(np.float64),
        *_about_the_middle(image.shape, np.deg2rad(degrees)),
        order=1,
        mode="grid-constant",
    )
    inside = np.s_[2:-2, 2:-2]  # at the border, libraries differ in what lies half outside
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-5)


def _about_the_middle(shape, angle):
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    middle = np.array([(shape[0] - 1) / 2, (shape[1] - 1) / 2, 0])
    return turn, middle - turn @ middle


@pytest.mark.parametrize("name", augmentation.AUGMENTATIONS)
def test_augmentation_keeps_type_and_depends_on_its_key_alone(name):
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    distort = augmentation.augmentation([name], images.shape[1:])
    keys = jax.random.split(jax.random.key(0), 6)
    out = np.asarray(distort(keys, images))
    assert out.dtype == np.uint8
    assert out.shape == images.shape
    assert (out != images).any()
    one = np.asarray(distort(keys[2:3], images[2:3]))
    np.testing.assert_array_equal(out[2], one[0])


def test_a_crop_is_a_window_of_the_padded_image():
    image = np.arange(1, 16 * 16 + 1).reshape(16, 16, 1)
    padded = np.pad(image, [(2, 2), (2, 2), (0, 0)])
    windows = {padded[y : y + 16, x : x + 16].tobytes() for y in range(5) for x in range(5)}
    keys = jax.random.split(jax.random.key(0), 400)
    seen = {np.asarray(x).tobytes() for x in jax.vmap(augmentation.crop, (0, None))(keys, image)}
    assert seen == windows


def test_pooled_is_the_union_of_what_clients_hold():
    dataset = datasets.load("digits")
    split = Config(partition=PartitionConfig(clients=5, train_examples=12, new_clients=2))
    pooled = dataclasses.replace(split, partition=dataclasses.replace(split.partition, pooled=True))
    (parts, data), (one, together) = (share_out(each, dataset)[1:3] for each in (split, pooled))
    assert together.num_clients == 3
    assert data.num_clients == 7
    np.testing.assert_array_equal(one.train[0], np.concatenate(parts.train[:5]))
    for ours, theirs in zip(one.test[1:], parts.test[5:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(data.global_index, together.global_index)
    found = partition.describe(one, dataset).train_counts[0]
    np.testing.assert_array_equal(found, partition.describe(parts, dataset).train_counts[:5].sum(0))
