"""How far sites are apart: known answers, and what chance alone gives."""

import numpy as np
import pytest

from lipsjax.datasets import Dataset, Examples
from lipsjax.partition import Partition
from lipsjax.partition.shift import feature_shift, label_shift, near_copies, reduced
from lipsjax.partition.survey import compare_sites, look

SIZES = (60, 40, 80)
ALLOWED = 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
"""False alarms of 200 sites: one in twenty, and two deviations of that, were they independent."""


def sites(inputs, labels=None, sizes=SIZES, tests=9):
    """Sites of consecutive rows, the last rows being for testing at each of them."""
    labels = np.arange(len(inputs)) % 2 if labels is None else labels
    labels = np.asarray(labels, np.int32)
    cut = len(inputs) - tests
    train, test = (Examples(inputs[r], labels[r]) for r in (slice(cut), slice(cut, None)))
    held = tuple(np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]))
    parts = Partition(held, (np.arange(tests),) * len(sizes), np.full((len(sizes), 2), 0.5))
    return parts, Dataset("set", train, test, 2)


def drawn(shape, seed=0):
    return np.random.default_rng(seed).normal(size=(sum(SIZES) + 9, *shape)).astype(np.float32)


SHAPES = {"images": (10, 12, 2), "series": (50, 3), "features": (20,)}


@pytest.mark.parametrize("kind", SHAPES)
def test_sites_that_are_drawn_alike_are_within_chance(kind):
    found = feature_shift(*sites(drawn(SHAPES[kind])))
    assert not found.beyond.any()
    assert (found.distance >= 0).all()
    assert (found.floor < 0.1).all()


@pytest.mark.parametrize("kind", SHAPES)
def test_a_site_that_is_moved_is_beyond_chance_and_the_farthest(kind):
    inputs = drawn(SHAPES[kind])
    inputs[60:100] += 1
    found = feature_shift(*sites(inputs))
    assert found.beyond[1]
    assert found.distance.argmax() == 1


@pytest.mark.parametrize("kind", ["images", "series"])
def test_a_site_of_another_contrast_is_beyond_chance(kind):
    inputs = drawn(SHAPES[kind])
    inputs[60:100] *= 2
    assert feature_shift(*sites(inputs)).beyond[1]


def test_what_classes_explain_is_no_shift_of_inputs():
    """Each class has inputs of its own, and sites differ in their classes alone."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.random(60) < 0.9, rng.random(40) < 0.1, rng.random(89) < 0.5])
    inputs = drawn((20,)) + 3 * labels[:, None].astype(np.float32)
    found = feature_shift(*sites(inputs, labels))
    assert found.distance.max() > 0.1
    assert not found.beyond.any()


def test_energy_distance_of_constants_is_whole():
    inputs = np.repeat(np.array([0, 1], np.float32), [60, 49])[:, None]
    found = feature_shift(*sites(inputs, sizes=(60, 40)))
    np.testing.assert_allclose(found.distance, 1)


def test_inputs_of_sites_of_one_example_are_not_measured():
    found = feature_shift(*sites(drawn((20,)), sizes=(1, 99, 80)))
    assert np.isnan(found.distance).tolist() == [True, False, False]
    assert not found.beyond[0]


def test_label_shift_by_hand():
    # to others: 0.2 and 1 (and 0.3), 0.2 and 0.8 (and 0.1), ...; of two the smaller, of three the
    # middle one
    found = label_shift(np.array([[50, 0], [40, 10], [0, 50]]))
    np.testing.assert_allclose(found.distance, [0.2, 0.2, 0.8])
    found = label_shift(np.array([[50, 0], [40, 10], [0, 50], [35, 15]]))
    np.testing.assert_allclose(found.distance, [0.3, 0.2, 0.8, 0.3])


@pytest.mark.parametrize("sizes", [[20] * 10, [10, 20, 30, 40, 50] * 2])
def test_one_odd_site_is_beyond_chance_and_moves_no_other(sizes):
    """Nine sites are alike; from a pool of all, or of all others, they would be far too."""
    rng, odd = np.random.default_rng(4), 3
    inside = np.arange(10) != odd
    site = np.repeat(np.arange(10), sizes)
    beyond = []
    for _ in range(20):
        inputs = rng.normal(size=(sum(sizes) + 9, 12)).astype(np.float32)
        inputs[np.flatnonzero(site == odd)] += 3
        beyond.append(feature_shift(*sites(inputs, sizes=tuple(sizes))).beyond)
    rates = np.mean(beyond, axis=0)
    assert rates[odd] == 1
    assert rates[inside].mean() <= ALLOWED  # of alarms that are false
    counts = np.array([[n // 2, n - n // 2] for n in sizes])
    counts[odd] = [sizes[odd], 0]
    assert np.flatnonzero(label_shift(counts).beyond).tolist() == [odd]
    counts = 20 * counts  # where chance is little, a pool with the odd one would be beyond it
    assert np.flatnonzero(label_shift(counts).beyond).tolist() == [odd]


def test_false_alarms_are_one_in_twenty():
    """Of sites that are drawn alike."""
    rng = np.random.default_rng(3)
    sizes = (12, 18, 24, 12, 18, 24, 12, 18, 24, 18)
    few = []
    for _ in range(20):
        labels = rng.integers(0, 3, sum(sizes) + 9)
        inputs = rng.normal(size=(len(labels), 6)) + labels[:, None]
        parts, made = sites(inputs.astype(np.float32), labels, sizes=sizes)
        counts = [np.bincount(labels[held], minlength=3) for held in parts.train]
        few.append((feature_shift(parts, made).beyond, label_shift(np.stack(counts)).beyond))
    assert (np.mean(few, axis=(0, 2)) <= ALLOWED).all()
    assert np.sum(few) > 0


def test_labels_that_are_dealt_out_at_random_are_within_chance():
    rng = np.random.default_rng(3)
    counts = np.stack([np.bincount(rng.integers(0, 5, n), minlength=5) for n in [200] * 130])
    assert label_shift(counts).beyond.mean() < 0.15


def test_equal_data_give_equal_figures():
    made = sites(drawn((20,)))
    np.testing.assert_array_equal(feature_shift(*made).floor, feature_shift(*made).floor)


def test_near_copies_are_found_where_they_are():
    inputs = drawn((12, 12, 1))
    for copy, of in ((3, 2), (61, 5), (62, 180)):  # within a site, across sites, across the split
        inputs[copy] = inputs[of] + 1e-3
    inputs[70] = inputs[71]  # the same to the bit: not a near copy
    found = near_copies(*sites(inputs))
    assert found is not None
    assert found[:3] == (1, 1, 1)
    assert found.searched == found.examples == 189


def test_few_features_may_be_close_by_chance():
    assert near_copies(*sites(drawn((3,)))) is None


def test_constant_inputs_are_surveyed():
    made = sites(np.zeros((189, 6, 6, 1), np.float32))
    found = compare_sites(*made)
    assert not found.feature_shift.beyond.any()
    assert found.near_copies is None
    assert found.repeated.tolist() == [59, 39, 79]


def test_a_channel_that_is_silent_at_one_site_is_told():
    inputs = drawn((30, 3))
    inputs[60:100, :, 2] = 7
    inputs[:, :, 0] = 1  # everywhere: nothing that sets sites apart
    assert compare_sites(*sites(inputs)).constant == ((), (2,), ())


def test_ranges_and_copies_of_each_site():
    inputs = drawn((20,)).clip(-2, 2)
    inputs[0], inputs[100] = 9, -9
    inputs[61] = inputs[60]
    made = sites(inputs)
    found = compare_sites(*made)
    assert found.ranges[0, 1] == 9
    assert found.ranges[2, 0] == -9
    assert found.repeated.tolist() == [0, 1, 0]
    assert look(*made).within_sites == 1
    assert look(*made).across_sites == 0


def test_reduced_inputs_are_few_and_of_one_scale():
    values = reduced(np.random.default_rng(0).integers(0, 256, (50, 64, 64, 3), np.uint8))
    assert values.shape == (50, 3 * 65)
    np.testing.assert_allclose(values[:, :192].mean(), 0, atol=1e-9)
    assert reduced(np.ones((9, 1000), np.float32)).shape == (9, 0)
    assert reduced(drawn((1000,))).shape == (189, 256)
