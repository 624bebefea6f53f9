"""Whole rounds in Flower, in one process, against those of the simulator."""

import numpy as np
import pytest

pytest.importorskip("flwr")

from helpers import flower_nodes
from lipsjax import tree
from lipsjax.deploy.flower.masks import mask

pytestmark = pytest.mark.whole


def close(record, variables, **tolerance):
    wanted = tree.pick(variables, lambda path: True)
    assert record.keys() == wanted.keys()
    for name, value in record.items():
        np.testing.assert_allclose(value.numpy(), wanted[name], **tolerance)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "lips"])
def test_ten_rounds_are_the_simulators(sparse):
    """In float64, three nodes: the model that every round begins with, and every mask's bytes."""
    made, seen = flower_nodes.World(10, sparse=sparse), []
    begun, last, _ = flower_nodes.federate(made, flower_nodes.jax_client(made, seen), sparse=sparse)
    *simulated, end = made.simulated()
    masks = 0
    for turn, ((model, gradients), state) in enumerate(zip(begun, simulated, strict=True), 1):
        close(model, state["global_model"], rtol=1e-9, atol=1e-9)
        received = {node: arrays for r, node, arrays in seen if r == turn}
        assert received.keys() == {0, 1, 2}
        is_sparse = turn > 1 and (turn - 2) % flower_nodes.EVERY == 0
        assert bool(state["sparse"]) == (is_sparse and sparse)
        for node, arrays in received.items():
            if not state["sparse"]:
                assert all(np.array_equal(arrays[n].numpy(), model[n].numpy()) for n in model)
                continue
            density = flower_nodes.DENSITY + (1 - flower_nodes.DENSITY) * (turn - 2) / 10
            for name, packed in zip(made.names, state["packed_masks"], strict=True):
                weights = model[name].numpy()
                keep = mask(weights, gradients[node][name].numpy(), density)
                assert np.packbits(keep).tobytes() == packed[node].tobytes()
                assert np.array_equal(arrays[name].numpy(), np.where(keep, weights, 0))
                assert keep.sum() == int(density * keep.size) < keep.size
                masks += 1
    close(last, end["global_model"], rtol=1e-9, atol=1e-9)
    assert masks == (5 * 3 * 2 if sparse else 0)
