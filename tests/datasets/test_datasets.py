"""Data sets: the built-in ones, TFDS directories whole and damaged, and validation."""

import ast
import io
import json
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from lipsjax import datasets
from lipsjax.datasets import DataError, Dataset, Examples, fingerprint, load, synthetic, validate


def with_split(split, **arrays):
    """The synthetic set with arrays of one split replaced."""
    dataset = synthetic()
    return dataset._replace(**{split: getattr(dataset, split)._replace(**arrays)})


def one_line(excinfo, *parts):
    """Holds a message to one line that names each of `parts`."""
    message = str(excinfo.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return True


# Built-in sets.


def test_digits_are_real_scaled_and_stratified():
    dataset = load("digits")
    assert dataset.train.inputs.shape == (1438, 8, 8, 1)
    assert dataset.test.inputs.shape == (359, 8, 8, 1)
    assert dataset.train.inputs.dtype == np.float32
    assert dataset.train.labels.dtype == np.int32
    assert dataset.train.inputs.min() == 0
    assert dataset.train.inputs.max() == 1
    in_train = np.bincount(dataset.train.labels)
    in_test = np.bincount(dataset.test.labels)
    np.testing.assert_array_equal(in_test, np.round(0.2 * (in_train + in_test)))


def test_digits_splits_are_disjoint_and_fixed_for_all_versions():
    dataset = load("digits")
    rows = {image.tobytes() for image in dataset.train.inputs}
    assert not any(image.tobytes() in rows for image in dataset.test.inputs)
    assert fingerprint(dataset) == (
        "b6af41951c004aed8fa1ab520bd5234737b00faa4e3f4d06750af1950cc359e1"
    )


def test_synthetic_set_can_be_learnt():
    dataset = load("synthetic")
    train, test = dataset.train, dataset.test
    centres = np.stack(
        [train.inputs[train.labels == c].mean(axis=0) for c in range(dataset.num_classes)]
    )
    distances = ((test.inputs[:, None] - centres) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == test.labels).mean() > 0.95


def test_synthetic_set_follows_its_arguments():
    dataset = validate(synthetic(num_classes=3, input_shape=(4, 6, 2), train=7, test=5, seed=1))
    assert dataset.train.inputs.shape == (7, 4, 6, 2)
    assert dataset.test.inputs.shape == (5, 4, 6, 2)
    assert sorted(np.bincount(dataset.train.labels)) == [2, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"num_classes": 1}, "num_classes is 1"),
        ({"train": 0}, "train is 0"),
        ({"input_shape": (8, 8, 1, 1)}, "(8, 8, 1, 1)"),
    ],
)
def test_synthetic_refuses(arguments, part):
    with pytest.raises(DataError) as excinfo:
        synthetic(**arguments)
    assert one_line(excinfo, part)


@pytest.fixture(scope="module")
def signals():
    return load("mnist1d")


@pytest.mark.slow
def test_mnist1d_is_made_alike_and_leaves_the_global_generators_alone(signals):
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    dataset = load("mnist1d")
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert dataset.train.inputs.shape == (4000, 1, 40, 1)
    assert dataset.test.inputs.shape == (1000, 1, 40, 1)
    together = np.concatenate([dataset.train.inputs, dataset.test.inputs])
    assert abs(together.mean()) < 1e-5
    assert together.std() == pytest.approx(1, abs=1e-5)
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert np.bincount(labels).tolist() == [500] * 10
    assert fingerprint(dataset) == fingerprint(signals)


@pytest.mark.slow
def test_mnist1d_can_be_told_apart(signals):
    from sklearn.neighbors import KNeighborsClassifier

    train, test = ((x.inputs.reshape(-1, 40), x.labels) for x in (signals.train, signals.test))
    assert KNeighborsClassifier(5).fit(*train).score(*test) > 0.4  # chance is 0.1


def test_mnist1d_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    with pytest.raises(DataError) as excinfo:
        load("mnist1d")
    assert one_line(excinfo, "pip install 'lipsjax[mnist1d]'")


def imported(tree):
    """Top-level package names that a syntax tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize(
    "path", sorted(Path(datasets.__file__).parent.glob("*.py")), ids=lambda p: p.stem
)
def test_slow_packages_are_imported_only_by_the_loader_that_needs_them(path):
    tree = ast.parse(path.read_text())
    at_import = ast.Module(
        [node for node in tree.body if not isinstance(node, ast.FunctionDef)], []
    )
    assert set(imported(at_import)) <= sys.stdlib_module_names | {"numpy", "lipsjax"}
    assert not set(imported(tree)) & {"jax", "tensorflow"}


# Fingerprints.


def test_fingerprint_is_of_content_not_of_name():
    dataset = synthetic()
    assert fingerprint(dataset) == fingerprint(dataset._replace(name="other"))
    assert len(fingerprint(dataset)) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d._replace(num_classes=5),
        lambda d: d._replace(train=d.test, test=d.train),
        lambda d: d._replace(test=d.test._replace(labels=d.test.labels[::-1])),
        lambda d: d._replace(test=d.test._replace(inputs=d.test.inputs.reshape(-1, 4, 16, 1))),
        lambda d: d._replace(test=d.test._replace(inputs=d.test.inputs.view(np.int32))),
    ],
    ids=["classes", "splits", "order", "shape", "type"],
)
def test_fingerprint_sees_every_change(change):
    assert fingerprint(change(synthetic())) != fingerprint(synthetic())


def test_fingerprint_does_not_see_memory_layout():
    dataset = synthetic(input_shape=(8, 8, 3))
    images = np.asfortranarray(dataset.train.inputs)
    assert fingerprint(
        dataset._replace(train=dataset.train._replace(inputs=images))
    ) == fingerprint(dataset)


# Validation.


def test_validate_casts_labels_of_any_integer_type():
    labels = synthetic().train.labels.astype(np.uint8)
    assert validate(with_split("train", labels=labels)).train.labels.dtype == np.int32


def nan_images():
    images = synthetic().train.inputs.copy()
    images[3, 2, 1, 0] = np.nan
    return images


def labels_with(value):
    labels = synthetic().test.labels.astype(np.int64)
    labels[5] = value
    return labels


@pytest.mark.parametrize(
    ("dataset", "parts"),
    [
        (with_split("train", labels=synthetic().train.labels.astype(float)), ["train", "float64"]),
        (with_split("test", labels=labels_with(4)), ["test label 4 of example 5", "0..3"]),
        (with_split("test", labels=labels_with(-1)), ["test label -1", "0..3"]),
        (with_split("test", labels=labels_with(2**32)), [f"test label {2**32}", "0..3"]),
        (with_split("train", labels=synthetic().train.labels[:9]), ["(9,)", "800 images"]),
        (with_split("train", inputs=nan_images()), ["train image 3", "NaN"]),
        (with_split("train", inputs=-np.inf * (nan_images() + 1)), ["train image 0", "infinity"]),
        (with_split("test", inputs=synthetic().test.inputs[..., 0]), ["(8, 8, 1)", "(8, 8)"]),
        (
            with_split("test", inputs=synthetic().test.inputs[:, 0, 0, 0]),
            ["(200,)", "[N, H, W, C]"],
        ),
        (with_split("test", inputs=synthetic().test.inputs.astype(float)), ["float64", "uint8"]),
        (with_split("test", inputs=synthetic().test.inputs[:, :4]), ["(8, 8, 1)", "(4, 8, 1)"]),
        (with_split("test", inputs=synthetic().test.inputs.astype(np.uint8)), ["float32", "uint8"]),
        (
            with_split("test", inputs=np.empty((0, 8, 8, 1), np.float32), labels=np.empty(0, int)),
            ["test", "(0, 8, 8, 1)", "empty"],
        ),
        (synthetic()._replace(num_classes=1), ["1 classes"]),
    ],
)
def test_validate_refuses(dataset, parts):
    with pytest.raises(DataError) as excinfo:
        validate(dataset)
    assert one_line(excinfo, "synthetic", *parts)


# TFDS directories, written here without TensorFlow.

NAME = "tiny_images"
SHARDS = {"train": (5, 4), "test": (6,)}


def tiny_set():
    """Nine training and six test images of 5x4 pixels and 3 channels, of 3 classes."""
    rng = np.random.default_rng(0)
    return Dataset(
        NAME,
        *(
            Examples(
                rng.integers(256, size=(sum(shards), 5, 4, 3), dtype=np.uint8),
                (np.arange(sum(shards)) % 3).astype(np.int32),
            )
            for shards in SHARDS.values()
        ),
        num_classes=3,
    )


def png(image):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    return file.getvalue()


def example(image, label):
    """One serialised tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
    message.features.feature["image"].bytes_list.value.append(image)
    message.features.feature["label"].int64_list.value.append(label)
    return message.SerializeToString()


def write_records(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def shard_path(folder, split, shard):
    return folder / f"{NAME}-{split}.array_record-{shard:05d}-of-{len(SHARDS[split]):05d}"


def write_json(folder, splits=tuple(SHARDS), shape=("5", "4", "3"), dtype="uint8", **changes):
    """Writes dataset_info.json and features.json as TFDS does."""
    feature = "tensorflow_datasets.core.features"
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {
        "fileFormat": "array_record",
        "moduleName": "tensorflow_datasets.image_classification.tiny",
        "name": NAME,
        "splits": [
            {
                "filepathTemplate": template,
                "name": name,
                "numBytes": "1",
                "shardLengths": [str(length) for length in lengths],
            }
            for name, lengths in zip(splits, SHARDS.values(), strict=True)
        ],
        "version": folder.name,
    }
    features = {
        "image": {
            "image": {"dtype": dtype, "shape": {"dimensions": list(shape)}},
            "pythonClassName": f"{feature}.image_feature.Image",
        },
        "label": {
            "classLabel": {"numClasses": "3"},
            "pythonClassName": f"{feature}.class_label_feature.ClassLabel",
        },
    }
    for key, value in changes.items():
        target = features if key in features else info
        target[key] = value
    named = {"features": {key: value for key, value in features.items() if value is not None}}
    wrapped = {
        "featuresDict": named,
        "pythonClassName": f"{feature}.features_dict.FeaturesDict",
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(wrapped))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A TFDS data directory that holds the tiny set, version 1.0.0."""
    data_dir = tmp_path_factory.mktemp("tfds")
    folder = data_dir / NAME / "1.0.0"
    folder.mkdir(parents=True)
    write_json(folder)
    dataset = tiny_set()
    for split, lengths in SHARDS.items():
        images, labels = getattr(dataset, split)
        records = [example(png(image), label) for image, label in zip(images, labels, strict=True)]
        for shard, length in enumerate(lengths):
            write_records(shard_path(folder, split, shard), records[:length])
            records = records[length:]
    return data_dir


@pytest.fixture
def data_dir(pristine, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(pristine, tmp_path / "tfds")
    return tmp_path / "tfds"


@pytest.fixture
def folder(data_dir):
    return data_dir / NAME / "1.0.0"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever opens a connection fails."""

    def refuse(*_):
        raise AssertionError("a network connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def refused(data_dir, *parts, name=NAME):
    """Holds load to one line that names each of `parts`."""
    with pytest.raises(DataError) as excinfo:
        load(name, data_dir)
    return one_line(excinfo, *parts)


def test_tfds_set_is_read_whole_and_in_order(data_dir):
    dataset = load(NAME, data_dir)
    assert dataset.name == NAME
    assert fingerprint(dataset) == fingerprint(tiny_set())
    assert "tensorflow" not in sys.modules


def test_tfds_reads_quietly(data_dir, capfd, caplog):
    load(NAME, str(data_dir))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_tfds_version_newest_or_asked_for(data_dir, folder):
    for version, label in (("1.10.0", 1), ("1.9.0", 2)):
        shutil.copytree(folder, folder.with_name(version))
        image = png(tiny_set().test.inputs[0])
        write_records(shard_path(folder.with_name(version), "test", 0), [example(image, label)] * 6)
    assert load(NAME, data_dir).test.labels.tolist() == [1] * 6
    assert load(f"{NAME}:1.9.0", data_dir).test.labels.tolist() == [2] * 6
    assert refused(data_dir, "1.2.3", "1.10.0", name=f"{NAME}:1.2.3")


def test_tfds_configuration(data_dir, folder):
    shutil.copytree(folder, data_dir / "family" / "tiny-2.x" / "1.0.0")
    assert load("family/tiny-2.x", data_dir).num_classes == 3
    assert refused(data_dir, "configuration", "'tiny-2.x'", name="family")
    assert refused(data_dir, "family/huge", name="family/huge")


def test_tfds_validation_split_stands_in_for_test(folder, data_dir):
    write_json(folder, splits=("train", "validation"))
    path = shard_path(folder, "test", 0)
    path.rename(path.with_name(path.name.replace("-test.", "-validation.")))
    assert len(load(NAME, data_dir).test.labels) == 6


def test_tfds_without_a_test_split_is_refused(folder, data_dir):
    write_json(folder, splits=("train", "unlabelled"))
    assert refused(data_dir, "['train', 'unlabelled']", "'validation'")


def test_tfds_grey_images_get_a_channel_axis(folder, data_dir):
    write_json(folder, shape=("5", "4", "1"))
    dataset = load(NAME, data_dir)
    assert dataset.train.inputs.shape == (9, 5, 4, 1)


@pytest.mark.parametrize("name", ["", "Digits", "../x", "a/../b", "a/b/c", "a:1", "a b", "a\n"])
def test_tfds_malformed_name(data_dir, name):
    assert refused(data_dir, repr(name), name=name)


def test_unknown_name_without_data_dir_says_what_there_is():
    assert refused(None, "'digit'", "digits, synthetic", "data_dir", name="digit")


def test_tfds_missing_data_dir_says_how_to_prepare(tmp_path):
    missing = tmp_path / "nowhere"
    assert refused(missing, str(missing), "pip install 'lipsjax[prepare]'", "array_record")


def test_tfds_without_array_record_says_what_to_install(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record", None)
    assert refused(data_dir, repr(NAME), "pip install array_record", ".npz")


def test_tfds_data_dir_in_the_home_of_nobody():
    assert refused("~nobody-at-all/data", "~nobody-at-all/data", "cannot be read")


def test_tfds_file_as_data_dir(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"\x00\xff")
    assert refused(file, str(file), "not a folder")


def test_tfds_set_not_in_data_dir_says_how_to_prepare(data_dir):
    assert refused(data_dir, "'mnist'", "tfds.builder('mnist'", "array_record", name="mnist")


def test_tfds_interrupted_preparation(data_dir, folder):
    folder.rename(folder.with_name("1.0.0.incomplete8Q2X"))
    assert refused(data_dir, "no prepared version", "download_and_prepare")


@pytest.mark.parametrize("changes", [{"fileFormat": "tfrecord"}, {"fileFormat": "riegeli"}])
def test_tfds_other_file_formats_are_refused(data_dir, folder, changes):
    write_json(folder, **changes)
    assert refused(data_dir, changes["fileFormat"], "array_record", "download_and_prepare")


def test_tfds_of_before_file_formats_is_tfrecord(data_dir, folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    del info["fileFormat"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    assert refused(data_dir, "tfrecord", "array_record")


def test_tfds_missing_shard(data_dir, folder):
    path = shard_path(folder, "train", 1)
    path.unlink()
    assert refused(data_dir, path.name, "missing")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[: len(data) // 2],
        lambda data: bytes(len(data)),
        lambda data: data[:80] + bytes(64) + data[144:],
    ],
    ids=["empty", "truncated", "zeros", "overwritten"],
)
def test_tfds_damaged_shard(data_dir, folder, damage):
    path = shard_path(folder, "train", 1)
    path.write_bytes(damage(path.read_bytes()))
    assert refused(data_dir, str(folder), "cannot be read", "download_and_prepare")


def test_tfds_shard_with_too_few_records(data_dir, folder):
    path = shard_path(folder, "test", 0)
    write_records(path, [example(png(tiny_set().test.inputs[0]), 0)])
    assert refused(data_dir, str(folder), "cannot be read")


@pytest.mark.parametrize(
    "record",
    [
        b"not a message",
        example(b"not an image", 0),
        example(png(tiny_set().test.inputs[0])[:60], 0),
        example(png(tiny_set().test.inputs[0][:3]), 0),
    ],
    ids=["no message", "no image", "truncated image", "smaller image"],
)
def test_tfds_damaged_record(data_dir, folder, record):
    write_records(shard_path(folder, "test", 0), [record] * 6)
    assert refused(data_dir, str(folder), "cannot be read")


def test_tfds_labels_out_of_range(data_dir, folder):
    image = png(tiny_set().test.inputs[0])
    write_records(shard_path(folder, "test", 0), [example(image, -1)] * 6)
    assert refused(data_dir, "test label -1", "0..2")


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b"\xff\x00"])
def test_tfds_damaged_json(data_dir, folder, file, content):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    assert refused(data_dir, str(folder))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"label": None}, ["image classification", "['image']"]),
        ({"image": None}, ["image classification", "['label']"]),
        ({"shape": ("-1", "-1", "3")}, ["(None, None, 3)", "one size"]),
        ({"dtype": "uint16"}, ["uint16", "uint8"]),
    ],
)
def test_tfds_sets_for_other_tasks_are_refused(data_dir, folder, changes, parts):
    write_json(folder, **changes)
    assert refused(data_dir, *parts)


def changed_split(**fields):
    """Changes the first split of dataset_info.json."""

    def change(folder):
        info = json.loads((folder / "dataset_info.json").read_text())
        info["splits"][0] |= fields
        (folder / "dataset_info.json").write_text(json.dumps(info))

    return change


def changed_info(**fields):
    return lambda folder: write_json(folder, **fields)


def changed_fields(**fields):
    """Changes dataset_info.json itself."""

    def change(folder):
        info = json.loads((folder / "dataset_info.json").read_text()) | fields
        (folder / "dataset_info.json").write_text(json.dumps(info))

    return change


def changed_features(old, new):
    """Replaces a text of features.json."""

    def change(folder):
        text = (folder / "features.json").read_text()
        assert old in text
        (folder / "features.json").write_text(text.replace(old, new))

    return change


def written(file, content):
    return lambda folder: (folder / file).write_text(content)


LABEL_CLASS = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
IMAGE_CLASS = "tensorflow_datasets.core.features.image_feature.Image"
TAMPERED = {
    "nested too deep": (written("dataset_info.json", "[" * 10**6), ["is no JSON"]),
    "objects nested too deep": (
        written("features.json", '{"a":' * 10**5 + "1" + "}" * 10**5),
        ["features.json", "is no JSON"],
    ),
    "a number of 10^5 digits": (written("dataset_info.json", "1" * 10**5), ["is no JSON"]),
    "a list": (
        written("features.json", json.dumps(["a" * 9999])),
        ["features.json holds", "object"],
    ),
    "a format that is a list": (changed_info(fileFormat=["x"]), ["fileFormat is ['x']"]),
    "a name that is a number": (changed_info(name=3), ["name is 3; allowed is a text"]),
    "a name that leads out": (changed_info(name="../x"), ["name is '../x'; allowed are letters"]),
    "a name that is a path": (changed_info(name="/etc"), ["name is '/etc'; allowed are letters"]),
    "splits that are a number": (changed_fields(splits=3), ["splits is 3; allowed is a list"]),
    "splits of numbers": (changed_fields(splits=[3]), ["split 0 is 3; allowed is a JSON object"]),
    "a split that leads out": (changed_split(name="../train"), ["split 0 is '../train'; allowed"]),
    "shards that lead out": (
        changed_split(filepathTemplate="../../../out/{SPLIT}-{SHARD_X_OF_Y}"),
        ["filepathTemplate '../../../out/", "allowed are paths within the folder"],
    ),
    "shards within that lead out": (
        changed_split(filepathTemplate="a/../../../out/{SPLIT}"),
        ["allowed are paths within the folder"],
    ),
    "shards of a path": (
        changed_split(filepathTemplate="/etc/passwd"),
        ["filepathTemplate '/etc/passwd'", "allowed are paths within the folder"],
    ),
    "shards by their other name": (
        changed_split(filepathTemplate=None, filepath_template="/etc/passwd"),
        ["filepathTemplate is None"],
    ),
    "shards of a huge name": (
        changed_split(filepathTemplate="{SPLIT:>999999999}"),
        ["filepathTemplate '{SPLIT:>999999999}'"],
    ),
    "shards that look into Python": (
        changed_split(filepathTemplate="{SPLIT.__class__}"),
        ["filepathTemplate '{SPLIT.__class__}'"],
    ),
    "shards that are one": (changed_split(filepathTemplate="train"), ["cannot be read", "several"]),
    "no examples": (changed_split(shardLengths=[]), ["split 'train' of", "has no examples"]),
    "a type that is none": (changed_info(dtype=None), ["cannot be read"]),
    "a type of two lines": (changed_info(dtype="a\n\0"), ["cannot be read"]),
    "10^11 examples": (
        changed_split(shardLengths=["100000000000", "4"]),
        ["cannot be read", "holds 5 examples, not 100000000000"],
    ),
    "10^30 examples": (changed_split(shardLengths=[10**30, "4"]), ["a shard of 1000000000000"]),
    "-1 examples": (changed_split(shardLengths=["-1", "4"]), ["a shard of -1 examples"]),
    "a true number of examples": (changed_split(shardLengths=[True, 4]), ["a shard of True"]),
    "a number of shards": (changed_split(shardLengths=10**9), ["shardLengths is 1000000000"]),
    "images of 10^12 pixels": (
        changed_info(shape=("1000000", "1000000", "3")),
        ["cannot be read", "(4, 5) pixels where (1000000, 1000000, 3) was declared"],
    ),
    "images of 7 channels": (changed_info(shape=("5", "4", "7")), ["7"]),
    "10^9 classes": (
        changed_features('"3"}', '"1000000000"}'),
        ["1000000000 classes for 15 images"],
    ),
    "a feature from elsewhere": (
        changed_features(IMAGE_CLASS, "spy_of_this_test.Image"),
        ["features.json: a feature is a 'spy_of_this_test.Image'; allowed are those of tensor"],
    ),
    "a feature of old from elsewhere": (
        written("features.json", json.dumps({"type": "spy_of_this_test.Image", "content": {}})),
        ["a feature is a 'spy_of_this_test.Image'"],
    ),
    "a feature within a text": (
        written(
            "features.json",
            json.dumps(
                {"jsonFeature": {"json": json.dumps({"a": {"type": "spy_of_this_test.I"}})}}
            ),
        ),
        ["a feature is a 'spy_of_this_test.I'"],
    ),
    "names from a file elsewhere": (
        written(
            "features.json",
            json.dumps(
                {
                    "type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
                    "content": {
                        "label": {
                            "type": LABEL_CLASS,
                            "content": {"names_file": "/etc/passwd"},
                        }
                    },
                }
            ),
        ),
        ["names_file is '/etc/passwd'"],
    ),
    "a pipe of names": (
        lambda folder: os.mkfifo(folder / "label.labels.txt"),
        ["label.labels.txt is no regular file"],
    ),
    "a pipe for JSON": (
        lambda folder: ((folder / "features.json").unlink(), os.mkfifo(folder / "features.json")),
        ["features.json is no regular file"],
    ),
    "a folder for JSON": (
        lambda folder: (
            (folder / "dataset_info.json").unlink(),
            (folder / "dataset_info.json").mkdir(),
        ),
        ["dataset_info.json is a folder"],
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
@pytest.mark.usefixtures("in_time")
def test_tfds_folders_that_were_tampered_with(
    data_dir, folder, tmp_path, case, monkeypatch, capfd, caplog
):
    change, parts = TAMPERED[case]
    change(folder)
    (tmp_path / "spy_of_this_test.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    outside = tmp_path / "out"  # what a path that leads out would find
    outside.mkdir()
    for number in range(2):
        source = shard_path(folder, "train", number)
        shutil.copy(source, outside / f"train-{number:05}-of-00002")
    assert refused(data_dir, NAME, *parts)
    with pytest.raises(DataError) as excinfo:
        load(NAME, data_dir)
    assert len(str(excinfo.value)) < 900
    assert str(excinfo.value).isprintable()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("name", ["a" * 10_000, "a/" + "b" * 10_000, "A" * 10_000])
def test_tfds_long_names_are_shortened(data_dir, name):
    with pytest.raises(DataError) as excinfo:
        load(name, data_dir)
    assert len(str(excinfo.value)) < 900
    with pytest.raises(DataError) as excinfo:
        load(NAME, "/" + name)
    assert len(str(excinfo.value)) < 1300


def test_tfds_images_of_a_huge_size_are_not_decoded(data_dir, folder):
    image = png(tiny_set().test.inputs[0])
    size = image.index(b"IHDR") + 4
    content = image[:size] + (60_000).to_bytes(4, "big") * 2 + image[size + 8 :]
    write_records(shard_path(folder, "test", 0), [example(content, 0)] * 6)
    assert refused(data_dir, str(folder), "cannot be read")
