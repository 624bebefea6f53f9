"""A user's own data: one `.npz` file, or a folder of IDX files as MNIST came.

References:
  The IDX format, http://yann.lecun.com/exdb/mnist/ (its last section), and the NPY format,
  https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

import collections
import contextlib
import gzip
import math
import struct
import tokenize
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lipsjax.datasets.assembly import Found, assemble
from lipsjax.datasets.base import (
    MOST_PATH,
    DataError,
    Dataset,
    in_order,
    show,
    stratified_test_mask,
)
from lipsjax.datasets.files import check_room, expanded, open_file
from lipsjax.datasets.options import AS_NAMED, ReadOptions, check_validation
from lipsjax.types import Examples

SPLIT = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("train_series", "train_labels", "test_series", "test_labels"),
    ("train_features", "train_labels", "test_features", "test_labels"),
)
"""Names of arrays of a file that says what is for testing."""
WHOLE = (("x", "y"), ("images", "labels"), ("series", "labels"), ("features", "labels"))
"""Names of arrays of a file that does not: a fifth of every class becomes the test set."""
_ORIGIN = ("site", "group", "time")
"""Names of arrays that say where examples come from."""
_FEWEST = 3
"""Examples of a class of which a fifth, rounded, is at least one."""
_MOST_RATIO = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
"""Compressions that NumPy writes, and bytes that one byte can stand for: no file holds more."""
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
_GZIP = b"\x1f\x8b"
_MOST_RANK = 4
_MOST_LISTED = 4
_MOST_CHARACTER = 0x10FFFF
_LARGEST = float(np.finfo(np.float32).max)


def from_npz(path: str | Path, options: ReadOptions = AS_NAMED) -> Dataset:
    """Reads inputs and labels from a NumPy archive.

    Args:
      path: a file with arrays x_train, y_train, x_test, y_test (or train_images, train_labels,
        ...), or x, y (or images, labels), of which a fifth of every class is kept for testing,
        always the same. Arrays called series or features, in place of images, hold these. An
        array site (site_train and site_test, or train_site and test_site) says of each example
        which site it is of, as an integer or a text; beside it group says which examples must not
        be parted, and time when each was taken. There must be no others. Images are [N, H, W] or
        [N, H, W, C], integers in 0..255 or floating numbers; series are [N, steps, C] or
        [N, steps], and features [N, F], of any numbers, which become float32; labels are [N] or
        [N, 1], integers or texts. Texts are compared as Unicode's form NFC, without white space
        around them; bytes are UTF-8.
      options: validation says what becomes of arrays val_images, val_labels (or x_val, y_val), as
        MedMNIST's archives have them.

    Returns:
      The data set, not validated. Its classes are the labels that occur, sorted, and keep their
      names.

    Raises:
      DataError: no such file, other arrays, or arrays that cannot be inputs and labels.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "mine.npz"
      ...     np.savez(path, x=np.zeros((10, 4, 4)), y=np.repeat(["crack", "fine"], 5))
      ...     dataset = from_npz(path)
      >>> dataset.train.inputs.shape, dataset.class_names
      ((8, 4, 4, 1), ('crack', 'fine'))
    """
    path = expanded(path)
    where = show(path, MOST_PATH)
    arrays = _joined(where, _read_npz(path, options), options)
    of_origin = {name: arrays.pop(name) for name in list(arrays) if _origin_of(name)}
    kind = _kind_of(next(iter(arrays)))
    inputs = {name: _inputs(where, name, arrays[name]) for name in list(arrays)[::2]}
    labels = {name: _labels(where, name, arrays[name]) for name in list(arrays)[1::2]}
    numbered, classes = _numbered(where, labels, kind)
    for x, y in zip(inputs.values(), numbered, strict=True):
        if len(x) != len(y):
            raise DataError(
                f"{where}: {len(y)} labels for {len(x)} {kind}; allowed is one for each"
            )
    if of_origin:
        return _with_sites(path, inputs, numbered, classes, of_origin)
    if len(arrays) == 4:
        train, test = map(Examples, inputs.values(), numbered)
        return Dataset(path.stem, train, test, len(classes), classes)
    (x,), (y,) = inputs.values(), numbered
    if np.bincount(y).max(initial=0) < _FEWEST:
        own_split = next(names for names in SPLIT if _kind_of(names[0]) == kind)
        raise DataError(
            f"{where}: no class has the {_FEWEST} {kind} of which one is kept for testing; "
            f"add {kind}, or name your own split {', '.join(own_split)}"
        )
    in_test = stratified_test_mask(y)
    train, test = (Examples(x[rows], y[rows]) for rows in (~in_test, in_test))
    return Dataset(path.stem, train, test, len(classes), classes)


def _with_sites(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    labels: list[np.ndarray],
    classes: tuple[str, ...],
    of_origin: Mapping[str, np.ndarray],
) -> Dataset:
    """Returns the data set of an archive that says where its examples come from."""
    where = show(path, MOST_PATH)
    shapes = {x.shape[1:] for x in inputs.values()} | {x.dtype for x in inputs.values()}
    if len(shapes) > 2:
        raise DataError(f"{where}: {' and '.join(inputs)} differ in shape or type")
    origin = {}
    for name in _ORIGIN:
        parts = [values for key, values in of_origin.items() if _origin_of(key) == name]
        if len({values.dtype.kind for values in parts}) > 1:
            raise DataError(f"{where}: {name} of training and of testing are of two types")
        for part, y in zip(parts, labels, strict=False):
            if part.shape != y.shape:
                raise DataError(
                    f"{where}: {name} of shape {show(part.shape)} for {len(y)} examples; allowed "
                    "is one for each"
                )
        origin[name] = np.concatenate(parts) if parts else None
    in_test = None
    if len(labels) == 2:
        in_test = np.repeat([False, True], [len(y) for y in labels])
    found = Found(
        np.concatenate(list(inputs.values())),
        np.concatenate(labels),
        classes,
        **origin,
        in_test=in_test,
    )
    return assemble(path.stem, found, where)


def from_idx(folder: str | Path) -> Dataset:
    """Reads a folder of IDX files: train-images*, train-labels*, t10k-images*, t10k-labels*.

    Args:
      folder: of the four files, plain or compressed by gzip.

    Returns:
      The data set, not validated. Its classes are the labels that occur, sorted, and keep their
      names.

    Raises:
      DataError: a file that is missing, there twice, or not whole.
    """
    folder = expanded(folder)
    where = show(folder, MOST_PATH)
    images, labels = {}, {}
    for of_images, of_labels in _IDX.values():
        path = _only(folder, of_images)
        images[path.name] = _images(where, path.name, _read_idx(path))
        path = _only(folder, of_labels)
        labels[path.name] = _labels(where, path.name, _read_idx(path))
    _no_others(folder, {*images, *labels})
    numbered, classes = _numbered(where, labels, "images")
    train, test = map(Examples, images.values(), numbered)
    return Dataset(folder.absolute().name, train, test, len(classes), classes)


def is_idx(folder: Path) -> bool:
    """Tells whether a folder holds a file that is called as one of MNIST's is.

    >>> is_idx(Path("/dev/null"))
    False
    """
    names = tuple(name for pair in _IDX.values() for name in pair)
    return folder.is_dir() and any(path.name.startswith(names) for path in folder.iterdir())


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turns what readers of the standard library say of a damaged file into one line.

    None of these classes is that of a slip in a program, such as AttributeError or KeyError.
    """
    try:
        yield
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{where} does not fit into memory") from None
    except (
        OSError,
        EOFError,
        ValueError,
        OverflowError,
        NotImplementedError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        reason = show(getattr(error, "strerror", None) or error, 120)
        raise DataError(f"{where} cannot be read: {reason or 'it is not whole'}") from None


# Archives.


def _read_npz(path: Path, options: ReadOptions) -> dict[str, np.ndarray]:
    """Returns the arrays that are read, inputs and labels in turn, training first."""
    where = show(path, MOST_PATH)
    with open_file(path) as file:
        start = file.read(6)
        if not start:
            raise DataError(f"{where} is empty; allowed is an archive that np.savez wrote")
        if start == b"\x93NUMPY":
            raise DataError(
                f"{where} is a single array, as np.save writes it; allowed is an archive that "
                "np.savez wrote, of inputs and labels"
            )
        size = file.seek(0, 2)
        with contextlib.ExitStack() as opened:
            with _reading(where):
                archive = opened.enter_context(zipfile.ZipFile(file))
            members = archive.infolist()
            found = [member.filename.removesuffix(".npy") for member in members]
            by_name = dict(zip(found, members, strict=True))
            return {
                name: _read_member(where, name, archive, by_name[name], size)
                for name in _wanted(where, found, options)
            }


def _origin_of(name: str) -> str:
    """Returns which of site, group and time an array says; nothing if none.

    >>> _origin_of("site_train"), _origin_of("test_group"), _origin_of("x")
    ('site', 'group', '')
    """
    parts = set(name.split("_")) - {"train", "test"}
    return next(iter(parts & set(_ORIGIN)), "") if len(parts) == 1 else ""


def _origins(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Returns the names of the arrays that may say where the examples of others come from.

    >>> _origins(("x_train", "y_train", "x_test", "y_test"))[0]
    ('site_train', 'site_test')
    """
    if len(names) == 2:
        return [(name,) for name in _ORIGIN]
    splits = ("train", "test")
    before = names[0].startswith("train")
    return [tuple(f"{s}_{name}" if before else f"{name}_{s}" for s in splits) for name in _ORIGIN]


def _wanted(where: str, found: list[str], options: ReadOptions) -> tuple[str, ...]:
    """Returns the names of the arrays to read; refuses those that nobody would read."""
    twice = [name for name, times in collections.Counter(found).items() if times > 1]
    if twice:
        raise DataError(f"{where} holds {listed(twice)} more than once; allowed is once")
    for names in (*SPLIT, *WHOLE):
        if set(names) <= set(found):
            of_origin = [pair for pair in _origins(names) if set(pair) & set(found)]
            for pair in of_origin:
                if lacking := sorted(set(pair) - set(found)):
                    raise DataError(f"{where} holds {pair[0]} or {pair[1]}, and lacks {lacking[0]}")
            wanted = (*names, *(name for pair in of_origin for name in pair))
            of_validation = [_validation_of(n) for n in names[:2] if _validation_of(n) in found]
            check_validation(where, options, of_validation)
            if len(of_validation) == 1:
                raise DataError(f"{where} holds {of_validation[0]} alone; needed are both or none")
            others = sorted(set(found) - set(wanted) - set(of_validation))
            if others:
                raise DataError(
                    f"{where} holds {listed(others)} beside {', '.join(wanted)}; what is read is "
                    f"these and {', '.join(sum(_origins(names), ()))}, so leave the others out"
                )
            return wanted if options.validation == "leave_out" else (*wanted, *of_validation)
    wanted = " or ".join(", ".join(names) for names in (*SPLIT[:2], *WHOLE[:2]))
    raise DataError(
        f"{where} holds {listed(sorted(found)) or 'nothing'}; needed are {wanted}; series or "
        "features may stand for images"
    )


def _validation_of(name: str) -> str:
    """Returns what an array of training examples is called in a validation part; "" if it is none.

    >>> _validation_of("train_images"), _validation_of("x_train"), _validation_of("x")
    ('val_images', 'x_val', '')
    """
    return name.replace("train", "val") if "train" in name else ""


def _joined(
    where: str, arrays: dict[str, np.ndarray], options: ReadOptions
) -> dict[str, np.ndarray]:
    """Returns the arrays of an archive, those of a validation part behind those they belong to."""
    joined = {name: values for name, values in arrays.items() if "val" not in name.split("_")}
    for name in arrays.keys() - joined.keys():
        to = name.replace("val", options.validation or "")
        for what in ("dtype", "shape"):
            one, other = getattr(joined[to], what), getattr(arrays[name], what)
            if what == "shape":
                one, other = one[1:], other[1:]
            elif one.kind == other.kind:
                continue
            if one != other:
                raise DataError(
                    f"{where}: {to} is of {what} {show(one)}, and {name} of {show(other)}; both "
                    "must be the same"
                )
        joined[to] = np.concatenate([joined[to], arrays[name]])
    return joined


def listed(names: Collection[str]) -> str:
    """Returns names in a row, of many the first ones.

    >>> listed("ab"), listed("abcdefg")
    ('a, b', 'a, b, c, d and 3 more')
    """
    shown = ", ".join(show(name, 40) for name in list(names)[:_MOST_LISTED])
    more = len(names) - _MOST_LISTED
    return shown + (f" and {more} more" if more > 0 else "")


def _read_member(
    where: str, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int
) -> np.ndarray:
    """Reads one array; allocates no more than its file, of `size` bytes, can hold."""
    if member.flag_bits & 1:
        raise DataError(f"{where}: {name} is encrypted; allowed are archives without a password")
    if member.compress_type not in _MOST_RATIO:
        raise DataError(
            f"{where}: {name} is compressed by method {member.compress_type}; allowed is what "
            "np.savez and np.savez_compressed write"
        )
    most = min(member.compress_size, size) * _MOST_RATIO[member.compress_type]
    if member.file_size > most:
        raise DataError(
            f"{where}: {name} is not whole: {member.file_size} bytes are declared, and at most "
            f"{most} can be there"
        )
    with _reading(f"{where}: {name}"), archive.open(member) as file:
        shape, fortran, dtype = _npy_header(where, name, file)
        if dtype.hasobject:
            raise DataError(
                f"{where}: {name} does not hold plain numbers or texts, but Python objects: images "
                "of several sizes cannot be stacked, bring them to one size, [N, H, W] or "
                "[N, H, W, C]; labels become plain by np.array(labels, str)"
            )
        declared, there = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if declared != there or min(dtype.itemsize - 1, *shape, 0) < 0:
            raise DataError(
                f"{where}: {name} is not whole: its header says {show(shape)} values of type "
                f"{show(dtype)}, {declared} bytes, and {there} are there"
            )
        check_room(f"{where}: {name}", there)
        content = file.read(there)
        if len(content) != there:
            raise DataError(f"{where}: {name} is not whole: {len(content)} bytes of {there}")
        return np.ndarray(shape, dtype, content, order="F" if fortran else "C")


def _npy_header(where: str, name: str, file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, order and type of an array, which `file` then stands at."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        # a header is Python's text: of an odd one the parser warns, and may raise all of these
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = np.lib.format.read_magic(file)
            if version not in readers:  # 3.0 is of fields' names, so of no plain array
                raise ValueError("version")
            return readers[version](file)
    except (
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        MemoryError,
        RecursionError,
        SyntaxError,
        struct.error,
        tokenize.TokenError,
    ):
        raise DataError(
            f"{where}: {name} is no array of numbers or texts; allowed is what np.savez writes"
        ) from None


# IDX files.


def _only(folder: Path, name: str) -> Path:
    where = show(folder, MOST_PATH)
    with _reading(where):
        found = sorted(path for path in folder.iterdir() if path.name.startswith(name))
    if len(found) != 1:
        which = f" ({listed([path.name for path in found])})" if found else ""
        raise DataError(
            f"{where} holds {len(found)} files {name}*{which}; needed is one of each of {_all()}"
        )
    return found[0]


def _no_others(folder: Path, read: Collection[str]) -> None:
    """Refuses images and labels beside those that are read, such as a validation split."""
    where = show(folder, MOST_PATH)
    with _reading(where):
        names = sorted(path.name for path in folder.iterdir())
    others = [
        name for name in names if name not in read and ("-images" in name or "-labels" in name)
    ]
    if others:
        raise DataError(
            f"{where} holds {listed(others)} beside {_all()}; these alone are read, so leave the "
            "others out"
        )


def _all() -> str:
    return ", ".join(f"{name}*" for names in _IDX.values() for name in names)


def _read_idx(path: Path) -> np.ndarray:
    """Reads one array; allocates no more than its file can hold."""
    where = show(path, MOST_PATH)
    with open_file(path) as file, _reading(where):
        most = file.seek(0, 2)
        file.seek(0)
        packed = file.read(2) == _GZIP  # whatever its name is: browsers unpack, and keep ".gz"
        file.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read_idx_values(where, unpacked, most * _MOST_RATIO[zipfile.ZIP_DEFLATED])
        return _read_idx_values(where, file, most)


def _read_idx_values(where: str, file: BinaryIO | gzip.GzipFile, most: int) -> np.ndarray:
    head = file.read(4)
    kind, rank = (head[2], head[3]) if len(head) == 4 else (0, 0)
    sizes = file.read(4 * rank)
    if head[:2] != b"\0\0" or kind not in _IDX_TYPES or len(sizes) != 4 * rank:
        raise DataError(f"{where} is no IDX file")
    if not 1 <= rank <= _MOST_RANK:
        raise DataError(f"{where} has {rank} dimensions; allowed are 1..{_MOST_RANK}")
    shape, dtype = struct.unpack(f">{rank}I", sizes), np.dtype(_IDX_TYPES[kind])
    expected = math.prod(shape) * dtype.itemsize
    if expected <= most:
        check_room(where, expected)
    # one byte more than there should be, so that its end, and with it a checksum, is reached
    content = file.read(expected + 1) if expected <= most else b""
    if len(content) != expected or expected > most:
        raise DataError(f"{where} is not whole: its header says {shape} values")
    return np.ndarray(shape, dtype, content)


# Inputs and labels.


def labelled(
    where: str, name: str, labels: np.ndarray, in_test: np.ndarray | None, kind: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels as integers from 0, and the names of the classes.

    Args:
      where: what messages call the source.
      name: what they call the labels.
      labels: [N], integers or texts.
      in_test: [N] bool, where the source says what is for testing.
      kind: what messages call the inputs.

    Raises:
      DataError: labels that cannot name classes, or classes that are for testing alone.

    Example:
      >>> labelled("mine", "y", np.array(["b", "a", "b", "a"]), None, "images")
      (array([1, 0, 1, 0]), ('a', 'b'))
    """
    if in_test is None:
        (numbers,), classes = _numbered(where, {name: _labels(where, name, labels)}, kind)
        return numbers, classes
    sides = {f"{name} for training": ~in_test, f"{name} for testing": in_test}
    found, classes = _numbered(
        where, {side: _labels(where, side, labels[rows]) for side, rows in sides.items()}, kind
    )
    numbers = np.empty(len(labels), np.int64)
    for rows, each in zip(sides.values(), found, strict=True):
        numbers[rows] = each
    return numbers, classes


def inputs_of(where: str, kind: str, values: np.ndarray) -> np.ndarray:
    """Returns numbers as inputs of a kind, images, series or features, of the type that these have.

    Raises:
      DataError: values that such inputs cannot have, or another number of dimensions.

    >>> inputs_of("mine", "images", np.zeros((5, 4, 3), int)).dtype
    dtype('uint8')
    """
    return _inputs(where, kind, values)


def _kind_of(name: str) -> str:
    """Returns what an array of that name holds; x is of images.

    >>> _kind_of("train_series"), _kind_of("features"), _kind_of("x_test")
    ('series', 'features', 'images')
    """
    return next((kind for kind in ("series", "features") if kind in name), "images")


def _inputs(where: str, name: str, inputs: np.ndarray) -> np.ndarray:
    """Returns images [N, H, W, C], uint8 or float32, series [N, steps, C] or features [N, F]."""
    kind = _kind_of(name)
    if kind == "images":
        return _images(where, name, inputs)
    _check_numbers(where, name, kind, inputs)
    if kind == "series" and inputs.ndim == 2:
        inputs = inputs[..., np.newaxis]
    if inputs.ndim != (3 if kind == "series" else 2):
        allowed = "[N, steps, C] or [N, steps]" if kind == "series" else "[N, F]"
        raise DataError(
            f"{where}: {name}: {kind} of shape {show(inputs.shape)}; allowed is {allowed}"
        )
    return _as_float32(where, name, "example", inputs)


def _check_numbers(where: str, name: str, kind: str, inputs: np.ndarray) -> None:
    if inputs.dtype.kind not in "fiu":
        raise DataError(
            f"{where}: {name}: {kind} of type {show(inputs.dtype)}; allowed are numbers"
        )


def _as_float32(where: str, name: str, one: str, inputs: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # what does not fit is told below
        as_float32 = inputs.astype(np.float32)
    beyond = np.isinf(as_float32) & np.isfinite(inputs)
    if beyond.any():
        first = np.unravel_index(int(beyond.argmax()), beyond.shape)
        raise DataError(
            f"{where}: {name}: {one} {first[0]} holds {inputs[first]:.3g}, beyond the range of "
            f"float32; allowed are -{_LARGEST:.3g}..{_LARGEST:.3g}"
        )
    return as_float32


def _images(where: str, name: str, images: np.ndarray) -> np.ndarray:
    """Returns images as [N, H, W, C], uint8 or float32."""
    _check_numbers(where, name, "images", images)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4:
        hint = "; call rows of features features, with labels" if images.ndim == 2 else ""
        raise DataError(
            f"{where}: {name}: images of shape {show(images.shape)}; allowed is [N, H, W, C] or "
            f"[N, H, W]{hint}"
        )
    if images.dtype.kind == "f":
        return _as_float32(where, name, "image", images)
    if images.size and not 0 <= int(images.min()) <= int(images.max()) <= 255:
        raise DataError(
            f"{where}: {name}: images of integers in {images.min()}..{images.max()}; allowed are "
            f"0..255{_hint_at_depth(images)}"
        )
    return images.astype(np.uint8)


def _hint_at_depth(images: np.ndarray) -> str:
    """Returns what to do with integers of more than 8 bits."""
    if images.min() < 0:
        return "; floating numbers may be below 0"
    return f"; of more bits, save floating numbers, such as the values / {int(images.max())}"


class _Labels(NamedTuple):
    """Labels of one split by the values that occur."""

    values: list[Any]  # integers, or texts, of which two may be equal
    codes: np.ndarray  # [N], of each example its position in values
    kind: str


def _labels(where: str, name: str, labels: np.ndarray) -> _Labels:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuSU":
        hint = ""
        if labels.ndim == 2 and labels.dtype.kind in "biuf":
            hint = "; of rows with a value for each class, argmax(axis=1) makes them"
        elif labels.ndim == 1 and labels.dtype.kind in "bf":
            hint = "; astype(int) makes integers of numbers that are whole"
        raise DataError(
            f"{where}: {name}: labels of shape {show(labels.shape)} and type {show(labels.dtype)}; "
            f"allowed are integers or texts, [N]{hint}"
        )
    if labels.dtype.kind == "U" and labels.size:  # Python would stumble over such characters
        characters = np.ascontiguousarray(labels).view(labels.dtype.str[0] + "u4")
        beyond = (characters > _MOST_CHARACTER).reshape(len(labels), -1).any(axis=1)
        if beyond.any():
            raise _no_text(where, name, int(beyond.argmax()))
    found, codes = np.unique(labels, return_inverse=True)
    if labels.dtype.kind in "iu":
        return _Labels(found.tolist(), codes, "integers")
    texts = []
    for position, value in enumerate(found.tolist()):
        try:
            text = value.decode() if isinstance(value, bytes) else value
            text.encode()  # half of a surrogate pair is no text either
        except UnicodeError:
            raise _no_text(where, name, int((codes == position).argmax())) from None
        texts.append(unicodedata.normalize("NFC", text).strip())
        if not texts[-1]:
            raise DataError(
                f"{where}: {name}: label of example {int((codes == position).argmax())} is an "
                "empty text; allowed are names of classes"
            )
    return _Labels(texts, codes, "texts")


def _no_text(where: str, name: str, example: int) -> DataError:
    return DataError(f"{where}: {name}: label of example {example} is no text; allowed is UTF-8")


def _numbered(
    where: str, labels: Mapping[str, _Labels], kind: str
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Returns each split's labels as integers from 0, and the names of the classes.

    Classes are the labels that occur, integers in their order, whether or not they are texts, and
    other texts in that of their characters.
    """
    if len({split.kind for split in labels.values()}) > 1:
        kinds = " and ".join(f"{split.kind} in {name}" for name, split in labels.items())
        raise DataError(f"{where}: labels of two kinds, {kinds}; allowed is one of them")
    classes = in_order(set().union(*(split.values for split in labels.values())))
    number = sum(len(split.codes) for split in labels.values())
    if 2 * len(classes) > number:
        raise DataError(
            f"{where}: {len(classes)} different labels, such as {show(classes[0])}, for {number} "
            f"{kind}; allowed are labels that name classes, of two {kind} or more on average"
        )
    (in_train, *of_test) = labels.items()
    for name, split in of_test:
        unknown = sorted(set(split.values) - set(in_train[1].values))
        if unknown:
            raise DataError(
                f"{where}: {name} holds {listed([str(value) for value in unknown])}, and "
                f"{in_train[0]} does not; allowed are classes that can be learnt"
            )
    position = {value: number for number, value in enumerate(classes)}
    numbered = [
        np.array([position[value] for value in split.values], np.int64)[split.codes]
        for split in labels.values()
    ]
    return numbered, tuple(map(str, classes))
