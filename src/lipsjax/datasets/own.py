"""A user's own images: one `.npz` file, or a folder of IDX files as MNIST came.

References:
  The IDX format, http://yann.lecun.com/exdb/mnist/ (its last section).
"""

import gzip
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from lipsjax.datasets.base import DataError, Dataset, stratified_test_mask
from lipsjax.types import Examples

SPLIT = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
"""Names of arrays of a file that says what is for testing."""
WHOLE = (("x", "y"), ("images", "labels"))
"""Names of arrays of a file that does not: a fifth of every class becomes the test set."""
_FEWEST = 3
"""Images of a class of which a fifth, rounded, is at least one."""
_IDX = {
    "train": ("train-images", "train-labels"),
    "test": ("t10k-images", "t10k-labels"),
}
_IDX_TYPES = {
    0x08: ">u1",
    0x09: ">i1",
    0x0B: ">i2",
    0x0C: ">i4",
    0x0D: ">f4",
    0x0E: ">f8",
}


def from_npz(path: Path) -> Dataset:
    """Reads images and labels from a NumPy archive.

    Args:
      path: a file with arrays x_train, y_train, x_test, y_test (or train_images, ...), or x, y (or
        images, labels), of which a fifth of every class is kept for testing, always the same.
        Images are [N, H, W] or [N, H, W, C], integers in 0..255 or floating numbers; labels are
        [N] or [N, 1]: integers from 0, or texts, whose sorted order makes the classes.

    Returns:
      The data set, not validated; its classes are those up to the largest label.

    Raises:
      DataError: no such file, other arrays, or arrays that cannot be images and labels.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "mine.npz"
      ...     np.savez(path, x=np.zeros((10, 4, 4)), y=np.repeat(["crack", "fine"], 5))
      ...     from_npz(path).train.images.shape
      (8, 4, 4, 1)
    """
    arrays = _read_npz(path)
    for names in SPLIT:
        if set(names) <= arrays.keys():
            x_train, y_train, x_test, y_test = (arrays[name] for name in names)
            y_train, y_test = _labels(path, y_train), _labels(path, y_test)
            (y_train, y_test), classes = _numbered(y_train, y_test)
            train = Examples(_images(path, x_train), y_train)
            return Dataset(path.stem, train, Examples(_images(path, x_test), y_test), classes)
    for names in WHOLE:
        if set(names) <= arrays.keys():
            images = _images(path, arrays[names[0]])
            (labels,), classes = _numbered(_labels(path, arrays[names[1]]))
            if len(images) != len(labels):
                raise DataError(f"{path}: {len(labels)} labels for {len(images)} images")
            if np.unique(labels, return_counts=True)[1].max(initial=0) < _FEWEST:
                raise DataError(
                    f"{path}: no class has the {_FEWEST} images of which one is kept for testing; "
                    f"add images, or name your own split {', '.join(SPLIT[0])}"
                )
            in_test = stratified_test_mask(labels)
            train, test = (Examples(images[rows], labels[rows]) for rows in (~in_test, in_test))
            return Dataset(path.stem, train, test, classes)
    wanted = " or ".join(", ".join(names) for names in (*SPLIT, *WHOLE))
    raise DataError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; needed are {wanted}")


def from_idx(folder: Path) -> Dataset:
    """Reads a folder of IDX files: train-images*, train-labels*, t10k-images*, t10k-labels*.

    Args:
      folder: of the four files, plain or as `.gz`.

    Returns:
      The data set, not validated.

    Raises:
      DataError: a file that is missing, there twice, or not whole.
    """
    parts = []
    for names in _IDX.values():
        images, labels = (_read_idx(_only(folder, name)) for name in names)
        parts.append(Examples(_images(folder, images), _labels(folder, labels)))
    classes = max(int(part.labels.max(initial=0)) for part in parts) + 1
    return Dataset(folder.name, parts[0], parts[1], classes)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # np.load leaves a file open that is no archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    except (ValueError, AttributeError):  # objects, or a single array under this name
        raise DataError(
            f"{path} does not hold plain arrays: images of several sizes cannot be stacked, bring "
            "them to one size, [N, H, W] or [N, H, W, C]"
        ) from None


def _only(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}*"))
    if len(found) != 1:
        raise DataError(
            f"{folder} holds {len(found)} files {name}*; needed is one of each of {_all()}"
        )
    return found[0]


def _all() -> str:
    return ", ".join(f"{name}*" for names in _IDX.values() for name in names)


def _read_idx(path: Path) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    kind, rank = (content[2], content[3]) if len(content) >= 4 else (0, 0)
    if content[:2] != b"\0\0" or kind not in _IDX_TYPES or len(content) < 4 + 4 * rank:
        raise DataError(f"{path} is no IDX file")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, 4))
    start, dtype = 4 + 4 * rank, np.dtype(_IDX_TYPES[kind])
    if len(content) != start + math.prod(shape) * dtype.itemsize:
        raise DataError(f"{path} is not whole: its header says {shape} values")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _images(path: Path, images: np.ndarray) -> np.ndarray:
    """Returns images as [N, H, W, C], uint8 or float32."""
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if np.issubdtype(images.dtype, np.floating):
        return images.astype(np.float32)
    if not np.issubdtype(images.dtype, np.integer):
        raise DataError(f"{path}: images of type {images.dtype}; allowed are numbers")
    if images.size and not 0 <= int(images.min()) <= int(images.max()) <= 255:
        raise DataError(
            f"{path}: images of integers in {images.min()}..{images.max()}; allowed are 0..255"
        )
    return images.astype(np.uint8)


def _labels(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    is_text = labels.dtype.kind in "US"
    if labels.ndim != 1 or not (is_text or np.issubdtype(labels.dtype, np.integer)):
        raise DataError(
            f"{path}: labels of shape {labels.shape} and type {labels.dtype}; allowed are integers "
            "or texts, [N]"
        )
    return labels


def _numbered(*labels: np.ndarray) -> tuple[tuple[np.ndarray, ...], int]:
    """Returns labels as integers from 0, and the number of classes; texts in sorted order."""
    if any(each.dtype.kind in "US" for each in labels):
        names = np.unique(np.concatenate([each.astype(str) for each in labels]))
        return tuple(np.searchsorted(names, each.astype(str)) for each in labels), len(names)
    return labels, max(int(each.max(initial=0)) for each in labels) + 1
