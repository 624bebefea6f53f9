"""From what a reader found to a data set, in one canonical order whatever the format.

Symbols: N examples.
"""

import unicodedata
from typing import Any, NamedTuple

import numpy as np

from lipsjax.datasets.base import (
    MOST_PATH,
    SPLIT_SEED,
    TEST_FRACTION,
    DataError,
    Dataset,
    in_order,
    show,
    stratified_test_mask,
)
from lipsjax.datasets.sites import Origin, Sites, take
from lipsjax.datasets.splitting import by_group
from lipsjax.types import Examples


class Found(NamedTuple):
    """All examples of a source, in the order of their rows or names."""

    inputs: np.ndarray  # [N, ...]
    labels: np.ndarray  # [N] integers in 0..C - 1
    class_names: tuple[str, ...]  # C
    site: np.ndarray | None = None  # [N] integers or texts
    group: np.ndarray | None = None  # [N] integers or texts
    time: np.ndarray | None = None  # [N] numbers
    in_test: np.ndarray | None = None  # [N] bool, where the source says so


def assemble(name: str, found: Found, where: str | None = None) -> Dataset:
    """Makes a data set of what a reader found.

    Examples come in the order of their sites, then classes, then rows; without sites in that of
    their rows. Where the source does not say what is for testing, a fifth of every class of every
    site is, or of every site's groups where it names some, always the same.

    Args:
      name: of the data set.
      found: what the reader found.
      where: what messages call it; its name if not given.

    Returns:
      The data set, not validated. Sites are named by their integers or texts, in ascending order.

    Raises:
      DataError: sites, groups or times that are not one for each example, or not of their types, or
        groups of which each is all that some site has, where nothing says what is for testing.

    Example:
      >>> inputs, labels = np.zeros((6, 2), np.float32), np.array([0, 1] * 3)
      >>> made = assemble("mine", Found(inputs, labels, ("a", "b"), np.repeat([7, 2], 3)))
      >>> made.sites.names, made.sites.train.site.tolist()
      (('2', '7'), [0, 0, 1, 1, 1])
    """
    inputs, labels, classes, site, group, time, in_test = found
    where = show(where or name, MOST_PATH)
    for what, values in (("site", site), ("group", group), ("time", time)):
        if values is not None and values.shape != labels.shape:
            raise DataError(
                f"{where}: {what} of shape {values.shape} for {len(labels)} examples; allowed is "
                "one for each"
            )
    if site is None:
        if group is not None or time is not None:
            raise DataError(f"{where} names groups or times, and no sites; they part sites alone")
        in_test = stratified_test_mask(labels) if in_test is None else in_test
        train, test = (Examples(inputs[rows], labels[rows]) for rows in (~in_test, in_test))
        return Dataset(name, train, test, len(classes), classes)
    names, number = coded(where, "site", site)
    group = None if group is None else coded(where, "group", group)[1]
    origin = Origin(number, group, None if time is None else _times(where, time))
    order = np.lexsort((labels, number))  # stable: rows come last
    inputs, labels, origin = inputs[order], labels[order], take(origin, order)
    is_split = in_test is not None
    if in_test is not None:
        in_test = in_test[order]
    elif origin.group is not None:
        in_test = by_group(origin, labels, TEST_FRACTION, np.random.default_rng(SPLIT_SEED))
    else:
        in_test = stratified_test_mask(origin.site.astype(np.int64) * len(classes) + labels)
    if not in_test.any() and not is_split:
        if origin.group is not None:
            raise DataError(
                f"{where}: no group can be kept for testing, as each is all that some site has; "
                "allowed are several groups in a site, or data that say what is for testing"
            )
        in_test[0] = True  # of few examples
    train, test = (Examples(inputs[rows], labels[rows]) for rows in (~in_test, in_test))
    sites = Sites(names, take(origin, ~in_test), take(origin, in_test), is_split)
    return Dataset(name, train, test, len(classes), classes, sites)


def coded(where: str, what: str, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the names that occur, ascending, and of each example the number of its name.

    >>> coded("mine", "site", np.array(["b", "a", "b"]))
    (('a', 'b'), array([1, 0, 1], dtype=int32))
    """
    if values.dtype.kind not in "iuSU":
        raise DataError(
            f"{where}: {what} of type {show(values.dtype)}; allowed are integers and texts"
        )
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{where}: {what} holds what is no text; allowed is UTF-8") from None
    found, number = np.unique(values, return_inverse=True)
    names = [_plain(name) for name in found.tolist()]
    if "" in names:
        first = int((number == names.index("")).argmax())
        raise DataError(f"{where}: {what} of example {first} is an empty text")
    ordered = in_order(set(names))
    position = {name: number for number, name in enumerate(ordered)}
    codes = np.array([position[name] for name in names], np.int32)
    return tuple(map(str, ordered)), codes[number]


def _plain(name: Any) -> Any:
    """Returns a text as names are compared, labels too; an integer as it is."""
    return unicodedata.normalize("NFC", name).strip() if isinstance(name, str) else name


def _times(where: str, values: np.ndarray) -> np.ndarray:
    """Returns times as float64; only their order is read."""
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            row = int(np.isnat(values).argmax())
            raise DataError(f"{where}: time of example {row} is not a time (NaT); fill it in")
        return values.astype("datetime64[us]").astype(np.int64).astype(np.float64)
    if values.dtype.kind not in "iuf":
        raise DataError(
            f"{where}: time of type {show(values.dtype)}; allowed are numbers and dates"
        )
    return values.astype(np.float64)
