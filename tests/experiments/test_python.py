"""Studies from Python: objects for names, callbacks, rules that stop, results."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import lipsjax as lj
from helpers.worlds import SHAPE, TinyNet
from lipsjax import datasets, models
from lipsjax.experiments import report, survey
from lipsjax.runs.study import Study

pytestmark = pytest.mark.slow  # others of the kind are in the default tests

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "python.md"
STUDY = {
    "seeds": 1,
    "arms": {"dense": {}},
    "config": {
        "dataset": "synthetic",
        "rounds": 3,
        "model": {"name": "mlp", "width": 2, "depth": 1},
        "local": {"epochs": 1},
        "partition": {"clients": 3, "train_examples": 20},
        "evaluation": {"global_examples": 20},
    },
    "execution": {"rounds_per_call": 1, "devices": 1},
}


@pytest.fixture
def unseen(monkeypatch):
    """Leaves pages out, which take longer than the runs."""
    monkeypatch.setattr(report, "draw", lambda *_, **__: None)
    nothing = types.SimpleNamespace(page=None)
    monkeypatch.setattr(survey, "write_survey", lambda *_: nothing)


def study_of(**config):
    return STUDY | {"config": STUDY["config"] | config}


def runs_in(out):
    return sorted(path.parent.name for path in out.glob("runs/*/summary.json"))


@pytest.mark.usefixtures("unseen")
def test_callbacks_are_told_and_a_second_call_runs_nothing(tmp_path):
    told = []
    results = lj.sweep(STUDY | {"seeds": 2}, out=tmp_path, callbacks=[told.append])
    assert [(each.arm, each.seed, each.done, each.rounds) for each in told] == [
        ("dense", seed, done, 3) for seed in range(2) for done in (1, 2, 3)
    ]
    table = results.rounds
    assert [each.newest["accuracy_dense"] for each in told] == list(table["accuracy_dense"])
    told.clear()
    again = lj.sweep(STUDY | {"seeds": 2}, out=str(tmp_path), callbacks=[told.append])
    assert not told
    np.testing.assert_array_equal(again.rounds["loss_train"], table["loss_train"])
    assert not results.unfinished


@pytest.mark.usefixtures("unseen")
def test_a_rule_stops_a_run_on_record_and_without_it_the_run_goes_on(tmp_path):
    def rule(told):
        return "two are\nenough" if told.done == 2 else None

    stopped = lj.sweep(STUDY, out=tmp_path, callbacks=[rule])
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "stopped.json").read_text()) == {
        "reason": "two are enough",
        "rounds": 2,
    }
    (unfinished,) = stopped.unfinished
    assert unfinished["reason"] == "stopped after 2 rounds: two are enough"
    assert len(stopped.rounds["arm"]) == len(stopped.comparison["arm"]) == 0
    lj.sweep(STUDY, out=tmp_path, callbacks=[pytest.fail])  # it is left as it is
    whole = lj.sweep(STUDY, out=tmp_path)
    assert list(whole.rounds["round"]) == [0, 1, 2]
    assert not whole.unfinished
    straight = lj.sweep(STUDY, out=tmp_path / "straight")
    np.testing.assert_array_equal(whole.rounds["loss_train"], straight.rounds["loss_train"])


def two_classes(size):
    rng = np.random.default_rng(0)
    return datasets.Examples(
        rng.normal(size=(size, *SHAPE)).astype(np.float32), np.arange(size) % 4
    )


OWN = datasets.Dataset("own", two_classes(200), two_classes(80), 4)


@pytest.mark.usefixtures("unseen")
@pytest.mark.slow
def test_own_parts_name_the_run_and_are_recorded(tmp_path):
    net = models.from_flax(TinyNet(norm="none"), SHAPE)
    results = lj.sweep(study_of(dataset=OWN, model={"name": net}, rounds=1), out=tmp_path)
    (run,) = results.study.trials
    assert re.fullmatch(r"own@[0-9a-f]{12}", run.recording.config["dataset"])
    assert re.fullmatch(r"Model@[0-9a-f]{12}", run.recording.config["model"]["name"])
    assert set(results.layers["layer"]) == {layer.name for layer in TinyNet().layers()}
    same = models.from_flax(TinyNet(norm="none"), SHAPE)
    lj.sweep(study_of(dataset=OWN, model={"name": same}, rounds=1), out=tmp_path)
    assert runs_in(tmp_path) == [run.run]
    report._check_config(run.recording, tmp_path / "runs" / run.run)  # pages can be drawn again


@pytest.mark.slow
@pytest.mark.usefixtures("unseen")
def test_a_study_may_be_a_file(tmp_path):
    text = '[arms.dense]\n[config]\nrounds = 1\ndataset = "synthetic"\n'
    text += '[config.model]\nname = "mlp"\nwidth = 2\ndepth = 1\n'
    (tmp_path / "study.toml").write_text(f"seeds = 1\n{text}")
    results = lj.sweep(tmp_path / "study.toml", out=tmp_path / "out")
    assert list(results.rounds["arm"]) == ["dense"]


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize(
    ("study", "options", "said"),
    [
        (3, {}, "study must be a Study, a dict as a TOML file has it, or the path of one, not 3"),
        ("no.toml", {}, "no.toml: no such file"),
        ({"seed": 1}, {}, "unknown field seed; did you mean seeds?"),
        (study_of(dataset=OWN), {"workers": 2}, "known to this process alone: workers must be 1"),
        (STUDY, {"workers": 2, "callbacks": [print]}, "callbacks are called in this process"),
        (STUDY, {"workers": 0}, "workers must be at least 1"),
        (STUDY | {"grid": {"model.name": [TinyNet, TinyNet]}}, {}, "grid.model.name holds"),
        (study_of(local={"optimizer": lambda rate: None}), {}, "lipsjax.named"),
        (study_of(model={"name": "net@0123456789ab"}), {}, "was handed over in Python"),
        (study_of(local={"optimizer": "o@0123456789ab"}), {}, "was handed over in Python"),
        (study_of(dataset="d@0123456789ab"), {}, "dataset: d@0123456789ab was handed over"),
    ],
)
def test_bad_studies_are_refused_in_one_line(tmp_path, monkeypatch, study, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"\S") as told:
        lj.sweep(study, out=tmp_path / "out", **options)
    assert said in str(told.value)
    assert "\n" not in str(told.value)
    assert not list((tmp_path / "out").glob("runs/*"))


@pytest.mark.usefixtures("unseen")
@pytest.mark.slow
def test_a_callback_that_returns_no_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a callback must return None, or why to stop as a text"):
        lj.sweep(STUDY, out=tmp_path, callbacks=[lambda told: True])


def test_a_study_object_and_its_dict_are_the_same():
    from lipsjax.experiments.python import _read

    assert _read({"seeds": 3}) == _read(Study(seeds=3))


@pytest.mark.slow
def test_the_script_of_the_page_runs_alone_and_is_found_finished(tmp_path):
    """Own arrays, module, optimizer, a sweep, a frame and a plot in 25 lines, without a guard."""
    script = re.search(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[1]
    assert len([line for line in script.splitlines() if line]) <= 25
    script = script.replace("tempfile.mkdtemp()", "'out'")
    (tmp_path / "script.py").write_text(f"{script}print(results.rounds.accuracy_dense.sum())\n")
    said = []
    for _ in range(2):
        ended = subprocess.run(
            [sys.executable, "script.py"],
            **{"cwd": tmp_path, "capture_output": True, "text": True, "check": True},
        )
        said.append(ended.stdout)
    assert "8 of 8 runs found finished" in said[1]
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
    assert "python script.py" in (tmp_path / "out" / "report.html").read_text()
