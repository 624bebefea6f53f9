"""Every server strategy of the installed flwr, with the mod: the table of docs/howto/flower.md."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import strategy as strategies

from lipsjax.deploy.flower.inprocess import InProcess
from lipsjax.deploy.flower.mod import RECORD, keep_gradient, lips
from lipsjax.deploy.flower.server import TransientSparsity

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "flower.md"
ROWS = dict(re.findall(r"^\| `(\w+)` \| (yes|no)\b", PAGE.read_text(), re.MULTILINE))
NO_STRATEGIES = {"Result", "Strategy"}
START = {"a": np.linspace(-1, 1, 12).reshape(3, 4), "b": np.ones(4)}
ROUNDS, NODES, CLIP = 4, 3, 0.5


def client(mods, seen):
    """Moves its weights by a gradient of its own; keeps what it received and sent."""
    app = ClientApp(mods=mods)

    @app.train()
    def _(message, context):
        node = context.node_config["partition-id"]
        received = {n: x.numpy() for n, x in message.content["arrays"].items()}
        gradient = {n: np.cos(x + node) for n, x in received.items()}
        keep_gradient(context, gradient)
        sent = {n: x - 0.1 * gradient[n] for n, x in received.items()}
        seen.append((received, sent))
        arrays = ArrayRecord({n: Array(x) for n, x in sent.items()})
        metrics = MetricRecord({"num-examples": 1 + node, "train_loss": 1.0})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def made(name):
    """A strategy by name, with what it needs, and the mods that its clients have."""
    kind = getattr(strategies, name)
    plain = {"fraction_evaluate": 0.0, "min_available_nodes": NODES}
    if name.startswith("DifferentialPrivacy"):
        options = {"noise_multiplier": 0.01, "num_sampled_clients": NODES}
        adapts = "Adaptive" in name
        options["initial_clipping_norm" if adapts else "clipping_norm"] = CLIP
        own = [] if "Server" in name else [adaptiveclipping_mod if adapts else fixedclipping_mod]
        return kind(strategies.FedAvg(**plain), **options), [*own, lips]
    special = {
        "QFedAvg": {"client_learning_rate": 0.1},
        "FedTrimmedAvg": {"beta": 0.2},
        "FedProx": {"proximal_mu": 0.1},
        "FedAvgM": {"server_momentum": 0.9},
    }
    return kind(**plain, **special.get(name, {})), [lips]


def federate(strategy, mods, masked=("a",), start=START):
    seen = []
    nodes = [{"partition-id": i} for i in range(NODES)]
    grid = InProcess(client(mods, seen), nodes, {})
    around = TransientSparsity(strategy, masked=masked, density=0.5, every=2)
    arrays = ArrayRecord({n: Array(x) for n, x in start.items()})
    return around.start(grid, arrays, ROUNDS), grid, seen


def test_the_table_has_every_strategy():
    assert ROWS.keys() == set(strategies.__all__) - NO_STRATEGIES


@pytest.mark.parametrize("name", [name for name, works in ROWS.items() if works == "yes"])
def test_rounds_begin_masked_and_end_in_a_model(name):
    strategy, mods = made(name)
    result, grid, seen = federate(strategy, mods)
    assert len(seen) == ROUNDS * NODES
    for at in grid.contexts.values():
        assert dict(at.state[RECORD]) == {"masked": [2, 4], "whole": []}
    zeros = [int((received["a"] == 0).sum()) for received, _ in seen]
    assert zeros[:NODES] == [0] * NODES
    assert zeros[NODES : 2 * NODES] == [6] * NODES  # of 12, at density 0.5
    assert zeros[3 * NODES :] == [3] * NODES  # at 0.75
    last = result.arrays
    assert last.keys() == START.keys()
    assert all(np.isfinite(x.numpy()).all() for x in last.values())
    assert not np.array_equal(last["a"].numpy(), START["a"])


@pytest.mark.parametrize("name", [name for name, works in ROWS.items() if works == "no"])
def test_trees_are_refused(name):
    trees = {"0": np.frombuffer(b"{}", np.uint8)}
    with pytest.raises(ValueError, match="masked names '0', which holds uint8"):
        federate(made(name)[0], [lips], ["0"], trees)


def norms(order):
    """Of what each node's message is from the global model, with the clip outside or inside."""
    sent = []

    def last(message, context, call_next):
        before = {n: x.numpy() for n, x in message.content["arrays"].items()}
        reply = call_next(message, context)
        after = {n: x.numpy() for n, x in reply.content["arrays"].items()}
        sent.append(np.sqrt(sum(((after[n] - before[n]) ** 2).sum() for n in before)))
        return reply

    strategy, _ = made("DifferentialPrivacyClientSideFixedClipping")
    federate(strategy, [last, *order])
    return np.array(sent)


def test_a_clip_bounds_what_is_zeroed_only_if_it_is_outside_the_mod():
    assert norms([fixedclipping_mod, lips]).max() < CLIP * (1 + 1e-6)
    assert norms([lips, fixedclipping_mod]).max() > CLIP
