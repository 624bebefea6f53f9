"""The three workloads of the benchmarks: random images, a network, local training.

Speed does not depend on what the images show, so they are random; weights and batches are real
enough for two implementations to be compared number by number.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax import clients, models, simulation, tree
from lipsjax.clients import ClientData
from lipsjax.datasets import Dataset, Examples
from lipsjax.local import LocalTraining
from lipsjax.models.convolution import CONVOLUTIONS
from lipsjax.models.layers import Dense
from lipsjax.models.pooling import max_pool
from lipsjax.partition import Partition
from lipsjax.simulation import Simulation
from lipsjax.strategies import Strategy, fedavg
from lipsjax.types import Layer, Model

CLASSES = 10
TEST_EXAMPLES = 1  # of each client; nothing is evaluated here

Shape = tuple[int, int, int]


class Workload(NamedTuple):
    """A federated setting whose rounds are timed."""

    name: str
    clients: int
    cohort: int
    examples: int  # of each client
    image_shape: Shape
    model: Callable[..., Model]  # (image shape, convolution's name, type) -> model
    parameters: int
    learning_rate: float
    momentum: float
    epochs: int
    batch_size: int
    flops: tuple[int, int]  # of one image forward, counted by hand: all layers, the first one

    @property
    def steps(self) -> int:
        """Local steps of a client and round."""
        return self.epochs * -(-self.examples // self.batch_size)

    @property
    def round_flops(self) -> float:
        """FLOPs of a round's training: forward and both gradients, but for the images'."""
        total, first = self.flops
        return (3 * total - first) * self.cohort * self.examples * self.epochs


class WideCNN(nn.Module):
    """W1's network: two valid 3x3 convolutions, a 2x2 max-pool, two dense layers."""

    conv: str = "loop"
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, mask, train):
        """Return logits [B, 10]."""
        del mask, train
        for name, features in (("conv1", 32), ("conv2", 64)):
            x = nn.relu(_conv3x3(self, features, "VALID", name)(x))
        x = max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        x = nn.relu(Dense(128, param_dtype=self.param_dtype, name="dense1")(x))
        return Dense(CLASSES, param_dtype=self.param_dtype, name="dense2")(x)

    def layers(self) -> tuple[Layer, ...]:
        """Declare the layers in order."""
        return (
            Layer("conv1", "stem", "conv", ("conv1", "kernel")),
            Layer("conv2", "middle", "conv", ("conv2", "kernel")),
            Layer("dense1", "middle", "dense", ("dense1", "kernel")),
            Layer("dense2", "classifier", "dense", ("dense2", "kernel")),
        )


class SmallCNN(nn.Module):
    """W3's network: three same-padded 3x3 convolutions, a 2x2 max-pool, a global average pool."""

    conv: str = "loop"
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, mask, train):
        """Return logits [B, 10]."""
        del mask, train
        for name, features in (("conv1", 16), ("conv2", 32), ("conv3", 32)):
            x = nn.relu(_conv3x3(self, features, "SAME", name)(x))
            if name == "conv2":
                x = max_pool(x, (2, 2), (2, 2))
        return Dense(CLASSES, param_dtype=self.param_dtype, name="dense")(x.mean((1, 2)))

    def layers(self) -> tuple[Layer, ...]:
        """Declare the layers in order."""
        return (
            Layer("conv1", "stem", "conv", ("conv1", "kernel")),
            Layer("conv2", "middle", "conv", ("conv2", "kernel")),
            Layer("conv3", "middle", "conv", ("conv3", "kernel")),
            Layer("dense", "classifier", "dense", ("dense", "kernel")),
        )


def _conv3x3(network, features: int, padding: str, name: str) -> nn.Conv:
    return nn.Conv(
        features,
        (3, 3),
        padding=padding,
        conv_general_dilated=CONVOLUTIONS[network.conv],
        param_dtype=network.param_dtype,
        name=name,
    )


def _wide_cnn(image_shape: Shape, conv: str, dtype: Any) -> Model:
    return models.from_flax(WideCNN(conv, dtype), image_shape)


def _small_cnn(image_shape: Shape, conv: str, dtype: Any) -> Model:
    return models.from_flax(SmallCNN(conv, dtype), image_shape)


def resnet8(
    image_shape: Shape, conv: str, dtype: Any, arithmetic: str = "float32", norm: str = "batch"
) -> Model:
    """Return W2's network, whose layers compute in some type."""
    return models.build(
        "resnet8",
        num_classes=CLASSES,
        norm=norm,
        input_shape=image_shape,
        conv=conv,
        param_dtype=dtype,
        dtype=arithmetic,
    )


WORKLOADS = {
    "w1": Workload(
        name="w1",
        clients=1000,
        cohort=50,
        examples=50,
        image_shape=(32, 32, 3),
        model=_wide_cnn,
        parameters=1_626_442,
        learning_rate=0.1,
        momentum=0.0,
        epochs=1,
        batch_size=10,
        flops=(33_670_400, 1_555_200),
    ),
    "w2": Workload(
        name="w2",
        clients=20,
        cohort=20,
        examples=100,
        image_shape=(32, 32, 3),
        model=resnet8,
        parameters=1_235_274,
        learning_rate=0.1,
        momentum=0.9,
        epochs=5,
        batch_size=100,
        flops=(28_939_264, 4_816_896),
    ),
    "w3": Workload(
        name="w3",
        clients=100,
        cohort=100,
        examples=20,
        image_shape=(8, 8, 1),
        model=_small_cnn,
        parameters=14_378,
        learning_rate=0.05,
        momentum=0.9,
        epochs=5,
        batch_size=10,
        flops=(903_808, 18_432),
    ),
}
"""W1: many clients, few at a time; W2: all of a few, full batch; W3: overhead is everything."""


def make_data(workload: Workload, seed: int = 0) -> ClientData:
    """Draw every client's images and labels."""
    rng = np.random.default_rng(seed)
    train = workload.clients * workload.examples
    test = workload.clients * TEST_EXAMPLES
    dataset = Dataset(
        workload.name, _draw(rng, train, workload), _draw(rng, test, workload), CLASSES
    )
    held = Partition(
        train=tuple(np.arange(train).reshape(workload.clients, -1)),
        test=tuple(np.arange(test).reshape(workload.clients, -1)),
        requested=np.full((workload.clients, CLASSES), 1 / CLASSES),
    )
    return clients.stack(dataset, held, global_examples=None, rng=rng)


def _draw(rng: np.random.Generator, count: int, workload: Workload) -> Examples:
    images = rng.integers(0, 256, (count, *workload.image_shape), np.uint8)
    return Examples(images, rng.integers(0, CLASSES, count, np.int32))


def make_training(workload: Workload) -> LocalTraining:
    """Return SGD as the workload has it."""
    optimizer = optax.sgd(workload.learning_rate, workload.momentum or None)
    return LocalTraining(optimizer, workload.epochs, workload.batch_size)


def make_simulation(
    workload: Workload,
    data: ClientData,
    *,
    wrap: Callable[[Strategy], Strategy] = lambda strategy: strategy,
    rounds: int = 4,
    devices: int | None = None,
    chunk: int = 1,
    conv: str = "loop",
    dtype: Any = jnp.float32,
) -> Simulation:
    """Build rounds of training alone: nothing is evaluated or measured.

    Args:
      workload: one of ``WORKLOADS``.
      data: from :func:`make_data`.
      wrap: makes the strategy from federated averaging.
      rounds: T.
      devices: how many; None: all.
      chunk: clients trained at once on each device, as one vmap.
      conv: convolution lowering.
      dtype: type of parameters and arithmetic.

    Returns:
      The simulation.
    """
    model = workload.model(workload.image_shape, conv, dtype)
    size = tree.size(jax.eval_shape(model.init, jax.random.key(0)).params)
    assert size == workload.parameters, f"{workload.name} has {size} parameters"
    return simulation.build(
        model,
        wrap(fedavg()),
        make_training(workload),
        rounds=rounds,
        data=data,
        cohort_size=workload.cohort,
        evaluate_every=0,
        mesh=simulation.client_mesh(devices),
        chunk=chunk,
    )
