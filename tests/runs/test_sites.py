"""Clients that are the sites which the data name, from the file to the recording."""

import json

import numpy as np
import pytest

from helpers import commands
from helpers.commands import MLP, call, refusal
from lipsjax import recording
from lipsjax.runs.config import Config, PartitionConfig, source
from lipsjax.runs.data import share_out
from lipsjax.runs.sites import read, settle

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
