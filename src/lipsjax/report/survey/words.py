"""How a survey calls clients: by the names of their sites, where the data name them."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from lipsjax.datasets.base import show

MOST_NAMES = 10
"""Names that a sentence lists."""
MOST_LETTERS = 40
"""Of a name in a sentence."""


class Remark(NamedTuple):
    """Something about the sites, and what to ask because of it."""

    topic: str
    statement: str
    question: str  # empty where there is nothing to ask


@dataclasses.dataclass(frozen=True)
class Called:
    """What clients are called; made-up ones have numbers alone."""

    names: Sequence[str] | None

    @property
    def one(self) -> str:
        """What each of them is."""
        return "client" if self.names is None else "site"

    @property
    def many(self) -> str:
        """What several of them are."""
        return f"{self.one}s"

    def name(self, client: int) -> str:
        """Returns what one of them is called, to begin a sentence.

        >>> Called(None).name(3), Called(["Brno", "Ulm"]).name(1)
        ('Client 3', 'Ulm')
        """
        return f"Client {client}" if self.names is None else show(self.names[client], MOST_LETTERS)

    def label(self, client: int) -> str:
        """Returns what one of them is called in a table.

        >>> Called(None).label(3), Called(["Brno", "Ulm"]).label(1)
        ('3', 'Ulm')
        """
        return f"{client}" if self.names is None else self.names[client]

    def all(self, number: int) -> Sequence[str]:
        """Returns what the first few of them are called in a table.

        >>> Called(None).all(2)
        ['0', '1']
        """
        return [self.label(client) for client in range(number)]

    def list(self, names: Sequence[str]) -> str:
        """Returns some names in a row, the first few of many.

        >>> Called(None).list(["Brno", "Ulm"])
        'Brno, Ulm'
        """
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return ", ".join(show(name, MOST_LETTERS) for name in names[:MOST_NAMES]) + more

    def count(self, number: int, one: str, many: str) -> str:
        """Returns how many of them do something.

        >>> Called(None).count(1, "holds", "hold"), Called(["a"]).count(2, "holds", "hold")
        ('1 client holds', '2 sites hold')
        """
        return count(number, f"{self.one} {one}", f"{self.many} {many}")


def count(number: int, one: str, many: str) -> str:
    """Returns a number and its noun.

    >>> count(1, "client", "clients"), count(1200, "client", "clients")
    ('1 client', '1,200 clients')
    """
    return f"{number:,} {one if number == 1 else many}"
