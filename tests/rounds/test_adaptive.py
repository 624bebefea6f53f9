"""Adaptive transient sparsity against the loop of ``loop_reference``, in float64 to 1e-9."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

from helpers.loop_reference import Loop
from helpers.oracle import check, reference_model
from helpers.worlds import tiny_model, world
from lipsjax import fedavg, transient_sparsity
from lipsjax.local import LocalTraining
from lipsjax.simulation import build, client_mesh

RULE: dict[str, Any] = {
    "density": 0.3,
    "trigger": "inertia",
    "threshold": -0.4,
    "window": 2,
    "every": 2,
}
MASKS: dict[str, Any] = {"criterion": "saliency", "gradient": "last_local", "sharing": "client"}
MASKS |= {"scope": "layer", "refill": "zero", "hold": 0, "kinds": ("conv", "dense")}
ROUNDS = 10


def data():
    return world([9, 2, 6, 5])


def loop_of(**options):
    plan = {"rounds": ROUNDS, "epochs": 2, "batch_size": 4, "learning_rate": 0.1}
    cohort = options.pop("cohort", None)
    sparsity = {**MASKS, **RULE, **options}
    key = jax.random.key(1)
    return Loop(reference_model(), data(), key, sparsity=sparsity, cohort=cohort, **plan)


def adaptive(**options):
    return transient_sparsity(fedavg(), **{**MASKS, **RULE, **options})


def watched(loop):
    """Return a list that the loop fills with what it sends: no levels of a dense broadcast."""
    found = []

    def after(last, choose=loop.choose_masks):
        choose(last)
        found.append(tuple(loop.levels.values()))

    loop.choose_masks = after
    return found


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as by default": ({}, {"chunk": 3}),
    "of two devices, stopped": ({}, {"devices": 2, "chunk": 1, "stops": True}),
    "shared, held, of convolutions": (
        {"sharing": "shared", "hold": 3, "refill": "noise", "kinds": ("conv",)},
        {"devices": 2, "chunk": 2},
    ),
    "of a cohort": ({"gradient": "stored", "window": 3}, {"cohort_size": 3}),
}


@pytest.mark.parametrize(
    "case",
    ["as by default", *(pytest.param(c, marks=pytest.mark.slow) for c in list(CASES)[1:])],
)
def test_equal_to_the_loop(case):
    """Nine rounds, on and off more than once; masks are on their way at the end, where they are."""
    options, plan = CASES[case]
    loop = loop_of(cohort=plan.get("cohort_size"), **options)
    sent = watched(loop)
    check(tiny_model(), adaptive(**options), data(), loop, rounds=9, total=ROUNDS, **plan)
    sparse = [bool(levels) for levels in sent]
    assert sum(sparse) >= 2
    assert sum(not each for each in sparse) > 2
    assert len({level for levels in sent for level in levels}) > 2
    if not options:
        assert sparse == [True, False, True, False, True, False, False, False, True]


def built(**options):
    """A simulation that measures nothing, so that its trigger has only what it keeps itself."""
    return build(
        tiny_model(),
        adaptive(**options),
        LocalTraining(optax.sgd(0.1, momentum=0.9), 2, 4),
        rounds=ROUNDS,
        data=data(),
        mesh=client_mesh(1),
        evaluate_every=0,
    )


@pytest.mark.slow
def test_an_index_within_1e_6_of_the_threshold():
    """On both sides of it, with the round before set so; and before any round there is none."""
    sim, loop = built(), loop_of()
    loop.measures = False
    loop.round()
    placed, key = sim.place(data()), jax.random.key(1)
    start = sim.to_host(sim.init(key))
    assert np.isnan(start["trigger"].inertia).all()
    state, metrics = sim.run(sim.init(key), placed, 1)
    first = sim.to_host(state)["trigger"].inertia[-1]
    np.testing.assert_allclose(first, list(loop.lags[0].values()), rtol=1e-9, atol=1e-9)
    assert set(metrics.layers) == {"density_level"}
    middle = [layer.role == "middle" for layer in sim.spec.model.layers]

    def sparse_at(index):
        """Whether round 0 ends sparse if its index and that of a round before have this mean."""
        history = start["trigger"].inertia.copy()
        history[-1] = 2 * index - first[middle].mean()
        trigger = start["trigger"]._replace(inertia=history)
        state, metrics = sim.run(sim.from_host(start | {"trigger": trigger}), placed, 1)
        host = sim.to_host(state)
        assert bool(host["sparse"]) == bool(metrics.layers["density_level"].any())
        assert (float(host["density"]) < 1) == bool(host["sparse"])
        return bool(host["sparse"])

    threshold = RULE["threshold"]
    assert sparse_at(threshold + 1e-6)
    assert not sparse_at(threshold - 1e-6)


def test_nothing_is_kept_without_a_trigger():
    state = built(trigger="schedule").init(jax.random.key(0))
    assert state.trigger == ()
