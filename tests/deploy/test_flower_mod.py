"""What the mod does at a node, and what it leaves alone."""

import logging

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from lipsjax.deploy.flower import inprocess, server
from lipsjax.deploy.flower.inprocess import InProcess
from lipsjax.deploy.flower.mod import GRADIENT, RECORD, keep_gradient, lips
from lipsjax.deploy.flower.server import TransientSparsity
from lipsjax.sparsity import density as densities

WEIGHTS = {"stem": np.arange(4.0), "a": np.array([[1.0, -4.0], [3.0, 2.0]]), "head": np.ones(2)}
SAID = {"lips-density": 0.5, "lips-masked": "a", "lips-criterion": "saliency", "server-round": 3}
GIVEN = {"stem": np.ones(4), "a": np.ones((2, 2)), "head": np.ones(2)}


@pytest.fixture(autouse=True)
def node():
    """A node of a run, as Flower asks for one before a message can be made."""
    InProcess(ClientApp(), [], {})


def context():
    return Context(1, 2, {}, RecordDict(), {})


def message(said=SAID, kind="train", weights=WEIGHTS):
    arrays = ArrayRecord({name: Array(value) for name, value in weights.items()})
    return Message(RecordDict({"arrays": arrays, "config": ConfigRecord(dict(said))}), 2, kind)


class Training:
    """A training that sends back what it received."""

    def __init__(self, gradient=GIVEN, *, fails=False):
        self.gradient, self.fails, self.seen = gradient, fails, []

    def __call__(self, received, at):
        self.seen.append({n: x.numpy() for n, x in received.content["arrays"].items()})
        if self.fails:
            raise RuntimeError("out of examples")
        if self.gradient is not None:
            keep_gradient(at, self.gradient)
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": received.content["arrays"], "metrics": metrics})
        return Message(content, reply_to=received)


def turn(at, said=SAID, kind="train", train=None):
    """Let a node answer; return the arrays that its training met, and the reply."""
    train = Training() if train is None else train
    reply = lips(message(said, kind), at, train)
    return train.seen[-1], reply


def whole(arrays):
    return all(np.array_equal(arrays[name], value) for name, value in WEIGHTS.items())


def test_it_zeroes_the_least_salient_of_masked_arrays_alone():
    at = context()
    turn(at)
    received, reply = turn(at)
    assert received["a"].tolist() == [[0, -4], [3, 0]]
    assert np.array_equal(received["stem"], WEIGHTS["stem"])
    assert np.array_equal(received["head"], WEIGHTS["head"])
    assert list(received) == list(WEIGHTS)
    assert {name: set(record) for name, record in reply.content.items()} == {
        "arrays": set(WEIGHTS),
        "metrics": {"num-examples"},
    }


def test_the_message_of_all_nodes_stays_as_it_was():
    """Flower's strategies give every node one RecordDict."""
    common, at = message(), context()
    keep_gradient(at, GIVEN)
    before = common.content["arrays"]
    train = Training()
    lips(common, at, train)
    assert not whole(train.seen[0])
    assert common.content["arrays"] is before
    assert whole({n: x.numpy() for n, x in before.items()})


def test_a_node_that_never_trained_or_lost_its_state_receives_the_model_whole(caplog):
    at = context()
    with caplog.at_level(logging.WARNING, "flwr"):
        assert whole(turn(at)[0])
    assert "round 3 begins whole, as no gradient is kept here" in caplog.text
    assert not whole(turn(at, {**SAID, "server-round": 5})[0])
    assert dict(at.state[RECORD]) == {"masked": [5], "whole": [3]}
    at.state = RecordDict()  # a node that is made anew
    assert whole(turn(at, {**SAID, "server-round": 7})[0])
    assert dict(at.state[RECORD]) == {"masked": [], "whole": [7]}


def test_rounds_that_begin_whole_and_evaluation_are_left_alone():
    at = context()
    turn(at)
    assert whole(turn(at, {**SAID, "lips-density": 1.0})[0])
    assert whole(turn(at, kind="evaluate", train=Training(None))[0])
    assert whole(turn(at, {"lr": 0.1}, train=Training(None))[0])  # a server without LIPS
    assert RECORD in at.state
    assert not whole(turn(at, kind="train.mine")[0])


def test_what_stays_at_the_node_is_the_last_gradient_of_masked_arrays():
    at = context()
    turn(at, train=Training({name: 7 * value for name, value in GIVEN.items()}))
    turn(at)
    assert {name: x.numpy().tolist() for name, x in at.state[GRADIENT].items()} == {
        "a": [[1, 1], [1, 1]]
    }


def test_a_training_that_hands_no_gradient_over_is_refused():
    """Also in a round that begins whole, and where an old gradient is there."""
    for at in (context(), context()):
        with pytest.raises(ValueError, match=r"needs the gradient of 'a'.*keep_gradient"):
            turn(at, {**SAID, "lips-density": 1.0}, train=Training(None))
    at = context()
    turn(at)
    with pytest.raises(ValueError, match="handed none over"):
        turn(at, train=Training(None))
    assert "a" in at.state[GRADIENT]
    with pytest.raises(ValueError, match="needs the gradient of 'a'"):
        turn(context(), train=Training({"stem": np.ones(4)}))


def test_magnitude_needs_no_gradient():
    at, said = context(), {**SAID, "lips-criterion": "magnitude"}
    received, _ = turn(at, said, train=Training(None))
    assert received["a"].tolist() == [[0, -4], [3, 0]]
    assert GRADIENT not in at.state


def test_a_training_that_fails_leaves_the_gradient_there_was():
    at = context()
    turn(at)
    with pytest.raises(RuntimeError, match="out of examples"):
        turn(at, train=Training(fails=True))
    assert GRADIENT in at.state
    assert not whole(turn(at)[0])


@pytest.mark.parametrize(
    ("said", "gradient", "told"),
    [
        ({"lips-criterion": "random"}, GIVEN, "criterion must be saliency or magnitude, not 'rand"),
        ({"lips-masked": "b"}, GIVEN, "no array 'b' to mask; there are stem, a, head"),
        ({"lips-masked": "c"}, GIVEN, "needs the gradient of 'c'"),
        ({}, {"a": np.ones(4)}, "the gradient of a has shape"),
        ({}, {"a": np.full((2, 2), np.nan)}, "scores of a are not finite"),
    ],
)
def test_what_a_node_refuses(said, gradient, told):
    at = context()
    keep_gradient(at, {"b": np.ones(1), **gradient})
    with pytest.raises(ValueError, match=told) as refused:
        turn(at, {**SAID, **said})
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("lips: ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"masked": []}, "masked must be a list of at least one name"),
        ({"masked": "conv.weight"}, "masked must be a list of at least one name, not 'conv"),
        ({"masked": ["a,b"]}, "masked must be names without a comma, not 'a,b'"),
        ({"density": 0.0}, r"density must be in \(0, 1\], not 0.0"),
        ({"density": 1.5}, r"density must be in \(0, 1\], not 1.5"),
        ({"every": 0}, "every must be at least 1, not 0"),
        ({"schedule": "step"}, "schedule must be one of constant, linear, cosine, cubic, not 'st"),
        ({"criterion": "random"}, "criterion must be one of saliency, magnitude, not 'random'"),
    ],
)
def test_what_a_server_refuses(options, told):
    with pytest.raises(ValueError, match=told) as refused:
        TransientSparsity(FedAvg(), **{"masked": ["a"], **options})
    assert "\n" not in str(refused.value)


def test_what_a_server_refuses_once_it_knows_the_arrays():
    strategy = TransientSparsity(FedAvg(), masked=["b"])
    arrays = ArrayRecord({name: Array(value) for name, value in WEIGHTS.items()})
    grid = InProcess(ClientApp(), [], {})
    with pytest.raises(ValueError, match="masked names 'b', which is none of the arrays stem, a"):
        strategy.start(grid, arrays)
    with pytest.raises(ValueError, match="masked names 'stem', which is no kernel of PyTorch"):
        TransientSparsity(FedAvg(), masked=["stem"], torch_layout=True).start(grid, arrays)
    with pytest.raises(ValueError, match="rounds begin with start"):
        strategy.configure_train(1, arrays, ConfigRecord(), grid)


@pytest.mark.parametrize("name", densities.SCHEDULES)
@pytest.mark.parametrize(("density", "every", "rounds"), [(0.5, 5, 100), (0.3, 2, 7), (0.9, 1, 9)])
def test_densities_are_the_simulators(name, density, every, rounds):
    """To the bit: how many weights are kept is the floor of a product."""
    table = densities.density_table(densities.SCHEDULES[name](density), every=every, rounds=rounds)
    strategy = TransientSparsity(
        FedAvg(), masked=["a"], density=density, every=every, schedule=name
    )
    begins = [strategy.density(turn, rounds) for turn in range(1, rounds + 1)]
    assert begins == [1.0, *table[:-1]]


def test_the_config_of_the_caller_stays_as_it_was():
    grid = InProcess(ClientApp(), [{}, {}], {})
    strategy, config = TransientSparsity(FedAvg(), masked=["a"]), ConfigRecord({"lr": 0.1})
    strategy.num_rounds = 10
    arrays = ArrayRecord({name: Array(value) for name, value in WEIGHTS.items()})
    sent = list(strategy.configure_train(2, arrays, config, grid))
    assert dict(config) == {"lr": 0.1}
    assert dict(sent[0].content["config"]) == {
        **{"lr": 0.1, "server-round": 2, "lips-density": 0.5, "lips-criterion": "saliency"},
        **{"lips-masked": "a", "lips-torch-layout": False},
    }
    assert all(x is y for x, y in zip(*(m.content.values() for m in sent), strict=True))


def test_files_that_sites_copy_need_nothing_of_lipsjax():
    from lipsjax.deploy.flower import mod

    for module in (inprocess, mod, server):
        with open(module.__file__) as file:  # noqa: PTH123
            assert "lipsjax." not in file.read()
