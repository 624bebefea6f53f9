"""Runs of lipsjax 0.1, which recorded no behaviour number, are read, marked and left alone."""

import json
import re
import shutil
from pathlib import Path
from unittest import mock

import pytest

from helpers import commands, fake_study
from lipsjax import recording
from lipsjax.recording import runs
from lipsjax.report.setting import describe_setting

OLD = Path(__file__).parent / "data" / "v0.1"
"""`lipsjax sweep` of 0.1.0: 2 rounds, 2 seeds, 3 clients, deaths = 0.3, least_work = 0.2."""
MARK = "recorded by behaviour 1 (lipsjax 0.1.0); this is behaviour 4"


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(OLD, tmp_path / "old"))


@pytest.mark.parametrize(("form", "file"), [("html", "report.html"), ("md", "report.md")])
def test_a_report_of_old_runs_is_drawn_and_marked(old, form, file):
    ended = commands.call("report", str(old), "--format", form)
    assert ended.status == 0, ended.err
    text = re.sub(r"\\", "", (old / file).read_text(encoding="utf-8"))
    assert MARK in text
    assert "30% mid-round dropout" in text


def test_fields_have_the_names_of_now_and_metrics_those_recorded():
    study = recording.read_study(OLD)
    assert [trial.recording.behaviour for trial in study.trials] == [1] * 4
    run = study.trials[0].recording
    assert run.config["participation"] == {
        "sampling": "uniform",
        "dropout": 0.0,
        "mid_round_dropout": 0.3,
        "stragglers": 0.0,
        "min_work": 0.2,
    }
    assert "clients_died" in run.scalars


def test_new_runs_are_not_marked(tmp_path):
    study = recording.read_study(fake_study.write_study(tmp_path, seeds=2))
    assert "Version" not in dict(describe_setting(study.trials[0].recording))


def test_runs_of_two_behaviours_are_not_compared(tmp_path):
    out = fake_study.write_study(tmp_path, seeds=2)
    first, *others = (trial.run for trial in recording.read_study(out).trials)
    path = out / "runs" / first / "config.json"
    path.write_text(json.dumps({"config": json.loads(path.read_text())["config"]}))
    ended = commands.call("report", str(out))
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert (
        f"behaviour 1: {first}; behaviour {recording.BEHAVIOUR}: {', '.join(others)}" in ended.err
    )


def test_an_old_run_does_not_go_on(old):
    """Its name is another; under the name of a new one it is refused."""
    folder = next((old / "runs").iterdir())
    about = json.loads((folder / "config.json").read_text())
    name = recording.run_hash(**about)
    assert name != folder.name
    with mock.patch.object(runs, "BEHAVIOUR", recording.BEHAVIOUR + 1):
        assert recording.run_hash(**about) not in (name, folder.name)
    folder = folder.rename(folder.with_name(name))
    with pytest.raises(recording.RecordingError, match="by behaviour 1, and this is behaviour 4"):
        recording.check(folder, **about)


@pytest.mark.slow
def test_a_new_run_beside_old_ones_says_that_they_are_left_alone(old):
    before = commands.files(old)
    ended = commands.run(old, "--rounds", "1")
    assert ended.status == 0, ended.err
    assert f"holds 4 runs of another behaviour, as this is {recording.BEHAVIOUR}" in " ".join(
        ended.out.split()
    )
    assert before.items() <= commands.files(old).items()
