"""What only the data can tell of a config: how many sites they name. No JAX here."""

import dataclasses
import functools
from pathlib import Path

from lipsjax.runs import given
from lipsjax.runs.config import Config, DataConfig, PartitionConfig


@functools.lru_cache(maxsize=4)
def read(name: str, data_dir: str | None, data: DataConfig = Config.data):
    """Load a data set once per process; return it and its fingerprint.

    Raises:
      ValueError: if it cannot be loaded.
    """
    from lipsjax import datasets  # not at the top: help needs none of it

    if given.is_given(name) and not Path(name).exists():
        dataset = given.find("dataset", name)
    else:
        options = datasets.ReadOptions(**dataclasses.asdict(data))
        dataset = datasets.load(name, data_dir, options)
    return dataset, datasets.fingerprint(dataset)


def settle(config: Config, data_dir: str | None) -> Config:
    """Return a config with as many clients as its data name sites, if these are its clients.

    Sites that are held out are its new clients. Other configs are as they were.

    Raises:
      ValueError: for fields that contradict the data, or would not be read.

    Example:
      >>> settle(Config(), None) == Config()
      True
    """
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
    dataset, _ = read(config.dataset, data_dir, config.data)
    if dataset.sites is None:
        from lipsjax.datasets.splitting import HOW_TO_NAME

        raise ValueError(
            f"partition.kind is 'natural', and {dataset.name} names no sites: {HOW_TO_NAME}"
        )
    from lipsjax.partition.natural import numbers_of

    held_out = len(numbers_of(wanted.hold_out_sites, dataset.sites.names))
    counts = {"clients": len(dataset.sites.names) - held_out, "new_clients": held_out}
    for name, count in counts.items():
        if getattr(wanted, name) not in (getattr(default, name), count):
            raise ValueError(
                f"partition.{name} is {getattr(wanted, name)}, and {dataset.name} names "
                f"{len(dataset.sites.names)} sites, of which {held_out} are held out: leave it out"
            )
    return dataclasses.replace(config, partition=dataclasses.replace(wanted, **counts))
