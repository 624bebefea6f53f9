"""Who holds which examples: the split of a data set among clients.

Symbols: K clients, C classes; client k holds n_k training examples, and its class
mix p_k is a point of the simplex of C classes.

What is left to do when the data cannot serve every mix exactly is one rule, the
same for all splits (`dirichlet` states it); `describe` reports what came of it.

References:
  H. B. McMahan et al., "Communication-Efficient Learning of Deep Networks from
  Decentralized Data", AISTATS 2017, arXiv:1602.05629.
  T.-M. H. Hsu, H. Qi and M. Brown, "Measuring the Effects of Non-Identical Data
  Distribution for Federated Visual Classification", 2019, arXiv:1909.06335.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lipsjax.datasets import Dataset
from lipsjax.partition.sampling import (
    check_sizes,
    class_counts,
    draw_alone,
    draw_disjoint,
    positions_by_class,
    spawn,
)


class Partition(NamedTuple):
    """The examples of each client, as positions in the data set's splits."""

    train: tuple[np.ndarray, ...]  # K arrays [n_k] int64, positions in dataset.train
    test: tuple[np.ndarray, ...]  # K arrays [m_k] int64, positions in dataset.test
    requested: np.ndarray  # [K, C] float64, the class mix asked for


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
    train_sizes, test_sizes = check_sizes(dataset, train_sizes, test_sizes, overlap=False)
    train_rng, test_rng = spawn(rng, 2)
    order = train_rng.permutation(len(dataset.train.labels))
    ends = np.cumsum(train_sizes)
    frequencies = class_counts(dataset.train.labels, dataset.num_classes) / len(order)
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
    train_sizes, test_sizes = check_sizes(dataset, train_sizes, test_sizes, overlap=overlap)
    mix_rng, train_rng, test_rng = spawn(rng, 3)
    mixes = mix_rng.dirichlet(np.full(dataset.num_classes, alpha), size=len(train_sizes))
    if not np.allclose(mixes.sum(axis=1), 1):
        raise ValueError(f"alpha is {alpha}, too large or too small to draw from in float64")
    draw_train = draw_alone if overlap else draw_disjoint
    return Partition(
        train=draw_train(
            mixes, train_sizes, positions_by_class(dataset.train.labels, dataset), train_rng
        ),
        test=draw_alone(
            mixes, test_sizes, positions_by_class(dataset.test.labels, dataset), test_rng
        ),
        requested=mixes,
    )


def shards(
    dataset: Dataset,
    *,
    classes: int,
    train_sizes: ArrayLike,
    test_sizes: ArrayLike,
    rng: np.random.Generator,
) -> Partition:
    """Gives each client a few classes, and as many examples of each of them.

    Clients choose one after the other: each takes the `classes` classes that have been taken
    least often, drawn at random among equals, so that at any time no class has been taken twice
    more often than another. The choices are then shuffled among the clients. Client k asks for
    1 / classes of its n_k examples from each of its own; both its training and its test examples
    have this mix. Classes without training examples are not given out. McMahan et al. deal out
    shards of sorted examples instead, of which a client's two may hold more than two classes.

    A client holds exactly `classes` classes, or one per example where it has fewer examples than
    that, as long as its classes last. Where they do not, `dirichlet`'s rule holds: it takes more
    of those of its own that are left, and of others only when all of them are exhausted.

    Args:
      dataset: the data set to share out.
      classes: of each client, c; at most those with training examples.
      train_sizes: [K] int, training examples of each client, n_k; no example goes to two.
      test_sizes: [K] int, test examples of each client; clients may share them.
      rng: the source of randomness; it is advanced. From equal generators, which classes a
        client is given does not depend on the sizes.

    Returns:
      The partition; the examples of a client are in random order.

    Raises:
      ValueError: classes out of range, sizes that are not integers >= 1, more clients than
        training examples, or more examples asked for than exist.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> rng = np.random.default_rng(0)
      >>> found = shards(
      ...     synthetic(), classes=2, train_sizes=[9, 9], test_sizes=[4, 4], rng=rng
      ... )
      >>> [len(np.unique(synthetic().train.labels[held])) for held in found.train]
      [2, 2]
    """
    held = np.flatnonzero(class_counts(dataset.train.labels, dataset.num_classes))
    if not 1 <= classes <= len(held):
        raise ValueError(
            f"classes of each client is {classes}; allowed are 1..{len(held)}, the classes of "
            f"{dataset.name} with training examples"
        )
    train_sizes, test_sizes = check_sizes(dataset, train_sizes, test_sizes, overlap=False)
    class_rng, train_rng, test_rng = spawn(rng, 3)
    mixes = np.zeros((len(train_sizes), dataset.num_classes))
    taken = np.zeros(len(held), np.int64)
    for client in class_rng.permutation(len(mixes)):
        chosen = np.lexsort((class_rng.random(len(held)), taken))[:classes]
        taken[chosen] += 1
        mixes[client, held[chosen]] = 1 / classes
    in_train, in_test = (
        positions_by_class(split.labels, dataset) for split in (dataset.train, dataset.test)
    )
    return Partition(
        train=draw_disjoint(mixes, train_sizes, in_train, train_rng),
        test=draw_alone(mixes, test_sizes, in_test, test_rng),
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
