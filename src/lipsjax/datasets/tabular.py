"""Two tables that come with scikit-learn: real measurements, a row of features each, no download.

References:
  W. Wolberg, O. Mangasarian, N. Street and W. Street, "Breast Cancer Wisconsin (Diagnostic)", UCI
  Machine Learning Repository, 1993, https://doi.org/10.24432/C5DW2B. S. Aeberhard and M. Forina,
  "Wine", UCI Machine Learning Repository, 1992, https://doi.org/10.24432/C5PC7J.
"""

from typing import Any

import numpy as np

from lipsjax.datasets.assembly import Found, assemble
from lipsjax.datasets.base import Dataset


def breast_cancer() -> Dataset:
    """Reads 569 tumours of 30 features each, measured on images of their cells.

    Of every class, a fifth (rounded) is the test set, drawn once and for all; both parts keep the
    order of the source. Features are as they were measured, of very different sizes.

    Returns:
      Features [N, 30] float32; classes malignant and benign.

    Example:
      >>> breast_cancer().train.inputs.shape, breast_cancer().class_names
      ((456, 30), ('malignant', 'benign'))
    """
    from sklearn.datasets import load_breast_cancer  # imported here because it takes a second

    return _table("breast_cancer", load_breast_cancer())


def wine() -> Dataset:
    """Reads 178 wines of three growers, with 13 features each of a chemical analysis.

    Of every class, a fifth (rounded) is the test set, drawn once and for all; both parts keep the
    order of the source. Features are as they were measured, of very different sizes.

    Returns:
      Features [N, 13] float32; three classes.

    Example:
      >>> wine().train.inputs.shape, wine().test.inputs.shape
      ((142, 13), (36, 13))
    """
    from sklearn.datasets import load_wine

    return _table("wine", load_wine())


def _table(name: str, bunch: Any) -> Dataset:
    """Returns a table of scikit-learn as a data set."""
    features = np.asarray(bunch.data).astype(np.float32)
    labels, names = np.asarray(bunch.target), tuple(map(str, bunch.target_names))
    return assemble(name, Found(features, labels, names))
