"""MNIST-1D: small signals shaped like digits, made by their authors' package; no download.

References:
  S. Greydanus and D. Kobak, "Scaling Down Deep Learning with MNIST-1D", 2020,
  arXiv:2011.14439; `github.com/greydanus/mnist1d <https://github.com/greydanus/mnist1d>`_.
"""

import random

import numpy as np

from lipsjax.datasets.base import DataError, Dataset
from lipsjax.types import Examples


def mnist1d() -> Dataset:
    """Makes the 4,000 signals to train and 1,000 to test of the package's own defaults and seed.

    A signal is a row of 40 values; an image here is that one row, so that only models that take
    images of a single row can read it. The package normalises all signals together to mean 0 and
    deviation 1.

    Returns:
      Images [N, 1, 40, 1] float32, of 10 classes.

    Raises:
      DataError: the package `mnist1d` is not installed.

    Example:
      >>> mnist1d().train.inputs.shape
      (4000, 1, 40, 1)
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError:
        raise DataError(
            "mnist1d is made by a package that is not installed: pip install 'lipsjax[mnist1d]'"
        ) from None
    # it seeds and draws from the global generators, which are nobody's business here
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        made = make_dataset(get_dataset_args())
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
    train, test = (
        Examples(
            np.asarray(made[f"x{part}"], np.float32)[:, np.newaxis, :, np.newaxis],
            np.asarray(made[f"y{part}"], np.int32),
        )
        for part in ("", "_test")
    )
    return Dataset("mnist1d", train, test, num_classes=10)
