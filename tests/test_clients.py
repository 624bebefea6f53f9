"""Stacked clients: nothing lost, nothing added, padding told apart."""

import numpy as np
import pytest

from lipsjax.clients import stack
from lipsjax.datasets import synthetic
from lipsjax.partition import Partition, dirichlet

MIXES = np.full((2, 4), 0.25)


@pytest.fixture(scope="module")
def dataset():
    return synthetic(train=300, test=80)


@pytest.fixture(scope="module")
def ragged(dataset):
    return dirichlet(
        dataset,
        alpha=0.3,
        train_sizes=[7, 20, 1],
        test_sizes=[30, 4, 9],
        rng=np.random.default_rng(0),
    )


def stacked(dataset, partition, global_examples=None, seed=0):
    rng = np.random.default_rng(seed)
    return stack(dataset, partition, global_examples=global_examples, rng=rng)


def test_each_client_finds_its_examples_in_its_order(dataset, ragged):
    data = stacked(dataset, ragged)
    for client, (train, test) in enumerate(zip(ragged.train, ragged.test, strict=True)):
        held = data.train_index[client][data.train_mask[client]]
        np.testing.assert_array_equal(data.train.inputs[held], dataset.train.inputs[train])
        np.testing.assert_array_equal(data.train.labels[held], dataset.train.labels[train])
        np.testing.assert_array_equal(data.test_index[client][data.test_mask[client]], test)


def test_shapes_types_and_padding(dataset, ragged):
    data = stacked(dataset, ragged)
    assert data.train_index.shape == data.train_mask.shape == (3, 20)
    assert data.test_index.shape == data.test_mask.shape == (3, 30)
    for index in (data.train_index, data.test_index, data.global_index, data.num_examples):
        assert index.dtype == np.int32
    assert data.train_mask.dtype == data.test_mask.dtype == bool
    assert data.num_clients == 3
    assert data.num_examples.tolist() == [7, 20, 1]
    for index, mask in ((data.train_index, data.train_mask), (data.test_index, data.test_mask)):
        assert (np.diff(mask.astype(int), axis=1) <= 0).all()  # real examples come first
        assert (index[~mask] == 0).all()


def test_pool_holds_only_what_some_client_holds(dataset, ragged):
    data = stacked(dataset, ragged)
    assert len(data.train.labels) == 28
    assert sorted(data.train_index[data.train_mask]) == list(range(28))


def test_shared_examples_are_stored_once(dataset):
    held = (np.array([9, 3, 5]), np.array([5, 3]))
    data = stacked(dataset, Partition(held, held, MIXES))
    np.testing.assert_array_equal(data.train.inputs, dataset.train.inputs[[3, 5, 9]])
    assert data.train_index.tolist() == [[2, 0, 1], [1, 0, 0]]
    assert data.train_mask.tolist() == [[True] * 3, [True, True, False]]


def test_global_test_set_is_all_or_a_sorted_draw(dataset, ragged):
    assert stacked(dataset, ragged).global_index.tolist() == list(range(80))
    assert stacked(dataset, ragged, 500).global_index.tolist() == list(range(80))
    drawn = stacked(dataset, ragged, 25).global_index
    assert len(drawn) == 25
    assert (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(drawn, stacked(dataset, ragged, 25).global_index)
    assert drawn.tolist() != stacked(dataset, ragged, 25, seed=1).global_index.tolist()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((), "no clients in its train part"),
        ((np.array([300]), np.array([1])), "client 0 holds train position 300; allowed are 0..299"),
        ((np.array([1]), np.array([-1])), "client 1 holds train position -1; allowed are 0..299"),
        ((np.array([1]), np.array([], int)), "client 1 holds train positions of shape (0,)"),
        ((np.array([1.0]), np.array([1])), "client 0 holds train positions of shape (1,) and type"),
        ((np.array([1]),), "the partition has 1 clients to train and 2 to test"),
    ],
)
def test_malformed_partitions_are_refused(dataset, train, message):
    partition = Partition(train, (np.array([0]), np.array([1])), MIXES)
    with pytest.raises(ValueError) as excinfo:
        stacked(dataset, partition)
    assert message in str(excinfo.value)


@pytest.mark.parametrize("global_examples", [0, -5])
def test_global_examples_below_one_are_refused(dataset, ragged, global_examples):
    with pytest.raises(ValueError, match=f"global_examples is {global_examples}; allowed"):
        stacked(dataset, ragged, global_examples)
