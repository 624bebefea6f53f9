"""A study answers what was asked, or refuses by name."""

import csv
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from helpers import commands, fake_study
from helpers.commands import MLP, TINY, call, call_as_given, refusal
from lipsjax import recording
from lipsjax.experiments.command import command_line
from lipsjax.recording.runs import notes_of_others
from lipsjax.runs.config import Config, Execution, SparsityConfig, to_dict
from lipsjax.runs.fields import from_dict, names_set, overlaps
from lipsjax.runs.reads import unread
from lipsjax.runs.study import MOST_TRIALS, Study, expand, load_study, references
from lipsjax.sparsity.criteria import CRITERIA, NEEDS_GRADIENT

TWO_RATES = """
[arms.slow]
[arms.fast]
local = { learning_rate = 0.2 }
"""


def study_of(text: str, tmp_path: Path) -> Study:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return load_study(path)


def expanded(arms, grid, seeds=1):
    return expand(from_dict(Study, {"seeds": seeds, "arms": arms, "grid": grid}))


FAST = {"slow": {}, "fast": {"local": {"learning_rate": 0.2}}}
RANDOM = {
    "dense": {},
    "lips": {"sparsity": {}},
    "random": {"sparsity": {"criterion": "random"}},
}


@pytest.mark.parametrize(
    ("arms", "grid", "parts"),
    [
        (FAST, {"local.learning_rate": [0.01, 0.05]}, ["local.learning_rate", "the arm fast"]),
        (FAST, {"local": [{"learning_rate": 0.1}]}, ["grid.local", "the arm fast"]),
        (RANDOM, {"sparsity.criterion": ["lowest"]}, ["sparsity.criterion", "the arm random"]),
        (RANDOM, {"sparsity": [{"criterion": "lowest"}]}, ["grid.sparsity", "the arm random"]),
        (FAST, {"local.options.momentum": [0.5], "local.options": [{}]}, ["both set"]),
        (FAST, {"partition": [{"alpha": 1.0}], "partition.alpha": [1.0]}, ["partition.alpha"]),
        (FAST, {"partition.alpha": [0.1, 0.1]}, ["partition.alpha holds 0.1 twice"]),
        (FAST, {"partition.alpha": [1, 1.0]}, ["twice"]),
        (FAST, {"partition": [{}, {"clients": 20}]}, ["are the same"]),
        (FAST, {"seed": [0, 1]}, ["grid.seed", "--seeds"]),
        ({"a": {}, "b": {}}, {}, ["a and b", "nothing differs"]),
        ({"a": {}, "b": {"rounds": 40}}, {}, ["a and b", "nothing differs"]),
        ({"a": {}, "b": {"seed": 3}}, {}, ["arms.b.seed", "seed by seed"]),
        # what differs is not read
        ({"a": {}, "b": {"strategy": {"trim": 0.3}}}, {}, ["a and b", "strategy.trim"]),
        ({"a": {}, "b": {"partition": {"classes": 3}}}, {}, ["nothing reads partition.classes"]),
        (FAST, {"faults.scale": [1.0, 2.0]}, ["faults.scale = 1.0", "nothing reads faults.scale"]),
        (
            {"a": {"model": {"name": "vgg5"}}, "b": {"model": {"name": "vgg5", "width": 8}}},
            {},
            ["nothing reads model.width"],
        ),
        (
            {
                "a": {"sparsity": {"criterion": "random"}},
                "b": {"sparsity": {"criterion": "random", "gradient": "fresh"}},
            },
            {},
            ["nothing reads sparsity.gradient"],
        ),
        (
            {
                "a": {"sparsity": {"operation": "scale"}},
                "b": {"sparsity": {"operation": "scale", "hold": 2}},
            },
            {},
            ["nothing reads sparsity.hold"],
        ),
        ({"a": {}, "": {"rounds": 3}}, {}, ["name of an arm"]),
        ({"a": {}, "b\x1b[2J": {"rounds": 3}}, {}, ["name of an arm"]),
        (
            {"dense": {}, "d": {"rounds": 3}},
            {"sparsity.every": [1]},
            ["needs an arm with sparsity"],
        ),
    ],
)
def test_what_would_answer_another_question_is_refused(arms, grid, parts):
    with pytest.raises(ValueError, match=r".") as refused:
        expanded(arms, grid)
    for part in parts:
        assert part in str(refused.value)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_criteria_without_gradients_are_known_to_configs(criterion):
    config = Config(sparsity=SparsityConfig(criterion=criterion))
    assert ("sparsity.gradient" in unread(config)) == (criterion not in NEEDS_GRADIENT)


def test_fields_that_differ_where_they_are_read_are_two_runs():
    two = {"a": {}, "b": {"partition": {"alpha": 0.5}}}
    assert len(expanded(two, {})) == 2
    with pytest.raises(ValueError, match=r"nothing reads partition\.alpha"):
        expanded(two, {"partition.kind": ["dirichlet", "iid"]})


def test_two_studies_are_not_run_in_one_folder_at_once(tmp_path):
    out = fake_study.write_study(tmp_path / "out", seeds=1)
    pages = sorted(out.iterdir())
    with recording.lock(out):
        ended = sweep(tmp_path, *TINY, *MLP[:4], "--partition.test-examples", "9")
    refusal(ended, str(out), "another study, python -m lipsjax.experiments.sweep", "another --out")
    assert sorted(out.iterdir()) == sorted({*pages, out / ".lock"})


def test_a_table_in_a_grid_leaves_the_other_fields():
    study = from_dict(
        Study,
        {
            "seeds": 1,
            "config": {"partition": {"clients": 7}},
            "arms": {"dense": {}},
            "grid": {"partition": [{"alpha": 1.0}, {"alpha": 2.0}]},
        },
    )
    found = [trial.config.partition for trial in expand(study)]
    assert {each.clients for each in found} == {7}
    assert [each.alpha for each in found] == [1.0, 2.0]


def test_a_table_of_sparsity_reaches_the_arms_that_have_it():
    trials = expanded(RANDOM, {"sparsity": [{"every": 2}, {"every": 3}]})
    dense, lips, random = ([t.config.sparsity for t in trials if t.arm == arm] for arm in RANDOM)
    assert dense == [None, None]
    assert [s.every for s in lips] == [s.every for s in random] == [2, 3]
    assert {s.criterion for s in random} == {"random"}


@pytest.mark.parametrize(
    ("seeds", "grid"),
    [(10**9, {}), (10**40, {}), (1, {f"local.options.x{i}": list(range(100)) for i in range(5)})],
)
def test_a_slip_of_the_pen_is_refused_at_once(seeds, grid):
    with pytest.raises(ValueError, match=f"at most {MOST_TRIALS} runs"):
        expanded(FAST, grid, seeds=seeds)


def test_against_goes_in_no_circle():
    chain = {"a": {}, "b": {"rounds": 1}, "c": {"rounds": 2, "against": "b"}}
    study = from_dict(Study, {"arms": chain})
    assert references(study) == {"a": "a", "b": "a", "c": "b"}
    chain["b"]["against"] = "c"
    with pytest.raises(ValueError, match=r"in a circle: b, c, b"):
        references(from_dict(Study, {"arms": chain}))
    with pytest.raises(ValueError, match=r"arms.b.against must be one of a, b, c, not \['a'\]"):
        references(from_dict(Study, {"arms": chain | {"b": {"against": ["a"]}}}))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"[config.local]\nlearning_rate = {10**400}", ["config.local.learning_rate", "finite"]),
        ("[arms.a]\n[arms.b]\nagainst = ['a']", ["arms.b.against"]),
        ("arms = 3", ["arms must be a table, not 3"]),
        ("[arms]\na = 3", ["arms.a must be a table, not 3"]),
        (f"name = {[['x' * 30] * 100]}", ["name must be a text", "..."]),
        ("[config]\nrounds = 2020-01-01", ["config.rounds must be an integer"]),
        ("seeds = " + "9" * 5000, ["study.toml", "5000 digits"]),
    ],
)
def test_values_of_toml(text, parts, tmp_path):
    with pytest.raises(ValueError, match=r".") as refused:
        expand(study_of(text, tmp_path))
    assert len(str(refused.value)) < 400
    for part in parts:
        assert part in str(refused.value)


def test_a_mark_at_the_begin_of_a_file_is_no_part_of_it(tmp_path):
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xef\xbb\xbfseeds = 3\n")
    assert load_study(path).seeds == 3


def test_names_of_fields():
    assert names_set({"rounds": 1, "local": {"epochs": 1, "options": {}}}, ["local"]) == {
        "rounds",
        "local.epochs",
        "local.options",
    }
    assert overlaps("local.options", "local.options.momentum")
    assert not overlaps("local.opt", "local.options")


def sweep(tmp_path, *argv, study=TWO_RATES):
    path = tmp_path / "study.toml"
    path.write_text(study)
    return call_as_given("sweep", str(path), *argv, "--out", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--grid", "rounds=[1]", "--grid", "local.epochs=[1]"], ["--grid is given twice"]),
        (["--seeds", "1", "--seeds=2"], ["--seeds is given twice"]),
        (["--partition.train_examples", "5", "--partition.train-examples", "6"], ["twice"]),
        (["--grid", "rounds=[1]", "rounds=[2]"], ["--grid names rounds twice"]),
        (["--arms", "slow", "slow"], ["--arms names slow twice"]),
        (["--local.learning-rate", "0.1"], ["--local.learning-rate", "the arm fast"]),
        (["--rounds", "3", "--grid", "rounds=[1, 2]"], ["--rounds", "the grid"]),
        (["--local.options", "momentum=0.9", "momentum=0.1"], ["options name momentum twice"]),
        (["--grid", "local.learning_rate=[0.01]"], ["grid.local.learning_rate", "the arm fast"]),
    ],
)
def test_options_that_contradict(argv, parts, tmp_path):
    refusal(sweep(tmp_path, *argv), *parts)
    assert not (tmp_path / "out").exists()


def test_an_option_reaches_the_other_fields_of_a_table_in_the_grid(tmp_path):
    grid = ("--grid", "partition=[{alpha=1.0}, {alpha=0.1}]")
    refusal(sweep(tmp_path, *grid, "--partition.clients", "3", "--seeds", "0"), "seeds must be")
    refusal(sweep(tmp_path, *grid, "--partition.alpha", "3"), "--partition.alpha", "the grid")


def test_names_are_written_in_one_line_everywhere():
    arms = {"a  b": {}, "c\nd": {"rounds": 1, "against": "a  b"}}
    assert references(from_dict(Study, {"arms": arms})) == {"a b": "a b", "c d": "a b"}


def test_an_option_reaches_where_no_arm_that_runs_sets_it(tmp_path):
    argv = ("--arms", "slow", "--local.learning-rate", "0.1", "--seeds", "0")
    refusal(sweep(tmp_path, *argv), "seeds must be at least 1, not 0")


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    np.savez(path, x=rng.integers(0, 256, (60, 4, 4)).astype(np.uint8), y=np.arange(60) % 3)
    return path


def identity(path: Path) -> str:
    from lipsjax.runs.dataset import load_for

    config = Config(dataset=str(path))
    return recording.run_hash(to_dict(config), load_for(config, None)[1])


def test_data_are_known_by_content(images, monkeypatch):
    """A copy, a link and another way to write the path are the same data."""
    copy, link = images.with_name("copy.npz"), images.with_name("link.npz")
    shutil.copy(images, copy)
    link.symlink_to(images)
    monkeypatch.chdir(images.parent)
    ways = [images, copy, link, Path("mine.npz"), Path("../") / images.parent.name / "mine.npz"]
    assert len({identity(path) for path in ways}) == 1
    np.savez(copy, x=np.zeros((60, 4, 4), np.uint8), y=np.arange(60) % 3)
    assert identity(copy.rename(copy.with_name("other.npz"))) != identity(images)


@pytest.mark.slow
@pytest.mark.whole
def test_a_copy_of_the_data_is_found_finished(images, tmp_path):
    copy = str(shutil.copy(images, tmp_path / "copy.npz"))
    argv = (*TINY, *MLP[:4], "--rounds", "1", "--out", str(tmp_path / "out"))
    argv = (*argv, "--partition.train-examples", "5", "--partition.test-examples", "2")
    assert call("run", *argv, "--dataset", str(images)).status == 0
    assert "found finished" in call("run", *argv, "--dataset", copy).out


def test_cells_of_the_same_data_under_two_names_are_refused(images, tmp_path):
    copy = shutil.copy(images, tmp_path / "copy.npz")
    small = ("--partition.train-examples", "5", "--partition.test-examples", "2")
    grid = ("--grid", f"dataset=['{images}', '{copy}']")
    refusal(sweep(tmp_path, *small, "--partition.clients", "3", *grid), "cells 1 and 2", "same")


def test_arms_of_the_same_data_under_two_names_are_refused(images, tmp_path):
    copy = shutil.copy(images, tmp_path / "copy.npz")
    study = f"[arms.a]\ndataset = '{images}'\n[arms.b]\ndataset = '{copy}'\n"
    small = ("--partition.train-examples", "5", "--partition.test-examples", "2")
    refusal(sweep(tmp_path, *small, "--partition.clients", "3", study=study), "a and b", "differs")


def test_a_run_of_more_rounds_says_why_it_begins_anew(tmp_path):
    config = to_dict(Config(rounds=4))
    folder = tmp_path / "runs" / recording.run_hash(config, "")
    setup = {"config": config, "data_fingerprint": "", "plan": {}, "setup": {}}
    folder.parent.mkdir()
    recording.create(folder, **setup)
    (line,) = notes_of_others(tmp_path, [(to_dict(Config(rounds=8)), "")])
    assert "runs of 4 rounds" in line
    assert "schedules" in line
    assert notes_of_others(tmp_path, [(config, "")]) == []
    assert notes_of_others(tmp_path, [(to_dict(Config(rounds=8)), "of other data")]) == []
    assert notes_of_others(tmp_path, [(to_dict(Config(rounds=8, seed=1)), "")]) == []
    other = {"config": {}, "behaviour": recording.BEHAVIOUR}  # of a run not asked for
    (folder / "config.json").write_text(json.dumps(other))
    assert notes_of_others(tmp_path, [(to_dict(Config(rounds=8)), "")]) == []


def test_a_study_of_old_runs_is_not_replaced(tmp_path):
    out = fake_study.write_study(tmp_path / "out", seeds=1)
    command = recording.read_study(out).command
    assert recording.replaceable(out) == command
    assert recording.replaceable(tmp_path) is None
    for path in out.glob("runs/*/config.json"):
        path.write_text(
            path.read_text().replace(f'"behaviour": {recording.BEHAVIOUR}', '"behaviour": 1')
        )
    with pytest.raises(recording.RecordingError, match="a study of behaviour 1"):
        recording.replaceable(out)


def test_none_is_none(tmp_path):
    """What may be none is so on the command line, and options are cleared by it."""
    ended = commands.call(
        "run", "--strategy.cohort", "none", "--rounds", "0", "--out", str(tmp_path)
    )
    refusal(ended, "rounds must be at least 1, not 0")
    adam = ("--local.optimizer", "adam", "--local.options", "none", "--rounds", "0")
    refusal(commands.call("run", *adam, "--out", str(tmp_path)), "rounds must be at least 1, not 0")


def test_a_study_that_is_a_pipe_is_not_waited_for(tmp_path):
    pipe = tmp_path / "study.toml"
    os.mkfifo(pipe)
    refusal(call("sweep", str(pipe), "--out", str(tmp_path / "out")), str(pipe), "not a file")


def test_the_home_of_a_study_is_read_and_not_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "study.toml").write_text("seeds = 0")
    refusal(call("sweep", "~/study.toml"), "seeds must be at least 1, not 0")
    line = command_line("sweep", [f"{tmp_path}/study.toml", "--out", f"{tmp_path}/out"])
    assert str(tmp_path) not in line
    assert "~/study.toml" in line
    assert Config(dataset="x").dataset == "x"
    assert Execution(out="~/out").out == f"{tmp_path}/out"


@pytest.mark.slow
def test_hostile_names_of_arms_are_names(tmp_path):
    """Tables are no formulas, pages no programs, and figures keep their size."""
    names = ("=1+1", "@SUM(A1)", "-2+3", "+cmd|x", "<blink>", "$x$", "a" * 200)
    out = fake_study.write_study(tmp_path / "out", seeds=3, rounds=4, arms=("dense", *names))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call("report", str(out)).status == 0
    rows = list(csv.reader((out / "table.csv").read_text().splitlines()))
    for name, row in zip(names, rows[2:], strict=True):
        assert not row[1].startswith(("=", "+", "-", "@"))
        assert row[1].endswith(name)
    assert "<blink>" not in (out / "report.html").read_text()
