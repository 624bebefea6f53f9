"""Load the data set of a run, once per process, and make sure that all processes have the same."""

import functools
from typing import Any

from lipsjax import datasets
from lipsjax.runs import processes, sites
from lipsjax.runs.config import Config, DataConfig, source


@functools.lru_cache(maxsize=4)
def load(
    name: str,
    data: DataConfig,
    options: tuple[tuple[str, Any], ...],
    data_dir: str | None,
) -> tuple[datasets.Dataset, str]:
    """Load a data set once per process; return it and its fingerprint.

    Raises:
      ValueError: if it cannot be loaded in some process, or is not the same in all.
    """
    dataset, fingerprint = processes.together(lambda: sites.read(name, data, options, data_dir))
    of_main = processes.agree(lambda: fingerprint)

    def check():
        if fingerprint != of_main:
            raise ValueError(f"{name} holds other examples here than in process 0")

    processes.together(check)
    return dataset, fingerprint


def load_for(config: Config, data_dir: str | None) -> tuple[datasets.Dataset, str]:
    """Load the data set that a config names, as :func:`load` does."""
    return load(*source(config), data_dir)
