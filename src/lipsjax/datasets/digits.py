"""The handwritten digits that come with scikit-learn: real images, no download.

References:
  E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
  Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49.
"""

import numpy as np

from lipsjax.datasets.base import Dataset, Examples

_TEST_FRACTION = 0.2
_SPLIT_SEED = 1998


def digits() -> Dataset:
    """Reads the 1,797 digits of 8x8 grey values, split into 1,438 to train and 359 to test.

    Of every class, a fifth (rounded) is the test set, drawn once and for all; both
    parts keep the order of the source.

    Returns:
      Images [N, 8, 8, 1] float32 in [0, 1] (the source's 0..16, divided by 16).

    Example:
      >>> digits().train.images.shape
      (1438, 8, 8, 1)
    """
    from sklearn.datasets import load_digits  # imported here because it takes a second

    flat, classes = load_digits(return_X_y=True)
    images = (np.asarray(flat).reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    labels = np.asarray(classes).astype(np.int32)
    in_test = _stratified_test_mask(labels)
    train, test = (Examples(images[rows], labels[rows]) for rows in (~in_test, in_test))
    return Dataset("digits", train, test, num_classes=10)


def _stratified_test_mask(labels: np.ndarray) -> np.ndarray:
    """Picks the fixed test fifth of every class, [N] bool."""
    # NumPy promises that a bit generator's raw stream never changes, but promises nothing for
    # Generator.permutation: so that the split outlives versions, raw numbers are sorted.
    lots = np.random.PCG64(_SPLIT_SEED).random_raw(len(labels))
    in_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        drawn = members[np.argsort(lots[members], kind="stable")]
        in_test[drawn[: round(_TEST_FRACTION * len(members))]] = True
    return in_test
