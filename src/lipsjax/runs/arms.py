"""Arms that every study knows by name, as ``--arms dense local lips random``. No JAX here.

::

    arms = ["dense", "local", "pooled", "lips"]    # in a TOML file, in the place of its own tables
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lipsjax.runs.config import PrivacyConfig, SecureConfig
from lipsjax.runs.fields import nearest, overlaps, shown

Differences = Mapping[str, Any]
"""The fields in which an arm differs from what all arms share."""


class Arm(NamedTuple):
    """What an arm is."""

    differences: dict[str, Any]
    purpose: str


# what no strategy changes: messages that are whole models, and means of them
_PLAIN = {
    "options": {},
    "norm": "global",
    "compression": "none",
    "compression_options": {},
    "aggregation": "mean",
    "clip_norm": None,
}
_APART = {
    "faults": {"clients": 0},
    "privacy": dataclasses.asdict(PrivacyConfig()),
    "secure": dataclasses.asdict(SecureConfig()),
}
ARMS = {
    "dense": Arm({}, "federated averaging as it is, the reference"),
    "local": Arm(
        {"strategy": {"name": "local", **_PLAIN}, **_APART},
        "every site trains alone, whatever the strategy of the others",
    ),
    "pooled": Arm(
        {"partition": {"pooled": True}, "strategy": {"name": "fedavg", **_PLAIN}, **_APART},
        "one site holds all examples: what federating stands in for",
    ),
    "tuned": Arm(
        {
            "local": {
                "weight_decay": 5e-4,
                "schedule": "cosine",
                "augmentation": ["flip", "crop"],
            }
        },
        "the usual remedies, with conventional values that nobody searched for; of images alone",
    ),
    "lips": Arm({"sparsity": {}}, "transient sparsity as published"),
    "adaptive": Arm(
        {"sparsity": {"trigger": "inertia"}},
        "LIPS only after rounds that are stuck, each layer by how stuck it is; of this project",
    ),
    "random": Arm(
        {"sparsity": {"criterion": "random"}}, "LIPS without saliency: masks drawn at random"
    ),
    "inverted": Arm(
        {"sparsity": {"criterion": "inverted"}}, "LIPS turned round: the least salient stay"
    ),
    "shared": Arm({"sparsity": {"sharing": "shared"}}, "LIPS with one mask for all clients"),
    "scale": Arm(
        {"sparsity": {"operation": "scale"}}, "no mask: middle layers shrunk by sqrt(density)"
    ),
    "shrink_perturb": Arm(
        {"sparsity": {"operation": "shrink_perturb"}}, "no mask: shrunk so, with noise added"
    ),
    "held": Arm(
        {"sparsity": {"hold": 5}}, "LIPS whose masked weights stay zero for five local steps"
    ),
}
"""Name of an arm -> what it is; :file:`experiments/fashion_mnist.toml` runs all but adaptive."""
DEFAULT = ("dense", "local", "pooled", "lips")
"""Arms of a study that names none: what federating gains and loses, and what LIPS changes."""


def choose(names: Iterable[str], own: Mapping[str, Differences], *, where: str) -> dict[str, Any]:
    """Return arms by their names; those that a study defines itself win.

    Args:
      names: of the arms, in the order wanted.
      own: arms that the study defines itself.
      where: what asks for them, for errors.

    Raises:
      ValueError: for a name that is not known, or given twice.

    Example:
      >>> choose(["lips", "random"], {"lips": {"sparsity": {"every": 2}}}, where="arms")
      {'lips': {'sparsity': {'every': 2}}, 'random': {'sparsity': {'criterion': 'random'}}}
    """
    known = {name: arm.differences for name, arm in ARMS.items()} | dict(own)
    chosen: dict[str, Any] = {}
    for given in names:
        name = " ".join(given.split()) if isinstance(given, str) else given
        if not isinstance(name, str) or name not in known:
            hint = nearest(name, known) if isinstance(name, str) else ""
            listed = ", ".join(dict.fromkeys((*own, *ARMS)))
            raise ValueError(f"{where}: unknown arm {shown(given)}{hint}; there are {listed}")
        if name in chosen:
            raise ValueError(f"{where} names {name} twice")
        chosen[name] = known[name]
    return chosen


def heeds(differences: Differences, field: str) -> bool:
    """Tell whether an arm takes a field that all others share.

    Who trains alone, and pooled data, have no use for a strategy, nor for faults of what is sent.

    >>> heeds(ARMS["local"].differences, "strategy.name"), heeds({}, "strategy.name")
    (False, True)
    """
    apart = differences in (ARMS["local"].differences, ARMS["pooled"].differences)
    return not (apart and any(overlaps(field, each) for each in ("strategy", *_APART)))
