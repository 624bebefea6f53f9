"""Trackers hold what the recording holds, once, under the same names, and never cost a run."""

import csv
import json
import struct
import sys

import pytest

from helpers import commands, fake_trackers
from lipsjax.runs import trackers

pytestmark = pytest.mark.slow  # others of the kind are in the default tests

ALL = ("tensorboard", "wandb", "mlflow")


def recorded(out):
    """Returns round -> metrics, as metrics.csv has them."""
    with (commands.run_dir(out) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        int(row.pop("round")): {name: float(value) for name, value in row.items() if value}
        for row in rows
    }


EVERY = ("--evaluation.every", "2")  # so that some rounds are not measured; one program for all


def run(out, *names):
    """Runs with trackers."""
    return commands.run(out, *EVERY, *(("--trackers", *names) if names else ()))


def stop(out, count, *names):
    """Runs with trackers until a checkpoint is about to be written."""
    commands.stop_at_save(out, count, *EVERY, *(("--trackers", *names) if names else ()))


@pytest.mark.whole
def test_all_hold_what_is_recorded(tmp_path, monkeypatch):
    told = fake_trackers.install(monkeypatch)
    ended = run(tmp_path, *ALL)
    assert ended.status == 0, ended
    expected = recorded(tmp_path)
    assert {"accuracy_dense", "inertia_index", "step/conv1"} <= expected[0].keys()
    assert "accuracy_dense" not in expected[1]  # not measured, and not logged as NaN
    assert told.metrics == dict.fromkeys(ALL, expected)
    run_hash = commands.run_dir(tmp_path).name
    name = f"synthetic-fedavg-seed0-{run_hash}"
    assert ("wandb", "open", run_hash, name, "offline") in told.calls
    assert ("tensorboard", "open", name) in told.calls
    assert ("mlflow", "open", f"sqlite:///{tmp_path / 'mlflow.db'}") in told.calls
    closes = [call for call in told.calls if call[1] == "close"]
    assert closes == [
        ("tensorboard", "close"),
        ("wandb", "close", "0"),
        ("mlflow", "close", "FINISHED"),
    ]


@pytest.mark.whole
def test_the_users_variables_come_first(tmp_path, monkeypatch):
    told = fake_trackers.install(monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    assert run(tmp_path, "wandb", "mlflow").status == 0
    assert next(call for call in told.calls if call[0] == "wandb")[-1] == "online"
    assert ("mlflow", "open", "http://tracking.example") in told.calls


@pytest.mark.whole
def test_a_run_that_goes_on_is_the_same_run(tmp_path, monkeypatch):
    """Stopped between metrics and checkpoint: no round is missing, none comes twice."""
    told = fake_trackers.install(monkeypatch)
    stop(tmp_path, 3, *ALL)
    assert {name: len(rounds) for name, rounds in told.metrics.items()} == dict.fromkeys(ALL, 4)
    assert ("mlflow", "close", "KILLED") in told.calls
    assert ("wandb", "close", "1") in told.calls
    ended = run(tmp_path, *ALL)
    assert "goes on after round 4 of 6" in ended.out
    assert told.metrics == dict.fromkeys(ALL, recorded(tmp_path))
    assert ("mlflow", "goes on", "RUNNING") in told.calls
    assert len({call[2] for call in told.calls if call[:2] == ("wandb", "open")}) == 1


@pytest.mark.whole
def test_a_tracker_that_comes_later_is_told_what_was_before(tmp_path, monkeypatch):
    told = fake_trackers.install(monkeypatch)
    stop(tmp_path, 2)
    assert run(tmp_path, "mlflow").status == 0
    assert told.metrics == {"mlflow": recorded(tmp_path)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without trackers."""
    out = tmp_path_factory.mktemp("whole")
    assert run(out).status == 0
    return out


@pytest.mark.whole
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("step", [-1, 3], ids=["opening", "logging"])
def test_a_tracker_that_fails_costs_nothing_else(whole, tmp_path, monkeypatch, name, step):
    told = fake_trackers.install(monkeypatch, failing=(name, step))
    ended = run(tmp_path, *ALL)
    assert ended.status == 0, ended
    line = (
        f"{name} failed and is left alone, the recording goes on: OSError: [Errno 28] No space "
        "left on device"
    )
    assert ended.out.splitlines().count(line) == 1
    assert commands.files(tmp_path) == commands.files(whole)
    others = [other for other in ALL if other != name]
    assert {n: told.metrics[n] for n in others} == dict.fromkeys(others, recorded(tmp_path))


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("tensorboard", "tensorboardX"),
        ("wandb", "wandb"),
        ("mlflow", "mlflow"),
        ("mlflow", "alembic"),
    ],
)
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_without_its_package_it_says_what_to_install(tmp_path, monkeypatch, name, package, command):
    fake_trackers.install(monkeypatch)
    monkeypatch.setitem(sys.modules, package, None)
    argv = (*commands.TINY, "--trackers", name, "--out", str(tmp_path / "out"))
    ended = commands.call(command, *argv)
    assert ended.status == 2
    assert ended.err == f"error: trackers {name} needs {package}: pip install 'lipsjax[{name}]'\n"
    assert not (tmp_path / "out").exists()


def test_an_unknown_tracker(tmp_path):
    ended = run(tmp_path, "wandbi")
    assert ended.status == 2
    assert "wandbi" in ended.err
    assert "tensorboard" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.whole
def test_none_is_opened_unless_asked_for(tmp_path, monkeypatch):
    for package in ("tensorboardX", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)
    assert run(tmp_path).status == 0


# The packages themselves.


@pytest.mark.whole
def test_tensorboard_reads_what_is_recorded(tmp_path):
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    stop(tmp_path, 3, "tensorboard")
    assert run(tmp_path, "tensorboard").status == 0
    (folder,) = (tmp_path / "tensorboard").iterdir()
    events = reader.EventAccumulator(str(folder)).Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            assert name not in found.setdefault(event.step, {})
            found[event.step][name] = event.value
    expected = recorded(tmp_path)
    assert found.keys() == expected.keys()
    for step, metrics in expected.items():
        assert found[step] == pytest.approx(metrics, rel=1e-6)  # it keeps float32
    assert "config/text_summary" in events.Tags()["tensors"]


def wandb_records(path):
    """Yields the records of a file of W&B: parts of blocks of 32 KiB, as LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 2**15 - at % 2**15 < 7:  # a block's end without room for a header
            at += 2**15 - at % 2**15
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


@pytest.mark.slow
def test_wandb_keeps_what_is_recorded(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert run(tmp_path, "wandb").status == 0
    wandb.teardown()  # its own process writes the file, and may be behind
    run_hash = commands.run_dir(tmp_path).name
    (path,) = tmp_path.glob(f"wandb/offline-run-*-{run_hash}/run-{run_hash}.wandb")
    found = {}
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item for item in record.history.item}
            values = {name: json.loads(item.value_json) for name, item in items.items()}
            step = int(values["_step"])
            found[step] = {name: v for name, v in values.items() if not name.startswith("_")}
    assert found == recorded(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own, of its database's package
def test_mlflow_keeps_what_is_recorded(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    stop(out, 3, "mlflow")
    assert run(out, "mlflow").status == 0
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (kept,) = client.search_runs([client.get_experiment_by_name(trackers.PROJECT).experiment_id])
    found = {}
    for name in kept.data.metrics:
        for metric in client.get_metric_history(kept.info.run_id, name):
            assert name not in found.setdefault(metric.step, {})
            found[metric.step][name] = metric.value
    assert found == recorded(out)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["partition.clients"] == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing beside it
