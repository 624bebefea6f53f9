"""How far each site is from the others: in its classes, its inputs, and copies that they share.

A site's distance is the median of those to every other site: half of the others, at least, are so
far or farther. It says little beside what chance gives, so each comes with a floor: the distance
that 19 of 20 random redraws of sites of the same sizes stay below, where all sites are alike. Of
ten sites or more, a single odd one moves the medians of the others little, as it would a pool of
all; of fewer it may lift some of them beyond their floors, and two sites are as far from each
other. Cost is bounded: of many examples some are looked at, evenly spaced, as many of each site.

Symbols: K clients, C classes, N examples, D values that stand for an example.

References:
  G. J. Székely and M. L. Rizzo, Energy statistics: a class of statistics based on distances, 2013.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.spatial
import scipy.stats

from lipsjax.datasets import Dataset
from lipsjax.partition.splits import Partition

DRAWS = 99
_FLOOR = 0.95
MOST_SITES = 100
"""Sites whose inputs are compared."""
MOST_EXAMPLES = 1000
"""Training examples whose inputs are compared, of all sites together."""
MOST_SEARCHED = 20_000
"""Examples among which near copies are sought."""
NEAR = 0.05
"""Of the median distance of two examples, below which they are nearly the same."""
_FEWEST_VALUES = 16
"""Values that stand for an example, below which two may well be close without being copies."""
_BLOCKS = 8
_MOST_VALUES = 256
_NEIGHBOURS = 4
_AXES = 8


class Shift(NamedTuple):
    """How far each client is from the median other one; NaN where it was not measured."""

    distance: np.ndarray  # [K] in 0..1
    floor: np.ndarray  # [K], what 19 of 20 random redraws stay below

    @property
    def beyond(self) -> np.ndarray:
        """Which clients are farther than chance explains, [K] bool."""
        return self.distance > self.floor


class NearCopies(NamedTuple):
    """Pairs of examples that are nearly, and not quite, the same."""

    within_sites: int  # both for training, at one site
    across_sites: int  # both for training, at two sites
    across_split: int  # one for training, one for testing
    searched: int  # examples among which they were sought
    examples: int  # that there are

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return self._asdict()


def label_shift(counts: np.ndarray) -> Shift:
    """Measures how far the class mix of each client is from those of others.

    The distance of two mixes p and q is total variation, ``sum |p - q| / 2``: the share of a
    client's examples that would have to change class. That of a client is the median over others,
    of two middle ones the smaller. The floor is of labels that are dealt out anew to clients of the
    same sizes, from a seed that is always the same.

    Args:
      counts: [K, C] training examples per client and class, each client having one at least.

    Returns:
      Distances and floors, of more than 100 clients to 100 of them; 0 of one client alone.

    Example:
      >>> label_shift(np.array([[10, 0], [10, 0], [0, 10]])).distance
      array([0., 0., 1.])
      >>> label_shift(np.array([[30, 30], [31, 29]])).beyond
      array([False, False])
    """
    sizes, whole = counts.sum(axis=1), counts.sum(axis=0)
    if len(sizes) == 1:
        return Shift(np.zeros(1), np.zeros(1))
    dealt = scipy.stats.random_table(sizes, whole, seed=np.random.default_rng(0))
    null = [_of_mixes(dealt.rvs()) for _ in range(DRAWS)]
    return Shift(_of_mixes(counts), _floor(null))


def _floor(null: list[np.ndarray]) -> np.ndarray:
    """What 5 of 100 equal draws, these and the data's own, are beyond at most."""
    # equal distances, as of classes that one site alone has, may differ by rounding
    return np.quantile(null, _FLOOR, axis=0, method="higher") + 1e-9


def _of_mixes(counts: np.ndarray) -> np.ndarray:
    """Median total variation from each row's mix to those of others."""
    mixes = counts / counts.sum(axis=1, keepdims=True)
    others = _spaced(len(mixes), MOST_SITES)
    apart = 0.5 * scipy.spatial.distance.cdist(mixes, mixes[others], "cityblock")
    return _to_others(apart, others)


def _to_others(apart: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The median over others of a row's distances to them, of two middle ones the smaller.

    >>> _to_others(np.array([[0.0, 1, 9], [1, 0, 9], [9, 9, 0]]), np.arange(3))
    array([1., 1., 9.])
    """
    apart = apart.copy()
    apart[others, np.arange(len(others))] = np.inf  # itself
    counts = np.isfinite(apart).sum(axis=1)
    return np.sort(apart, axis=1)[np.arange(len(apart)), (counts - 1) // 2]


def feature_shift(partition: Partition, dataset: Dataset) -> Shift:
    """Measures how far the training inputs of each client are from those of others.

    Inputs stand as `reduced` has them. The distance of two clients is the energy distance over
    twice the mean distance between the two samples: 0 where both are distributed alike, 1 where
    both are constant and differ. That of a client is the median over others, of two middle ones the
    smaller. For the floor, examples of one class are exchanged at random among clients, from a
    seed that is always the same: what a client's classes explain of its inputs is no shift.

    Args:
      partition: a partition of `dataset`.
      dataset: the data set that was shared out.

    Returns:
      Distances and floors; NaN for one client alone, for clients of one example, and for those
      that are left out of more than 100.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> held = tuple(np.arange(k, 60, 2) for k in range(2))
      >>> feature_shift(Partition(held, held, np.full([2, 4], 0.25)), synthetic()).beyond
      array([False, False])
    """
    clients = np.array([k for k, held in enumerate(partition.train) if len(held) > 1])
    measured = clients[_spaced(len(clients), MOST_SITES)] if len(clients) else clients
    distance, floor = np.full((2, len(partition.train)), np.nan)
    if len(measured) < 2:
        return Shift(distance, floor)
    each = max(MOST_EXAMPLES // len(measured), 2)
    held = [partition.train[k][_spaced(len(partition.train[k]), each)] for k in measured]
    rows, site = np.concatenate(held), np.repeat(np.arange(len(held)), list(map(len, held)))
    labels = dataset.train.labels[rows]
    values = reduced(dataset.train.inputs[rows])
    apart = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(values))
    rng = np.random.default_rng(0)
    of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    null = []
    for _ in range(DRAWS):
        dealt = site.copy()
        for members in of_class:
            dealt[members] = rng.permutation(site[members])
        null.append(_energy(apart, dealt))
    distance[measured] = _energy(apart, site)
    floor[measured] = _floor(null)
    return Shift(distance, floor)


def _energy(apart: np.ndarray, site: np.ndarray) -> np.ndarray:
    """Median energy distance of each site to others, each as a share of its largest value.

    Means within a site are over pairs of two examples, so that sites which are alike are 0 apart
    in the mean, whatever their sizes.

    >>> place = np.array([0.0, 0.0, 1.0, 1.0])
    >>> _energy(np.abs(place[:, None] - place), np.array([0, 0, 1, 1]))
    array([1., 1.])
    """
    member = np.eye(site.max() + 1)[site]  # [n, K]
    size = member.sum(axis=0)
    total = member.T @ (apart @ member)  # [K, K], of distances
    mean, within = total / np.outer(size, size), np.diag(total) / (size * (size - 1))
    energy = 2 * mean - within[:, None] - within
    shares = np.divide(energy, 2 * mean, out=np.zeros_like(mean), where=mean > 0).clip(0, 1)
    return _to_others(shares, np.arange(len(size)))


def near_copies(partition: Partition, dataset: Dataset) -> NearCopies | None:
    """Finds pairs of examples that are nearly the same, as of one thing taken twice.

    Inputs stand as `reduced` has them, at most 20,000, and two are nearly the same where they are
    closer than a twentieth of the median distance of two examples. Pairs that are the same to the
    bit are left out, and of each example the nearest few alone are looked at.

    Args:
      partition: a partition of `dataset`.
      dataset: the data set that was shared out.

    Returns:
      How many pairs there are; None where fewer than 16 values stand for an example, so that two
      may well be close by chance.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> held = tuple(np.arange(k, 60, 2) for k in range(2))
      >>> near_copies(Partition(held, (np.arange(9),) * 2, np.full([2, 4], 0.25)), synthetic())
      NearCopies(within_sites=0, across_sites=0, across_split=0, searched=69, examples=69)
    """
    train = np.unique(np.concatenate(partition.train))
    test = np.unique(np.concatenate(partition.test))
    examples = len(train) + len(test)
    site = np.zeros(len(dataset.train.labels), int)
    for client, held in enumerate(partition.train):
        site[held] = client
    share = min(1.0, MOST_SEARCHED / examples)
    train, test = (rows[_spaced(len(rows), int(share * len(rows)))] for rows in (train, test))
    inputs = np.concatenate([dataset.train.inputs[train], dataset.test.inputs[test]])
    values = reduced(inputs)
    if values.shape[1] < _FEWEST_VALUES or len(values) < 2:
        return None
    pairs = _close(values)
    same = np.array([np.array_equal(inputs[a], inputs[b]) for a, b in pairs], bool)
    first, second = pairs[~same].T  # ascending, so that the one for testing comes second
    trained = second < len(train)
    sites = np.concatenate([site[train], np.full(len(test), -1)])
    alike = sites[first] == sites[second]
    return NearCopies(
        within_sites=int((trained & alike).sum()),
        across_sites=int((trained & ~alike).sum()),
        across_split=int(((first < len(train)) & ~trained).sum()),
        searched=len(values),
        examples=examples,
    )


def _close(values: np.ndarray) -> np.ndarray:
    """Pairs [P, 2], ascending, of rows that are nearly the same."""
    few = values[_spaced(len(values), MOST_EXAMPLES)]
    most = NEAR * float(np.median(scipy.spatial.distance.pdist(few)))
    # a projection brings nothing farther apart, and in few dimensions neighbours are found quickly
    _, axes = np.linalg.eigh(np.cov(values.T))
    tree = scipy.spatial.KDTree(values @ axes[:, -_AXES:])
    _, neighbours = tree.query(tree.data, k=min(1 + _NEIGHBOURS, len(values)))
    neighbours = np.asarray(neighbours)
    first = np.repeat(np.arange(len(values)), neighbours.shape[1])
    pairs = np.sort(np.stack([first, neighbours.ravel()], axis=1), axis=1)
    pairs = np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)
    return pairs[np.linalg.norm(values[pairs[:, 0]] - values[pairs[:, 1]], axis=1) < most]


def reduced(inputs: np.ndarray) -> np.ndarray:
    """Returns few values for each input, of comparable size.

    Of images and series they are means over up to 8 parts of each side, and of each channel its
    deviation within the input, which weighs as much as the means together; each channel is
    scaled to mean 0 and deviation 1 over all inputs. Features are scaled one by one, and of more
    than 256 as many are taken, evenly spaced. What never varies is left out.

    Args:
      inputs: [N, H, W, C], [N, steps, C] or [N, F].

    Returns:
      [N, D] float64.

    Example:
      >>> reduced(np.array([[1.0, 5.0], [3.0, 5.0]], np.float32))
      array([[-1.],
             [ 1.]])
      >>> reduced(np.random.default_rng(0).random((4, 16, 16, 1))).shape
      (4, 65)
    """
    if inputs.ndim == 2:
        return _scaled(inputs[:, None, _spaced(inputs.shape[1], _MOST_VALUES)].astype(np.float64))
    blocks = np.array_split(inputs, -(-len(inputs) // 1000))  # all of it as float may not fit
    means = np.concatenate([_block_means(block.astype(np.float64)) for block in blocks])
    axes = tuple(range(1, inputs.ndim - 1))
    spread = np.concatenate([block.astype(np.float64).std(axis=axes)[:, None] for block in blocks])
    return np.concatenate([_scaled(means), np.sqrt(means.shape[1]) * _scaled(spread)], axis=1)


def _block_means(inputs: np.ndarray) -> np.ndarray:
    """Means over the parts of each side, [N, parts, C]."""
    for axis in range(1, inputs.ndim - 1):
        parts = np.array_split(np.arange(inputs.shape[axis]), min(_BLOCKS, inputs.shape[axis]))
        starts, sizes = [p[0] for p in parts], np.array([len(p) for p in parts])
        shape = [1] * inputs.ndim
        shape[axis] = len(parts)
        inputs = np.add.reduceat(inputs, starts, axis=axis) / sizes.reshape(shape)
    return inputs.reshape(len(inputs), -1, inputs.shape[-1])


def _scaled(values: np.ndarray) -> np.ndarray:
    """Values [N, parts, C] as [N, D]: each channel with mean 0 and deviation 1."""
    deviation = values.std(axis=(0, 1))
    varies = deviation > 1e-6 * np.abs(values).max(axis=(0, 1))
    moved = (values - values.mean(axis=(0, 1)))[..., varies] / deviation[varies]
    return moved.reshape(len(values), -1)


def _spaced(number: int, most: int) -> np.ndarray:
    """Positions of `most` of a number of things, evenly spaced; all where there are no more.

    >>> _spaced(3, 5), _spaced(9, 3)
    (array([0, 1, 2]), array([0, 4, 8]))
    """
    if number <= most:
        return np.arange(number)
    return np.linspace(0, number - 1, most).round().astype(int)
