"""Where examples come from: the sites that data name, and what must stay together in a split.

Symbols: N examples of a split, S sites.
"""

from typing import NamedTuple

import numpy as np


class Origin(NamedTuple):
    """Where each example of a split comes from."""

    site: np.ndarray  # [N] int32 in 0..S - 1
    group: np.ndarray | None = None  # [N] int32: examples of one group are never parted
    time: np.ndarray | None = None  # [N] float64: when an example was taken, in any unit


class Sites(NamedTuple):
    """The sites that a data set names."""

    names: tuple[str, ...]  # S
    train: Origin
    test: Origin
    is_split: bool  # whether the data themselves say what is for testing


def take(origin: Origin, rows: np.ndarray) -> Origin:
    """Returns the origin of some examples, by a mask or by positions.

    >>> take(Origin(np.array([0, 1, 1])), np.array([2, 0])).site
    array([1, 0])
    """
    site, group, time = origin
    return Origin(
        site[rows], None if group is None else group[rows], None if time is None else time[rows]
    )


def join(first: Origin, second: Origin) -> Origin:
    """Returns the origin of the examples of two splits, one after the other.

    >>> join(Origin(np.array([0])), Origin(np.array([1]))).site
    array([0, 1])
    """
    (site, *facts), (other_site, *other_facts) = first, second
    group, time = (
        None if a is None or b is None else np.concatenate([a, b])
        for a, b in zip(facts, other_facts, strict=True)
    )
    return Origin(np.concatenate([site, other_site]), group, time)
