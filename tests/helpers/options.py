"""Command lines made of defaults and what replaces them."""

from collections.abc import Sequence


def last_of_each(argv: Sequence[str]) -> list[str]:
    """Returns a command line in which each option is given once: as it was given last."""
    before: list[str] = []
    given: dict[str, list[str]] = {}
    values = before
    for text in argv:
        if text.startswith("--"):
            name = text.partition("=")[0]
            given.pop(name, None)
            values = given[name] = []
        values.append(text)
    return [*before, *(text for values in given.values() for text in values)]
