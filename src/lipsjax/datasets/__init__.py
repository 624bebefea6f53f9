"""Data sets by name: of scikit-learn, MNIST-1D, a watch, one's own files, TFDS sets, synthetic.

Everything here is NumPy on the host; nothing is downloaded, ever.
"""

from lipsjax.datasets.arrow import from_parquet, from_saved
from lipsjax.datasets.base import DataError, Dataset, channel_statistics, fingerprint, validate
from lipsjax.datasets.csvs import from_csv
from lipsjax.datasets.digits import digits
from lipsjax.datasets.load import load
from lipsjax.datasets.mnist1d import mnist1d
from lipsjax.datasets.options import ReadOptions, check_read
from lipsjax.datasets.own import from_idx, from_npz
from lipsjax.datasets.pictures import from_pictures
from lipsjax.datasets.sites import Origin, Sites
from lipsjax.datasets.splitting import split
from lipsjax.datasets.synthetic import synthetic
from lipsjax.datasets.tabular import breast_cancer, wine
from lipsjax.datasets.tfds import from_tfds
from lipsjax.datasets.watch import watch
from lipsjax.types import Examples

__all__ = [
    "DataError",
    "Dataset",
    "Examples",
    "Origin",
    "ReadOptions",
    "Sites",
    "breast_cancer",
    "channel_statistics",
    "check_read",
    "digits",
    "fingerprint",
    "from_csv",
    "from_idx",
    "from_npz",
    "from_parquet",
    "from_pictures",
    "from_saved",
    "from_tfds",
    "load",
    "mnist1d",
    "split",
    "synthetic",
    "validate",
    "watch",
    "wine",
]
