"""Each site's examples are parted by a rule: nothing is lost, and no group is parted."""

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as draw

from lipsjax.datasets import DataError, split
from lipsjax.datasets.assembly import Found, assemble
from lipsjax.datasets.splitting import RULES

SHARES = draw.floats(0.05, 0.95)


@draw.composite
def sources(drawn):
    """Examples of some sites, each with a number of its own as its one feature."""
    size = drawn(draw.integers(2, 60))
    numbers = [
        np.array(drawn(draw.lists(draw.integers(0, most), min_size=size, max_size=size)))
        for most in (3, 2, 7, 20)
    ]
    site, labels, group, time = numbers
    inputs = np.arange(size, dtype=np.float32)[:, None]
    found = Found(inputs, labels, ("a", "b", "c"), site, group, time.astype(float))
    try:
        return assemble("made", found), site
    except DataError as error:  # each group is all that some site has
        if "no group can be kept for testing" not in str(error):
            raise
        reject()


def rows(examples):
    return examples.inputs[:, 0].astype(int)


@given(sources(), SHARES, draw.sampled_from(["stratified", "group", "time"]))
def test_every_example_is_there_once_and_its_facts_go_with_it(source, share, rule):
    dataset, site = source
    parted = split(dataset, rule=rule, share=share, rng=np.random.default_rng(0))
    train, test = rows(parted.train), rows(parted.test)
    assert sorted([*train, *test]) == list(range(len(site)))
    names = np.array(parted.sites.names)
    for each, origin in ((train, parted.sites.train), (test, parted.sites.test)):
        np.testing.assert_array_equal(names[origin.site].astype(int), site[each])


@given(sources(), SHARES)
def test_no_group_is_on_both_sides(source, share):
    parted = split(source[0], rule="group", share=share, rng=np.random.default_rng(1))
    assert not set(parted.sites.train.group) & set(parted.sites.test.group)
    for number in range(len(parted.sites.names)):
        assert (parted.sites.train.site == number).any()


@given(sources(), SHARES)
def test_what_came_later_is_tested_on(source, share):
    parted = split(source[0], rule="time", share=share, rng=np.random.default_rng(1))
    for number in range(len(parted.sites.names)):
        before, after = (
            origin.time[origin.site == number] for origin in (parted.sites.train, parted.sites.test)
        )
        assert not len(after) or before.max() <= after.min()


@given(sources(), SHARES)
def test_every_site_has_its_share_of_every_class(source, share):
    parted = split(source[0], rule="stratified", share=share, rng=np.random.default_rng(1))
    for number in range(len(parted.sites.names)):
        (trained, tested) = (
            np.bincount(x.labels[origin.site == number], minlength=3)
            for x, origin in (
                (parted.train, parted.sites.train),
                (parted.test, parted.sites.test),
            )
        )
        total = trained + tested
        # to a half, and one more where a site would have none for testing, or none for training
        assert (np.abs(tested - share * total) <= 0.5 + 1e-9).sum() >= (total > 0).sum() - 1
        if total.sum() > 1:
            assert trained.sum()
            assert tested.sum()


@given(sources())
def test_no_group_is_on_both_sides_as_data_are_read(source):
    """Made-up clients of data with groups are tested on other groups too."""
    sites = source[0].sites
    assert not set(sites.train.group) & set(sites.test.group)


def test_groups_that_are_sites_again_cannot_be_kept_for_testing():
    with pytest.raises(DataError, match=r"^made: no group can be kept for testing, as each is all"):
        of(site=SITE, group=SITE)
    assert of(site=SITE, group=SITE, in_test=np.arange(8) % 4 == 0).sites.is_split


def test_seeds_draw_other_splits_and_equal_ones_the_same():
    found = Found(
        np.arange(40.0, dtype=np.float32)[:, None],
        np.arange(40) % 2,
        ("a", "b"),
        np.arange(40) // 10,
    )
    dataset = assemble("made", found)
    tests = [
        rows(split(dataset, rule="auto", share=0.2, rng=np.random.default_rng(seed)).test).tolist()
        for seed in (0, 0, 1)
    ]
    assert tests[0] == tests[1] != tests[2]


def test_order_is_by_site_then_class_then_row():
    rng = np.random.default_rng(0)
    site, labels = rng.integers(0, 3, 30), rng.integers(0, 2, 30)
    inputs = np.arange(30, dtype=np.float32)[:, None]
    dataset = assemble("made", Found(inputs, labels, ("a", "b"), site))
    for part, origin in ((dataset.train, dataset.sites.train), (dataset.test, dataset.sites.test)):
        keys = list(zip(origin.site, part.labels, rows(part), strict=True))
        assert keys == sorted(keys)


def of(**facts):
    inputs, labels = np.zeros((8, 2), np.float32), np.arange(8) % 2
    return assemble("made", Found(inputs, labels, ("a", "b"), **facts))


SITE = np.repeat(["south", "north"], 4)


def test_two_ways_to_write_an_accent_are_one_site_and_one_group():
    two = np.array(["Caf\u00e9", "Cafe\u0301 "] * 4)
    made = of(site=two, group=two, in_test=np.arange(8) < 2)
    assert made.sites.names == ("Caf\u00e9",)
    assert set(made.sites.train.group) == {0}


def test_a_time_that_is_none_is_refused():
    time = np.arange(8).astype("datetime64[D]")
    time[3] = np.datetime64("NaT", "D")
    with pytest.raises(DataError, match=r"^made: time of example 3 is not a time \(NaT\)"):
        of(site=SITE, time=time)


@pytest.mark.parametrize(
    ("facts", "rule", "parts"),
    [
        ({}, "auto", ["made names no sites"]),
        ({"site": SITE}, "group", ["'group'", "names no group"]),
        ({"site": SITE}, "time", ["'time'", "names no time"]),
        ({"site": SITE}, "given", ["does not say", "stratified"]),
        ({"site": SITE, "in_test": np.arange(8) > 5}, "stratified", ["says itself", "given"]),
        ({"site": SITE}, "random", ["'random'", ", ".join(RULES)]),
    ],
)
def test_a_rule_that_the_data_do_not_serve_is_refused(facts, rule, parts):
    with pytest.raises(DataError) as refused:
        split(of(**facts), rule=rule, share=0.2, rng=np.random.default_rng(0))
    for part in parts:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        ({"site": SITE[:5]}, "site of shape (5,) for 8 examples"),
        ({"site": np.linspace(0, 1, 8)}, "site of type float64"),
        ({"site": np.array(["", *SITE[1:]])}, "site of example 0 is an empty text"),
        ({"site": SITE, "time": SITE}, "time of type <U5"),
        ({"group": np.arange(8)}, "names groups or times, and no sites"),
        ({"site": np.array([b"\xff"] * 8)}, "no text"),
    ],
)
def test_facts_that_do_not_fit_are_refused(facts, part):
    with pytest.raises(DataError, match=r".") as refused:
        of(**facts)
    assert part in str(refused.value)


def test_dates_are_times():
    days = np.array(["2026-01-01", "2026-01-03"] * 4, "datetime64[D]")
    assert set(of(site=SITE, time=days).sites.train.time) == {1767225600e6, 1767398400e6}
