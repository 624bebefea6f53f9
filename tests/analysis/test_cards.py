"""Three cards: each word follows from an interval that is known by hand."""

import math
from types import MappingProxyType
from typing import Any

import pytest

from lipsjax.analysis.cards import (
    HELPS,
    HURTS,
    NOT_ASKED,
    PAYS,
    PAYS_NOT,
    TOO_EASY,
    at_ceiling,
    cards,
    with_controls,
)
from lipsjax.analysis.comparison import MEASURES, Row
from lipsjax.analysis.diagnosis import NOT_STUCK, STUCK
from lipsjax.analysis.finding import NO_DIFFERENCE, UNKNOWN
from lipsjax.analysis.stats import mean_interval, paired_difference

SEEDS = 4
WIGGLE = (-0.003, 0.001, -0.001, 0.003)  # of seeds, so that intervals reach about 0.4 points
KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "local": {"strategy": {"name": "local"}},
    "pooled": {"partition": {"pooled": True}},
    "lips": {"sparsity": {"criterion": "saliency"}},
}


def row(arm, accuracy, *, inertia=0.3, spread=1.0, seeds=SEEDS, diverged=(), cell="", **config):
    """An arm of so much accuracy, a little more or less in each seed."""
    other = dict.fromkeys(MEASURES, 0.0)
    values = {
        seed: other
        | {"personalised": accuracy + (spread * WIGGLE[seed] if arm != "dense" else 0.0)}
        | {"global": accuracy, "inertia_end": inertia + WIGGLE[seed]}
        for seed in range(seeds)
    }
    means = {m: mean_interval([v[m] for v in values.values()]) for m in MEASURES}
    whole = {"strategy": {"name": "fedavg"}, "partition": {"pooled": False}, "sparsity": None}
    return Row(
        cell=cell,
        arm=arm,
        reference="dense",
        seeds=tuple(values),
        means=means,
        differences={},
        adjusted={},
        comparisons=0,
        values=MappingProxyType(values),
        config=whole | KINDS.get(arm, {}) | config if seeds else {},
        transient="lips" in arm,
        diverged=diverged,
    )


def compared(*rows):
    """The rows with their differences from dense; p is as it is, of one comparison."""
    dense = next(r for r in rows if r.arm == "dense")
    found = []
    for each in rows:
        if each.arm == "dense":
            found.append(each)
            continue
        common = sorted(each.values.keys() & dense.values.keys())
        differences = {
            m: paired_difference(
                [each.values[s][m] for s in common], [dense.values[s][m] for s in common]
            )
            for m in MEASURES
        }
        adjusted = {m: d.p for m, d in differences.items()}
        found.append(each._replace(differences=differences, adjusted=adjusted))
    return found


def words(*rows):
    return [card.word.lower() for card in cards(compared(*rows))]


@pytest.mark.parametrize(
    ("pooled", "inertia", "word"),
    [
        (0.75, 0.3, STUCK),  # 5 points ahead, and the middle lags
        (0.75, -0.3, NOT_STUCK),  # the middle moves more than the ends
        (0.702, 0.3, NOT_STUCK),  # ahead by less than a point
        (0.711, 0.3, UNKNOWN),  # about a point
    ],
)
def test_stuck_takes_room_and_a_middle_that_lags(pooled, inertia, word):
    rows = row("dense", 0.7, inertia=inertia), row("pooled", pooled)
    assert words(*rows)[0] == word


@pytest.mark.parametrize(
    ("local", "word"), [(0.6, PAYS), (0.8, PAYS_NOT), (0.7, NO_DIFFERENCE), (0.995, PAYS_NOT)]
)
def test_training_together_pays_where_alone_is_behind(local, word):
    card = cards(compared(row("dense", 0.7), row("local", local)))[1]
    assert card.word.lower() == word.lower()
    assert card.measured[0].interval.mean == pytest.approx(0.7 - local)


def test_the_share_of_pooled_data_is_told_where_it_pays():
    card = cards(compared(row("dense", 0.7), row("local", 0.6), row("pooled", 0.8)))[1]
    assert card.says == (
        "Sites that train together get 10.0 more of 100 right than sites alone. That is 50% of "
        "what all data in one place would add."
    )
    assert [round(100 * m.interval.mean, 6) for m in card.measured] == [10, -10]


@pytest.mark.parametrize(("lips", "is_sure"), [(0.72, True), (0.712, False)])
def test_a_gain_that_may_be_too_little_to_matter_is_said_to_be(lips, is_sure):
    card = cards(compared(row("dense", 0.7), row("lips", lips)))[2]
    assert card.word == HELPS
    assert ("perhaps by less than 1" not in card.says) == is_sure


@pytest.mark.parametrize(
    ("lips", "spread", "word"),
    [(0.72, 1, HELPS), (0.68, 1, HURTS), (0.7, 1, NO_DIFFERENCE), (0.72, 20, NO_DIFFERENCE)],
)
def test_lips_helps_where_its_interval_says_so(lips, spread, word):
    assert words(row("dense", 0.7), row("lips", lips, spread=spread))[2] == word.lower()


def test_what_an_interval_leaves_open_is_said_in_both_directions():
    wide, narrow = (
        cards(compared(row("dense", 0.7), row("lips", 0.7, spread=spread)))[2].says
        for spread in (10, 1)
    )
    half = 100 * mean_interval(WIGGLE).high * 10
    assert wide == (
        f"With it the model may get {half:.1f} of 100 fewer right than without, or {half:.1f} of "
        "100 more."
    )
    assert narrow == "If there is a difference, it is less than 1 of 100."


def test_two_seeds_name_nothing():
    rows = [row(arm, 0.5 + 0.1 * i, seeds=2) for i, arm in enumerate(("dense", "local", "lips"))]
    assert words(*rows) == [UNKNOWN] * 3
    assert "it takes 3" in cards(compared(*rows))[2].says


def test_where_no_room_is_left_the_task_is_too_easy():
    full, rest = row("dense", 0.995), (row("local", 0.995), row("pooled", 0.995))
    assert words(full, *rest, row("lips", 0.995))[1:] == [TOO_EASY, TOO_EASY]
    assert "99.5 of 100" in cards(compared(full, *rest, row("lips", 0.995)))[2].says
    # what hurts is still seen
    assert words(full, row("lips", 0.95))[2] == HURTS.lower()
    assert [at_ceiling(row("dense", a)) for a in (0.98, 0.99, 0.991)] == [False, False, True]


def test_a_card_without_its_control_says_how_to_get_it():
    stuck, pays, lips = cards(compared(row("dense", 0.7)))
    assert stuck.lacks == "No arm trained on the data of all sites in one place."
    assert pays.lacks == "No arm trained at each site alone."
    assert lips.lacks == "No arm had LIPS."
    assert (pays.word, lips.word) == (NOT_ASKED.capitalize(), NOT_ASKED.capitalize())
    for card in (stuck, pays, lips):
        assert card.arms == ("dense", "local", "pooled", "lips")


def test_a_control_is_found_by_its_config_and_its_name_is_not_taken_twice():
    rows = compared(row("dense", 0.7), row("alone", 0.6, strategy={"name": "local"}))
    assert cards(rows)[1].lacks == ""
    assert with_controls(rows) == ("dense", "alone", "pooled", "lips")
    unfinished = compared(row("dense", 0.7), row("local", math.nan, seeds=0))
    assert cards(unfinished)[1].lacks == "No run of local is finished."
    assert "local" in with_controls(unfinished)
    assert cards(unfinished)[1].arms == ()


def test_what_diverged_is_never_said_to_help():
    card = cards(compared(row("dense", 0.7), row("lips", 0.8, diverged=((3, "loss"),))))[2]
    assert card.word.lower() == UNKNOWN
    assert "diverged in 1 of 5 seeds" in card.says


def test_several_settings_are_counted():
    rows = []
    for cell, gain in (("a", 0.02), ("b", 0.02), ("c", 0.0)):
        rows += compared(row("dense", 0.7, cell=cell), row("lips", 0.7 + gain, cell=cell))
    card = cards(rows)[2]
    assert card.word == "It helps in 2 of 3"
    assert card.counts == ((HELPS, 2), (NO_DIFFERENCE, 1))
    assert card.says == "Of 3 comparisons: it helps in 2; no difference seen in 1."
    assert card.tone == "open"
    card = cards([each for each in rows if each.cell != "c"])[2]
    assert (card.word, card.says, card.tone) == (HELPS, "So it is in both comparisons.", "good")
    labels = [f"with it ({cell}: lips) minus without (dense)" for cell in "ab"]
    assert [measured.label for measured in card.measured] == labels
    means = [measured.interval.mean for measured in card.measured]
    assert means == pytest.approx([0.02, 0.02], abs=1e-3)
    many = [
        each
        for cell in "abcd"
        for each in compared(row("dense", 0.7, cell=cell), row("lips", 0.72, cell=cell))
    ]
    assert cards(many)[2].measured == ()
