"""Load a data set by name or path. NumPy on the host; nothing is downloaded, ever."""

import stat
from pathlib import Path

from lipsjax.datasets.arrow import from_parquet, from_saved, is_saved, parquet_files
from lipsjax.datasets.base import MOST_PATH, DataError, Dataset, show, validate
from lipsjax.datasets.csvs import from_csv
from lipsjax.datasets.digits import digits
from lipsjax.datasets.files import expanded, mode
from lipsjax.datasets.mnist1d import mnist1d
from lipsjax.datasets.options import AS_NAMED, ReadOptions, check_read
from lipsjax.datasets.own import from_idx, from_npz, is_idx
from lipsjax.datasets.pictures import from_pictures, holds_pictures
from lipsjax.datasets.synthetic import synthetic
from lipsjax.datasets.tables import READS
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


_FILES = {
    ".npz": (from_npz, ("validation",)),
    ".csv": (from_csv, READS),
    ".parquet": (from_parquet, READS),
}
"""Ending of a file -> what reads it, and the options that this reads."""
_ALLOWED = (
    "files .npz, .csv and .parquet, and folders of pictures, of .parquet or IDX files, or as "
    "Hugging Face's save_to_disk writes them"
)


def load(
    name: str | Path,
    data_dir: str | Path | None = None,
    options: ReadOptions = AS_NAMED,
) -> Dataset:
    """Loads and validates a data set.

    Args:
      name: `digits`, `breast_cancer`, `wine`, `synthetic`, `mnist1d` (needs the package of that
        name), `watch` (needs seglearn), a TFDS image classification set such as `fashion_mnist` or
        `emnist/balanced`, or a path: of an `.npz`, `.csv` or `.parquet` file, or of a folder of
        pictures (`class/*.png` or `site/class/*.png`), of `.parquet` or IDX files, or of what
        Hugging Face's `save_to_disk` wrote. A `Path` is that of a file or folder.
      data_dir: the TFDS data directory that holds the set, prepared as array_record.
        The built-in sets read no files and do not look at it.
      options: how files are read; which of them a format reads is told where it reads others not.

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
        check_read(name, options, ())
        return validate(_BUILT_IN[name]())
    where = show(name, MOST_PATH)
    kind = mode(expanded(name)) if name else None  # "" would be the folder one is in
    is_folder = kind is not None and stat.S_ISDIR(kind)
    ending = next((end for end in _FILES if str(name).lower().endswith(end)), None)
    if ending is not None and not (is_folder and ending == ".parquet"):
        read, reads = _FILES[ending]
        check_read(where, options, reads)
        return validate(read(name, options), where)
    if data_dir is not None and isinstance(name, str):
        check_read(where, options, ())
        return validate(from_tfds(name, data_dir))
    if is_folder:
        return validate(_from_folder(name, options), where)
    if kind is not None:
        raise DataError(f"{where} is no file of a format that is read; allowed are {_ALLOWED}")
    if isinstance(name, Path):
        raise DataError(f"{where}: no such file or folder")
    raise DataError(
        f"no built-in data set {show(repr(name))} (built in are {', '.join(_BUILT_IN)}), and no "
        f"file or folder of that name; allowed are {_ALLOWED}; a TFDS set "
        f"needs data_dir, the folder that holds it; {how_to_prepare(name, 'DIR')}"
    )


def _from_folder(name: str | Path, options: ReadOptions) -> Dataset:
    """Reads a folder as what it holds."""
    folder, where = expanded(name), show(name, MOST_PATH)
    if is_saved(folder):
        check_read(where, options, READS)
        return from_saved(folder, options)
    if parquet_files(folder):
        check_read(where, options, READS)
        return from_parquet(folder, options)
    if is_idx(folder):
        check_read(where, options, ())
        return from_idx(folder)
    if holds_pictures(folder):
        check_read(where, options, ("resize", "validation"))
        return from_pictures(folder, options)
    raise DataError(f"{where} holds nothing of a format that is read; allowed are {_ALLOWED}")
