"""Parts handed over in Python, as objects, where a study has names.

``replace_parts`` puts a name in the place of each, NAME@DIGEST, so that all that identifies runs by
their config identifies the parts too; ``find`` returns the part of a name. What was handed over
stays known to this process alone: a command, or another process, refuses such a name. No JAX here.
"""

import functools
import hashlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lipsjax.runs import parts
from lipsjax.runs.fields import OF_PYTHON, shown

PLACES = ("dataset", "model.name", "local.optimizer")
"""Fields in whose place a part may stand."""

_parts: dict[str, Any] = {}


class Named(NamedTuple):
    """A part that goes by a name, which then stands for its source."""

    part: Any
    name: str


def named(part: Any, name: str) -> Named:
    """Return a part that is identified by a name alone, for what has no source to be identified by.

    Args:
      part: as :func:`lipsjax.sweep` takes it.
      name: change it whenever the part computes otherwise: runs of this name are found finished.

    Example:
      >>> named(lambda learning_rate: None, "mine, 2nd try").name
      'mine, 2nd try'
    """
    return Named(part, name)


def is_given(name: str) -> bool:
    """Tell whether a name is of a part that was handed over, in this process or another.

    >>> is_given("net@0123456789ab"), is_given("cnn")
    (True, False)
    """
    return OF_PYTHON.fullmatch(name) is not None


def find(field: str, name: str) -> Any:
    """Return what was handed over under a name.

    Raises:
      ValueError: if it was not, in this process.
    """
    if name not in _parts:
        raise ValueError(
            f"{field}: {name} was handed over in Python, and is not here: run that script again"
        )
    return _parts[name]


def replace_parts(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study as a TOML file has it, with names in the place of parts.

    Args:
      study: as a TOML file has it, but that a part may stand where a name does, NumPy numbers where
        numbers do, and a path where a text does.

    Raises:
      ValueError: for a part where there can be none, or that cannot be identified.

    Example:
      >>> import numpy as np
      >>> replace_parts({"config": {"rounds": np.int64(3)}, "grid": {"partition.alpha": (0.1, 1)}})
      {'config': {'rounds': 3}, 'grid': {'partition.alpha': [0.1, 1]}}
    """
    return {str(name): _replaced(value, (str(name),)) for name, value in study.items()}


def _replaced(value: Any, at: tuple[str, ...]) -> Any:
    import numpy as np  # not at the top: help needs none of it

    place = ".".join(at)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        made = {str(name): _replaced(each, (*at, str(name))) for name, each in value.items()}
        return made | _without_options(made, at)
    field = ".".join(at[2:] if at[0] == "arms" else at[1:])
    if field in PLACES and not isinstance(value, list):
        return _give(field, place, value)
    if type(value) in (list, tuple):
        return [_replaced(each, at) for each in value]
    raise ValueError(
        f"{place} must be as a TOML file has it, not {shown(value)}; own parts stand at "
        f"{', '.join(PLACES)}"
    )


def _without_options(made: Mapping[str, Any], at: tuple[str, ...]) -> dict[str, Any]:
    """Return that own optimizers have no options but what is said; the usual ones are of SGD."""
    fields = {".".join((*at, name)).partition("local.")[2]: name for name in made}
    name = fields.get("optimizer")
    if at[0] == "grid" or name is None or "options" in fields or not is_given(str(made[name])):
        return {}
    return {name.replace("optimizer", "options"): {}}


def _give(field: str, place: str, value: Any) -> str:
    """Keep a part under a name of its own; return the name."""
    part, name = value if isinstance(value, Named) else (value, None)
    if field == "dataset":
        from lipsjax import datasets

        part = _dataset(place, part)
        said, digest = part.name, datasets.fingerprint(part)
    else:
        if not callable(part) and not hasattr(part, "apply"):
            raise ValueError(f"{place} must be a name or a function, not {shown(part)}")
        said, digest = _name_of(part), _digest(place, part, name)
    label = re.sub(r"[^\w.-]+", "-", name or said)[:60].strip("-") or "own"
    known = f"{label}@{digest[:12]}"
    _parts[known] = part
    return known


def _digest(place: str, part: Any, name: str | None) -> str:
    """What identifies a part: its source, or the name that it is given."""
    from lipsjax.runs.identity import UnknownError, digest_of

    if name is not None:
        return hashlib.sha256(f"named {name}".encode()).hexdigest()
    try:
        return digest_of(part)
    except UnknownError as error:
        raise ValueError(
            f"{place}: nothing says when two of these are the same: {error}; give it a name that "
            "you change with it, as lipsjax.named(PART, 'net 2')"
        ) from None


def _dataset(place: str, part: Any) -> Any:
    """A data set, or what a function makes."""
    import numpy as np

    from lipsjax import datasets

    made = part if isinstance(part, datasets.Dataset) else told(place, part)
    if not isinstance(made, datasets.Dataset):
        raise ValueError(
            f"{place} must be a name, a lipsjax.datasets.Dataset, or a function that returns one, "
            f"not {shown(type(made).__name__)}"
        )
    try:
        arrays = [
            split._replace(inputs=np.asarray(split.inputs), labels=np.asarray(split.labels))
            for split in (made.train, made.test)
        ]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{place}: {made.name} holds no arrays: {error}") from None
    return datasets.validate(made._replace(train=arrays[0], test=arrays[1]))


def told(place: str, function: Any, **passed: Any) -> Any:
    """Call a function with those of the arguments that it takes; what it raises is one line.

    Raises:
      ValueError: naming the place.

    Example:
      >>> told("model.name", lambda width: 2 * width, width=4, depth=1)
      8
    """
    if not callable(function):
        raise ValueError(f"{place} must be a name or a function, not {shown(function)}")
    try:
        taken = inspect.signature(function).parameters
        every = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        return function(**{n: value for n, value in passed.items() if every or n in taken})
    except Exception as error:  # whatever the code of others raises
        raise ValueError(f"{place}: {_name_of(function)} raised {parts.told(error)}") from None


def _name_of(part: Any) -> str:
    """What a part is called where it is defined."""
    if isinstance(part, functools.partial):
        return _name_of(part.func)
    named_by = part if hasattr(part, "__name__") else type(part)
    return str(named_by.__name__).rpartition(".")[2]
