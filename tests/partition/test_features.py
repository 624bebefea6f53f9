"""Clients whose images look different: each its own way, the same for training and test."""

import dataclasses

import jax
import numpy as np
import pytest

from lipsjax import datasets
from lipsjax.augmentation import turned
from lipsjax.datasets import Dataset, Examples, synthetic
from lipsjax.partition import Partition, distort, iid
from lipsjax.runs.config import Config, EvaluationConfig, PartitionConfig
from lipsjax.runs.data import share_out

KINDS = ["noise", "rotation", "brightness"]


def flat(value, *, dtype=np.float32, count=40, size=5):
    """A data set of grey images of one value, but for two that say how far pixels go."""
    images = np.full((count, size, size, 1), value, dtype)
    images[-2:] = np.array([0, 255 if dtype == np.uint8 else 1]).reshape(2, 1, 1, 1)
    examples = Examples(images, np.arange(count, dtype=np.int32) % 3)
    return Dataset("flat", examples, examples, 3)


def distorted(dataset, kind, skew=1.0, clients=6, seed=0):
    """Clients of four training and two test images, none of the last two of `flat`."""
    held = Partition(
        train=tuple(np.arange(4) + 4 * k for k in range(clients)),
        test=tuple(np.arange(2) + k for k in range(clients)),
        requested=np.full((clients, dataset.num_classes), 1 / dataset.num_classes),
    )
    rng = np.random.default_rng(seed)
    own, parts = distort(dataset, held, kind=kind, skew=skew, rng=rng)
    # the draw that distort makes first
    looks = np.random.default_rng(np.random.default_rng(seed).integers(2**63, size=3)[0])
    return own, parts, looks.random(clients), held


@pytest.mark.parametrize("kind", KINDS)
def test_every_client_has_copies_of_its_own_and_labels_stay(kind):
    own, parts, _, held = distorted(synthetic(), kind, skew=0.3)
    for split, before, after in (
        ("train", held.train, parts.train),
        ("test", held.test, parts.test),
    ):
        copies, source = getattr(own, split), getattr(synthetic(), split)
        positions = np.concatenate(after)
        assert len(np.unique(positions)) == len(positions)
        for indices, found in zip(before, after, strict=True):
            np.testing.assert_array_equal(copies.labels[found], source.labels[indices])
            assert not np.array_equal(copies.inputs[found], source.inputs[indices])
    np.testing.assert_array_equal(own.test.inputs[:200], synthetic().test.inputs)
    assert datasets.validate(own).train.inputs.shape == (24, 8, 8, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_no_skew_changes_nothing(kind):
    own, parts, _, held = distorted(synthetic(), kind, skew=0.0)
    for indices, found in zip(held.train, parts.train, strict=True):
        np.testing.assert_array_equal(own.train.inputs[found], synthetic().train.inputs[indices])


def test_brightness_by_hand():
    own, parts, u, _ = distorted(flat(0.5), "brightness", skew=0.8)
    for k, (train, test) in enumerate(zip(parts.train, parts.test, strict=True)):
        level = 0.5 + 0.8 * (u[k] - 0.5)
        np.testing.assert_allclose(own.train.inputs[train], level, atol=1e-6)
        np.testing.assert_allclose(own.test.inputs[test], level, atol=1e-6)


def test_what_leaves_the_range_is_cut_off_and_integers_are_rounded():
    own, parts, u, _ = distorted(flat(250, dtype=np.uint8), "brightness")
    assert own.train.inputs.dtype == np.uint8
    expected = np.clip(np.round(250 + (u - 0.5) * 255), 0, 255)
    for k, held in enumerate(parts.train):
        np.testing.assert_array_equal(own.train.inputs[held], expected[k])
    assert (expected == 255).any()


def test_noise_has_the_deviation_of_its_client():
    own, parts, u, _ = distorted(flat(0.5, size=60), "noise", skew=0.2)
    for k, held in enumerate(parts.train):
        images = own.train.inputs[held]
        assert images.std() == pytest.approx(0.1 * u[k], rel=0.05)
        assert not np.array_equal(images[0], images[1])


def test_rotation_agrees_with_the_one_of_augmentation():
    dataset = synthetic(input_shape=(7, 7, 2))
    own, parts, u, held = distorted(dataset, "rotation", skew=0.5)
    low, high = dataset.train.inputs.min(), dataset.train.inputs.max()
    angles = np.repeat(-np.deg2rad(0.5 * 90 * (2 * u - 1)), 4).astype(np.float32)
    before, after = np.concatenate(held.train), np.concatenate(parts.train)
    expected = jax.jit(jax.vmap(turned))(dataset.train.inputs[before], angles)
    np.testing.assert_allclose(own.train.inputs[after], expected.clip(low, high), atol=2e-4)


def test_a_client_looks_alike_in_every_partition():
    first = distorted(flat(0.5), "brightness", clients=6)
    second = distorted(flat(0.5), "brightness", clients=3)
    for k in range(3):
        a, b = (own.train.inputs[parts.train[k]][0] for own, parts, *_ in (first, second))
        np.testing.assert_array_equal(a, b)


def test_equal_generators_give_equal_images_and_others_do_not():
    first, again, other = (distorted(flat(0.5), "noise", seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train.inputs, again.train.inputs)
    assert not np.array_equal(first.train.inputs, other.train.inputs)


@pytest.mark.parametrize(
    ("kind", "skew", "message"),
    [
        ("blur", 0.5, "features is 'blur'; allowed are noise, rotation, brightness"),
        ("noise", -0.1, "feature skew is -0.1; allowed are 0..1"),
        ("rotation", 1.5, "feature skew is 1.5; allowed are 0..1"),
        ("brightness", float("nan"), "feature skew is nan; allowed are 0..1"),
    ],
)
def test_distortions_that_do_not_exist(kind, skew, message):
    rng = np.random.default_rng(0)
    held = iid(synthetic(), train_sizes=[3], test_sizes=[3], rng=rng)
    with pytest.raises(ValueError) as excinfo:
        distort(synthetic(), held, kind=kind, skew=skew, rng=rng)
    assert str(excinfo.value) == message


# From a config.


def shared(evaluation=None, **options):
    """What clients of the synthetic set get by these options of the partition."""
    wanted = PartitionConfig(**{"clients": 4, "train_examples": 10} | options)
    evaluation = evaluation or EvaluationConfig(global_examples=50)
    return share_out(Config(partition=wanted, evaluation=evaluation), synthetic())[1:3]


@pytest.mark.parametrize("kind", KINDS)
def test_only_images_of_clients_change(kind):
    (alike, plain), (parts, data) = shared(), shared(features=kind, feature_skew=1.0)
    for one, other in zip((*alike.train, *alike.test), (*parts.train, *parts.test), strict=True):
        np.testing.assert_array_equal(one, other)
    for k in range(4):
        labels = [d.train.labels[d.train_index[k]] for d in (plain, data)]
        np.testing.assert_array_equal(*labels)
        labels = [d.test.labels[d.test_index[k]] for d in (plain, data)]
        np.testing.assert_array_equal(*labels)
    np.testing.assert_array_equal(plain.global_index, data.global_index)
    np.testing.assert_array_equal(
        plain.test.inputs[plain.global_index], data.test.inputs[data.global_index]
    )


def test_the_whole_global_test_set_is_without_copies():
    _, data = shared(features="noise", evaluation=EvaluationConfig(global_examples=None))
    assert data.global_index.tolist() == list(range(200))
    assert len(data.test.labels) == 200 + 4 * 30


@pytest.mark.parametrize("features", ["alike", "brightness"])
def test_the_pooled_site_holds_what_its_clients_would(features):
    options = {"features": features, "new_clients": 1}
    _, split = shared(**options)
    _, pooled = shared(pooled=True, **options)
    together = [split.train.inputs[split.train_index[k]] for k in range(4)]
    of_one = pooled.train.inputs[pooled.train_index[0][pooled.train_mask[0]]]
    np.testing.assert_array_equal(np.concatenate(together), of_one)
    np.testing.assert_array_equal(
        split.test.inputs[split.test_index[4]],
        pooled.test.inputs[pooled.test_index[1][pooled.test_mask[1]]],
    )


def test_sizes_that_differ_leave_mixes_and_the_global_test_set_alone():
    (equal, plain), (skewed, data) = shared(), shared(sizes="power", size_skew=1.5)
    np.testing.assert_array_equal(equal.requested, skewed.requested)
    np.testing.assert_array_equal(plain.global_index, data.global_index)
    assert data.num_examples.sum() == 40
    assert len(set(data.num_examples.tolist())) > 1


def test_new_clients_are_of_the_same_law():
    _, data = shared(sizes="lognormal", new_clients=2)
    assert data.num_examples.shape == (6,)
    assert data.num_examples.sum() == 60


def test_seeds_differ():
    wanted = PartitionConfig(clients=4, train_examples=10, sizes="lognormal")
    config = Config(partition=wanted)
    first, second = (
        share_out(dataclasses.replace(config, seed=seed), synthetic()).data.num_examples.tolist()
        for seed in (0, 1)
    )
    assert first != second
