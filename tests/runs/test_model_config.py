"""Models as a config has them: what reaches the network, and what is refused in one line."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from helpers import commands
from helpers.commands import nothing_left, refusal
from helpers.fake_study import write_study
from lipsjax import datasets, tree
from lipsjax.recording import read_study
from lipsjax.report.setting import describe_setting
from lipsjax.runs.config import Config, Execution, ModelConfig, PartitionConfig
from lipsjax.runs.prepare import prepare


def prepared(dataset="synthetic", **options):
    config = Config(
        dataset=dataset,
        partition=PartitionConfig(clients=2, train_examples=5, test_examples=5),
        model=ModelConfig(**options),
    )
    return prepare(config, Execution(devices=1)).simulation.spec.model


def test_width_and_depth_reach_the_network():
    model = prepared(name="mlp", width=5, depth=2)
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    shapes = [kernel.shape for kernel in tree.kernels(params, model.layers)]
    assert shapes == [(64, 5), (5, 5), (5, 5), (5, 4)]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalise_is_over_the_whole_training_split(tmp_path, dtype):
    """What the network of a run is given: moved in the data, or of bytes in the program."""
    rng = np.random.default_rng(0)
    images = (rng.normal(99, 9, (60, 5, 4, 3)) * [1, 2, 0] + [0, 9, 7]).astype(dtype)
    labels = np.arange(60) % 3
    path = tmp_path / "own.npz"
    parts = {"x_train": images[:40], "y_train": labels[:40]}
    np.savez(path, **parts, x_test=images[40:], y_test=labels[40:])
    config = Config(
        dataset=str(path),
        partition=PartitionConfig(clients=2, train_examples=5, test_examples=5),
        model=ModelConfig(name="mlp", width=3, depth=1, normalise=True),
    )
    run = prepare(config, Execution(devices=1))
    model, mask = run.simulation.spec.model, np.ones(20, bool)
    variables = model.init(jax.random.key(0))

    moved = images[40:] - images[:40].mean((0, 1, 2), np.float64)
    by_hand = moved / np.array([*images[:40].std((0, 1, 2), np.float64)[:2], 1.0])
    plain = prepare(replace(config, model=replace(config.model, normalise=False)), Execution())
    logits = [
        model.apply(variables, x, mask=mask, train=False).logits
        for model, x in (
            (model, run.data.test.inputs),
            (plain.simulation.spec.model, by_hand.astype(np.float32)),
        )
    ]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)
    again = prepare(replace(config, seed=1), Execution(devices=1))
    assert again.simulation is run.simulation  # and so its compiled program


def test_seeds_share_a_program_whatever_their_clients_are_normalised_by():
    config = Config(
        dataset="wine",
        partition=PartitionConfig(clients=4, train_examples=9, test_examples=3),
        model=ModelConfig(name="mlp", width=3, depth=1, normalise=True),
    )
    first, second = (prepare(replace(config, seed=s), Execution(devices=1)) for s in (0, 1))
    assert first.simulation is second.simulation
    for run in (first, second):
        held = run.data.train.inputs
        np.testing.assert_allclose(held.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(held.std(0), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_statistics_of_channels(dtype):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2500, 3, 2, 2)).astype(np.uint8)  # more than one block
    images[..., 1] = 77
    if dtype == np.float32:
        images = images.astype(dtype) / 1000 + np.float32(1e3)
    mean, deviation = datasets.channel_statistics(images)
    pixels = images.reshape(-1, 2).astype(np.float64) / (255 if dtype == np.uint8 else 1)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(deviation[0], pixels[:, 0].std(), rtol=1e-9)
    assert deviation[1] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "cnn, 1,000 parameters, batch normalisation "),
        ({"name": "vit"}, "vit, 1,000 parameters, layer normalisation "),
        ({"normalise": True}, "cnn of inputs with mean 0 and deviation 1, 1,000 parameters, batch"),
    ],
)
def test_models_in_words(tmp_path, options, words):
    write_study(tmp_path, seeds=1, rounds=2)
    recording = read_study(tmp_path).trials[0].recording
    recording.config["model"] |= options
    recording.setup["num_params"] = 1000
    assert dict(describe_setting(recording))["Model"].startswith(words)


REFUSED = {
    "mlp without middle layers": (
        ["--model.name", "mlp", "--model.depth", "0"],
        ["depth must be at least 1, not 0"],
    ),
    "mlp with groups": (
        ["--model.name", "mlp", "--model.norm", "group"],
        ["norm of mlp must be one of batch, none, not 'group'"],
    ),
    "vit without a norm": (
        ["--model.name", "vit", "--model.width", "8", "--model.norm", "none"],
        ["norm of vit must be one of batch, group, not 'none'"],
    ),
    "vit narrower than its heads": (
        ["--model.name", "vit", "--model.width", "6"],
        ["width of vit must be a multiple of its 4 heads, not 6"],
    ),
    "masks of convolutions that an mlp has not": (
        ["--model.name", "mlp", "--lips", "--sparsity.kinds", "conv"],
        ["nothing to mask", "['conv']", "kinds must name some of ['dense']"],
    ),
    "masks of convolutions that a vit has not": (
        ["--model.name", "vit", "--model.width", "8", "--lips", "--sparsity.kinds", "conv"],
        ["nothing to mask", "['conv']", "kinds must name some of ['dense']"],
    ),
    "masks of dense layers that a vgg5 has not": (
        ["--model.name", "vgg5", "--lips", "--sparsity.kinds", "dense"],
        ["nothing to mask", "['dense']", "kinds must name some of ['conv']"],
    ),
    "local norm of an mlp without": (
        ["--model.name", "mlp", "--model.norm", "none", "--strategy.norm", "local"],
        ["strategy.norm='local'", "'none'"],
    ),
    "neither true nor false": (
        ["--model.normalise", "maybe"],
        ["must be true or false, not 'maybe'"],
    ),
    "depth that is no integer": (
        ["--model.depth", "2.5"],
        ["--model.depth must be an integer, not '2.5'"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    argv, parts = REFUSED[case]
    refusal(commands.run(tmp_path, *argv), *parts)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("name", ["vgg5", "resnet18"])
def test_images_that_are_too_small(tmp_path, name):
    images, labels = np.zeros((40, 3, 9, 1), np.uint8), np.arange(40) % 2
    path = tmp_path / "own.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    out = tmp_path / "out"
    ended = commands.run(
        out,
        *("--dataset", str(path), "--model.name", name),
        *("--partition.train-examples", "5", "--partition.test-examples", "5"),
    )
    refusal(ended, f"images must be at least 4 x 4 for {name}, not 3 x 9")
    assert nothing_left(out)
