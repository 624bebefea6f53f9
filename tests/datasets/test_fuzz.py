"""Files that were changed at random: each is read, or refused in one line; nothing else happens.

LIPSJAX_FUZZ says how many of each kind are made, 300 if it is not set.
"""

import collections
import contextlib
import gzip
import io
import os
import random
import shutil
import signal
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from lipsjax import datasets
from lipsjax.datasets import DataError, own

CASES = int(os.environ.get("LIPSJAX_FUZZ", "300"))
SECONDS = 20
MEMORY = 2**26
"""Bytes that reading may need; the files have a few thousand."""

X = np.random.default_rng(0).integers(0, 256, (24, 4, 5), np.uint8)
Y = np.arange(24) % 3
WHOLE = {"x": X, "y": Y}
WORDS = {"images": X[..., None] / 255, "labels": np.array(["Straße", "crack", "fine"])[Y]}
SPLIT = {"x_train": X, "y_train": Y + 5, "x_test": X[:6], "y_test": Y[:6] + 5}
BYTES = dict(zip(own.SPLIT[1], (X, Y.astype("S"), X[:6], Y[:6].astype("S")), strict=True))
ARCHIVES = (WHOLE, WORDS, SPLIT, BYTES)
NAMES = sorted(
    {name for names in (*own.SPLIT, *own.WHOLE) for name in names} | {"site", "a/b", " "}
)
DTYPES = (
    *("u1", "i1", ">i2", "i8", "u8", "f2", ">f4", "f8", "g", "c16", "?"),
    *("U3", ">U2", "S4", "V3", "M8[s]", "m8[D]", "O"),
)


# Changes of bytes.


def flip(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 64))):
        if content:
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def cut(content, rng):
    return content[: rng.randrange(len(content) + 1)]


def leave_out(content, rng):
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[end:]


def repeat(content, rng):
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:]


def number(content, rng):
    """Overwrites four bytes by a number that is small, large or negative in some reading."""
    at = rng.randrange(max(len(content) - 4, 1))
    value = rng.choice((0, 1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(2**32)))
    return content[:at] + struct.pack(rng.choice("<>") + "I", value) + content[at + 4 :]


BYTE_CHANGES = (flip, cut, leave_out, repeat, number)


# Archives.


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def archive(arrays):
    """Returns the members of an archive, each with its name."""
    return [(f"{name}.npy", npy(array)) for name, array in arrays.items()]


def other_header(members, rng):
    """Gives one member the header of another."""
    (name, content), (_, other) = rng.sample(members, 2)
    return [(n, other[:128] + content[128:] if n == name else c) for n, c in members]


def changed_header(members, rng):
    """Changes one member's header where it is read as Python's text."""
    at = rng.randrange(len(members))
    name, content = members[at]
    words = (
        b"True",
        b"None",
        b"-1",
        b"(",
        b")",
        b"'",
        b"{",
        b"0x1for",
        b"\\d",
        b"10**9",
        b"1e9",
        b"L",
    )
    words += (b"9999999999999", b"'O'", b"<U9", b"|V0", b"\xff", b"\0", b"[('a','<i4')]")
    word, start = rng.choice(words), rng.randrange(8, 100)
    changed = content[:start] + word + content[start + len(word) :]
    return [*members[:at], (name, changed), *members[at + 1 :]]


def other_array(members, rng):
    """Replaces one member by an array of another type or shape."""
    at = rng.randrange(len(members))
    shape = tuple(rng.choice((0, 1, 3, 6, 24)) for _ in range(rng.randrange(6)))
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, shape)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = values.astype(rng.choice(DTYPES))
        if array.dtype.kind in "fc" and array.size and rng.random() < 0.5:
            array.flat[0] = rng.choice((np.nan, np.inf, 1e300, 6e4))
    return [*members[:at], (members[at][0], npy(array)), *members[at + 1 :]]


def other_values(members, rng):
    """Changes one member's type, and keeps its shape."""
    at = rng.randrange(len(members))
    name, content = members[at]
    array = np.load(io.BytesIO(content))
    if array.dtype.kind in "US":
        texts = (" a", "a", "cafe\u0301", "caf\u00e9", "", "\ud800", "x\n", "9" * 99)
        return [
            *members[:at],
            (name, npy(np.array(rng.choices(texts, k=len(array))))),
            *members[at + 1 :],
        ]
    with np.errstate(all="ignore"):
        array = array * rng.choice((1.0, 1.0, 1 / 255, -1.0, 2.0**55, 1e300))
        array = array.astype(rng.choice(DTYPES[:9]))
    return [*members[:at], (name, npy(array)), *members[at + 1 :]]


def damaged_values(members, rng):
    """Flips bytes of one member's values."""
    at = rng.randrange(len(members))
    name, content = members[at]
    return [*members[:at], (name, content[:128] + flip(content[128:], rng)), *members[at + 1 :]]


def other_name(members, rng):
    at = rng.randrange(len(members))
    name = rng.choice(NAMES) + rng.choice((".npy", "", "/"))
    return [*members[:at], (name, members[at][1]), *members[at + 1 :]]


def one_more(members, rng):
    return [*members, (rng.choice(NAMES) + ".npy", rng.choice(members)[1])]


def one_fewer(members, rng):
    return rng.sample(members, len(members) - 1)


def damaged_member(members, rng):
    """Changes the bytes of one member, whose checksum is then right."""
    at = rng.randrange(len(members))
    name, content = members[at]
    return [*members[:at], (name, rng.choice(BYTE_CHANGES)(content, rng)), *members[at + 1 :]]


MEMBER_CHANGES = (
    *(other_header, changed_header, changed_header, other_array, other_array),
    *(other_values, other_values, damaged_values, damaged_values),
    *(other_name, one_more, one_fewer, damaged_member),
)


def make_archive(folder, rng):
    """Writes a changed archive; returns its path."""
    members = archive(rng.choice(ARCHIVES))
    of_members = rng.random() < 0.7
    if of_members:
        members = rng.choice(MEMBER_CHANGES)(members, rng)
    written = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        with zipfile.ZipFile(written, "w", method) as file:
            for name, content in members:
                file.writestr(name, content)
    content = written.getvalue()
    if not of_members or rng.random() < 0.1:
        content = rng.choice(BYTE_CHANGES)(content, rng)
    path = folder / "mine.npz"
    path.write_bytes(content)
    return path


# IDX folders.


def idx(array, kind=8):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return head + array.astype(own._IDX_TYPES[kind]).tobytes()


FILES = {
    "train-images-idx3-ubyte": X,
    "train-labels-idx1-ubyte": Y,
    "t10k-images-idx3-ubyte": X[:6],
    "t10k-labels-idx1-ubyte": Y[:6],
}


def random_head(content, rng):
    rank = rng.choice((0, 1, 2, 3, 4, 5, 255))
    sizes = [rng.choice((0, 1, 4, 5, 6, 24, 2**16, 2**32 - 1)) for _ in range(rank)]
    kind = rng.choice((*own._IDX_TYPES, 0, 10))
    return struct.pack(f">BBBB{rank}I", 0, 0, kind, rank, *sizes) + content[16:]


def other_type(content, rng):
    kind = rng.choice(tuple(own._IDX_TYPES))
    return idx(np.frombuffer(content[16:], np.uint8).reshape(-1, 4, 5), kind)


def make_idx(folder, rng):
    """Writes a changed IDX folder; returns its path."""
    path = folder / "idx"
    path.mkdir()
    contents = {name: idx(array) for name, array in FILES.items()}
    name = rng.choice(list(contents))
    how = rng.choice(
        ("bytes", "bytes", "head", "type", "swap", "twice", "rename", "leave", "folder")
    )
    if how == "head":
        contents[name] = random_head(contents[name], rng)
    if how == "type" and "images" in name:
        contents[name] = other_type(contents[name], rng)
    if how == "swap":
        other = rng.choice(list(contents))
        contents[name], contents[other] = contents[other], contents[name]
    for each in list(contents):
        if rng.random() < 0.5:
            contents[each] = gzip.compress(contents[each])
    if how == "bytes":
        contents[name] = rng.choice(BYTE_CHANGES)(contents[name], rng)
    if how == "twice":
        contents[f"{name}.gz"] = contents[name]
    if how == "rename":
        contents[rng.choice(("", name[:9], "x", f"{name}.bz2")) or "y"] = contents.pop(name)
    if how == "leave":
        del contents[name]
    for each, content in contents.items():
        (path / each).write_bytes(content)
    if how == "folder":
        (path / name).unlink()
        (path / name).mkdir()
    return path


# What must come of it.


@contextlib.contextmanager
def limits():
    """Fails what warns, takes long, or needs much memory."""

    def stop(*_):
        raise AssertionError(f"not done in {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(path):
    """Returns what came of a file: "read", or "refused" in one line that names it."""
    with limits():
        try:
            found = datasets.load(path)
        except DataError as error:
            message = str(error)
            assert message.isprintable(), message
            assert str(path) in message
            assert len(message) < 500 + len(str(path))
            return "refused"
    assert len(found.class_names) == found.num_classes
    for images, labels in (found.train, found.test):
        assert images.dtype in (np.uint8, np.float32)
        assert np.isfinite(images).all()
        assert (labels.dtype, labels.shape) == (np.int32, images.shape[:1])
    seen = np.unique(np.concatenate([found.train.labels, found.test.labels]))
    assert seen.tolist() == list(range(found.num_classes))
    return "read"


def fuzz(make, tmp_path, cases):
    """Returns how often a file was read and refused; case k is the same in every run."""
    counts = collections.Counter()
    for case in range(cases):
        folder = tmp_path / str(case)
        folder.mkdir()
        path = make(folder, random.Random(f"{make.__name__} {case}"))
        try:
            counts[outcome(path)] += 1
        except BaseException as error:
            error.add_note(f"case {case} of {make.__name__}")
            raise
        shutil.rmtree(folder)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_archive, make_idx])
def test_changed_files_are_read_or_refused(tmp_path, make):
    counts = fuzz(make, tmp_path, CASES)
    print(f"{make.__name__}: {dict(counts)}")
    assert counts["read"] > 0.05 * CASES
    assert counts["refused"] > 0.4 * CASES


# That it finds what it is there for: faults that are put in come out.


def no_check_of_names(*_):
    return own.SPLIT[0]


@contextlib.contextmanager
def no_care(*_):
    yield


def no_check_of_sizes(_, file, __):
    head = file.read(4)
    shape = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
    return np.frombuffer(file.read(), np.uint8).reshape(shape)


def float32_anyhow(where, name, images, checked=own._images):
    if images.dtype.kind == "f" and images.ndim == 4:
        return images.astype(np.float32)
    return checked(where, name, images)


def any_kind(_, __, labels):
    return own._Labels(sorted(set(labels.tolist())), np.zeros(len(labels), int), "any")


FAULTS = {
    "names that are not checked": (make_archive, "_wanted", no_check_of_names, KeyError),
    "what zipfile and zlib raise": (make_archive, "_reading", no_care, zipfile.BadZipFile),
    "floats that do not fit": (make_archive, "_images", float32_anyhow, RuntimeWarning),
    "labels of any kind": (make_archive, "_labels", any_kind, (TypeError, AssertionError)),
    "what gzip raises": (make_idx, "_reading", no_care, (OSError, EOFError)),
    "sizes that are not checked": (
        make_idx,
        "_read_idx_values",
        no_check_of_sizes,
        (ValueError, IndexError),
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_that_are_put_in_are_found(tmp_path, monkeypatch, case):
    make, name, fault, error = FAULTS[case]
    monkeypatch.setattr(own, name, fault)
    with pytest.raises(error) as excinfo:
        fuzz(make, tmp_path, 300)
    assert not isinstance(excinfo.value, DataError)
    assert any(entry.name == "outcome" for entry in excinfo.traceback)  # not while it was made
