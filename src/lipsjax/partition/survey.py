"""What a partition came to: the survey of its sites.

Symbols: K clients, C classes; the mix of a client is the share of each class among its training
examples.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import entr

from lipsjax.datasets import Dataset
from lipsjax.partition.sampling import class_counts
from lipsjax.partition.shift import NearCopies, Shift, feature_shift, label_shift, near_copies
from lipsjax.partition.splits import Partition


class Survey(NamedTuple):
    """What a partition came to; `describe` makes it."""

    requested: np.ndarray  # [K, C] float64, the class mix asked for
    train_counts: np.ndarray  # [K, C] int64, training examples per client and class
    test_counts: np.ndarray  # [K, C] int64, test examples per client and class
    num_examples: np.ndarray  # [K] int64, training examples per client
    label_entropy: np.ndarray  # [K] float64, nats, of the training mix; at most log(C)
    mean_pairwise_tv: float  # mean total-variation distance of two clients' training mixes
    distinct_train: int  # training examples that at least one client holds
    num_held: np.ndarray  # [K] int64, classes of which a client has training examples
    largest_share: np.ndarray  # [K] float64, of its commonest class in a client's training mix
    mean_pairwise_js: float  # nats, mean Jensen-Shannon divergence of two mixes; at most log(2)
    smallest_client: int  # the first of those with fewest training examples
    absent_classes: tuple[int, ...]  # of which no client has training examples

    def to_dict(self) -> dict[str, Any]:
        """The same as lists and numbers, ready for JSON."""
        return {
            field: value.tolist() if isinstance(value, np.ndarray) else value
            for field, value in self._asdict().items()
        }


class Looks(NamedTuple):
    """What the inputs of a data set are like, and which are there twice; `look` makes it.

    Inputs are the same where all of their values are, to the bit.
    """

    shape: tuple[int, ...]  # H, W, C of images; steps, C of series; F of features
    dtype: str
    train_range: tuple[float, float]  # least and largest value of the training split
    test_range: tuple[float, float]
    repeated_train: int  # training inputs that an earlier one is the same as
    repeated_test: int  # test inputs that an earlier one is the same as
    across_sites: int  # inputs that clients hold as different training examples
    across_split: int  # test inputs that a training input is the same as
    labelled_twice: int  # inputs that are there with different labels
    within_sites: int  # inputs that a client holds as different training examples

    @property
    def noun(self) -> str:
        """What one input is called."""
        return {3: "image", 2: "series", 1: "row"}[len(self.shape)]

    @property
    def nouns(self) -> str:
        """What several inputs are called."""
        return self.noun if self.noun == "series" else f"{self.noun}s"

    @property
    def in_words(self) -> str:
        """What the inputs are, without their values."""
        *sides, channels = self.shape
        if not sides:
            return f"Rows of {channels} features"
        of = f"{channels:,} {'channel' if channels == 1 else 'channels'}"
        if len(sides) == 1:
            return f"Series of {sides[0]:,} steps, {of}"
        return f"Images of {sides[0]} x {sides[1]} pixels, {of}"

    def to_dict(self) -> dict[str, Any]:
        """The same as lists and numbers, ready for JSON."""
        return self._asdict()


class SiteFacts(NamedTuple):
    """What sets the sites apart that data name; `compare_sites` makes it."""

    label_shift: Shift
    feature_shift: Shift
    near_copies: NearCopies | None
    ranges: np.ndarray  # [K, 2] float64, least and largest value of a client's training inputs
    constant: tuple[tuple[int, ...], ...]  # K, last-axis channels constant here and not elsewhere
    repeated: np.ndarray  # [K] int64, training inputs that an earlier one of the client is
    groups: np.ndarray | None  # [K] int64, groups at each client, where data name groups
    has_times: bool  # whether the data say when examples were taken

    def to_dict(self) -> dict[str, Any]:
        """The same as lists and numbers, ready for JSON; None where nothing was measured."""
        shifts = {
            name: {
                which: [None if np.isnan(value) else value for value in values.tolist()]
                for which, values in shift._asdict().items()
            }
            for name, shift in (("label", self.label_shift), ("feature", self.feature_shift))
        }
        return {
            "label_shift": shifts["label"],
            "feature_shift": shifts["feature"],
            "near_copies": self.near_copies and self.near_copies.to_dict(),
            "ranges": self.ranges.tolist(),
            "constant_channels": [list(channels) for channels in self.constant],
            "repeated": self.repeated.tolist(),
            "groups": None if self.groups is None else self.groups.tolist(),
            "has_times": self.has_times,
        }


def describe(partition: Partition, dataset: Dataset) -> Survey:
    """Measures what a partition came to: a survey of the sites before anything is trained.

    The total-variation distance of two mixes is half the sum of their absolute differences: the
    share of one's examples that would have to change class for the mixes to agree. Their
    Jensen-Shannon divergence is H((p + q) / 2) - (H(p) + H(q)) / 2, with the entropy
    H(p) = -sum p log p. Means run over all pairs of clients and are 0 for one client alone.

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
        np.stack([class_counts(labels[indices], dataset.num_classes) for indices in clients])
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
        mean_pairwise_tv=mean_pairwise_tv(mixes),
        distinct_train=len(np.unique(np.concatenate(partition.train))),
        num_held=(train_counts > 0).sum(axis=1),
        largest_share=mixes.max(axis=1),
        mean_pairwise_js=_mean_pairwise_js(mixes),
        smallest_client=int(num_examples.argmin()),
        absent_classes=tuple(np.flatnonzero(train_counts.sum(axis=0) == 0).tolist()),
    )


def look(partition: Partition, dataset: Dataset) -> Looks:
    """Looks at the inputs themselves: their layout and values, and exact duplicates.

    Args:
      partition: a partition of `dataset`.
      dataset: the data set that was shared out.

    Returns:
      What is found; of sites the training examples count alone.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> partition = Partition((np.arange(9),), (np.arange(4),), np.full([1, 4], 0.25))
      >>> found = look(partition, synthetic())
      >>> found.shape, found.repeated_train, found.across_split
      ((8, 8, 1), 0, 0)
    """
    (inputs, labels), test = dataset.train, dataset.test
    number = _numbers(np.concatenate([_digests(inputs), _digests(test.inputs)]))
    in_train, in_test = np.split(number, [len(labels)])
    clients = np.repeat(np.arange(len(partition.train)), [len(held) for held in partition.train])
    held = np.concatenate(partition.train)
    # one example that clients share is no duplicate: two of them must be the same
    several_clients = _with_several(in_train[held], clients)
    several_examples = _with_several(in_train[held], held)
    return Looks(
        shape=inputs.shape[1:],
        dtype=str(inputs.dtype),
        train_range=(float(inputs.min()), float(inputs.max())),
        test_range=(float(test.inputs.min()), float(test.inputs.max())),
        repeated_train=len(in_train) - len(np.unique(in_train)),
        repeated_test=len(in_test) - len(np.unique(in_test)),
        across_sites=len(np.intersect1d(several_clients, several_examples)),
        across_split=int(np.isin(in_test, in_train).sum()),
        labelled_twice=len(_with_several(number, np.concatenate([labels, test.labels]))),
        within_sites=sum(
            int((np.unique(in_train[np.unique(own)], return_counts=True)[1] > 1).sum())
            for own in partition.train
        ),
    )


def compare_sites(partition: Partition, dataset: Dataset) -> SiteFacts:
    """Measures what sets the sites apart that a data set names.

    Args:
      partition: a natural partition of `dataset`.
      dataset: the data set that was shared out, which names its sites.

    Returns:
      What is found, of training examples; groups are counted over training and test.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> held = tuple(np.arange(k, 60, 2) for k in range(2))
      >>> compare_sites(Partition(held, held, np.full([2, 4], 0.25)), synthetic()).repeated
      array([0, 0])
    """
    inputs, labels = dataset.train
    counts = np.stack([class_counts(labels[held], dataset.num_classes) for held in partition.train])
    low, high = (
        np.stack([_over_channels(inputs[held], over) for held in partition.train])
        for over in (np.min, np.max)
    )
    constant = low == high
    only_here = constant & ~(low.min(axis=0) == high.max(axis=0))
    sites = dataset.sites
    groups = None
    if sites is not None and sites.train.group is not None and sites.test.group is not None:
        train, test = sites.train.group, sites.test.group
        groups = np.array(
            [
                len(np.union1d(train[held], test[tested]))
                for held, tested in zip(partition.train, partition.test, strict=True)
            ]
        )
    return SiteFacts(
        label_shift=label_shift(counts),
        feature_shift=feature_shift(partition, dataset),
        near_copies=near_copies(partition, dataset),
        ranges=np.stack([low.min(axis=1), high.max(axis=1)], axis=1).astype(np.float64),
        constant=tuple(tuple(np.flatnonzero(row).tolist()) for row in only_here),
        repeated=np.array(
            [
                len(held) - len(np.unique(_numbers(_digests(inputs[held]))))
                for held in partition.train
            ]
        ),
        groups=groups,
        has_times=sites is not None and sites.train.time is not None,
    )


def _over_channels(inputs: np.ndarray, over: Callable[..., np.ndarray]) -> np.ndarray:
    """Least or largest value of each channel, [C]."""
    return over(inputs, axis=tuple(range(inputs.ndim - 1)))


def _digests(inputs: np.ndarray) -> np.ndarray:
    """Hash of every input, [N] of 16 bytes."""
    digests = (hashlib.blake2b(each.tobytes(), digest_size=16).digest() for each in inputs)
    return np.frombuffer(b"".join(digests), "V16")


def _numbers(digests: np.ndarray) -> np.ndarray:
    """Numbers [N] that are equal where digests are."""
    return np.unique(digests.view("<u8").reshape(-1, 2), axis=0, return_inverse=True)[1].ravel()


def _with_several(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The keys that come with more than one value.

    >>> _with_several(np.array([1, 1, 2, 2]), np.array([5, 6, 7, 7]))
    array([1])
    """
    pairs = np.unique(np.stack([keys, values]), axis=1)
    found, times = np.unique(pairs[0], return_counts=True)
    return found[times > 1]


def mean_pairwise_tv(mixes: np.ndarray) -> float:
    """Mean over pairs of rows of [K, C] of half the L1 distance."""
    num_clients = len(mixes)
    if num_clients == 1:
        return 0.0
    # In a sorted column, the i-th value is the larger one of i pairs and the smaller one of
    # K - 1 - i, so that all K^2 pairs need no more than a sort.
    weights = 2 * np.arange(num_clients) - (num_clients - 1)
    num_pairs = num_clients * (num_clients - 1) / 2
    return float(0.5 * (weights @ np.sort(mixes, axis=0)).sum() / num_pairs)


def _mean_pairwise_js(mixes: np.ndarray) -> float:
    """Mean over pairs of rows of [K, C] of their Jensen-Shannon divergence."""
    num_clients = len(mixes)
    if num_clients == 1:
        return 0.0
    # A class has few shares, as clients hold few examples: it is their pairs that are summed up,
    # each as often as it occurs. All ordered pairs are, which adds each client's with itself: 0.
    total = 0.0
    for column in mixes.T:
        shares, times = np.unique(column, return_counts=True)
        own = entr(shares)
        for share, entropy, count in zip(shares, own, times, strict=True):
            total += count * float((entr((share + shares) / 2) - (entropy + own) / 2) @ times)
    # shares that are rounded may come out a little below 0
    return max(total / (num_clients * (num_clients - 1)), 0.0)
