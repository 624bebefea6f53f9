"""How an arm looks, by the role it plays in a study: the same in every report, whatever its name.

Few hues say the few things that a reader looks for; all else is grey, told apart by dashes, markers
and names. The role follows from the config, as the verdict's does. No role has the green of what
helps or the rust of what harms. That readers who confuse red and green can tell the hues apart, and
all can on both grounds, is held in tests.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lipsjax.analysis.comparison import Row, is_local, is_pooled
from lipsjax.analysis.controls import is_lips
from lipsjax.recording import Recording, StudyRecording

Arms = Mapping[str, Sequence[Recording]]
"""arm -> recordings of its seeds."""

Config = Mapping[str, Any]
Dash = Literal["-", "--", "-.", ":"]
Role = Literal["dense", "tuned", "lips", "adaptive", "local", "pooled", "other"]

LIGHT: dict[Role, str] = {
    "dense": "#1d2329",
    "tuned": "#2998bc",
    "lips": "#2354dc",
    "adaptive": "#450d72",
    "local": "#db0964",
    "pooled": "#675503",
    "other": "#7c858f",
}
"""Role -> its colour on light ground."""

DARK: dict[Role, str] = {
    "dense": "#e6e9ed",
    "tuned": "#28cae3",
    "lips": "#5784e9",
    "adaptive": "#805fa7",
    "local": "#da0d65",
    "pooled": "#fad050",
    "other": "#7d8791",
}
"""Role -> its colour on dark ground."""

DASHES: tuple[Dash, ...] = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class Look(NamedTuple):
    """What an arm is drawn with."""

    colour: str  # on light ground; the page has the dark one
    dash: Dash = "-"
    marker: str = "o"

    @property
    def is_told(self) -> bool:
        """Whether the role has a hue of its own."""
        return self.colour != LIGHT["other"]


def looks(configs: Mapping[str, Config]) -> dict[str, Look]:
    """How each arm of a study is drawn.

    Args:
      configs: arm -> the config of one of its runs, empty where none is finished; in the study's
        order, by which arms of one role get another dash and marker each.

    Returns:
      arm -> its look.

    Example:
      >>> fedavg = {"strategy": {"name": "fedavg"}, "sparsity": None}
      >>> found = looks({"a": fedavg, "b": {"strategy": {"name": "local"}}, "c": {}, "d": {}})
      >>> found["a"].colour == LIGHT["dense"], found["b"].colour == LIGHT["local"]
      (True, True)
      >>> found["c"], found["d"]
      (Look(colour='#7c858f', dash='-', marker='o'), Look(colour='#7c858f', dash='--', marker='s'))
    """
    dense = _dense(list(configs.values()))
    found: dict[str, Look] = {}
    seen: list[Role] = []
    for arm, config in configs.items():
        role = role_of(config, dense)
        i = seen.count(role)
        found[arm] = Look(LIGHT[role], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)])
        seen.append(role)
    return found


def role_of(config: Config, dense: Config) -> Role:
    """The role of an arm, by its config and that of the study's dense arm."""
    if is_local(config):
        return "local"
    if is_pooled(config):
        return "pooled"
    if is_adaptive(config):
        return "adaptive"
    if is_lips(config):
        return "lips"
    if not config or config.get("sparsity") or config.get("strategy") != dense.get("strategy"):
        return "other"
    return "dense" if _science(config) == _science(dense) else "tuned"


def is_adaptive(config: Config) -> bool:
    """Whether a run has the masks of LIPS, sent when inertia and not a schedule says so."""
    sparsity = config.get("sparsity") or {}
    scheduled = {"sparsity": {**sparsity, "trigger": "schedule"}}
    return sparsity.get("trigger", "schedule") != "schedule" and is_lips(scheduled)


def looks_of(study: StudyRecording) -> dict[str, Look]:
    """How each arm of a recorded study is drawn."""
    runs = {trial.arm: trial.recording for trial in reversed(study.trials)}
    return looks({arm: runs[arm].config if arm in runs else {} for arm in study.arms})


def looks_of_arms(arms: Arms) -> dict[str, Look]:
    """How each arm is drawn whose recordings are given."""
    return looks({arm: runs[0].config if runs else {} for arm, runs in arms.items()})


def looks_of_rows(rows: Sequence[Row]) -> dict[str, Look]:
    """How each arm is drawn that is compared; of several cells, the first that has runs decides."""
    configs: dict[str, Config] = {}
    for row in rows:
        configs[row.arm] = configs.get(row.arm) or row.config
    return looks(configs)


def _dense(configs: Sequence[Config]) -> Config:
    """The config that others are told by: FedAvg, best the one that masks are added to."""
    plain = [
        config
        for config in configs
        if config and not (is_local(config) or is_pooled(config) or config.get("sparsity"))
    ]
    masked = [_science(config) for config in configs if config.get("sparsity")]

    def fitness(config: Config) -> tuple[bool, bool]:
        return config.get("strategy", {}).get("name") == "fedavg", _science(config) in masked

    return max(plain, key=fitness, default={})


def _science(config: Config) -> dict[str, Any]:
    """A config but for its masks and its seed."""
    return {name: value for name, value in config.items() if name not in ("seed", "sparsity")}
