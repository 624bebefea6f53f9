"""Series and features: archives of one's own, the tables of scikit-learn, and the watch."""

import hashlib
import pickle
import sys
import types

import numpy as np
import pytest

from lipsjax import datasets
from lipsjax.datasets import DataError, split, watch

RNG = np.random.default_rng(0)
Y = np.arange(40) % 4
SERIES, FEATURES = RNG.normal(size=(40, 12, 3)), RNG.normal(size=(40, 5))


def watch_module():
    """The module, whose name in the package is that of its function."""
    return sys.modules[watch.__module__]


def saved(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(("kind", "inputs"), [("series", SERIES), ("features", FEATURES)])
def test_archives_that_say_what_is_for_testing(tmp_path, kind, inputs):
    arrays = {f"train_{kind}": inputs[:30], "train_labels": Y[:30]}
    arrays |= {f"test_{kind}": inputs[30:], "test_labels": Y[30:]}
    found = datasets.load(saved(tmp_path, **arrays))
    assert found.kind == kind
    np.testing.assert_array_equal(found.train.inputs, inputs[:30].astype(np.float32))
    np.testing.assert_array_equal(found.test.inputs, inputs[30:].astype(np.float32))
    assert found.train.inputs.dtype == np.float32


@pytest.mark.parametrize(("kind", "inputs"), [("series", SERIES), ("features", FEATURES)])
def test_a_fifth_of_every_class_is_for_testing(tmp_path, kind, inputs):
    found = datasets.load(saved(tmp_path, **{kind: inputs, "labels": Y}))
    assert (found.kind, np.bincount(found.test.labels).tolist()) == (kind, [2, 2, 2, 2])
    assert found.train.inputs.shape[1:] == inputs.shape[1:]


def test_a_single_channel_may_be_left_out(tmp_path):
    found = datasets.load(saved(tmp_path, series=SERIES[..., 0], labels=Y))
    assert found.train.inputs.shape == (32, 12, 1)


def test_integers_are_numbers_and_are_not_divided(tmp_path):
    found = datasets.load(saved(tmp_path, features=np.arange(200).reshape(40, 5) - 9, labels=Y))
    assert found.train.inputs.dtype == np.float32
    assert (found.train.inputs.min(), found.train.inputs.max()) == (-9, 190)


def test_series_have_sites_and_groups_as_images_have(tmp_path):
    arrays = {"site": np.repeat(["b", "a"], 20), "group": np.repeat(np.arange(10), 4)}
    found = datasets.load(saved(tmp_path, series=SERIES, labels=Y, **arrays))
    assert found.sites.names == ("a", "b")
    parted = split(found, rule="group", share=0.2, rng=np.random.default_rng(0))
    in_train, in_test = (set(origin.group.tolist()) for origin in parted.sites[1:3])
    assert not in_train & in_test
    assert in_train | in_test == set(range(10))


BAD = {
    "rows of one feature": ({"features": FEATURES[:, 0]}, r"features of shape \(40,\); allowed is"),
    "features that are series": ({"features": SERIES}, r"\(40, 12, 3\); allowed is \[N, F\]"),
    "series that are images": ({"series": SERIES[..., None]}, r"allowed is \[N, steps, C\] or"),
    "series of one number": ({"series": SERIES[:, 0, 0]}, r"series of shape \(40,\); allowed is"),
    "truth values": ({"features": FEATURES > 0}, "features of type bool; allowed are numbers"),
    "texts": ({"features": FEATURES.astype(str)}, "features of type <U32; allowed are numbers"),
    "times": ({"series": SERIES.astype("m8[s]")}, r"series of type timedelta64\[s\]; allowed are"),
    "complex numbers": ({"series": SERIES * 1j}, "series of type complex128; allowed are numbers"),
    "beyond float32": (
        {"features": FEATURES * 1e300},
        "example 0 holds .*beyond the range of float32",
    ),
    "a gap": ({"features": np.where(FEATURES > 2, np.nan, FEATURES)}, "example .* holds NaN"),
    "no steps": ({"series": SERIES[:, :0]}, r"series of shape \(32, 0, 3\) are empty"),
    "no features": ({"features": FEATURES[:, :0]}, r"features of shape \(32, 0\) are empty"),
    "too few labels": ({"series": SERIES[:30]}, "40 labels for 30 series; allowed is one for each"),
    "ids": ({"features": FEATURES, "labels": np.arange(40)}, "for 40 features; allowed are labels"),
    "two of a class": (
        {"series": SERIES[:8], "labels": Y[:8]},
        "no class has the 3 series of which one is kept .* train_series, train_labels, test_series",
    ),
    "both": ({"series": SERIES, "features": FEATURES}, "holds features beside series, labels"),
    "rows called x": (
        {"x": FEATURES, "y": Y},
        r"\[N, H, W\]; call rows of features features, with",
    ),
    "series with y": (
        {"series": SERIES, "y": Y},
        "needed are .*; series or features may stand for",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_archives_that_cannot_be_used(tmp_path, case):
    arrays, part = BAD[case]
    labels = {} if "y" in arrays else {"labels": Y}
    with pytest.raises(DataError, match=part) as excinfo:
        datasets.load(saved(tmp_path, **labels | arrays))
    assert "\n" not in str(excinfo.value)


def test_steps_of_training_and_test_differ(tmp_path):
    arrays = {"train_series": SERIES, "train_labels": Y, "test_labels": Y}
    with pytest.raises(DataError, match=r"train series of shape \(12, 3\), test series of shape"):
        datasets.load(saved(tmp_path, test_series=SERIES[:, :9], **arrays))


@pytest.mark.parametrize(
    ("name", "shape", "counts"),
    [("breast_cancer", (30,), [212, 357]), ("wine", (13,), [59, 71, 48])],
)
def test_tables_of_scikit_learn(name, shape, counts):
    found = datasets.load(name)
    assert (found.kind, found.train.inputs.shape[1:], found.sites) == ("features", shape, None)
    labels = np.concatenate([found.train.labels, found.test.labels])
    assert np.bincount(labels).tolist() == counts
    assert np.bincount(found.test.labels).tolist() == np.round(np.array(counts) / 5).tolist()
    assert found.class_names[0] == {"breast_cancer": "malignant", "wine": "class_0"}[name]


# The watch.


@pytest.fixture(scope="module")
def found():
    return datasets.load("watch")


def test_people_are_the_sites_of_the_watch(found):
    assert found.sites.names == tuple(f"person {i}" for i in range(1, 11))
    assert (found.kind, found.train.inputs.shape[1:], found.num_classes) == ("series", (100, 6), 7)
    site, group = (np.concatenate([o[i] for o in found.sites[1:3]]) for i in (0, 1))
    assert len(site) == 2369
    recordings = np.unique(np.stack([site, group]), axis=1)
    assert np.bincount(recordings[0]).tolist() == [14] * 10  # two sides of seven exercises
    assert len(np.unique(recordings[1])) == 140  # no recording is of two people


def test_windows_are_of_one_exercise_and_no_recording_is_on_both_sides(found):
    parted = split(found, rule="auto", share=0.2, rng=np.random.default_rng(0))
    of_train, of_test = parted.sites.train, parted.sites.test
    assert not set(of_train.group.tolist()) & set(of_test.group.tolist())
    assert set(of_test.site.tolist()) == set(range(10))
    for group in range(140):
        labels = [
            examples.labels[origin.group == group]
            for examples, origin in ((parted.train, of_train), (parted.test, of_test))
        ]
        assert len(np.unique(np.concatenate(labels))) == 1


def test_windows_do_not_overlap():
    series = np.arange(250)[:, None]
    assert [w[[0, -1], 0].tolist() for w in watch_module()._windows(series)] == [
        [0, 99],
        [100, 199],
    ]


def test_without_seglearn_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(watch_module().importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError) as excinfo:
        datasets.load("watch")
    assert str(excinfo.value) == "watch needs the package seglearn: pip install 'lipsjax[watch]'"


@pytest.mark.parametrize(
    ("content", "part"),
    [(None, "cannot be read: No such file"), (b"other", "is not the file that")],
)
def test_data_of_another_seglearn_are_refused(tmp_path, monkeypatch, content, part):
    package = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(watch_module().importlib.util, "find_spec", lambda name: package)
    if content is not None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "watch_dataset.npy").write_bytes(content)
    with pytest.raises(DataError, match=part) as excinfo:
        datasets.load("watch")
    assert "\n" not in str(excinfo.value)


class Evil:
    """What runs a program when a careless reader unpickles it."""

    def __reduce__(self):
        return print, ("this must not be printed",)


def test_a_pickle_that_names_a_program_runs_none(tmp_path, monkeypatch, capsys):
    module = watch_module()
    path = tmp_path / "watch_dataset.npy"
    path.write_bytes(bytes(module._HEADER) + pickle.dumps(Evil()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(module, "_SHA256", digest)  # even if its bytes were the known ones
    with pytest.raises(pickle.UnpicklingError, match="print makes no array"):
        module._read(path)
    assert "this must not be printed" not in capsys.readouterr().out
