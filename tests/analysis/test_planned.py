"""What planned looks decide of recorded runs, and the sentences that say it."""

import math
from pathlib import Path

import numpy as np
import pytest

from helpers.fake_study import write_study
from lipsjax.analysis.decision import decide
from lipsjax.analysis.planned import (
    End,
    boundary,
    differences,
    end_of,
    is_settled,
    plan_of,
    sentences,
    take,
)
from lipsjax.recording import (
    Comparison,
    Decided,
    Decisions,
    Looks,
    RecordingError,
    decisions_as_json,
    read_looks,
    read_study,
    record_looks,
)

LIPS = Comparison("lips", "dense", 0, "personalised")
LOOKS = Looks(
    margin=0.01,
    looks=(4, 8),
    order="recycled",
    alpha=0.025,
    equivalence=0.05,
    spending="obrien_fleming",
    comparisons=(LIPS, Comparison("lips", "dense", 0, "global")),
    cells=("",),
    seed=10,
    runs="0f" * 8,
)


def ends(personalised, common):
    """Runs of which the differences are these, from seed 10 on; None: lips diverged."""
    steps = {"personalised": 0.001, "global": 0.002}
    found = {}
    for i, (own, shared) in enumerate(zip(personalised, common, strict=True)):
        found[0, "dense", 10 + i] = End({"personalised": 0.5, "global": 0.5}, steps)
        values = {"personalised": 0.5 + (own or 0), "global": 0.5 + (shared or 0)}
        found[0, "lips", 10 + i] = None if own is None else End(values, steps)
    return found


FAR = [0.30, 0.301, 0.299, 0.3, 0.3, 0.302, 0.298, 0.3]
NEAR = [0.02, -0.01, 0.03, 0.0, 0.04, -0.02, 0.01, 0.0]


def test_a_look_is_decided_as_all_of_it_at_once():
    runs = ends(FAR, NEAR)
    first = take(runs, LOOKS, 1)
    second = take(runs, LOOKS, 2, first)
    whole = decide(
        plan_of(LOOKS),
        dict(zip((each.key for each in LOOKS.comparisons), (FAR, NEAR), strict=True)),
        steps=dict(zip((each.key for each in LOOKS.comparisons), (0.001, 0.002), strict=True)),
    )
    for each in second:
        same = whole[each.comparison.key]
        assert (each.claim, each.seeds) == (same.claim, same.seeds)
        assert each.estimate == pytest.approx(same.estimate)
    assert [each.claim for each in first] == ["better", "open"]
    assert [(each.claim, each.look, each.seeds) for each in second] == [
        ("better", 1, 4),
        ("not decided", 2, 8),
    ]
    assert [is_settled(found) for found in (first, second)] == [False, True]


def test_a_claim_needs_no_run_after_it():
    """Of personalised accuracy nothing is there beyond look 1, and nothing is asked."""
    first = take(ends(FAR[:4], FAR[:4]), LOOKS, 1)
    assert [each.claim for each in first] == ["better", "better"]
    assert take(ends(FAR[:4], FAR[:4]), LOOKS, 2, first) == first


def test_a_run_that_is_not_there_is_no_look():
    with pytest.raises(KeyError):
        take(ends(NEAR[:3], NEAR[:3]), LOOKS, 1)


def test_a_seed_that_diverged_settles_its_comparisons_for_good():
    bad = [NEAR[0], None, *NEAR[2:]]
    first = take(ends(bad, NEAR), LOOKS, 1)
    assert [(each.claim, each.look) for each in first] == [("not decided", 1)] * 2
    assert all(math.isnan(each.estimate) for each in first)
    assert [each.claim for each in take(ends(bad, NEAR), LOOKS, 2, first)] == ["not decided"] * 2


def test_the_finer_step_of_the_two_arms_is_the_least_spread():
    runs = ends(NEAR, NEAR)
    runs[0, "lips", 12] = End({"personalised": 0.5, "global": 0.5}, {"personalised": 1e-4})
    found, step = differences(runs, LIPS, range(10, 14))
    np.testing.assert_allclose(found, [0.02, -0.01, 0.0, 0.0], atol=1e-12)
    assert step == 1e-4


def test_the_end_of_a_run_is_the_measure_of_reports(tmp_path):
    study = read_study(write_study(tmp_path, seeds=1))
    run = study.trials[0].recording
    found = end_of(run)
    assert found.values["personalised"] == pytest.approx(run.scalars["accuracy_dense"][-4:].mean())
    assert found.values["global"] == pytest.approx(run.scalars["global_accuracy"][-4:].mean())
    assert found.steps["personalised"] == pytest.approx(1 / (20 * 10_000))


# As recorded.


def decided(comparison, claim, look=1, estimate=0.021):
    return Decided(comparison, claim, look, LOOKS.looks[look - 1], estimate, 0.0, 0.04)


def with_decisions(out: Path, looks, found, *, taken=2, most_runs=None, spent=False, **study):
    """A made-up study of which this was decided, read again."""
    decisions = Decisions(looks, taken, most_runs, spent, tuple(found))
    write_study(out, seeds=4, rounds=10, decisions=decisions_as_json(decisions), **study)
    record_looks(out, looks, "the command")
    return read_study(out)


def test_decisions_are_read_as_they_were_written(tmp_path):
    found = [decided(LIPS, "better"), decided(LOOKS.comparisons[1], "open", 2, math.nan)]
    study = with_decisions(tmp_path, LOOKS, found, taken=2, most_runs=20)
    assert study.decisions is not None
    assert study.decisions.plan == LOOKS
    assert str(study.decisions.found) == str(tuple(found))  # NaN is not equal to itself
    assert read_looks(tmp_path) == (LOOKS, "the command")


@pytest.mark.parametrize(
    ("claim", "look", "more", "wanted"),
    [
        (
            "better",
            1,
            {},
            "lips is better than dense by more than 1 point of personalised accuracy (claimed at "
            "look 1 of 2, 4 seeds; estimate +2.10 points).",
        ),
        (
            "worse",
            2,
            {},
            "lips is worse than dense by more than 1 point of personalised accuracy (claimed at "
            "look 2 of 2, 8 seeds; estimate +2.10 points).",
        ),
        (
            "equivalent",
            2,
            {},
            "lips and dense differ by less than 1 point of personalised accuracy (claimed at look "
            "2 of 2, 8 seeds; estimate +2.10 points).",
        ),
        (
            "not decided",
            2,
            {},
            "lips against dense, personalised accuracy: not decided at a margin of 1 point (after "
            "the last look, 8 seeds; estimate +2.10 points).",
        ),
        (
            "not decided",
            1,
            {"most_runs": 9, "spent": True},
            "lips against dense, personalised accuracy: not decided at a margin of 1 point (the "
            "budget of 9 runs ended before the next look; look 1 of 2, 4 seeds; estimate +2.10 "
            "points).",
        ),
        (
            "open",
            1,
            {"taken": 1},
            "lips against dense, personalised accuracy: still open at a margin of 1 point (after "
            "look 1 of 2, 4 seeds; estimate +2.10 points).",
        ),
    ],
)
def test_sentences(tmp_path, claim, look, more, wanted):
    looks = LOOKS._replace(comparisons=(LIPS,))
    study = with_decisions(tmp_path, looks, [decided(LIPS, claim, look)], **more)
    told = sentences(study)
    assert told[0] == wanted
    assert len(told) == 3
    assert told[1].startswith("It took 8 runs")
    assert "looks after 4 and 8 seeds, margin 1 point" in told[2]


def test_a_study_without_looks_says_nothing(tmp_path):
    assert sentences(read_study(write_study(tmp_path, seeds=2))) == []


def test_a_grid_is_told_row_by_row(tmp_path):
    overrides = [
        {"partition.train_examples": size, "partition.alpha": alpha}
        for size in (5, 10)
        for alpha in (0.1, 0.3, 1.0, 10.0)
    ]
    claims = ["better", "not decided", "not decided", "equivalent"]
    claims += ["not decided", "equivalent", "equivalent", "equivalent"]
    comparisons = tuple(Comparison("lips", "dense", i, "global") for i in range(8))
    looks = LOOKS._replace(comparisons=comparisons)
    found = [decided(each, claim, 2) for each, claim in zip(comparisons, claims, strict=True)]
    labels = tuple(f"cell {i}" for i in range(8))
    cells = [
        {"label": label, "overrides": own} for label, own in zip(labels, overrides, strict=True)
    ]
    study = with_decisions(tmp_path, looks, found, cells=labels)
    study = study._replace(cells=tuple(cells))
    assert boundary(study) == [
        "train_examples 5: lips against dense, global accuracy: better at alpha 0.1; not decided "
        "at alpha 0.3 and 1.0; equivalent at alpha 10.0.",
        "train_examples 10: lips against dense, global accuracy: not decided at alpha 0.1; "
        "equivalent at alpha 0.3 to 10.0.",
        "Of 8 comparisons, at a margin of 1 point: better in 1, equivalent in 4, not decided in 3.",
    ]
    assert sentences(study)[:3] == boundary(study)


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda d: d.pop("plan"), "lacks 'plan'"),
        (lambda d: d.update(plan="0" * 16), "of another plan than its looks.json"),
        (lambda d: d["found"].pop(), "what was decided is not what was planned"),
        (lambda d: d["found"][0].update(claim="helps"), "a decision is 'helps'"),
        (lambda d: d["found"][0].update(look=None), "at look 'None'"),
        (lambda d: d["found"][0].update(estimate="high"), "could not convert"),
        (lambda d: d["found"][0].pop("comparison"), "lacks 'comparison'"),
    ],
)
def test_damaged_decisions_are_refused(tmp_path, edit, part):
    looks = LOOKS._replace(comparisons=(LIPS,))
    recorded = decisions_as_json(Decisions(looks, 1, None, False, (decided(LIPS, "better"),)))
    recorded = {**recorded, "found": [dict(each) for each in recorded["found"]]}
    edit(recorded)
    write_study(tmp_path, seeds=2, rounds=10, decisions=recorded)
    record_looks(tmp_path, looks, "the command")
    with pytest.raises(RecordingError, match=part):
        read_study(tmp_path)


def test_a_decision_of_an_arm_that_is_not_there_is_refused(tmp_path):
    other = Comparison("random", "dense", 0, "personalised")
    looks = LOOKS._replace(comparisons=(other,))
    with pytest.raises(RecordingError, match="a comparison is of an arm or a cell"):
        with_decisions(tmp_path, looks, [decided(other, "better")])
