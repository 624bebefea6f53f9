"""A small set that can be learnt, made from a seed: for tests and examples."""

import numpy as np

from lipsjax.datasets.base import DataError, Dataset
from lipsjax.types import Examples

_NOISE = 0.5


def synthetic(
    num_classes: int = 4,
    input_shape: tuple[int, ...] = (8, 8, 1),
    train: int = 800,
    test: int = 200,
    seed: int = 0,
) -> Dataset:
    """Makes noisy copies of one random prototype per class.

    With prototypes q_c and noise z, both standard normal, an input of class c is
    q_c + z / 2. The classes are as equal in number as `train` and `test` allow.

    Args:
      num_classes: number of classes C.
      input_shape: [H, W, channels] of an image, [steps, channels] of a series, or [features].
      train: number of training examples.
      test: number of test examples.
      seed: seed of prototypes, noise and order; equal seeds make equal sets.

    Returns:
      Inputs [N, *input_shape] float32.

    Raises:
      DataError: fewer than two classes, a split without examples, or a shape that
        is not one to three positive sizes.

    Example:
      >>> np.bincount(synthetic(num_classes=2, train=10, test=4).train.labels)
      array([5, 5])
    """
    if num_classes < 2:
        raise DataError(f"num_classes is {num_classes}; allowed are 2 and more")
    if min(train, test) < 1:
        raise DataError(f"train is {train} and test is {test}; allowed are 1 and more")
    if not 1 <= len(input_shape) <= 3 or min(input_shape) < 1:
        raise DataError(f"input_shape is {input_shape}; allowed are one to three sizes >= 1")
    rng = np.random.default_rng(seed)
    prototypes = rng.standard_normal((num_classes, *input_shape), np.float32)

    def draw(size: int) -> Examples:
        labels = rng.permutation(np.arange(size, dtype=np.int32) % num_classes)
        noise = rng.standard_normal((size, *input_shape), np.float32)
        return Examples(prototypes[labels] + np.float32(_NOISE) * noise, labels)

    return Dataset("synthetic", draw(train), draw(test), num_classes)
