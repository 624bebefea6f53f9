"""A sweep that is run until it is decided: which seeds it runs, what it says, and after what."""

import json
import shutil
from unittest import mock

import numpy as np
import pytest

from helpers.commands import call, nothing_left, refusal
from helpers.fake_runs import FAKE, KilledError, fake_runs
from lipsjax import recording
from lipsjax.analysis.decision import decide
from lipsjax.analysis.planned import plan_of, sentences
from lipsjax.experiments import report

NOISE = np.random.default_rng(3).normal(0, 1, 200).round(4)
"""Of each seed."""
ARMS = ("--arms", "dense", "lips")
UNTIL = ("--until", "decided", "--margin", "1", "--max-seeds", "9", "--looks", "3", "6", "9")


def gains(mean, spread):
    """Accuracies of which the differences have these points."""

    def accuracy(config):
        own = mean + spread * NOISE[config.seed] if config.sparsity is not None else 0
        return 0.5 + own / 100

    return accuracy


def by_density(**of):
    """Accuracies by density; of each, the mean and the spread."""

    def accuracy(config):
        density = 1.0 if config.sparsity is None else config.sparsity.density
        return gains(*of[f"d{round(10 * density)}"])(config)

    return accuracy


GRID = ("--grid", "sparsity.density=[0.3, 0.5]")
ONE_EASY = by_density(d10=(0, 0), d3=(30, 0.3), d5=(1, 3))
"""In the first cell of GRID LIPS is better at the second look; the other is never decided."""


def sweep(out, accuracy, *argv, most=10**6):
    """Sweeps without training and without pages; returns how it ended and which runs were done."""
    with fake_runs(accuracy, most=most) as done, mock.patch.object(report, "draw"):
        ended = call("sweep", *FAKE, *ARMS, *argv, "--out", str(out))
    return ended, [(c.sparsity and c.sparsity.density, c.seed) for c in done]


def decisions(out):
    """What study.json says, by cell and measure."""
    found = recording.read_study(out).decisions.found
    return {(each.comparison.cell, each.comparison.measure): each for each in found}


@pytest.mark.parametrize(
    ("mean", "spread", "claim", "seeds"),
    [
        (30, 0.3, "better", 3),
        (-30, 0.3, "worse", 3),
        (0, 0.4, "equivalent", 6),
        (1, 3, "not decided", 9),
    ],
)
def test_a_claim_ends_the_study_and_is_that_of_all_seeds_at_once(
    tmp_path, mean, spread, claim, seeds
):
    ended, done = sweep(tmp_path, gains(mean, spread), *UNTIL)
    assert ended.status == 0, ended
    (found,) = decisions(tmp_path).values()
    assert (found.claim, found.seeds) == (claim, seeds)
    assert sorted(done, key=str) == [
        *((0.5, s) for s in range(seeds)),
        *((None, s) for s in range(seeds)),
    ]
    # the oracle: all seeds at once, without stages
    plan = plan_of(recording.read_looks(tmp_path)[0])
    whole = [(mean + spread * NOISE[seed]) / 100 for seed in range(9)]
    (same,) = decide(plan, {plan.comparisons[0]: whole}).values()
    assert (same.claim, same.seeds) == (found.claim, found.seeds)
    assert same.estimate == pytest.approx(found.estimate, abs=1e-7)
    study = recording.read_study(tmp_path)
    assert not study.missing
    assert len(study.trials) == 2 * seeds


def test_the_plan_is_there_before_the_first_run(tmp_path):
    with pytest.raises(KilledError):
        sweep(tmp_path, gains(30, 0.3), *UNTIL, most=0)
    plan, command = recording.read_looks(tmp_path)
    assert (plan.looks, plan.margin) == ((3, 6, 9), 0.01)
    assert "--until decided" in command
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "most", [12, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 7, 17))]
)
def test_killed_after_any_run_the_same_command_ends_as_if_it_were_not(tmp_path, most):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ended, all_runs = sweep(whole, gains(1, 3), *UNTIL)
    assert ended.status == 0
    with pytest.raises(KilledError):
        sweep(broken, gains(1, 3), *UNTIL, most=most)
    ended, rest = sweep(broken, gains(1, 3), *UNTIL)
    assert ended.status == 0
    assert len(rest) == len(all_runs) - most
    assert decisions(broken) == decisions(whole)
    first, second = (json.loads((d / "study.json").read_text())["trials"] for d in (whole, broken))
    assert first == second
    # once more, there is nothing to do
    assert sweep(broken, gains(1, 3), *UNTIL)[1] == []
    assert decisions(broken) == decisions(whole)


def test_no_run_is_begun_beyond_the_next_look(tmp_path):
    seen = []

    def accuracy(config):
        taken = json.loads((tmp_path / "study.json").read_text())["decisions"]["taken"]
        seen.append((taken, config.seed))
        return gains(1, 3)(config)

    sweep(tmp_path, accuracy, *UNTIL)
    assert {taken for taken, _ in seen} == {0, 1, 2}
    assert all(3 * taken <= seed < 3 * (taken + 1) for taken, seed in seen)


def test_cells_that_are_decided_get_no_more_seeds(tmp_path):
    ended, done = sweep(tmp_path, ONE_EASY, *UNTIL, *GRID)
    assert ended.status == 0
    found = decisions(tmp_path)
    assert [found[cell, "personalised"].claim for cell in (0, 1)] == ["better", "not decided"]
    assert [seed for density, seed in done if density == 0.3] == list(range(6))
    assert [seed for density, seed in done if density == 0.5] == list(range(9))
    assert [seed for density, seed in done if density is None] == list(range(9))
    study = recording.read_study(tmp_path)
    assert sorted(t.seed for t in study.trials if (t.cell, t.arm) == (0, "dense")) == list(range(6))


def test_a_budget_ends_what_is_open(tmp_path):
    """Look 1 takes 9 runs, of which the dense ones are shared, look 2 as many, look 3 then 6."""
    refusal(
        sweep(tmp_path, ONE_EASY, *UNTIL, *GRID, "--most-runs", "8")[0],
        "most_runs must be at least 9, the runs of the first look, not 8",
    )
    assert nothing_left(tmp_path)
    ended, done = sweep(tmp_path, ONE_EASY, *UNTIL, *GRID, "--most-runs", "23")
    assert ended.status == 0
    assert len(done) == 18
    found = decisions(tmp_path)
    assert [found[cell, "personalised"].claim for cell in (0, 1)] == ["better", "not decided"]
    told = sentences(recording.read_study(tmp_path))
    assert told[1].endswith(
        "(the budget of 23 runs ended before the next look; look 2 of 3, 6 seeds; estimate "
        f"{100 * found[1, 'personalised'].estimate:+.2f} points)."
    )
    assert told[2].startswith("It took 18 runs of at most 23 and 20.9 minutes of them")
    # a larger budget is the same plan, and none is one too: it goes on
    assert len(sweep(tmp_path, ONE_EASY, *UNTIL, *GRID, "--most-runs", "24")[1]) == 6
    assert sweep(tmp_path, ONE_EASY, *UNTIL, *GRID)[1] == []
    assert decisions(tmp_path)[1, "personalised"].seeds == 9


def test_a_seed_that_diverges_ends_its_comparison_alone(tmp_path):
    def accuracy(config):
        fails = config.sparsity is not None and (config.sparsity.density, config.seed) == (0.5, 4)
        return None if fails else by_density(d10=(0, 0), d3=(1, 3), d5=(1, 3))(config)

    for _ in range(2):  # the second time it goes on where everything is done
        ended, _ = sweep(tmp_path, accuracy, *UNTIL, *GRID)
        refusal(ended, "1 of 24 runs diverged; the first, lips, density 0.5, seed 4: ")
        found = decisions(tmp_path)
        assert (found[1, "personalised"].claim, found[1, "personalised"].look) == ("not decided", 2)
        assert found[0, "personalised"].look == 3
    told = sentences(recording.read_study(tmp_path))
    assert "a seed diverged; look 2 of 3, 6 seeds" in told[1]


def test_arms_that_are_not_decided_about_run_the_seeds_of_the_study(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(
        "seeds = 2\n[until]\nmargin = 1\nmax_seeds = 3\narms = ['lips']\nmeasures = ['global']\n"
        "[arms.dense]\n[arms.random]\nsparsity = {density = 0.3}\n[arms.lips]\nsparsity = {}\n"
    )
    accuracy, out = by_density(d10=(0, 0), d3=(0, 1), d5=(30, 0.3)), tmp_path / "out"
    with fake_runs(accuracy) as done, mock.patch.object(report, "draw"):
        ended = call("sweep", str(file), *FAKE, "--out", str(out))
    assert ended.status == 0, ended
    seeds = [(c.sparsity and c.sparsity.density, c.seed) for c in done]
    assert [s for density, s in seeds if density == 0.3] == [0, 1]
    assert [s for density, s in seeds if density == 0.5] == [0, 1, 2]
    assert [*decisions(out)] == [(0, "global")]
    # --until none runs it as a plain study, elsewhere
    with fake_runs(accuracy) as done, mock.patch.object(report, "draw"):
        plain = ("--until", "none", "--seeds", "1", "--out", str(tmp_path / "plain"))
        assert call("sweep", str(file), *FAKE, *plain).status == 0
    assert len(done) == 3


def test_the_page_and_the_terminal_say_it(tmp_path):
    with fake_runs(gains(30, 0.3)):
        ended = call("sweep", *FAKE, *ARMS, *UNTIL, "--out", str(tmp_path))
    said = " ".join(ended.out.split())
    estimate = decisions(tmp_path)[0, "personalised"].estimate
    line = (
        "lips is better than dense by more than 1 point of personalised accuracy (claimed at look "
        f"1 of 3, 3 seeds; estimate {100 * estimate:+.2f} points)."
    )
    assert line in said
    assert line in (tmp_path / "report.html").read_text()


# What is refused.

OPTIONS = {
    "another word": (["--until", "tired"], ["--until", "'tired'", "decided"]),
    "seeds as well": ([*UNTIL, "--seeds", "5"], ["--seeds and --until decided", "--max-seeds"]),
    "margin alone": (["--margin", "1"], ["--margin is of planned looks: it needs --until decided"]),
    "max-seeds alone": (["--max-seeds", "9"], ["--max-seeds", "it needs --until decided"]),
    "looks alone": (["--looks", "3", "9"], ["--looks", "it needs --until decided"]),
    "budget alone": (["--most-runs", "9"], ["--most-runs", "it needs --until decided"]),
    "arm alone": (["--decide", "lips"], ["--decide", "it needs --until decided"]),
    "looks that end elsewhere": (
        ["--until", "decided", "--max-seeds", "40", "--looks", "8", "16", "32"],
        ["looks must end with max_seeds, 40, not with 32"],
    ),
    "looks that do not rise": ([*UNTIL, "--looks", "3", "3", "9"], ["looks must rise, not 3 3 9"]),
    "a look at one seed": ([*UNTIL, "--looks", "1", "9"], ["begin with at least 2 seeds, not 1"]),
    "a look in words": ([*UNTIL, "--looks", "all"], ["--looks must be", "'all'"]),
    "one seed": (["--until", "decided", "--max-seeds", "1"], ["max_seeds must be in 2..1000"]),
    "too many": (["--until", "decided", "--max-seeds", "9999"], ["max_seeds", "not 9999"]),
    "no margin": ([*UNTIL, "--margin", "0"], ["margin must be above 0", "not 0"]),
    "negative margin": ([*UNTIL, "--margin", "-1"], ["margin must be above 0", "not -1"]),
    "margin NaN": ([*UNTIL, "--margin", "nan"], ["margin must be", "nan"]),
    "margin as a share of all": ([*UNTIL, "--margin", "90"], ["at most 50 points, not 90"]),
    "unknown measure": (
        [*UNTIL, "--measures", "loss"],
        ["'loss'", "--measures", "'personalised', 'global'"],
    ),
    "measure twice": (
        [*UNTIL, "--measures", "global", "global"],
        ["measures names global twice"],
    ),
    "unknown order": ([*UNTIL, "--order", "holm"], ["'holm'", "--order", "'recycled', 'gated'"]),
    "unknown arm": ([*UNTIL, "--decide", "lisp"], ["'lisp'", "did you mean lips?"]),
    "the reference": ([*UNTIL, "--decide", "dense"], ["dense is what others are compared with"]),
    "arm twice": ([*UNTIL, "--decide", "lips", "lips"], ["lips is to be decided about twice"]),
    "no budget": ([*UNTIL, "--most-runs", "0"], ["most_runs must be at least 1, not 0"]),
    "nothing to compare": ([*UNTIL, "--arms", "dense"], ["needs two arms", "dense alone"]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_options_write_nothing(tmp_path, name):
    argv, parts = OPTIONS[name]
    ended = call("sweep", *FAKE, *ARMS, *argv, "--out", str(tmp_path / "out"))
    refusal(ended, *parts)
    assert not (tmp_path / "out").exists()


FILES = {
    "misspelt": ("[until]\nmargins = 1\n", ["unknown field until.margins", "margin"]),
    "text": ("[until]\nmargin = 'one'\n", ["until.margin must be a finite number, not 'one'"]),
    "no table": ("until = 'decided'\n", ["until must be a table or none, not 'decided'"]),
    "seeds of nobody": ("seeds = 5\n[until]\nmargin = 1\n", ["seeds reaches no arm"]),
    "more seeds elsewhere": (
        "seeds = 9\n[until]\nmax_seeds = 4\narms = ['lips']\n",
        ["must be at most max_seeds, 4, not 9"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files_write_nothing(tmp_path, name):
    text, parts = FILES[name]
    (tmp_path / "study.toml").write_text(text)
    out = tmp_path / "out"
    refusal(call("sweep", str(tmp_path / "study.toml"), *FAKE, "--out", str(out)), *parts)
    assert not out.exists()


def test_a_search_takes_no_looks(tmp_path):
    refusal(call("search", *FAKE, *UNTIL, "--out", str(tmp_path)), "leave --until out")


def test_an_out_with_a_plan_takes_no_other(tmp_path):
    sweep(tmp_path, gains(30, 0.3), *UNTIL)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    others = {
        ("--seeds", "12"): "these runs are not in that plan: choose another --out, or go on with",
        (*UNTIL, "--margin", "2"): "its margin are 0.01, not 0.02",
        (*UNTIL, "--looks", "4", "9"): "its looks are 3, 6, 9, not 4, 9",
        (*UNTIL, "--measures", "global"): "its comparisons are",
        (*UNTIL, "--seed", "1"): "its seed are 0, not 1",
        (*UNTIL, "--rounds", "4"): "its runs are of another config",
    }
    for argv, part in others.items():
        ended, done = sweep(tmp_path, gains(30, 0.3), *argv)
        refusal(ended, part, "choose another --out")
        assert done == []
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.json")}


def test_runs_beyond_the_first_look_are_not_planned_afterwards(tmp_path):
    sweep(tmp_path, gains(30, 0.3), "--seeds", "4")
    ended, done = sweep(tmp_path, gains(30, 0.3), *UNTIL)
    refusal(
        ended, "is of seed 3 of lips, beyond look 1 of 3, which ends with seed 2", "another --out"
    )
    assert done == []
    assert recording.read_looks(tmp_path) is None
    # those up to the first look are taken over
    few = tmp_path / "few"
    sweep(few, gains(1, 3), "--seeds", "3")
    ended, done = sweep(few, gains(1, 3), *UNTIL)
    assert ended.status == 0
    assert len(done) == 12


def test_a_run_that_was_deleted_is_run_again(tmp_path):
    """As the line on a damaged run says; it is of the first look, and all three were taken."""
    sweep(tmp_path, gains(1, 3), *UNTIL)
    before = decisions(tmp_path)
    trials = recording.read_study(tmp_path).trials
    run = next(trial.run for trial in trials if (trial.arm, trial.seed) == ("lips", 1))
    shutil.rmtree(tmp_path / "runs" / run)
    ended, done = sweep(tmp_path, gains(1, 3), *UNTIL)
    assert ended.status == 0, ended
    assert done == [(0.5, 1)]
    assert decisions(tmp_path) == before


def test_a_run_that_nobody_planned_is_refused(tmp_path):
    """Somebody has run seed 3 by itself before the second look was due."""
    with pytest.raises(KilledError):
        sweep(tmp_path, gains(1, 3), *UNTIL, most=2)
    other = tmp_path / "other"
    sweep(other, gains(1, 3), "--seeds", "4")
    trials = recording.read_study(other).trials
    run = next(trial.run for trial in trials if (trial.arm, trial.seed) == ("lips", 3))
    shutil.move(other / "runs" / run, tmp_path / "runs" / run)
    ended, done = sweep(tmp_path, gains(1, 3), *UNTIL)
    refusal(ended, "of seed 3 of lips, beyond look 1 of 3")
    assert done == []


def test_a_plan_that_was_changed_decides_nothing(tmp_path):
    sweep(tmp_path, gains(30, 0.3), *UNTIL)
    path = tmp_path / "looks.json"
    path.write_text(path.read_text().replace("0.01", "0.02"))
    refusal(sweep(tmp_path, gains(30, 0.3), *UNTIL)[0], "looks.json is not as it was recorded")
    refusal(call("report", str(tmp_path)), "looks.json is not as it was recorded")
    path.unlink()
    refusal(call("report", str(tmp_path)), "holds decisions, and not their plan, looks.json")
