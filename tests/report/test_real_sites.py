"""The survey and the report of sites that data name: names kept, names withheld, what to record."""

import base64
import csv
import io
import json
import re
import types
import urllib.parse
from typing import Any

import numpy as np
import pytest

from helpers.commands import MLP, call, refusal
from helpers.fake_study import write_study
from lipsjax import recording
from lipsjax.datasets import Dataset, Examples
from lipsjax.datasets.sites import Origin, Sites
from lipsjax.experiments.run import summary
from lipsjax.partition import Partition, describe
from lipsjax.partition.survey import compare_sites, look
from lipsjax.recording import Recording
from lipsjax.report import plots, survey
from lipsjax.report.anonymise import anonymous_config, anonymous_study, names_for
from lipsjax.report.setting import seeds_stand_for
from lipsjax.report.survey import between

SITES = {"<b>Brno</b>": 30, "=Ghent": 60, "Ulm $x$": 90}
CLASSES = ("crack<i>", "finesse")
NAMES = ("Brno", "Ghent", "Ulm", "crack", "finesse", "secretive", "Tilburg")


def stored(folder, shape=(8, 8, 1), **arrays):
    """A file of three sites: the first has one class, the second is darker than the others."""
    rng = np.random.default_rng(0)
    site = np.repeat(list(SITES), list(SITES.values()))
    y = np.array(CLASSES)[rng.integers(0, 2, len(site))]
    y[site == "<b>Brno</b>"] = "finesse"
    x = rng.integers(100, 256, (len(site), *shape))
    x[site == "=Ghent"] -= 80
    x = x.astype(np.uint8) if len(shape) == 3 else x.astype(np.float32)
    x[1], x[40] = x[0], x[120]
    folder.mkdir(exist_ok=True)
    path = folder / "secretive.npz"
    np.savez(path, x=x, y=y, site=site, **arrays)
    return ("--dataset", str(path), "--partition.kind", "natural")


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("Tilburg")
    ended = call("survey", *stored(folder), "--out", str(folder))
    assert ended.status == 0, ended
    return ended.out, (folder / "survey.html").read_text(), folder / "survey.json"


def remarks(path):
    listed = json.loads(path.read_text())["remarks"]
    return {each["topic"]: (each["statement"], each["question"]) for each in listed}


def test_sites_keep_their_names_wherever_they_are_told(surveyed):
    out, page, path = surveyed
    assert re.search(r"^site +examples", out, re.MULTILINE)
    assert re.search(r"^<b>Brno</b> +\d+ +1 ", out, re.MULTILINE)
    found = remarks(path)
    assert found["Smallest site"][0].startswith("<b>Brno</b> holds the fewest")
    assert found["Lacking"][0].endswith("<b>Brno</b> lacks crack<i>.")
    assert "client" not in " ".join(sum(found.values(), ())).lower()
    assert json.loads(path.read_text())["site_names"] == list(SITES)
    link = re.search(r'href="data:text/csv[^,]*,([^"]*)"', page)[1]
    rows = list(csv.DictReader(io.StringIO(urllib.parse.unquote(link))))
    assert [row["site"] for row in rows] == ["<b>Brno</b>", "'=Ghent", "Ulm $x$"]  # no formula
    assert rows[0]["copies"] == "1"
    assert float(rows[1]["input_shift"]) > float(rows[1]["input_shift_chance"])


def test_names_are_escaped(surveyed):
    assert "<b>Brno" not in surveyed[1]
    assert "<i>" not in surveyed[1].replace("<i style", "").replace("<i></i>", "")
    assert "&lt;b&gt;Brno" in surveyed[1]


def test_what_was_found_is_what_is_told(surveyed):
    found = remarks(surveyed[2])
    assert "=Ghent (" in found["Input shift"][0]
    assert "<b>Brno</b> (" in found["Label shift"][0]
    assert "1 image is at one site more than once" in found["Duplicates"][0]
    assert "at several sites" in found["Duplicates"][0]


def test_the_checklist_follows_from_the_figures(surveyed):
    items = json.loads(surveyed[2].read_text())["checklist"]
    whats = [item["what"] for item in items]
    assert "At every site, when each image was taken." in whats
    assert any(what.startswith("=Ghent: what differs in device") for what in whats)
    assert "<b>Brno</b>: more examples, of classes that occur there: 20 of crack<i>." in whats
    assert any(what.startswith("How copies arise") for what in whats)
    assert all(re.search(r"\w", item["why"]) for item in items)
    assert surveyed[1].count("<li>") == len(items)


def test_times_and_groups_that_are_named_are_not_asked_for(tmp_path):
    total = sum(SITES.values())
    given = {"time": np.arange(total), "group": np.arange(total) // 3}
    call("survey", *stored(tmp_path, **given), "--out", str(tmp_path))
    whats = [i["what"] for i in json.loads((tmp_path / "survey.json").read_text())["checklist"]]
    assert not any("when each" in what or "of which part" in what for what in whats)
    assert "groups" in remarks(tmp_path / "survey.json")["Groups"][0]


def test_groups_on_both_sides_of_a_test_are_told():
    def made(groups):
        origins = (Origin(np.arange(4) % 2, np.array(each)) for each in groups)
        sites = Sites(("a", "b"), *origins, is_split=True)
        examples = Examples(np.zeros((4, 2), np.float32), np.arange(4) % 2)
        return Dataset("made", examples, examples, 2, sites=sites)

    found = between._parted_groups(made([[0, 1, 2, 3], [3, 3, 0, 7]]))
    assert found.statement.startswith("3 test examples are of a group that is trained on too (2 g")
    assert between._parted_groups(made([[0, 1, 2, 3], [4, 5, 6, 7]])) is None


@pytest.mark.parametrize(
    ("shape", "said"),
    [((9, 7, 1), "Images of 9 x 7 pixels"), ((20, 3), "Series of 20 steps"), ((20,), "Rows of 20")],
)
def test_inputs_of_every_kind_are_surveyed(shape, said):
    x = np.random.default_rng(0).random((40, *shape)).astype(np.float32)
    part = Examples(x, np.arange(40, dtype=np.int32) % 2)
    made, held = Dataset("set", part, part, 2), (np.arange(20), np.arange(20, 40))
    parts = Partition(held, held, np.full((2, 2), 0.5))
    found, facts, looks = describe(parts, made), compare_sites(parts, made), look(parts, made)
    told = survey.remarks(
        found, made, batch_size=4, epochs=1, looks=looks, sites=("a", "b"), facts=facts
    )
    assert any(remark.statement.startswith(said) for remark in told)
    assert survey.checklist(found, facts, looks, made, survey.Called(("a", "b")))


def test_the_page_says_what_seeds_stand_for(surveyed):
    assert "Seeds are redraws from these data, not other sites" in " ".join(surveyed[1].split())
    assert "which client holds which examples" in seeds_stand_for({"kind": "dirichlet"})


def test_made_up_clients_have_no_checklist(tmp_path):
    call("survey", "--dataset", "synthetic", "--out", str(tmp_path))
    found = json.loads((tmp_path / "survey.json").read_text())
    assert found["checklist"] == []
    assert found["sites"] is None
    assert "What to record" not in (tmp_path / "survey.html").read_text()


def written(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: decoded(urllib.parse.unquote(path.read_text())) for path in files}


def decoded(text):
    """The text with what its addresses hold in base64, in which any name may be read by chance."""
    return re.sub(
        r";base64,([A-Za-z0-9+/=]*)",
        lambda found: base64.b64decode(found[1]).decode("utf-8", "replace"),
        text,
    )


def nobody(texts):
    for file, text in texts.items():
        for name in NAMES:
            assert name.lower() not in text.lower(), (file, name)


@pytest.mark.parametrize("kind", ["natural", "dirichlet"])
def test_an_anonymous_survey_holds_no_name_and_no_path(tmp_path, kind):
    folder = tmp_path / "Tilburg"
    sizes = ["--partition.train-examples", "5"] if kind == "dirichlet" else []
    sizes += ["--partition.test-examples", "5"] if kind == "dirichlet" else []
    sizes += ["--partition.hold-out-sites", "=Ghent"] if kind == "natural" else []
    argv = (*stored(folder)[:3], kind, *sizes)
    ended = call("survey", *argv, "--out", str(folder), "--anonymise")
    assert ended.status == 0, ended
    texts = written(folder / "anonymous")
    assert set(texts) == {"survey.html", "survey.json"}
    nobody(texts | {"printed": ended.out.rpartition("page: ")[0]})
    if kind == "natural":
        assert "Site 3" in texts["survey.html"]
        assert "Class 1" in texts["survey.html"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "Tilburg"
    path = folder.parent / "secretive.toml"
    path.write_text(
        'name = "The finesse of Ulm"\nseeds = 1\n[grid]\n'
        '"partition.hold_out_sites" = [["=Ghent"], ["Ulm $x$"]]\n'
    )
    argv = (*stored(folder.parent), *MLP, "--rounds", "2", "--out", str(folder))
    ended = call("sweep", str(path), *argv)
    assert ended.status == 0, ended
    return folder


@pytest.mark.parametrize("form", ["html", pytest.param("md", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_an_anonymous_report_holds_no_name_and_no_path(study, form):
    ended = call("report", str(study), "--format", form, "--anonymise")
    assert ended.status == 0, ended
    texts = written(study / "anonymous")
    assert {f"report.{form}", "table.csv"} <= set(texts)
    nobody(texts | {"printed": ended.out.rpartition("report: ")[0]})
    assert "partition.hold_out_sites = ['Site" in texts[f"report.{form}"].replace("\\", "")


@pytest.mark.slow
def test_a_report_with_names_has_them(study):
    text = (study / "report.html").read_text()
    assert "Site 1" not in text
    assert "Ulm $x$" in text
    assert "&lt;b&gt;Brno" in text


@pytest.mark.slow
def test_an_anonymous_study_has_the_same_numbers(study):
    read = recording.read_study(study)
    hidden = anonymous_study(read)
    for trial, same in zip(read.trials, hidden.trials, strict=True):
        assert trial.recording.scalars is same.recording.scalars
        assert trial.recording.config["seed"] == same.recording.config["seed"]
    assert len({cell["label"] for cell in hidden.cells}) == len(read.cells)


def test_paths_and_code_in_a_config_are_withheld():
    names = names_for(["a"], ["x.npz"])
    hidden = anonymous_config(
        {"dataset": "other", "partition": {"hold_out_sites": ("a", "b", "1"), "kind": "natural"}}
        | {"model": {"name": "pkg.mod:Net", "init": "/home/me/w.safetensors"}},
        names,
    )
    assert hidden["dataset"] == "a data set"
    assert hidden["partition"] == {"hold_out_sites": ("Site 1", "a site", "1"), "kind": "natural"}
    assert set(hidden["model"].values()) == {"withheld"}


def test_plain_words_of_data_are_withheld():
    config = {
        "data": {"label": "hepatitis", "shape": [8, 8]},
        "dataset_options": {"hospital": "Ghent", "year": 2026},
        "model": {"name": "cnn", "init": "weights-ghent"},
    }
    assert anonymous_config(config, names_for([], [])) == {
        "data": {"label": "withheld", "shape": [8, 8]},
        "dataset_options": {"hospital": "withheld", "year": 2026},
        "model": {"name": "cnn", "init": "withheld"},
    }
    assert anonymous_config({"dataset_options.hospital": "Ghent"}, names_for([], [])) == {
        "dataset_options.hospital": "withheld"
    }


def test_cells_stay_apart_without_their_names(tmp_path):
    write_study(tmp_path, cells=("one", "two"), seeds=2, rounds=4, clients=2)
    read = recording.read_study(tmp_path)
    parts = ("mine:Net", "mine:Wider")
    cells = tuple(
        cell | {"overrides": {"model.name": part}}
        for cell, part in zip(read.cells, parts, strict=True)
    )
    labels = [cell["label"] for cell in anonymous_study(read._replace(cells=cells)).cells]
    assert labels == ["model.name = withheld (1)", "model.name = withheld (2)"]


def mix(**setup):
    counts = {"survey": {"train_counts": [[3, 1], [0, 2]]}}
    return plots.class_mix(Recording({}, {}, counts | setup, {}, {}, 0, 0))


def test_the_class_mix_is_of_names_where_there_are_names():
    named = mix(site_names=["Brno", "Ulm $x"], class_names=["crack", "fine"])
    assert named.columns == ("site", "class crack", "class fine")
    assert named.rows == (("Brno", 3, 1), ("Ulm $x", 0, 2))
    assert mix().columns == ("client", "class 0", "class 1")  # as in older recordings
    assert mix().rows[1] == (1, 0, 2)


@pytest.mark.slow
def test_a_site_that_diverges_is_named(tmp_path):
    argv = (*stored(tmp_path), *MLP[:4], "--rounds", "2", "--local.learning-rate", "1e30")
    line = refusal(call("run", *argv, "--out", str(tmp_path / "out")), "the loss is not finite")
    assert "sites " in line
    assert "Ulm $x$" in line


def test_made_up_clients_of_data_with_sites_are_told_so(tmp_path):
    """Nobody takes a partition that was drawn for the sites of the file."""
    rng = np.random.default_rng(0)
    file = tmp_path / "mine.npz"
    x, y = rng.integers(0, 256, (60, 6, 6), np.uint8), np.arange(60) % 2
    np.savez(file, x=x, y=y, site=np.repeat(["Brno", "Ulm"], 30))
    small = ("--partition.clients", "3", "--partition.train-examples", "5")
    small += ("--partition.test-examples", "3")
    ended = call("survey", "--dataset", str(file), *small, "--out", str(tmp_path / "out"))
    said = " ".join(ended.out.split())
    assert "The data name 2 sites (Brno, Ulm); these clients are made up" in said
    natural = ("--partition.kind", "natural", "--out", str(tmp_path / "natural"))
    assert "made up" not in call("survey", "--dataset", str(file), *natural).out


def test_a_run_without_a_global_model_names_no_accuracy_of_it():
    scalars = {"round": np.arange(2), "accuracy_dense": np.array([0.25, 0.5])}
    scalars["global_accuracy"] = np.full(2, np.nan)
    run: Any = types.SimpleNamespace(scalars=scalars, seconds=1.0, compile_seconds=1.0)
    assert summary(run).endswith("accuracy after the last: personalised 50.0%")
