"""From columns to a data set, whatever kind of table they come from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from lipsjax.datasets.assembly import Found, assemble
from lipsjax.datasets.base import DataError, Dataset, show
from lipsjax.datasets.options import ReadOptions, check_sizes, parted
from lipsjax.datasets.own import inputs_of, labelled, listed
from lipsjax.datasets.pictures import decode

ROLES = ("label", "site", "group", "time", "test")
"""What a column may be, other than an input; also the names that columns have by default."""
READS = (*ROLES, "features", "shape", "resize", "validation")
"""Options that tables read."""
_TRUTHS = {"true": "test", "false": "train", "1": "test", "0": "train"}


class Table(NamedTuple):
    """Columns of one length; a row is an example."""

    where: str  # what messages call it
    rows: int
    names: tuple[str, ...]
    read: Callable[[str, str], np.ndarray]  # of a name, as "number", "time" or "text" -> [rows]
    pictures: Mapping[str, Callable[[], Iterator[BinaryIO]]] = {}  # columns of encoded pictures
    part: np.ndarray | None = None  # [rows] texts, where files are called train, test, ...


def from_table(name: str, table: Table, options: ReadOptions) -> Dataset:
    """Makes a data set of the columns of a table.

    Args:
      name: of the data set.
      table: has a column of labels; the others are what options and their names say, and inputs.
      options: name columns.

    Returns:
      The data set, not validated: features [N, F] float32, or images [N, H, W, C] where options
      give their shape or a column holds pictures.

    Raises:
      DataError: columns that are not there, or would not be read; missing values.

    Example:
      >>> columns = {"label": np.array(["a", "b"] * 5), "x": np.linspace(0, 1, 10)}
      >>> table = Table("mine", 10, tuple(columns), lambda name, kind: columns[name])
      >>> from_table("mine", table, ReadOptions()).train.inputs.shape
      (8, 1)
    """
    where = table.where
    roles = _roles(table, options)
    inputs = _input_names(table, roles, options)
    kept, in_test = np.arange(table.rows), None
    part = _parts(table, roles)
    if part is not None or options.validation is not None:
        part = np.full(table.rows, "train") if part is None else part
        kept, in_test = parted(where, part, options)
    if not len(kept):
        raise DataError(f"{where} holds no examples")
    if inputs[0] in table.pictures:
        values = _decoded(table, inputs[0], options)
    else:
        values = _numbers(table, inputs, options)
    kind = "images" if values.ndim == 4 else "features"
    labels = table.read(roles["label"], "text")[kept]
    numbers, classes = labelled(where, roles["label"], labels, in_test, kind)
    origin = {
        role: table.read(roles[role], "time" if role == "time" else "text")[kept]
        for role in ("site", "group", "time")
        if role in roles
    }
    found = Found(values[kept], numbers, classes, **origin, in_test=in_test)
    return assemble(name, found, where)


def _roles(table: Table, options: ReadOptions) -> dict[str, str]:
    """Returns which column is the label, the site and so on."""
    roles: dict[str, str] = {}
    for role in ROLES:
        asked = getattr(options, role)
        column = asked or role
        if column in table.names and (asked or column not in options.features):
            roles[role] = column
        elif asked or role == "label":
            raise DataError(
                f"{table.where} has no column {show(column)}, and data.{role} names the column of "
                f"{role}s; its columns are {listed(table.names)}"
            )
    for role, column in roles.items():
        others = [other for other, name in roles.items() if name == column and other != role]
        if others or column in options.features:
            also = f"data.{others[0]}" if others else "data.features"
            raise DataError(
                f"{table.where}: column {show(column)} is named by data.{role} and {also}; allowed "
                "is one of them"
            )
    return roles


def _input_names(table: Table, roles: Mapping[str, str], options: ReadOptions) -> tuple[str, ...]:
    """Returns the columns of inputs: those that options name, or all that are left."""
    where = table.where
    names = options.features or tuple(n for n in table.names if n not in roles.values())
    for name in () if options.features else names:
        if (role := name.lower()) in ROLES and role not in roles:
            raise DataError(
                f"{where}: column {show(name)} would be an input; name it by data.{role}, or name "
                "the columns to read by data.features"
            )
    if unknown := [name for name in names if name not in table.names]:
        raise DataError(
            f"{where} has no column {listed(unknown)}, which data.features names; its columns are "
            f"{listed(table.names)}"
        )
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError(f"data.features names {listed(twice)} twice; allowed is once")
    if not names:
        raise DataError(f"{where} has no columns of inputs beside {listed(list(roles.values()))}")
    if set(names) & set(table.pictures) and len(names) > 1:
        others = [name for name in names if name != next(iter(table.pictures))]
        raise DataError(
            f"{where} holds {listed(others)} beside the pictures of "
            f"{show(next(iter(table.pictures)))}; give data.features = "
            f"{show(next(iter(table.pictures)))} to leave them out"
        )
    return names


def _parts(table: Table, roles: Mapping[str, str]) -> np.ndarray | None:
    """Returns of each row the part that it is of, where the table says so."""
    if "test" not in roles:
        return table.part
    column = roles["test"]
    if table.part is not None:
        raise DataError(
            f"{table.where}: files of several parts, and a column {show(column)} that says so "
            "too; allowed is one of them"
        )
    texts = np.char.lower(table.read(column, "text").astype(str))
    found, number = np.unique(texts, return_inverse=True)
    return np.array([_TRUTHS.get(text, text) for text in found.tolist()], str)[number]


def _decoded(table: Table, column: str, options: ReadOptions) -> np.ndarray:
    """Returns the pictures of a column."""
    if options.shape:
        raise DataError(f"{table.where}: data.shape is of columns of numbers; pictures have theirs")
    where = f"{table.where}: {show(column)}"
    files = table.pictures[column]()
    named = ((f"{where} of row {row}", file) for row, file in enumerate(files, 1))
    return decode(where, named, table.rows, options.resize)


def _numbers(table: Table, names: Sequence[str], options: ReadOptions) -> np.ndarray:
    """Returns columns of numbers as features, or as images of the shape that options give."""
    where = table.where
    if options.resize:
        raise DataError(f"{where}: data.resize is of pictures, and there are none; leave it out")
    if options.shape:
        check_sizes("shape", options.shape, (2, 3), "a height, a width and perhaps channels")
        if np.prod(options.shape) != len(names):
            raise DataError(
                f"{where}: {len(names)} columns ({listed(names)}) for images of shape "
                f"{' x '.join(map(str, options.shape))}; allowed is one for each value"
            )
    columns = []
    for name in names:
        values = table.read(name, "number")
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(0, bool)
        if missing.any():
            raise missing_value(where, name, int(missing.argmax()))
        if not options.features and _numbers_rows(values):
            raise DataError(
                f"{where}: column {show(name)} numbers the rows, which tells nothing of them; take "
                "it out, or name the columns to read by data.features"
            )
        columns.append(values)
    values = np.stack(columns, axis=1)
    if options.shape:
        return inputs_of(where, "images", values.reshape(-1, *options.shape))
    return inputs_of(where, "features", values)


def _numbers_rows(values: np.ndarray) -> bool:
    """Tells whether a column is whole numbers without a gap, each once: ids, in any order.

    >>> _numbers_rows(np.array([7, 5, 6])), _numbers_rows(np.array([5, 5, 6]))
    (True, False)
    """
    if len(values) < 3 or values.max() - values.min() != len(values) - 1:
        return False
    return bool((np.diff(np.sort(values)) == 1).all())


def missing_value(where: str, name: str, row: int) -> DataError:
    """Returns the error of a value that is not there; rows are told from 1.

    >>> print(missing_value("mine.csv", "age", 4))
    mine.csv: column age has no value in row 5; fill it in, or leave the row or the column out
    """
    return DataError(
        f"{where}: column {show(name)} has no value in row {row + 1}; fill it in, or leave the row "
        "or the column out"
    )
