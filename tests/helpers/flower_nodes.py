"""The simulator and Flower on the same three nodes: the same examples, batches and start.

Clients of JAX train by the simulator's own ``local.train`` with the simulator's own keys, so what
is left to differ is what Flower does: masks, broadcast, average.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from helpers.worlds import tiny_model, world
from lipsjax import fedavg, simulation, transient_sparsity, tree
from lipsjax.deploy.flower.inprocess import InProcess
from lipsjax.deploy.flower.mod import GRADIENT, keep_gradient, lips
from lipsjax.deploy.flower.server import TransientSparsity
from lipsjax.keys import Purpose, derive
from lipsjax.local import LocalTraining, model_loss, train
from lipsjax.sparsity.masking import maskable

SIZES, DENSITY, EVERY = [9, 5, 7], 0.4, 2
KEY = jax.random.key(1)


class World:
    """Three nodes, and the simulation that they are compared with."""

    def __init__(self, rounds, *, sparse=True, model=None):
        self.rounds = rounds
        self.model = tiny_model() if model is None else model
        self.data = world(SIZES)
        self.training = LocalTraining(optax.sgd(0.1, momentum=0.9), epochs=2, batch_size=4)
        method = fedavg()
        if sparse:
            method = transient_sparsity(method, density=DENSITY, every=EVERY)
        self.simulation = simulation.build(
            self.model,
            method,
            self.training,
            rounds=rounds,
            data=self.data,
            mesh=simulation.client_mesh(1),
        )
        self.masked = maskable(self.model.layers, None)
        self.names = ["params/" + "/".join(layer.path) for layer in self.masked]
        self.placed = self.simulation.place(self.data)
        self.held = jax.tree.map(jnp.asarray, self.data)  # as a node has it: without a mesh
        self.train = jax.jit(self._train)

    def _train(self, key, variables, node):
        return train(
            key,
            variables,
            self.held.train,
            self.held.train_index[node],
            self.held.train_mask[node],
            training=self.training,
            loss_fn=model_loss(self.model),
            layers=self.model.layers,
            ragged=self.simulation.spec.ragged,
            gradient_layers=self.masked,
        )

    def start(self):
        return self.simulation.init(KEY)

    def simulated(self):
        """Yield the simulator's state before every round and after the last."""
        state = self.start()
        for _ in range(self.rounds):
            yield self.simulation.to_host(state)
            state, _ = self.simulation.run(state, self.placed, 1)
        yield self.simulation.to_host(state)


def arrays_of(variables):
    """Arrays by path, in the order of the tree."""
    leaves = tree.pick(variables, lambda path: True)
    return ArrayRecord({name: Array(np.asarray(x)) for name, x in leaves.items()})


def variables_of(record, like):
    return tree.put(like, {name: jnp.asarray(x.numpy()) for name, x in record.items()})


def jax_client(made, seen, hand_over=True):
    """A client that trains as the simulator does; what it receives goes to ``seen``."""
    app = ClientApp(mods=[lips])
    like = made.simulation.init(KEY).global_model

    @app.train()
    def _(message, context):
        node, turn = context.node_config["partition-id"], message.content["config"]["server-round"]
        seen.append((turn, node, message.content["arrays"]))
        received = variables_of(message.content["arrays"], like)
        result = made.train(derive(KEY, turn - 1, node, Purpose.BATCHES), received, node)
        if hand_over:
            keep_gradient(context, dict(zip(made.names, result.last_gradient, strict=True)))
        metrics = MetricRecord({"num-examples": SIZES[node]})
        content = RecordDict({"arrays": arrays_of(result.variables), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


class Stepwise(TransientSparsity):
    """Keeps the model that each round begins with, and the gradients that nodes then have."""

    def configure_train(self, server_round, arrays, config, grid):
        kept = {n: c.state.get(GRADIENT) for n, c in enumerate(grid.contexts.values())}
        self.begun.append((arrays, {n: g and dict(g) for n, g in kept.items()}))
        return super().configure_train(server_round, arrays, config, grid)


def federate(made, app, *, sparse=True, around=FedAvg, start=None, names=None, **options):
    """Run all rounds in Flower; return the model each began with, the last, and the grid.

    Start and names are of another layout than the simulator's.
    """
    grid = InProcess(app, [{"partition-id": i, "num-partitions": 3} for i in range(3)], {})
    strategy = Stepwise(
        around(fraction_evaluate=0.0, min_available_nodes=3),
        masked=made.names if names is None else names,
        density=DENSITY if sparse else 1.0,
        every=EVERY,
        **options,
    )
    strategy.begun = []
    start = arrays_of(made.start().global_model) if start is None else start
    result = strategy.start(grid, start, made.rounds)
    return strategy.begun, result.arrays, grid
