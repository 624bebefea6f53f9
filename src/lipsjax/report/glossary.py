"""The words of the page that not everybody knows, each explained once and linked where it is first.

A word is linked in the texts that :func:`linker` is given, in their order, the first time it comes.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from markupsafe import Markup, escape


class Word(NamedTuple):
    """A word and what it means."""

    name: str
    means: str
    pattern: str  # how it is found in a text

    @property
    def anchor(self) -> str:
        """Where it stands on the page."""
        return f"word-{self.name.split()[0].lower()}"


WORDS = (
    Word(
        "Client",
        "A site that holds its own data and trains on them, as a hospital or a factory. Data never "
        "leave it; models do.",
        r"clients?|sites?",
    ),
    Word(
        "Round",
        "One turn of training together: every client gets the common model, trains it on its own "
        "data and sends it back, and a server takes the mean of what came.",
        r"rounds?",
    ),
    Word(
        "Dense",
        "Training together in the plain way, no weight of the model ever set to zero. It is what "
        "everything else is compared with.",
        r"dense",
    ),
    Word(
        "LIPS",
        "The method that is tested here. Every few rounds some weights of the middle of the common "
        "model are set to zero for a moment, before clients train, so that these layers move "
        "again. Also called transient sparsity.",
        r"LIPS|lips|transient sparsity",
    ),
    Word(
        "Inertia",
        "How far the middle layers of the common model lag behind its first and last ones. The "
        "inertia index is 0 where all move alike, 1 where the middle stands still, below 0 where "
        "the middle moves more.",
        r"inertia(?: index)?",
    ),
    Word(
        "Personalised accuracy",
        "Of 100 test examples of a client's own kind, how many the model gets right; the mean over "
        "clients. A difference of one of 100 is a point. Global accuracy is the same on one test "
        "set that all share.",
        r"personalised accuracy|points?",
    ),
    Word(
        "Seed",
        "One repeat of the whole experiment with other random draws. What comes out alike in many "
        "repeats is not luck.",
        r"seeds?",
    ),
    Word(
        "Interval",
        "Where the true mean most likely lies. Of intervals at 95% made in this way, 19 of 20 hold "
        "it. One that holds zero leaves open who is ahead.",
        r"(?:95% )?intervals?",
    ),
    Word(
        "Return",
        "Points of accuracy that the sites with one class of devices have over training alone, for "
        "each unit of money that these devices cost. A lever is the same between two ways of "
        "training together, for each unit of money that one saves or costs more.",
        r"return on money",
    ),
)


ANCHOR = Markup('<a class="word" href="#{}">{}</a>')


def linker() -> Callable[[str], Markup]:
    """Return what escapes a text and links each word, the first time that it comes in any text.

    Example:
      >>> link = linker()
      >>> print(link("5 seeds & 2 seeds"))
      5 <a class="word" href="#word-seed">seeds</a> &amp; 2 seeds
      >>> print(link("a seed"))
      a seed
    """
    left = list(WORDS)

    def link(text: str) -> Markup:
        """Return the text as HTML."""
        first = {word.name: found for word in left if (found := _find(word, text))}
        left[:] = [word for word in left if word.name not in first]
        parts, end = [], 0
        anchors = {word.name: word.anchor for word in WORDS}
        for name, found in sorted(first.items(), key=lambda item: item[1].start()):
            parts.append(escape(text[end : found.start()]))
            parts.append(ANCHOR.format(anchors[name], found[0]))
            end = found.end()
        return Markup("").join([*parts, escape(text[end:])])

    return link


def _find(word: Word, text: str) -> re.Match[str] | None:
    """Where a word stands by itself, and is no part of a name."""
    return re.search(rf"(?<![\w/.=-])(?:{word.pattern})(?![\w/=-]|\.\w)", text)
