"""Clients that see the same things differently: images distorted, client by client."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import ndimage

from lipsjax.datasets import Dataset, Examples
from lipsjax.partition.sampling import spawn
from lipsjax.partition.splits import Partition

_MOST_DEGREES = 90.0
"""Angle to which a client's images are turned at most, at a skew of 1."""


def distort(
    dataset: Dataset,
    partition: Partition,
    *,
    kind: Literal["noise", "rotation", "brightness"],
    skew: float,
    rng: np.random.Generator,
) -> tuple[Dataset, Partition]:
    """Distorts the images of each client its own way, those of training and of test alike.

    For each client, u_k is drawn once, uniformly from 0..1. With s = skew, and R = high - low the
    range of pixels (0..255 of integers, or from the least to the largest of the training images):

      noise       x + (s u_k R / 2) z, where z is standard normal, anew for every pixel
      rotation    turned about the middle by s (2 u_k - 1) 90 degrees, counter-clockwise;
                  pixels are interpolated linearly, and are 0 beyond the border
      brightness  x + s (u_k - 1/2) R

    What then leaves low..high is cut off, as a camera would, and integers are rounded.

    Every client gets copies of its own, on the host and later on the device: as many images as
    all clients hold together, however many of them they share.

    Args:
      dataset: the data set that was shared out.
      partition: who holds what of it.
      kind: of distortion.
      skew: how far clients differ, in 0..1.
      rng: the source of randomness; it is advanced. From equal generators, u_k depends on neither
        the partition nor the kind.

    Returns:
      A data set of the clients' copies, and who holds what of it. Its test split begins with that
      of `dataset`, untouched: the global test set is drawn from there.

    Raises:
      ValueError: an unknown kind, a skew out of range, or inputs that are no images.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> from lipsjax.partition import iid
      >>> rng = np.random.default_rng(0)
      >>> held = iid(synthetic(), train_sizes=[5, 3], test_sizes=[2, 2], rng=rng)
      >>> own, parts = distort(synthetic(), held, kind="noise", skew=0.5, rng=rng)
      >>> len(own.train.labels), len(own.test.labels), parts.test[1]
      (8, 204, array([202, 203]))
    """
    if kind not in _KINDS:
        raise ValueError(f"features is {kind!r}; allowed are {', '.join(_KINDS)}")
    if not 0 <= skew <= 1:
        raise ValueError(f"feature skew is {skew}; allowed are 0..1")
    if dataset.kind != "images":
        raise ValueError(
            f"features is {kind!r}, which distorts images alone, and {dataset.name} holds "
            f"{dataset.kind}; allowed is alike"
        )
    look_rng, train_rng, test_rng = spawn(rng, 3)
    looks = look_rng.random(len(partition.train))
    pixels = dataset.train.inputs
    whole = np.issubdtype(pixels.dtype, np.integer)
    low, high = (0.0, 255.0) if whole else (float(pixels.min()), float(pixels.max()))

    def copies(split: Examples, held: tuple[np.ndarray, ...], noise: np.random.Generator):
        parts = []
        for indices, u in zip(held, looks, strict=True):
            images = split.inputs[indices].astype(np.float32)
            images = _KINDS[kind](images, u, skew, high - low, noise).clip(low, high)
            parts.append((images.round() if whole else images).astype(pixels.dtype))
        return Examples(np.concatenate(parts), split.labels[np.concatenate(held)])

    train = copies(dataset.train, partition.train, train_rng)
    test = copies(dataset.test, partition.test, test_rng)
    together = (np.concatenate(both) for both in zip(dataset.test, test, strict=True))
    return (
        dataset._replace(train=train, test=Examples(*together)),
        partition._replace(
            train=_in_order(partition.train, start=0),
            test=_in_order(partition.test, start=len(dataset.test.labels)),
        ),
    )


def _in_order(held: tuple[np.ndarray, ...], *, start: int) -> tuple[np.ndarray, ...]:
    """Positions of copies that lie one client after the other."""
    ends = np.cumsum([len(indices) for indices in held])
    return tuple(np.split(start + np.arange(ends[-1]), ends[:-1]))


def _noise(images: np.ndarray, u: float, skew: float, span: float, rng: np.random.Generator):
    deviation = np.float32(skew * u * span / 2)
    return images + deviation * rng.standard_normal(images.shape, np.float32)


def _rotation(images: np.ndarray, u: float, skew: float, span: float, rng: np.random.Generator):
    del span, rng
    degrees = skew * (2 * u - 1) * _MOST_DEGREES
    return ndimage.rotate(
        images, degrees, axes=(2, 1), reshape=False, order=1, mode="grid-constant"
    )


def _brightness(images: np.ndarray, u: float, skew: float, span: float, rng: np.random.Generator):
    del rng
    return images + np.float32(skew * (u - 0.5) * span)


_KINDS: dict[str, Callable[..., np.ndarray]] = {
    "noise": _noise,
    "rotation": _rotation,
    "brightness": _brightness,
}
