"""Tables of Apache Arrow: parquet files, folders of them, and what Hugging Face saved to disk.

Read through pyarrow, an extra; Hugging Face's own package is not needed.

References:
  https://arrow.apache.org/docs/python/parquet.html and
  https://huggingface.co/docs/datasets/package_reference/main_classes, `save_to_disk`.
"""

import contextlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lipsjax.datasets.base import MOST_PATH, DataError, Dataset, show
from lipsjax.datasets.files import check_room, expanded, open_file
from lipsjax.datasets.options import AS_NAMED, ReadOptions, part_named
from lipsjax.datasets.own import listed
from lipsjax.datasets.tables import Table, from_table, missing_value

_NAME = re.compile(r"\w[\w.-]*")
"""Names of files and folders that a folder's JSON may give: none leads out of it."""
_LARGEST_JSON = 10_000_000


def from_parquet(path: str | Path, options: ReadOptions = AS_NAMED) -> Dataset:
    """Reads a parquet file, or a folder of them whose names begin with train, test, ...

    Args:
      path: a file, or a folder that holds `*.parquet`, itself or in a folder `data`.
      options: name its columns; see `from_table`. A column of encoded pictures, as Hugging Face
        writes them, makes images.

    Returns:
      The data set, not validated.

    Raises:
      DataError: no such file, no pyarrow, one that is damaged, columns that are not there or of
        another type, missing values.
    """
    path = expanded(path)
    where = show(path, MOST_PATH)
    files, parts = [path], [""]
    if path.is_dir():
        files = parquet_files(path)
        parts = [re.split(r"[^A-Za-z]", file.name)[0] for file in files]
        named = [part_named(part) is not None for part in parts]
        if not any(named):
            parts = [""] * len(files)
        elif not all(named):
            raise DataError(
                f"{where}: {show(files[named.index(False)].name)} is of no part, and "
                f"{show(files[named.index(True)].name)} is; allowed are names that begin with "
                "train, test or validation, or none that do"
            )
    tables = [(part, _read_parquet(where, file)) for part, file in zip(parts, files, strict=True)]
    return _from_arrow(path.absolute().stem, where, tables, options)


def parquet_files(folder: Path) -> list[Path]:
    """Returns the parquet files of a folder, or of its folder `data`, in the order of their names.

    >>> parquet_files(Path("/dev/null"))
    []
    """
    found = (sorted(each.glob("[!.]*.parquet")) for each in (folder, folder / "data"))
    return next((files for files in found if files), [])


def is_saved(folder: Path) -> bool:
    """Tells whether Hugging Face's `save_to_disk` made a folder.

    >>> is_saved(Path("/dev/null"))
    False
    """
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def from_saved(folder: str | Path, options: ReadOptions = AS_NAMED) -> Dataset:
    """Reads what `save_to_disk` of Hugging Face's datasets wrote: one split, or several.

    Args:
      folder: that it wrote.
      options: name its columns; see `from_table`.

    Returns:
      The data set, not validated. Classes are called as its `ClassLabel` says.

    Raises:
      DataError: no pyarrow, a folder that is not whole, columns that are not there or of another
        type, missing values.
    """
    folder = expanded(folder)
    where = show(folder, MOST_PATH)
    splits = [""]
    if (folder / "dataset_dict.json").is_file():
        splits = _names(where, folder / "dataset_dict.json", lambda found: found["splits"])
    tables = []
    for split in splits:
        state = folder / split / "state.json"
        files = _names(
            where, state, lambda found: [file["filename"] for file in found["_data_files"]]
        )
        tables += [(split, _read_stream(where, state.with_name(name))) for name in files]
    return _from_arrow(folder.absolute().name, where, tables, options)


def _names(where: str, path: Path, of: Any) -> list[str]:
    """Returns names that a JSON file gives."""
    with open_file(path) as file:
        text = file.read(_LARGEST_JSON)
    try:
        names = of(json.loads(text))
    except (ValueError, KeyError, TypeError, RecursionError):
        names = []
    if not names or not all(isinstance(n, str) and _NAME.fullmatch(n) for n in names):
        raise DataError(
            f"{where}: {show(path.name)} is not as save_to_disk writes it; save the data set again"
        )
    return list(names)


# Files.


def _pyarrow(where: str) -> Any:
    """Returns pyarrow, with the modules that are used."""
    try:
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{where} is read through pyarrow, which is not installed: pip install "
            "'lipsjax[parquet]', or save its columns as a CSV file and give that"
        ) from None
    return pyarrow


@contextlib.contextmanager
def _one_line(where: str, pyarrow: Any) -> Iterator[None]:
    """Turns what pyarrow says of a damaged file into one line."""
    try:
        yield
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{where} does not fit into memory") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = show(" ".join(str(error).split()), 120)
        raise DataError(f"{where} cannot be read: {reason}") from None


def _read_parquet(where: str, path: Path) -> Any:
    pyarrow, name = _pyarrow(where), show(path, MOST_PATH)
    with open_file(path) as file, _one_line(name, pyarrow):
        source = pyarrow.parquet.ParquetFile(file)
        about = source.metadata
        declared = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        check_room(name, max(declared, about.num_rows * about.num_columns * 8))
        return source.read()


def _read_stream(where: str, path: Path) -> Any:
    pyarrow, name = _pyarrow(where), show(path, MOST_PATH)
    with open_file(path) as file, _one_line(name, pyarrow):
        check_room(name, file.seek(0, 2))
        file.seek(0)
        with pyarrow.ipc.open_stream(file) as stream:
            return stream.read_all()


# Columns.


def _from_arrow(
    name: str, where: str, tables: Sequence[tuple[str, Any]], options: ReadOptions
) -> Dataset:
    """Makes a data set of tables of equal columns, each of a part that may have a name."""
    pyarrow = _pyarrow(where)
    schema = tables[0][1].schema
    for _, table in tables:
        if not table.schema.equals(schema):
            raise DataError(
                f"{where}: its files have other columns, or of other types, than the first of them"
            )
    names = tuple(schema.names)
    if len(set(names)) < len(names):
        twice = sorted({each for each in names if names.count(each) > 1})
        raise DataError(f"{where} has the column {listed(twice)} more than once; allowed is once")
    with _one_line(where, pyarrow):
        whole = pyarrow.concat_tables([table for _, table in tables])
    part = np.repeat([split for split, _ in tables], [table.num_rows for _, table in tables])
    classes = _class_names(schema)

    def read(column: str, kind: str) -> np.ndarray:
        with _one_line(f"{where}: column {show(column)}", pyarrow):
            values = _values(pyarrow, where, column, whole.column(column), kind)
        return _called(where, column, values, classes[column]) if column in classes else values

    def bytes_of(column: str) -> Iterator[BinaryIO]:
        for row, value in enumerate(whole.column(column)):
            held = value.as_py()
            held = held["bytes"] if isinstance(held, dict) else held
            if held is None:
                raise missing_value(where, column, row)
            yield io.BytesIO(held)

    pictures = {
        each.name: lambda each=each: bytes_of(each.name)
        for each in schema
        if _holds_pictures(pyarrow, each.type)
    }
    found = Table(where, whole.num_rows, names, read, pictures, part if tables[0][0] else None)
    return from_table(name, found, options)


def _holds_pictures(pyarrow: Any, kind: Any) -> bool:
    """Tells whether a column is of bytes, or of Hugging Face's pairs of bytes and a path."""
    types = pyarrow.types
    if types.is_struct(kind):
        inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return set(inner) == {"bytes", "path"} and _holds_pictures(pyarrow, inner["bytes"])
    return types.is_binary(kind) or types.is_large_binary(kind)


def _values(pyarrow: Any, where: str, name: str, column: Any, kind: str) -> np.ndarray:
    """Returns a column as numbers, texts or dates."""
    types = pyarrow.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        missing = np.asarray(pyarrow.compute.is_null(column))
        raise missing_value(where, name, int(missing.argmax()))
    is_text = types.is_string(column.type) or types.is_large_string(column.type)
    is_number = types.is_integer(column.type) or types.is_floating(column.type)
    is_date = types.is_timestamp(column.type) or types.is_date(column.type)
    if not is_number and (
        kind == "number" or not (is_text or is_date or types.is_boolean(column.type))
    ):
        allowed = "numbers" if kind == "number" else "numbers, texts and dates"
        raise DataError(
            f"{where}: column {show(name)} is of type {show(column.type)}; allowed are {allowed}: "
            "take it out, or name the columns to read by data.features"
        )
    return np.array(column.to_pylist(), str) if is_text else column.to_numpy()


def _class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """Returns the names of classes by column, as Hugging Face keeps them beside its columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}  # as of a table that another program wrote


def _called(where: str, name: str, values: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Returns classes by their names."""
    if values.dtype.kind not in "iu":
        return values
    outside = (values < 0) | (values >= len(classes))
    if outside.any():
        row = int(outside.argmax())
        raise DataError(
            f"{where}: column {show(name)} holds {values[row]} in row {row + 1}; allowed are "
            f"0..{len(classes) - 1}, its classes"
        )
    return np.array(classes)[values]
