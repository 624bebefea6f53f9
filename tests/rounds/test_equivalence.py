"""Chunks and devices change nothing but rounding: float64 to 1e-9 with identical masks."""

import jax
import numpy as np
import optax
import pytest

from helpers import xla
from helpers.worlds import assert_close, simulate, tiny_model, world
from lipsjax import fedavg, keep_local, models, simulation, transient_sparsity
from lipsjax.local import LocalTraining, model_loss

SIZES = [9, 2, 6, 5, 7]


def lips(**options):
    strategy = keep_local(fedavg(), models.is_norm)
    return transient_sparsity(strategy, **{"density": 0.4, "every": 2, **options})


VARIANTS = {
    "dense": (lambda m: fedavg(), None),
    "client masks": (lambda m: lips(hold=2, refill="noise"), None),
    "shared masks": (lambda m: lips(sharing="shared", scope="global"), None),
    "stored gradients": (lambda m: lips(gradient="stored"), 3),
    "personal": (lambda m: keep_local(fedavg(), models.is_norm), None),
}
QUICK = ("client masks",)


@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=pytest.mark.slow if v not in QUICK else ()) for v in VARIANTS],
)
@pytest.mark.slow
def test_chunks_and_devices(variant):
    make, cohort = VARIANTS[variant]
    model, data = tiny_model(), world(SIZES)
    strategy = make(model)

    def run(devices, chunk):
        plan = {"devices": devices, "chunk": chunk, "cohort_size": cohort}
        return simulate(model, strategy, data, rounds=3, total=4, **plan)[:2]

    state, metrics = run(1, 5)
    plans = [(2, 3)] if variant in QUICK else [(1, 3), (1, 1), (2, 5), (4, 1)]
    for devices, chunk in plans:
        other, other_metrics = run(devices, chunk)
        for bits, others in zip(state["packed_masks"], other["packed_masks"], strict=True):
            np.testing.assert_array_equal(bits, others)
        assert_close(state, other)
        assert_close(metrics._replace(client_loss=None), other_metrics._replace(client_loss=None))


@pytest.mark.slow
def test_others_do_not_matter():
    """A client's training depends on no other client, nor on how far it is padded."""
    data, model = world(SIZES), tiny_model()
    alone = data._replace(
        train_index=data.train_index[:1, :9],
        train_mask=data.train_mask[:1, :9],
        test_index=data.test_index[:1],
        test_mask=data.test_mask[:1],
    )
    padded = alone._replace(
        train_index=np.pad(alone.train_index, ((0, 0), (0, 6))),
        train_mask=np.pad(alone.train_mask, ((0, 0), (0, 6))),
    )
    first, _, _ = simulate(model, fedavg(), alone, rounds=2)
    second, _, _ = simulate(model, fedavg(), padded, rounds=2)
    assert_close(first["global_model"], second["global_model"])


@pytest.mark.slow
def test_one_client_with_all_data_is_plain_sgd():
    data, model = world([12]), tiny_model(norm="group")
    training = LocalTraining(optax.sgd(0.1), 1, 12)
    state, _, sim = simulate(model, fedavg(), data, rounds=2, training=training, chunk=1)
    params = sim.to_host(sim.init(jax.random.key(1)))["global_model"].params
    images, labels = data.train.inputs[data.train_index[0]], data.train.labels[data.train_index[0]]

    @jax.jit
    @jax.grad
    def gradient(params):
        return model_loss(model)(params, {}, images, labels, np.ones(12, bool))[0]

    for _ in range(2):
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient(params))
    assert_close(state["global_model"].params, params)


@pytest.mark.slow
def test_zero_learning_rate_changes_nothing():
    training = LocalTraining(optax.sgd(0.0, momentum=0.9), 2, 4)
    model = tiny_model(norm="group")
    state, metrics, sim = simulate(model, fedavg(), world(SIZES), rounds=2, training=training)
    start = sim.to_host(sim.init(jax.random.key(1)))
    assert_close(state["global_model"].params, start["global_model"].params, 1e-12)
    assert np.abs(metrics.layers["step"]).max() < 1e-12


@pytest.mark.slow
def test_density_one_is_dense():
    """To the last bit, as XLA compiles outside of tests: see conftest.py."""
    model, data, key = tiny_model(), world(SIZES), jax.random.key(1)
    wrapped = transient_sparsity(fedavg(), density=1.0, every=1)
    results = []
    for strategy in (wrapped, fedavg()):
        sim = simulation.build(
            model,
            strategy,
            LocalTraining(optax.sgd(0.1, momentum=0.9), 2, 4),
            rounds=3,
            data=data,
            mesh=simulation.client_mesh(1),
        )
        program = sim.lower(3).compile(xla.usual_options())
        results.append(program(sim.init(key), sim.place(data), sim.schedule.per_round))
    (state, metrics), (dense, dense_metrics) = results
    assert_close(state.global_model, dense.global_model, 0)
    assert_close(metrics, dense_metrics, 0)
    assert not state.sparse


@pytest.mark.slow
def test_one_float32_round():
    """From the same state and masks, other chunks and devices agree to float32's rounding."""
    model, data = tiny_model(dtype=np.float32), world(SIZES)
    strategy = lips(every=1)
    sims = [
        simulation.build(
            model,
            strategy,
            LocalTraining(optax.sgd(0.1, momentum=0.9), 2, 4),
            rounds=4,
            data=data,
            mesh=simulation.client_mesh(devices),
            chunk=chunk,
        )
        for devices, chunk in ((1, 5), (4, 1))
    ]
    key = jax.random.key(0)
    state, _ = sims[0].run(sims[0].init(key), sims[0].place(data), 1)
    host = sims[0].to_host(state)
    results = []
    for sim in sims:
        after, _ = sim.run(sim.from_host(host), sim.place(data), 1)
        results.append(sim.to_host(after)["global_model"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


@pytest.mark.slow
def test_same_inputs_same_bits():
    model, data = tiny_model(dtype=np.float32), world(SIZES)
    runs = [simulate(model, lips(), data, rounds=3, devices=2)[:2] for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *runs)


@pytest.mark.slow
def test_rounds_in_one_call_or_in_several():
    model, data = tiny_model(), world(SIZES)
    state, metrics, sim = simulate(model, lips(), data, rounds=4)
    key = jax.random.key(1)
    place, parts, now = sim.place(data), [], sim.init(key)
    for _ in range(4):
        now, part = sim.run(sim.from_host(sim.to_host(now)), place, 1)
        parts.append(jax.tree.map(np.asarray, part))
    assert_close(sim.to_host(now), state)
    assert_close(jax.tree.map(lambda *xs: np.concatenate(xs), *parts), metrics)


def collectives(strategy, model, data, **options):
    """Collectives in the compiled text of three rounds on four devices, by kind."""
    sim = simulation.build(
        model,
        strategy,
        LocalTraining(optax.sgd(0.1, momentum=0.9), 2, 4),
        rounds=3,
        data=data,
        mesh=simulation.client_mesh(4),
        **options,
    )
    text = sim.compiled(3).as_text()
    computations = text.split("\n\n")
    kinds = ("all-gather", "all-to-all", "reduce-scatter", "collective-permute", "all-reduce")
    return {k: [c for c in computations if f" {k}(" in c or f" {k}-start(" in c] for k in kinds}


@pytest.mark.slow
def test_no_collective_but_the_sums():
    model, data = tiny_model(), world(SIZES)
    strategies = (fedavg(), lips(gradient="stored"))  # the second has client state and masks
    for strategy in strategies:
        found = collectives(strategy, model, data)
        assert found["all-reduce"]
        for kind in ("all-gather", "all-to-all", "reduce-scatter", "collective-permute"):
            assert not found[kind], kind
        # a step of local training draws the batch's rows and multiplies matrices
        for computation in found["all-reduce"]:
            assert " dot(" not in computation
            assert " convolution(" not in computation
