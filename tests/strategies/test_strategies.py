"""Every strategy goes through the same battery; each is held to a loop written from its paper."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from helpers import strategy_loops as loops
from helpers.loop_reference import flat
from helpers.oracle import PUBLISHED, check, reference_model
from helpers.quadratics import HESSIANS, OPTIMA, TRUE, biased, quadratics
from helpers.worlds import assert_close, simulate, tiny_model, world
from lipsjax import models, strategies, transient_sparsity
from lipsjax.local import LocalTraining

RATE, MOMENTUM = 0.1, 0.9
SIZES, COHORT = [9, 2, 6, 5], 3


def is_head(path):
    return path.split("/")[1] == "classifier"


class Entry(NamedTuple):
    """A strategy, its oracle, and what both take."""

    make: Any  # (**options) -> strategy
    loop: type
    options: Mapping[str, Any] = MappingProxyType({})
    lips: bool = True  # whether transient sparsity goes around it
    personal: Any = None  # of the loop
    masks: dict[str, Any] | None = None  # of the loop: the strategy's own
    total: int = 4  # rounds that a run is planned for
    rounds: int = 3
    norm: str = "batch"
    tolerance: float = 1e-9


HELD = {**PUBLISHED, "criterion": "magnitude", "gradient": "last_local", "hold": np.inf}


def around(wrapper):
    return lambda **options: wrapper(strategies.fedavg(), **options)


def coded(codec):
    return lambda **options: strategies.compress(strategies.fedavg(), codec(**options))


def top_k_scaffold(fraction, **options):
    inner = strategies.scaffold(**options)
    return strategies.compress(inner, strategies.top_k(fraction=fraction))


FEDAVGM_OPTIONS = {"server_learning_rate": 1.0, "server_momentum": 0.9}
SERVER_OPTIONS = {"server_learning_rate": 0.1, "beta1": 0.8, "beta2": 0.9, "tau": 0.01}
TABLE = {
    "fedavg": Entry(strategies.fedavg, loops.StrategyLoop),
    "uniform": Entry(
        functools.partial(strategies.fedavg, weighted=False), loops.UniformWeight, lips=False
    ),
    "fedprox": Entry(strategies.fedprox, loops.FedProxLoop, {"mu": 0.3}),
    "scaffold": Entry(strategies.scaffold, loops.ScaffoldLoop, {"server_learning_rate": 0.7}),
    "feddyn": Entry(strategies.feddyn, loops.FedDynLoop, {"alpha": 0.2}),
    "fednova": Entry(strategies.fednova, loops.FedNovaLoop),
    "moon": Entry(strategies.moon, loops.MoonLoop, {"mu": 1.5, "temperature": 0.4}),
    "fedavgm": Entry(
        strategies.fedavgm,
        loops.FedAvgMLoop,
        {"server_learning_rate": 0.7, "server_momentum": 0.5},
    ),
    "fedadagrad": Entry(
        strategies.fedadagrad,
        loops.FedAdagradLoop,
        {"server_learning_rate": 0.1, "tau": 0.01},
    ),
    "fedadam": Entry(strategies.fedadam, loops.FedAdamLoop, SERVER_OPTIONS),
    "fedyogi": Entry(strategies.fedyogi, loops.FedYogiLoop, SERVER_OPTIONS),
    "fedbn": Entry(
        around(lambda s: strategies.keep_local(s, models.is_norm)),
        loops.StrategyLoop,
        personal=models.is_norm,
    ),
    "local": Entry(strategies.local, loops.StrategyLoop, personal=lambda path: True, lips=False),
    "fedper": Entry(strategies.fedper, loops.StrategyLoop, personal=is_head),
    "fedrep": Entry(
        strategies.fedrep,
        loops.FedRepLoop,
        {"head_epochs": 1},
        personal=is_head,
    ),
    "fedbabu": Entry(strategies.fedbabu, loops.FedBabuLoop),
    "ditto": Entry(strategies.ditto, loops.DittoLoop, {"lam": 0.7}),
    "fedpart": Entry(
        functools.partial(strategies.fedpart, full_rounds=1, rounds_per_layer=1, full_between=1),
        loops.FedPartLoop,
        lips=False,
        total=7,
        rounds=7,
    ),
    "ifa": Entry(
        strategies.ifa,
        loops.IfaLoop,
        {"every": 2, "fraction": 0.4, "later": False},
    ),
    "ifa later": Entry(
        strategies.ifa,
        loops.IfaLoop,
        {"every": 1, "fraction": 0.4, "later": True},
        lips=False,
    ),
    "feddst": Entry(
        strategies.feddst,
        loops.FedDstLoop,
        {"density": 0.4, "every": 1, "fraction": 0.5},
        lips=False,
        total=8,
        rounds=5,
    ),
    "constant_topk": Entry(
        strategies.constant_topk,
        loops.StrategyLoop,
        {"density": 0.3},
        lips=False,
        masks={**HELD, "density": 0.3, "every": 1, "schedule": "constant"},
    ),
    "dsd": Entry(
        strategies.dsd,
        loops.DsdLoop,
        {"density": 0.3, "start": 0.2, "end": 0.6},
        lips=False,
        masks={**HELD, "every": 1},
        total=5,
        rounds=5,
    ),
    "top_k of scaffold": Entry(
        top_k_scaffold, loops.TopKScaffoldLoop, {"fraction": 0.2, "server_learning_rate": 0.7}
    ),
    "quantise": Entry(coded(strategies.quantise), loops.QuantiseLoop, {"levels": 3}),
    # a bias before normalisation has a gradient of 0 and rounding, whose sign is anything
    "sign_majority": Entry(
        around(strategies.sign_majority), loops.SignLoop, {"step": 0.01}, norm="none"
    ),
    "median": Entry(around(strategies.median), loops.MedianLoop),
    "trimmed_mean": Entry(around(strategies.trimmed_mean), loops.TrimmedLoop, {"trim": 0.34}),
    "clip": Entry(around(strategies.clip), loops.ClipLoop, {"norm": 0.5}),
    **{
        kind: Entry(
            around(strategies.faulty),
            loops.FaultyLoop,
            {"clients": 2, "kind": kind, "num_classes": 4, "scale": 0.1},
            lips=kind == "label_flip",
            tolerance=1e-6 if kind == "noise" else 1e-9,  # drawn in float32
            norm="none",
        )
        for kind in ("label_flip", "noise", "sign_flip")
    },
}
# measures depend on a strategy by what clients predict with, and keep, alone: one of each
MEASURED = ("fedavg", "scaffold", "fedbn", "ditto", "median")


def case(name, wrapped):
    """One with state at clients and server, and in LIPS, stands for all where time is short."""
    quick = wrapped and name == "scaffold"
    return pytest.param(name, wrapped, marks=() if quick else pytest.mark.slow)


WRAPPED = [
    *(case(name, False) for name in TABLE),
    *(case(name, True) for name, entry in TABLE.items() if entry.lips),
]


def make(entry, *, wrapped=False):
    strategy = entry.make(**entry.options)
    if not wrapped:
        return strategy
    return transient_sparsity(strategy, density=0.3, every=2, gradient="stored")


@pytest.mark.parametrize(("name", "wrapped"), WRAPPED)
def test_equals_its_loop(name, wrapped):
    """On one device in chunks; as it is in LIPS, or alone if it does not go there, on four."""
    entry, data = TABLE[name], world(SIZES)
    is_spread = wrapped or not entry.lips
    model = tiny_model(norm=entry.norm)
    case = {**PUBLISHED, "density": 0.3, "every": 2, "criterion": "saliency", "gradient": "stored"}
    loop = entry.loop(
        reference_model(entry.norm),
        data,
        jax.random.key(1),
        options=entry.options,
        rounds=entry.total,
        epochs=2,
        batch_size=4,
        learning_rate=RATE,
        momentum=MOMENTUM,
        cohort=COHORT,
        personal=entry.personal,
        sparsity=case if wrapped else entry.masks,
    )
    state, loop = check(
        model,
        make(entry, wrapped=wrapped),
        data,
        loop,
        rounds=entry.rounds,
        total=entry.total,
        cohort_size=COHORT,
        compare_loss=False,
        chunk=1 if is_spread else 2,
        devices=4 if is_spread else 1,
        stops=is_spread,
        tolerance=entry.tolerance,
        evaluate_every=int(name in MEASURED and not wrapped),
    )
    kept, server = state["client_states"], state["server_state"]
    if wrapped:
        kept, server = kept.inner, server.inner
    if name == "top_k of scaffold":
        lost, kept = kept
        for client, own in enumerate(loop.lost):
            assert_close({p: x[client] for p, x in flat(lost).items()}, by_path(own))
    for client, own in enumerate(loop.clients):
        if own is not None:
            assert_close([x[client] for x in jax.tree.leaves(kept)], jax.tree.leaves(own))
    if isinstance(loop.server, dict) and name == "feddst":
        assert_close(server, tuple(loop.server.values()), 0)
    elif loop.server is not None:
        assert_close(server, loop.server)


INSIDE = {
    "fedadam": (strategies.fedadam(**SERVER_OPTIONS), loops.FedAdamLoop, SERVER_OPTIONS),
    "fedavgm": (strategies.fedavgm(), loops.FedAvgMLoop, FEDAVGM_OPTIONS),
    "quantise": (coded(strategies.quantise)(levels=3), loops.QuantiseLoop, {"levels": 3}),
    "sign_majority": (
        strategies.sign_majority(strategies.fedavg(), step=0.01),
        loops.SignLoop,
        {"step": 0.01},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INSIDE)
def test_what_masks_have_held_is_no_step_whatever_the_server_makes_of_it(name):
    """Server optimizers and votes move held weights off zero; no client has moved them."""
    strategy, loop, options = INSIDE[name]
    data, masks = world(SIZES), TABLE["constant_topk"].masks
    loop = loop(
        reference_model("none"),
        data,
        jax.random.key(1),
        options=options,
        rounds=4,
        epochs=2,
        batch_size=4,
        learning_rate=RATE,
        momentum=MOMENTUM,
        cohort=COHORT,
        sparsity=masks,
    )
    strategy = strategies.constant_topk(strategy, density=0.3)
    check(
        tiny_model(norm="none"),
        strategy,
        data,
        loop,
        rounds=3,
        total=4,
        cohort_size=COHORT,
        compare_loss=False,
        devices=4,
        clients_on_global=True,
    )


def by_path(params):
    return {f"params/{path}": x for path, x in params.items()}


def run(strategy, model, rounds=2, **options):
    """Trains alone: measures do not depend on the strategy, and take longer to compile."""
    return simulate(
        model, strategy, world(SIZES), rounds=rounds, total=3, evaluate_every=0, **options
    )


MOVES_ALONE = ("ifa", "ifa later", "sign_majority", "noise")
DIVIDES = ("scaffold", "fednova", "top_k of scaffold")  # by the learning rate
STANDS_STILL = [n for n in TABLE if n not in (*MOVES_ALONE, *DIVIDES)]


@pytest.mark.slow
@pytest.mark.parametrize("name", STANDS_STILL)
def test_zero_learning_rate_changes_nothing(name):
    """But for what moves by itself: forgetting, votes, noise, and masks of the strategy's own."""
    entry, model = TABLE[name], tiny_model(norm="group")
    training = LocalTraining(optax.sgd(0.0, momentum=MOMENTUM), 2, 4)
    state, _, sim = run(make(entry), model, training=training, cohort_size=COHORT)
    start = sim.to_host(sim.init(jax.random.key(1)))
    now, before = (flat(s["global_model"].params) for s in (state, start))
    if name in ("feddst", "constant_topk", "dsd"):
        for path in now:  # a weight stays, or is masked
            gone = now[path] == 0
            np.testing.assert_allclose(now[path][~gone], before[path][~gone], rtol=1e-12)
        assert any((x == 0).any() for x in now.values()) or name == "dsd"
    else:
        assert_close(now, before, 1e-12)


def test_fedavg_stops_at_its_biased_fixed_point():
    end = quadratics(strategies.fedavg(), HESSIANS, OPTIMA, rounds=200, steps=8)[-1]
    np.testing.assert_allclose(end, biased(8, 0.05), rtol=1e-9)
    assert np.abs(end - TRUE).max() > 0.1


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_scaffold_reaches_the_optimum(momentum):
    strategy = strategies.scaffold()
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


REDUCED = {
    "fedprox": lambda momentum: strategies.fedprox(mu=0.0),
    "fednova": lambda momentum: strategies.fednova(),  # equal steps
    "fedopt": lambda momentum: strategies.fedopt(optax.sgd(1.0)),
    "fedavgm": lambda momentum: strategies.fedavgm(server_learning_rate=1.0, server_momentum=0.0),
    "fedpart, all layers": lambda momentum: strategies.fedpart(rounds_per_layer=0),
    "ifa, nothing forgotten": lambda momentum: strategies.ifa(every=1, fraction=0.0),
    "ditto": lambda momentum: strategies.ditto(lam=0.0),  # of its shared model
    "moon, no contrast": lambda momentum: strategies.moon(mu=0.0),
    "top_k, all": lambda momentum: strategies.compress(
        strategies.fedavg(), strategies.top_k(fraction=1.0)
    ),
    "clip, no bound met": lambda momentum: strategies.clip(strategies.fedavg(), norm=1e9),
    "trimmed_mean, nothing left out": lambda momentum: strategies.trimmed_mean(
        strategies.fedavg(), trim=0.0
    ),
    "faulty, nobody": lambda momentum: strategies.faulty(
        strategies.fedavg(), clients=0, kind="sign_flip", num_classes=2
    ),
}


@settings(max_examples=4, deadline=None)
@given(problems, draw.sampled_from([0.0, 0.9]))
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("fednova", "ditto", "top_k, all") else pytest.mark.slow)
        for n in REDUCED
    ],
)
def test_reduces_to_fedavg(name, problem, momentum):
    """Where a method's own parameter vanishes, it is what its paper says."""
    hessians, optima = (np.reshape(x, (3, 1)) for x in problem[:2])
    options = {"rounds": 3, "steps": problem[2], "rate": problem[3], "momentum": momentum}
    averaged = quadratics(strategies.fedavg(), hessians, optima, **options)
    found = quadratics(REDUCED[name](momentum), hessians, optima, **options)
    np.testing.assert_allclose(found, averaged, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(problems, draw.sampled_from([0.0, 0.9]))
def test_scaffold_of_one_client_is_sgd(problem, momentum):
    hessians, optima = (np.reshape(x, (3, 1)) for x in problem[:2])
    options = {"rounds": 3, "steps": problem[2], "rate": problem[3], "momentum": momentum}
    one = hessians[:1], optima[:1]
    control = strategies.scaffold()
    alone = quadratics(strategies.fedavg(), *one, **options)
    np.testing.assert_allclose(quadratics(control, *one, **options), alone, rtol=1e-9, atol=1e-12)


@settings(max_examples=8, deadline=None)
@given(problems)
def test_ditto_that_is_not_pulled_has_models_of_their_own(problem):
    """With lambda 0 client k goes as by itself: v - w_k shrinks by ``1 - rate h_k`` a step."""
    hessians, optima = (np.reshape(x, (3, 1)) for x in problem[:2])
    steps, rate = problem[2:]
    _, owns = quadratics(
        strategies.ditto(lam=0.0), hessians, optima, rounds=3, steps=steps, rate=rate, states=True
    )
    found = [float(own.outer.model.params["w"][0]) for own in owns]
    alone = optima - (1 - rate * hessians) ** (3 * steps) * optima
    np.testing.assert_allclose(found, alone.ravel(), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_ditto_that_is_not_pulled_trains_alone():
    """With lambda 0 a client's own model is what it learns by itself, round after round."""
    model = tiny_model()
    pulled, *_ = run(strategies.ditto(lam=0.0), model, cohort_size=COHORT)
    alone, *_ = run(
        strategies.keep_local(strategies.fedavg(), lambda p: True), model, cohort_size=COHORT
    )
    own = pulled["client_states"].outer.model
    for path, values in alone["client_states"].outer.items():
        assert_close(flat(own)[path], values)


@pytest.mark.parametrize(
    ("make_sparse", "options"),
    [
        (strategies.constant_topk, {}),
        (strategies.dsd, {}),
        (strategies.feddst, {"fraction": 0.0}),  # what is replaced would begin at zero
    ],
)
@pytest.mark.slow
def test_masks_that_keep_everything_change_nothing(make_sparse, options):
    model = tiny_model()
    kept, *_ = run(make_sparse(density=1.0, **options), model)
    plain_average, *_ = run(strategies.fedavg(), model)
    assert_close(kept["global_model"], plain_average["global_model"], 1e-12)


def test_feddyn_without_a_regulariser_moves_by_what_clients_moved():
    """As alpha tends to 0 clients train plainly, and h / alpha stays: w = mean(w_k) - h / alpha."""
    averaged = quadratics(strategies.fedavg(), HESSIANS, OPTIMA, rounds=1)
    for alpha in (0.0, 1e-9):
        found = quadratics(strategies.feddyn(alpha=alpha), HESSIANS, OPTIMA, rounds=1)
        np.testing.assert_allclose(found, 2 * averaged, rtol=1e-6)  # the average began as 0


@pytest.mark.slow
def test_one_client_with_all_data_is_plain_sgd():
    data, model = world([12]), tiny_model(norm="group")
    training = LocalTraining(optax.sgd(0.1), 1, 12)
    plain, *_ = simulate(model, strategies.fedavg(), data, rounds=2, training=training)
    for strategy in (
        strategies.fednova(),
        strategies.scaffold(),
        strategies.fedper(),
        strategies.median(strategies.fedavg()),
    ):
        state, *_ = simulate(model, strategy, data, rounds=2, training=training)
        assert_close(state["global_model"], plain["global_model"])


@pytest.mark.slow
def test_variances_do_not_go_through_the_servers_optimizer():
    model = tiny_model(norm="batch")
    strategy = strategies.fedadam(server_learning_rate=5.0)
    state, *_ = run(strategy, model)
    variances = [x for p, x in flat(state["global_model"].batch_stats).items() if p.endswith("var")]
    assert all((x > 0).all() for x in variances)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: strategies.fedprox(mu=-1), "mu must be at least 0, not -1"),
        (lambda: strategies.feddyn(alpha=-1), "alpha must be at least 0, not -1"),
        (
            lambda: strategies.scaffold(server_learning_rate=0),
            "server_learning_rate must be above 0, not 0",
        ),
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
