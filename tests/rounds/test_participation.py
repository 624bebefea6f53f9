"""Who takes part, who arrives, who comes later: against loops, and by their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import strategy_loops as loops
from helpers.oracle import reference_model
from helpers.worlds import assert_close, simulate, tiny_model, world
from lipsjax import fedavg, strategies, transient_sparsity
from lipsjax.keys import Purpose
from lipsjax.rounds import Participation
from lipsjax.rounds.participation import draw_cohort, draw_outcome

SIZES = [9, 2, 6, 5, 13]
CHANCES = {"dropout": 0.2, "mid_round_dropout": 0.2, "stragglers": 0.5, "min_work": 0.3}


def loop_of(kind, data, **options):
    return kind(
        reference_model(),
        data,
        jax.random.key(1),
        rounds=5,
        epochs=2,
        batch_size=4,
        learning_rate=0.1,
        **options,
    )


@pytest.mark.parametrize(
    "make", [pytest.param(fedavg, marks=pytest.mark.slow), strategies.scaffold]
)
@pytest.mark.slow
def test_a_round_in_which_some_do_not_arrive(make):
    data, scaffold = world(SIZES), make is not fedavg
    kind = loops.ParticipationLoop
    options = dict(CHANCES)
    if scaffold:
        kind = type("ScaffoldOfSome", (loops.ParticipationLoop, loops.ScaffoldLoop), {})
        options |= {"server_learning_rate": 1.0}
    loop = loop_of(kind, data, options=options, cohort=3)
    outcomes, drawn = [], []
    outcome = loop.outcome
    state, metrics, _ = simulate(
        tiny_model(),
        make(),
        data,
        rounds=5,
        cohort_size=3,
        participation=Participation("examples", **CHANCES),
        chunk=2,
    )
    for t in range(5):
        members = loop.cohort(t)
        outcomes.append([outcome(c)[0] for c in members])
        drawn.append(members)
        row = loop.round()
        counts = {n: outcomes[-1].count(n) for n in ("dropped", "stopped", "straggled")}
        for name, count in counts.items():
            assert metrics.scalars[f"clients_{name}"][t] == count
        assert metrics.scalars["clients_arrived"][t] == sum(
            f in ("arrived", "straggled") for f in outcomes[-1]
        )
        for name in ("accuracy_before", "accuracy_dense", "global_accuracy"):
            np.testing.assert_allclose(metrics.scalars[name][t], row[name], rtol=1e-9)
    assert {f for round_ in outcomes for f in round_} == {
        "arrived",
        "dropped",
        "stopped",
        "straggled",
    }
    assert_close(state["global_model"], loop.average)
    for client, own in enumerate(loop.clients):
        if own is not None:
            assert_close(jax.tree.map(lambda x, c=client: x[c], state["client_states"]), own)


def test_of_a_round_that_nobody_ends_nothing_stays():
    strategy = strategies.fedadam()
    never = Participation(dropout=np.nextafter(1.0, 0))
    state, metrics, sim = simulate(
        tiny_model(), strategy, world(SIZES), rounds=2, participation=never, evaluate_every=0
    )
    start = sim.to_host(sim.init(jax.random.key(1)))
    assert_close(state["global_model"], start["global_model"], 0)
    assert_close(state["server_state"], start["server_state"], 0)
    assert metrics.scalars["clients_dropped"].tolist() == [len(SIZES)] * 2
    assert metrics.scalars["clients_arrived"].tolist() == [0, 0]


def test_outcomes_come_as_often_as_asked():
    asked = Participation(dropout=0.3, mid_round_dropout=0.5, stragglers=1.0, min_work=0.5)
    outcomes = jax.vmap(
        lambda client: draw_outcome(asked, jax.random.key(0), jnp.int32(0), client, jnp.int32(20))
    )(jnp.arange(4000))
    assert abs(outcomes.dropped.mean() - 0.3) < 0.03
    assert abs(outcomes.stopped.mean() - 0.7 * 0.5) < 0.03
    assert (outcomes.dropped.astype(int) + outcomes.stopped + outcomes.straggled == 1).all()
    assert (outcomes.steps[outcomes.dropped] == 0).all()
    assert outcomes.steps[outcomes.straggled].min() == 10
    assert outcomes.steps[outcomes.straggled].max() == 19
    assert (outcomes.arrives == outcomes.straggled).all()


@pytest.mark.slow
def test_clients_are_drawn_in_proportion_to_their_examples():
    _, _, sim = simulate(
        tiny_model(),
        fedavg(),
        world(SIZES),
        rounds=1,
        cohort_size=1,
        participation=Participation("examples"),
        evaluate_every=0,
    )
    key, spec = jax.random.key(0), sim.spec
    draw = jax.jit(jax.vmap(lambda t: draw_cohort(spec.run, spec.participation, key, t)))
    drawn = np.bincount(np.asarray(draw(jnp.arange(4000))).ravel(), minlength=5) / 4000
    np.testing.assert_allclose(drawn, np.array(SIZES) / sum(SIZES), atol=0.03)


@pytest.mark.parametrize(
    "name",
    ["fedavg", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ditto", "fedper", "fedrep"))],
)
@pytest.mark.slow
def test_fine_tuning_and_new_clients(name):
    """Against the loop: tuned models of the cohort and of clients that never trained."""
    data = world(SIZES)
    options, personal = {}, None
    kind = loops.StrategyLoop
    if name in ("fedper", "fedrep"):
        personal = lambda path: path.split("/")[1] == "classifier"  # noqa: E731
    if name == "fedrep":
        kind, options = loops.FedRepLoop, {"head_epochs": 1}
    if name == "ditto":
        kind, options = loops.DittoLoop, {"lam": 0.5}
    make = {
        "fedavg": fedavg,
        "fedper": strategies.fedper,
        "fedrep": strategies.fedrep,
        "ditto": lambda: strategies.ditto(lam=0.5),
    }[name]
    trained = data._replace(train_index=data.train_index[:3], train_mask=data.train_mask[:3])
    loop = loop_of(kind, trained, options=options, personal=personal)
    state, metrics, _ = simulate(
        tiny_model(),
        make(),
        data,
        rounds=2,
        new_clients=2,
        tune_epochs=3,
        chunk=2,
        devices=2,
        evaluate_every=2,
    )
    for _ in range(2):
        loop.round()
    assert_close(state["global_model"], loop.average)
    loop.data, loop.num_clients, loop.epochs, loop.t = data, 5, 3, 1
    loop.memory += [loop.own_leaves(loop.initial)] * 2
    loop.clients = loop.clients + [(None, False, ())] * 2
    only_head = name == "fedrep"
    scores = {c: tuned(loop, c, only_head) for c in range(5)}
    found = metrics.scalars
    assert np.isnan(found["accuracy_tuned"][0])
    expected = {
        "accuracy_tuned": np.mean([scores[c][1] for c in range(3)]),
        "accuracy_new": np.mean([scores[c][0] for c in (3, 4)]),
        "accuracy_new_tuned": np.mean([scores[c][1] for c in (3, 4)]),
    }
    for key, value in expected.items():
        np.testing.assert_allclose(found[key][1], value, rtol=1e-9, err_msg=key)
    for place, key in enumerate(("accuracy", "accuracy_tuned")):
        of_each = metrics.by["new_clients"][key]
        assert np.isnan(of_each[0]).all()
        np.testing.assert_allclose(of_each[1], [scores[c][place] for c in (3, 4)], rtol=1e-9)


def tuned(loop, client, only_head):
    """Accuracy of a client on its test set, before and after fine-tuning."""
    start = loop.predicts(client, loop.with_own(loop.average, client))
    plain = loops.StrategyLoop.__mro__[1]
    moves, shape, purpose = loop.moves, loop.shape, loop.purpose
    loop.moves = lambda path, epoch: not only_head or path.startswith("classifier")
    loop.shape = lambda gradient, params, start, client: gradient
    loop.purpose = Purpose.FINETUNING
    model, *_ = plain.train(loop, client, start, None)
    loop.moves, loop.shape, loop.purpose = moves, shape, purpose
    return loop.score_own(start, client)[0], loop.score_own(model, client)[0]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"participation": Participation("luck")}, "sampling must be one of uniform, examples"),
        ({"participation": Participation(dropout=1.0)}, r"dropout must be in \[0, 1\), not 1.0"),
        (
            {"participation": Participation(mid_round_dropout=-0.1)},
            r"mid_round_dropout must be in \[0, 1\), not -0.1",
        ),
        ({"participation": Participation(min_work=0)}, r"min_work must be in \(0, 1\], not 0"),
        ({"new_clients": 5}, "new_clients must be in 0..4, not 5"),
        ({"new_clients": 2, "cohort_size": 4}, "cohort must be in 1..3, not 4"),
        ({"tune_epochs": -1}, "tune_epochs must be at least 0, not -1"),
    ],
)
def test_what_is_out_of_range_is_refused(options, part):
    with pytest.raises(ValueError, match=part):
        simulate(tiny_model(), fedavg(), world(SIZES), rounds=1, **options)


def test_last_gradients_need_everyone_to_arrive():
    model = tiny_model()
    lips = transient_sparsity(fedavg())
    with pytest.raises(ValueError, match="gradient='last_local' needs every client to end every"):
        simulate(model, lips, world(SIZES), rounds=1, participation=Participation(dropout=0.1))
