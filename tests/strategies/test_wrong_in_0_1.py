"""What version 0.1 got wrong in silence: each line fails there, with the figure it gave."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.worlds import simulate, tiny_model, world
from lipsjax import fedavg, simulation, strategies, transient_sparsity
from lipsjax.local import LocalTraining
from lipsjax.rounds import Participation
from lipsjax.strategy import ClientContext, RunContext, ServerContext, check_wraps, message_of
from lipsjax.types import LocalResult, Variables

RUN = RunContext(rounds=1, num_examples=(1,) * 6)
START = Variables({"w": jnp.zeros(8)}, {})
END = Variables({"w": jnp.array([3.0, -4.0, 0.5, 0.25, 1.0, -1.0, 0.125, 2.0])}, {})


def sent(strategy, client, end=END):
    """What one client adds to the global model, as the server makes it out, and its message."""
    context = ClientContext(
        RUN,
        START,
        client_state=strategy.init_client(RUN, START),
        key=jax.random.fold_in(jax.random.key(0), client),
        client_id=jnp.int32(client),
    )
    result = LocalResult(end, (), jnp.zeros(1), 0.0, 1, jnp.int32(1))
    encoded, _ = strategy.encode(context, result)
    return np.asarray(encoded.variables.params["w"]), message_of(strategy, context, result)[0]


def server_after(strategy, messages):
    """The global model after one round of these messages, which count the same."""
    mean = jax.tree.map(lambda *xs: sum(xs) / len(xs), *messages)
    context = ServerContext(RUN, START, strategy.init_server(RUN, START, None))
    return np.asarray(strategy.update(context, mean)[0].params["w"])


def faulty(kind, clients=1, scale=1.0):
    return strategies.faulty(fedavg(), clients=clients, kind=kind, num_classes=2, scale=scale)


def test_a_bound_holds_for_what_a_faulty_client_sends():
    """0.1 sent a norm of 100."""
    strategy = strategies.clip(faulty("sign_flip", scale=100.0), norm=1.0)
    assert np.linalg.norm(sent(strategy, 0)[0]) <= 1 + 1e-12
    assert np.linalg.norm(sent(strategy, 1)[0]) <= 1 + 1e-12


def test_the_server_moves_no_further_than_the_bound():
    """0.1 moved 2.45 where two of four clients were flipped 50 times."""
    strategy = strategies.clip(faulty("sign_flip", clients=2, scale=50.0), norm=0.1)
    moved = server_after(strategy, [sent(strategy, k)[1] for k in range(4)])
    assert np.linalg.norm(moved) <= 0.1 + 1e-12


@pytest.mark.parametrize("kind", ["sign_flip", "noise"])
def test_votes_feel_faults(kind):
    """0.1 gave the very same digits with 5 of 6 clients flipped as with none."""

    def end(strategy):
        return server_after(strategy, [sent(strategy, k)[1] for k in range(6)])

    honest = strategies.sign_majority(fedavg(), step=0.1)
    voted = strategies.sign_majority(faulty(kind, clients=5, scale=20.0), step=0.1)
    assert (end(voted) != end(honest)).any()
    if kind == "sign_flip":
        np.testing.assert_array_equal(end(voted), -end(honest))


def test_noise_is_on_the_update_before_it_is_encoded():
    """0.1 added it to what top_k had zeroed: 8 of 8 entries were not zero."""
    top_2 = strategies.compress(faulty("noise", clients=6), strategies.top_k(fraction=0.25))
    assert (sent(top_2, 0)[0] != 0).sum() == 2


def test_what_was_kept_back_does_not_pass_the_bound():
    """0.1 clipped before the error feedback was added, and sent a norm of 1.29."""
    strategy = strategies.clip(
        strategies.compress(fedavg(), strategies.top_k(fraction=0.25)), norm=1.0
    )
    state = strategy.init_client(RUN, START)
    for _ in range(3):
        context = ClientContext(RUN, START, client_state=state, key=jax.random.key(0))
        result = LocalResult(END, (), jnp.zeros(1), 0.0, 1, jnp.int32(1))
        encoded, state = strategy.encode(context, result)
        assert np.linalg.norm(encoded.variables.params["w"]) <= 1 + 1e-12


def test_an_unknown_wrapper_does_not_slip_through():
    """0.1 let ``fits(local(), "halfway")`` pass."""
    with pytest.raises(ValueError, match="not 'halfway'"):
        check_wraps(strategies.local(), "halfway")


def build(strategy, training, **options):
    return simulation.build(
        tiny_model(), strategy, training, rounds=2, data=world([6, 5, 7, 6]), **options
    )


@pytest.mark.parametrize("make", [strategies.scaffold, strategies.fednova])
def test_what_divides_by_steps_needs_plain_steps(make):
    """0.1 built ``scaffold(learning_rate=0.5)`` beside Adam, or a schedule of the rate."""
    for optimizer in (optax.adam(0.01), optax.sgd(0.1, 0.9, nesterov=True)):
        with pytest.raises(ValueError, match=r"needs optax\.sgd without nesterov"):
            build(make(), LocalTraining(optimizer, 1, 4))
    halved = LocalTraining(optax.sgd(0.1), 1, 4, rate=lambda t: 1 / (1 + t))
    with pytest.raises(ValueError, match="needs a constant learning rate"):
        build(make(), halved)


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (strategies.scaffold, "learning_rate"),
        (strategies.scaffold, "participation"),
        (strategies.feddyn, "participation"),
        (strategies.fednova, "momentum"),
        (strategies.feddst, "rounds"),
        (strategies.ifa, "rounds"),
        (strategies.fedper, "layers"),
        (strategies.fedrep, "epochs"),
        (transient_sparsity, "layers"),
    ],
)
def test_no_strategy_is_told_what_the_run_knows(make, fact):
    """0.1 built ``feddst(rounds=8)`` in 2 rounds, ``participation=1.0`` in a cohort of 2 of 4."""
    with pytest.raises(TypeError, match=fact):
        make(**{fact: 1})


def test_sgd_is_read_from_the_optimizer():
    sim = build(strategies.scaffold(), LocalTraining(optax.sgd(0.02, 0.8), 1, 4), cohort_size=2)
    assert sim.spec.run.sgd == (0.02, 0.8)
    assert (sim.spec.run.cohort, sim.spec.run.num_clients) == (2, 4)


@pytest.mark.slow
def test_masks_stay_with_the_clients_they_were_chosen_for():
    """0.1 applied those of clients 3, 5, 1 to clients 0, 3, 2 when run was called with another key.

    The key is part of the state, and ``run`` takes no other.
    """
    data = world([6, 5, 7, 6, 5, 6])
    lips = transient_sparsity(fedavg(), every=1, gradient="fresh")
    state, _, sim = simulate(
        tiny_model(norm="none"), lips, data, rounds=1, total=3, cohort_size=3, evaluate_every=0
    )
    assert state["sparse"]
    with pytest.raises(TypeError):
        sim.run(sim.from_host(state), jax.random.key(7), sim.place(data), 1)
    receivers = sim.cohort(jax.random.wrap_key_data(state["key"]), 1)
    np.testing.assert_array_equal(receivers, sim.cohort(jax.random.key(1), 1))


@pytest.mark.parametrize(
    "make", [strategies.scaffold, pytest.param(strategies.feddyn, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("sizes", "weighted"),
    [
        pytest.param([4] * 8, False, marks=pytest.mark.slow),
        ([9, 2, 6, 5, 7, 4, 3, 8], True),
    ],
)
def test_the_servers_state_is_the_mean_of_the_clients(make, sizes, weighted):
    """Of those who arrived, not of those who were drawn: 0.1 was off by 0.12, of equal sizes."""
    participation = Participation(dropout=0.5)
    state, metrics, _ = simulate(
        tiny_model(norm="none"),
        make(weighted=weighted),
        world(sizes),
        rounds=5,
        participation=participation,
        evaluate_every=0,
        chunk=8,
    )
    assert 0 < metrics.scalars["clients_arrived"].min() < 8
    share = np.array(sizes) / sum(sizes) if weighted else np.full(8, 1 / 8)
    mean = jax.tree.map(lambda x: np.tensordot(share, x, 1), state["client_states"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9),
        state["server_state"],
        mean,
    )
