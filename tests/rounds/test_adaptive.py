"""Adaptive transient sparsity against the loop of ``loop_reference``, in float64 to 1e-9."""

import functools

import jax
import numpy as np
import optax
import pytest

from helpers.loop_reference import Loop
from helpers.oracle import check, reference_model
from helpers.worlds import assert_close, simulate, tiny_model, world
from lipsjax import fedavg, transient_sparsity
from lipsjax.simulation import build, client_mesh
from lipsjax.local import LocalTraining

RULE = {"density": 0.3, "trigger": "inertia", "threshold": 0.0, "window": 2, "every": 2}
MASKS = {"criterion": "saliency", "gradient": "last_local", "sharing": "client", "scope": "layer"}
MASKS |= {"refill": "zero", "hold": 0, "kinds": ("conv", "dense")}
ROUNDS = 10


def data():
    return world([9, 2, 6, 5])


def loop_of(**options):
    plan = {"rounds": ROUNDS, "epochs": 2, "batch_size": 4, "learning_rate": 0.1}
    sparsity = {**MASKS, **RULE, **options}
    return Loop(reference_model(), data(), jax.random.key(1), sparsity=sparsity, **plan)


def adaptive(**options):
    return transient_sparsity(fedavg(), **{**MASKS, **RULE, **options})


def watched(loop):
    """Which of the rounds were followed by a sparse broadcast; the loop is run on the way."""
    found = []

    def after(last, choose=loop.choose_masks):
        choose(last)
        found.append(bool(loop.masks))

    loop.choose_masks = after
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"devices": 1, "chunk": 3},
        pytest.param({"devices": 2, "chunk": 1, "stops": True}, marks=pytest.mark.slow),
    ],
)
def test_equal_to_the_loop(options):
    """Round by round, with masks on their way at the end."""
    loop = loop_of()
    fired = watched(loop)
    check(tiny_model(), adaptive(), data(), loop, rounds=9, total=ROUNDS, **options)
    print(fired)
    assert False
