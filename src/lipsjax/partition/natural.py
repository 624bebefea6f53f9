"""Clients that are the sites which the data name.

Symbols: K clients, C classes.
"""

from collections.abc import Sequence

import numpy as np

from lipsjax.datasets import DataError, Dataset
from lipsjax.datasets.base import show
from lipsjax.datasets.sites import join, take
from lipsjax.partition.sampling import class_counts
from lipsjax.partition.splits import Partition
from lipsjax.types import Examples


def natural(
    dataset: Dataset,
    *,
    rng: np.random.Generator,
    held_out: Sequence[str | int] = (),
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


def whole_for_testing(dataset: Dataset, held_out: Sequence[str | int]) -> Dataset:
    """Returns a data set in which all examples of some sites are for testing too.

    Those sites never train, so that whatever they hold can be scored.

    Args:
      dataset: names its sites, and is split as it is to be used.
      held_out: sites, by name or by number, that are not to train.

    Returns:
      The data set, its test split followed by the training examples of these sites. Its training
      split is as it was.

    Raises:
      DataError: a data set that names no sites, sites held out that do not exist or are there
        twice, or an example of theirs whose group is trained on at another site.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> from lipsjax.datasets.sites import Origin, Sites
      >>> made = synthetic(train=30, test=12)
      >>> origins = (Origin(np.arange(len(each.labels)) % 3) for each in (made.train, made.test))
      >>> made = made._replace(sites=Sites(("a", "b", "c"), *origins, is_split=True))
      >>> len(made.test.labels), len(whole_for_testing(made, ["a"]).test.labels)
      (12, 22)
    """
    sites = dataset.sites
    if sites is None:
        raise DataError(f"{show(dataset.name)} names no sites")
    numbers = numbers_of(held_out, sites.names)
    is_held = np.isin(sites.train.site, numbers)
    of_held = take(sites.train, np.flatnonzero(is_held))
    scored = join(take(sites.test, np.flatnonzero(np.isin(sites.test.site, numbers))), of_held)
    if scored.group is not None and sites.train.group is not None:
        is_trained = np.isin(scored.group, sites.train.group[~is_held])
    else:
        is_trained = np.zeros(len(scored.site), bool)
    if is_trained.any():
        first = sites.names[scored.site[is_trained][0]]
        raise DataError(
            f"partition.score_whole would score examples of site {show(first)} whose group is "
            "trained on at another site: leave it out, or name groups that one site has"
        )
    test = Examples(
        *(
            np.concatenate([tested, trained[is_held]])
            for tested, trained in zip(dataset.test, dataset.train, strict=True)
        )
    )
    return dataset._replace(test=test, sites=sites._replace(test=join(sites.test, of_held)))


def numbers_of(held_out: Sequence[str | int], names: Sequence[str]) -> list[int]:
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


def number_of(site: str | int, names: Sequence[str]) -> int:
    """Returns the number of a site that is given by its name, or else by its number.

    An integer is a number alone.

    >>> number_of("1", ["north", "south"]), number_of("2", ["2", "1", "0"])
    (1, 0)
    >>> number_of(2, ["2", "1", "0"])
    2

    Raises:
      DataError: for a site that the data do not name.
    """
    if site in names:
        return list(names).index(str(site))
    if str(site).isdecimal() and int(site) < len(names):
        return int(site)
    listed = ", ".join(show(name, 40) for name in names[:10]) + (", ..." if len(names) > 10 else "")
    raise DataError(
        f"partition.hold_out_sites names {show(repr(site))}; the data name {listed}, or "
        f"0..{len(names) - 1} by number"
    )
