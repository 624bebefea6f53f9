"""Configs and command lines from changes by dotted names."""

from lipsjax.runs.config import Config
from lipsjax.runs.fields import override

SITED = {
    "dataset": "synthetic",
    "rounds": 4,
    "partition.clients": 3,
    "partition.train_examples": 8,
    "partition.test_examples": 8,
    "model.name": "mlp",
    "model.width": 4,
    "model.depth": 2,
    "model.norm": "none",
    "local.epochs": 1,
    "local.batch_size": 4,
    "evaluation.global_examples": 20,
    "sites.devices": ["pi-zero-2w", "pi-4", "pi-5"],
}
"""Three sites with a device each, and a model that compiles in a second."""


def config_of(small, changes):
    """The usual config, with two dicts of changes, the second over the first."""
    config = Config()
    for name, value in {**small, **changes}.items():
        config = override(config, name, value)
    return config


def argv_of(small, changes):
    """The same as a command line has it."""
    words = []
    for name, value in {**small, **changes}.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words
