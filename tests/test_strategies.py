"""Every strategy goes through the same battery; each is held to a loop written from its paper."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

import strategy_loops as loops
from lipsjax import models, simulation, strategies, transient_sparsity
from lipsjax.local import LocalTraining
from lipsjax.types import LocalResult, Received, Variables
from loop_reference import flat
from test_oracle import PUBLISHED, check, reference_model
from worlds import assert_close, simulate, tiny_model, world

RATE, MOMENTUM = 0.1, 0.9
SIZES, COHORT = [9, 2, 6, 5], 3


class Entry(NamedTuple):
    """A strategy and its oracle."""

    make: Any
    loop: type
    options: dict[str, float]
    steps: bool = False  # takes the clients' momentum
    share: bool = False  # takes the share of clients in a round


TABLE = {
    "fedprox": Entry(strategies.fedprox, loops.FedProxLoop, {"mu": 0.3}),
    "scaffold": Entry(
        strategies.scaffold, loops.ScaffoldLoop, {"server_learning_rate": 0.7}, True, True
    ),
    "feddyn": Entry(strategies.feddyn, loops.FedDynLoop, {"alpha": 0.2}, share=True),
    "fednova": Entry(strategies.fednova, loops.FedNovaLoop, {}, True),
    "fedavgm": Entry(
        strategies.fedavgm,
        loops.FedAvgMLoop,
        {"server_learning_rate": 0.7, "server_momentum": 0.5},
    ),
    "fedadagrad": Entry(
        strategies.fedadagrad, loops.FedAdagradLoop, {"server_learning_rate": 0.1, "tau": 0.01}
    ),
    **{
        name: Entry(
            getattr(strategies, name),
            loop,
            {"server_learning_rate": 0.1, "beta1": 0.8, "beta2": 0.9, "tau": 0.01},
        )
        for name, loop in (("fedadam", loops.FedAdamLoop), ("fedyogi", loops.FedYogiLoop))
    },
}


@pytest.fixture(params=TABLE)
def entry(request):
    return TABLE[request.param]


@pytest.fixture(params=[name for name in TABLE if name not in ("fedadagrad", "fedyogi")])
def distinct(request):
    """An entry; of those that differ by an elementwise rule at the server, one."""
    return TABLE[request.param]


def make(entry):
    options = dict(entry.options)
    if entry.steps:
        options["momentum"] = MOMENTUM
    if entry.make is strategies.scaffold:
        options["learning_rate"] = RATE
    if entry.share:
        options["participation"] = COHORT / len(SIZES)
    return entry.make(**options)


def wrap(strategy, model):
    return transient_sparsity(
        strategy, layers=model.layers, density=0.3, every=2, gradient="stored"
    )


@pytest.mark.parametrize("wrapped", [False, True], ids=["dense", "lips"])
def test_equals_its_loop(entry, wrapped):
    data, model = world(SIZES), tiny_model()
    strategy = make(entry)
    case = {**PUBLISHED, "density": 0.3, "every": 2, "criterion": "saliency", "gradient": "stored"}
    loop = entry.loop(
        reference_model(),
        data,
        jax.random.key(1),
        options=entry.options,
        rounds=4,
        epochs=2,
        batch_size=4,
        learning_rate=RATE,
        momentum=MOMENTUM,
        cohort=COHORT,
        sparsity=case if wrapped else None,
    )
    state, loop = check(
        model,
        wrap(strategy, model) if wrapped else strategy,
        data,
        loop,
        rounds=3,
        total=4,
        cohort_size=COHORT,
        compare_loss=False,
        chunk=2,
    )
    for client, own in enumerate(loop.clients):
        if own is not None:
            kept = state["clients"][1] if wrapped else state["clients"]
            assert_close(jax.tree.map(lambda x, c=client: x[c], kept), own)
            assert_close(state["server"][1] if wrapped else state["server"], loop.server)


def run(strategy, model, rounds=2, **options):
    """Trains alone: measures do not depend on the strategy, and take longer to compile."""
    return simulate(
        model, strategy, world(SIZES), rounds=rounds, total=3, evaluate_every=0, **options
    )


def test_chunks_and_devices(distinct):
    model = tiny_model()
    strategy = wrap(make(distinct), model)
    one, metrics, _ = run(strategy, model, cohort_size=COHORT, chunk=3)
    four, others, _ = run(strategy, model, cohort_size=COHORT, devices=4)
    jax.tree.map(np.testing.assert_array_equal, one["bits"], four["bits"])
    assert_close(one, four)
    assert_close(metrics, others)


def test_a_state_that_was_on_the_host_goes_on_to_the_same_bits(distinct):
    model, data, key = tiny_model(), world(SIZES), jax.random.key(1)
    sim = simulation.build(
        model,
        wrap(make(distinct), model),
        LocalTraining(optax.sgd(RATE, momentum=MOMENTUM), 2, 4),
        rounds=3,
        data=data,
        cohort_size=COHORT,
        evaluate_every=0,
        mesh=simulation.client_mesh(2),
    )
    placed, ends = sim.place(data), []
    for stop in (False, True):
        state = sim.init(key)
        for _ in range(3):
            state, _ = sim.run(state, key, placed, 1)
            if stop:
                state = sim.from_host(sim.to_host(state, key), key)
        ends.append(sim.to_host(state, key))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_zero_learning_rate_changes_nothing(entry):
    model = tiny_model(norm="group")
    training = LocalTraining(optax.sgd(0.0, momentum=MOMENTUM), 2, 4)
    state, _, sim = run(make(entry), model, training=training, cohort_size=COHORT)
    start = sim.to_host(sim.init(jax.random.key(1)), jax.random.key(1))
    assert_close(state["average"].params, start["average"].params, 1e-12)


def quadratics(strategy, hessians, optima, *, rounds, steps=5, rate=0.05, momentum=0.0):
    """Rounds on ``f_k(w) = (w - w_k)' diag(h_k) (w - w_k) / 2`` of clients that count the same.

    ``steps`` is one number or one for each client; returns the average after every round, [T, n].
    """
    hessians, optima = jnp.asarray(hessians), jnp.asarray(optima)
    count, n = optima.shape
    steps = np.broadcast_to(steps, count)
    start = Variables({"w": jnp.zeros(n)}, {})
    base = optax.sgd(rate, momentum)

    def client(k, server, own, average):
        received = Received(strategy.receive(server, own, average, None), server, own, None)

        def loss(params, norm):
            return jnp.sum(hessians[k] * (params["w"] - optima[k]) ** 2) / 2, norm

        gradient = jax.grad(strategy.loss(loss, received), has_aux=True)
        optimizer = strategy.optimizer(base, received)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(gradient(params, {})[0], state, params)
            return (optax.apply_updates(params, updates), state), None

        params = received.variables.params
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=steps[k])
        taken = jnp.asarray(steps[k], jnp.int32)
        return strategy.send(
            received, LocalResult(Variables(params, {}), (), jnp.zeros(1), 0.0, 0, taken)
        )

    @jax.jit
    def one_round(server, owns, average):
        sent = [client(k, server, own, average) for k, own in enumerate(owns)]
        mean = jax.tree.map(lambda *xs: sum(xs) / count, *[message for message, _ in sent])
        average, server = strategy.update(server, average, mean)
        return server, [own for _, own in sent], average

    carry = strategy.init_server(start), [strategy.init_client(start)] * count, start
    path = []
    for _ in range(rounds):
        carry = one_round(*carry)
        path.append(np.asarray(carry[2].params["w"]))
    return np.array(path)


HESSIANS = np.array([[1.0, 4.0], [6.0, 0.5], [2.0, 3.0]])
OPTIMA = np.array([[2.0, -1.0], [-1.0, 3.0], [0.5, 0.5]])
TRUE = (HESSIANS * OPTIMA).sum(0) / HESSIANS.sum(0)


def biased(steps, rate):
    """Where FedAvg stops: each client pulls by how far its steps go, ``1 - (1 - rate h)^steps``."""
    pull = 1 - (1 - rate * HESSIANS) ** np.reshape(steps, (-1, 1))
    return (pull * OPTIMA).sum(0) / pull.sum(0)


def test_fedavg_stops_at_its_biased_fixed_point():
    end = quadratics(strategies.fedavg(), HESSIANS, OPTIMA, rounds=200, steps=8)[-1]
    np.testing.assert_allclose(end, biased(8, 0.05), rtol=1e-9)
    assert np.abs(end - TRUE).max() > 0.1


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_scaffold_reaches_the_optimum(momentum):
    strategy = strategies.scaffold(learning_rate=0.02, momentum=momentum)
    end = quadratics(strategy, HESSIANS, OPTIMA, rounds=600, steps=8, rate=0.02, momentum=momentum)[
        -1
    ]
    np.testing.assert_allclose(end, TRUE, rtol=1e-7)


def test_feddyn_reaches_the_optimum():
    end = quadratics(strategies.feddyn(alpha=1.0), HESSIANS, OPTIMA, rounds=600, steps=8)[-1]
    np.testing.assert_allclose(end, TRUE, rtol=1e-7)


@pytest.mark.parametrize("make", [strategies.fedadam, strategies.fedyogi, strategies.fedadagrad])
def test_a_server_optimizer_reaches_where_fedavg_stops(make):
    strategy = make(server_learning_rate=0.1, tau=0.1)
    end = quadratics(strategy, HESSIANS, OPTIMA, rounds=4000, steps=8)[-1]
    np.testing.assert_allclose(end, biased(8, 0.05), rtol=1e-6)


def test_fednova_does_not_follow_who_takes_more_steps():
    """For small steps FedAvg solves the problem in which client k counts by its steps."""
    steps, rate = [2, 20, 6], 1e-4
    weighted = (np.reshape(steps, (-1, 1)) * HESSIANS * OPTIMA).sum(0)
    weighted /= (np.reshape(steps, (-1, 1)) * HESSIANS).sum(0)
    options = {"steps": steps, "rate": rate}
    averaged = biased(steps, rate)
    np.testing.assert_allclose(averaged, weighted, rtol=0.01)
    lengths = np.reshape(steps, (-1, 1))
    pull = (1 - (1 - rate * HESSIANS) ** lengths) / lengths
    expected = (pull * OPTIMA).sum(0) / pull.sum(0)
    np.testing.assert_allclose(expected, TRUE, rtol=0.01)
    # rounds begin at 0; there it stays, if that is the fixed point
    shifted = OPTIMA - expected
    np.testing.assert_allclose(
        quadratics(strategies.fednova(), HESSIANS, shifted, rounds=1, **options), 0, atol=1e-12
    )


problems = draw.tuples(
    draw.lists(draw.floats(0.1, 5), min_size=3, max_size=3),
    draw.lists(draw.floats(-3, 3), min_size=3, max_size=3),
    draw.integers(1, 6),
    draw.floats(0.01, 0.15),
)


@settings(max_examples=8, deadline=None)
@given(problems, draw.sampled_from([0.0, 0.9]))
def test_laws(problem, momentum):
    """Where a method's own parameter vanishes, it is what its paper says."""
    hessians, optima = (np.reshape(x, (3, 1)) for x in problem[:2])
    options = {"rounds": 3, "steps": problem[2], "rate": problem[3], "momentum": momentum}
    averaged = quadratics(strategies.fedavg(), hessians, optima, **options)
    for same in (
        strategies.fedprox(mu=0.0),
        strategies.fednova(momentum=momentum),  # equal steps
        strategies.fedopt(optax.sgd(1.0)),
        strategies.fedavgm(server_learning_rate=1.0, server_momentum=0.0),
    ):
        found = quadratics(same, hessians, optima, **options)
        np.testing.assert_allclose(found, averaged, rtol=1e-9, atol=1e-12)
    one = hessians[:1], optima[:1]
    control = strategies.scaffold(learning_rate=problem[3], momentum=momentum)
    alone = quadratics(strategies.fedavg(), *one, **options)
    np.testing.assert_allclose(quadratics(control, *one, **options), alone, rtol=1e-9, atol=1e-12)


def test_feddyn_without_a_regulariser_moves_by_what_clients_moved():
    """As alpha tends to 0 clients train plainly, and h / alpha stays: w = mean(w_k) - h / alpha."""
    averaged = quadratics(strategies.fedavg(), HESSIANS, OPTIMA, rounds=1)
    for alpha in (0.0, 1e-9):
        found = quadratics(strategies.feddyn(alpha=alpha), HESSIANS, OPTIMA, rounds=1)
        np.testing.assert_allclose(found, 2 * averaged, rtol=1e-6)  # the average began as 0


def test_one_client_with_all_data_is_plain_sgd():
    data, model = world([12]), tiny_model(norm="group")
    training = LocalTraining(optax.sgd(0.1), 1, 12)
    plain, *_ = simulate(model, strategies.fedavg(), data, rounds=2, training=training)
    for strategy in (strategies.fednova(), strategies.scaffold(learning_rate=0.1)):
        state, *_ = simulate(model, strategy, data, rounds=2, training=training)
        assert_close(state["average"], plain["average"])


def test_variances_do_not_go_through_the_servers_optimizer():
    model = tiny_model(norm="batch")
    strategy = strategies.fedadam(server_learning_rate=5.0)
    state, *_ = run(strategy, model)
    variances = [x for p, x in flat(state["average"].norm).items() if p.endswith("var")]
    assert all((x > 0).all() for x in variances)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: strategies.fedprox(mu=-1), "mu must be at least 0, not -1"),
        (lambda: strategies.feddyn(alpha=-1), "alpha must be at least 0, not -1"),
        (lambda: strategies.feddyn(participation=0), r"participation must be in \(0, 1\], not 0"),
        (lambda: strategies.scaffold(learning_rate=0), "learning_rate must be above 0, not 0"),
        (lambda: strategies.fednova(momentum=1), r"momentum must be in \[0, 1\), not 1"),
        (lambda: strategies.fedadam(beta2=1.5), r"beta2 must be in \[0, 1\), not 1.5"),
        (lambda: strategies.fedyogi(tau=0), "tau must be above 0, not 0"),
        (
            lambda: strategies.fedavgm(server_momentum=-0.1),
            r"server_momentum must be in \[0, 1\), not -0.1",
        ),
    ],
)
def test_what_is_out_of_range_is_refused(make, part):
    with pytest.raises(ValueError, match=part):
        make()


def test_personal_leaves_and_control_variates_do_not_go_together():
    model = tiny_model()
    strategy = strategies.keep_local(strategies.feddyn(), models.is_norm)
    with pytest.raises(ValueError, match="keep_local goes around strategies without client state"):
        run(strategy, model)
