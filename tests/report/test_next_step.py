"""What to do next: each case has its sentence, its command and the time that was recorded."""

import math

import pytest

from helpers.edited_study import LOCAL, POOLED, SMALL, edit
from helpers.fake_study import with_accuracies, with_claims, with_diverged, write_study
from lipsjax.analysis.comparison import compare
from lipsjax.analysis.stats import seeds_needed
from lipsjax.recording import Comparison, read_study
from lipsjax.report.anonymise import anonymous_study
from lipsjax.report.next_step import OPEN_WORD, SO_FAR, TOO_EASY_WORD, next_step, with_option

SWEEP = "python -m lipsjax.experiments.sweep"


def whole_study(path, *, gain=0.0, noise=0.05, **options):
    """A study with all its controls, LIPS so much better than dense."""
    arms = ("dense", "lips", "alone", "all")
    write_study(path, arms=arms, gain=gain, **SMALL | {"noise": noise} | options)
    edit(path, "alone", LOCAL, accuracy_dense=-0.3)
    edit(path, "all", POOLED, accuracy_dense=0.05)
    return read_study(path)


def took(study, *arms):
    runs = [t.recording for t in study.trials if t.arm in arms or not arms]
    return sum(run.seconds + run.compile_seconds for run in runs)


def test_a_study_that_is_not_finished_goes_on(tmp_path):
    study = whole_study(tmp_path, missing=(("lips", 1), ("dense", 0)))
    step = next_step(study)
    assert (step.word, step.command) == (OPEN_WORD, SWEEP)
    assert step.sentence.startswith("Let the study finish: 2 of 16 runs are open")
    assert step.seconds == pytest.approx(2 * 32, rel=0.1)  # of 20 to 23 s and 9.5 s compiling


def test_arms_that_lack_are_added(tmp_path):
    write_study(tmp_path, gain=0.0, **SMALL)
    study = read_study(tmp_path)
    step = next_step(study)
    assert step.word == OPEN_WORD
    assert step.command == f"{SWEEP} --arms dense lips local pooled"
    assert step.seconds == pytest.approx(2 * took(study, "dense"))
    assert next_step(study._replace(command="python mine.py")).command == ""
    searched = study._replace(command="python -m lipsjax.experiments.search S.toml --trials 9")
    assert next_step(searched).command == ""


def test_a_gain_without_controls_is_a_yes_so_far(tmp_path):
    write_study(tmp_path, gain=0.1, **SMALL)
    assert next_step(read_study(tmp_path)).word == SO_FAR


def test_seeds_that_would_tell_are_asked_for_by_a_command(tmp_path):
    study = whole_study(tmp_path, command=f"{SWEEP} S.toml --seeds 4 --out 'a b'")
    rows = compare(study)
    n = seeds_needed(rows[1].differences["personalised"].interval, 0.01)
    assert n is not None
    step = next_step(study, rows)
    assert step.command == f"{SWEEP} S.toml --out 'a b' --seeds {n}"
    assert step.sentence.startswith(f"Run more seeds, {n} in all, to see a difference of 1 point.")
    assert step.seconds == pytest.approx((n - 4) * took(study) / 4)


def test_of_too_few_seeds_five_are_asked_for(tmp_path):
    step = next_step(whole_study(tmp_path, seeds=1))
    assert step.command == f"{SWEEP} --seeds 5"
    assert "3 are the fewest" in step.sentence


def test_seeds_beyond_reason_are_not_asked_for(tmp_path):
    step = next_step(whole_study(tmp_path, noise=0.2))
    assert step.sentence.startswith("Ask another question")
    assert (step.command, math.isnan(step.seconds)) == ("", True)


def test_a_gain_is_confirmed_on_seeds_that_are_new(tmp_path):
    study = whole_study(tmp_path, gain=0.1, noise=0.001)
    step = next_step(study)
    assert step.word == "Yes, with lips"
    assert step.command == f"{SWEEP} --seed 4 --out results-confirm"
    assert step.seconds == pytest.approx(took(study))


def test_a_loss_stops_here(tmp_path):
    step = next_step(whole_study(tmp_path, gain=-0.1, noise=0.001))
    assert step.word == "No, not with LIPS in this setting"
    assert step.command == ""


def test_a_task_that_is_too_easy_asks_for_a_harder_one(tmp_path):
    study = whole_study(tmp_path)
    ends = {arm: [0.993, 0.995, 0.994, 0.996] for arm in study.arms}
    step = next_step(with_accuracies(study, ends))
    assert step.word == TOO_EASY_WORD
    assert step.command == f"{SWEEP} --partition.train-examples 10 --out results-smaller"


def test_more_seeds_do_not_settle_what_diverges(tmp_path):
    step = next_step(with_diverged(whole_study(tmp_path, gain=0.1, noise=0.001), ("lips", 2)))
    assert step.sentence.startswith("Make training stable first")


def test_a_command_without_names_says_that_its_options_are_withheld(tmp_path):
    study = whole_study(tmp_path, command=f"{SWEEP} ulm.toml --out /home/me")
    step = next_step(anonymous_study(study))
    assert step.command.startswith("lipsjax sweep OPTIONS-WITHHELD --seeds ")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (f"{SWEEP} --arms a b --out o", f"{SWEEP} --out o --arms c 'd e'"),
        (f"{SWEEP} --arms=a --seeds 2", f"{SWEEP} --seeds 2 --arms c 'd e'"),
        (f"{SWEEP} '~/my study.toml'", f"{SWEEP} ~/'my study.toml' --arms c 'd e'"),
        ("lipsjax.sweep(..., out='o')", ""),
        ("sweep 'unended", ""),
    ],
)
def test_an_option_is_set_once(command, expected):
    assert with_option(command, "--arms", "c", "d e") == expected


def test_a_gain_that_was_planned_is_no_reason_where_sites_do_better_alone(tmp_path):
    """As on real CIFAR-10: better by two points on both accuracies, alone ahead by 35."""
    study = whole_study(tmp_path, gain=0.05, noise=0.001)
    edit(tmp_path, "alone", {}, accuracy_dense=0.6)
    asked = [Comparison("lips", "dense", 0, each) for each in ("personalised", "global")]
    step = next_step(with_claims(read_study(tmp_path), dict.fromkeys(asked, "better")))
    assert step.word == "No, each site does better alone"
    assert "LIPS is better by more than 1 point" in step.sentence
    assert "nothing" not in step.word + step.sentence
    assert next_step(with_claims(study, dict.fromkeys(asked, "better"))).word == "Yes, with lips"


@pytest.mark.parametrize(
    ("claims", "word", "command"),
    [
        (("better", "not decided"), "Yes, with lips", ""),
        (("better", "worse"), "No, one accuracy gains and the other does not", ""),
        (("equivalent", "worse"), "No, nothing is to be gained by more than 1 point", ""),
        (
            ("equivalent", "not decided"),
            OPEN_WORD,
            f"{SWEEP} --until decided --seed 4 --max-seeds 8 --out results-again",
        ),
    ],
)
def test_what_was_planned_is_not_told_to_run_more_seeds(tmp_path, claims, word, command):
    asked = [Comparison("lips", "dense", 0, each) for each in ("personalised", "global")]
    study = whole_study(tmp_path, command=f"{SWEEP} --until decided --max-seeds 4")
    step = next_step(with_claims(study, dict(zip(asked, claims, strict=True))))
    assert (step.word, step.command) == (word, command)
    assert "seeds" in step.sentence or "another question" in step.sentence
    if "by more than" in word:
        decided = with_claims(study, dict(zip(asked, claims, strict=True))).decisions
        wider = decided._replace(plan=decided.plan._replace(margin=0.02))
        assert next_step(study._replace(decisions=wider)).word.endswith("by more than 2 points")
    # that pooled data do better, or sites alone worse, says nothing of LIPS
    asked = [each._replace(arm=arm) for each, arm in zip(asked, ("all", "alone"), strict=True)]
    assert next_step(with_claims(study, dict(zip(asked, claims, strict=True)))).word == OPEN_WORD
