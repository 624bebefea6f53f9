"""Tables of text: CSV files, by the standard library.

References:
  RFC 4180, Common Format and MIME Type for Comma-Separated Values (CSV) Files.
"""

import csv
import datetime
import io
from collections import Counter
from pathlib import Path

import numpy as np

from lipsjax.datasets.base import MOST_PATH, DataError, Dataset, show
from lipsjax.datasets.files import check_room, expanded, open_file
from lipsjax.datasets.options import AS_NAMED, ReadOptions
from lipsjax.datasets.own import listed
from lipsjax.datasets.tables import Table, from_table, missing_value

_MISSING = ("", "na", "n/a", "nan", "null", "none")
"""What stands where a number is missing."""
_BYTES_PER_CHARACTER = 12
"""Of memory, while a file of short values is read: each is a text by itself."""


def from_csv(path: str | Path, options: ReadOptions = AS_NAMED) -> Dataset:
    """Reads a CSV file whose first line names its columns.

    Args:
      path: a file of UTF-8, its values parted by commas.
      options: name its columns; see `from_table`.

    Returns:
      The data set, not validated.

    Raises:
      DataError: no such file, lines of several lengths, columns without a name or that are not
        there, missing values, texts where numbers belong.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "mine.csv"
      ...     rows = [f"{'ab'[i % 2]},{i / 7},{i % 3}" for i in range(10)]
      ...     _ = path.write_text("label,width,height" + chr(10) + chr(10).join(rows))
      ...     dataset = from_csv(path)
      >>> dataset.train.inputs.shape, dataset.class_names
      ((8, 2), ('a', 'b'))
    """
    path = expanded(path)
    where = show(path, MOST_PATH)
    header, rows = _rows(path)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))

    def read(name: str, kind: str) -> np.ndarray:
        texts = [text.strip() for text in columns[name]]
        if kind == "number":
            return _numbers(where, name, texts)
        if "" in texts:
            raise missing_value(where, name, texts.index(""))
        return _times(where, name, texts) if kind == "time" else _texts(texts)

    return from_table(path.stem, Table(where, len(rows), tuple(header), read), options)


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Returns the names of columns, and the rows that are not blank."""
    where = show(path, MOST_PATH)
    with open_file(path) as file:
        check_room(where, file.seek(0, 2) * _BYTES_PER_CHARACTER)
        file.seek(0)
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{where} is no text of UTF-8; save it as CSV UTF-8") from None
        except OSError as error:
            raise DataError(f"{where} cannot be read: {error.strerror}") from None
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise DataError(f"{where} cannot be read: {show(error, 120)}") from None
    if len(lines) < 2:
        raise DataError(f"{where} holds {len(lines)} lines; needed are names of columns, and rows")
    header, rows = [name.strip() for name in lines[0]], lines[1:]
    if len(header) == 1 and (other := next((c for c in ";\t|" if c in header[0]), None)):
        raise DataError(f"{where} parts its values by {other!r}; allowed are commas")
    if "" in header:
        raise DataError(
            f"{where}: column {header.index('') + 1} has no name; pandas writes its index so, "
            "unless to_csv is told index=False"
        )
    if twice := [name for name, times in Counter(header).items() if times > 1]:
        raise DataError(f"{where} has the column {listed(twice)} more than once; allowed is once")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(
                f"{where}: row {number} holds {len(row)} values for {len(header)} columns"
            )
    return header, rows


def _numbers(where: str, name: str, texts: list[str]) -> np.ndarray:
    """Returns texts as int64, or as float64 where they have fractions."""
    for row, text in enumerate(texts):
        if text.lower() in _MISSING:
            raise missing_value(where, name, row)
    for kind in (np.int64, np.float64):
        try:
            if not any("_" in text for text in texts):  # which Python takes for a number
                return np.array(texts, str).astype(kind)
        except (ValueError, OverflowError):
            continue
    row = next(row for row, text in enumerate(texts) if not _is_number(text))
    raise DataError(
        f"{where}: column {show(name)} holds {show(repr(texts[row]))} in row {row + 1}, which is "
        "no number; take it out, or name the columns to read by data.features"
    )


def _is_number(text: str) -> bool:
    """Tells whether a text is of a number.

    >>> _is_number("1e3"), _is_number("1_000"), _is_number("red")
    (True, False, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _texts(texts: list[str]) -> np.ndarray:
    """Returns names: integers where all are written as such, numbers with a point as numbers.

    >>> _texts(["1", "10"]).dtype.kind, _texts(["01", "10"]).dtype.kind, _texts(["a"]).dtype.kind
    ('i', 'U', 'U')
    """
    found = set(texts)
    try:
        if all(text == str(int(text)) and abs(int(text)) < 2**63 for text in found):
            return np.array(texts, str).astype(np.int64)
    except ValueError:
        pass
    if all(_is_number(text) for text in found) and any("." in text for text in found):
        return np.array(texts, str).astype(np.float64)  # that is refused by its name
    return np.array(texts, str)


def _times(where: str, name: str, texts: list[str]) -> np.ndarray:
    """Returns times as numbers or dates."""
    if all(_is_number(text) for text in texts):
        return np.array(texts, str).astype(np.float64)
    times = []
    for row, text in enumerate(texts):
        try:
            times.append(datetime.datetime.fromisoformat(text))
        except ValueError:
            raise DataError(
                f"{where}: column {show(name)} holds {show(repr(text))} in row {row + 1}; allowed "
                "are numbers and dates such as 2026-01-31 12:30"
            ) from None
    if len({time.tzinfo is None for time in times}) > 1:
        raise DataError(
            f"{where}: column {show(name)} holds times with and without a time zone; allowed is "
            "one of them"
        )
    utc = datetime.UTC
    plain = [time.astimezone(utc).replace(tzinfo=None) if time.tzinfo else time for time in times]
    return np.array(plain, "datetime64[us]")
