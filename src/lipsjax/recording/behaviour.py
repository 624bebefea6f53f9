"""The behaviour number: which code can give the numbers of a run again.

Raise :data:`BEHAVIOUR`, with a line on what changed, in every change after which an equal config
and plan give other numbers. It is part of a run's identity: runs of another number are read and
reported, and marked so, but they are neither resumed nor compared with those of this one.
"""

from collections.abc import Mapping
from typing import Any

BEHAVIOUR = 4
"""Number of this code."""
# 1: lipsjax 0.1, which recorded no number.
# 2: SCAFFOLD and FedDyn follow who arrived; faults come before codecs, clips after them;
#    downlinks of cohorts.
# 3: classifiers begin as published; BatchNorm's variance around the mean; FedDST regrows at zero;
#    MOON's frozen models predict; shared inverted masks; draws by examples weigh alike; runs are
#    known by their data's content and not by its path; clip keeps nothing of a client that
#    diverged; what held masks keep from moving is no step under server optimizers and votes;
#    floating inputs are normalised before the program, which moves their last bit.
# 4: 3x3 convolutions of 32 channels and more are summed in another order on CPU, which moves their
#    last bits. Open until it is released: what is added until then is of rare settings, and named
#    here.

_RENAMED = {
    ("participation", "deaths"): "mid_round_dropout",
    ("participation", "least_work"): "min_work",
}
"""Section and field of a config of behaviour 1 -> what the field is called now."""


def behaviour_of(recorded: Mapping[str, Any]) -> int:
    """Return the behaviour number that a ``config.json`` holds; 1 where it holds none.

    >>> behaviour_of({"config": {}}), behaviour_of({"config": {}, "behaviour": 2})
    (1, 2)
    """
    return int(recorded.get("behaviour", 1))


def migrate_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config with its fields as they are called now; metrics keep their names.

    >>> migrate_config({"rounds": 5, "participation": {"deaths": 0.1, "dropout": 0.0}})
    {'rounds': 5, 'participation': {'mid_round_dropout': 0.1, 'dropout': 0.0}}
    """
    return {
        section: {_RENAMED.get((section, field), field): v for field, v in value.items()}
        if isinstance(value, Mapping)
        else value
        for section, value in config.items()
    }


def describe_behaviour(number: int, versions: Mapping[str, str]) -> str:
    """Return in words which behaviour a run is of.

    Args:
      number: of the run.
      versions: of the packages that it was recorded with.

    >>> describe_behaviour(1, {"lipsjax": "0.1.0"})
    'recorded by behaviour 1 (lipsjax 0.1.0); this is behaviour 4'
    """
    version = f" (lipsjax {versions['lipsjax']})" if "lipsjax" in versions else ""
    return f"recorded by behaviour {number}{version}; this is behaviour {BEHAVIOUR}"
