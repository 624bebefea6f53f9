"""Series and features in a run: what normalises them, and what is of images alone."""

import numpy as np
import pytest

from helpers import commands
from helpers.commands import call, nothing_left, refusal
from lipsjax import datasets, partition
from lipsjax.runs import prepare
from lipsjax.runs.config import Config, ModelConfig, PartitionConfig, source
from lipsjax.runs.data import share_out
from lipsjax.runs.sites import read, settle

RNG = np.random.default_rng(0)
SITES = np.repeat(["north", "south", "west"], [30, 20, 10])
LABELS = np.arange(60) % 2
INPUTS = {
    # another mean and deviation at each site, and a feature that never changes
    "features": RNG.normal(np.unique(SITES, return_inverse=True)[1][:, None], 1, (60, 3))
    * [1, 9, 0],
    "series": RNG.normal(np.unique(SITES, return_inverse=True)[1][:, None, None], 1, (60, 8, 2)),
}


@pytest.fixture(scope="module", params=["features", "series"])
def file(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / f"{request.param}.npz"
    np.savez(path, **{request.param: INPUTS[request.param], "labels": LABELS, "site": SITES})
    return str(path)


def normalisation(file, **options):
    """What `model.normalise` takes, the data, and who holds what of their training examples."""
    wanted = PartitionConfig(**{"kind": "natural"} | options)
    config = Config(dataset=file, partition=wanted, model=ModelConfig(name="mlp", normalise=True))
    config = settle(config, None)
    shared = share_out(config, read(*source(config), None)[0])
    return prepare._normalisation(config, shared), shared


def together(parts):
    """Mean and deviation that sites find who tell each other their own, weighted by examples."""
    axes = tuple(range(parts[0].ndim - 1))
    weights = [len(part) for part in parts]
    mean = np.average([part.mean(axes, np.float64) for part in parts], axis=0, weights=weights)
    square = np.average(
        [part.var(axes, np.float64) + (part.mean(axes, np.float64) - mean) ** 2 for part in parts],
        axis=0,
        weights=weights,
    )
    return mean, np.sqrt(square)


MADE_UP = {"clients": 4, "train_examples": 6, "test_examples": 2, "new_clients": 2}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hold_out_sites": ("south",)},
        {"pooled": True},
        {"kind": "iid"} | MADE_UP,
        {"kind": "dirichlet", "overlap": True} | MADE_UP,
        {"kind": "dirichlet", "pooled": True} | MADE_UP,
    ],
    ids=["natural", "held out", "pooled", "iid", "overlap", "pooled of made-up clients"],
)
def test_it_is_the_weighted_mean_of_what_clients_that_train_tell(file, options):
    found, shared = normalisation(file, **options)
    held = shared.partition.train
    new = shared.partition.train[len(held) - options.get("new_clients", 0) :]
    new = held[-1:] if "hold_out_sites" in options else new
    trained = held[: len(held) - len(new)] if len(new) < len(held) else held
    expected = together([shared.dataset.train.inputs[indices] for indices in trained])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_test_data_and_sites_that_are_held_out_do_not_enter(file):
    found, shared = normalisation(file, hold_out_sites=("south",))
    dataset = shared.dataset
    south = dataset.sites.names.index("south")
    train = dataset.train.inputs.copy()
    train[dataset.sites.train.site == south] += 1e3
    test = dataset.test.inputs + 1e3
    changed = dataset._replace(
        train=dataset.train._replace(inputs=train), test=dataset.test._replace(inputs=test)
    )
    config = settle(
        Config(
            dataset=file,
            partition=PartitionConfig(kind="natural", hold_out_sites=("south",)),
            model=ModelConfig(normalise=True),
        ),
        None,
    )
    assert prepare._normalisation(config, shared._replace(dataset=changed)) == found
    everyone = normalisation(file)[0]
    assert np.abs(np.subtract(everyone, found)).max() > 0.01


def test_a_feature_that_never_changes_has_deviation_0():
    assert datasets.channel_statistics(INPUTS["features"].astype(np.float32))[1][2] == 0


def test_images_in_made_up_clients_are_normalised_as_ever():
    config = Config(dataset="digits", model=ModelConfig(normalise=True))
    shared = share_out(config, read(*source(Config()), None)[0])
    expected = datasets.channel_statistics(read(*source(Config()), None)[0].train.inputs)
    assert prepare._normalisation(config, shared) == expected


@pytest.mark.parametrize("kind", ["noise", "rotation", "brightness"])
def test_clients_see_differently_in_images_alone(kind):
    dataset = datasets.synthetic(input_shape=(9, 2))
    rng = np.random.default_rng(0)
    held = partition.iid(dataset, train_sizes=[5, 3], test_sizes=[2, 2], rng=rng)
    with pytest.raises(ValueError) as excinfo:
        partition.distort(dataset, held, kind=kind, skew=0.5, rng=rng)
    assert str(excinfo.value) == (
        f"features is {kind!r}, which distorts images alone, and synthetic holds series; allowed "
        "is alike"
    )


SMALL = ("--partition.clients", "4", "--partition.train-examples", "9")
SMALL += ("--partition.test-examples", "3", "--dataset", "wine")
REFUSED = {
    "a cnn": ([], ["cnn does not take features, here of shape [13]; models that do are mlp"]),
    "a conv1d": (["--model.name", "conv1d"], ["conv1d does not take features"]),
    "flips": (
        ["--model.name", "mlp", "--local.augmentation", "flip"],
        ["augmentation flip is of images alone, and the data are features: leave it out"],
    ),
    "noise": (
        ["--model.name", "mlp", "--partition.features", "noise"],
        ["features is 'noise', which distorts images alone, and wine holds features"],
    ),
    "masks of convolutions": (
        ["--model.name", "mlp", "--lips"],
        ["nothing to mask", "kinds must name some of ['dense']"],
    ),
}


@pytest.mark.whole
@pytest.mark.parametrize("case", REFUSED)
def test_what_features_cannot_be_asked(tmp_path, case):
    argv, parts = REFUSED[case]
    refusal(commands.run(tmp_path, *SMALL, *argv), *parts)
    assert nothing_left(tmp_path)


@pytest.mark.whole
def test_a_series_is_no_picture(tmp_path):
    np.savez(tmp_path / "a.npz", series=INPUTS["series"], labels=LABELS)
    argv = ("--dataset", f"{tmp_path}/a.npz", *SMALL[:6])
    for name in ("cnn", "vgg5", "vit"):
        refusal(
            commands.run(tmp_path / "out", *argv, "--model.name", name),
            f"{name} does not take series, here of shape [8, 2]; models that do are mlp, conv1d",
        )
    assert nothing_left(tmp_path / "out")


@pytest.mark.whole
def test_the_survey_says_what_the_inputs_are(file, tmp_path):
    out = tmp_path / "out"
    ended = call("survey", "--dataset", file, "--partition.kind", "natural", "--out", str(out))
    assert ended.status == 0, ended
    words = {"features": "Rows of 3 features", "series": "Series of 8 steps, 2 channels"}
    assert next(text for kind, text in words.items() if kind in file) in ended.out
    assert "the same to the bit" in " ".join(ended.out.split())
    assert "Layout" not in ended.out
    assert "image" not in ended.out


@pytest.mark.whole
@pytest.mark.parametrize(
    ("kind", "name"),
    [("features", "mlp"), ("series", "conv1d")],
)
@pytest.mark.slow
def test_a_run_of_sites(tmp_path, kind, name):
    file = str(tmp_path / "mine.npz")
    np.savez(file, **{kind: INPUTS[kind], "labels": LABELS, "site": SITES})
    argv = ("--dataset", file, "--partition.kind", "natural", "--model.name", name)
    argv += ("--model.width", "4", "--model.depth", "1", "--model.normalise", "True")
    kinds = ("--sparsity.kinds", "dense") if name == "mlp" else ()
    lips = ("--lips", *kinds, "--rounds", "2")
    ended = call("run", *argv, *lips, "--out", str(tmp_path / "out"))
    assert ended.status == 0, ended
