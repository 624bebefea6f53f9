"""The handwritten digits that come with scikit-learn: real images, no download.

References:
  E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
  Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49.
"""

import numpy as np

from lipsjax.datasets.base import Dataset, stratified_test_mask
from lipsjax.types import Examples


def digits() -> Dataset:
    """Reads the 1,797 digits of 8x8 grey values, split into 1,438 to train and 359 to test.

    Of every class, a fifth (rounded) is the test set, drawn once and for all; both
    parts keep the order of the source.

    Returns:
      Images [N, 8, 8, 1] float32 in [0, 1] (the source's 0..16, divided by 16).

    Example:
      >>> digits().train.inputs.shape
      (1438, 8, 8, 1)
    """
    from sklearn.datasets import load_digits  # imported here because it takes a second

    flat, classes = load_digits(return_X_y=True)
    images = (np.asarray(flat).reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    labels = np.asarray(classes).astype(np.int32)
    in_test = stratified_test_mask(labels)
    train, test = (Examples(images[rows], labels[rows]) for rows in (~in_test, in_test))
    return Dataset("digits", train, test, num_classes=10)
