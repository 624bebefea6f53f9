"""Each format gives the same data set, and says in one line what is wrong with a file."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from helpers import commands
from helpers.commands import MLP, call, refusal
from lipsjax import datasets
from lipsjax.datasets import DataError, ReadOptions

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SIZES = {"Ghent": 15, "Ulm": 20, "Brno": 10}
PIXELS = tuple(f"p{i:02}" for i in range(64))
AS_COLUMNS = ReadOptions(shape=(8, 8, 1))


def made_up():
    """Three sites of grey pictures of 8x8."""
    rng = np.random.default_rng(0)
    site = np.repeat(list(SIZES), list(SIZES.values()))
    y = np.array(["fine", "crack"])[np.arange(len(site)) % 2]
    return rng.integers(0, 256, (len(site), 8, 8), np.uint8), y, site


def columns(**others):
    x, y, site = made_up()
    named = dict(zip(PIXELS, x.reshape(-1, 64).T, strict=True))
    return {"label": y, "site": site, **named} | others


def write_csv(path, table):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path


def write_pictures(folder, *parts):
    for i, (x, label, site) in enumerate(zip(*made_up(), strict=True)):
        path = folder.joinpath(*parts, site, label, f"{i:03}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(path)
    return folder


def write_all(tmp_path):
    """The same examples in four formats, with the options that each is read by."""
    x, y, site = made_up()
    np.savez(tmp_path / "sites.npz", x=x, y=y, site=site)
    pq.write_table(pa.table(columns()), tmp_path / "sites.parquet")
    return {
        "npz": (tmp_path / "sites.npz", ReadOptions()),
        "pictures": (write_pictures(tmp_path / "sites"), ReadOptions()),
        "csv": (write_csv(tmp_path / "sites.csv", columns()), AS_COLUMNS),
        "parquet": (tmp_path / "sites.parquet", AS_COLUMNS),
    }


def test_four_formats_give_the_same_data_set(tmp_path):
    found = {n: datasets.load(p, options=o) for n, (p, o) in write_all(tmp_path).items()}
    assert len({datasets.fingerprint(each) for each in found.values()}) == 1
    expected = found["npz"]
    assert expected.train.inputs.shape[1:] == (8, 8, 1)
    assert expected.train.inputs.dtype == np.uint8
    assert expected.sites.names == ("Brno", "Ghent", "Ulm")
    for each in found.values():
        np.testing.assert_array_equal(each.train.inputs, expected.train.inputs)
        np.testing.assert_array_equal(each.test.labels, expected.test.labels)
        np.testing.assert_array_equal(each.sites.train.site, expected.sites.train.site)
        assert (each.sites.names, each.class_names) == (expected.sites.names, expected.class_names)


@pytest.mark.slow
def test_four_formats_give_the_same_bits_of_a_run(tmp_path):
    recorded = []
    for name, (path, options) in write_all(tmp_path).items():
        shape = ("--data.shape", "8", "8", "1") if options.shape else ()
        argv = ("--dataset", str(path), "--partition.kind", "natural", *shape, *MLP[:4])
        out = tmp_path / f"out-{name}"
        ended = call("run", *argv, "--rounds", "2", "--local.epochs", "1", "--out", str(out))
        assert ended.status == 0, ended
        run = commands.run_dir(out)
        recorded.append((run.name, (run / "metrics.jsonl").read_bytes()))
    assert len(set(recorded)) == 1


@pytest.mark.whole
def test_four_formats_give_the_same_survey(tmp_path):
    """All that it says, but for where the data lie."""
    found = {}
    for name, (path, options) in write_all(tmp_path).items():
        shape = ("--data.shape", "8", "8", "1") if options.shape else ()
        out = tmp_path / f"survey-{name}"
        ended = call(
            "survey",
            *("--dataset", str(path), "--partition.kind", "natural", *shape, "--out", str(out)),
        )
        assert ended.status == 0, ended
        said = json.loads((out / "survey.json").read_text())
        del said["command"], said["dataset"], said["config"]["dataset"], said["config"]["data"]
        found[name] = said
    assert {*SIZES} == {*found["npz"]["site_names"]}
    assert found["npz"]["sites"]["feature_shift"]["distance"]
    for name, said in found.items():
        assert said == found["npz"], name


def test_truth_values_of_a_table(tmp_path):
    """As labels they are refused in one line, and as the column of tests they are read."""
    table = pa.table({"label": np.arange(12) % 2 == 0, "x": np.arange(12) / 7})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="label") as refused:
        datasets.load(tmp_path / "t.parquet")
    assert "\n" not in str(refused.value)
    table = pa.table(
        {"label": np.arange(12) % 2, "x": np.arange(12) / 7, "test": np.arange(12) > 7}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert len(datasets.load(tmp_path / "t.parquet").test.labels) == 4


# What each format can say.


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("id", np.arange(100, 145), "column id numbers the rows"),
        ("id", np.random.default_rng(0).permutation(45), "column id numbers the rows"),
        ("Site", np.arange(45) % 3, "column Site would be an input; name it by data.site"),
    ],
)
def test_columns_that_are_no_measurements_are_no_inputs(tmp_path, name, values, said):
    table = {"label": np.arange(45) % 2, "x": np.arange(45) / 7, name: values}
    path = write_csv(tmp_path / "t.csv", table)
    with pytest.raises(DataError) as refused:
        datasets.load(path)
    assert said in str(refused.value)
    named = datasets.load(path, options=ReadOptions(features=("x", name)))
    assert named.train.inputs.shape[1] == 2


def test_features_of_a_table(tmp_path):
    x = np.arange(20) / 7
    table = {"age": x, "kind": ["a", "b"] * 10, "dose": -x, "ward": [1, 10] * 10, "note": "n" * 20}
    options = ReadOptions(label="kind", site="ward", features=("dose", "age"))
    for path in (write_csv(tmp_path / "t.csv", table), tmp_path / "t.parquet"):
        if path.suffix == ".parquet":
            pq.write_table(pa.table(table | {"note": list(table["note"])}), path)
        found = datasets.load(path, options=options)
        assert (found.kind, found.sites.names) == ("features", ("1", "10"))
        np.testing.assert_array_equal(found.train.inputs[:, 0], -found.train.inputs[:, 1])


@pytest.mark.parametrize("said", [("train", "test"), ("0", "1"), ("False", "TRUE")])
def test_a_column_says_what_is_for_testing(tmp_path, said):
    test = np.array(said)[(np.arange(45) % 3 == 0).astype(int)]
    found = datasets.load(write_csv(tmp_path / "t.csv", columns(test=test)), options=AS_COLUMNS)
    assert (len(found.test.labels), found.sites.is_split) == (15, True)


def test_groups_and_times_of_a_table(tmp_path):
    days = [f"2026-01-{i % 28 + 1:02} 12:00" for i in range(45)]
    table = columns(group=np.arange(45) // 2, time=days)
    found = datasets.load(write_csv(tmp_path / "t.csv", table), options=AS_COLUMNS)
    moments = pa.array(np.array(days, "datetime64[us]"))
    pq.write_table(pa.table(table | {"time": moments}), tmp_path / "t.parquet")
    again = datasets.load(tmp_path / "t.parquet", options=AS_COLUMNS)
    assert found.sites.train.time is not None
    assert datasets.fingerprint(found) == datasets.fingerprint(again)


def test_names_stay_as_they_are_written(tmp_path):
    table = columns(site=["01", "1", "NA"] * 15)
    found = datasets.load(write_csv(tmp_path / "t.csv", table), options=AS_COLUMNS)
    assert found.sites.names == ("01", "1", "NA")


def test_whole_numbers_are_in_one_order_whatever_names_them(tmp_path):
    """Folders are texts, and columns of CSV are not: 10 comes behind 9 in both."""
    numbers, rng = np.arange(240) % 12, np.random.default_rng(0)
    pixels, site = rng.integers(0, 256, (240, 1, 1), np.uint8), numbers + 1
    for i in range(240):
        path = tmp_path / "folder" / str(site[i]) / str(numbers[i]) / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(path)
    table = {"label": numbers, "site": site, "p": pixels[:, 0, 0]}
    flat = ReadOptions(shape=(1, 1, 1))
    found = [
        datasets.load(tmp_path / "folder"),
        datasets.load(write_csv(tmp_path / "t.csv", table), options=flat),
    ]
    np.savez(tmp_path / "t.npz", x=pixels, y=numbers.astype(str), site=site.astype(str))
    found.append(datasets.load(tmp_path / "t.npz"))
    assert found[0].class_names == tuple(map(str, range(12)))
    assert found[0].sites.names == tuple(map(str, range(1, 13)))
    assert len({datasets.fingerprint(each) for each in found}) == 1


def test_pictures_below_train_and_test(tmp_path):
    for part in ("train", "test"):
        write_pictures(tmp_path / "a", part)
    (tmp_path / "a" / "README.md").write_text("Where these are from.")
    (tmp_path / "a" / "train" / ".DS_Store").write_bytes(b"")
    found = datasets.load(tmp_path / "a")
    assert len(found.train.labels) == len(found.test.labels) == 45
    assert found.sites.names == ("Brno", "Ghent", "Ulm")


def saved_picture(tmp_path, change):
    """A folder of pictures, the first of which is another."""
    folder = write_pictures(tmp_path / "a")
    path = folder / "Brno" / "crack" / "035.png"
    plain = Image.open(path)
    plain.load()
    change(plain, path)
    return folder


def opaque(picture, path):
    picture.convert("RGBA").convert("LA").save(path)


def rotated(picture, path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.rotate(180).save(path, exif=exif)


@pytest.mark.parametrize("change", [opaque, rotated])
def test_what_becomes_plain_without_loss(tmp_path, change):
    found = datasets.load(saved_picture(tmp_path, change))
    plain = datasets.load(write_pictures(tmp_path / "plain"))
    assert datasets.fingerprint(found) == datasets.fingerprint(plain)


def test_pictures_are_brought_to_one_size(tmp_path):
    folder = saved_picture(tmp_path, lambda p, path: p.resize((5, 9)).save(path))
    assert datasets.load(folder, options=ReadOptions(resize=(6, 4))).train.inputs.shape[1:] == (
        6,
        4,
        1,
    )


def medmnist(tmp_path):
    x, y, _ = made_up()
    y = (y == "fine").astype(int)[:, None]
    parts = {"train": slice(0, 25), "val": slice(25, 35), "test": slice(35, 45)}
    arrays = {f"{n}_images": x[rows] for n, rows in parts.items()}
    np.savez(tmp_path / "m.npz", **arrays, **{f"{n}_labels": y[r] for n, r in parts.items()})
    return tmp_path / "m.npz"


@pytest.mark.parametrize(
    ("said", "train", "test"), [("train", 35, 10), ("test", 25, 20), ("leave_out", 25, 10)]
)
def test_a_validation_part_goes_where_one_says(tmp_path, said, train, test):
    found = datasets.load(medmnist(tmp_path), options=ReadOptions(validation=said))
    assert (len(found.train.labels), len(found.test.labels)) == (train, test)


def hugging_face(tmp_path, labels=None):
    """A folder as `save_to_disk` writes it, of two parts with pictures and named classes."""
    x, y, site = made_up()
    info = {"info": {"features": {"label": {"names": ["fine", "crack"], "_type": "ClassLabel"}}}}
    folder = tmp_path / "hf"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        encoded = []
        for i, each in enumerate(x):
            Image.fromarray(each).save(tmp_path / "one.png")
            encoded.append({"bytes": (tmp_path / "one.png").read_bytes(), "path": f"{i}.png"})
        numbers = (y == "crack").astype(int) if labels is None else labels
        table = pa.table({"image": encoded, "label": numbers, "site": site})
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        name = "data-00000-of-00001.arrow"
        with pa.ipc.new_stream(str(folder / split / name), table.schema) as stream:
            stream.write_table(table)
        state = {"_data_files": [{"filename": name}]}
        (folder / split / "state.json").write_text(json.dumps(state))
        pq.write_table(table, tmp_path / f"{split}-00000.parquet")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return folder


def test_what_hugging_face_saved(tmp_path):
    found = datasets.load(hugging_face(tmp_path))
    assert found.class_names == ("crack", "fine")
    assert len(found.train.labels) == len(found.test.labels) == 45
    parquet = tmp_path / "parquet" / "data"
    parquet.mkdir(parents=True)
    for path in tmp_path.glob("*.parquet"):
        path.rename(parquet / path.name)
    assert datasets.fingerprint(datasets.load(parquet.parent)) == datasets.fingerprint(found)


# What is wrong, in one line.


def refused(path, *parts, options=AS_COLUMNS):
    with pytest.raises(DataError) as excinfo:
        datasets.load(path, options=options)
    message = str(excinfo.value)
    assert message.isprintable()
    assert len(message) < 400 + 2 * len(str(path)), message
    for part in parts:
        assert part in message


def without(name):
    return {n: values for n, values in columns().items() if n != name}


def one(value, others):
    return [value, *[others] * 44]


TABLES = {
    "no label": (without("label"), {}, ["no column label", "data.label", "site, p00"]),
    "no such site column": (columns(), {"site": "ward"}, ["no column ward", "data.site"]),
    "a text column": (columns(note=["n"] * 45), {"shape": ()}, ["column note", "data.features"]),
    "one column twice": (columns(), {"label": "site"}, ["data.label and data.site"]),
    "no such feature": (columns(), {"features": ("q",)}, ["no column q", "data.features names"]),
    "a feature twice": (columns(), {"features": ("p01",) * 2}, ["p01 twice"]),
    "another shape": (columns(), {"shape": (8, 7)}, ["64 columns", "8 x 7"]),
    "a shape of five": (columns(), {"shape": (1,) * 5}, ["data.shape is 1 1 1 1 1"]),
    "a size of nothing": (columns(), {"shape": (8, 0)}, ["data.shape is 8 0", "1..65535"]),
    "resizing numbers": (columns(), {"resize": (4, 4)}, ["data.resize is of pictures"]),
    "16 bits": (columns(p00=one(4096, 0)), {}, ["integers in 0..4096", "0..255", "more bits"]),
    "below 0": (columns(p00=one(-1, 0)), {}, ["integers in -1..255", "0..255"]),
    "labels of fractions": (columns(label=one(0.5, 1.5)), {}, ["label", "integers or texts"]),
    "sites of fractions": (columns(site=one(0.5, 1.5)), {}, ["site of type float64"]),
    "another part": (columns(test=one("exam", "train")), {}, ["a part 'exam'"]),
    "nothing to train on": (columns(test=["test"] * 45), {}, ["no part for training"]),
    "validation": (columns(test=one("val", "train")), {}, ["validation part, val", "leave_out"]),
    "no validation": (columns(), {"validation": "train"}, ["there is no validation part"]),
    "row numbers": (
        columns(id=np.arange(45)),
        {"shape": ()},
        ["column id numbers the rows", "data.features"],
    ),
    "only a label": ({"label": ["a", "b"] * 9}, {"shape": ()}, ["no columns of inputs"]),
    "a class for testing alone": (
        columns(label=one("new", "a"), test=one("test", "train")),
        {},
        ["new", "classes that can be learnt"],
    ),
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("case", TABLES)
def test_tables_that_cannot_be_read(tmp_path, case, kind):
    table, options, parts = TABLES[case]
    path = tmp_path / f"t.{kind}"
    write_csv(path, table) if kind == "csv" else pq.write_table(pa.table(table), path)
    refused(path, *parts, options=AS_COLUMNS._replace(**options))


CSVS = {
    "empty": (b"", ["holds 0 lines"]),
    "no rows": (b"label,a\n", ["holds 1 lines"]),
    "semicolons": (b"label;a\nx;1\n", ["parts its values by ';'", "commas"]),
    "an index of pandas": (b",label,a\n0,x,1\n", ["column 1 has no name", "index=False"]),
    "a name twice": (b"label,a,a\nx,1,2\n", ["column a more than once"]),
    "a short row": (b"label,a,b\nx,1,2\ny,1\n", ["row 2 holds 2 values for 3 columns"]),
    "no text": (b"label,a\n\xff\xfe,1\n", ["no text of UTF-8"]),
    "an open quote": (b'label,a\n"x,1\n', ["cannot be read"]),
    "a missing number": (b"label,a\nx,1\ny,NA\n", ["column a has no value in row 2"]),
    "a missing label": (b"label,a\nx,1\n,2\n", ["column label has no value in row 2"]),
    "a word": (b"label,a\nx,1\ny,red\n", ["column a holds 'red' in row 2"]),
    "underscores": (b"label,a\nx,1_0\ny,2\n", ["column a holds '1_0' in row 1"]),
    "no date": (b"label,site,time,a\nx,s,2026-01-01,1\nx,s,noon,2\n", ["column time holds 'noon'"]),
    "two kinds of dates": (
        b"label,site,time,a\nx,s,2026-01-01,1\nx,s,2026-01-01T00:00Z,2\n",
        ["with and without a time zone"],
    ),
    "infinity": (b"label,a\n" + b"x,inf\ny,1.5\n" * 9, ["NaN or infinity"]),
}


@pytest.mark.parametrize("case", CSVS)
def test_csv_files_that_cannot_be_read(tmp_path, case):
    content, parts = CSVS[case]
    (tmp_path / "t.csv").write_bytes(content)
    refused(tmp_path / "t.csv", *parts, options=ReadOptions())


def damaged(tmp_path, how):
    path = tmp_path / "t.parquet"
    tables = {
        "a missing number": columns(p00=pa.array([None, *[1] * 44])),
        "lists": columns(p00=pa.array([[1, 2]] * 45)),
        "truth values": columns(p00=[True] * 45),
    }
    pq.write_table(pa.table(tables.get(how, columns())), path)
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-20])
    if how == "empty":
        path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("a missing number", "column p00 has no value in row 1"),
        ("lists", "column p00 is of type list"),
        ("truth values", "column p00 is of type bool"),
        ("cut off", "cannot be read"),
        ("empty", "cannot be read"),
    ],
)
def test_parquet_files_that_cannot_be_read(tmp_path, how, part):
    refused(damaged(tmp_path, how), part)


def test_parquet_without_pyarrow_says_how_to_install_it(tmp_path, monkeypatch):
    path = damaged(tmp_path, "")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(path, "pip install 'lipsjax[parquet]'")


def test_parquet_files_of_other_columns(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    pq.write_table(pa.table(columns()), folder / "train-0.parquet")
    pq.write_table(pa.table(without("p00")), folder / "test-0.parquet")
    refused(folder, "other columns")
    (folder / "test-0.parquet").rename(folder / "rest.parquet")
    refused(folder, "rest.parquet is of no part")


@pytest.mark.parametrize(
    ("state", "part"),
    [("{}", "not as save_to_disk writes it"), ("[", "state.json"), ("../x", "not as save_to")],
)
def test_saved_folders_that_are_not_whole(tmp_path, state, part):
    folder = hugging_face(tmp_path)
    if state == "../x":
        state = json.dumps({"_data_files": [{"filename": state}]})
    (folder / "train" / "state.json").write_text(state)
    refused(folder, part, options=ReadOptions())


def test_classes_that_hugging_face_does_not_name(tmp_path):
    refused(hugging_face(tmp_path, labels=[-1, *[1] * 44]), "holds -1 in row 1", "0..1",
            options=ReadOptions())  # fmt: skip


def several_frames(picture, path):
    picture.save(path, save_all=True, append_images=[picture.rotate(90)])


def see_through(picture, path):
    picture.convert("RGBA").save(path)
    changed = Image.open(path)
    changed.putpixel((0, 0), (0, 0, 0, 9))
    changed.save(path)


def deep_colours(_, path):
    Image.fromarray(np.full((8, 8), 700, np.uint16)).save(path)


PICTURES = {
    "another size": (lambda p, path: p.resize((5, 9)).save(path), ["9x5 in grey", "data.resize"]),
    "colours": (lambda p, path: p.convert("RGB").save(path), ["8x8 in colours", "one kind"]),
    "palette": (lambda p, path: p.convert("P").save(path), ["8x8 in colours"]),
    "broken": (lambda p, path: path.write_bytes(path.read_bytes()[:60]), ["cannot be read"]),
    "no picture": (lambda p, path: path.write_bytes(b"none"), ["is no picture that is read"]),
    "empty": (lambda p, path: path.write_bytes(b""), ["is no picture that is read"]),
    "see through": (see_through, ["one can see through"]),
    "16 bits": (deep_colours, ["more than 8 bits a value"]),
    "several": (several_frames, ["several pictures"]),
    "inks": (lambda p, path: p.convert("CMYK").save(path, "TIFF"), ["of mode CMYK"]),
    "another file": (lambda p, path: path.with_name("a.gif").write_bytes(b""), ["a.gif"]),
    "labels beside": (lambda p, path: path.with_name("metadata.csv").write_text(""), ["metadata"]),
    "in no class": (lambda p, path: path.rename(path.parents[2] / "a.png"), ["no folder of its"]),
    "in no site": (lambda p, path: path.rename(path.parents[1] / "a.png"), ["Brno/a.png not"]),
    "nested": (lambda p, path: (path.parent / "a/b").mkdir(parents=True), ["nested too deeply"]),
    "an empty site": (lambda p, path: (path.parents[2] / "Lyon").mkdir(), ["Lyon is empty"]),
    "an empty class": (lambda p, path: (path.parents[1] / "dent").mkdir(), ["dent is empty"]),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_that_cannot_be_read(tmp_path, case):
    change, parts = PICTURES[case]
    refused(saved_picture(tmp_path, change), *parts, options=ReadOptions())


def test_a_site_without_a_class_and_its_empty_folder_are_right(tmp_path):
    folder = write_pictures(tmp_path / "a")
    for path in (folder / "Brno" / "crack").iterdir():
        path.unlink()
    assert datasets.load(folder).sites.names == ("Brno", "Ghent", "Ulm")


def test_folders_of_nothing(tmp_path):
    refused(tmp_path, "holds nothing of a format that is read", options=ReadOptions())
    (tmp_path / "crack").mkdir()
    refused(tmp_path, "holds no pictures", "SITE/CLASS/NAME", options=ReadOptions())


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("digits", {"label": "y"}, "digits: data.label is not read here"),
        ("m.npz", {"site": "ward"}, "data.site is not read here; what is read is data.validation"),
        ("m.npz", {}, "validation part, val_images, val_labels"),
        ("pictures", {"features": ("a",)}, "data.features is not read here"),
        ("pictures", {"resize": (0, 4)}, "data.resize is 0 4"),
    ],
)
def test_options_that_nobody_reads(tmp_path, name, options, part):
    medmnist(tmp_path)
    write_pictures(tmp_path / "pictures")
    path = name if name == "digits" else tmp_path / name
    refused(path, part, options=ReadOptions(**options))


@pytest.mark.whole
def test_a_command_says_it_in_one_line(tmp_path):
    path = write_csv(tmp_path / "t.csv", columns())
    argv = ("--dataset", str(path), "--data.site", "ward", "--out", str(tmp_path / "out"))
    refusal(call("survey", *argv), "no column ward", "data.site")
