"""A search finds, stops what is bad, goes on where it was killed, and confirms on other seeds."""

import csv
import dataclasses
import json
import sys
from unittest import mock

import jax
import pytest

from helpers import commands, killing
from lipsjax import recording
from lipsjax.recording.runs import NEEDED
from lipsjax.runs.config import Config, Execution, SparsityConfig, to_dict
from lipsjax.runs.dataset import load_for
from lipsjax.runs.fields import override
from lipsjax.runs.space import Choice, Range, as_differences, choose, describe, read_space
from lipsjax.runs.study import Study, expand
from lipsjax.runs.trial import DivergedError, Progress, run_dir_of

pytestmark = pytest.mark.slow  # others of the kind are in the default tests

explore = pytest.importorskip("lipsjax.runs.explore", exc_type=ImportError)
SPACE = ("sparsity.density=[0.1, 0.9]", 'sparsity.criterion=["saliency", "magnitude", "random"]')
ROUNDS, SEEDS = 8, 2
PLAN = {
    **{"platform": "cpu", "conv": "loop", "precision": "highest", "versions": {}},
    **dict.fromkeys(("processes", "devices", "chunk", "rounds_per_call"), 1),
}
SETUP = {"layers": [], "num_classes": 2, "num_params": 1, "survey": {"train_counts": [[1, 1]]}}


class KilledError(BaseException):
    """Stands for a kill: no command catches it."""


class Fake:
    """Stands for training: records curves of a known accuracy, two rounds at a time.

    Args:
      kill: number of the call that is killed instead.
    """

    def __init__(self, kill=None):
        self.kill, self.trained = kill, []

    def __call__(self, config, execution, report, say):
        run_dir = run_dir_of(config, execution)
        if recording.is_finished(run_dir):
            return run_dir
        if not run_dir.exists():
            fingerprint = load_for(config, None)[1]
            recording.create(
                run_dir,
                config=to_dict(config),
                data_fingerprint=fingerprint,
                plan=PLAN,
                setup=SETUP,
            )
        path = run_dir / "metrics.jsonl"
        done = path.read_bytes().count(b"\n") if path.exists() else 0
        with recording.lock(run_dir):
            while done < config.rounds:
                if len(self.trained) + 1 == self.kill:
                    raise KilledError
                self.trained.append((config, done))
                level = accuracy(config)
                if level is None:
                    raise DivergedError("the loss is not finite in round 0")
                rows = [
                    dict.fromkeys(NEEDED, 0.0)
                    | {"round": t, "accuracy_dense": level * (t + 1) / config.rounds}
                    | {"layers": {"step": []}}
                    | hours(config)
                    for t in (done, done + 1)
                ]
                recording.append(path, rows)
                recording.append(
                    run_dir / "timings.jsonl",
                    [{"first_round": done, "rounds": 2, "seconds": 0.1, "compile_seconds": 0.0}],
                )
                done += 2
                report(Progress(done, config.rounds, rows[-1], 0.1, 2))
            recording.finish(run_dir, {})
        return run_dir


def hours(config):
    """Of the simulated clock: as many for every round as its deadline has seconds."""
    if config.sites.deadline is None:
        return {}
    return {"simulated_seconds": 3600 * config.sites.deadline, "idle_share": 0.0}


def accuracy(config):
    """Best at density 0.3; random masks are absurd; None diverges."""
    if config.sparsity is None:
        return 0.5
    if config.sparsity.criterion == "random":
        return 0.05
    if config.sparsity.criterion == "lowest":
        return None
    return 0.9 - abs(config.sparsity.density - 0.3) + 0.01 * (config.seed % 2)


@pytest.fixture
def fake(monkeypatch):
    """Returns what makes a fake the one that trains, and keeps reports from being drawn."""
    monkeypatch.setattr("lipsjax.runs.prepare.prepare", lambda *_: None)
    monkeypatch.setattr("lipsjax.experiments.report.draw", lambda *_, **__: None)
    monkeypatch.setattr("lipsjax.experiments.survey.write_survey", lambda *_: mock.Mock())

    def use(**options):
        new = Fake(**options)
        for module in ("explore", "trial"):  # the search, and the sweep that confirms
            monkeypatch.setattr(f"lipsjax.runs.{module}.run_trial", new)
        return new

    return use


def search(out, *argv, trials=12, space=SPACE):
    options = ("--rounds", str(ROUNDS), "--seeds", str(SEEDS), "--trials", str(trials))
    options += ("--workers", "1", *commands.ARMS)
    where = ("--dataset", "synthetic", "--out", str(out))
    return commands.call("search", *options, *where, "--space", *space, *argv)


def table(out):
    """Returns trials.csv, row by row."""
    (path,) = out.glob("search/*/trials.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_it_finds_the_best_and_compares_it_with_the_reference(tmp_path, fake):
    training = fake()
    ended = search(tmp_path, trials=25)
    assert ended.status == 0, ended
    rows = table(tmp_path)
    assert len(rows) == 25
    best = rows[0]
    assert float(best["accuracy"]) == max(float(r["accuracy"]) for r in rows) > 0.8
    assert best["sparsity.criterion"] != "random"
    assert float(best["sparsity.density"]) == pytest.approx(0.3, abs=0.1)
    assert "The best of 25 settings reached" in ended.out
    assert "too high an estimate" in ended.out
    assert "PED-ANOVA" in ended.out
    found = json.loads((tmp_path / "study.json").read_text())
    assert (found["arms"], found["reference"]) == (["dense", "best lips"], "dense")
    assert "the best of 25 settings on seeds 1000..1001" in found["description"]
    confirmed = [c for c, _ in training.trained if c.seed < 1000]
    sparse = {c.sparsity for c in confirmed if c.sparsity}
    assert [f"{s.density:.6f}" for s in sparse] == [f"{float(best['sparsity.density']):.6f}"]


def test_within_hours_what_ends_more_rounds_is_better(tmp_path, fake):
    fake()
    devices = ("--sites.devices", "pi-4", "--sites.deadline", "2.0")
    ended = search(
        tmp_path, "--hours", "8.5", *devices, trials=4, space=("sites.deadline=[1.0, 4.0]",)
    )
    assert ended.status == 0, ended
    rows = table(tmp_path)
    assert len(rows) == 4
    for row in rows:  # accuracy grows by an eighth of 0.705 in each round
        done = min(int(8.5 / float(row["sites.deadline"])), ROUNDS)
        assert float(row["accuracy"]) == pytest.approx(0.705 * done / ROUNDS)
    found = [float(row["accuracy"]) for row in rows]
    assert found == sorted(found, reverse=True)


def test_seeds_of_the_search_are_not_those_of_the_study(tmp_path, fake):
    training = fake()
    assert search(tmp_path, "--seed", "7", trials=4).status == 0
    searched = [c.seed for c, _ in training.trained if c.seed >= 1000]
    assert set(searched) == {1007, 1008}
    study = json.loads((tmp_path / "study.json").read_text())
    assert {trial["seed"] for trial in study["trials"]} == {7, 8}
    first_confirmed = [c.seed for c, _ in training.trained].index(7)
    assert all(c.seed < 1000 for c, _ in training.trained[first_confirmed:])


def test_the_first_setting_is_the_arm_as_the_study_has_it(tmp_path, fake):
    training = fake()
    assert search(tmp_path, "--sparsity.density", "0.45", trials=2).status == 0
    assert training.trained[0][0].sparsity == SparsityConfig(density=0.45)
    training = fake()  # but not where the space does not hold it
    out = tmp_path / "other"
    assert search(out, trials=2, space=("sparsity.density=[0.6, 0.9]",)).status == 0
    assert 0.6 <= training.trained[0][0].sparsity.density <= 0.9


def test_absurd_settings_are_stopped(tmp_path, fake):
    training = fake()
    ended = search(tmp_path, trials=20)
    assert ended.status == 0, ended
    stopped = {
        float(row["sparsity.density"])
        for row in table(tmp_path)
        if row["ended"].startswith("stopped in round") and row["sparsity.criterion"] == "random"
    }
    assert stopped
    for density in stopped:  # in the first seed, at its half or later
        runs = [(c, t) for c, t in training.trained if c.sparsity and c.sparsity.density == density]
        assert {c.seed for c, _ in runs} == {1000}
        assert max(t for _, t in runs) + 2 >= ROUNDS // 2
        out = str(tmp_path)
        assert not recording.is_finished(run_dir_of(runs[0][0], Execution(out=out)))
    kept = [row for row in table(tmp_path) if row["sparsity.criterion"] == "random"]
    assert len(kept) - len(stopped) <= explore.STARTUP  # until so many were whole, none is stopped


@pytest.mark.parametrize("kills", [(1,), (2, 3), (10, 1, 7), (40,)], ids=str)
def test_a_search_that_was_killed_goes_on(tmp_path, fake, kills):
    whole, out = tmp_path / "whole", tmp_path / "out"
    alone = fake()
    assert search(whole).status == 0
    trained = []
    for kill in kills:
        training = fake(kill=kill)
        with pytest.raises(KilledError):
            search(out)
        trained += training.trained
    training = fake()
    assert search(out).status == 0
    trained += training.trained
    assert table(out) == table(whole)
    assert trained == alone.trained  # the same settings, none of their rounds twice


def test_what_a_kill_leaves_of_the_journal_is_mended(tmp_path, fake):
    fake(kill=12)
    with pytest.raises(KilledError):
        search(tmp_path)
    (journal,) = tmp_path.glob("search/*/journal.log")
    with journal.open("a") as file:
        file.write('{"op_code": 4, "wor')
    journal.with_name("journal.log.lock").symlink_to(journal)
    fake()
    assert search(tmp_path).status == 0
    assert len(table(tmp_path)) == 12


def test_a_search_that_is_done_trains_nothing_and_a_larger_one_goes_on(tmp_path, fake):
    fake()
    assert search(tmp_path, trials=4).status == 0
    first = table(tmp_path)
    training = fake()
    ended = search(tmp_path, trials=4)
    assert "4 settings found tried" in ended.out
    assert training.trained == []
    assert table(tmp_path) == first
    assert search(tmp_path, trials=7).status == 0
    more = table(tmp_path)
    assert len(more) == 7
    assert all(row in more for row in first)
    assert {c.seed for c, _ in training.trained} >= {1000, 1001}


def test_another_question_is_another_search(tmp_path, fake):
    training = fake()
    assert search(tmp_path, trials=2).status == 0
    assert search(tmp_path, trials=2, space=("sparsity.every=[1, 9]",)).status == 0
    assert len(list(tmp_path.glob("search/*/trials.csv"))) == 2
    assert len({c.sparsity.every for c, _ in training.trained if c.sparsity}) > 1


def test_time_is_up(tmp_path, fake, monkeypatch):
    fake()
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(explore.time, "monotonic", lambda: next(clock))
    ended = search(tmp_path, "--timeout", "5000")
    assert ended.status == 0, ended
    assert "time is up after" in ended.out
    assert 0 < len(table(tmp_path)) < 12


def test_settings_that_diverge_are_passed_over(tmp_path, fake):
    fake()
    ended = search(tmp_path, trials=9, space=('sparsity.criterion=["saliency", "lowest"]',))
    assert ended.status == 0, ended
    assert "setting" in ended.out
    assert {row["ended"] for row in table(tmp_path) if row["sparsity.criterion"] == "lowest"} == {
        "the loss is not finite in round 0"
    }
    assert table(tmp_path)[0]["sparsity.criterion"] == "saliency"


def test_if_all_diverge_it_says_so(tmp_path, fake):
    fake()
    space = ("sparsity.every=[1, 9]",)
    ended = search(tmp_path, "--sparsity.criterion", "lowest", trials=3, space=space)
    assert ended.status == 2
    assert ended.err == "error: none of 3 settings could be tried to its end\n"
    assert not (tmp_path / "study.json").exists()


@pytest.mark.slow
def test_killed_as_it_trains(tmp_path):
    """In processes of its own: killed after its first run, it goes on to the same table."""
    argv = ("--space", "sparsity.every=[2, 9]", "--trials", "2", "--seeds", "1", "--rounds", "10")
    arguments = (*killing.TINY, *commands.MLP, *argv)
    run = {"arguments": arguments, "cache": tmp_path / "cache", "command": "search"}
    whole, out = tmp_path / "whole", tmp_path / "out"
    killing.finish(whole, **run)
    process = killing.start(out, **run)
    killing.wait_for(process, out, "summary.json")
    process.kill()
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/summary.json")}
    killing.finish(out, **run)
    assert done == {path: path.stat().st_mtime_ns for path in done}  # not run again
    assert table(out) == table(whole)
    assert (out / "report.html").exists()


# The space.


def test_a_space_is_read_by_the_kinds_of_its_fields():
    config = Config(sparsity=SparsityConfig())
    entries = ("sparsity.density=[0, 1]", "sparsity.every=[1, 20]", "model.width=[8, 16, 32]")
    entries += ("model.normalise=[true, false]", "strategy.options.mu=[0.1, 1]")
    assert read_space(entries, config) == {
        "sparsity.density": Range(0.0, 1.0),
        "sparsity.every": Range(1, 20),
        "model.width": Choice((8, 16, 32)),
        "model.normalise": Choice((True, False)),
        "strategy.options.mu": Range(0.1, 1.0),
    }


def test_a_setting_makes_the_same_config_by_choice_and_as_an_arm():
    values = {"sparsity.every": 3, "local.learning_rate": 0.01, "local.options.momentum": 0.5}
    arm = {"sparsity": {"density": 0.4}, "local": {"epochs": 2}}
    study = Study(seeds=1, arms={"dense": {}, "lips": arm})
    arms = {"dense": {}, "lips": as_differences(values, arm)}
    found = dataclasses.replace(study, arms=arms)
    assert expand(found)[1].config == choose(expand(study)[1].config, values)


def test_what_one_class_of_sites_gives_up_can_be_searched():
    """One of several values, by its place, where the study has as many."""
    config = override(Config(), "sites.widths", [1.0, 1.0, 1.0])
    space = read_space(["sites.widths.1=[0.25, 0.5, 1.0]", "sites.widths.2=[0.5, 1.0]"], config)
    assert space == {
        "sites.widths.1": Choice((0.25, 0.5, 1.0)),
        "sites.widths.2": Choice((0.5, 1.0)),
    }
    values = {"sites.widths.1": 0.25}
    assert choose(config, values).sites.widths == (1.0, 0.25, 1.0)
    assert describe(values) == "widths.1 0.25"
    arm = {"sites": {"widths": [1.0, 1.0, 1.0]}}
    study = Study(seeds=1, arms={"dense": {}, "adapted": as_differences(values, arm)})
    assert expand(study)[1].config.sites.widths == (1.0, 0.25, 1.0)
    for name in ("sites.widths.3", "sites.widths.00", "sites.widths.first"):
        with pytest.raises(
            ValueError, match=f"unknown field space.{name}; widths has values 0 to 2"
        ):
            read_space([f"{name}=[0.25, 1.0]"], config)


# What cannot be searched.

BAD = {
    "no hours": (("--hours", "0"), ("hours must be above 0, not 0",)),
    "hours without a clock": (("--hours", "1"), ("lips has none: give --sites.devices",)),
    "no trials": (["--trials", "0"], ["trials must be at least 1, not 0"]),
    "no time": (["--timeout", "0"], ["timeout must be above 0 seconds, not 0.0"]),
    "time for ever": (["--timeout", "nan"], ["timeout must be", "nan"]),
    "range reversed": (
        ["--space", "sparsity.density=[0.9, 0.1]"],
        ["space.sparsity.density must go from low to high, not [0.9, 0.1]"],
    ),
    "range of one": (["--space", "sparsity.every=[3, 3]"], ["from low to high, not [3, 3]"]),
    "unknown field": (
        ["--space", "sparsity.densty=[0.1, 0.9]"],
        ["unknown field space.sparsity.densty", "did you mean density?"],
    ),
    "unknown part": (["--space", "sparsty.every=[1, 2]"], ["space.sparsty", "mean sparsity?"]),
    "unknown criterion": (
        ["--space", 'sparsity.criterion=["saliency", "size"]'],
        ["criterion must be one of saliency, magnitude", "'size'"],
    ),
    "density above 1": (
        ["--space", "sparsity.density=[0.1, 1.5]"],
        ["density must be in (0, 1], not 1.5"],
    ),
    "density 0": (["--space", "sparsity.density=[0.0, 0.5]"], ["(0, 1], not 0.0"]),
    "every 0": (["--space", "sparsity.every=[0, 5]"], ["every must be at least 1, not 0"]),
    "number for an integer": (
        ["--space", "sparsity.every=[1.5, 5]"],
        ["space.sparsity.every must be an integer, not 1.5"],
    ),
    "no list": (["--space", "sparsity.every=3"], ["must list a low and a high number", "3"]),
    "one choice": (["--space", 'sparsity.scope=["erk"]'], ["or choices", "['erk']"]),
    "choice twice": (
        ["--space", 'sparsity.scope=["erk", "erk", "layer"]'],
        ["space.sparsity.scope lists a choice twice"],
    ),
    "choice of lists": (
        ["--space", 'sparsity.kinds=[["conv"], ["dense"]]'],
        ["must list numbers, texts, or true and false"],
    ),
    "not TOML": (["--space", "sparsity.every=1..5"], ["'sparsity.density=[0.1, 0.9]'", "1..5"]),
    "nothing": (["--space"], ["space must name at least one field"]),
    "named twice": (
        ["--space", "sparsity.every=[1, 2]", "sparsity.every=[1, 3]"],
        ["space names sparsity.every twice"],
    ),
    "part of the question": (
        ["--space", "partition.alpha=[0.1, 1.0]"],
        ["space.partition.alpha is part of the question", "model, local, strategy, sparsity"],
    ),
    "the seed": (["--space", "seed=[1, 5]"], ["space.seed is part of the question"]),
    "unknown arm": (["--arm", "lisp"], ["arm must be one of dense, local", "not 'lisp'"]),
    "the reference": (["--arm", "dense"], ["arm must be another than 'dense'"]),
    "one arm": (["--arms", "dense"], ["arm must be another than 'dense'"]),
    "a grid": (["--grid", "sparsity.every=[1, 2]"], ["takes no grid", "sparsity.every"]),
    "more seeds than between": (["--seeds", "1001"], ["seeds must be at most 1000", "1001"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_searched(tmp_path, case):
    argv, parts = BAD[case]
    ended = commands.call("search", *commands.TINY, "--out", str(tmp_path / "out"), *argv)
    assert ended.status == 2, ended
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1, ended.err
    for part in parts:
        assert part in ended.err
    assert not (tmp_path / "out").exists()


def test_sparsity_of_an_arm_without_any(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("[arms.dense]\n[arms.tuned.local]\nweight_decay = 0.1\n")
    ended = commands.call("search", str(path), *commands.TINY, "--out", str(tmp_path / "out"))
    assert ended.err == (
        "error: space.sparsity.density needs an arm with sparsity = {}, and tuned has none\n"
    )


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    ended = search(tmp_path / "out")
    assert ended.status == 2
    assert ended.err == "error: lipsjax search needs optuna: pip install 'lipsjax[search]'\n"
    assert not (tmp_path / "out").exists()


def test_in_several_processes(tmp_path, fake, monkeypatch):
    fake()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    ended = search(tmp_path / "out")
    assert ended.err == "error: lipsjax search runs in one process, not in 2\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{}\n{}\n", "x\ny\n", "[]\n[]\n"])
def test_a_damaged_journal(tmp_path, fake, content):
    fake()
    assert search(tmp_path, trials=1).status == 0
    (journal,) = tmp_path.glob("search/*/journal.log")
    journal.write_text(content)
    ended = search(tmp_path, trials=1)
    assert ended.status == 2
    assert f"{journal} is damaged" in ended.err
    assert ended.err.count("\n") == 1


def test_two_searches_at_once(tmp_path, fake):
    fake()
    assert search(tmp_path, trials=1).status == 0
    (folder,) = tmp_path.glob("search/*")
    with recording.lock(folder):
        ended = search(tmp_path, trials=2)
    assert ended.status == 2
    assert f"{folder} is being written by another process" in ended.err
