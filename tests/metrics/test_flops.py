"""FLOPs of a round's training against hand counts, and where a run records them."""

import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.worlds import world
from lipsjax import fedavg, models, simulation
from lipsjax.local import LocalTraining
from lipsjax.metrics import flops as program
from lipsjax.runs import costs, trial
from lipsjax.runs.config import Config, Execution, LocalConfig, ModelConfig, PartitionConfig
from lipsjax.runs.costs import training_flops
from lipsjax.runs.prepare import prepare

pytestmark = pytest.mark.slow  # others of the kind are in the default tests

EXAMPLES, EPOCHS, CLIENTS = 8, 3, 4  # whole batches of 4, equal clients


def simulate(model, shape, sizes=(EXAMPLES,) * CLIENTS, *, batch_size=4, devices=2, **options):
    data = world(list(sizes))
    train, test = (
        part._replace(inputs=np.zeros((len(part.inputs), *shape), np.float32))
        for part in (data.train, data.test)
    )
    return simulation.build(
        model,
        fedavg(),
        LocalTraining(optax.sgd(0.1), EPOCHS, batch_size),
        rounds=2,
        data=data._replace(train=train, test=test),
        mesh=simulation.client_mesh(devices),
        **options,
    )


def counted(name, shape, **options):
    model = models.build(name, num_classes=4, input_shape=shape, **options)
    return training_flops(simulate(model, shape))


def trained(layers):
    """FLOPs of a round: forward, gradient of weights, and of inputs for all but the stem."""
    return (3 * sum(layers) - layers[0]) * EXAMPLES * EPOCHS * CLIENTS


def convolution(side, kernel, channels, outputs, stride=1, *, skips_padding=False):
    """FLOPs of one image forward, square, padded so that stride 1 keeps its size.

    Products with padding count, as they are computed, except by ``conv="loop"`` where the kernel is
    larger than the image: that becomes one matrix from all pixels to all pixels.
    """
    out = -(-side // stride)
    pairs = out**2 * kernel**2
    if skips_padding and side**2 < kernel**2:
        pairs = out**2 * side**2
    return 2 * pairs * channels * outputs


@pytest.mark.parametrize("conv", ["loop", "patches", "grouped"])
def test_a_cnn(conv):
    expected = trained(
        [
            convolution(16, 3, 1, 6),
            convolution(8, 3, 6, 12),
            convolution(8, 3, 12, 12),
            convolution(4, 3, 12, 12),
            2 * 12 * 4,
        ]
    )
    assert counted("cnn", (16, 16, 1), width=6, conv=conv) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "conv", ["loop", pytest.param("patches", marks=pytest.mark.slow), "grouped"]
)
def test_resnet_8(conv):
    layers = [convolution(32, 7, 3, 64, stride=2)]
    layers += 2 * [convolution(8, 3, 64, 64)]
    for side, channels in ((8, 64), (4, 128)):
        layers += [
            convolution(side, 3, channels, 2 * channels, stride=2),
            # on 2 x 2 pixels in the last stage, whose loop skips 20 of 36 products
            convolution(side // 2, 3, 2 * channels, 2 * channels, skips_padding=conv == "loop"),
            convolution(side, 1, channels, 2 * channels, stride=2),
        ]
    expected = trained([*layers, 2 * 256 * 4])
    assert counted("resnet8", (32, 32, 3), conv=conv) == pytest.approx(expected, rel=0.02)


def test_an_mlp():
    expected = trained([2 * 64 * 5, 2 * 5 * 5, 2 * 5 * 5, 2 * 5 * 4])
    assert counted("mlp", (8, 8, 1), width=5, depth=2) == expected


@pytest.mark.parametrize("conv", ["loop", "patches", "grouped"])
def test_a_conv1d(conv):
    steps = {"stem": (16, 3, 6), "conv1": (8, 6, 12), "conv2": (8, 12, 12), "conv3": (4, 12, 12)}
    layers = [2 * 5 * count * channels * out for count, channels, out in steps.values()]
    # four steps are fewer than the kernel's five, so that the loop skips 6 of 20 products
    layers[-1] = layers[-1] * 16 // 20 if conv == "loop" else layers[-1]
    expected = trained([*layers, 2 * 12 * 4])
    assert counted("conv1d", (16, 3), width=6, conv=conv) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("shape", "inputs"), [((16, 3), 48), ((30,), 30)])
def test_an_mlp_of_series_and_features(shape, inputs):
    expected = trained([2 * inputs * 5, 2 * 5 * 5, 2 * 5 * 4])
    assert counted("mlp", shape, width=5, depth=1) == expected


def test_a_vit():
    tokens, width = 16, 8
    products = (4 + 4 + 4) * 2 * tokens * width**2  # query, key, value, out; two dense layers
    attention = 2 * 2 * tokens**2 * width  # scores and mixing, whose two sides have gradients
    expected = trained([2 * tokens * 4 * width, products, attention, 2 * width * 4])
    assert counted("vit", (8, 8, 1), width=width, depth=1) == expected


@pytest.fixture(scope="module")
def mlp():
    return models.build("mlp", num_classes=4, input_shape=(8, 8, 1), width=5, depth=1)


STEP = 3 * 2 * (64 * 5 + 5 * 5 + 5 * 4) - 2 * 64 * 5  # of one example


def test_nothing_but_training_counts(mlp):
    sim = simulate(mlp, (8, 8, 1), devices=1, new_clients=1, tune_epochs=2)
    assert training_flops(sim) == STEP * EXAMPLES * EPOCHS * (CLIENTS - 1)
    assert program.flops(sim.trace(1).jaxpr) > 5 / 3 * training_flops(sim)


@pytest.mark.parametrize(
    ("sizes", "options", "computed"),
    [
        ((8, 8, 8, 8), {"batch_size": 5}, 4 * 10),  # the second batch holds 3 and two of padding
        ((8, 2, 5, 8), {}, 4 * 8),  # short clients are padded to the longest
        ((8, 8, 8), {}, 3 * 8),  # the slot without a client of the second device does not count
        ((8, 8, 8), {"devices": 1}, 3 * 8),
        ((8, 8, 8, 8), {"cohort_size": 2}, 2 * 8),
    ],
)
def test_padding_counts_as_it_is_computed(mlp, sizes, options, computed):
    found = training_flops(simulate(mlp, (8, 8, 1), sizes, **options))
    assert found == STEP * EPOCHS * computed


def test_products_that_no_result_depends_on_do_not_count():
    x = jnp.ones((4, 4))

    def step(carry, _):
        kept, dropped = carry
        return (kept @ x, dropped @ x @ x), None

    def function(x):
        unread = x @ x
        kept, _ = jax.lax.scan(step, (x, unread), length=3)[0]
        return kept

    assert program.flops(jax.make_jaxpr(function)(x)) == 3 * 2 * 4**3


def config(seed=0):
    return Config(
        dataset="synthetic",
        seed=seed,
        partition=PartitionConfig(clients=2, train_examples=10),
        model=ModelConfig(name="mlp", width=3, depth=1),
        local=LocalConfig(epochs=2, batch_size=5),
    )


def test_seeds_share_one_count():
    with mock.patch.object(costs, "flops", wraps=program.flops) as count:
        first, second = (prepare(config(seed), Execution(devices=1)) for seed in (0, 1))
        assert count.call_count == 0  # preparing does not trace
        assert training_flops(first.simulation) == training_flops(second.simulation) > 0
        assert count.call_count == 1


def test_a_run_records_them(tmp_path):
    execution = Execution(out=str(tmp_path), devices=1)

    def run():
        return trial.run_trial(config(), execution, lambda progress: None, lambda line: None)

    with mock.patch.object(trial, "_train"):
        setup = json.loads((run() / "setup.json").read_text())
        with mock.patch.object(costs, "flops") as count:
            run()  # goes on, and does not count again
        assert count.call_count == 0
    stem, middle, classifier = (layer["size"] for layer in setup["layers"])
    step = 3 * 2 * (stem + middle + classifier) - 2 * stem
    assert setup["flops_per_round"] == step * 2 * 10 * 2  # clients, examples, epochs
