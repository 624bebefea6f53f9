"""Images of one's own: archives and IDX folders, and what is wrong with them in one line."""

import numpy as np
import pytest

from helpers import commands
from helpers.idx import write_idx
from lipsjax import datasets

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 6, 5), np.uint8)
Y = np.arange(40) % 4


def saved(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_archives_that_say_what_is_for_testing(tmp_path, names):
    path = saved(tmp_path, **dict(zip(names, (X[:30], Y[:30], X[30:], Y[30:, None]), strict=True)))
    found = datasets.load(str(path))
    np.testing.assert_array_equal(found.train.inputs, X[:30, ..., None])
    np.testing.assert_array_equal(found.test.labels, Y[30:])
    assert (found.name, found.num_classes) == ("mine", 4)
    assert found.test.labels.dtype == np.int32


def test_a_fifth_of_every_class_is_for_testing(tmp_path):
    path = saved(tmp_path, images=X / 255, labels=np.array(["d", "b", "a", "c"])[Y])
    found = datasets.load(str(path))
    assert np.bincount(found.test.labels).tolist() == [2, 2, 2, 2]
    assert found.train.inputs.dtype == np.float32
    # d, b, a, c of a, b, c, d; who was drawn is found by the image
    first = [int((x == found.train.inputs[0, ..., 0]).all()) for x in (X / 255).astype(np.float32)]
    assert found.train.labels[0] == (3, 1, 0, 2)[first.index(1) % 4]
    again = datasets.load(str(path))
    assert datasets.fingerprint(found) == datasets.fingerprint(again)


def idx_folder(tmp_path):
    folder = tmp_path / "idx"
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte", X[:30])
    write_idx(folder / "train-labels-idx1-ubyte.gz", Y[:30])
    write_idx(folder / "t10k-images-idx3-ubyte.gz", X[30:])
    write_idx(folder / "t10k-labels-idx1-ubyte", Y[30:])
    return folder


def test_idx_folders(tmp_path):
    found = datasets.load(str(idx_folder(tmp_path)))
    np.testing.assert_array_equal(found.train.inputs, X[:30, ..., None])
    np.testing.assert_array_equal(found.test.inputs, X[30:, ..., None])
    np.testing.assert_array_equal(found.test.labels, Y[30:])
    assert (found.name, found.num_classes) == ("idx", 4)


def damaged_idx(tmp_path, how):
    folder = idx_folder(tmp_path)
    path = folder / "train-images-idx3-ubyte"
    if how == "missing":
        path.unlink()
    if how == "twice":
        write_idx(folder / "train-images-old", X)
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    if how == "other":
        path.write_bytes(b"no images")
    return folder


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("missing", r"holds 0 files train-images\*; needed is one of each of"),
        ("twice", r"holds 2 files train-images\*"),
        ("cut off", r"is not whole: its header says \(30, 6, 5\) values"),
        ("other", "is no IDX file"),
    ],
)
def test_idx_folders_that_cannot_be_used(tmp_path, how, part):
    with pytest.raises(datasets.DataError, match=part):
        datasets.load(str(damaged_idx(tmp_path, how)))


SIZES = np.empty(2, object)
SIZES[:] = [np.zeros((4, 4)), np.zeros((5, 5))]
BAD = {
    "other arrays": ({"a": X, "b": Y}, "holds a, b; needed are x_train, y_train"),
    "one class": ({"x": X, "y": np.zeros(40, int)}, "1 classes; allowed are 2 and more"),
    "images of several sizes": ({"x": SIZES, "y": Y[:2]}, "images of several sizes cannot be"),
    "flat images": ({"x": X.reshape(40, -1), "y": Y}, r"allowed is \[N, H, W, C\]"),
    "large integers": ({"x": X.astype(int) * 9, "y": Y}, "allowed are 0..255"),
    "images of texts": ({"x": X.astype(str), "y": Y}, "images of type <U3; allowed are numbers"),
    "labels of halves": ({"x": X, "y": Y / 2}, "type float64; allowed are integers or texts"),
    "too few labels": ({"x": X, "y": Y[:9]}, "9 labels for 40 images"),
    "not a number": ({"x": np.where(X[0, 0, 0] == X, np.nan, X), "y": Y}, "NaN or infinity"),
    "two images a class": ({"x": X[:8], "y": Y[:8]}, "no class has the 3 images of which one is"),
    "no images": ({"x": X[:0], "y": Y[:0]}, "no class has the 3 images of which one is"),
    "sizes of test images": (
        {"x_train": X, "y_train": Y, "x_test": X[:, :4], "y_test": Y},
        r"train images of shape \(6, 5, 1\), test images of shape \(4, 5, 1\)",
    ),
    "labels as rows": ({"x": X, "y": np.eye(4)[Y]}, r"labels of shape \(40, 4\) and type float64"),
    "images of truth values": ({"x": X > 99, "y": Y}, "images of type bool; allowed are numbers"),
    "no test labels": ({"x_train": X, "y_train": Y, "x_test": X}, "needed are x_train, y_train"),
    "nothing": ({}, "holds nothing; needed are"),
}


@pytest.mark.parametrize("case", BAD)
def test_archives_that_cannot_be_used(tmp_path, case):
    arrays, part = BAD[case]
    with pytest.raises(datasets.DataError, match=part):
        datasets.load(str(saved(tmp_path, **arrays)))


@pytest.mark.parametrize(
    ("content", "part"), [(None, "no such file"), (b"PK\3\4no", "cannot be read|plain arrays")]
)
def test_archives_that_are_none(tmp_path, content, part):
    path = tmp_path / "mine.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(datasets.DataError, match=part):
        datasets.load(str(path))


@pytest.mark.slow
@pytest.mark.whole
def test_a_run_on_data_of_ones_own(tmp_path):
    path = saved(tmp_path, x=np.repeat(X, 5, axis=0), y=np.repeat(Y, 5))
    ended = commands.run(tmp_path / "out", "--dataset", str(path), "--partition.test-examples", "9")
    assert ended.status == 0, ended.err
    refused = commands.run(tmp_path / "two", "--dataset", str(tmp_path / "none.npz"))
    assert refused.status == 2
    assert "none.npz: no such file" in refused.err
