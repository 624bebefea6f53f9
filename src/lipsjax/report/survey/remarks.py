"""What to know of the sites, and to ask, before anything is trained: plain sentences.

They are questions and no verdicts: whether a site with three examples matters, only who runs it
can know.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

from lipsjax.datasets import Dataset
from lipsjax.datasets.base import show
from lipsjax.partition import Survey
from lipsjax.partition.survey import Looks, SiteFacts, mean_pairwise_tv
from lipsjax.report.survey.between import of_sites
from lipsjax.report.survey.words import Called, Remark, count

_CHANCE_DRAWS = 20
_ALIKE = 0.1
"""Of the way from chance to no class in common; below it, sites are called little different."""
_FEW_CHANNELS = 4
_DARK = 15
"""The largest value of uint8 images that makes one ask whether they were meant as 0..1."""
_BRIGHT = 30.0
"""The largest value of floating images that makes one ask whether they were meant as 0..255."""
_SCALED = 4
"""The ratio of two splits' ranges that makes one ask whether they were scaled alike."""
_MOST_NAMES = 10
_NO_LABEL = ("-1", "nan", "none", "null", "na", "n/a", "unknown", "unlabelled", "unlabeled")
_MANY_CLASSES = 100
_FEW_IMAGES = 5
"""Images of a class, on average, below which one asks of many classes whether they are ids."""


def remarks(
    survey: Survey,
    dataset: Dataset,
    *,
    batch_size: int,
    epochs: int,
    new_clients: int = 0,
    features: str = "",
    looks: Looks | None = None,
    sites: Sequence[str] | None = None,
    facts: SiteFacts | None = None,
) -> list[Remark]:
    """Says in sentences what the sites hold, and what to ask before training on them.

    Args:
      survey: of a partition of `dataset`.
      dataset: that was shared out.
      batch_size: examples of a local step.
      epochs: local passes of a round.
      new_clients: how many of the last clients never train.
      features: how the images of clients differ, in a phrase; empty where they do not.
      looks: what the inputs are like, where they were looked at.
      sites: names of the clients, where they are sites that the data name.
      facts: what sets these sites apart, where it was measured.

    Returns:
      Remarks, the most general ones first.

    Example:
      >>> from lipsjax import datasets, partition
      >>> held = partition.Partition((np.arange(9),), (np.arange(4),), np.full([1, 4], 0.25))
      >>> digits = datasets.synthetic()
      >>> found = remarks(partition.describe(held, digits), digits, batch_size=10, epochs=1)
      >>> found[0].statement
      'One client holds 9 of the 800 training examples of synthetic.'
    """
    called = Called(sites)
    found = [
        _examples(survey, dataset, called),
        *(_of_inputs(looks, len(dataset.test.labels)) if looks else []),
        _names(dataset),
        _ids(dataset),
        _smallest(survey, called),
        _largest(survey, new_clients, called),
        _classes(survey, called),
        _absent(survey, dataset, called),
        _untested(dataset),
        _unused_sites(dataset) if sites is None else None,
        _differences(survey, called),
        *(of_sites(facts, survey, dataset, called) if facts else []),
        _steps(survey, batch_size, epochs, called),
        _tests(survey, new_clients, called),
    ]
    if features:
        text = f"{features[0].upper()}{features[1:]}."
        found.append(Remark("Images", text, "Do the cameras of your sites differ like that?"))
    if new_clients:
        who = called.count(new_clients, "never trains", "never train")
        who = f"The last {who}" if sites is None else f"{called.list(sites[-new_clients:])}: {who}"
        found.append(Remark("New sites", f"{who}: scored at the end, as new sites.", ""))
    return [remark for remark in found if remark is not None]


def _examples(survey: Survey, dataset: Dataset, called: Called) -> Remark:
    sizes, exist = survey.num_examples, len(dataset.train.labels)
    who = f"One {called.one} holds" if len(sizes) == 1 else called.count(len(sizes), "", "hold")
    text = f"{who} {survey.distinct_train:,} of the {exist:,} training examples of {dataset.name}"
    if len(sizes) > 1:
        each = f"{sizes.min():,}"
        if sizes.min() < sizes.max():
            each += f" to {sizes.max():,}, {np.median(sizes):,.0f} at the median"
        text += f": {each} each" if sizes.min() == sizes.max() else f": {each}"
    if sizes.sum() > survey.distinct_train:
        text += f". They share examples, and count {sizes.sum():,} together"
    ask = "Is that what your sites will have when you train?"
    return Remark("Examples", f"{text}.", ask)


def _smallest(survey: Survey, called: Called) -> Remark | None:
    sizes, client = survey.num_examples, survey.smallest_client
    if sizes.min() == sizes.max():
        return None
    what = count(sizes[client], "training example", "training examples")
    of = count(survey.num_held[client], "class", "classes")
    return Remark(
        "Smallest site",
        f"{called.name(client)} holds the fewest: {what}, of {of}.",
        "Should a site like that train, or only receive the model?",
    )


def _largest(survey: Survey, new_clients: int, called: Called) -> Remark | None:
    sizes = survey.num_examples[: len(survey.num_examples) - new_clients]
    share = sizes.max() / sizes.sum()
    if len(sizes) == 1 or share < 2 / len(sizes):
        return None
    return Remark(
        "Largest site",
        f"{called.name(int(sizes.argmax()))} holds {share:.0%} of what is trained on, and weighs "
        "as much in an average by examples.",
        "May one site decide so much?",
    )


def _classes(survey: Survey, called: Called) -> Remark:
    count, (clients, classes) = survey.num_held, survey.train_counts.shape
    typical, alone = int(np.median(count)), int((count == 1).sum())
    who = "It" if clients == 1 else f"The typical {called.one}"
    text = f"{who} holds {typical} of {classes} classes"
    text += f", and lacks {classes - typical}" if typical < classes else ""
    text += f"; its commonest class makes {np.median(survey.largest_share):.0%} of its examples"
    if alone and clients > 1:
        text += f". {called.count(alone, 'holds', 'hold')} one class alone"
    ask = (
        "Must a site know classes that it has no examples of? If so, look at the accuracy on the "
        "global test set; if not, at the personalised one."
    )
    return Remark("Classes", f"{text}.", ask if typical < classes else "")


def _absent(survey: Survey, dataset: Dataset, called: Called) -> Remark | None:
    if not survey.absent_classes:
        return None
    text = f"No {called.one} holds {_called(survey.absent_classes, dataset)}"
    if np.isin(survey.absent_classes, dataset.test.labels).any():
        text += ", and the test split asks for them: no model here can get these right"
    return Remark("Absent classes", f"{text}.", "Leave them out, or find a site that has them?")


def _untested(dataset: Dataset) -> Remark | None:
    missing = np.setdiff1d(dataset.train.labels, dataset.test.labels)
    if not len(missing):
        return None
    one = _one(dataset)
    text = f"No test {one} is of {_called(missing.tolist(), dataset)}: the accuracy leaves them out"
    return Remark("Untested classes", f"{text}.", f"Can some of their {one}s be kept for testing?")


def _called(labels: Sequence[int], dataset: Dataset) -> str:
    """Returns some classes by number, and by name where they have names of their own."""
    names = _own_names(dataset)
    each = [f"{label} ({show(names[label], 40)})" if names else f"{label}" for label in labels]
    more = ", ..." if len(each) > _MOST_NAMES else ""
    return f"{'class' if len(each) == 1 else 'classes'} {', '.join(each[:_MOST_NAMES])}{more}"


def _own_names(dataset: Dataset) -> tuple[str, ...]:
    """Returns the names of classes; none if they are but the classes' numbers."""
    names = dataset.class_names or ()
    return names if names != tuple(map(str, range(len(names)))) else ()


def _names(dataset: Dataset) -> Remark | None:
    names = _own_names(dataset)
    if not names:
        return None
    ask, one = "", _one(dataset)
    unknown = [name for name in names if name.casefold() in _NO_LABEL]
    if unknown:
        ask = f"Does {unknown[0]} stand for {one}s without a label? Then leave them out."
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_plain(name), []).append(show(repr(name), 40))
    pairs = [" and ".join(group[:3]) for group in alike.values() if len(group) > 1]
    if pairs:
        ask = f"Do {', '.join(pairs[:3])} name one class? Then write them alike."
    return Remark("Class names", f"By name: {_called(range(len(names)), dataset)}.", ask)


def _ids(dataset: Dataset) -> Remark | None:
    """Asks whether labels are ids, which are nearly one for each input."""
    classes = len(np.unique(dataset.train.labels))
    each = len(dataset.train.labels) / classes
    if classes < _MANY_CLASSES or each >= _FEW_IMAGES:
        return None
    one = _one(dataset)
    text = f"{classes:,} classes have {each:.1f} training {one}s on average."
    return Remark("Class sizes", text, f"Do the labels name classes, or are they ids of {one}s?")


def _plain(name: str) -> str:
    """Returns what two spellings of one name have in common.

    >>> _plain("Hair line") == _plain("hair_line"), _plain("-1") == _plain("1")
    (True, False)
    """
    text = unicodedata.normalize("NFKC", name).casefold()
    blank = ("Cf", "Pc", "Zs")  # what is not seen, underscores and spaces
    return "".join(letter for letter in text if unicodedata.category(letter) not in blank)


def _unused_sites(dataset: Dataset) -> Remark | None:
    """Tells of sites that the data name where the clients are made up."""
    if dataset.sites is None:
        return None
    names = dataset.sites.names
    listed = ", ".join(show(name, 40) for name in names[:5]) + (", ..." if len(names) > 5 else "")
    named = count(len(names), "site", "sites")
    return Remark(
        "Sites in the data",
        f"The data name {named} ({listed}); these clients are made up and mix their examples.",
        "Should the clients be these sites (--partition.kind natural)?",
    )


def _one(dataset: Dataset) -> str:
    """Returns what one input is called."""
    return "image" if dataset.kind == "images" else "example"


def _of_inputs(looks: Looks, tests: int) -> list[Remark]:
    layout = _layout(looks) if len(looks.shape) == 3 else []
    return [_pixels(looks), *layout, *_values(looks), _duplicates(looks, tests)]


def _pixels(looks: Looks) -> Remark:
    values = _range(looks.train_range)
    if looks.train_range != looks.test_range:
        values += f" to train and {_range(looks.test_range)} to test"
    text = f"{looks.in_words}, type {looks.dtype}, values in {values}."
    return Remark("Pixels" if len(looks.shape) == 3 else "Values read", text, "")


def _range(values: tuple[float, float]) -> str:
    return f"{values[0]:.4g}..{values[1]:.4g}"


def _layout(looks: Looks) -> list[Remark]:
    if len(looks.shape) != 3:
        return []
    height, width, channels = looks.shape
    if channels <= max(height, width) and not height <= _FEW_CHANNELS < min(width, channels):
        return []
    text = f"{height} x {width} pixels with {channels} channels are an unlikely layout"
    ask = "Are the channels first, [N, C, H, W]? Then np.moveaxis(images, 1, -1) puts them last."
    return [Remark("Layout", f"{text}; axes are read as [N, H, W, C].", ask)]


def _values(looks: Looks) -> list[Remark]:
    (low, high), (test_low, test_high) = looks.train_range, looks.test_range
    found = []
    if low == high:
        text = f"Every value of every training {looks.noun} is {low:.4g}."
        ask = "What went wrong there?"
        found.append(Remark("Values", text, ask))
    elif looks.dtype == "uint8" and high <= _DARK:
        text = f"Values of type uint8 are divided by 255, and none is above {high:.0f}."
        ask = "Were they meant as they are? Then store them as floating numbers."
        found.append(Remark("Values", text, ask))
    elif len(looks.shape) == 3 and looks.dtype != "uint8" and max(-low, high) > _BRIGHT:
        text = f"Floating values are taken as they are, here up to {max(-low, high):.4g}."
        ask = "Were 0..255 meant? Then store them as uint8, or divide them by 255."
        found.append(Remark("Values", text, ask))
    spans = sorted((high - low, test_high - test_low))
    if spans[1] > _SCALED * spans[0]:
        text = f"Training values lie in {_range(looks.train_range)}, test values in "
        text += f"{_range(looks.test_range)}."
        found.append(Remark("Scales", text, "Were the two splits scaled alike?"))
    return found


def _duplicates(looks: Looks, tests: int) -> Remark:
    one, many = looks.noun, looks.nouns
    counts = (
        (
            looks.repeated_train,
            f"training {one} repeats",
            f"training {many} repeat",
            "an earlier one",
        ),
        (looks.repeated_test, f"test {one} repeats", f"test {many} repeat", "an earlier one"),
        (looks.within_sites, f"{one} is", f"{many} are", "at one site more than once"),
        (looks.across_sites, f"{one} is", f"{many} are", "at several sites"),
        (
            looks.across_split,
            f"of {tests:,} test {many} is",
            f"of {tests:,} test {many} are",
            "in training too",
        ),
        (looks.labelled_twice, f"{one} has", f"{many} have", "several labels"),
    )
    said = [f"{count(number, a, b)} {what}" for number, a, b, what in counts if number]
    if not said:
        return Remark("Duplicates", f"No two {many} are the same to the bit.", "")
    ask = "Are they copies? Then leave them out."
    if looks.across_split:
        ask = f"A test {one} that is trained on says nothing of new ones: can it be left out?"
    return Remark("Duplicates", f"Of {many} that are the same to the bit: {'; '.join(said)}.", ask)


def _differences(survey: Survey, called: Called) -> Remark | None:
    if len(survey.num_examples) == 1:
        return None
    by_chance = chance_tv(survey)
    text = (
        f"For the class mixes of two {called.many} to agree, {survey.mean_pairwise_tv:.0%} of the "
        f"examples of one would have to change class, in the mean over all pairs; {by_chance:.0%} "
        f"if {called.many} of these sizes had drawn from one pool. Jensen-Shannon divergence "
        f"{survey.mean_pairwise_js:.2f}, of at most {np.log(2):.2f} nats."
    )
    ask = "Does one model suit sites that differ so? Train an arm of each site alone to compare."
    if survey.mean_pairwise_tv - by_chance < _ALIKE * (1 - by_chance):
        ask = "That is little more than chance: what would a model of its own add to a site?"
    return Remark("Differences", text, ask)


def chance_tv(survey: Survey) -> float:
    """Returns the mean pairwise distance if all clients had drawn from what they hold together.

    It is estimated by 20 multinomial draws from a seed that is always the same.
    """
    rng = np.random.default_rng(0)
    mix = survey.train_counts.sum(axis=0) / survey.num_examples.sum()
    draws = rng.multinomial(survey.num_examples, mix, (_CHANCE_DRAWS, len(survey.num_examples)))
    return float(np.mean([mean_pairwise_tv(x / x.sum(axis=1, keepdims=True)) for x in draws]))


def _steps(survey: Survey, batch_size: int, epochs: int, called: Called) -> Remark:
    steps = epochs * -(-survey.num_examples // batch_size)
    fewer = int((survey.num_examples < batch_size).sum())
    each = f"{steps.min()}" if steps.min() == steps.max() else f"{steps.min()} to {steps.max()}"
    each += " step" if steps.max() == 1 else " steps"
    text = f"With batches of {batch_size}, a {called.one} takes {each} a round"
    if not fewer:
        return Remark("Steps", f"{text}.", "")
    who = f"no {called.one} fills"
    if fewer < len(steps):
        who = called.count(fewer, "does not fill", "do not fill")
    text += f"; {who} a batch, so that an epoch is one step."
    return Remark("Steps", text, "Would a smaller local.batch_size use what they hold better?")


def _tests(survey: Survey, new_clients: int, called: Called) -> Remark:
    sizes = survey.test_counts.sum(axis=1)
    trained = sizes[: len(sizes) - new_clients]
    trained = trained[trained > 0]  # the mean is over those that are scored
    # 95% of a mean of K m draws with the largest variance, that of accuracy 1/2
    band = 1.96 * 50 * np.sqrt((1 / trained).sum()) / len(trained)
    least = trained.min()
    at_least = "" if least == trained.max() else " at the least"
    text = (
        f"A {called.one} is tested on {count(least, 'example', 'examples')}{at_least}: one of them "
        f"is {100 / least:.1f} points of its accuracy. Which ones were drawn moves the mean "
        f"over {called.many} by up to {band:.1f} points either way (95%)."
    )
    return Remark("Test sets", text, "Is the gain that you look for larger than that?")
