"""What a prepared TFDS folder says of itself, checked before TFDS acts on it.

TFDS imports the modules that `features.json` names, formats and opens the paths that
`dataset_info.json` names, and makes room for as many examples as that promises. Both are texts that
anybody may have changed.
"""

import json
import re
import stat
from pathlib import Path
from typing import Any

from lipsjax.datasets.base import MOST_PATH, DataError, show
from lipsjax.datasets.files import mode, open_file

_MOST_BYTES = 2**26
"""Of a JSON file; those of large sets have a few thousand."""
_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)
_TEMPLATE = re.compile(r"(\{[A-Z_]+\}|[\w.@+=/-])*", re.ASCII)
_COUNT = re.compile(r"\d{1,12}", re.ASCII)
_FEATURES = "tensorflow_datasets.core.features."


def check(folder: Path) -> dict[str, Any]:
    """Checks the texts of a prepared folder.

    Args:
      folder: `data_dir/set[/config]/version`.

    Returns:
      What `dataset_info.json` holds.

    Raises:
      DataError: a text that is missing or no JSON object, a name that would lead out of the folder
        or to code other than TFDS's own features, or something that is no file.
    """
    for path in sorted(folder.iterdir()):
        kind = mode(path)
        if kind is not None and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise DataError(f"{show(path, MOST_PATH)} is no regular file; prepare the set again")
    info = _read(folder / "dataset_info.json")
    _check_info(show(folder / "dataset_info.json", MOST_PATH), info)
    _check_features(show(folder / "features.json", MOST_PATH), _read(folder / "features.json"))
    return info


def _read(path: Path) -> dict[str, Any]:
    where = show(path, MOST_PATH)
    with open_file(path) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise DataError(f"{where} is larger than {_MOST_BYTES} bytes; prepare the set again")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):  # no JSON, no text, or nested too deep
        raise DataError(f"{where} is no JSON; prepare the set again") from None
    if not isinstance(found, dict):
        raise DataError(f"{where} holds {show(found)}; allowed is a JSON object")
    return found


def _either(where: str, fields: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """Returns a field by its name in JSON or in the message that JSON stands for."""
    snake = re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)
    value = fields.get(name, fields.get(snake, default))
    if not isinstance(value, kind):
        what = {str: "a text", list: "a list"}[kind]
        raise DataError(f"{where}: {name} is {show(value)}; allowed is {what}")
    return value


def _check_info(where: str, info: dict[str, Any]) -> None:
    """Refuses names that lead out of the folder, and counts that are none."""
    _either(where, info, "fileFormat", str, "")
    names = {"name": _either(where, info, "name", str, "unknown")}
    for number, split in enumerate(_either(where, info, "splits", list, [])):
        if not isinstance(split, dict):
            raise DataError(f"{where}: split {number} is {show(split)}; allowed is a JSON object")
        names[f"the name of split {number}"] = _either(where, split, "name", str, "")
        template = _either(where, split, "filepathTemplate", str, "")
        if (
            _TEMPLATE.fullmatch(template) is None
            or template.startswith("/")
            or ".." in template.split("/")
        ):
            raise DataError(
                f"{where}: filepathTemplate {show(repr(template))} of split {number}; allowed are "
                "paths within the folder"
            )
        for length in _either(where, split, "shardLengths", list, []):
            if isinstance(length, bool) or _COUNT.fullmatch(str(length)) is None:
                raise DataError(
                    f"{where}: a shard of {show(length)} examples in split {number}; allowed are "
                    "counts below 10^12"
                )
    for what, name in names.items():
        if _NAME.fullmatch(name) is None:
            raise DataError(
                f"{where}: {what} is {show(repr(name))}; allowed are letters, digits and . + - _"
            )


def _check_features(where: str, features: dict[str, Any]) -> None:
    """Refuses features for which TFDS would import other code, or read other files."""
    left: list[Any] = [features]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        if not isinstance(value, dict):
            continue
        for key, inner in value.items():
            if key == "json" and isinstance(inner, str):  # of features that TFDS keeps as text
                try:
                    left.append(json.loads(inner))
                except (ValueError, RecursionError):
                    raise DataError(f"{where}: {show(repr(inner))} is no JSON") from None
            elif key in ("pythonClassName", "python_class_name", "type"):
                if isinstance(inner, str) and not inner.startswith(_FEATURES):
                    raise DataError(
                        f"{where}: a feature is a {show(repr(inner))}; allowed are those of "
                        f"{_FEATURES}*"
                    )
                left.append(inner)
            elif key.endswith("_file") and isinstance(inner, str):
                raise DataError(
                    f"{where}: {show(key)} is {show(repr(inner))}; allowed are no files"
                )
            else:
                left.append(inner)
