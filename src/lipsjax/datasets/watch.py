"""Motion of a smartwatch while ten people did shoulder exercises: series in time, of real sites.

The data come with the package seglearn, under its BSD 3-clause licence, and are read from there.

References:
  D. Burns, N. Leung, M. Hardisty, C. Whyne, P. Henry and S. McLachlin, "Shoulder physiotherapy
  exercise recognition: machine learning the inertial signals from a smartwatch", Physiological
  Measurement 39(7), 2018, https://arxiv.org/abs/1802.01489.
"""

import hashlib
import importlib.util
import io
import pickle
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lipsjax.datasets.assembly import Found, assemble
from lipsjax.datasets.base import MOST_PATH, DataError, Dataset, show

_FILE = "data/watch_dataset.npy"
_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
_HEADER = 128
"""Bytes of the NPY header, behind which the array is."""
_STEPS = 100
"""Steps of a window: 2 seconds at 50 Hz."""
_HOW_TO_INSTALL = "pip install 'lipsjax[watch]'"


def watch() -> Dataset:
    """Reads 2,369 windows of 140 recordings: ten people, both arms, seven exercises.

    A recording is parted into windows of 2 s (100 steps) that do not overlap; what is left at its
    end, less than a window, is not used. Sites are people, by number, and groups are recordings, so
    that a split by group has no windows of one recording on both sides.

    Returns:
      Series [N, 100, 6] float32, of the channels ax, ay, az (acceleration) and wx, wy, wz
      (rotation), as they were recorded; classes by the exercises' names.

    Raises:
      DataError: seglearn is not installed, or its data are others than those of version 1.2.5.

    Example:
      >>> made = watch()
      >>> made.train.inputs.shape[1:], len(made.train.labels) + len(made.test.labels)
      ((100, 6), 2369)
      >>> made.sites.names[:2], made.class_names
      (('person 1', 'person 2'), ('PEN', 'ABD', 'FEL', 'IR', 'ER', 'TRAP', 'ROW'))
    """
    recordings = _read(_path())
    windows = [_windows(series) for series in recordings["X"]]
    counts = [len(own) for own in windows]
    label, person = (
        np.repeat(np.asarray(recordings[name], np.int64), counts) for name in ("y", "subject")
    )
    found = Found(
        np.concatenate(windows).astype(np.float32),
        label,
        tuple(map(str, recordings["y_labels"])),
        site=person,
        group=np.repeat(np.arange(len(counts)), counts),
    )
    made = assemble("watch", found)
    assert made.sites is not None
    names = tuple(f"person {name}" for name in made.sites.names)  # once they are in order
    return made._replace(sites=made.sites._replace(names=names))


def _windows(series: np.ndarray) -> np.ndarray:
    """Returns the windows of a series [steps, channels] that do not overlap, the first one first.

    >>> _windows(np.zeros((250, 6))).shape
    (2, 100, 6)
    """
    number = len(series) // _STEPS
    return series[: number * _STEPS].reshape(number, _STEPS, series.shape[1])


def _path() -> Path:
    """Returns where the data are; seglearn itself is not imported."""
    package = importlib.util.find_spec("seglearn")
    if package is None or not package.submodule_search_locations:
        raise DataError(f"watch needs the package seglearn: {_HOW_TO_INSTALL}")
    return Path(package.submodule_search_locations[0]) / _FILE


def _read(path: Path) -> dict[str, Any]:
    """Reads what seglearn's file holds, a dict in an array of Python objects.

    Such a file is a pickle, which could run any program. So its bytes must be the known ones, and
    nothing but arrays is made of them.
    """
    where = show(path, MOST_PATH)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"watch: {where} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise DataError(
            f"watch: {where} is not the file that seglearn 1.2.5 has; {_HOW_TO_INSTALL} gets it"
        )
    return _Arrays(io.BytesIO(content[_HEADER:])).load().item()


class _Arrays(pickle.Unpickler):
    """Reads arrays alone: it finds no other function that a pickle may name."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Returns what makes arrays."""
        found = _MAKES_ARRAYS.get(f"{module_name}.{global_name}")
        if found is None:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} makes no array")
        return found


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes that are kept as a text."""
    return text.encode(encoding)


_MAKES_ARRAYS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": typing.cast(Any, np.empty(0).__reduce__())[0],
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "_codecs.encode": _encode,
}
