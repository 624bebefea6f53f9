"""Fields of nested dataclasses by dotted names, checked against their types. No JAX here."""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

OF_PYTHON = re.compile(r"[\w.-]+@[0-9a-f]{12}")
"""Names of parts that were handed over in Python."""
LONGEST = 80
"""Characters of a value that an error repeats."""


def override(config: Any, name: str, value: Any, *, where: str = "") -> Any:
    """Return a config with one field, by dotted name, replaced and checked.

    A table for a section replaces the fields that it names and leaves the others.

    Args:
      config: a dataclass, its sections dataclasses too.
      name: as in ``partition.alpha``; ``sites.widths.0`` is the first of several values.
      value: as TOML has it.
      where: what stands before the name in errors.

    Raises:
      ValueError: naming the field, the value and what is allowed.

    Example:
      >>> from lipsjax.runs.config import Config
      >>> override(Config(), "partition.alpha", 1).partition.alpha
      1.0
      >>> override(Config(), "partition", {"alpha": 1}).partition.clients
      20
    """
    head, _, rest = name.partition(".")
    kinds = typing.get_type_hints(type(config))
    if head not in kinds:
        raise _unknown_field(head, kinds, where)
    inner = getattr(config, head)
    if rest and dataclasses.is_dataclass(inner):
        new = override(inner, rest, value, where=f"{where}{head}.")
    elif rest and isinstance(inner, dict):
        new = inner | _convert(kinds[head], {rest: value}, f"{where}{head}")
    elif rest and isinstance(inner, tuple) and inner:
        if rest not in map(str, range(len(inner))):
            raise ValueError(
                f"unknown field {where}{name}; {head} has values 0 to {len(inner) - 1}"
            )
        values = [*inner[: int(rest)], value, *inner[int(rest) + 1 :]]
        new = _convert(kinds[head], values, f"{where}{head}")
    elif rest:
        raise ValueError(f"unknown field {where}{name}; {head} has no fields")
    elif dataclasses.is_dataclass(inner) and isinstance(value, dict):
        new = inner
        for field, chosen in value.items():
            new = override(new, field, chosen, where=f"{where}{head}.")
    else:
        new = _convert(kinds[head], value, f"{where}{head}")
    return dataclasses.replace(config, **{head: new})


def names_set(differences: Mapping[str, Any], sections: Iterable[str]) -> set[str]:
    """Return the dotted names of the fields that nested differences set.

    Args:
      differences: fields of a config, tables for sections.
      sections: fields that have fields of their own.

    Example:
      >>> sorted(names_set({"rounds": 3, "local": {"epochs": 1}}, ["local"]))
      ['local.epochs', 'rounds']
    """
    found = set()
    for name, value in differences.items():
        if name in sections and isinstance(value, Mapping):
            found |= {f"{name}.{field}" for field in value}
        else:
            found.add(name)
    return found


def overlaps(name: str, other: str) -> bool:
    """Tell whether two dotted names are of one field, or one is inside the other.

    >>> overlaps("local", "local.epochs"), overlaps("local.epochs", "local.epoch")
    (True, False)
    """
    first, second = f"{name}.", f"{other}."
    return first.startswith(second) or second.startswith(first)


def from_dict(cls: type, values: dict[str, Any], where: str = "") -> Any:
    """Build a dataclass from nested dicts, refusing unknown fields and wrong types.

    Raises:
      ValueError: naming the field, the value and what is allowed.

    Example:
      >>> from lipsjax.runs.config import Config
      >>> from_dict(Config, {"rounds": 7}).rounds
      7
    """
    kinds = typing.get_type_hints(cls)
    for name in values:
        if name not in kinds:
            raise _unknown_field(name, kinds, where)
    return cls(**{n: _convert(kinds[n], v, f"{where}{n}") for n, v in values.items()})


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the names that one may have meant; nothing if none is near.

    >>> nearest("alhpa", ["alpha", "seed"])
    '; did you mean alpha?'
    """
    near = difflib.get_close_matches(name, list(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _unknown_field(name: str, known: Iterable[str], where: str) -> ValueError:
    hint = nearest(name, known)
    return ValueError(f"unknown field {where}{name}{hint}; allowed are {', '.join(known)}")


def _convert(kind: Any, value: Any, name: str) -> Any:
    """Return a value of TOML as a field has it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _convert(arguments[0], value, name)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return from_dict(typing.cast(type, kind), value, f"{name}.")
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        raise ValueError(f"{name} must be {describe_kind(kind)}, not {shown(value)}")
    if origin in (typing.Union, types.UnionType):
        for alternative in arguments:
            if dataclasses.is_dataclass(alternative) and isinstance(value, dict):
                return _convert(alternative, value, name)  # its own error says more
            try:
                return _convert(alternative, value, name)
            except ValueError:
                continue
    elif kind is types.NoneType and value in (None, "none"):
        return None
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(number := _as_float(value)):
            return number
    elif (kind is int and isinstance(value, int) and not isinstance(value, bool)) or (
        kind in (str, bool) and isinstance(value, kind)
    ):
        return value
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(arguments[0], v, name) for v in value)
    elif origin is list and isinstance(value, list):
        return [_convert(arguments[0], v, name) for v in value]
    elif origin is dict and isinstance(value, dict):
        return {k: _convert(arguments[1], v, f"{name}.{k}") for k, v in value.items()}
    raise ValueError(f"{name} must be {describe_kind(kind)}, not {shown(value)}")


def _as_float(value: float) -> float:
    """Return a number as float; infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown(value: Any) -> str:
    """Return a value as errors repeat it: its repr, shortened in the middle.

    >>> len(shown("x" * 1000)), shown(0.5)
    (80, '0.5')
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes
        return f"a value of type {type(value).__name__} that is too large to be shown"
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 2]}...{text[1 - half :]}"


def describe_kind(kind: Any) -> str:
    """Return in words what a field of this type takes.

    >>> describe_kind(int | None)
    'an integer or none'
    """
    words = {
        int: "an integer",
        float: "a finite number",
        str: "a text",
        bool: "true or false",
        types.NoneType: "none",
    }
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_kind(a) for a in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple or origin is list:
        return "a list" if arguments[0] is Any else f"a list ({describe_kind(arguments[0])} each)"
    return words.get(kind, "a table")
