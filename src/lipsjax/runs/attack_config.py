"""What is attacked in a run, how, and by whom: a study's table ``[attack]``. No JAX here."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal

from lipsjax.recording.attacks import Attacker

Name = Literal["label", "linear", "gradient", "cosine", "membership", "bitmaps"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """What is attacked, how, and by whom."""

    rounds: tuple[int, ...] = (0,)
    """Rounds whose messages are attacked, from 0."""
    clients: tuple[int, ...] | Literal["all"] = "all"
    """Victims; all: every client of the round."""
    attacks: tuple[Name, ...] = ("label", "cosine", "membership")
    """label: counts of classes; linear: inputs of a linear first layer; gradient: matching by
    L-BFGS (DLG); cosine: by signed Adam (Geiping); membership; bitmaps: class mixes from masks."""
    attackers: tuple[Attacker, ...] = ("unaware", "aware")
    """unaware of masks and compression, or aware of their rules; both are recorded."""
    bitmaps: bool = False
    """Whether mask bitmaps travel: who is aware then sees them, else it guesses private masks."""
    labels: bool = True
    """Whether labels are given to gradient and cosine; else they are inferred first."""
    steps: int | None = None
    """Of the search; none: 300 of gradient, 2000 of cosine."""
    restarts: int = 1
    """Searches of each victim, the best by their objective counts."""
    total_variation: float | None = None
    """Weight of the prior of cosine that neighbouring pixels are alike; none: 0.01."""
    seed: int = 0
    """Of what the attacker draws."""
    images: bool = False
    """Keep originals and reconstructions, for the report's gallery."""

    def __post_init__(self):
        """Refuse what cannot be attacked, whatever the run."""
        for name in ("rounds", "attacks", "attackers", "clients"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"attack.{name} must name at least one")
            if len(set(values)) < len(values) and values != "all":
                raise ValueError(f"attack.{name} names one twice: {listed(values)}")
        for name, least in (("restarts", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"attack.{name} must be at least {least}, not {getattr(self, name)}"
                )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"attack.steps must be at least 1, not {self.steps}")
        if self.total_variation is not None and not 0 <= self.total_variation < math.inf:
            raise ValueError(
                f"attack.total_variation must be a number of at least 0, not {self.total_variation}"
            )


def listed(values: Iterable[Any]) -> str:
    """Return values in a line."""
    return ", ".join(map(str, values))
