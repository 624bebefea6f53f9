"""Who holds which examples: the split of a data set among clients.

Symbols: K clients, C classes; client k holds n_k training examples, and its class
mix p_k is a point of the simplex of C classes.

What is left to do when the data cannot serve every mix exactly is one rule, the
same for both splits (`dirichlet` states it); `describe` reports what came of it.

References:
  T.-M. H. Hsu, H. Qi and M. Brown, "Measuring the Effects of Non-Identical Data
  Distribution for Federated Visual Classification", 2019, arXiv:1909.06335.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lipsjax.datasets import Dataset


class Partition(NamedTuple):
    """The examples of each client, as positions in the data set's splits."""

    train: tuple[np.ndarray, ...]  # K arrays [n_k] int64, positions in dataset.train
    test: tuple[np.ndarray, ...]  # K arrays [m_k] int64, positions in dataset.test
    requested: np.ndarray  # [K, C] float64, the class mix asked for


class Survey(NamedTuple):
    """What a partition came to; `describe` makes it."""

    requested: np.ndarray  # [K, C] float64, the class mix asked for
    train_counts: np.ndarray  # [K, C] int64, training examples per client and class
    test_counts: np.ndarray  # [K, C] int64, test examples per client and class
    num_examples: np.ndarray  # [K] int64, training examples per client
    label_entropy: np.ndarray  # [K] float64, nats, of the training mix; at most log(C)
    mean_pairwise_tv: float  # mean total-variation distance of two clients' training mixes
    distinct_train: int  # training examples that at least one client holds

    def to_dict(self) -> dict[str, Any]:
        """The same as lists and numbers, ready for JSON."""
        return {
            field: value.tolist() if isinstance(value, np.ndarray) else value
            for field, value in self._asdict().items()
        }


def iid(
    dataset: Dataset,
    *,
    train_sizes: ArrayLike,
    test_sizes: ArrayLike,
    rng: np.random.Generator,
) -> Partition:
    """Gives each client a uniformly random subset of the data.

    Jointly, the clients' training sets are a uniformly random choice of disjoint
    subsets of the given sizes. Test sets are drawn without replacement for each client
    alone, so that clients may share test examples; they serve evaluation only.

    Args:
      dataset: the data set to share out.
      train_sizes: [K] int, training examples of each client.
      test_sizes: [K] int, test examples of each client.
      rng: the source of randomness; it is advanced.

    Returns:
      The partition; every requested mix is that of the training split.

    Raises:
      ValueError: sizes that are not integers >= 1, more clients than training
        examples, or more examples asked for than exist.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> rng = np.random.default_rng(0)
      >>> partition = iid(synthetic(), train_sizes=[5, 3], test_sizes=[2, 2], rng=rng)
      >>> [len(indices) for indices in partition.train]
      [5, 3]
    """
    train_sizes, test_sizes = _check_sizes(dataset, train_sizes, test_sizes, overlap=False)
    train_rng, test_rng = _split(rng, 2)
    order = train_rng.permutation(len(dataset.train.labels))
    ends = np.cumsum(train_sizes)
    frequencies = _class_counts(dataset.train.labels, dataset.num_classes) / len(order)
    return Partition(
        train=tuple(np.split(order[: ends[-1]], ends[:-1])),
        test=tuple(
            test_rng.choice(len(dataset.test.labels), size, replace=False) for size in test_sizes
        ),
        requested=np.tile(frequencies, (len(train_sizes), 1)),
    )


def dirichlet(
    dataset: Dataset,
    *,
    alpha: float,
    train_sizes: ArrayLike,
    test_sizes: ArrayLike,
    rng: np.random.Generator,
    overlap: bool = False,
) -> Partition:
    """Gives each client a class mix of its own, drawn from a Dirichlet distribution.

    p_k ~ Dirichlet(alpha, ..., alpha) over the C classes; both the training and the
    test examples of client k have the mix p_k. A small alpha leaves a client few
    classes, a large one brings every mix near to 1 / C.

    A client asks for n_k p_k examples of each class, rounded by largest remainders. Where
    clients ask for more of a class than there is, they share what there is in proportion
    to what they asked for. What a client is then short of, it asks for again in the
    same way: in proportion to p_k among the classes that are not exhausted, or, if p_k is
    zero on all of these, in proportion to what is left of them. Each turn serves every
    client in full or exhausts a class, so there are at most C + 1 turns. Ties go to the
    lower class or client. Every client gets exactly n_k examples.

    Within a client no example appears twice. Training examples of different clients are
    disjoint unless `overlap` is set. Test examples may be shared between clients; they
    serve evaluation only.

    Args:
      dataset: the data set to share out.
      alpha: concentration of the Dirichlet distribution, > 0 and finite.
      train_sizes: [K] int, training examples of each client, n_k.
      test_sizes: [K] int, test examples of each client.
      rng: the source of randomness; it is advanced. From equal generators, the
        requested mixes depend on neither the sizes nor `overlap`.
      overlap: each client draws from all training examples, as if it were alone, so that
        clients may share them: the sampler published with LIPS (arXiv:2506.00932).

    Returns:
      The partition; the examples of a client are in random order.

    Raises:
      ValueError: alpha not positive and finite, sizes that are not integers >= 1, more
        clients than training examples, or more examples asked for than exist.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> partition = dirichlet(
      ...     synthetic(),
      ...     alpha=0.1,
      ...     train_sizes=[20, 30],
      ...     test_sizes=[10, 10],
      ...     rng=np.random.default_rng(0),
      ... )
      >>> [len(indices) for indices in partition.train]
      [20, 30]
    """
    if not (0 < alpha < np.inf):
        raise ValueError(f"alpha is {alpha}; allowed are finite values > 0")
    train_sizes, test_sizes = _check_sizes(dataset, train_sizes, test_sizes, overlap=overlap)
    mix_rng, train_rng, test_rng = _split(rng, 3)
    mixes = mix_rng.dirichlet(np.full(dataset.num_classes, alpha), size=len(train_sizes))
    if not np.allclose(mixes.sum(axis=1), 1):
        raise ValueError(f"alpha is {alpha}, too large or too small to draw from in float64")
    draw_train = _draw_alone if overlap else _draw_disjoint
    return Partition(
        train=draw_train(mixes, train_sizes, _by_class(dataset.train.labels, dataset), train_rng),
        test=_draw_alone(mixes, test_sizes, _by_class(dataset.test.labels, dataset), test_rng),
        requested=mixes,
    )


def pool(partition: Partition, clients: int) -> Partition:
    """Gives one client what the first ones hold, and leaves the others as they are.

    Its mix is the mean of the requested ones, weighted by examples. Examples that several of them
    share stay as often as they are held, so that steps see as many as theirs would.

    Args:
      partition: of any kind.
      clients: how many of the first clients become one.

    Returns:
      A partition of ``K - clients + 1`` clients.

    Example:
      >>> held = (np.arange(3), np.arange(3, 5), np.arange(5, 9))
      >>> pooled = pool(Partition(held, held, np.full([3, 4], 0.25)), 2)
      >>> [indices.tolist() for indices in pooled.train]
      [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    """
    train, test, requested = partition
    sizes = [len(indices) for indices in train[:clients]]
    mix = np.average(requested[:clients], axis=0, weights=sizes)
    return Partition(
        train=(np.concatenate(train[:clients]), *train[clients:]),
        test=(np.concatenate(test[:clients]), *test[clients:]),
        requested=np.stack([mix, *requested[clients:]]),
    )


def describe(partition: Partition, dataset: Dataset) -> Survey:
    """Measures what a partition came to.

    The total-variation distance of two mixes is half the sum of their absolute
    differences; the mean runs over all pairs of clients and is 0 for one client alone.

    Args:
      partition: a partition of `dataset`.
      dataset: the data set that was shared out.

    Returns:
      The realised class counts and what follows from them.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> partition = Partition((np.arange(9),), (np.arange(4),), np.full([1, 4], 0.25))
      >>> describe(partition, synthetic()).num_examples
      array([9])
    """
    train_counts, test_counts = (
        np.stack([_class_counts(labels[indices], dataset.num_classes) for indices in clients])
        for labels, clients in (
            (dataset.train.labels, partition.train),
            (dataset.test.labels, partition.test),
        )
    )
    num_examples = train_counts.sum(axis=1)
    mixes = train_counts / num_examples[:, None]
    logs = np.log(mixes, out=np.zeros_like(mixes), where=mixes > 0)
    return Survey(
        requested=partition.requested,
        train_counts=train_counts,
        test_counts=test_counts,
        num_examples=num_examples,
        label_entropy=np.abs((mixes * logs).sum(axis=1)),
        mean_pairwise_tv=_mean_pairwise_tv(mixes),
        distinct_train=len(np.unique(np.concatenate(partition.train))),
    )


def _mean_pairwise_tv(mixes: np.ndarray) -> float:
    """Mean over pairs of rows of [K, C] of half the L1 distance."""
    num_clients = len(mixes)
    if num_clients == 1:
        return 0.0
    # In a sorted column, the i-th value is the larger one of i pairs and the smaller one of
    # K - 1 - i, so that all K^2 pairs need no more than a sort.
    weights = 2 * np.arange(num_clients) - (num_clients - 1)
    num_pairs = num_clients * (num_clients - 1) / 2
    return float(0.5 * (weights @ np.sort(mixes, axis=0)).sum() / num_pairs)


def _check_sizes(
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


def _split(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
    """Independent generators, so that what one purpose draws never shifts another's draws."""
    return [np.random.default_rng(seed) for seed in rng.integers(2**63, size=count)]


def _class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Examples per class, [C] int64."""
    return np.bincount(labels, minlength=num_classes)


def _by_class(labels: np.ndarray, dataset: Dataset) -> list[np.ndarray]:
    """Positions of the examples of each class: C arrays."""
    return [np.flatnonzero(labels == label) for label in range(dataset.num_classes)]


def _draw_disjoint(
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


def _draw_alone(
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
        demand = _apportion(missing, weights)
        short = demand.sum(axis=0) > left
        demand[:, short] = _apportion(left[short], demand[:, short].T).T
        counts += demand
        missing -= demand.sum(axis=1)
        left -= demand.sum(axis=0)
    return counts


def _apportion(totals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rounds by largest remainders: rows in proportion to weights [R, S] that sum to totals [R]."""
    quotas = totals[:, None] * (weights / weights.sum(axis=1, keepdims=True))
    counts = np.floor(quotas).astype(np.int64)
    seats = totals - counts.sum(axis=1)
    order = np.argsort(counts - quotas, axis=1, kind="stable")  # stable: ties to the lower index
    rank = np.argsort(order, axis=1)
    return counts + (rank < seats[:, None])
