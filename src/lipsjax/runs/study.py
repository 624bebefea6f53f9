"""A study: arms and a grid of configs, from a TOML file, checked field by field. No JAX here.

::

    name = "density"            [sparsity]            [arms.dense]
    seeds = 5                   density = 0.3         [arms.lips]
    [config]                    [grid]                sparsity = {}
    dataset = "digits"          "partition.alpha" = [0.1, 1.0]

Every arm is the config with its own fields replaced; an arm with a ``sparsity`` table is wrapped
in transient sparsity. The first arm is the one that others are compared with, but for an arm that
says ``against = "ANOTHER"``. A list, ``arms = ["dense", "local", "lips"]``, takes arms that are
known by name (:mod:`lipsjax.runs.arms`).
"""

import dataclasses
import itertools
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lipsjax.recording import Decisions
from lipsjax.runs import arms as known
from lipsjax.runs.attack_config import AttackConfig
from lipsjax.runs.config import (
    Config,
    Execution,
    PartitionConfig,
    Prices,
    SparsityConfig,
    to_dict,
)
from lipsjax.runs.fields import from_dict, names_set, overlaps, override, shown
from lipsjax.runs.reads import as_read, unread
from lipsjax.runs.sites import in_turn, settle
from lipsjax.runs.until import Until, check_until, seeds_at_most

MOST_TRIALS = 100_000
"""Trials of the largest study, so that a slip of the pen is refused and not expanded."""
SECTIONS = (
    "sparsity",
    *(name for name, value in vars(Config()).items() if dataclasses.is_dataclass(value)),
)
"""Fields of a config that have fields of their own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared with what, over which seeds and cells."""

    name: str = "Does federating pay, and does LIPS help?"
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
        default_factory=lambda: known.choose(known.DEFAULT, {}, where="arms")
    )
    """Name of an arm -> the fields in which it differs."""
    grid: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    """Dotted field -> values; their product makes the cells."""
    target: float | None = None
    """Accuracy that rounds and bits are counted to; none: 95% of what the reference ends with."""
    prices: Prices = Prices()
    """What costs and gains are worth; without any, no money is shown."""
    until: Until | None = None
    """Planned looks that say when there are seeds enough; none: every arm runs all seeds."""
    attack: AttackConfig | None = None
    """What messages of its runs give away; none: nothing is attacked."""
    execution: Execution = Execution()
    """How and where it runs."""

    def __post_init__(self):
        """Write the names of arms in one line."""
        arms = {" ".join(name.split()): own for name, own in self.arms.items()}
        if len(arms) < len(self.arms):
            raise ValueError(f"arms: two names are the same: {shown(list(self.arms))}")
        object.__setattr__(self, "arms", arms)


def default_study() -> Study:
    """Return the study of a command that is given no file.

    Its sites are small enough to need each other, and below the ceiling of their data, so that its
    questions have answers: ``experiments/README.md`` has what was tried.

    >>> study = default_study()
    >>> list(study.arms), study.config.partition.train_examples
    (['dense', 'local', 'pooled', 'lips'], 10)
    """
    partition = PartitionConfig(clients=10, train_examples=10, alpha=0.3)
    return Study(seeds=6, config=Config(partition=partition))


class Planned(NamedTuple):
    """A trial that is to be run."""

    arm: str
    cell: int
    seed: int
    config: Config


class Batch(NamedTuple):
    """Trials that are due, of all that a study may run."""

    trials: list[Planned]
    decisions: Decisions | None = None  # before they are run; None without planned looks


def load_study(path: Path) -> Study:
    """Read a study from a TOML file.

    Raises:
      ValueError: if it cannot be read, or has a field or a value that does not exist.
    """
    path, values = read_toml(path, "a study is a TOML file")
    try:
        return study_from(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_toml(path: Path, what: str) -> tuple[Path, dict[str, Any]]:
    """Read a TOML file; return its path, its home being the user's, and what it holds.

    Args:
      path: of the file.
      what: it should be, for errors.

    Raises:
      ValueError: if it cannot be read.
    """
    path = path.expanduser() if path.parts[:1] == ("~",) else path
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path}: not a file; {what}")
    try:
        # some editors begin a file with a mark
        return path, tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{path}: {reason}; {what}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; {what}") from None
    except ValueError as error:  # a TOMLDecodeError, or an integer of too many digits
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: not valid TOML: nested too deeply") from None


def study_from(values: Mapping[str, Any], where: str = "") -> Study:
    """Return a study from what a TOML file of it holds.

    Args:
      values: field -> value; arms may be a list of names.
      where: what stands before a field in errors.

    Raises:
      ValueError: for a field, a value or an arm that does not exist.

    Example:
      >>> study_from({"arms": ["dense", "random"]}).arms
      {'dense': {}, 'random': {'sparsity': {'criterion': 'random'}}}
    """
    until = values.get("until")
    if "seeds" in values and isinstance(until, Mapping) and not until.get("arms"):
        raise ValueError(
            "seeds reaches no arm, as all are run until they are decided: until.max_seeds bounds "
            "them, and until.arms names those that are decided about"
        )
    arms = values.get("arms")
    named = {"arms": known.choose(arms, {}, where=f"{where}arms")} if isinstance(arms, list) else {}
    return from_dict(Study, {**values, **named}, where)


def cells(study: Study) -> list[dict[str, Any]]:
    """Return the overrides of every cell of the grid; one without any if there is no grid.

    Raises:
      ValueError: for a grid that does not list values, lists one twice, or is of a field that
        another one or an arm sets, or of sparsity where no arm has it.
    """
    sparse = any("sparsity" in differences for differences in study.arms.values())
    for name, values in study.grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid.{name} must be a list of values, not {shown(values)}")
        for i, value in enumerate(values):
            if value in values[:i]:
                raise ValueError(f"grid.{name} holds {shown(value)} twice")
        if overlaps(name, "sparsity") and not sparse:
            raise ValueError(f"grid.{name} needs an arm with sparsity = {{}}, and none has it")
    gridded = [
        (name, field) for name, values in study.grid.items() for field in fields_of(name, values)
    ]
    for (name, field), (other, again) in itertools.combinations(gridded, 2):
        if name != other and overlaps(field, again):
            raise ValueError(f"grid.{name} and grid.{other} both set {_longer(field, again)}")
    for arm, differences in study.arms.items():
        for own, (name, field) in itertools.product(names_set(differences, SECTIONS), gridded):
            if overlaps(own, field) and known.heeds(differences, own):
                raise ValueError(
                    f"grid.{name} would replace {own} of the arm {arm}, which sets it itself; take "
                    "one of the two out"
                )
    products = itertools.product(*study.grid.values())
    return [dict(zip(study.grid, values, strict=True)) for values in products]


HELD_OUT = "partition.hold_out_sites"
OF_DATA = ("dataset", "dataset_options", "data")


def each_in_turn(study: Study) -> Study:
    """Return a study whose grid holds out each site in turn, if its config asks for each.

    Raises:
      ValueError: for data that name no sites, a grid that holds out sites itself, or cells or arms
        of other data.

    Example:
      >>> each_in_turn(Study()) == Study()
      True
    """
    config, sites = in_turn(study.config, study.execution.data_dir)
    if not sites:
        return study
    for name, values in study.grid.items():
        for field in fields_of(name, values):
            if overlaps(HELD_OUT, field):
                raise ValueError(
                    f"{HELD_OUT} is 'each', and grid.{name} sets it too: leave one out"
                )
            if any(overlaps(data, field) for data in OF_DATA):
                raise ValueError(
                    f"{HELD_OUT} is 'each' of the sites of one data set, and grid.{name} has "
                    "others: write the sites out, or a study for each data set"
                )
    for arm, differences in study.arms.items():
        if any(overlaps(data, own) for data in OF_DATA for own in names_set(differences, SECTIONS)):
            raise ValueError(
                f"{HELD_OUT} is 'each' of the sites of one data set, and the arm {arm} has other "
                "data: write the sites out, or a study for each data set"
            )
    return dataclasses.replace(study, config=config, grid={**study.grid, HELD_OUT: sites})


def label_of(overrides: Mapping[str, Any]) -> str:
    """Return what a cell is called in the record; "" without a grid.

    >>> label_of({"partition.alpha": 0.1, "rounds": 3})
    'partition.alpha = 0.1, rounds = 3'
    """
    return ", ".join(f"{name} = {value}" for name, value in overrides.items())


def fields_of(name: str, values: Any) -> set[str]:
    """Return the fields that a row of the grid sets.

    >>> sorted(fields_of("local", [{"epochs": 1}, {"batch_size": 2}]))
    ['local.batch_size', 'local.epochs']
    """
    given = values if isinstance(values, list) else [values]
    return set().union(*(names_set({name: value}, SECTIONS) for value in given))


def _longer(name: str, other: str) -> str:
    return max(name, other, key=len)


def expand(study: Study) -> list[Planned]:
    """Return every trial of a study: cells, then arms, then seeds; with looks, all that may be run.

    Raises:
      ValueError: for a field that does not exist, a value that is not possible, or arms or cells
        that would be the same runs.

    Example:
      >>> study = study_from({"seeds": 1, "arms": ["dense", "lips"]})
      >>> [(t.arm, t.seed, t.config.sparsity is None) for t in expand(study)]
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
    check_arms(study)
    check_target(study.target)
    check_prices(study.prices)
    others = references(study)
    if study.until is not None:
        check_until(study.until, others, study.seeds)
    seeds = seeds_at_most(study.until, others, study.seeds)
    sizes = [len(v) if isinstance(v, list) else 1 for v in study.grid.values()]
    count = math.prod([sum(seeds.values()), *sizes])
    if count > MOST_TRIALS:
        raise ValueError(f"a study must have at most {MOST_TRIALS} runs, not {shown(count)}")
    trials: list[Planned] = []
    arms = {arm: _arm_config(study, arm, own) for arm, own in study.arms.items()}
    of_cells: dict[tuple[str, ...], dict[str, Any]] = {}
    for cell, overrides in enumerate(cells(study)):
        configs = {
            arm: settle(_in_cell(config, overrides, study.arms[arm]), study.execution.data_dir)
            for arm, config in arms.items()
        }
        keys = _distinct(configs)
        if keys in of_cells:
            both = f"{_label(of_cells[keys])} and {_label(overrides)}"
            raise ValueError(f"grid: {both} are the same{_reason(overrides, *configs.values())}")
        of_cells[keys] = overrides
        for arm, config in configs.items():
            for i in range(seeds[arm]):
                seeded = dataclasses.replace(config, seed=config.seed + i)
                trials.append(Planned(arm, cell, seeded.seed, seeded))
    return trials


def _in_cell(config: Config, overrides: dict[str, Any], own: dict[str, Any]) -> Config:
    """Return the config of an arm in a cell; sparsity is of arms that have it."""
    for name, value in overrides.items():
        sparse = config.sparsity is not None or not overlaps(name, "sparsity")
        if sparse and known.heeds(own, name):
            config = override(config, name, value, where="grid.")
    return config


def _distinct(configs: dict[str, Config]) -> tuple[str, ...]:
    """Return what identifies the arms of a cell, or refuse two that are the same."""
    found: dict[str, str] = {}
    for arm, config in configs.items():
        twin = found.setdefault(program_key(as_read(config)), arm)
        if twin != arm:
            differing = _fields_apart(configs[twin], config)
            why = _reason(differing, config) or ": nothing differs"
            raise ValueError(f"the arms {twin} and {arm} are the same{why}")
    return tuple(found)


def _fields_apart(config: Config, other: Config) -> list[str]:
    """Return the dotted names of the fields in which two configs differ."""
    first, second = to_dict(config), to_dict(other)
    return [
        f"{section}.{field}"
        for section, fields in first.items()
        if isinstance(fields, dict) and isinstance(second.get(section), dict)
        for field in {**fields, **second[section]}  # some are there only where they are given
        if fields.get(field) != second[section].get(field)
    ]


def _reason(differing: Iterable[str], *configs: Config) -> str:
    """Say which of the fields that differ nothing reads; nothing if all are read."""
    names = [name for name in differing if all(name in unread(config) for config in configs)]
    return f": nothing reads {', '.join(names)} in them" if names else ""


def _label(overrides: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {shown(value)}" for name, value in overrides.items())


def check_arms(study: Study) -> None:
    """Refuse arms whose names cannot be shown, or whose seeds are not those of the others.

    Raises:
      ValueError: naming the arm.
    """
    if "seed" in study.grid:
        raise ValueError("grid.seed would compare seeds as cells; --seeds N runs more of them")
    for arm, differences in study.arms.items():
        if not arm.strip() or not all(c.isprintable() or c.isspace() for c in arm):
            raise ValueError(f"the name of an arm must be a printable text, not {shown(arm)}")
        if "seed" in differences:
            raise ValueError(f"arms.{arm}.seed: arms are compared seed by seed, so all share them")
    references(study)


def program_key(config: Config) -> str:
    """Return what two configs have in common that share a compiled program: all but the seed.

    >>> program_key(Config(seed=1)) == program_key(Config(seed=2))
    True
    """
    return json.dumps(to_dict(dataclasses.replace(config, seed=0)), sort_keys=True)


def references(study: Study) -> dict[str, str]:
    """Return which arm each arm is compared with; the first one with itself.

    Raises:
      ValueError: for an arm that is compared with one that is not there, or with itself in the
        end.

    Example:
      >>> references(study_from({"arms": ["dense", "lips"]}))
      {'dense': 'dense', 'lips': 'dense'}
    """
    first, found = next(iter(study.arms), ""), {}
    for arm, differences in study.arms.items():
        other = differences.get("against", first)
        other = " ".join(other.split()) if isinstance(other, str) else other
        if not isinstance(other, str) or other not in study.arms:
            raise ValueError(
                f"arms.{arm}.against must be one of {', '.join(study.arms)}, not {shown(other)}"
            )
        if (arm == first) != (arm == other):
            raise ValueError(f"arms.{arm}.against must be another arm, not {other!r}")
        found[arm] = other
    for arm in found:
        chain = [arm]
        while (other := found[chain[-1]]) != first:
            if other in chain:
                circle = ", ".join(chain[chain.index(other) :])
                raise ValueError(f"arms.{arm}.against goes in a circle: {circle}, {other}")
            chain.append(other)
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
                raise ValueError(f"{where}sparsity must be a table, not {shown(value)}")
            sparsity = study.sparsity
            for field, chosen in value.items():
                sparsity = override(sparsity, field, chosen, where=f"{where}sparsity.")
            config = dataclasses.replace(config, sparsity=sparsity)
        else:
            config = override(config, name, value, where=where)
    return config
