"""The app's clients of PyTorch against the simulator, on the simulator's batches."""

import importlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flwr")
torch = pytest.importorskip("torch")

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from helpers import flower_nodes
from helpers.flower_nodes import DENSITY, KEY
from helpers.worlds import SHAPE
from lipsjax import models
from lipsjax.deploy.flower import app
from lipsjax.deploy.flower.masks import mask_of_torch
from lipsjax.deploy.flower.mod import keep_gradient, lips
from lipsjax.keys import Purpose, derive
from lipsjax.local import batch_order
from lipsjax.models import weights

pytestmark = [pytest.mark.whole, pytest.mark.slow]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """The app's own model and training, imported from an app's folder."""
    folder = tmp_path_factory.mktemp("app")
    app._write_code(folder, "torch")
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("lips_app.task")
    finally:
        sys.path.remove(str(folder))
        for name in [n for n in sys.modules if n.partition(".")[0] == "lips_app"]:
            del sys.modules[name]


class Twins:
    """A model of both frameworks, three nodes, and what the app's run config says of them."""

    def __init__(self, name, norm, *, rounds, sparse, dtype, optimizer="sgd"):
        built = models.build(
            name, num_classes=4, input_shape=SHAPE, width=3, depth=2, norm=norm, param_dtype=dtype
        )
        self.made = flower_nodes.World(rounds, sparse=sparse, model=built)
        self.names, self.flattened = weights.conventions(name, SHAPE)
        ours = weights.to_arrays(self.made.start().global_model)
        self.called = dict(zip(ours, self.torch_of(self.made.start().global_model), strict=True))
        self.config = {
            **{"model": name, "width": 3, "depth": 2, "norm": norm, "classes": 4},
            **{"input-shape": json.dumps(list(SHAPE)), "num-server-rounds": rounds},
            **{"learning-rate": 0.1, "rate-schedule": "constant", "weight-decay": 0.0},
            **{"optimizer": optimizer, "optimizer-options": '{"momentum": 0.9}'},
        }

    def torch_of(self, variables):
        return weights.to_arrays(
            variables, layout="torch", names=self.names, flattened=self.flattened
        )

    def flax_of(self, arrays):
        like = self.made.start().global_model
        file = weights.Weights({n: x.numpy() for n, x in arrays.items()}, "received")
        return weights.from_arrays(file, like, names=self.names, flattened=self.flattened)


def torch_client(twins, task, seen, monkeypatch):
    made, client = twins.made, ClientApp(mods=[lips])

    def batches(site, config):
        key = derive(KEY, config["server-round"] - 1, site.number, Purpose.BATCHES)
        order, real = batch_order(key, made.held.train_mask[site.number], epochs=2, batch_size=4)
        return [np.asarray(o)[r] for o, r in zip(order, np.asarray(real), strict=True) if r.any()]

    monkeypatch.setattr(task, "batches", batches)

    @client.train()
    def _(message, context):
        node, data = context.node_config["partition-id"], made.data
        rows = data.train_index[node][data.train_mask[node]]
        site = task.Site(node, data.train.inputs[rows], data.train.labels[rows], None, None)
        seen.append((message.content["config"]["server-round"], node, message.content["arrays"]))
        received = {n: x.numpy() for n, x in message.content["arrays"].items()}
        trained = task.train(received, site, {**twins.config, **message.content["config"]})
        keep_gradient(context, trained.gradient)
        arrays = ArrayRecord({n: Array(x) for n, x in trained.arrays.items()})
        metrics = MetricRecord({"num-examples": len(rows)})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return client


def compare(twins, task, monkeypatch, *, sparse, tolerance, rounds=None):
    """Run both; hold the first rounds together, and count mask bits that differ, of how many."""
    made, seen = twins.made, []
    start = ArrayRecord({n: Array(x) for n, x in twins.torch_of(made.start().global_model).items()})
    names = [twins.called[name] for name in made.names]
    client = torch_client(twins, task, seen, monkeypatch)
    begun, last, _ = flower_nodes.federate(
        made, client, sparse=sparse, start=start, names=names, torch_layout=True
    )
    simulated, differ, bits = list(made.simulated()), 0, 0
    for (model, _), state in [*zip([*begun, (last, {})], simulated, strict=True)][
        : rounds and rounds + 1
    ]:
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, **tolerance),
            twins.flax_of(model),
            state["global_model"],
        )
    for turn, node, arrays in seen:
        state, (model, gradients) = simulated[turn - 1], begun[turn - 1]
        if not state["sparse"]:
            continue
        density = DENSITY + (1 - DENSITY) * (turn - 2) / made.rounds
        for name, packed in zip(names, state["packed_masks"], strict=True):
            weight, gradient = model[name].numpy(), gradients[node][name].numpy()
            keep = mask_of_torch(weight, gradient, density)
            assert np.array_equal(arrays[name].numpy(), np.where(keep, weight, 0))
            ours = np.moveaxis(keep, (0, 1), (-1, -2)).ravel()
            differ += int((ours != np.unpackbits(packed[node], count=ours.size)).sum())
            bits += ours.size
    return differ, bits


CASES = [("mlp", "none"), ("mlp", "batch"), ("cnn", "batch"), ("cnn", "group")]


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "lips"])
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_float64_rounds_are_the_simulators(name, norm, sparse, task, monkeypatch):
    """Ten rounds to 1e-9, and no bit of a mask differs."""
    twins = Twins(name, norm, rounds=10, sparse=sparse, dtype=jnp.float64)
    tolerance = {"rtol": 1e-9, "atol": 1e-9}
    differ, bits = compare(twins, task, monkeypatch, sparse=sparse, tolerance=tolerance)
    print(f"{name} {norm}: {differ} of {bits} mask bits differ")
    assert differ == 0
    assert (bits > 0) == sparse


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_float32_round_is_the_simulators(name, norm, task, monkeypatch):
    """One round that begins whole, and the mask that follows it: bits that differ are counted."""
    twins = Twins(name, norm, rounds=2, sparse=True, dtype=jnp.float32)
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    differ, bits = compare(twins, task, monkeypatch, sparse=True, tolerance=tolerance, rounds=1)
    print(f"{name} {norm}: {differ} of {bits} mask bits differ in float32")
    assert differ <= 0.01 * bits
