"""What only the data can tell of a config: how many sites they name. No JAX here."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from lipsjax.runs import given, parts
from lipsjax.runs.config import DATASETS, EACH, Config, DataConfig, PartitionConfig, source


@functools.lru_cache(maxsize=4)
def read(name: str, data: DataConfig, options: tuple[tuple[str, Any], ...], data_dir: str | None):
    """Load a data set once per process; return it and its fingerprint.

    Raises:
      ValueError: if it cannot be loaded.
    """
    from lipsjax import datasets  # not at the top: help needs none of it

    how = datasets.ReadOptions(**dataclasses.asdict(data))
    if not is_own(name):
        if options:
            raise ValueError(f"dataset_options are of own data sets, and {name} takes none")
        if given.is_given(name) and not Path(name).exists():
            datasets.check_read(name, how, ())
            dataset = given.find("dataset", name)
        else:
            dataset = datasets.load(name, data_dir, how)
        return dataset, datasets.fingerprint(dataset)
    datasets.check_read(name, how, ())
    made = [parts.call(DATASETS, name, dict(options)) for _ in range(2)]
    for dataset in made:
        if not isinstance(dataset, datasets.Dataset):
            raise ValueError(
                f"dataset: {name} must return a lipsjax Dataset, not {type(dataset).__name__}"
            )
    try:
        first, second = (datasets.fingerprint(datasets.validate(each, name)) for each in made)
    except datasets.DataError:
        raise
    except (TypeError, AttributeError, ValueError) as error:  # of fields that are no arrays
        raise ValueError(f"dataset: {name} returned no arrays: {parts.told(error)}") from None
    if first != second:
        raise ValueError(
            f"dataset: {name} is not the same at every call: draw with a seed of its own, as "
            "numpy.random.default_rng(0)"
        )
    return datasets.validate(made[0], name), first


def is_own(name: str) -> bool:
    """Tell whether a data set is an own part: not where there is a file or folder of that name.

    >>> is_own("digits"), is_own("my_data:load"), is_own("emnist/balanced")
    (False, True, False)
    """
    return parts.is_own(DATASETS, name) and not Path(name).exists()


def settle(config: Config, data_dir: str | None) -> Config:
    """Return a config with as many clients as its data name sites, if these are its clients.

    Sites that are held out are its new clients, and are named. Other configs are as they were.

    Raises:
      ValueError: for fields that contradict the data, or would not be read.

    Example:
      >>> settle(Config(), None) == Config()
      True
    """
    parts.check_names(config)
    wanted = config.partition
    if wanted.kind != "natural":
        return config
    default = PartitionConfig()
    for name in ("train_examples", "sizes", "overlap"):
        if getattr(wanted, name) != getattr(default, name):
            raise ValueError(
                f"partition.{name} is not read by partition.kind='natural', whose sites are as "
                "they are; partition.most_examples bounds them"
            )
    dataset, _ = read(*source(config), data_dir)
    if dataset.sites is None:
        from lipsjax.datasets.splitting import HOW_TO_NAME

        raise ValueError(
            f"partition.kind is 'natural', and {dataset.name} names no sites: {HOW_TO_NAME}"
        )
    from lipsjax.partition.natural import numbers_of

    known = dataset.sites.names
    if wanted.hold_out_sites == EACH and EACH[0] not in known:
        raise ValueError(
            "partition.hold_out_sites is 'each', a cell for every site: that is of what all arms "
            "of a study share, as lipsjax sweep runs it"
        )
    numbers = numbers_of(wanted.hold_out_sites, known)
    held_out = tuple(known[number] for number in numbers)
    counts = {"clients": len(known) - len(held_out), "new_clients": len(held_out)}
    for name, count in counts.items():
        if getattr(wanted, name) not in (getattr(default, name), count):
            raise ValueError(
                f"partition.{name} is {getattr(wanted, name)}, and {dataset.name} names "
                f"{len(known)} sites, of which {len(held_out)} are held out: leave it out"
            )
    settled = dataclasses.replace(wanted, hold_out_sites=held_out, **counts)
    return dataclasses.replace(config, partition=settled)


def in_turn(config: Config, data_dir: str | None) -> tuple[Config, list[list[str]]]:
    """Return a config that holds out no site, and the sites that it asks to hold out in turn.

    There are none, and the config is as it was, where it does not ask for each of them.

    Raises:
      ValueError: for clients that are made up, or data that name no sites.

    Example:
      >>> in_turn(Config(), None) == (Config(), [])
      True
    """
    wanted = config.partition
    if wanted.hold_out_sites != EACH:
        return config, []
    if wanted.kind != "natural":
        raise ValueError(
            f"partition.hold_out_sites is 'each', and needs partition.kind='natural', not "
            f"{wanted.kind!r}"
        )
    alone = dataclasses.replace(config, partition=dataclasses.replace(wanted, hold_out_sites=()))
    settle(alone, data_dir)  # which refuses data without sites
    sites = read(*source(config), data_dir)[0].sites
    assert sites is not None
    if EACH[0] in sites.names:  # then it is that site which is meant
        return config, []
    return alone, [[name] for name in sites.names]
