"""The examples of a site: the one place to change for data of your own."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from flwr.app import Context


class Site(NamedTuple):
    """What a site holds: inputs as the model reads them, float32 and channels last, and labels."""

    number: int  # among the sites, from 0
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_site(context: Context) -> Site:
    """Return the site of this node.

    A real node names its own file, ``flower-supernode --node-config "site-file='/data/mine.npz'
    partition-id=3"``. Elsewhere it is the file of the folder ``sites`` that has the node's number.
    """
    number = int(context.node_config["partition-id"])
    file = context.node_config.get("site-file")
    if file is None:
        file = sorted(Path(str(context.run_config["folder"]), "sites").glob("*.npz"))[number]
    with np.load(str(file)) as held:
        return Site(number, *(held[name] for name in Site._fields[1:]))
