"""What one's own data may have wrong: one true line, or the right answer."""

import gzip
import io
import os
import struct
import warnings
import zipfile

import numpy as np
import pytest

from helpers.idx import write_idx
from lipsjax import datasets
from lipsjax.datasets import DataError, base, files, own

pytestmark = pytest.mark.usefixtures("in_time")

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 6, 5), np.uint8)
Y = np.arange(40) % 4
WORDS = np.array(["a", "b", "c", "d"])


def saved(tmp_path, name="mine.npz", **arrays):
    path = tmp_path / name
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def refused(path, *parts):
    """Holds load to one short line that names the file and each of `parts`; returns it."""
    with pytest.raises(DataError) as excinfo:
        datasets.load(str(path))
    message = str(excinfo.value)
    assert message.isprintable(), message
    assert len(message) < 300 + len(str(path)), message
    assert str(path) in message
    for part in parts:
        assert part in message
    return message


# Labels.


def split(y_train, y_test):
    return {"x_train": X[:30], "y_train": y_train[:30], "x_test": X[30:], "y_test": y_test[30:]}


NFC, NFD = "caf\u00e9", "cafe\u0301"
CLASSES = {
    "from 1": (Y + 1, ("1", "2", "3", "4")),
    "from below 0": (Y - 1, ("-1", "0", "1", "2")),
    "with gaps": (np.array([3, 5, 9, 100])[Y], ("3", "5", "9", "100")),
    "huge": (np.array([0, 10**9, 10**18, 2**62])[Y], ("0", str(10**9), str(10**18), str(2**62))),
    "beyond int64": (np.array([0, 1, 2, 2**64 - 1], np.uint64)[Y], ("0", "1", "2", str(2**64 - 1))),
    "of one byte": ((Y + 252).astype(np.uint8), ("252", "253", "254", "255")),
    "big-endian": ((Y + 7).astype(">i2"), ("7", "8", "9", "10")),
    "two Unicode forms": (
        np.array(["caf\u00e9", "cafe\u0301", "x", "y"])[Y],
        ("caf\u00e9", "x", "y"),
    ),
    "white space around": (np.array(["a", "a ", "\tb", "b\n"])[Y], ("a", "b")),
    "bytes": (np.array(["Straße".encode(), b"c", b"d", b"e "])[Y], ("Straße", "c", "d", "e")),
    "texts of digits": (np.array(["1", "10", "2", "3"])[Y], ("1", "2", "3", "10")),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_are_the_labels_that_occur_and_keep_their_names(tmp_path, case):
    labels, names = CLASSES[case]
    expected = [
        names.index(str(np.array(x).astype(str)).strip())
        if labels.dtype.kind in "iu"
        else names.index({NFD: NFC}.get(text := _text(x), text))
        for x in labels
    ]
    for arrays in (split(labels, labels), {"x": X, "y": labels}):
        found = datasets.load(str(saved(tmp_path, **arrays)))
        assert found.class_names == names
        assert found.num_classes == len(names)
        together = np.concatenate([found.train.labels, found.test.labels])
        assert np.bincount(together).tolist() == np.bincount(expected).tolist()
    found = datasets.load(str(saved(tmp_path, **split(labels, labels))))
    assert found.test.labels.tolist() == expected[30:]


def _text(label):
    return (label.decode() if isinstance(label, bytes) else str(label)).strip()


def test_names_do_not_change_the_fingerprint(tmp_path):
    named, plain = (datasets.load(str(saved(tmp_path, x=X, y=labels))) for labels in (WORDS[Y], Y))
    assert named.class_names != plain.class_names
    assert datasets.fingerprint(named) == datasets.fingerprint(plain)
    assert datasets.fingerprint(plain._replace(class_names=None)) == datasets.fingerprint(plain)


def test_bytes_and_texts_are_one_kind(tmp_path):
    path = saved(tmp_path, **split(WORDS[Y], WORDS[Y].astype(bytes)))
    assert datasets.load(path).class_names == ("a", "b", "c", "d")


IDX_OF_1 = np.arange(40) % 26 + 1


def idx_folder(tmp_path, labels=Y):
    folder = tmp_path / "idx"
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte", X[:30])
    write_idx(folder / "train-labels-idx1-ubyte", labels[:30])
    write_idx(folder / "t10k-images-idx3-ubyte", X[30:])
    write_idx(folder / "t10k-labels-idx1-ubyte", labels[30:])
    return folder


def test_classes_of_idx_folders_are_those_that_occur(tmp_path):
    found = datasets.load(str(idx_folder(tmp_path, Y + 1)))
    assert found.class_names == ("1", "2", "3", "4")
    assert found.test.labels.tolist() == Y[30:].tolist()


LONG = "a" * 10_000
LABELS = {
    "texts to train, integers to test": (
        split(WORDS[Y], Y),
        ["labels of two kinds, texts in y_train and integers in y_test"],
    ),
    "integers to train, bytes to test": (split(Y, WORDS[Y].astype(bytes)), ["labels of two kinds"]),
    "digits as texts to test": (split(Y, Y.astype(str)), ["labels of two kinds"]),
    "ids": (
        {"x": X, "y": RNG.permutation(2**62 + np.arange(40))},
        ["40 different labels", "for 40 images"],
    ),
    "names of files": (
        {"x": X, "y": np.array([f"image{i}" for i in range(40)])},
        ["40 different labels, such as image0, for 40 images"],
    ),
    "a class only to test": (
        split(Y, np.full(40, 9)),
        ["y_test holds 9, and y_train does not"],
    ),
    "a class written otherwise to test": (
        split(WORDS[Y], np.array(["a", "b", "C", LONG])[Y]),
        ["y_test holds C, aaaa", "aaa...aaa", "y_train does not"],
    ),
    "no UTF-8": ({"x": X, "y": np.array([b"a", b"\xff"])[Y % 2]}, ["y: label of example 1 is no"]),
    "half a pair": ({"x": X, "y": np.array(["a", "\ud800"])[Y % 2]}, ["label of example 1 is no"]),
    "beyond Unicode": (
        {"x": X, "y": np.full(40, 0x110000, np.uint32).view("<U1")},
        ["y: label of example 0 is no text"],
    ),
    "empty texts": ({"x": X, "y": np.array(["a", " "])[Y % 2]}, ["label of example 1 is an empty"]),
    "whole floating numbers": ({"x": X, "y": Y * 1.0}, ["type float64", "astype(int)"]),
    "truth values": ({"x": X, "y": Y > 1}, ["type bool", "integers or texts", "astype(int)"]),
    "one-hot": ({"x": X, "y": np.eye(4)[Y]}, ["(40, 4)", "argmax(axis=1)"]),
    "one-hot integers": ({"x": X, "y": np.eye(4, dtype=int)[Y]}, ["(40, 4)", "argmax(axis=1)"]),
    "a single number": ({"x": X, "y": np.array(1)}, ["y: labels of shape () and type int64"]),
    "no columns": ({"x": X, "y": np.zeros((40, 0), int)}, ["labels of shape (40, 0)"]),
    "dates": (
        {"x": X, "y": Y.astype("M8[D]")},
        ["datetime64[D]", "integers or texts"],
    ),
    "durations": ({"x": X, "y": Y.astype("m8[s]")}, ["timedelta64[s]", "integers or texts"]),
    "complex": ({"x": X, "y": Y + 0j}, ["type complex128", "integers or texts"]),
    "records": ({"x": X, "y": Y.view([("class", "<i8")])}, ["('class', '<i8')", "integers or"]),
    "Python objects": (
        {"x": X, "y": WORDS[Y].astype(object)},
        ["y does not hold plain", "np.array(labels, str)"],
    ),
    "raw bytes": ({"x": X, "y": np.zeros(40, "V4")}, ["type |V4", "integers or texts"]),
    "one class": ({"x": X, "y": np.full(40, 7)}, ["1 classes; allowed are 2 and more"]),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_are_none(tmp_path, case):
    arrays, parts = LABELS[case]
    refused(saved(tmp_path, **arrays), *parts)


# Images.

HUGE = X[..., None] * 1e300
IMAGES = {
    "beyond float32": (
        HUGE,
        ["x: image 0 holds", "e+30", "beyond the range of float32"],
    ),
    "below float32": (-HUGE, ["x: image 0 holds -", "beyond the range of float32"]),
    "of long doubles": (HUGE.astype(np.longdouble), ["beyond the range of float32"]),
    "infinite": (np.where(X > 250, np.inf, X), ["train image", "holds NaN or infinity"]),
    "durations": (X.astype("m8[s]"), ["x: images of type timedelta64[s]; allowed are numbers"]),
    "dates": (X.astype("M8[s]"), ["images of type datetime64[s]"]),
    "complex": (X * 1j, ["images of type complex128"]),
    "records": (np.zeros((40, 6, 5), [("r" * 500, "u1")]), ["images of type [('rrr", "rrr..."]),
    "raw bytes": (np.zeros((40, 6, 5), "V3"), ["images of type |V3"]),
    "a single number": (np.array(3), ["x: images of shape (); allowed is [N, H, W, C]"]),
    "videos": (np.zeros((40, 2, 2, 2, 3)), ["x: images of shape (40, 2, 2, 2, 3)"]),
    "no channels": (np.zeros((40, 6, 5, 0)), ["(32, 6, 5, 0) are empty"]),
    "no rows": (np.zeros((40, 0, 5)), ["(32, 0, 5, 1) are empty"]),
    "integers below 0": (X.astype(int) - 9, ["x: images of integers in -9..246"]),
    "huge integers": (X.astype(np.uint64) << np.uint64(56), ["allowed are 0..255"]),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_that_are_none(tmp_path, case):
    images, parts = IMAGES[case]
    refused(saved(tmp_path, x=images, y=Y), *parts)


@pytest.mark.parametrize(
    "images",
    [
        X.astype(np.float16),
        X.astype(">f8"),
        X.astype(">i4"),
        np.asfortranarray(X),
        X[:, :1, :1],
        np.zeros_like(X),
    ],
    ids=["half", "big-endian", "big-endian integers", "by columns", "one pixel", "constant"],
)
def test_images_that_are_unusual(tmp_path, images):
    found = datasets.load(
        saved(tmp_path, **split(Y, Y) | {"x_train": images, "x_test": images[:10], "y_train": Y})
    )
    np.testing.assert_array_equal(found.train.inputs[..., 0], images)
    assert found.train.inputs.dtype == (np.float32 if images.dtype.kind == "f" else np.uint8)


# Files.


def npy(array, **header):
    """An array as np.save writes it, its header changed."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, np.lib.format.header_data_from_array_1_0(array) | header
    )
    return file.getvalue() + array.tobytes()


def zipped(tmp_path, members, **options):
    path = tmp_path / "mine.npz"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, content in members:
                archive.writestr(name, content)
    return path


def patched(path, *changes):
    """Replaces bytes of a file; each of them must be there."""
    content = path.read_bytes()
    for old, new in changes:
        assert old in content
        content = content.replace(old, new)
    path.write_bytes(content)
    return path


def encrypted(tmp_path):
    path = saved(tmp_path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # of each member, its flags
        start = content.find(mark)
        while start >= 0:
            content[start + offset] |= 1
            start = content.find(mark, start + 1)
    path.write_bytes(content)
    return path


def bad_checksum(tmp_path):
    return patched(saved(tmp_path, x=X, y=Y), (X.tobytes(), X[::-1].tobytes()))


def declared_sizes(tmp_path, size):
    """An archive whose directory says that its first member is of another size."""
    path = saved(tmp_path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    start = content.find(b"PK\1\2")
    struct.pack_into("<I", content, start + 24, size)
    path.write_bytes(content)
    return path


NINES = (9**15,)
Y_MEMBER = ("y.npy", npy(Y))
FILES = {
    "empty": (lambda p: write(p, b""), ["is empty; allowed is an archive"]),
    "no archive": (lambda p: write(p, b"no archive at all"), ["cannot be read", "not a zip file"]),
    "a single array": (lambda p: write(p, npy(X)), ["is a single array, as np.save writes it"]),
    "cut off": (
        lambda p: write(p, saved(p, x=X, y=Y).read_bytes()[:900]),
        ["cannot be read", "not a zip file"],
    ),
    "an end alone": (lambda p: write(p, b"PK\5\6" + bytes(18)), ["holds nothing; needed are"]),
    "encrypted": (encrypted, ["x is encrypted; allowed are archives without a password"]),
    "a bad checksum": (bad_checksum, ["x cannot be read", "CRC-32"]),
    "no array": (
        lambda p: zipped(p, [("x.npy", b"not an array"), Y_MEMBER]),
        ["x is no array of numbers or texts"],
    ),
    "an empty member": (lambda p: zipped(p, [("x.npy", b""), Y_MEMBER]), ["x is no array"]),
    "a header of 10^12 values": (
        lambda p: zipped(p, [("x.npy", npy(X, shape=(10**4, 10**4, 10**4))), Y_MEMBER]),
        [
            "x is not whole",
            "(10000, 10000, 10000) values",
        ],
    ),
    "a header of texts of 10^8 characters": (
        lambda p: zipped(p, [("x.npy", npy(X)), ("y.npy", npy(Y, descr="<U100000000"))]),
        ["y is not whole", "<U100000000"],
    ),
    "a header of nothing": (
        lambda p: zipped(p, [("x.npy", npy(X)), ("y.npy", npy(Y[:0], shape=NINES, descr="<U0"))]),
        ["y is not whole"],
    ),
    "a header of fewer values": (
        lambda p: zipped(p, [("x.npy", npy(X, shape=(39, 6, 5))), Y_MEMBER]),
        ["x is not whole", "(39, 6, 5)"],
    ),
    "sizes below 0": (
        lambda p: zipped(p, [("x.npy", npy(X, shape=(-40, -6, 5))), Y_MEMBER]),
        ["x is not whole", "(-40, -6, 5)"],
    ),
    "100 dimensions": (
        lambda p: zipped(p, [("x.npy", npy(X, shape=(40, 6, 5) + (1,) * 97)), Y_MEMBER]),
        ["x cannot be read", "dimension"],
    ),
    "a header that nests": (
        lambda p: zipped(p, [("x.npy", npy(X)[:10] + b"(" * 64 + npy(X)[74:]), Y_MEMBER]),
        ["x is no array of numbers or texts"],
    ),
    "a header of an empty tuple": (
        lambda p: zipped(p, [("x.npy", npy(X).replace(b"'|u1'", b"()   ")), Y_MEMBER]),
        ["x is no array of numbers or texts"],
    ),
    "a header of another version": (
        lambda p: zipped(p, [("x.npy", npy(X).replace(b"\1\0", b"\7\0", 1)), Y_MEMBER]),
        ["x is no array of numbers or texts"],
    ),
    "more than can be there": (
        lambda p: declared_sizes(p, 2**31),
        ["x is not whole", "2147483648 b"],
    ),
    "another compression": (
        lambda p: zipped(p, [("x.npy", npy(X)), Y_MEMBER], compression=zipfile.ZIP_BZIP2),
        ["x is compressed by method 12"],
    ),
    "twice": (
        lambda p: zipped(p, [("x.npy", npy(X)), ("x.npy", npy(X)), Y_MEMBER]),
        ["holds x more than once"],
    ),
    "twice, once without its ending": (
        lambda p: zipped(p, [("x.npy", npy(X)), ("x", npy(X)), Y_MEMBER]),
        ["holds x more than once"],
    ),
    "nested folders": (
        lambda p: zipped(p, [("a/b/x.npy", npy(X)), ("a/b/y.npy", npy(Y))]),
        ["holds a/b/x, a/b/y; needed are x_train, y_train"],
    ),
    "a folder beside": (
        lambda p: zipped(p, [("x.npy", npy(X)), Y_MEMBER, ("a/", b"")]),
        ["holds a/ beside x, y; what is read is these and site, group, time"],
    ),
    "other arrays beside": (
        lambda p: saved(p, x=X, y=Y, sites=Y, weight=Y),
        ["holds sites, weight beside x, y; what is read is these and site", "leave the others out"],
    ),
    "two splits": (
        lambda p: saved(p, **split(Y, Y), x=X, y=Y),
        ["holds x, y beside x_train, y_train, x_test, y_test"],
    ),
    "a validation split": (
        lambda p: saved(p, **split(Y, Y), x_val=X, y_val=Y),
        ["holds a validation part, x_val, y_val", "data.validation", "leave_out"],
    ),
    "many long names": (
        lambda p: saved(p, x=X, y=Y, **{f"{i:03}{LONG}": Y for i in range(50)}),
        ["000aaa", "and 46 more beside x, y"],
    ),
    "names of several lines": (
        lambda p: zipped(p, [("x.npy", npy(X)), Y_MEMBER, ("a\nb.npy", npy(Y))]),
        [r"holds 'a\nb' beside x, y"],
    ),
    "a pipe": (lambda p: pipe(p / "mine.npz"), ["is a pipe, a socket or a device"]),
    "a folder": (lambda p: made(p / "mine.npz"), ["is a folder; allowed is a regular file"]),
    "a link to nothing": (lambda p: link(p / "mine.npz", "nowhere"), [": no such file"]),
    "a link to itself": (lambda p: link(p / "mine.npz", "mine.npz"), ["cannot be read"]),
    "below a file": (lambda p: write(p, b"") / "mine.npz", [": no such file"]),
}


def write(tmp_path, content):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    return path


def pipe(path):
    os.mkfifo(path)
    return path


def made(path):
    path.mkdir()
    return path


def link(path, to):
    path.symlink_to(to)
    return path


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_none(tmp_path, case):
    make, parts = FILES[case]
    refused(make(tmp_path), *parts)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = saved(tmp_path, x=X, y=Y)
    path.chmod(0)
    if os.access(path, os.R_OK):  # nothing is forbidden to root

        def forbid(*_, **__):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(type(path), "open", forbid)
    assert refused(path, "cannot be read: Permission denied").count(str(path)) == 1


@pytest.mark.parametrize("make", [idx_folder, lambda tmp_path: saved(tmp_path, x=X, y=Y)])
def test_what_does_not_fit_into_memory(tmp_path, monkeypatch, make):
    monkeypatch.setattr(files, "memory", lambda: 2 * X[:30].nbytes - 1)
    with pytest.raises(DataError, match=r"has \S+ GB of values, more than fit into memory"):
        datasets.load(make(tmp_path))


def test_a_name_of_nobody_s_home():
    with pytest.raises(DataError, match=r"^~nobody-at-all/x.npz: no such user"):
        datasets.load("~nobody-at-all/x.npz")
    with pytest.raises(DataError, match=r"^~nobody-at-all/idx: no such user"):
        datasets.load("~nobody-at-all/idx")


@pytest.mark.parametrize("name", ["a\0.npz", "a\nb.npz", "\udcff.npz", LONG + ".npz", LONG, "a\nb"])
def test_names_that_no_file_has(name):
    with pytest.raises(DataError) as excinfo:
        datasets.load(name)
    assert str(excinfo.value).isprintable()
    assert len(str(excinfo.value)) < 700


@pytest.mark.parametrize("name", ["photo.png", "x.npy", "README"])
def test_files_of_other_kinds(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"something")
    refused(path, "is no file of a format that is read; allowed are files .npz, .csv and .parquet")


def test_paths_and_texts_are_read_alike(tmp_path, monkeypatch):
    path = saved(tmp_path, x=X, y=Y)
    folder = idx_folder(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    upper = path.with_name("FILE.NPZ")
    upper.write_bytes(path.read_bytes())
    expected = datasets.fingerprint(datasets.load(str(path)))
    for name in (path, "~/mine.npz", "~/FILE.NPZ", upper):
        assert datasets.fingerprint(datasets.load(name)) == expected
        found = datasets.validate(datasets.from_npz(name))
        assert datasets.fingerprint(found) == expected
    names = (folder, str(folder), "~/idx")
    assert len({datasets.fingerprint(datasets.load(name)) for name in names}) == 1
    assert len({datasets.from_idx(name).name for name in names}) == 1
    with pytest.raises(DataError, match="digits: no such file or folder"):
        datasets.load(tmp_path / "digits")


def test_a_folder_that_one_is_in_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(idx_folder(tmp_path))
    assert datasets.load(".").name == "idx"
    with pytest.raises(DataError, match="no built-in data set ''"):
        datasets.load("")


def test_slips_in_the_program_are_not_taken_for_damaged_files(tmp_path, monkeypatch):
    path = saved(tmp_path, x=X, y=Y)

    def slip(*_):
        raise AttributeError("a slip")

    monkeypatch.setattr(own, "_npy_header", slip)
    with pytest.raises(AttributeError, match="a slip"):
        datasets.load(str(path))


# IDX folders.

TRAIN_IMAGES = "train-images-idx3-ubyte"


def idx(kind, *shape, content=b""):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + content


IDX = {
    "gzip cut off": (gzip.compress(idx(8, *X.shape, content=X.tobytes()))[:-20], "cannot be read"),
    "gzip of a bad checksum": (
        gzip.compress(idx(8, 30, 6, 5, content=X[:30].tobytes()))[:-8] + bytes(8),
        "cannot be read: CRC check failed",
    ),
    "empty": (b"", "is no IDX file"),
    "wrong magic": (b"\0\1\x08\3" + bytes(12), "is no IDX file"),
    "unknown type": (idx(0x0A, 30, 6, 5, content=bytes(900)), "is no IDX file"),
    "sizes that overflow": (idx(8, 2**31, 2**31, 4), "is not whole: its header says (2147483648,"),
    "sizes that overflow to nothing": (idx(8, 0, 2**32 - 1, 2**32 - 1), ""),
    "more than can be there": (gzip.compress(idx(8, 2**20, 2**10, 2**10)), "is not whole"),
    "too much": (idx(8, 30, 6, 5, content=bytes(901)), "is not whole: its header says (30, 6, 5)"),
    "no dimension": (idx(8), "has 0 dimensions; allowed are 1..4"),
    "200 dimensions": (idx(8, *[1] * 200, content=b"\0"), "has 200 dimensions; allowed are 1..4"),
    "labels": (idx(8, 30, content=bytes(30)), "images of shape (30,); allowed is [N, H, W, C]"),
    "fewer images": (idx(8, 29, 6, 5, content=bytes(29 * 30)), "(30,) for 29 images"),
    "images below 0": (idx(9, 30, 6, 5, content=b"\xff" * 900), "images of integers in -1..-1"),
    "beyond float32": (
        idx(14, 30, 6, 5, content=np.full(900, 1e300, ">f8").tobytes()),
        "beyond the range of float32",
    ),
    "a pipe": (pipe, "is a pipe, a socket or a device"),
    "a folder": (made, "is a folder; allowed is a regular file"),
}


@pytest.mark.parametrize("case", IDX)
def test_idx_files_that_are_none(tmp_path, case):
    content, part = IDX[case]
    folder = idx_folder(tmp_path)
    path = folder / TRAIN_IMAGES
    path.unlink()
    content(path) if callable(content) else path.write_bytes(content)
    refused(folder, part)


def test_idx_files_that_are_there_plain_and_packed(tmp_path):
    folder = idx_folder(tmp_path)
    plain = folder / TRAIN_IMAGES
    plain.with_name(f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    refused(folder, f"holds 2 files train-images* ({TRAIN_IMAGES}, {TRAIN_IMAGES}.gz)")


def test_idx_files_that_nobody_would_read(tmp_path):
    folder = idx_folder(tmp_path)
    (folder / "README").write_text("Where these images come from.")
    assert datasets.load(folder).num_classes == 4
    write_idx(folder / "val-images-idx3-ubyte", X)
    refused(folder, "holds val-images-idx3-ubyte beside train-images*", "these alone are read")


def test_idx_files_are_known_by_content_not_by_name(tmp_path):
    folder = idx_folder(tmp_path)
    expected = datasets.fingerprint(datasets.load(folder))
    plain = folder / TRAIN_IMAGES
    content = plain.read_bytes()
    plain.rename(f"{plain}.gz")  # as browsers leave it, unpacked
    assert datasets.fingerprint(datasets.load(folder)) == expected
    (folder / f"{TRAIN_IMAGES}.gz").unlink()
    plain.write_bytes(gzip.compress(content))
    assert datasets.fingerprint(datasets.load(folder)) == expected


def test_idx_labels_name_their_file(tmp_path):
    folder = idx_folder(tmp_path)
    write_idx(folder / "t10k-labels-idx1-ubyte", Y[30:] / 2, kind=13)
    refused(folder, "t10k-labels-idx1-ubyte: labels of shape (10,) and type >f4")


# Validation.


def test_more_classes_than_images_are_refused():
    dataset = datasets.synthetic(train=5, test=4)._replace(num_classes=2**30)
    with pytest.raises(DataError, match="synthetic: 1073741824 classes for 9 images"):
        datasets.validate(dataset)


def test_names_are_as_many_as_classes():
    with pytest.raises(DataError, match="synthetic: 2 names for 4 classes"):
        datasets.validate(datasets.synthetic()._replace(class_names=("a", "b")))


@pytest.mark.parametrize("value", [LONG, "\n" * 10_000, "a\u202eb", ("x",) * 9999])
def test_what_a_message_repeats_is_short_and_printable(value):
    assert len(base.show(value)) <= 80
    assert base.show(value).isprintable()
