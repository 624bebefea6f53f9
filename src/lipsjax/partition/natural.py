"""Clients that are the sites which the data name.

Symbols: K clients, C classes.
"""

from collections.abc import Sequence

import numpy as np

from lipsjax.datasets import DataError, Dataset
from lipsjax.datasets.base import show
from lipsjax.partition.sampling import class_counts
from lipsjax.partition.splits import Partition


def natural(
    dataset: Dataset,
    *,
    rng: np.random.Generator,
    held_out: Sequence[str] = (),
    most_examples: int | None = None,
) -> tuple[Partition, tuple[str, ...]]:
    """Makes each site that the data name a client, of the size that it has.

    Args:
      dataset: names its sites, and is split as it is to be used.
      rng: draws which examples a site keeps; it is advanced only if a site has too many.
      held_out: sites, by name or by number, that come last, as they are not to train.
      most_examples: at most so many training examples of each site, drawn without replacement;
        None for all.

    Returns:
      The partition, every requested mix being the realised one, and the names of its clients.
      Clients are in the order of the data set's sites, those that are held out last. A site may
      be without test examples.

    Raises:
      DataError: a data set that names no sites, a site without training examples, sites held out
        that do not exist or are there twice, or none left to train.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> from lipsjax.datasets.sites import Origin, Sites
      >>> made = synthetic()
      >>> origins = (Origin(np.arange(len(each.labels)) % 3) for each in (made.train, made.test))
      >>> made = made._replace(sites=Sites(("a", "b", "c"), *origins, is_split=True))
      >>> natural(made, held_out=["a"], rng=np.random.default_rng(0))[1]
      ('b', 'c', 'a')
    """
    sites = dataset.sites
    if sites is None:
        raise DataError(f"{show(dataset.name)} names no sites")
    last = numbers_of(held_out, sites.names)
    order = [number for number in range(len(sites.names)) if number not in last]
    train, test = [], []
    for number in (*order, *last):
        held = np.flatnonzero(sites.train.site == number)
        if not len(held):
            raise DataError(
                f"site {show(sites.names[number])} has no training examples; leave it out of the "
                "data"
            )
        if most_examples is not None and len(held) > most_examples:
            held = np.sort(rng.choice(held, most_examples, replace=False))
        train.append(held)
        test.append(np.flatnonzero(sites.test.site == number))
    counts = np.stack([class_counts(dataset.train.labels[h], dataset.num_classes) for h in train])
    names = tuple(sites.names[number] for number in (*order, *last))
    return Partition(tuple(train), tuple(test), counts / counts.sum(axis=1, keepdims=True)), names


def numbers_of(held_out: Sequence[str], names: Sequence[str]) -> list[int]:
    """Returns the numbers of the sites that are held out.

    Raises:
      DataError: for one that does not exist or is there twice, or if none is left to train.
    """
    found: list[int] = []
    for site in held_out:
        number = number_of(site, names)
        if number in found:
            raise DataError(f"partition.hold_out_sites names {show(repr(site))} twice")
        found.append(number)
    if len(found) == len(names):
        raise DataError("partition.hold_out_sites holds out all sites; allowed is to leave some")
    return found


def number_of(site: str, names: Sequence[str]) -> int:
    """Returns the number of a site that is given by its name, or else by its number.

    >>> number_of("1", ["north", "south"]), number_of("1", ["2", "1", "0"])
    (1, 1)

    Raises:
      DataError: for a site that the data do not name.
    """
    if site in names:
        return list(names).index(site)
    if site.isdecimal() and int(site) < len(names):
        return int(site)
    listed = ", ".join(show(name, 40) for name in names[:10]) + (", ..." if len(names) > 10 else "")
    raise DataError(
        f"partition.hold_out_sites names {show(repr(site))}; the data name {listed}, or "
        f"0..{len(names) - 1} by number"
    )
