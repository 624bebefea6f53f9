"""Clients that are the sites which the data name, from the file to the recording."""

import dataclasses
import json

import numpy as np
import pytest

from helpers import commands
from helpers.commands import MLP, call, refusal
from lipsjax import recording
from lipsjax.datasets import synthetic
from lipsjax.datasets.sites import Origin, Sites
from lipsjax.experiments.sweep import Sweep, read_arguments
from lipsjax.partition import natural, whole_for_testing
from lipsjax.runs.config import Config, EvaluationConfig, PartitionConfig, source, to_dict
from lipsjax.runs.data import share_out
from lipsjax.runs.sites import read, settle
from lipsjax.runs.study import Study, each_in_turn, expand

SIZES = {"Ghent": 21, "Ulm": 34, "Brno": 12}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Three sites of unequal sizes; the smallest has one class."""
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 1 if site == "Brno" else 3, size) for site, size in SIZES.items()]
    y = np.array(["fine", "crack", "dent"])[np.concatenate(labels)]
    path = tmp_path_factory.mktemp("sites") / "sites.npz"
    x = rng.integers(0, 256, (len(y), 6, 6), np.uint8)
    np.savez(path, x=x, y=y, site=np.repeat(list(SIZES), list(SIZES.values())))
    return path


def config_of(file, **options):
    wanted = PartitionConfig(kind="natural", **options)
    return settle(Config(dataset=str(file), partition=wanted), None)


def shared(file, **options):
    config = config_of(file, **options)
    return share_out(config, read(*source(config), None)[0])


def test_clients_are_the_sites_as_they_are(file):
    found = shared(file)
    assert found.names == ("Brno", "Ghent", "Ulm")
    held = [len(train) + len(test) for train, test in zip(*found.partition[:2], strict=True)]
    assert dict(zip(found.names, held, strict=True)) == SIZES
    assert config_of(file).partition.clients == 3


def test_sites_that_are_held_out_come_last_and_are_in_no_global_test(file):
    found = shared(file, hold_out_sites=("Ghent",))
    assert found.names == ("Brno", "Ulm", "Ghent")
    config = config_of(file, hold_out_sites=("1",))
    assert (config.partition.clients, config.partition.new_clients) == (2, 1)
    ghent = found.dataset.sites.names.index("Ghent")
    assert not (found.dataset.sites.test.site[found.data.global_index] == ghent).any()
    assert len(found.data.global_index) == sum(map(len, found.partition.test[:2]))


def test_all_examples_of_a_site_that_never_trains_can_be_scored(file):
    usual = shared(file, hold_out_sites=("Ghent",))
    found = shared(file, hold_out_sites=("Ghent",), score_whole=True)
    for each in (0, 1):
        np.testing.assert_array_equal(found.partition.test[each], usual.partition.test[each])
    assert len(found.partition.test[2]) == SIZES["Ghent"]
    scored, held = (
        {each.tobytes() for each in made.dataset.test.inputs[made.partition.test[2]]}
        | {each.tobytes() for each in made.dataset.train.inputs[made.partition.train[2]]}
        for made in (found, usual)
    )
    assert scored == held
    tested = found.data.test.inputs[found.data.test_index[2][found.data.test_mask[2]]]
    assert {each.tobytes() for each in tested} == held
    for before, after in zip(usual.data, found.data, strict=True):
        if before is usual.data.test:
            break  # what trains, and how, is as it was
        np.testing.assert_equal(after, before)
    np.testing.assert_array_equal(found.data.global_index, usual.data.global_index)


def test_what_fine_tunes_or_trains_in_part_is_not_scored_whole(file):
    config = config_of(file, hold_out_sites=("Ghent",), score_whole=True)
    config = dataclasses.replace(config, evaluation=EvaluationConfig(tune_epochs=2))
    with pytest.raises(ValueError, match=r"partition.score_whole .* evaluation.tune_epochs=2"):
        share_out(config, read(*source(config), None)[0])
    made = synthetic(train=6, test=3)
    origin = Origin(np.repeat([0, 1, 2], 2), group=np.array([0, 1, 1, 2, 3, 3]))
    tests = Origin(np.arange(3), group=np.array([0, 1, 3]))
    made = made._replace(sites=Sites(("a", "b", "c"), origin, tests, is_split=True))
    with pytest.raises(ValueError, match="site b whose group is trained on at another site"):
        whole_for_testing(made, ["b"])
    assert len(whole_for_testing(made, ["c"]).test.labels) == 5
    tested = tests._replace(group=np.array([3, 1, 3]))  # what a is tested on trains at c
    made = made._replace(sites=Sites(("a", "b", "c"), origin, tested, is_split=True))
    with pytest.raises(ValueError, match="site a whose group is trained on at another site"):
        whole_for_testing(made, ["a"])


def test_options_that_are_off_do_not_change_what_a_run_is_called(file):
    assert "score_whole" not in to_dict(config_of(file, hold_out_sites=("Ulm",)))["partition"]
    named, numbered = (to_dict(config_of(file, hold_out_sites=s)) for s in (("Ulm",), (2,)))
    assert named == numbered == to_dict(config_of(file, hold_out_sites=["2"]))


def study_of(file, *argv):
    given = ("--dataset", str(file), "--partition.kind", "natural", "--arms", "dense", "lips")
    return read_arguments([*given, *argv], Sweep, "lipsjax sweep")[0]


def test_each_site_in_turn_is_the_grid_written_out(file, tmp_path):
    grid = '"partition.hold_out_sites" = [["Brno"], [1], ["Ulm"]]'
    by_hand = "partition.hold_out_sites=[['Brno'], ['Ghent'], ['Ulm']]"
    expected = expand(study_of(file, "--grid", by_hand))
    assert [t.config.partition.hold_out_sites for t in expected[::10]] == [
        ("Brno",),
        ("Ghent",),
        ("Ulm",),
    ]
    assert expand(study_of(file, "--partition.hold-out-sites", "each")) == expected
    shared_by_all = f'[config]\ndataset = "{file}"\npartition.kind = "natural"\n'
    texts = {
        "each": f'arms = ["dense", "lips"]\n{shared_by_all}partition.hold_out_sites = "each"\n',
        "grid": f'arms = ["dense", "lips"]\n{shared_by_all}[grid]\n{grid}\n',
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.toml").write_text(text)
        study = read_arguments([f"{tmp_path}/{name}.toml"], Sweep, "lipsjax sweep")[0]
        assert expand(study) == expected
        assert list(study.grid) == ["partition.hold_out_sites"]


def test_what_each_site_in_turn_needs(file, tmp_path):
    each = PartitionConfig(kind="natural", hold_out_sites="each")
    study = Study(
        config=Config(dataset=str(file), partition=each),
        grid={"partition": [{"hold_out_sites": ["Ulm"]}, {"test_share": 0.3}]},
    )
    with pytest.raises(ValueError, match=r"is 'each', and grid.partition sets it too"):
        each_in_turn(study)
    others = [{"grid": {"dataset": ["digits", "wine"]}}, {"arms": {"a": {"dataset": "wine"}}}]
    for other in others:
        study = Study(config=Config(dataset=str(file), partition=each), **other)
        with pytest.raises(ValueError, match=r"of the sites of one data set, and (grid|the arm)"):
            each_in_turn(study)
    with pytest.raises(ValueError, match=r"needs partition.kind='natural', not 'iid'"):
        read_arguments(
            ["--partition.kind", "iid", "--partition.hold-out-sites", "each"], Sweep, "sweep"
        )
    with pytest.raises(ValueError, match="of what all arms of a study share"):
        config_of(file, hold_out_sites="each")
    # a site of that name is what is meant
    x, y, site = np.zeros((9, 4, 4), np.uint8), np.arange(9) % 2, np.repeat(["a", "each", "z"], 3)
    np.savez(tmp_path / "a.npz", x=x, y=y, site=site)
    study = study_of(tmp_path / "a.npz", "--partition.hold-out-sites", "each")
    assert {t.config.partition.hold_out_sites for t in expand(study)} == {("each",)}


def test_a_site_that_has_test_examples_alone_is_refused_in_one_line():
    made = synthetic(train=6, test=3)
    origins = Origin(np.arange(6) % 2), Origin(np.arange(3))
    made = made._replace(sites=Sites(("a", "b", "c"), *origins, is_split=True))
    with pytest.raises(ValueError, match=r"^site c has no training examples; leave it out of the"):
        natural(made, rng=np.random.default_rng(0))


def test_a_site_keeps_no_more_than_it_may(file):
    found = shared(file, most_examples=10)
    assert [len(held) for held in found.partition.train] == [10, 10, 10]
    assert all((np.diff(held) > 0).all() for held in found.partition.train)


@pytest.mark.slow
def test_a_site_without_test_examples_trains_and_is_not_scored(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((21, 6, 6)), np.arange(21) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y, site=np.repeat(["a", "b", "tiny"], [10, 10, 1]))
    argv = ("--dataset", f"{tmp_path}/a.npz", "--partition.kind", "natural", *MLP[:4])
    out = tmp_path / "out"
    assert call("run", *argv, "--rounds", "2", "--out", str(out)).status == 0
    found = recording.read(commands.run_dir(out))
    assert np.isfinite(found.scalars["accuracy_dense"]).all()
    counts = np.array(found.setup["survey"]["test_counts"]).sum(axis=1)
    assert counts.tolist() == [2, 2, 0]
    # a mean over the two that have test examples, of two each
    np.testing.assert_allclose(4 * found.scalars["accuracy_dense"] % 1, 0, atol=1e-6)


@pytest.mark.slow
def test_a_study_of_sites_keeps_their_names(file, tmp_path):
    argv = ("--dataset", str(file), "--partition.kind", "natural", *MLP, "--seeds", "1")
    ended = call("sweep", *argv, "--rounds", "2", "--out", str(tmp_path))
    assert ended.status == 0, ended
    for run in recording.read_study(tmp_path).trials:
        assert run.recording.setup["site_names"] == ["Brno", "Ghent", "Ulm"]
        assert run.recording.setup["class_names"] == ["crack", "dent", "fine"]
        assert run.recording.config["partition"]["clients"] == 3
    assert json.loads((tmp_path / "survey.json").read_text())


@pytest.mark.slow
def test_sites_one_by_one_are_what_their_means_are_of(file, tmp_path):
    argv = ("--dataset", str(file), "--partition.kind", "natural", *MLP[:4])
    argv += ("--partition.hold-out-sites", "Ulm", "--rounds", "3", "--evaluation.every", "2")
    assert call("run", *argv, "--out", str(tmp_path)).status == 0
    found = recording.read(commands.run_dir(tmp_path))
    assert {group: list(of) for group, of in found.by.items()} == {
        "clients": ["accuracy"],
        "classes": ["accuracy"],
        "new_clients": ["accuracy"],
    }
    of_sites, of_classes = (found.by[group]["accuracy"] for group in ("clients", "classes"))
    assert of_sites.shape == (3, 2)
    assert np.isnan(of_sites[1]).all()  # a round that is not evaluated
    counts = np.array(found.setup["survey"]["test_counts"])
    for i in (0, 2):
        np.testing.assert_allclose(
            np.nanmean(of_sites[i]), found.scalars["accuracy_dense"][i], rtol=1e-6
        )
        weights = counts[:2].sum(axis=0)
        known = weights > 0  # a class that no test example has is of no accuracy
        assert np.isnan(of_classes[i][~known]).all()
        np.testing.assert_allclose(
            np.average(of_classes[i][known], weights=weights[known]),
            found.scalars["global_accuracy"][i],
            rtol=1e-6,
        )
        # what a site has right is a number of examples
        right = of_sites[i] * counts[:2].sum(axis=1)
        np.testing.assert_allclose(right, np.rint(right), atol=1e-5)
    of_new = found.by["new_clients"]["accuracy"]
    assert np.isnan(of_new[:2]).all()
    np.testing.assert_allclose(of_new[2], found.scalars["accuracy_new"][2:], rtol=1e-6)
    table = (commands.run_dir(tmp_path) / "metrics.csv").read_text()
    assert "clients" not in table.splitlines()[0].split(",")


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--partition.clients", "5"], ["partition.clients is 5", "names 3 sites"]),
        (["--partition.train-examples", "5"], ["partition.train_examples", "most_examples"]),
        (["--partition.sizes", "power"], ["partition.sizes", "natural"]),
        (["--partition.hold-out-sites", "Gent"], ["'Gent'", "Brno, Ghent, Ulm"]),
        (["--partition.hold-out-sites", "7"], ["'7'", "0..2 by number"]),
        (["--partition.hold-out-sites", "Ulm", "2"], ["'2'", "twice"]),
        (["--partition.hold-out-sites", "0", "1", "2"], ["all sites"]),
        (["--partition.hold-out-sites", "Ulm", "--partition.score-whole", "x"], ["score-whole"]),
        (["--partition.split", "group"], ["'group'", "names no group"]),
        (["--partition.split", "given"], ["does not say"]),
        (["--partition.test-share", "1"], ["share of test examples is 1.0"]),
        (["--partition.most-examples", "0"], ["partition.most_examples", "at least 1"]),
        (["--dataset", "digits"], ["digits names no sites", "array site"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "survey"])
def test_what_sites_cannot_be_asked(command, argv, parts, file, tmp_path):
    given = ("--dataset", str(file), "--partition.kind", "natural", *argv)
    refusal(call(command, *given, "--out", str(tmp_path / "out")), *parts)
    assert not (tmp_path / "out").exists()
