"""What a run releases, in terms that an accountant reads.

A ledger is made on the host from static things alone: nothing of the data decides what is in it.
"""

import math
from typing import Literal, NamedTuple

Unit = Literal["client", "example"]
Relation = Literal["add_or_remove_one", "replace_special"]

RELATIONS = {
    "add_or_remove_one": "one {unit} more or less",
    "replace_special": "one {unit} replaced by nothing, in data of known sizes",
}
"""Relation of neighbouring data sets -> in words."""
RELATION_OF: dict[Unit, Relation] = {"client": "add_or_remove_one", "example": "replace_special"}
"""Unit that is protected -> relation in which its guarantee is."""


class Release(NamedTuple):
    """Sums with Gaussian noise, one after the other, all alike."""

    noise_multiplier: float
    """Deviation of the noise over what one unit can move the sum by, in the Euclidean norm."""
    sampling: float
    """Chance that a unit is in a sum, drawn for itself (Poisson); 1: it may be in every one."""
    rounds: int


class Ledger(NamedTuple):
    """All that a run releases, and for whom a guarantee speaks.

    Example:
      >>> ledger = Ledger("client", "add_or_remove_one", (Release(4.0, 1.0, 40),), 1e-5)
      >>> ledger.first(10).releases
      (Release(noise_multiplier=4.0, sampling=1.0, rounds=10),)
      >>> ledger.words()
      'one client more or less'
    """

    unit: Unit
    relation: Relation
    releases: tuple[Release, ...]  # one for each mechanism that is in every round
    delta: float  # of (epsilon, delta)
    failure: float = 0.0
    """Chance that what is accounted for is not what was done; a part of delta."""
    times: float = 1.0
    """The federation that it speaks for is so many times as large as the simulated one."""
    each: int = 1
    """Releases of a round."""
    period: int = 1
    """Rounds from one in which a unit may be to the next."""

    def first(self, rounds: int) -> "Ledger":
        """Return the ledger of the first rounds alone; the chance of failure stays."""
        most = math.ceil(rounds / self.period) * self.each
        releases = tuple(r._replace(rounds=min(r.rounds, most)) for r in self.releases)
        return self._replace(releases=releases)

    def words(self) -> str:
        """Say in words which data sets the guarantee cannot tell apart."""
        apart = RELATIONS[self.relation].format(unit=self.unit)
        if self.times == 1:
            return apart
        return f"{apart}, in a federation {self.times:g} times as large as the simulated one"
