"""Configs and command lines from changes by dotted names."""

from lipsjax.runs.config import Config
from lipsjax.runs.fields import override


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
