"""Every file of a run directory, damaged in every way: one line that names it, and a remedy."""

import json
import shutil

import numpy as np
import pytest

from helpers import commands, fake_study
from helpers.commands import refusal
from lipsjax import recording

DEEP = "[" * 100_000 + "]" * 100_000
DAMAGES = {
    "empty": "",
    "cut": '{"config": {"rou',
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "an empty table": "{}",
    "nested deeply": DEEP,
    "no text": b"\xff\xfe\x00\x01",
    "wrong types": '{"config": 3, "layers": 3, "round": "x", "versions": 3, "rounds": "x"}',
}
READ = ("config.json", "plan.json", "setup.json", "metrics.jsonl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fake_study.write_study(tmp_path_factory.mktemp("whole") / "out", seeds=3)


@pytest.fixture
def study(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def first_run(study):
    return study / "runs" / recording.read_study(study).trials[0].run


def damage(path, content):
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("how", ["gone", *DAMAGES])
@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_is_named_with_a_remedy(name, how, study):
    run = first_run(study)
    damage(run / name, DAMAGES.get(how))
    line = refusal(commands.call("report", str(study)), name, f"delete {run} to run it again")
    assert len(line) < 600


def test_after_the_remedy_the_rest_is_reported(study):
    run = first_run(study)
    damage(run / "setup.json", None)
    shutil.rmtree(run)
    assert commands.call("report", str(study), "--format", "md").status == 0


@pytest.mark.parametrize("how", ["gone", "empty", "half"])
def test_times_that_are_lost_are_not_measured(how, study):
    """They are neither a reason to refuse the run, nor 0 s."""
    run = first_run(study)
    path = run / "timings.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    row = json.loads(lines[0]) | {"rounds": 1}
    damage(path, {"gone": None, "empty": "", "half": json.dumps(row) + "\n"}[how])
    found = recording.read(run)
    assert np.isnan(found.seconds)
    assert np.isnan(found.compile_seconds)
    assert commands.call("report", str(study), "--format", "md").status == 0


@pytest.mark.parametrize("how", sorted(DAMAGES.keys() - {"empty"}))
def test_damaged_times_are_named(how, study):
    run = first_run(study)
    damage(run / "timings.jsonl", DAMAGES[how])
    refusal(commands.call("report", str(study)), "timings.jsonl", f"delete {run}")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("config.json", {"rounds": "40"}),
        ("config.json", {"seed": None}),
        ("config.json", {"model": 3}),
        ("config.json", {"local": {"epochs": "x"}}),
        ("setup.json", {"num_classes": "x"}),
        ("setup.json", {"layers": [3]}),
        ("setup.json", {"layers": [{"name": "a", "role": "b"}]}),
        ("setup.json", {"survey": []}),
        ("setup.json", {"survey": {"train_counts": [[1]], "test_counts": []}}),
        ("setup.json", {"survey": {"train_counts": [[1]], "test_counts": [[0]]}}),
        ("setup.json", {"survey": {"train_counts": [[1]], "test_counts": "x"}}),
        ("config.json", {"strategy": {"cohort": -3}}),
        ("setup.json", {"survey": {"train_counts": [[1], [1, 2]]}}),
        ("setup.json", {"flops_per_round": "many"}),
        ("plan.json", {"devices": "1"}),
        ("plan.json", {"chunk": 0}),
        ("plan.json", {"versions": []}),
    ],
)
def test_values_of_wrong_types_are_named(name, fields, study):
    path = first_run(study) / name
    content = json.loads(path.read_text())
    inside = content["config"] if name == "config.json" else content
    inside |= fields
    path.write_text(json.dumps(content))
    refusal(commands.call("report", str(study)), name, "delete")


def named_by_its_digest(study):
    """The first run of a study, its folder called as the package calls it."""
    run = first_run(study)
    about = json.loads((run / "config.json").read_text())
    name = recording.run_hash(about["config"], about["data_fingerprint"])
    text = (study / "study.json").read_text()
    (study / "study.json").write_text(text.replace(run.name, name))
    return run.rename(run.with_name(name))


@pytest.mark.parametrize(
    "change", [{"rounds": 41}, {"seed": 7}, {"local": {"epochs": 9}}, {"partition": {"alpha": 3}}]
)
def test_a_config_that_was_edited_is_not_taken_for_the_run(change, study):
    run = named_by_its_digest(study)
    assert commands.call("report", str(study), "--format", "md").status == 0
    path = run / "config.json"
    content = json.loads(path.read_text())
    for name, value in change.items():
        inside = content["config"]
        inside[name] = inside[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(content))
    refusal(commands.call("report", str(study)), str(path), "not of this folder's", "delete")


@pytest.mark.parametrize("value", [1.25, -0.5, 1e9])
@pytest.mark.parametrize("name", ["accuracy_dense", "global_accuracy"])
def test_an_accuracy_is_a_share(name, value, study):
    path = first_run(study) / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1][name] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refusal(commands.call("report", str(study)), f"{name} is {value:g}", "0..1", "delete")


@pytest.mark.parametrize("name", [*recording.runs.NEEDED, "layers"])
def test_a_measure_that_all_runs_record_is_missed(name, study):
    path = first_run(study) / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({k: v for k, v in row.items() if k != name}) + "\n" for row in rows)
    )
    refusal(commands.call("report", str(study)), "metrics.jsonl", "lacks", "delete")


@pytest.mark.parametrize("how", ["gone", *sorted(DAMAGES.keys())])
def test_a_damaged_study_is_named(how, study):
    damage(study / "study.json", DAMAGES.get(how))
    refusal(commands.call("report", str(study)), "study.json")


def test_a_run_that_diverged_is_no_missing_one(study):
    trial = recording.read_study(study).trials[0]
    run = study / "runs" / trial.run
    (run / "summary.json").unlink()
    recording.runs.diverge(run, "the loss is not finite in round 3")
    found = recording.read_study(study)
    (told,) = found.diverged
    assert told["reason"] == "the loss is not finite in round 3"
    assert (told["arm"], told["seed"]) == (trial.arm, trial.seed)
    assert not found.missing
    assert len(found.trials) == 5
    damage(run / "diverged.json", "{")
    with pytest.raises(recording.RecordingError, match=r"diverged.json.*delete"):
        recording.read_study(study)


@pytest.mark.parametrize("name", ["metrics.csv", "summary.json"])
def test_what_is_not_read_may_be_damaged(name, study):
    path = first_run(study) / name
    path.write_text("")
    assert commands.call("report", str(study), "--format", "md").status == 0


@pytest.mark.slow
def test_a_summary_of_another_config_is_not_trusted(tmp_path):
    """A sweep that finds a finished run checks that it is of the config that it asks for."""
    out = tmp_path / "out"
    assert commands.run(out, "--rounds", "1").status == 0
    run = commands.run_dir(out)
    content = json.loads((run / "config.json").read_text())
    content["config"]["rounds"] = 2
    (run / "config.json").write_text(json.dumps(content))
    refusal(commands.run(out, "--rounds", "1"), "holds a run of another config", run.name)
    sweep = commands.call(
        *("sweep", *commands.TINY, "--rounds", "1", "--arms", "dense", "--seeds", "1"),
        *("--out", str(out)),
    )
    refusal(sweep, "holds a run of another config", run.name)
