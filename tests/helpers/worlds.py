"""Small federated worlds that tests share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax import clients, datasets, models, partition, simulation
from lipsjax.local import LocalTraining
from lipsjax.models.convolution import CONVOLUTIONS
from lipsjax.models.layers import Norm
from lipsjax.types import Layer


class TinyNet(nn.Module):
    """A stem, two middle convolutions, a middle dense layer, a classifier; names out of order."""

    conv: str = "loop"
    norm: str = "batch"
    dtype: type = jnp.float64

    @nn.compact
    def __call__(self, x, *, mask, train):
        convolve = CONVOLUTIONS[self.conv]
        for name, width in (("stem", 3), ("conv_b", 4), ("conv_a", 4)):
            x = nn.Conv(
                width,
                (3, 3),
                use_bias=name == "conv_b",
                conv_general_dilated=convolve,
                param_dtype=self.dtype,
                name=name,
            )(x)
            x = nn.relu(Norm(self.norm, self.dtype, name=f"norm_{name}")(x, mask=mask, train=train))
        x = x.mean(axis=(1, 2))
        x = nn.relu(nn.Dense(6, param_dtype=self.dtype, name="hidden")(x))
        self.sow("intermediates", "features", x)
        return nn.Dense(4, param_dtype=self.dtype, name="classifier")(x)

    @property
    def param_dtype(self):
        return self.dtype

    def layers(self):
        return (
            Layer("stem", "stem", "conv", ("stem", "kernel")),
            Layer("conv_b", "middle", "conv", ("conv_b", "kernel")),
            Layer("conv_a", "middle", "conv", ("conv_a", "kernel")),
            Layer("hidden", "middle", "dense", ("hidden", "kernel")),
            Layer("classifier", "classifier", "dense", ("classifier", "kernel")),
        )


SHAPE = (5, 5, 1)


def tiny_model(**options):
    return models.from_flax(TinyNet(**options), SHAPE)


def world(sizes, *, test=6, seed=0, alpha=0.5, global_examples=12, **share):
    """Clients with these numbers of examples of a synthetic set of 4 classes."""
    rng = np.random.default_rng(seed)
    sizes = np.asarray(sizes)
    dataset = datasets.synthetic(4, SHAPE, 200, 60, seed)
    parts = partition.dirichlet(
        dataset, alpha=alpha, train_sizes=sizes, test_sizes=np.full(len(sizes), test), rng=rng
    )
    return clients.stack(dataset, parts, global_examples=global_examples, rng=rng, **share)


def simulate(
    model, strategy, data, *, rounds, devices=1, seed=1, total=None, stops=False, **options
):
    """Run a simulation; return the final state (host), metrics as NumPy, and the simulation.

    With stops it runs round by round, twice: with its state on the host after every round it gives
    the same bits.
    """
    training = options.pop("training", LocalTraining(optax.sgd(0.1, momentum=0.9), 2, 4))
    sim = simulation.build(
        model,
        strategy,
        training,
        rounds=total or rounds,
        data=data,
        mesh=simulation.client_mesh(devices),
        **options,
    )
    key, placed = jax.random.key(seed), sim.place(data)
    if not stops:
        state, metrics = sim.run(sim.init(key), placed, rounds)
        return sim.to_host(state), jax.tree.map(np.asarray, metrics), sim
    ends = []
    for on_host in (False, True):
        state, each = sim.init(key), []
        for _ in range(rounds):
            if on_host:
                state = sim.from_host(sim.to_host(state))
            state, metrics = sim.run(state, placed, 1)
            each.append(jax.tree.map(np.asarray, metrics))
        together = jax.tree.map(lambda *rows: np.concatenate(rows), *each)
        ends.append((sim.to_host(state), together))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    return *ends[0], sim


def round_by_round(model, strategy, data, *, rounds, total, seed=1, **options):
    """Run by a program of one round; return the state (host) before each and at the end.

    Besides, metrics as NumPy and the simulation, as :func:`simulate` does.
    """
    training = options.pop("training", LocalTraining(optax.sgd(0.1, momentum=0.9), 2, 4))
    mesh = simulation.client_mesh(1)
    sim = simulation.build(model, strategy, training, rounds=total, data=data, mesh=mesh, **options)
    state, placed, each = sim.init(jax.random.key(seed)), sim.place(data), []
    hosts = [sim.to_host(state)]
    for _ in range(rounds):
        state, metrics = sim.run(state, placed, 1)
        hosts.append(sim.to_host(state))
        each.append(jax.tree.map(np.asarray, metrics))
    return hosts, jax.tree.map(lambda *rows: np.concatenate(rows), *each), sim


def assert_close(a, b, tolerance=1e-9):
    """Every leaf agrees to an absolute and relative tolerance; NaN equals NaN."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance, equal_nan=True
        ),
        a,
        b,
    )
