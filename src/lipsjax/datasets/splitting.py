"""Part each site's examples into training and test, by a rule.

Symbols: N examples, S sites.
"""

from collections.abc import Callable

import numpy as np

from lipsjax.datasets.base import DataError, Dataset
from lipsjax.datasets.sites import Origin, join, take
from lipsjax.types import Examples

RULES = ("auto", "given", "stratified", "group", "time")


def split(dataset: Dataset, *, rule: str, share: float, rng: np.random.Generator) -> Dataset:
    """Parts the examples of every site anew into training and test.

    Of a site with n examples about `share` n are for testing, and where it has two or more at
    least one is, and at least one is not:

      stratified  of every class of the site its share, drawn at random;
      group       whole groups, drawn at random, until a site has its share: recordings, patients.
                  A group that several sites hold is on one side in all of them. A site whose
                  examples are of one group has no test examples;
      time        the last examples of the site.

    Args:
      dataset: names its sites.
      rule: one of these; "given", as the data themselves say; or "auto", which is given where they
        do, by group where they name groups, and stratified elsewhere.
      share: of a site's examples that are for testing, in (0, 1).
      rng: the source of randomness; it is advanced.

    Returns:
      A data set of the same examples, those of training and of test each in the order of the data.

    Raises:
      DataError: a data set without sites, a rule that needs what the data do not name, or would
        undo a split that they have.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> from lipsjax.datasets.sites import Sites
      >>> made = synthetic()
      >>> origins = (Origin(np.arange(len(each.labels)) % 3) for each in (made.train, made.test))
      >>> made = made._replace(sites=Sites(("a", "b", "c"), *origins, is_split=False))
      >>> rng = np.random.default_rng(0)
      >>> parted = split(made, rule="stratified", share=0.5, rng=rng)
      >>> len(parted.train.labels) == len(parted.test.labels)
      True
    """
    sites = dataset.sites
    if sites is None:
        raise DataError(f"{dataset.name} names no sites; {HOW_TO_NAME}")
    rule = _settled(dataset, rule)
    if rule == "given":
        return dataset
    if not 0 < share < 1:
        raise DataError(f"the share of test examples is {share}; allowed is between 0 and 1")
    origin = join(sites.train, sites.test)
    inputs, labels = (
        np.concatenate([a, b]) for a, b in zip(dataset.train, dataset.test, strict=True)
    )
    in_test = _PICK[rule](origin, labels, share, rng)
    parts = [
        (Examples(inputs[rows], labels[rows]), take(origin, rows)) for rows in (~in_test, in_test)
    ]
    (train, of_train), (test, of_test) = parts
    return dataset._replace(
        train=train, test=test, sites=sites._replace(train=of_train, test=of_test)
    )


HOW_TO_NAME = (
    "name them by an array site in the .npz, by a folder for each, or by a column, or choose "
    "another partition.kind"
)


def _settled(dataset: Dataset, rule: str) -> str:
    """Returns the rule that "auto" stands for; refuses one that the data do not serve."""
    sites = dataset.sites
    assert sites is not None
    if rule not in RULES:
        raise DataError(f"partition.split is {rule!r}; allowed are {', '.join(RULES)}")
    if rule == "auto":
        return "given" if sites.is_split else "stratified" if sites.train.group is None else "group"
    if (rule == "given") != sites.is_split:
        said = "says itself" if sites.is_split else "does not say"
        allowed = "given" if sites.is_split else "stratified, group, time"
        raise DataError(
            f"partition.split is {rule!r}, and {dataset.name} {said} which examples are for "
            f"testing; allowed are auto, {allowed}"
        )
    if rule in ("group", "time") and getattr(sites.train, rule) is None:
        raise DataError(
            f"partition.split is {rule!r}, and {dataset.name} names no {rule} of its examples"
        )
    return rule


Pick = Callable[[Origin, np.ndarray, float, np.random.Generator], np.ndarray]
"""(origin, labels, share, rng) -> [N] bool, which examples are for testing."""


def _stratified(
    origin: Origin, labels: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    lots = rng.random(len(labels))
    in_test = np.zeros(len(labels), bool)
    for site in np.unique(origin.site):
        rows = np.flatnonzero(origin.site == site)
        for label in np.unique(labels[rows]):
            own = rows[labels[rows] == label]
            in_test[own[np.argsort(lots[own])[: round(share * len(own))]]] = True
        _keep_one_of_each(in_test, rows[np.argsort(lots[rows])])
    return in_test


def _keep_one_of_each(in_test: np.ndarray, rows: np.ndarray) -> None:
    """Sees to it that of two or more examples one is for testing, and one for training."""
    if len(rows) > 1 and not in_test[rows].any():
        in_test[rows[0]] = True
    elif in_test[rows].all():
        in_test[rows[0]] = False


def by_group(
    origin: Origin, labels: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Picks whole groups, drawn at random, until each site has its share, [N] bool."""
    del labels
    assert origin.group is not None
    pairs, sizes = np.unique(
        np.stack([origin.group, origin.site], axis=1), axis=0, return_counts=True
    )
    number = 1 + int(origin.site.max())
    wanted = share * np.bincount(origin.site, minlength=number)
    left = np.bincount(pairs[:, 1], minlength=number)  # groups that each site has for training
    picked = np.zeros(number)
    in_test = set()
    for group in rng.permutation(np.unique(origin.group)):
        own = pairs[:, 0] == group
        sites, counts = pairs[own, 1], sizes[own]
        lacks = picked[sites] + counts / 2 <= wanted[sites]  # nearer to its share with it
        if (left[sites] > 1).all() and (lacks | (picked[sites] == 0)).any():
            in_test.add(int(group))
            picked[sites] += counts
            left[sites] -= 1
    return np.isin(origin.group, list(in_test))


def _by_time(
    origin: Origin, labels: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    del labels, rng
    assert origin.time is not None
    in_test = np.zeros(len(origin.site), bool)
    for site in np.unique(origin.site):
        rows = np.flatnonzero(origin.site == site)
        last = min(max(round(share * len(rows)), 1), len(rows) - 1)
        ordered = rows[np.argsort(origin.time[rows], kind="stable")]
        in_test[ordered[len(rows) - last :]] = True
    return in_test


_PICK: dict[str, Pick] = {"stratified": _stratified, "group": by_group, "time": _by_time}
