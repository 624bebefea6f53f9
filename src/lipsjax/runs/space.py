"""What a search may choose from: fields with their ranges and choices. No JAX, no Optuna here."""

import tomllib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lipsjax.runs.config import Config
from lipsjax.runs.fields import override

DEFAULT = (
    "sparsity.density=[0.1, 0.9]",
    "sparsity.every=[1, 20]",
    'sparsity.criterion=["saliency", "magnitude", "random"]',
)
SEARCHABLE = ("model", "local", "strategy", "sparsity", "sites")
"""Parts of a config that answer a question; the others are the question."""


class Range(NamedTuple):
    """All values from low to high, both included; integers if both are."""

    low: float
    high: float


class Choice(NamedTuple):
    """One of several values."""

    values: tuple[Any, ...]


Space = dict[str, Range | Choice]
"""Dotted field -> what it may be."""


class Question(NamedTuple):
    """What is searched."""

    arm: str
    reference: str
    config: Config  # of the arm as the study has it, at the first seed of the search
    space: Space
    seeds: tuple[int, ...]
    hours: float | None = None  # of the simulated clock, within which accuracy counts; None: to T


def read_space(entries: Iterable[str], config: Config, arm: str = "the arm") -> Space:
    """Read ``FIELD=[LOW, HIGH]`` and ``FIELD=[CHOICE, ...]``.

    Args:
      entries: as a command line has them; two numbers are a range, but of sites.widths, anything
        else is a choice.
      config: whose fields are searched.
      arm: what errors call it.

    Raises:
      ValueError: for a field that does not exist or is not searched, or values it cannot have.

    Example:
      >>> read_space(["local.epochs=[1, 9]", "model.norm=['batch', 'group']"], Config())
      {'local.epochs': Range(low=1, high=9), 'model.norm': Choice(values=('batch', 'group'))}
    """
    space: Space = {}
    for text in entries:
        name, _, values = text.partition("=")
        name = name.strip()
        try:
            listed = tomllib.loads(f"values = {values}")["values"]
        except tomllib.TOMLDecodeError:
            raise ValueError(
                f"space must be like 'sparsity.density=[0.1, 0.9]', not {text!r}"
            ) from None
        if name in space:
            raise ValueError(f"space names {name} twice")
        space[name] = _parameter(name, listed, config, arm)
    if not space:
        raise ValueError("space must name at least one field, as 'sparsity.density=[0.1, 0.9]'")
    return space


def _parameter(name: str, values: Any, config: Config, arm: str) -> Range | Choice:
    part = name.partition(".")[0]
    if part in vars(config) and part not in SEARCHABLE:
        raise ValueError(
            f"space.{name} is part of the question and cannot be searched; fields of "
            f"{', '.join(SEARCHABLE)} can"
        )
    if part == "sparsity" and config.sparsity is None:
        raise ValueError(f"space.{name} needs an arm with sparsity = {{}}, and {arm} has none")
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"space.{name} must list a low and a high number, or choices: {values!r}")
    if not all(isinstance(value, str | int | float | bool) for value in values):
        raise ValueError(f"space.{name} must list numbers, texts, or true and false: {values!r}")
    converted = [read(override(config, name, v, where="space."), name) for v in values]
    # of channels only whole ones can be cut, so that hardly any width between two is one
    is_choice = len(values) > 2 or name.startswith("sites.widths.")
    if is_choice or not all(type(value) in (int, float) for value in values):
        if len(set(values)) < len(values):
            raise ValueError(f"space.{name} lists a choice twice: {values!r}")
        return Choice(tuple(converted))
    low, high = converted
    if not low < high:
        raise ValueError(f"space.{name} must go from low to high, not {values!r}")
    return Range(low, high)


def read(config: Any, name: str) -> Any:
    """Return the value of a field by its dotted name; None for an option that is not given.

    >>> read(Config(), "local.options.momentum"), read(Config(), "rounds")
    (0.9, 40)
    """
    for part in name.split("."):
        if isinstance(config, tuple):
            config = config[int(part)]
        else:
            config = config.get(part) if isinstance(config, dict) else getattr(config, part)
    return config


def choose(config: Config, values: dict[str, Any]) -> Config:
    """Return a config with fields replaced."""
    for name, value in values.items():
        config = override(config, name, value)
    return config


def holds(space: Space, values: dict[str, Any]) -> bool:
    """Tell whether a setting could be chosen.

    >>> holds({"rounds": Range(1, 9)}, {"rounds": 9}), holds({"rounds": Range(1, 9)}, {"rounds": 0})
    (True, False)
    """
    for name, allowed in space.items():
        value = values[name]
        if isinstance(allowed, Choice):
            if value not in allowed.values:
                return False
        elif not isinstance(value, int | float) or not allowed.low <= value <= allowed.high:
            return False
    return True


def extremes(space: Space, config: Config) -> list[Config]:
    """Return configs with one field at the ends of its range, or at each of its choices."""
    return [choose(config, {name: value}) for name, ends in space.items() for value in _ends(ends)]


def _ends(allowed: Range | Choice) -> Sequence[Any]:
    return allowed.values if isinstance(allowed, Choice) else (allowed.low, allowed.high)


def as_differences(values: dict[str, Any], differences: dict[str, Any]) -> dict[str, Any]:
    """Return an arm's table with the fields of a setting put in.

    >>> as_differences({"sparsity.every": 3, "local.epochs": 2}, {"sparsity": {"density": 0.4}})
    {'sparsity': {'density': 0.4, 'every': 3}, 'local': {'epochs': 2}}
    """
    merged = dict(differences)
    for name, value in values.items():
        part, _, field = name.partition(".")
        merged[part] = {**merged.get(part, {}), field: value}
    return merged


def describe(values: dict[str, Any]) -> str:
    """Return a setting in words.

    >>> describe({"sparsity.density": 0.41234567, "sparsity.criterion": "random"})
    'density 0.4123, criterion random'
    """
    return ", ".join(f"{_short(name)} {show(v)}" for name, v in values.items())


def _short(name: str) -> str:
    """Return a field without its section; of one of several values, which one with the field.

    >>> _short("local.epochs"), _short("sites.widths.0")
    ('epochs', 'widths.0')
    """
    *_, field, last = name.split(".")
    return f"{field}.{last}" if last.isdecimal() else last


def show(value: Any) -> str:
    """Return a value as a table has it.

    >>> show(0.41234567), show(7), show("random")
    ('0.4123', '7', 'random')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)
