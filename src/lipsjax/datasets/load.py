"""Load a data set by name or path. NumPy on the host; nothing is downloaded, ever."""

import stat
from pathlib import Path

from lipsjax.datasets.base import MOST_PATH, DataError, Dataset, show, validate
from lipsjax.datasets.digits import digits
from lipsjax.datasets.files import expanded, mode
from lipsjax.datasets.mnist1d import mnist1d
from lipsjax.datasets.own import from_idx, from_npz
from lipsjax.datasets.synthetic import synthetic
from lipsjax.datasets.tabular import breast_cancer, wine
from lipsjax.datasets.tfds import from_tfds, how_to_prepare
from lipsjax.datasets.watch import watch

_BUILT_IN = {
    "digits": digits,
    "synthetic": synthetic,
    "mnist1d": mnist1d,
    "breast_cancer": breast_cancer,
    "wine": wine,
    "watch": watch,
}


def load(name: str | Path, data_dir: str | Path | None = None) -> Dataset:
    """Loads and validates a data set.

    Args:
      name: `digits`, `breast_cancer`, `wine`, `synthetic`, `mnist1d` (needs the package of that
        name), `watch` (needs seglearn), the path of an `.npz` file or of a folder of IDX files, or
        a TFDS image classification set such as `fashion_mnist` or `emnist/balanced`. A `Path` is
        that of a file or folder.
      data_dir: the TFDS data directory that holds the set, prepared as array_record.
        The built-in sets read no files and do not look at it.

    Returns:
      The data set; images [N, H, W, C] as uint8 in 0..255 or float32, series [N, steps, C] or
      features [N, F] as float32; labels int32.

    Raises:
      DataError: the set cannot be found, read, or trained on; one line that says why
        and what to do.

    Example:
      >>> dataset = load("digits")
      >>> dataset.num_classes, dataset.test.inputs.shape
      (10, (359, 8, 8, 1))
    """
    if isinstance(name, str) and name in _BUILT_IN:
        return validate(_BUILT_IN[name]())
    where = show(name, MOST_PATH)
    if str(name).lower().endswith(".npz"):
        return validate(from_npz(name), where)
    if data_dir is not None and isinstance(name, str):
        return validate(from_tfds(name, data_dir))
    kind = mode(expanded(name)) if name else None  # "" would be the folder one is in
    if kind is not None and stat.S_ISDIR(kind):
        return validate(from_idx(name), where)
    if kind is not None:
        raise DataError(f"{where} is no .npz file; allowed are these, and folders of IDX files")
    if isinstance(name, Path):
        raise DataError(f"{where}: no such file or folder")
    raise DataError(
        f"no built-in data set {show(repr(name))} (built in are {', '.join(_BUILT_IN)}), and no "
        ".npz file or folder of IDX files; a TFDS set "
        f"needs data_dir, the folder that holds it; {how_to_prepare(name, 'DIR')}"
    )
