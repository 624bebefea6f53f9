"""A study some of whose seeds diverged: it says so, and what is left is no go."""

import io

import pytest
from rich.console import Console

from helpers.edited_study import SMALL, lips_and_controls
from helpers.fake_study import with_diverged, write_study
from lipsjax.analysis.comparison import compare
from lipsjax.analysis.controls import SALIENCY
from lipsjax.analysis.value import PAYS_FROM, appraise, findings_of
from lipsjax.analysis.verdict import findings
from lipsjax.recording import read_study
from lipsjax.report import html
from lipsjax.report.markdown import markdown
from lipsjax.report.summary import GO, NO_GO, OPEN, advise, executive
from lipsjax.report.terminal import summary_table


def study_of(path, *ended, **options):
    return with_diverged(read_study(write_study(path, **SMALL | options)), *ended)


def test_the_survivors_are_told_and_no_go(tmp_path):
    study = study_of(tmp_path, ("lips", 2), gain=0.1)
    _, lips = compare(study)
    assert (lips.seeds, lips.share_diverged) == ((0, 1, 3), "diverged in 1 of 4 seeds")
    assert advise(lips._replace(diverged=())) == GO
    assert advise(lips) == OPEN
    question, _, effect, _, advice = executive(study)
    assert question.endswith("; 1 trial diverged.")
    assert "4 seeds" in question
    assert "not finished" not in question
    assert effect.startswith("Effect: on personalised accuracy, lips helps, +")
    assert effect.endswith(", 3 seeds), and diverged in 1 of 4 seeds.")
    assert advice == (
        "Next: not known for lips, as it helps where it did not, but diverged in 1 of 4 seeds."
    )


def test_a_loss_of_the_survivors_stays_a_no_go(tmp_path):
    *_, advice = executive(study_of(tmp_path, ("lips", 2), gain=-0.1))
    assert advice == "Next: no-go for lips, as it hurts."


def test_more_seeds_are_no_advice_for_what_diverges(tmp_path):
    *_, advice = executive(study_of(tmp_path, ("lips", 2), gain=0.0, noise=0.05))
    assert advice == "Next: not known for lips, as it diverged in 1 of 4 seeds."


def test_an_arm_that_always_diverged_is_no_go(tmp_path):
    study = study_of(tmp_path, *(("lips", seed) for seed in range(4)))
    _, lips = compare(study)
    assert advise(lips) == NO_GO
    _, _, effect, _, advice = executive(study)
    assert effect == (
        "Effect: on personalised accuracy, lips cannot be judged, as it diverged in 4 of 4 seeds."
    )
    assert advice == "Next: no-go for lips, as it diverged in 4 of 4 seeds."


def test_other_arms_that_diverged_are_named(tmp_path):
    gains = {"random": ({"criterion": "random"}, 0.1), "held": ({"hold": 5}, 0.1)}
    study = read_study(lips_and_controls(tmp_path, gains, gain=0.1))
    ended = [("dense", 0), *(("held", seed) for seed in range(4))]
    _, _, effect, _, advice = executive(with_diverged(study, *ended))
    assert effect.endswith("; dense diverged in 1 of 4 seeds; held diverged in 4 of 4 seeds.")
    assert advice == "Next: go for lips, as it helps."


@pytest.mark.parametrize(
    ("ended", "word"), [("lips", "not shown"), ("random", "the saliency"), ("", "the saliency")]
)
def test_the_saliency_is_not_shown_by_what_is_left_of_lips(tmp_path, ended, word):
    study = read_study(lips_and_controls(tmp_path, {"random": ({"criterion": "random"}, 0.1)}))
    found = findings(compare(with_diverged(study, (ended, 2))))
    said = {f.topic: f for f in found if f.subject == "lips against its controls"}
    assert said[SALIENCY].outcome == word
    for finding in said.values():
        assert (f"; {ended} diverged in 1 of 4 seeds." in finding.detail) == bool(ended)


def test_many_arms_are_counted(tmp_path):
    arms = ("dense", *"abcde")
    study = study_of(tmp_path, ("a", 0), ("b", 1), arms=arms, gain=0.1)
    _, _, effect, _, advice = executive(study)
    assert "some seed diverged in 2 of 5 comparisons" in effect
    assert "go (c | d | e) in 3 of 5 comparisons" in advice


@pytest.mark.parametrize(
    "options", [{}, {"cells": ("x", "y", "z")}, {"arms": tuple("abcdefghijklmno")}]
)
def test_findings_name_it(tmp_path, options):
    arm = options.get("arms", ("dense", "lips"))[1]
    study = study_of(tmp_path, (arm, 2), **options)
    found = [f for f in findings(compare(study)) if f.topic == "Diverged"]
    assert found
    for finding in found:
        assert "diverged in 1 of 4 seeds" in finding.detail
    if not options:
        assert found[0].detail == (
            "lips diverged in 1 of 4 seeds; the first, seed 2: the loss is not finite in round 3. "
            "What else is said of it is of the seeds that did not."
        )


def test_nothing_pays_that_diverges(tmp_path):
    study = study_of(tmp_path, ("lips", 2), gain=0.1, bits_ratio=2.0)
    dense, lips = compare(study)
    prices = {"per_gb": 1.0, "per_point": 1.0}
    (before,) = appraise([dense, lips._replace(diverged=())], prices)
    assert before.outcome == PAYS_FROM
    (value,) = appraise([dense, lips], prices)
    assert (value.outcome, value.break_even) == ("cannot tell", None)
    (said,) = findings_of(value)
    assert "break-even is not known, as it diverged in 1 of 4 seeds" in said.detail


@pytest.mark.usefixtures("sketched")
def test_every_form_of_the_report_names_it(tmp_path):
    study = study_of(tmp_path, ("lips", 2))
    assert "<b>Diverged:</b>\nlips in 1 trial." in html.render(study)
    assert " Diverged: 1 of lips." in markdown(study)
    console = Console(width=200, file=io.StringIO())
    console.print(summary_table(study, width=200))
    assert "Diverged: 1 of lips." in console.file.getvalue()


@pytest.mark.usefixtures("sketched")
def test_where_nothing_diverged_nothing_is_said(tmp_path):
    study = study_of(tmp_path)
    texts = [html.render(study), markdown(study), *executive(study)]
    assert "diverged" not in " ".join(texts).lower()
