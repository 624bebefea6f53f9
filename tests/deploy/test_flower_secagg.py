"""SecAgg+ is in Flower's older workflows alone; the mod works there, inside SecAgg+'s own."""

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Context, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import strategy as strategies

from lipsjax.deploy.flower.inprocess import InProcess
from lipsjax.deploy.flower.mod import RECORD, keep_gradient, lips
from lipsjax.deploy.flower.server import TransientSparsity

pytestmark = [pytest.mark.whole, pytest.mark.slow]

START = [np.linspace(-1, 1, 12).reshape(3, 4), np.ones(4)]
ROUNDS, EXAMPLES, CLIP = 3, 10, 4.0


class Moves(NumPyClient):
    """Moves its weights by a gradient of its own; keeps what it received."""

    def __init__(self, at, seen):
        self.at, self.seen = at, seen

    def fit(self, parameters, config):
        gradient = [np.cos(x + self.at.node_config["partition-id"]) for x in parameters]
        keep_gradient(self.at, {str(i): g for i, g in enumerate(gradient)})
        self.seen.append(parameters)
        return [x - 0.1 * g for x, g in zip(parameters, gradient, strict=True)], EXAMPLES, {}


def federate(mods, workflow):
    seen, kept = [], {}
    app = ClientApp(client_fn=lambda at: Moves(at, seen).to_client(), mods=mods)
    grid = InProcess(app, [{"partition-id": i} for i in range(3)], {})
    around = TransientSparsity(strategies.FedAvg(), masked=["0"], density=0.5, every=2)
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_available_clients=3,
        min_fit_clients=3,
        on_fit_config_fn=lambda turn: around.said(turn, ROUNDS),
        initial_parameters=ndarrays_to_parameters(START),
    )
    server = ServerApp()

    @server.main()
    def main(grid, context):
        config = ServerConfig(num_rounds=ROUNDS)
        legacy = LegacyContext(context, config=config, strategy=strategy)
        DefaultWorkflow(fit_workflow=workflow)(grid, legacy)
        kept["last"] = legacy.state.array_records

    server(grid, Context(1, 1, {}, RecordDict(), {}))
    (last,) = kept["last"].values()
    return [x.numpy() for x in last.values()], seen, grid


def test_sums_that_nobody_sees_the_terms_of_are_those_of_masked_rounds():
    secure, seen, grid = federate(
        [secaggplus_mod, lips],
        SecAggPlusWorkflow(
            3, 2, max_weight=EXAMPLES, clipping_range=CLIP, quantization_range=2**22
        ),
    )
    assert [int((received[0] == 0).sum()) for received in seen] == [0] * 3 + [6] * 3 + [0] * 3
    assert all(dict(at.state[RECORD])["masked"] == [2] for at in grid.contexts.values())
    plain, _, _ = federate([lips], None)
    for found, wanted in zip(secure, plain, strict=True):
        np.testing.assert_allclose(found, wanted, atol=ROUNDS * 2 * CLIP / 2**22)
