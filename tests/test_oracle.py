"""The compiled round against the loop of ``loop_reference``, in float64 to 1e-9."""

import functools
import itertools

import jax
import numpy as np
import optax
import pytest

from lipsjax import fedavg, keep_local, models, transient_sparsity
from lipsjax.local import LocalTraining
from lipsjax.sparsity import constant, cosine, cubic, linear
from lipsjax.sparsity.topk import unpack
from loop_reference import Loop, flat
from worlds import assert_close, simulate, tiny_model, world

SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine, "cubic": cubic}
AXES = {
    "criterion": ["saliency", "magnitude", "lowest", "random", "gradient"],
    "sharing": ["client", "shared"],
    "scope": ["layer", "global", "erk"],
    "refill": ["zero", "init", "noise"],
    "hold": [0, 3],
    "gradient": ["last_local", "fresh", "stored"],
    "schedule": ["constant", "linear", "cosine", "cubic"],
    "kinds": [("conv",), ("conv", "dense")],
    "personal": ["global", "local", "local_with_biases"],
    "cohort": [None, 3],
}
PERSONAL = {
    "global": None,
    "local": models.is_norm,
    "local_with_biases": lambda p: models.is_norm(p) or models.is_bias(p),
}


@functools.cache
def reference_model(norm="batch"):
    return tiny_model(conv="grouped", norm=norm)


def allowed(case):
    return not (
        case["gradient"] == "last_local"
        and case["cohort"] is not None
        and case["criterion"] in ("saliency", "gradient")
    )


def gain(choice, todo):
    """Pairs still to do that a case would cover."""
    return sum(choice[a] == x and choice[b] == y for (a, x), (b, y) in todo)


def pairwise():
    """Cases in which every allowed pair of values of two axes occurs, greedily chosen."""
    rng = np.random.default_rng(0)
    names = list(AXES)
    todo = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(range(len(names)), 2)
        for x in range(len(AXES[names[a]]))
        for y in range(len(AXES[names[b]]))
    }
    # last_local with a cohort is refused only where the score needs a gradient
    cases = []
    while todo:
        tries = [[int(rng.integers(len(v))) for v in AXES.values()] for _ in range(400)]
        tries = [
            t for t in tries if allowed({n: AXES[n][i] for n, i in zip(names, t, strict=True)})
        ]

        best = max(tries, key=lambda t: gain(t, todo))
        if not gain(best, todo):
            continue
        todo = {p for p in todo if not all(best[a] == x for a, x in p)}
        cases.append({n: AXES[n][i] for n, i in zip(names, best, strict=True)})
    return cases


CASES = pairwise()


def build_strategy(model, case):
    strategy = fedavg()
    if PERSONAL[case["personal"]]:
        strategy = keep_local(strategy, PERSONAL[case["personal"]])
    return transient_sparsity(
        strategy,
        layers=model.layers,
        density=SCHEDULES[case["schedule"]](0.3),
        every=2,
        **{k: case[k] for k in ("criterion", "sharing", "scope", "refill", "hold", "gradient")},
        kinds=case["kinds"],
    )


def check(model, strategy, data, loop, *, rounds, **options):
    """Run both and compare state, masks and metrics."""
    state, metrics, _ = simulate(model, strategy, data, rounds=rounds, **options)
    expected = [loop.round() for _ in range(rounds)]
    assert_close(flat(state["average"]), flat(loop.average))
    for t, row in enumerate(expected):
        for name, values in row.pop("layers").items():
            np.testing.assert_allclose(
                metrics.layers[name][t], values, rtol=1e-8, atol=1e-9, err_msg=f"{name} {t}"
            )
        for name, value in row.items():
            np.testing.assert_allclose(
                metrics.scalars[name][t], value, rtol=1e-9, atol=1e-9, err_msg=f"{name} {t}"
            )
        assert set(row) == set(metrics.scalars)
    assert bool(state["sparse"]) == bool(loop.masks)
    if loop.masks:
        receivers = loop.cohort(loop.t)
        for bits, layer in zip(state["bits"], strategy.downlink.layers, strict=True):
            for slot, client in enumerate(receivers):
                mask = loop.masks[client]["/".join(layer.path)]
                np.testing.assert_array_equal(unpack(bits[slot], mask.shape), mask)
    return state, loop


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_dense_fedavg(norm):
    data = world([8, 8, 8])
    options = {"epochs": 2, "batch_size": 4, "learning_rate": 0.1}
    loop = Loop(reference_model(norm), data, jax.random.key(1), rounds=4, **options)
    check(tiny_model(norm=norm), fedavg(), data, loop, rounds=4, clients_on_global=True)


def test_partial_participation_with_ragged_clients():
    data = world([9, 1, 5, 13, 4])
    loop = Loop(
        reference_model(),
        data,
        jax.random.key(1),
        rounds=5,
        epochs=2,
        batch_size=4,
        learning_rate=0.1,
        cohort=3,
    )
    check(tiny_model(), fedavg(), data, loop, rounds=5, cohort_size=3, chunk=2)


def test_another_optimizer():
    data = world([7, 3])
    optimizer = optax.adamw(0.01)
    loop = Loop(
        reference_model(),
        data,
        jax.random.key(1),
        optimizer=optimizer,
        rounds=2,
        epochs=2,
        batch_size=4,
        learning_rate=0.0,
    )
    check(tiny_model(), fedavg(), data, loop, rounds=2, training=LocalTraining(optimizer, 2, 4))


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(v) for v in c.values()))
def test_transient_sparsity(case):
    data = world([9, 2, 6, 5])
    sparsity = {**case, "density": 0.3, "every": 2}
    model = tiny_model()
    loop = Loop(
        reference_model(),
        data,
        jax.random.key(1),
        rounds=4,
        epochs=2,
        batch_size=4,
        learning_rate=0.1,
        cohort=case["cohort"],
        personal=PERSONAL[case["personal"]],
        sparsity=sparsity,
    )
    # three of four rounds: the run ends with masks on their way
    state, loop = check(
        model,
        build_strategy(model, case),
        data,
        loop,
        rounds=3,
        total=4,
        cohort_size=case["cohort"],
        chunk=2,
    )
    assert state["sparse"]
    for client, own in enumerate(loop.memory):
        if own:
            kept = jax.tree.map(lambda x, c=client: x[c], state["clients"][1][0])
            assert_close(kept, own)


def test_every_value_and_pair_occurs():
    for name, values in AXES.items():
        assert {str(c[name]) for c in CASES} == {str(v) for v in values}
