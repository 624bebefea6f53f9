"""What a data set is, and what makes one unfit to train on.

Symbols: N examples of a split, S sites, images of height H, width W and C channels.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lipsjax.datasets.sites import Origin, Sites
from lipsjax.types import Examples

_MAX_LABEL = np.iinfo(np.int32).max
MOST_PATH = 300
"""Characters of a path that a message repeats."""
_MOST_SHOWN = 80
_WHOLE = re.compile("0|-?[1-9][0-9]{0,17}")
TEST_FRACTION = 0.2
SPLIT_SEED = 1998


class DataError(ValueError):
    """Data that cannot be had or cannot be used; the message is one line."""


INPUTS = {4: "images", 3: "series", 2: "features"}
"""What inputs are called, by the number of their dimensions."""


class Dataset(NamedTuple):
    """A classification problem: what clients learn from and are tested on."""

    name: str
    train: Examples
    test: Examples
    num_classes: int
    class_names: tuple[str, ...] | None = None  # of classes 0, 1, ..., where they have names
    sites: Sites | None = None  # where examples come from, if the data say so

    @property
    def kind(self) -> str:
        """What the inputs are: images, series or features."""
        return INPUTS.get(self.train.inputs.ndim, "inputs")


def in_order(names: Iterable[Any]) -> list[Any]:
    """Returns names ascending: texts that are all whole numbers as these, whatever named them.

    Folders and columns of texts know no numbers, and other formats do; one order is of all.

    >>> in_order(["10", "9"]), in_order(["10", "9", "a"]), in_order(["10", "09"]), in_order([10, 9])
    (['9', '10'], ['10', '9', 'a'], ['09', '10'], [9, 10])
    """
    found = list(names)
    if all(isinstance(name, str) and _WHOLE.fullmatch(name) for name in found):
        return sorted(found, key=int)
    return sorted(found)


def show(value: object, most: int = _MOST_SHOWN) -> str:
    """Returns a value as a message repeats it: on one line, and if it is long without its middle.

    >>> show("crack"), show("a" * 99, most=9), len(show("two" + chr(10) + "lines"))
    ('crack', 'aaa...aaa', 12)
    """
    text = str(value)
    if len(text) > 2 * most:  # before anything is done to what may be megabytes
        text = f"{text[:most]}...{text[-most:]}"
    if not text.isprintable():
        text = repr(text)
    if len(text) <= most:
        return text
    kept = (most - 3) // 2
    return f"{text[:kept]}...{text[-kept:]}"


def validate(dataset: Dataset, where: str | None = None) -> Dataset:
    """Checks that a data set can be trained on.

    Args:
      dataset: any data set; its labels may be integers of any width.
      where: what messages call it, such as its file; its name if not given.

    Returns:
      The same data set, its labels as int32.

    Raises:
      DataError: an empty split, images that are not [N, H, W, C] of uint8 or finite
        float32, series that are not [N, steps, C] of finite float32, features that are
        not [N, F] of it, labels that are not integers in 0..num_classes - 1, training
        and test inputs that differ in shape or type, more classes than examples, another
        number of names than of classes, or sites that do not fit the examples.

    Example:
      >>> images = np.zeros([3, 8, 8, 1], np.float32)
      >>> part = Examples(images, np.array([0, 1, 2]))
      >>> validate(Dataset("mine", part, part, num_classes=2))
      Traceback (most recent call last):
      ...
      lipsjax.datasets.base.DataError: mine: train label 2 of example 2; allowed are 0..1
    """
    name, num_classes = show(where or dataset.name, MOST_PATH), dataset.num_classes
    if not 2 <= num_classes <= _MAX_LABEL:
        raise DataError(f"{name}: {num_classes} classes; allowed are 2 and more")
    if dataset.class_names is not None and len(dataset.class_names) != num_classes:
        raise DataError(
            f"{name}: {len(dataset.class_names)} names for {num_classes} classes; allowed is one "
            "for each"
        )
    train = _validate_split(f"{name}: train", dataset.train, num_classes)
    test = _validate_split(f"{name}: test", dataset.test, num_classes)
    for what, of_train, of_test in (
        ("shape", train.inputs.shape[1:], test.inputs.shape[1:]),
        ("type", train.inputs.dtype, test.inputs.dtype),
    ):
        if of_train != of_test:
            raise DataError(
                f"{name}: train {dataset.kind} of {what} {of_train}, test {dataset.kind} of {what} "
                f"{of_test}; "
                "both must be the same"
            )
    number = len(train.labels) + len(test.labels)
    if num_classes > number:  # what counts by class would need memory for each of them
        raise DataError(
            f"{name}: {num_classes} classes for {number} {dataset.kind}; allowed are as many as "
            f"{dataset.kind}"
        )
    if dataset.sites is not None:
        _validate_sites(name, dataset.sites, len(train.labels), len(test.labels))
    return dataset._replace(train=train, test=test)


def _validate_sites(name: str, sites: Sites, *sizes: int) -> None:
    """Checks that every example has a site, and a group and a time where examples have them."""
    most = len(sites.names) - 1
    if most < 0 or len(set(sites.names)) <= most or not all(sites.names):
        raise DataError(f"{name}: sites {show(sites.names)}; allowed are names, each of one site")
    for which, origin, size in zip(
        ("train", "test"), (sites.train, sites.test), sizes, strict=True
    ):
        for what, values in origin._asdict().items():
            if (values is None) != (getattr(sites.train, what) is None):
                raise DataError(f"{name}: {what} of one split alone; allowed is both or none")
            if values is not None and values.shape != (size,):
                raise DataError(
                    f"{name}: {which} {what} of shape {values.shape} for {size} examples; allowed "
                    "is one for each"
                )
        if size and not 0 <= int(origin.site.min()) <= int(origin.site.max()) <= most:
            raise DataError(
                f"{name}: {which} sites {origin.site.min()}..{origin.site.max()}; allowed are "
                f"0..{most}"
            )
        if origin.time is not None and not np.isfinite(origin.time).all():
            first = int(np.isfinite(origin.time).argmin())
            raise DataError(f"{name}: {which} time of example {first} is not finite")


def _validate_split(where: str, examples: Examples, num_classes: int) -> Examples:
    """Checks one split; `where` opens each message."""
    inputs, labels = examples
    kind = INPUTS.get(inputs.ndim, "inputs")
    if inputs.ndim not in INPUTS:
        raise DataError(
            f"{where} inputs of shape {inputs.shape}; allowed are images [N, H, W, C], series "
            "[N, steps, C] and features [N, F]"
        )
    if inputs.size == 0:
        raise DataError(f"{where} {kind} of shape {inputs.shape} are empty; allowed are sizes >= 1")
    if inputs.dtype != np.float32 and (inputs.dtype != np.uint8 or kind != "images"):
        allowed = "uint8 and float32" if kind == "images" else "float32"
        raise DataError(f"{where} {kind} of type {inputs.dtype}; allowed are {allowed}")
    if labels.shape != inputs.shape[:1]:
        raise DataError(
            f"{where} labels of shape {labels.shape} for {len(inputs)} {kind}; allowed is [N]"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where} labels of type {labels.dtype}; allowed are integers in 0..{num_classes - 1}"
        )
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        first = int(outside.argmax())
        raise DataError(
            f"{where} label {labels[first]} of example {first}; allowed are 0..{num_classes - 1}"
        )
    if inputs.dtype == np.float32:
        finite = np.isfinite(inputs).all(axis=tuple(range(1, inputs.ndim)))
        if not finite.all():
            first, one = int(finite.argmin()), "image" if kind == "images" else "example"
            raise DataError(f"{where} {one} {first} holds NaN or infinity; allowed is finite")
    return Examples(inputs, labels.astype(np.int32))


def fingerprint(dataset: Dataset) -> str:
    """Names the content of a data set by a hash.

    Two data sets with equal arrays and classes have equal fingerprints, whatever
    they and their classes are called and wherever they were read from.

    Args:
      dataset: a validated data set.

    Returns:
      The SHA-256, in hexadecimal, of the number of classes and of every array's
      name, type, shape and bytes.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> fingerprint(synthetic(seed=0)) == fingerprint(synthetic(seed=0))
      True
      >>> fingerprint(synthetic(seed=0)) == fingerprint(synthetic(seed=1))
      False
    """
    digest = hashlib.sha256(f"num_classes={dataset.num_classes};".encode())
    for name, array in _arrays(dataset):
        little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        header = f"{name}:{little_endian.dtype.str}{little_endian.shape};"
        digest.update(header.encode())
        digest.update(little_endian.data)
    return digest.hexdigest()


def _arrays(dataset: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Yields every array of a data set with its name in the fingerprint."""
    for split, (inputs, labels) in (("train", dataset.train), ("test", dataset.test)):
        yield f"{split}.images", inputs  # called so since there were images alone
        yield f"{split}.labels", labels
    sites: tuple[tuple[str, Origin], ...] = ()
    if dataset.sites is not None:
        sites = (("train", dataset.sites.train), ("test", dataset.sites.test))
    for split, origin in sites:
        for what, values in origin._asdict().items():
            if values is not None:
                yield f"{split}.{what}", values


def channel_statistics(inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel, over all places of all inputs.

    Args:
      inputs: [N, ..., C], the last axis being channels or features; uint8 counts as parts of 255,
        float32 as it is.

    Returns:
      Means and deviations, C each. A channel that never changes has deviation 0 exactly.

    Example:
      >>> channel_statistics(np.array([0, 51, 102, 51], np.uint8).reshape(1, 2, 2, 1))[0]
      (0.2,)
    """
    unit = 255 if inputs.dtype == np.uint8 else 1
    count = inputs[..., 0].size
    # subtracted, so that what never changes sums to 0
    first = inputs.reshape(-1, inputs.shape[-1])[0].astype(np.float64)
    total, squares = np.zeros_like(first), np.zeros_like(first)
    axes = tuple(range(inputs.ndim - 1))
    for block in np.array_split(inputs, -(-len(inputs) // 1000)):  # all of it may not fit
        moved = block - first
        total += moved.sum(axes)
        squares += np.square(moved).sum(axes)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return tuple(((first + mean) / unit).tolist()), tuple((deviation / unit).tolist())


def stratified_test_mask(labels: np.ndarray) -> np.ndarray:
    """Picks the test fifth of every class, the same for the same labels, [N] bool.

    >>> stratified_test_mask(np.repeat([0, 1], 5)).sum()
    np.int64(2)
    """
    # NumPy promises that a bit generator's raw stream never changes, but promises nothing for
    # Generator.permutation: so that the split outlives versions, raw numbers are sorted.
    lots = np.random.PCG64(SPLIT_SEED).random_raw(len(labels))
    in_test = np.zeros(len(labels), bool)
    # all classes at once, as there may be thousands: each one's members in the order of their lots
    drawn = np.lexsort((lots, labels))
    _, first, of_class, sizes = np.unique(
        labels[drawn], return_index=True, return_inverse=True, return_counts=True
    )
    place = np.arange(len(labels)) - first[of_class]
    in_test[drawn[place < np.round(TEST_FRACTION * sizes)[of_class]]] = True
    return in_test
