"""A study: arms and a grid of configs, from a TOML file, checked field by field. No JAX here.

::

    name = "density"            [sparsity]            [arms.dense]
    seeds = 5                   density = 0.3         [arms.lips]
    [config]                    [grid]                sparsity = {}
    dataset = "digits"          "partition.alpha" = [0.1, 1.0]

Every arm is the config with its own fields replaced; an arm with a ``sparsity`` table is wrapped
in transient sparsity. The first arm is the one that others are compared with, but for an arm that
says ``against = "ANOTHER"``.
"""

import dataclasses
import difflib
import itertools
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lipsjax.runs.config import Config, Execution, Prices, SparsityConfig, to_dict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared with what, over which seeds and cells."""

    name: str = "dense against LIPS"
    """Title of the report."""
    description: str = ""
    """A sentence or two on what the study asks."""
    seeds: int = 5
    """Runs per arm and cell; their seeds are seed, seed + 1, ..."""
    config: Config = dataclasses.field(default_factory=Config)
    """What all arms share."""
    sparsity: SparsityConfig = SparsityConfig()
    """Transient sparsity of the arms that have it."""
    arms: dict[str, dict[str, Any]] = dataclasses.field(
        default_factory=lambda: {"dense": {}, "lips": {"sparsity": {}}}
    )
    """Name of an arm -> the fields in which it differs."""
    grid: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    """Dotted field -> values; their product makes the cells."""
    target: float | None = None
    """Accuracy that rounds and bits are counted to; none: 95% of what the reference ends with."""
    prices: Prices = Prices()
    """What costs and gains are worth; without any, no money is shown."""
    execution: Execution = Execution()
    """How and where it runs."""


class Planned(NamedTuple):
    """A trial that is to be run."""

    arm: str
    cell: int
    seed: int
    config: Config


def load_study(path: Path) -> Study:
    """Read a study from a TOML file.

    Raises:
      ValueError: if it cannot be read, or has a field or a value that does not exist.
    """
    try:
        text = path.read_bytes().decode()
        values = tomllib.loads(text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{path}: {reason}; a study is a TOML file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; a study is a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: not valid TOML: nested too deeply") from None
    try:
        return from_dict(Study, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def cells(study: Study) -> list[dict[str, Any]]:
    """Return the overrides of every cell of the grid; one without any if there is no grid.

    Raises:
      ValueError: for a grid that does not list values, or of sparsity where no arm has it.
    """
    sparse = any("sparsity" in differences for differences in study.arms.values())
    for name, values in study.grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid.{name} must be a list of values, not {values!r}")
        if name.startswith("sparsity.") and not sparse:
            raise ValueError(f"grid.{name} needs an arm with sparsity = {{}}, and none has it")
    products = itertools.product(*study.grid.values())
    return [dict(zip(study.grid, values, strict=True)) for values in products]


def expand(study: Study) -> list[Planned]:
    """Return every trial of a study: cells, then arms, then seeds.

    Raises:
      ValueError: for a field that does not exist, or a value that is not possible.

    Example:
      >>> [(t.arm, t.seed, t.config.sparsity is None) for t in expand(Study(seeds=1))]
      [('dense', 0, True), ('lips', 0, False)]
    """
    if study.seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {study.seeds}")
    if not study.arms:
        raise ValueError("arms must name at least one arm")
    if study.config.sparsity is not None:
        raise ValueError(
            "config.sparsity would make every arm sparse: write [sparsity], and sparsity = {} in "
            "the arms that have it"
        )
    references(study)
    check_target(study.target)
    check_prices(study.prices)
    trials = []
    for cell, overrides in enumerate(cells(study)):
        for arm, differences in study.arms.items():
            config = _arm_config(study, arm, differences)
            for name, value in overrides.items():
                if name.startswith("sparsity.") and config.sparsity is None:
                    continue
                config = override(config, name, value, where="grid.")
            for i in range(study.seeds):
                seeded = dataclasses.replace(config, seed=config.seed + i)
                trials.append(Planned(arm, cell, seeded.seed, seeded))
    return trials


def program_key(config: Config) -> str:
    """Return what two configs have in common that share a compiled program: all but the seed.

    >>> program_key(Config(seed=1)) == program_key(Config(seed=2))
    True
    """
    return json.dumps(to_dict(dataclasses.replace(config, seed=0)), sort_keys=True)


def references(study: Study) -> dict[str, str]:
    """Return which arm each arm is compared with; the first one with itself.

    Raises:
      ValueError: for an arm that is compared with one that is not there, or that is not compared
        with the first.

    Example:
      >>> references(Study())
      {'dense': 'dense', 'lips': 'dense'}
    """
    first, found = next(iter(study.arms), ""), {}
    for arm, differences in study.arms.items():
        other = differences.get("against", first)
        if other not in study.arms:
            raise ValueError(
                f"arms.{arm}.against must be one of {', '.join(study.arms)}, not {other!r}"
            )
        if (arm == first) != (arm == other):
            raise ValueError(f"arms.{arm}.against must be another arm, not {other!r}")
        found[arm] = other
    return found


def check_target(target: float | None) -> None:
    """Refuse a target that no accuracy can reach.

    Raises:
      ValueError: for one outside (0, 1].
    """
    if target is not None and not 0 < target <= 1:
        raise ValueError(f"target must be an accuracy in (0, 1], not {target}")


def check_prices(prices: Prices) -> None:
    """Refuse prices that are no prices.

    Raises:
      ValueError: for one that is negative or not finite.
    """
    for name, price in dataclasses.asdict(prices).items():
        if price is not None and not 0 <= price < math.inf:
            raise ValueError(f"prices.{name} must be a finite number, at least 0, not {price}")


def _arm_config(study: Study, arm: str, differences: dict[str, Any]) -> Config:
    config = study.config
    for name, value in differences.items():
        where = f"arms.{arm}."
        if name == "against":
            continue
        if name == "sparsity":
            if not isinstance(value, dict):
                raise ValueError(f"{where}sparsity must be a table, not {value!r}")
            sparsity = study.sparsity
            for field, chosen in value.items():
                sparsity = override(sparsity, field, chosen, where=f"{where}sparsity.")
            config = dataclasses.replace(config, sparsity=sparsity)
        elif isinstance(value, dict) and dataclasses.is_dataclass(getattr(config, name, None)):
            for field, chosen in value.items():
                config = override(config, f"{name}.{field}", chosen, where=where)
        else:
            config = override(config, name, value, where=where)
    return config


def override(config: Any, name: str, value: Any, *, where: str = "") -> Any:
    """Return a config with one field, by dotted name, replaced and checked.

    >>> override(Config(), "partition.alpha", 1).partition.alpha
    1.0
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
    elif rest:
        raise ValueError(f"unknown field {where}{name}; {head} has no fields")
    else:
        new = _convert(kinds[head], value, f"{where}{head}")
    return dataclasses.replace(config, **{head: new})


def from_dict(cls: type, values: dict[str, Any], where: str = "") -> Any:
    """Build a dataclass from nested dicts, refusing unknown fields and wrong types.

    Raises:
      ValueError: naming the field, the value and what is allowed.

    Example:
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
        raise ValueError(f"{name} must be {describe_kind(kind)}, not {value!r}")
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
        if math.isfinite(value):
            return float(value)
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
    raise ValueError(f"{name} must be {describe_kind(kind)}, not {value!r}")


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
