"""What sets sites apart that data name, in plain sentences, and what to ask because of it."""

from collections.abc import Iterable, Sequence

import numpy as np

from lipsjax.datasets import Dataset
from lipsjax.partition import Survey
from lipsjax.partition.shift import NEAR, NearCopies, Shift
from lipsjax.partition.survey import SiteFacts
from lipsjax.report.survey.words import Called, Remark, count

FEW_TESTS = 30
"""Test examples below which a site's accuracy moves by over 3 points with each."""
_NARROW = 0.5
"""Of the range of all sites, below which a site's range is told."""


def of_sites(facts: SiteFacts, survey: Survey, dataset: Dataset, called: Called) -> list[Remark]:
    """Says how the sites differ that data name, and what to ask because of it.

    Args:
      facts: of a natural partition.
      survey: of the same.
      dataset: that was shared out.
      called: the names of its sites.

    Returns:
      Remarks; none on what there is nothing to say of.

    Example:
      >>> from lipsjax import partition
      >>> from lipsjax.datasets import synthetic
      >>> from lipsjax.partition.survey import compare_sites
      >>> rows = tuple(np.arange(k, 60, 2) for k in range(2))
      >>> parts, made = partition.Partition(rows, rows, np.full([2, 4], 0.25)), synthetic()
      >>> facts, survey = compare_sites(parts, made), partition.describe(parts, made)
      >>> [remark.topic for remark in of_sites(facts, survey, made, Called(["a", "b"]))]
      ['Label shift', 'Input shift', 'Near copies']
    """
    found = [
        _labels(facts.label_shift, called),
        _inputs(facts, called),
        _near(facts.near_copies),
        _ranges(facts, called),
        _constant(facts, dataset, called),
        _lacking(survey, dataset, called),
        _few_tests(survey, called),
        _groups(facts, survey, called),
        _parted_groups(dataset),
    ]
    return [remark for remark in found if remark is not None]


def _labels(shift: Shift, called: Called) -> Remark | None:
    if len(shift.distance) == 1:
        return None
    told = _far(shift, called)
    if not told:
        text = (
            "No site's class mix is farther from that of the median other site than chance "
            f"explains: up to {shift.distance.max():.0%} of its examples would have to change "
            "class."
        )
        return Remark("Label shift", text, "")
    text = (
        f"Farther from the class mixes of other sites than chance explains: {told}. The distance "
        "is the share of a site's examples that would have to change class for its mix to be that "
        "of another site, the median of those to every other; chance is what labels dealt out at "
        "random to sites of these sizes stay below 19 times of 20."
    )
    ask = "Do these sites meet other cases, or do they name what they meet by other rules?"
    return Remark("Label shift", text, ask)


def _inputs(facts: SiteFacts, called: Called) -> Remark | None:
    shift = facts.feature_shift
    if not np.isfinite(shift.distance).any():
        return None
    told = _far(shift, called)
    text = f"Farther from those of other sites than chance explains are inputs of: {told}."
    ask = "Is it another device or setting, another way of preparing things, or other things?"
    if not told:
        text, ask = (
            "No site's inputs are farther from the median other site's than chance explains.",
            "",
        )
    text += (
        " The distance is the energy distance of averaged and scaled inputs, 0 for alike and 100% "
        "for wholly apart, the median of those to every other site; chance is what examples of one "
        "class, exchanged at random among sites, stay below 19 times of 20."
    )
    if facts.groups is not None and told:
        text += " Examples of one group resemble each other, so that chance may reach farther."
    unmeasured = int(np.isnan(shift.distance).sum())
    if unmeasured:
        text += f" Not measured: {called.count(unmeasured, '', '').strip()}."
    return Remark("Input shift", text, ask)


def _far(shift: Shift, called: Called) -> str:
    """Returns the sites beyond chance, the farthest first."""
    far = [k for k in np.argsort(-shift.distance, kind="stable").tolist() if shift.beyond[k]]
    return called.list(
        [f"{called.name(k)} ({shift.distance[k]:.0%}, chance {shift.floor[k]:.0%})" for k in far]
    )


def _near(copies: NearCopies | None) -> Remark | None:
    if copies is None:
        return None
    pairs = (
        (copies.within_sites, "for training at one site"),
        (copies.across_sites, "for training at two sites"),
        (copies.across_split, "across training and test"),
    )
    said = [f"{count(number, 'pair', 'pairs')} {where}" for number, where in pairs if number]
    searched = f" among {copies.searched:,} of {copies.examples:,} examples, evenly spaced"
    among = searched if copies.searched < copies.examples else ""
    of = f"closer than {NEAR:.0%} of the median distance of two examples"
    if not said:
        return Remark("Near copies", f"No two inputs are nearly the same ({of}){among}.", "")
    ask = "Are they one thing taken twice? A group for each thing keeps it on one side of a test."
    return Remark("Near copies", f"Nearly the same ({of}){among}: {'; '.join(said)}.", ask)


def _ranges(facts: SiteFacts, called: Called) -> Remark | None:
    low, high = facts.ranges[:, 0].min(), facts.ranges[:, 1].max()
    narrow = narrow_sites(facts)
    if not narrow:
        return None
    listed = [
        f"{called.name(k)} ({facts.ranges[k, 0]:.4g}..{facts.ranges[k, 1]:.4g})" for k in narrow
    ]
    text = (
        f"Values of all sites lie in {low:.4g}..{high:.4g}, and in less than half of that at "
        f"{called.list(listed)}."
    )
    return Remark("Ranges", text, "Are values in the same unit, and scaled alike, at each site?")


def narrow_sites(facts: SiteFacts) -> list[int]:
    """Returns the clients whose values lie in less than half of the range of all."""
    span = facts.ranges[:, 1] - facts.ranges[:, 0]
    whole = facts.ranges[:, 1].max() - facts.ranges[:, 0].min()
    return np.flatnonzero(span < _NARROW * whole).tolist()


def _constant(facts: SiteFacts, dataset: Dataset, called: Called) -> Remark | None:
    noun = "feature" if dataset.kind == "features" else "channel"
    listed = [
        f"{called.name(k)} ({noun} {_numbers(channels)})"
        for k, channels in enumerate(facts.constant)
        if channels
    ]
    if not listed:
        return None
    text = f"Constant at one site and not at others: {called.list(listed)}."
    return Remark("Constant", text, "Is something switched off, not recorded or filled in there?")


def _lacking(survey: Survey, dataset: Dataset, called: Called) -> Remark | None:
    names = class_names(dataset)
    somewhere = survey.train_counts.sum(axis=0) > 0
    lacking = somewhere & (survey.train_counts == 0)
    if not lacking.any():
        return None
    listed = [
        f"{called.name(k)} lacks {_some(names[c] for c in np.flatnonzero(row).tolist())}"
        for k, row in enumerate(lacking)
        if row.any()
    ]
    text = f"Of the classes that others train on, {'; '.join(listed[:10])}"
    text += f"; and so do {len(listed) - 10} more in part" if len(listed) > 10 else ""
    return Remark("Lacking", f"{text}.", "Do they never occur there, or were they not recorded?")


def _few_tests(survey: Survey, called: Called) -> Remark | None:
    sizes = survey.test_counts.sum(axis=1)
    few = [k for k in np.argsort(sizes, kind="stable").tolist() if sizes[k] < FEW_TESTS]
    if not few:
        return None
    listed = called.list([f"{called.name(k)} ({sizes[k]})" for k in few])
    text = f"Fewer than {FEW_TESTS} test examples: {listed}."
    if sizes.min() == 0:
        text += " A site without any is not scored."
    return Remark("Small tests", text, "Can more of what these sites have be kept for testing?")


def _groups(facts: SiteFacts, survey: Survey, called: Called) -> Remark | None:
    if facts.groups is None:
        return None
    alone = [called.name(k) for k in np.flatnonzero(facts.groups == 1).tolist()]
    held = survey.num_examples + survey.test_counts.sum(axis=1)
    if alone:
        text = f"Of one group alone: {called.list(alone)}; a group is not parted."
        return Remark("Groups", text, "Do groups name recordings or patients, or sites again?")
    if (facts.groups == held).all():
        text = "Every example is a group of its own, so that groups keep nothing together."
        return Remark("Groups", text, "Do groups name recordings or patients, or rows again?")
    text = f"A site holds {facts.groups.min():,} to {facts.groups.max():,} groups."
    return Remark("Groups", text, "Is everything that belongs together in one group?")


def _parted_groups(dataset: Dataset) -> Remark | None:
    """Tells of groups on both sides of a test, as a given split or a rule by class may leave."""
    sites = dataset.sites
    if sites is None or sites.train.group is None or sites.test.group is None:
        return None
    both = np.intersect1d(sites.train.group, sites.test.group)
    if not len(both):
        return None
    tested = int(np.isin(sites.test.group, both).sum())
    what = count(tested, "test example is", "test examples are")
    text = f"{what} of a group that is trained on too ({count(len(both), 'group', 'groups')})."
    ask = "Does a test of what was partly trained on say what you want (--partition.split group)?"
    return Remark("Parted groups", text, ask)


def class_names(dataset: Dataset) -> Sequence[str]:
    """Returns what classes are called: by their names, or as class 0, class 1."""
    numbers = tuple(map(str, range(dataset.num_classes)))
    if dataset.class_names is None or dataset.class_names == numbers:
        return [f"class {number}" for number in numbers]
    return dataset.class_names


def _some(names: Iterable[str]) -> str:
    return Called(None).list(list(names))


def _numbers(channels: Sequence[int]) -> str:
    return _some(map(str, channels))
