"""Five lines for those who decide: always five, never a number that is none, and what follows."""

import io
import math

import pytest
from rich.console import Console

from helpers import commands
from helpers.edited_study import LOCAL, SMALL, edit, lips_and_controls, rows_of, study_with_controls
from helpers.fake_study import write_study
from lipsjax.analysis.comparison import difference
from lipsjax.analysis.diagnosis import ALONE
from lipsjax.analysis.stats import Difference, Interval, seeds_needed, seeds_range
from lipsjax.analysis.verdict import findings
from lipsjax.analysis.wording import points
from lipsjax.experiments.report import draw
from lipsjax.recording import read_study
from lipsjax.report.summary import GO, NO_GO, OPEN, advise, executive

PRICES = {"per_gb": 2.0, "per_device_hour": 3.0, "per_point": 10.0}
BEGINNINGS = ("Question: ", "Setting: ", "Effect: ", "Cost: ", "Next: ")

STUDIES = {
    "two arms": {},
    "one arm": {"arms": ("dense",)},
    "one seed": {"seeds": 1},
    "grid": {"cells": ("a", "b", "c", "d")},
    "two cells": {"cells": ("a", "b")},
    "many arms": {"arms": ("dense", *"abcdefghijklmn")},
    "prices": {"prices": PRICES},
    "some prices": {"prices": {"per_point": 1.0}},
    "prices and a grid": {"prices": PRICES, "cells": ("a", "b", "c", "d")},
    "unfinished": {"missing": (("lips", 0), ("lips", 1), ("lips", 2), ("lips", 3))},
    "nothing of the reference": {"missing": tuple(("dense", seed) for seed in range(4))},
    "no effect": {"gain": 0.0, "noise": 0.05},
}


def lines_of(path):
    lines = executive(read_study(path))
    assert len(lines) == 5
    for line, beginning in zip(lines, BEGINNINGS, strict=True):
        assert line.startswith(beginning)
        assert line.endswith(".")
        assert "\n" not in line
        assert "nan" not in line.lower().replace("finance", "")
    return lines


@pytest.mark.parametrize("case", STUDIES)
def test_always_five_lines(tmp_path, case):
    write_study(tmp_path, **SMALL | STUDIES[case])
    assert lines_of(tmp_path) == lines_of(tmp_path)


def test_what_was_asked_and_of_what(tmp_path):
    question, *_ = lines_of(write_study(tmp_path, **SMALL, missing=(("lips", 3),)))
    assert question == (
        "Question: fake – lips against dense, 4 seeds, on digits at 4 clients of 30 examples "
        "(Dirichlet(0.1)), cnn, 20 rounds; 1 trial not finished."
    )


def test_a_stuck_setting_with_its_controls(tmp_path):
    _, setting, effect, _, advice = lines_of(study_with_controls(tmp_path))
    assert setting.startswith("Setting: stuck; federating (dense) against training alone +")
    assert "pooled data against dense +" in setting
    assert effect.startswith("Effect: no finished arm has transient sparsity; on ")
    assert advice.startswith("Next: not known, as no finished arm has transient sparsity")


def test_a_gain_is_a_go(tmp_path):
    _, _, effect, _, advice = lines_of(write_study(tmp_path, gain=0.1, **SMALL))
    assert effect.startswith("Effect: on personalised accuracy, lips helps, +")
    assert advice == "Next: go for lips, as it helps."


def test_a_loss_is_a_no_go(tmp_path):
    *_, advice = lines_of(write_study(tmp_path, gain=-0.1, **SMALL))
    assert advice == "Next: no-go for lips, as it hurts."


def test_scatter_asks_for_seeds_in_a_range(tmp_path):
    write_study(tmp_path, gain=0.0, **SMALL | {"noise": 0.05})
    *_, advice = lines_of(tmp_path)
    found = rows_of(tmp_path)[1].differences["personalised"].interval
    (few, many), observed = seeds_range(found, 0.01), seeds_needed(found, 0.01)
    assert observed is not None
    assert few < observed < many
    assert advice == (
        "Next: not known for lips, as gain and loss are both possible; what would settle it: "
        f"{few} to {many} seeds, with which the interval would reach 1 point to either side "
        f"({observed} at the spread observed, which 4 seeds tell roughly)."
    )


def test_of_several_the_most_scattered_one_is_told(tmp_path):
    write_study(tmp_path, arms=("dense", "a", "b"), gain=0.0, **SMALL | {"noise": 0.05})
    *_, advice = lines_of(tmp_path)
    ranges = [
        seeds_range(row.differences["personalised"].interval, 0.01) for row in rows_of(tmp_path)[1:]
    ]
    few, many = max(ranges, key=lambda r: r[1])
    assert f"for the most scattered one, {few} to {many} seeds" in advice


def test_an_effect_on_global_accuracy_alone_is_told(tmp_path):
    write_study(tmp_path, gain=0.0, **SMALL)
    edit(tmp_path, "lips", global_accuracy=0.1)
    _, _, effect, _, advice = lines_of(tmp_path)
    found = rows_of(tmp_path)[1].differences["global"].interval
    assert effect.startswith("Effect: on personalised accuracy, lips makes no difference that is")
    assert effect.endswith(f"; on global accuracy, lips helps, {points(found)}.")
    assert "go for" not in advice.replace("no-go for", "")


def test_effects_on_global_accuracy_are_counted_among_many(tmp_path):
    write_study(tmp_path, arms=("dense", *"abcde"), gain=0.0, **SMALL)
    edit(tmp_path, "c", global_accuracy=-0.1)
    _, _, effect, *_ = lines_of(tmp_path)
    words = "makes no difference that is seen in 4 of 5 comparisons, hurts in 1"
    assert f"; on global accuracy, it {words}" in effect


def test_an_equal_effect_on_global_accuracy_is_not_said_twice(tmp_path):
    _, _, effect, *_ = lines_of(write_study(tmp_path, gain=0.1, **SMALL))
    assert "global" not in effect


def test_where_training_alone_is_ahead_more_seeds_are_no_advice(tmp_path):
    arms = ("dense", "lips", "alone")
    write_study(tmp_path, arms=arms, gain=0.0, **SMALL | {"noise": 0.02})
    assert "settle" in lines_of(tmp_path)[-1]
    edit(tmp_path, "alone", LOCAL, accuracy_dense=0.21)
    *_, advice = lines_of(tmp_path)
    assert advice.startswith("Next: no-go for lips, as training alone (alone) is ahead of it, +")
    assert "settle" not in advice


def test_what_helps_and_is_behind_training_alone_is_no_go(tmp_path):
    arms = ("dense", "lips", "alone")
    write_study(tmp_path, arms=arms, gain=0.05, **SMALL)
    edit(tmp_path, "alone", LOCAL, accuracy_dense=0.16)
    _, lips, alone = rows_of(tmp_path)
    assert (advise(lips), advise(lips, alone)) == (GO, NO_GO)
    (said,) = [f for f in findings(rows_of(tmp_path)) if f.topic == ALONE]
    assert (said.subject, said.outcome) == ("lips against dense", "loses")
    found = difference(lips, alone, "personalised").interval
    assert said.detail.startswith(f"personalised accuracy: loses, {points(found)}; global")


def test_training_alone_is_told_where_nothing_is_judged(tmp_path):
    *_, advice = lines_of(study_with_controls(tmp_path, local=0.21))
    assert "; training alone (A) is ahead of dense, +2" in advice
    *_, advice = lines_of(study_with_controls(tmp_path / "b", local=0.21, cells=("x", "y")))
    assert "; training alone is ahead of federating in 2 of 2 cells" in advice


def test_training_alone_is_told_beside_a_go(tmp_path):
    write_study(tmp_path, arms=("dense", "lips", "alone"), gain=0.2, **SMALL)
    edit(tmp_path, "alone", LOCAL, accuracy_dense=-0.1)
    *_, advice = lines_of(tmp_path)
    assert advice.startswith(
        "Next: go for lips, as it helps; training alone (alone) is ahead of de"
    )


def test_costs_tell_the_rounds_to_the_target(tmp_path):
    write_study(tmp_path, gain=0.0, target=0.6, **SMALL)
    edit(tmp_path, "lips", accuracy_dense=-0.1)
    found = rows_of(tmp_path)[1].differences["rounds_to_target"].interval
    assert found.low > 0
    *_, cost, _ = lines_of(tmp_path)
    assert (
        f"; lips takes {found.mean:.1f} more rounds to the target accuracy than dense "
        f"(95% interval {found.low:+.1f} to {found.high:+.1f}, 4 seeds)"
    ) in cost


def test_costs_tell_who_reaches_the_target(tmp_path):
    write_study(tmp_path, gain=0.0, target=0.7, **SMALL)
    edit(tmp_path, "lips", accuracy_dense=-0.6)
    *_, cost, _ = lines_of(tmp_path)
    assert "; lips reaches the target accuracy in 0 of 4 seeds, dense in " in cost


def test_rounds_to_the_target_are_counted_among_many(tmp_path):
    write_study(tmp_path, arms=("dense", *"abcde"), gain=0.0, target=0.4, **SMALL)
    *_, cost, _ = lines_of(tmp_path)
    assert "target" not in cost
    edit(tmp_path, "c", accuracy_dense=-0.3)
    *_, cost, _ = lines_of(tmp_path)
    assert "; to the target accuracy, more rounds in 1 of 5 comparisons" in cost


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_ask_for_three(tmp_path, seeds):
    *_, advice = lines_of(write_study(tmp_path, **SMALL | {"seeds": seeds}))
    assert "at least 3 seeds in both arms; how many more is not known" in advice


@pytest.mark.parametrize(
    ("low", "high", "p", "word"),
    [
        (0.01, 0.03, 0.001, GO),
        (-0.03, -0.01, 0.001, NO_GO),
        (-0.03, 0.009, 0.5, NO_GO),  # a gain of a point is ruled out
        (-0.03, 0.011, 0.5, OPEN),
        (0.001, 0.03, 0.2, OPEN),  # not after Holm's correction
        (math.nan, math.nan, math.nan, OPEN),
    ],
)
def test_advice_by_the_stated_thresholds(tmp_path, low, high, p, word):
    _, lips = rows_of(write_study(tmp_path, **SMALL | {"rounds": 3}))
    found = Difference(Interval((low + high) / 2, low, high, 4), p)
    lips = lips._replace(
        differences={**lips.differences, "personalised": found},
        adjusted={**lips.adjusted, "personalised": p},
    )
    assert advise(lips) == word


def test_a_grid_is_told_in_counts(tmp_path):
    write_study(tmp_path, cells=("a", "b", "c", "d"), gain=0.1, **SMALL)
    question, setting, effect, cost, advice = lines_of(tmp_path)
    assert "4 seeds in each of 4 cells" in question
    assert setting.startswith(
        "Setting: cannot tell in all 4 cells; no finished arm trains alone or pools"
    )
    assert effect.endswith("transient sparsity helps in all 4 comparisons.")
    assert "moves 1.00 times the bits" in cost
    assert advice == "Next: go in all 4 comparisons."


def test_costs_with_and_without_money(tmp_path):
    write_study(tmp_path / "a", gain=0.1, **SMALL)
    *_, cost, _ = lines_of(tmp_path / "a")
    # 20 rounds of 24 Mbit each way
    assert cost.startswith("Cost: per run, dense takes 960 Mbit moved, FLOPs not counted, ")
    assert "money" not in cost
    write_study(tmp_path / "b", gain=0.1, prices=PRICES, **SMALL)
    *_, cost, _ = lines_of(tmp_path / "b")
    assert "in money: lips costs +" in cost
    assert "lips brings +" in cost


def test_controls_of_lips_are_told_apart(tmp_path):
    gains = {"random": ({"criterion": "random"}, 0.1), "held": ({"hold": 5}, 0.1)}
    *_, effect, _, advice = lines_of(lips_and_controls(tmp_path, gains, gain=0.1))
    assert "against its controls: better in all 2 comparisons" in effect
    assert "random" not in advice  # LIPS is what is asked about


def test_a_setting_that_is_not_stuck_is_said_in_the_advice(tmp_path):
    write_study(tmp_path, arms=("dense", "lips", "pooled"), gain=0.0, **SMALL)
    edit(tmp_path, "pooled", {"partition": {"pooled": True}, "sparsity": None})
    *_, advice = lines_of(tmp_path)
    assert "the setting is not stuck" in advice


VERDICT = "• dense. Is this setting stuck?"


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_the_table_five_lines_and_the_path(tmp_path, width, verbose):
    out = tmp_path / "results"
    write_study(out, **SMALL)
    (out / "survey.html").touch()
    console = Console(width=width, file=io.StringIO())
    draw(out, console, "md", verbose=verbose)
    printed = console.file.getvalue()
    # a path is never broken, so that it can be copied
    assert all(len(line) <= width or str(out) in line for line in printed.splitlines())
    assert f"report: {out / 'report.md'}\n" in printed
    text = " ".join(printed.split())
    rest = [VERDICT, "report: "]
    places = [text.index(start) for start in (*BEGINNINGS, *rest[not verbose :])]
    assert places == sorted(places)
    assert [part in text for part in (VERDICT, "survey: ")] == [verbose] * 2


def test_nothing_finished_is_one_line(tmp_path):
    missing = tuple((arm, seed) for arm in ("dense", "lips") for seed in range(4))
    write_study(tmp_path, **SMALL, missing=missing)
    with pytest.raises(ValueError, match="has no finished trial"):
        executive(read_study(tmp_path))
    assert commands.call("report", str(tmp_path), "--format", "md").status == 2
