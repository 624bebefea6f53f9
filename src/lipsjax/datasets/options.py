"""What a reader is told: which columns are what, and what becomes of a validation part."""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np

from lipsjax.datasets.base import DataError, show


class ReadOptions(NamedTuple):
    """How one's own files are read; what a format has no use for must be left as it is."""

    label: str | None = None  # column of labels; None: the one called label
    site: str | None = None  # column of sites; None: the one called site, if there is one
    group: str | None = None  # of what must not be parted; None as of site
    time: str | None = None  # of when examples were taken; None as of site
    test: str | None = None  # of which part examples are of; None as of site
    features: tuple[str, ...] = ()  # columns of inputs, in this order; none: all that are left
    shape: tuple[int, ...] = ()  # H, W or H, W, C of images whose values are columns
    resize: tuple[int, ...] = ()  # H, W that pictures are brought to
    validation: Literal["train", "test", "leave_out"] | None = None  # where a validation part goes


AS_NAMED = ReadOptions()
"""Columns are what their names say."""
_PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""Part of a data set -> what it is called."""


def check_read(where: str, options: ReadOptions, reads: Collection[str]) -> None:
    """Refuses options that a format does not read.

    >>> check_read("digits", ReadOptions(label="digit"), [])
    Traceback (most recent call last):
    ...
    lipsjax.datasets.base.DataError: digits: data.label is not read here; leave it out
    """
    for name, value in options._asdict().items():
        if value != ReadOptions._field_defaults[name] and name not in reads:
            which = f"; what is read is {', '.join(f'data.{n}' for n in reads)}" if reads else ""
            raise DataError(f"{where}: data.{name} is not read here{which}; leave it out")


def check_sizes(name: str, sizes: Sequence[int], ranks: Collection[int], allowed: str) -> None:
    """Refuses sizes of images that none can have.

    >>> check_sizes("resize", (8, 0), (2,), "a height and a width")
    Traceback (most recent call last):
    ...
    lipsjax.datasets.base.DataError: data.resize is 8 0; allowed are a height and a width, 1..65535
    """
    if len(sizes) not in ranks or not all(1 <= size <= 65_535 for size in sizes):
        raise DataError(
            f"data.{name} is {' '.join(map(str, sizes))}; allowed are {allowed}, 1..65535"
        )


def part_named(name: str) -> str | None:
    """Returns which part of a data set a name is of: train, test, validation, or none of them.

    >>> part_named("val"), part_named("Ghent")
    ('validation', None)
    """
    return next((part for part, names in _PARTS.items() if name.lower() in names), None)


def parted(
    where: str, names: np.ndarray, options: ReadOptions
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns which examples are kept, and which of those are for testing.

    Args:
      where: what messages call the source.
      names: [N] texts, of each example the part that it is of.
      options: say what becomes of a validation part.

    Returns:
      The positions of the examples that are kept, and of each of them whether it is for testing;
      None where there is no part for testing.

    Raises:
      DataError: other parts, a validation part that nothing is said of, or nothing to train on.

    Example:
      >>> names = np.array(["train", "val", "test", "train"])
      >>> parted("mine", names, ReadOptions(validation="leave_out"))
      (array([0, 2, 3]), array([False,  True, False]))
    """
    found, number = np.unique(names, return_inverse=True)
    parts = [part_named(name) for name in found.tolist()]
    if None in parts:
        raise DataError(
            f"{where} holds a part {show(repr(str(found[parts.index(None)])))}; allowed are train, "
            "test and validation"
        )
    check_validation(
        where, options, [n for n, p in zip(found, parts, strict=True) if p == "validation"]
    )
    moved = [options.validation if part == "validation" else part for part in parts]
    part = np.array(moved)[number]
    kept = np.flatnonzero(part != "leave_out")
    in_test = part[kept] == "test"
    if in_test.all():
        raise DataError(f"{where} holds no part for training; allowed is one called train")
    return kept, in_test if in_test.any() else None


def check_validation(where: str, options: ReadOptions, found: Sequence[str]) -> None:
    """Refuses a validation part of which nothing is said, and to say something where there is none.

    Nobody tunes on it here, so that to leave it out, or to train or test on it, is a choice that
    changes results: it is not made for the user.

    >>> check_validation("mine", ReadOptions(), [])
    """
    if found and options.validation is None:
        raise DataError(
            f"{where} holds a validation part, {show(', '.join(found))}; say by data.validation "
            "what becomes of it: train, test or leave_out"
        )
    if options.validation is not None and not found:
        raise DataError(
            f"{where}: data.validation is {options.validation!r}, and there is no validation part"
        )
