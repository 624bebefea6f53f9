"""The survey of sites: its sentences, table and page, and what it refuses in one line."""

import base64
import csv
import html.parser
import io
import json
import re
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from helpers import commands
from lipsjax import clients, datasets, partition
from lipsjax.datasets import Dataset, Examples
from lipsjax.partition.survey import look
from lipsjax.report import survey
from lipsjax.runs.config import Config, Execution, PartitionConfig
from lipsjax.runs.prepare import prepare

SMALL = ("--dataset", "synthetic", "--partition.clients", "4", "--partition.train-examples", "12")


def holding(counts, test=6, num_train=1000):
    """A survey of clients with these numbers of examples per class, and their data set."""
    counts = np.array(counts)
    labels = np.repeat(np.arange(counts.shape[1], dtype=np.int32), num_train)
    examples = Examples(np.zeros((len(labels), 1, 1, 1), np.uint8), labels)
    dataset = Dataset("set", examples, examples, counts.shape[1])
    free = [iter(np.flatnonzero(labels == c)) for c in range(counts.shape[1])]
    held = tuple(
        np.array([next(free[c]) for c, n in enumerate(row) for _ in range(n)]) for row in counts
    )
    tested = tuple(np.arange(test) for _ in counts)
    requested = counts / counts.sum(axis=1, keepdims=True)
    return partition.describe(partition.Partition(held, tested, requested), dataset), dataset


def said(counts, *, batch_size=4, epochs=2, **options):
    """Topic -> statement and question."""
    found, dataset = holding(counts, options.pop("test", 6))
    listed = survey.remarks(found, dataset, batch_size=batch_size, epochs=epochs, **options)
    return {topic: (statement, question) for topic, statement, question in listed}


# Sentences, by hand.

SITES = [[8, 0, 0], [2, 2, 0], [0, 1, 0], [0, 30, 0]]


def test_what_is_said_of_sites_that_differ():
    found = said(SITES)
    assert found["Examples"][0] == (
        "4 clients hold 43 of the 3,000 training examples of set: 1 to 30, 6 at the median."
    )
    assert found["Smallest site"][0] == (
        "Client 2 holds the fewest: 1 training example, of 1 class."
    )
    assert found["Largest site"][0].startswith("Client 3 holds 70% of what is trained on")
    assert found["Classes"][0] == (
        "The typical client holds 1 of 3 classes, and lacks 2; its commonest class makes 100% of "
        "its examples. 3 clients hold one class alone."
    )
    assert found["Absent classes"][0] == (
        "No client holds class 2, and the test split asks for them: no model here can get these "
        "right."
    )
    # 2 epochs of 2, 1, 1 and 8 batches
    assert found["Steps"][0] == (
        "With batches of 4, a client takes 2 to 16 steps a round; 1 client does not fill a batch, "
        "so that an epoch is one step."
    )
    # 1.96 * sqrt(1/4 / 24) is 20.0 points
    assert "16.7 points of its accuracy" in found["Test sets"][0]
    assert "by up to 20.0 points either way" in found["Test sets"][0]
    assert set(found) == {*found} - {"Images", "New sites"}


def test_what_is_not_worth_saying_of_equal_sites_is_not_said():
    found = said([[4, 4], [4, 4], [4, 4]])
    assert not {"Smallest site", "Largest site", "Absent classes"} & set(found)
    assert found["Classes"][1] == found["Steps"][1] == ""
    assert "little more than chance" in found["Differences"][1]


def test_sites_without_a_class_in_common():
    statement, question = said([[9, 0], [0, 9]])["Differences"]
    assert statement.startswith("For the class mixes of two clients to agree, 100%")
    assert "0.69, of at most 0.69 nats" in statement
    assert "one model" in question


def test_one_client_is_not_compared():
    found = said([[3, 2]])
    assert "Differences" not in found
    assert found["Examples"][0] == "One client holds 5 of the 2,000 training examples of set."
    assert found["Classes"][0].startswith("It holds 2 of 2 classes; its commonest")


def test_no_client_fills_a_batch():
    assert "no client fills a batch" in said([[2, 1], [1, 1]])["Steps"][0]


def test_new_clients_do_not_count_as_trained_on():
    assert "Largest site" in said([[1, 1], [9, 9], [1, 1]])
    found = said([[1, 1], [1, 1], [9, 9]], new_clients=1)
    assert "Largest site" not in found
    assert found["New sites"][0].startswith("The last 1 client never trains")


def test_shared_examples_are_counted_once():
    labels = np.array([0, 1] * 5, np.int32)
    examples = Examples(np.zeros((10, 1, 1, 1), np.uint8), labels)
    dataset = Dataset("set", examples, examples, 2)
    held = partition.Partition((np.arange(6),) * 2, (np.arange(6),) * 2, np.full((2, 2), 0.5))
    found = survey.remarks(partition.describe(held, dataset), dataset, batch_size=4, epochs=1)
    assert found[0].statement == (
        "2 clients hold 6 of the 10 training examples of set: 6 each. They share examples, and "
        "count 12 together."
    )


def test_chance_is_what_drawing_from_one_pool_gives():
    dataset = datasets.synthetic(4, train=4000)
    rng = np.random.default_rng(1)
    by_chance = partition.iid(dataset, train_sizes=[20] * 60, test_sizes=[9] * 60, rng=rng)
    found = partition.describe(by_chance, dataset)
    assert survey.chance_tv(found) == pytest.approx(found.mean_pairwise_tv, rel=0.1)


# What is said of the images themselves.


def looked(images, labels, test_images=None, test_labels=None, names=None, sites=2, **options):
    """Topic -> statement and question, of images shared out in turn among some sites."""
    test_images = images[:1] if test_images is None else test_images
    test_labels = labels[:1] if test_labels is None else test_labels
    train, test = (
        Examples(x, np.asarray(y, np.int32))
        for x, y in ((images, labels), (test_images, test_labels))
    )
    dataset = Dataset("set", train, test, len(names or set(labels)), names)
    held = options.pop("held", None) or tuple(
        np.arange(k, len(labels), sites) for k in range(sites)
    )
    parts = partition.Partition(
        held, (np.arange(len(test_labels)),) * sites, np.full((sites, 2), 0.5)
    )
    listed = survey.remarks(
        partition.describe(parts, dataset),
        dataset,
        batch_size=4,
        epochs=1,
        looks=look(parts, dataset),
    )
    return {topic: (statement, question) for topic, statement, question in listed}


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


HALVES = [0, 1, 0, 1, 0, 1, 0, 1]


def test_shape_type_and_values_are_told():
    images = noise(9, 4, 16, 16)
    images[0, 0, 0, :2] = 0, 255
    found = looked(images[:8], HALVES, images[8:] // 4 * 2 + 1, [0])
    assert found["Pixels"][0] == (
        "Images of 4 x 16 pixels, 16 channels, type uint8, values in 0..255 to train and 1..127 to "
        "test."
    )
    found = looked(images[:8], HALVES, images[:1], [0])
    assert found["Pixels"][0].endswith("values in 0..255.")


@pytest.mark.parametrize(
    ("shape", "unlikely"),
    [
        ((4, 16, 16), True),  # channels first
        ((1, 28, 28), True),
        ((3, 32, 24), True),
        ((8, 8, 20), True),
        ((28, 28, 1), False),
        ((32, 24, 3), False),
        ((1, 40, 1), False),  # one row, as signals have
        ((1, 1, 1), False),
        ((16, 16, 16), False),
    ],
)
def test_an_unlikely_layout_is_remarked_on(shape, unlikely):
    found = looked(noise(8, *shape), HALVES)
    assert ("Layout" in found) == unlikely
    if unlikely:
        statement, question = found["Layout"]
        assert statement.startswith(f"{shape[0]} x {shape[1]} pixels with {shape[2]} channels are")
        assert "np.moveaxis(images, 1, -1)" in question


VALUES = {
    "constant": (
        np.full((8, 3, 3, 1), 7, np.uint8),
        None,
        "Every value of every training image is 7",
    ),
    "dark": (noise(8, 3, 3, 1) // 128, None, "divided by 255, and none is above 1."),
    "bright": (noise(8, 3, 3, 1, dtype=np.float32), None, "Floating values are taken as they are"),
    "as usual": (noise(8, 3, 3, 1), None, None),
    "as usual, floating": (noise(8, 3, 3, 1, dtype=np.float32) / 255, None, None),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_that_make_one_ask(case):
    images, tests, part = VALUES[case]
    found = looked(images, HALVES, tests)
    if part is None:
        assert not {"Values", "Layout"} & set(found)
    else:
        assert part in found["Values"][0]
        assert found["Values"][1].endswith("?") or "?" in found["Values"][1]


def test_splits_of_different_scales_are_remarked_on():
    images = noise(8, 3, 3, 1, dtype=np.float32)
    assert "Scales" not in looked(images / 255, HALVES, images / 255, HALVES)
    statement, question = looked(images / 255, HALVES, images, HALVES)["Scales"]
    assert statement.startswith("Training values lie in 0")
    assert question == "Were the two splits scaled alike?"


def test_exact_duplicates_are_counted():
    images, tests = noise(8, 3, 3, 1), noise(12, 3, 3, 1)[8:]
    assert looked(images, HALVES, tests, HALVES[:4])["Duplicates"] == (
        "No two images are the same to the bit.",
        "",
    )
    images[1] = images[0]  # at the other site, with another label
    images[4] = images[2]  # at the same site
    tests[0] = tests[1] = images[7]
    statement, question = looked(images, HALVES, tests, [1, 1, 0, 1])["Duplicates"]
    assert statement == (
        "Of images that are the same to the bit: 2 training images repeat an earlier one; 1 test "
        "image repeats an earlier one; 1 image is at one site more than once; 1 image is at "
        "several sites; 2 of 4 test images are in training too; 1 image has several labels."
    )
    assert "says nothing of new ones" in question


def test_an_example_that_sites_share_is_no_duplicate():
    images = noise(9, 3, 3, 1)
    held = (np.arange(8), np.arange(8))
    found = looked(images[:8], HALVES, images[8:], [0], held=held)
    assert found["Duplicates"][0] == "No two images are the same to the bit."


def test_float_images_are_the_same_to_the_bit():
    images = noise(9, 3, 3, 1, dtype=np.float32)
    images[1] = np.nextafter(images[0], np.float32(999))
    assert looked(images[:8], HALVES, images[8:], [0])["Duplicates"][1] == ""


def named(*names, labels=None):
    labels = labels or [k % len(names) for k in range(12)]
    images = noise(12, 3, 3, 1)
    return looked(images, labels, images, labels, names=names)


def test_classes_are_called_by_their_names():
    assert named("crack", "fine")["Class names"] == (
        "By name: classes 0 (crack), 1 (fine).",
        "",
    )
    assert "Class names" not in named("0", "1")
    assert "Does -1 stand for images without a label?" in named("-1", "0", "1")["Class names"][1]
    assert "Does nan stand for images without a label?" in named("a", "nan")["Class names"][1]
    assert "aaa...aaa" in named("a" * 10_000, "b")["Class names"][0]
    assert "Absent classes" in (found := named("a", "b", "c", labels=[0, 1, 0, 1] * 3))
    assert found["Absent classes"][0] == "No client holds class 2 (c)."


@pytest.mark.parametrize(
    "pair", [("Crack", "crack"), ("a b", "a_b"), ("ab", "a\u200bb"), ("\uff21", "A")]
)
def test_names_that_may_be_one_are_asked_about(pair):
    question = named(*pair, "fine")["Class names"][1]
    assert question == f"Do {pair[0]!r} and {pair[1]!r} name one class? Then write them alike."


def test_labels_that_may_be_ids_are_asked_about():
    images = noise(300, 2, 2, 1)
    assert "Class sizes" not in looked(images, [k % 50 for k in range(300)])
    statement, question = looked(images, [k % 120 for k in range(300)])["Class sizes"]
    assert statement == "120 classes have 2.5 training images on average."
    assert "ids of images?" in question


def test_classes_that_are_not_tested_are_remarked_on():
    images = noise(8, 3, 3, 1)
    assert "Untested classes" not in looked(images, HALVES, images, HALVES)
    assert looked(images, HALVES, images, [0] * 8)["Untested classes"][0] == (
        "No test image is of class 1: the accuracy leaves them out."
    )


def printed(found):
    text = io.StringIO()
    Console(file=text, width=100).print(survey.table(found))
    return text.getvalue()


def test_few_clients_are_shown_one_by_one_and_many_as_quantiles():
    few, _ = holding([[3, 1]] * 29 + [[0, 5]])
    lines = printed(few).splitlines()
    assert len(lines) == 2 + 30
    assert lines[-1].split() == ["29", "5", "1", "0.00", "100%"]
    many, _ = holding([[3, 1]] * 30 + [[0, 5]])
    lines = printed(many).splitlines()
    assert [line.rsplit(maxsplit=4)[0] for line in lines[2:]] == [
        "least",
        "a quarter below",
        "median",
        "a quarter above",
        "most",
    ]
    assert lines[-1].split() == ["most", "5", "2", "0.56", "100%"]


# The page.


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and whether they nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(tmp_path, counts, **words):
    found, dataset = holding(counts)
    listed = survey.remarks(found, dataset, batch_size=4, epochs=1)
    words = {"title": "Site survey", "setting": "So.", "command": "lipsjax survey"} | words
    survey.write_page(tmp_path / "survey.html", found, listed, **words)
    text = (tmp_path / "survey.html").read_text()
    page = Page(text)
    assert page.open == []
    return text, page


def test_the_page_needs_nothing_else_and_holds_all_numbers(tmp_path):
    text, page = page_of(tmp_path, SITES)
    assert not re.search(r"https?://|<script [^>]|<img|@import", text)  # nobody's images either
    assert "prefers-color-scheme: dark" in text
    cells = [attrs["style"] for tag, attrs in page.tags if "mix" in attrs.get("class", "")]
    assert len(cells) == 4 * 3
    assert cells[:4] == ["--s:100", "--s:0", "--s:0", "--s:50"]
    (link,) = (attrs["href"] for tag, attrs in page.tags if tag == "a")
    rows = list(csv.DictReader(io.StringIO(urllib.parse.unquote(link.split(",", 1)[1]))))
    assert [[int(row[f"class_{c}"]) for c in range(3)] for row in rows] == SITES
    assert (rows[1]["examples"], rows[1]["classes"], rows[1]["test_examples"]) == ("4", "2", "6")


def test_the_page_links_the_report_where_there_is_a_study(tmp_path):
    text, _ = page_of(tmp_path, SITES)
    assert "Nothing has been trained yet" in text
    assert "report.html" not in text
    text, page = page_of(tmp_path, SITES, report=True)
    assert "report.html" in [attrs.get("href") for _, attrs in page.tags]
    assert "Nothing has been trained yet" not in text


@pytest.mark.parametrize(
    ("clients", "classes", "drawn", "sentences"),
    [
        (3, 20, (3, 20), []),
        (61, 3, (60, 3), ["60 of 61 clients"]),
        (2, 101, (2, 100), ["The 100 commonest of 101 classes"]),
    ],
)
def test_pages_of_many_clients_and_classes(tmp_path, clients, classes, drawn, sentences):
    counts = np.ones((clients, classes), int)
    counts[:, 0] = 2
    text, page = page_of(tmp_path, counts)
    cells = [tag for tag, attrs in page.tags if "mix" in attrs.get("class", "")]
    assert len(cells) == drawn[0] * drawn[1]
    for sentence in sentences:
        assert sentence in text
    assert ("commonest of" in text) == (classes > 100)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pictures_are_of_some_clients(channels, dtype):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 5, 6, channels)).astype(dtype)
    images[0, 0, 0], images[1, 0, 0] = 0, 255
    examples = Examples(images, np.arange(40, dtype=np.int32) % 2)
    dataset = Dataset("set", examples, examples, 2)
    held = tuple(np.array([k]) for k in range(40))
    parts = partition.Partition(held, held, np.full((40, 2), 0.5))
    found = survey.pictures(clients.stack(dataset, parts, global_examples=None, rng=rng))
    assert len(found) == 8
    assert (min(found), max(found)) == (0, 39)
    content = base64.b64decode(found[39].split(",", 1)[1])
    shown = np.asarray(Image.open(io.BytesIO(content)))
    expected = images[39] if channels == 3 else images[39, ..., 0]
    np.testing.assert_array_equal(shown, expected.astype(np.uint8))


def test_columns_have_the_names_of_classes(tmp_path):
    text, page = page_of(tmp_path, SITES, names=("<i>", "fine", "a" * 99))
    assert "&lt;i&gt;</th>" in text
    assert "aaaa...aaaa</th>" in text
    (link,) = (attrs["href"] for tag, attrs in page.tags if tag == "a")
    rows = list(csv.DictReader(io.StringIO(urllib.parse.unquote(link.split(",", 1)[1]))))
    assert [int(row["class_fine"]) for row in rows] == [row[1] for row in SITES]


def test_the_darkest_shade_is_the_largest_share(tmp_path):
    text, page = page_of(tmp_path, [[1, 1, 2], [4, 3, 3]])
    cells = [attrs["style"] for tag, attrs in page.tags if "mix" in attrs.get("class", "")]
    assert cells == ["--s:50", "--s:50", "--s:100", "--s:80", "--s:60", "--s:60"]
    assert "50% of a client" in text


def test_names_are_escaped(tmp_path):
    text, _ = page_of(tmp_path, SITES, title="<b>mine & yours", command="a '<i>'")
    assert "&lt;b&gt;mine &amp; yours" in text
    assert "<i>'" not in text


def test_equal_surveys_give_equal_pages(tmp_path):
    assert page_of(tmp_path, SITES)[0] == page_of(tmp_path, SITES)[0]


# The command.


def surveyed(out, *argv):
    ended = commands.call("survey", *argv, "--out", str(out))
    assert ended.status == 0, ended.err
    return ended.out, json.loads((out / "survey.json").read_text())


def test_the_command_writes_a_page_and_all_numbers(tmp_path):
    out, found = surveyed(tmp_path, *SMALL, "--partition.sizes", "power", "--seed", "3")
    assert "Site survey: synthetic" in out
    assert (
        "4 clients with 12 training examples on average (power-law, skew 1) and 30 test examples "
        "each, class mixes drawn from Dirichlet(0.1); drawn with seed 3."
    ) in " ".join(out.split())
    assert found["survey"]["num_examples"] == np.sum(found["survey"]["train_counts"], 1).tolist()
    assert sum(found["survey"]["num_examples"]) == 48
    assert found["config"]["seed"] == 3
    assert found["fingerprint"] == datasets.fingerprint(datasets.synthetic())
    assert {remark["topic"] for remark in found["remarks"]} >= {"Examples", "Steps"}
    assert "Smallest site" in (tmp_path / "survey.html").read_text()


def test_a_survey_is_of_what_a_run_would_hold(tmp_path):
    options = {"kind": "shards", "classes": 3, "clients": 4, "train_examples": 12}
    config = Config(dataset="synthetic", partition=PartitionConfig(**options))
    setup = prepare(config, Execution(devices=1)).setup
    _, found = surveyed(tmp_path, *SMALL, "--partition.kind", "shards", "--partition.classes", "3")
    assert found["survey"] == json.loads(json.dumps(setup["survey"]))


def test_the_command_looks_at_ones_own_images(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 4, 16, 16), np.uint8)
    images[1::2] = images[::2]
    path = tmp_path / "mine.npz"
    np.savez(path, x=images, y=np.repeat([1, 2, 3], 20))
    sizes = ("--partition.train-examples", "10", "--partition.test-examples", "3")
    argv = ("--dataset", str(path), "--partition.clients", "4", *sizes)
    out, found = surveyed(tmp_path / "out", *argv)
    assert found["class_names"] == ["1", "2", "3"]
    assert found["images"]["shape"] == [4, 16, 16]
    assert found["images"]["across_split"] > 0
    assert found["images"]["repeated_train"] > 0
    topics = {remark["topic"] for remark in found["remarks"]}
    assert topics >= {"Pixels", "Layout", "Duplicates", "Class names"}
    said = " ".join(out.split())
    assert "4 x 16 pixels with 16 channels are an unlikely layout" in said
    assert "varies" not in said  # there is no grid
    assert "of 12 test images are in training too" in said
    assert "classes 0 (1), 1 (2), 2 (3)" in said


@pytest.mark.parametrize("features", ["noise", "rotation", "brightness"])
def test_features_are_told_and_shown(tmp_path, features):
    _, found = surveyed(tmp_path, *SMALL, "--partition.features", features)
    page = Page((tmp_path / "survey.html").read_text())
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 4
    assert all(image.startswith("data:image/png;base64,") for image in images)
    (images,) = (r["statement"] for r in found["remarks"] if r["topic"] == "Images")
    assert images.startswith("The images of each client")


def test_a_study_gives_defaults_and_its_grid_is_told(tmp_path):
    study = tmp_path / "study.toml"
    study.write_text(
        'seeds = 2\n[config]\ndataset = "synthetic"\n[config.partition]\nclients = 7\n'
        '[grid]\n"partition.alpha" = [0.1, 1.0]\n'
    )
    out, found = surveyed(tmp_path, str(study), "--partition.alpha", "1.0")
    assert len(found["survey"]["num_examples"]) == 7
    assert found["config"]["partition"]["alpha"] == 1.0
    assert "grid: partition.alpha varies" in out


@pytest.mark.whole
def test_no_jax_is_needed(tmp_path):
    code = (
        "import sys; from lipsjax.experiments import survey; "
        f"survey.main({[*SMALL, '--out', str(tmp_path)]}); print('jax' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "False"


def test_images_that_no_code_mentions(tmp_path):
    """Patches of the two photographs that come with scikit-learn, of four named classes."""
    from sklearn.datasets import load_sample_images

    photos = dict(zip(("temple", "flower"), load_sample_images().images, strict=True))
    images, labels = [], []
    for name, photo in photos.items():
        for half, rows in (("above", photo[:208]), ("below", photo[208:416])):
            patches = rows[:, :640].reshape(13, 16, 40, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)
            images.append(patches)
            labels += [f"{name} {half}"] * len(patches)
    np.savez(tmp_path / "photos.npz", images=np.concatenate(images), labels=np.array(labels))
    path = str(tmp_path / "photos.npz")
    out, found = surveyed(tmp_path, "--dataset", path, "--partition.clients", "30")
    assert "Site survey: photos" in out
    assert np.shape(found["survey"]["train_counts"]) == (30, 4)
    assert found["survey"]["num_examples"] == [30] * 30


BAD = {
    "size skew below 0": (
        ["--partition.sizes", "power", "--partition.size-skew", "-1"],
        "size skew is -1.0; allowed are 0..100",
    ),
    "size skew NaN": (
        ["--partition.sizes", "lognormal", "--partition.size-skew", "nan"],
        "partition.size_skew must be a finite number, not nan",
    ),
    "unknown sizes": (["--partition.sizes", "zipf"], "'zipf'"),
    "sizes that are given and drawn": (
        ["--partition.sizes", "power", "--partition.train-examples", "3", "4", "5", "6"],
        "partition.sizes='power' needs one number as partition.train_examples, their mean, not 4",
    ),
    "sizes that sum to too much": (
        ["--partition.sizes", "power", "--partition.train-examples", "201"],
        "train_sizes sum to 804, but synthetic has 800 training examples",
    ),
    "no classes": (
        ["--partition.kind", "shards", "--partition.classes", "0"],
        "classes of each client is 0; allowed are 1..4",
    ),
    "more classes than there are": (
        ["--partition.kind", "shards", "--partition.classes", "5"],
        "classes of each client is 5; allowed are 1..4, the classes of synthetic",
    ),
    "shards that overlap": (
        ["--partition.kind", "shards", "--partition.overlap", "True"],
        "partition.overlap needs partition.kind='dirichlet', not 'shards'",
    ),
    "unknown kind": (["--partition.kind", "zipf"], "'zipf'"),
    "feature skew above 1": (
        ["--partition.features", "noise", "--partition.feature-skew", "1.1"],
        "feature skew is 1.1; allowed are 0..1",
    ),
    "feature skew below 0": (
        ["--partition.features", "rotation", "--partition.feature-skew", "-0.1"],
        "feature skew is -0.1; allowed are 0..1",
    ),
    "unknown features": (["--partition.features", "blur"], "'blur'"),
    "an empty client": (
        ["--partition.train-examples", "3", "0", "5", "6"],
        "partition.train_examples must be at least 1, not 0",
    ),
    "a study that is not there": (["nowhere.toml"], "nowhere.toml: no such file"),
    "an option of a sweep": (["--seeds", "3"], "unknown option '--seeds'"),
    "misspelt option": (["--partition.sizez", "power"], "did you mean --partition.sizes"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_surveyed(tmp_path, case):
    argv, part = BAD[case]
    out = tmp_path / "out"
    first = [] if argv[0].startswith("-") else argv
    ended = commands.call("survey", *first, *SMALL, *(argv if not first else []), "--out", str(out))
    assert ended.status == 2, ended
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert part in ended.err
    assert not out.exists()
