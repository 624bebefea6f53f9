"""How clients draw examples of the classes they ask for, where the data may not serve all.

Symbols: K clients, C classes. The rule itself is stated by `dirichlet`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from lipsjax.datasets import Dataset


def check_sizes(
    dataset: Dataset, train_sizes: ArrayLike, test_sizes: ArrayLike, *, overlap: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sizes as [K] int64 if the data set can serve them."""
    sizes = []
    for name, value in (("train_sizes", train_sizes), ("test_sizes", test_sizes)):
        array = np.asarray(value)
        if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name} is {value!r}; allowed is one integer per client, [K]")
        if array.min() < 1:
            client = int((array < 1).argmax())
            raise ValueError(f"{name} of client {client} is {array[client]}; allowed are >= 1")
        sizes.append(array.astype(np.int64))
    train, test = sizes
    if len(train) != len(test):
        raise ValueError(
            f"train_sizes has {len(train)} clients and test_sizes {len(test)}; both must agree"
        )
    num_train, num_test = len(dataset.train.labels), len(dataset.test.labels)
    if not overlap and len(train) > num_train:
        raise ValueError(
            f"{len(train)} clients, but {dataset.name} has {num_train} training examples; allowed "
            "is one client per example at most"
        )
    if not overlap and train.sum() > num_train:
        raise ValueError(
            f"train_sizes sum to {train.sum()}, but {dataset.name} has {num_train} training "
            "examples; clients do not share them"
        )
    for name, asked, exist in (("train", train, num_train), ("test", test, num_test)):
        if asked.max() > exist:
            raise ValueError(
                f"{name}_sizes of client {asked.argmax()} is {asked.max()}, but {dataset.name} has "
                f"{exist} {name} examples"
            )
    return train, test


def spawn(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
    """Independent generators, so that what one purpose draws never shifts another's draws."""
    return [np.random.default_rng(seed) for seed in rng.integers(2**63, size=count)]


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Examples per class, [C] int64."""
    return np.bincount(labels, minlength=num_classes)


def positions_by_class(labels: np.ndarray, dataset: Dataset) -> list[np.ndarray]:
    """Positions of the examples of each class: C arrays."""
    return [np.flatnonzero(labels == label) for label in range(dataset.num_classes)]


def draw_disjoint(
    mixes: np.ndarray,
    sizes: np.ndarray,
    by_class: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, ...]:
    """Draws for all clients together; no example goes to two of them."""
    supply = np.array([len(members) for members in by_class])
    counts = _allocate(mixes, sizes, supply)
    dealt = [
        np.split(rng.permutation(members), np.cumsum(counts[:, label]))[:-1]
        for label, members in enumerate(by_class)
    ]
    return tuple(rng.permutation(np.concatenate(parts)) for parts in zip(*dealt, strict=True))


def draw_alone(
    mixes: np.ndarray,
    sizes: np.ndarray,
    by_class: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, ...]:
    """Draws for each client from all examples, as if there were no other client."""
    supply = np.array([len(members) for members in by_class])
    clients = []
    for mix, size in zip(mixes, sizes, strict=True):
        (counts,) = _allocate(mix[None], size[None], supply)
        parts = [
            rng.choice(members, count, replace=False)
            for members, count in zip(by_class, counts, strict=True)
            if count
        ]
        clients.append(rng.permutation(np.concatenate(parts)))
    return tuple(clients)


def _allocate(mixes: np.ndarray, sizes: np.ndarray, supply: np.ndarray) -> np.ndarray:
    """Examples per client and class, [K, C] int64, by the rule that `dirichlet` states.

    Row k sums to sizes[k], and column c to at most supply[c]; needs sum(sizes) <= sum(supply).
    """
    counts = np.zeros(mixes.shape, np.int64)
    missing, left = sizes.copy(), supply.copy()
    while missing.any():
        weights = np.where(left > 0, mixes, 0.0)
        weights[weights.sum(axis=1) == 0] = left
        demand = apportion(missing, weights)
        short = demand.sum(axis=0) > left
        demand[:, short] = apportion(left[short], demand[:, short].T).T
        counts += demand
        missing -= demand.sum(axis=1)
        left -= demand.sum(axis=0)
    return counts


def apportion(totals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rounds by largest remainders: rows in proportion to weights [R, S] that sum to totals [R]."""
    quotas = totals[:, None] * (weights / weights.sum(axis=1, keepdims=True))
    counts = np.floor(quotas).astype(np.int64)
    seats = totals - counts.sum(axis=1)
    order = np.argsort(counts - quotas, axis=1, kind="stable")  # stable: ties to the lower index
    rank = np.argsort(order, axis=1)
    return counts + (rank < seats[:, None])
