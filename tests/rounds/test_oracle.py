"""The compiled round against the loop of ``loop_reference``, in float64 to 1e-9."""

import itertools

import jax
import numpy as np
import optax
import pytest

from helpers.loop_reference import Loop
from helpers.oracle import AXES, PERSONAL, PUBLISHED, SCHEDULES, check, reference_model
from helpers.worlds import assert_close, tiny_model, world
from lipsjax import fedavg, keep_local, transient_sparsity
from lipsjax.local import LocalTraining


def allowed(case):
    """``last_local`` gradients need all clients."""
    needs = case["score"] in [(c, "last_local") for c in ("saliency", "gradient", "inverted")]
    return not (needs and case["cohort"] is not None)


def pairs(case):
    """All pairs of (axis, value) of a case."""
    return set(itertools.combinations([(name, str(value)) for name, value in case.items()], 2))


def pairwise():
    """Cases in which every allowed pair of values of two axes occurs; the published one first."""
    rng = np.random.default_rng(0)

    def draw():
        return {name: values[rng.integers(len(values))] for name, values in AXES.items()}

    cases, todo = [PUBLISHED], all_pairs() - pairs(PUBLISHED)
    for _ in range(200):
        if not todo:
            return cases
        best = max(
            filter(allowed, (draw() for _ in range(400))), key=lambda c: len(pairs(c) & todo)
        )
        todo -= pairs(best)
        cases.append(best)
    raise AssertionError(f"no allowed case has the pairs {todo}")


def all_pairs():
    """Pairs of values that some allowed case has."""
    everything = set()
    for (a, xs), (b, ys) in itertools.combinations(AXES.items(), 2):
        for x, y in itertools.product(xs, ys):
            if allowed({"score": None, "cohort": None} | {a: x, b: y}):
                everything.add(((a, str(x)), (b, str(y))))
    return everything


CASES = pairwise()


def build_strategy(case):
    strategy = fedavg()
    if PERSONAL[case["personal"]]:
        strategy = keep_local(strategy, PERSONAL[case["personal"]])
    return transient_sparsity(
        strategy,
        density=SCHEDULES[case["schedule"]](0.3),
        every=2,
        **dict(zip(("criterion", "gradient"), case["score"], strict=True)),
        **{k: case[k] for k in ("sharing", "scope", "refill", "hold", "kinds")},
    )


@pytest.mark.parametrize(
    "norm", [pytest.param(n, marks=pytest.mark.slow) for n in ("batch", "group", "none")]
)
def test_dense_fedavg(norm):
    data = world([8, 8, 8])
    options = {"epochs": 2, "batch_size": 4, "learning_rate": 0.1}
    loop = Loop(reference_model(norm), data, jax.random.key(1), rounds=4, **options)
    check(tiny_model(norm=norm), fedavg(), data, loop, rounds=4, clients_on_global=True)


@pytest.mark.slow
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


@pytest.mark.slow
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


def name_of(case):
    return "-".join(map(str, case.values()))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name_of(case), marks=pytest.mark.slow if i % 48 else ())
        for i, case in enumerate(CASES)
    ],
)
def test_transient_sparsity(case):
    data = world([9, 2, 6, 5])
    criterion, gradient = case["score"]
    sparsity = {**case, "criterion": criterion, "gradient": gradient, "density": 0.3, "every": 2}
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
        build_strategy(case),
        data,
        loop,
        rounds=3,
        total=4,
        cohort_size=case["cohort"],
        chunk=2,
    )
    assert state["sparse"]
    stores = case["score"][1] == "stored"
    states = state["client_states"].inner if stores else state["client_states"]
    for client, own in enumerate(loop.memory):
        if own:
            kept = jax.tree.map(lambda x, c=client: x[c], states.outer)
            assert_close(kept, own)


def test_every_pair_of_values_occurs():
    assert set().union(*map(pairs, CASES)) >= all_pairs()
    assert {(name, str(v)) for name, vs in AXES.items() for v in vs} == {
        value for pair in all_pairs() for value in pair
    }
