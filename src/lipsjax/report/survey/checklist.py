"""What to record before a pilot: a plan of observation, each item with its reason in figures."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lipsjax.datasets import Dataset
from lipsjax.datasets.base import show
from lipsjax.partition import Survey
from lipsjax.partition.survey import Looks, SiteFacts
from lipsjax.report.survey.between import FEW_TESTS, class_names, narrow_sites
from lipsjax.report.survey.words import Called, count

ENOUGH = 20
"""Examples of a class at a site, for training and testing, below which more are asked for."""
_MOST_ITEMS = 3
"""Items of one sort that are listed, the most wanting first."""


class Item(NamedTuple):
    """Something to record or to find out, and why."""

    what: str
    why: str


def checklist(
    survey: Survey, facts: SiteFacts, looks: Looks, dataset: Dataset, called: Called
) -> list[Item]:
    """Lists what to record at the sites before a pilot, from what was found.

    Args:
      survey: of a natural partition.
      facts: of the same.
      looks: of the same.
      dataset: that was shared out.
      called: the names of its sites.

    Returns:
      Items, what holds for every site first.

    Example:
      >>> from lipsjax import partition
      >>> from lipsjax.datasets import synthetic
      >>> from lipsjax.partition.survey import compare_sites, look
      >>> rows = tuple(np.arange(k, 60, 2) for k in range(2))
      >>> parts, made = partition.Partition(rows, rows, np.full([2, 4], 0.25)), synthetic()
      >>> facts, survey = compare_sites(parts, made), partition.describe(parts, made)
      >>> checklist(survey, facts, look(parts, made), made, Called(["a", "b"]))[0].what
      'At every site, which device took each image, and with which settings.'
    """
    one = looks.noun
    return [
        *_of_devices(facts, one, called),
        *_of_labels(facts, looks, one, called),
        *_of_belonging(facts, survey, one),
        *_of_copies(facts, looks),
        *_of_examples(survey, dataset, called),
        *_of_tests(survey, called),
        _of_other_sites(survey, called),
    ]


def _of_devices(facts: SiteFacts, one: str, called: Called) -> Iterator[Item]:
    shift = facts.feature_shift
    far = np.flatnonzero(shift.beyond).tolist()
    why = f"A new device looks like a new site, and the data name no device of any {one}."
    yield Item(f"At every site, which device took each {one}, and with which settings.", why)
    for k in sorted(far, key=lambda k: -shift.distance[k])[:_MOST_ITEMS]:
        why = (
            f"Its inputs are {shift.distance[k]:.0%} from those of the median other site, where "
            f"chance stays below {shift.floor[k]:.0%}."
        )
        yield Item(f"{called.name(k)}: what differs in device, setting, material or people.", why)
    for k in narrow_sites(facts)[:_MOST_ITEMS]:
        why = f"Its values lie in {facts.ranges[k, 0]:.4g}..{facts.ranges[k, 1]:.4g}"
        low, high = facts.ranges[:, 0].min(), facts.ranges[:, 1].max()
        yield Item(
            f"{called.name(k)}: in which unit, and scaled how, values are stored.",
            f"{why}, those of all sites in {low:.4g}..{high:.4g}.",
        )
    silent = [k for k, channels in enumerate(facts.constant) if channels]
    for k in silent[:_MOST_ITEMS]:
        number = count(len(facts.constant[k]), "channel is", "channels are")
        yield Item(
            f"{called.name(k)}: whether every channel is connected and recorded.",
            f"{number} constant there and not elsewhere.",
        )


def _of_labels(facts: SiteFacts, looks: Looks, one: str, called: Called) -> Iterator[Item]:
    why = "Nothing in the data says who labelled what."
    if looks.labelled_twice:
        many = count(looks.labelled_twice, f"{one} has", f"{looks.nouns} have")
        why = f"{many} several labels."
    yield Item(f"At every site, who labelled each {one}, by which rule; some of them twice.", why)
    shift = facts.label_shift
    far = np.flatnonzero(shift.beyond).tolist()
    for k in sorted(far, key=lambda k: -shift.distance[k])[:_MOST_ITEMS]:
        why = (
            f"{shift.distance[k]:.0%} of its examples would have to change class for its mix to be "
            f"that of the median other site, where chance stays below {shift.floor[k]:.0%}."
        )
        yield Item(f"{called.name(k)}: how often each class occurs, and how it was chosen.", why)


def _of_belonging(facts: SiteFacts, survey: Survey, one: str) -> Iterator[Item]:
    if not facts.has_times:
        why = "The data say no time, so that no test can be of what comes after training."
        yield Item(f"At every site, when each {one} was taken.", why)
    held = survey.num_examples + survey.test_counts.sum(axis=1)
    if facts.groups is None:
        why = "The data name no groups: what belongs together may be on both sides of a test."
    elif (facts.groups == held).all():
        why = "Every example is a group of its own, which keeps nothing together."
    elif (facts.groups == 1).any():
        why = f"{count(int((facts.groups == 1).sum()), 'site is', 'sites are')} of one group alone."
    else:
        return
    yield Item(f"At every site, of which part, patient or recording each {one} is.", why)


def _of_copies(facts: SiteFacts, looks: Looks) -> Iterator[Item]:
    exact = looks.repeated_train + looks.repeated_test + looks.across_split
    near = facts.near_copies
    close = near.within_sites + near.across_sites + near.across_split if near else 0
    if not exact and not close:
        return
    parts = []
    if exact:
        parts.append(
            f"{looks.repeated_train:,} training and {looks.repeated_test:,} test {looks.nouns} "
            f"repeat others to the bit, and {looks.across_split:,} are in both"
        )
    if close:
        parts.append(f"{count(close, 'pair is', 'pairs are')} nearly the same")
    yield Item("How copies arise: repeated shots, transfers, sites that share data.", _both(parts))


def _both(parts: list[str]) -> str:
    return f"{'; '.join(parts)}."


def _of_examples(survey: Survey, dataset: Dataset, called: Called) -> Iterator[Item]:
    names = class_names(dataset)
    held = survey.train_counts + survey.test_counts
    wanting = np.maximum(ENOUGH - held, 0)
    for k in np.argsort(-wanting.sum(axis=1), kind="stable").tolist()[:_MOST_ITEMS]:
        few = np.argsort(-wanting[k], kind="stable").tolist()
        more = [f"{wanting[k, c]} of {show(names[c], 40)}" for c in few if wanting[k, c]]
        if not more:
            return
        absent = int((held[k] == 0).sum())
        none = f", and {absent} of them none" if absent else ""
        yield Item(
            f"{called.name(k)}: more examples, of classes that occur there: {called.list(more)}.",
            f"{count(len(more), 'class has', 'classes have')} fewer than {ENOUGH} examples{none}.",
        )


def _of_tests(survey: Survey, called: Called) -> Iterator[Item]:
    sizes = survey.test_counts.sum(axis=1)
    for k in [k for k in np.argsort(sizes, kind="stable").tolist() if sizes[k] < FEW_TESTS][
        :_MOST_ITEMS
    ]:
        why = "It has none, and is not scored."
        if sizes[k]:
            why = f"It has {sizes[k]}: one of them is {100 / sizes[k]:.1f} points of accuracy."
        more = count(int(FEW_TESTS - sizes[k]), "more test example", "more test examples")
        yield Item(f"{called.name(k)}: {more}.", why)


def _of_other_sites(survey: Survey, called: Called) -> Item:
    number = len(survey.num_examples)
    return Item(
        "One site more than the pilot trains on, to be scored at its end.",
        f"{called.count(number, 'is', 'are')} here; no seed draws another.",
    )
