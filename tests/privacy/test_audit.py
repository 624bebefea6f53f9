"""Canaries: what a right mechanism hides of them, and what a broken one shows."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

from helpers import worlds
from lipsjax import (
    clients,
    datasets,
    models,
    partition,
    simulation,
    strategies,
    transient_sparsity,
)
from lipsjax.attacks.canaries import canary_scores
from lipsjax.attacks.victims import given_to, moment, turn_of
from lipsjax.local import LocalTraining
from lipsjax.privacy import epsilon_lower_bound
from lipsjax.strategies import canaries, fedavg, private
from lipsjax.strategies.canaries import direction
from lipsjax.strategy import RunContext
from lipsjax.tree import pick

pytest.importorskip("dp_accounting")
pytest.importorskip("jax_privacy")

CLIENTS, CANARIES = 160, 150
CLIP, EPSILON, DELTA = 0.1, 1.0, 1e-6  # one run at so many canaries needs a small delta
LIPS = {"density": 0.4, "every": 1, "kinds": ("dense",)}


def plain(inner):
    return inner


def audited(reference="global", wrap=plain):
    watched = canaries(fedavg(), clients=CANARIES, length=40 * CLIP, reference=reference)
    guarded = private(watched, clip=CLIP, epsilon=EPSILON, delta=DELTA, reference=reference)
    return built(wrap(guarded))


def built(strategy, rounds=3):
    mlp = models.build("mlp", num_classes=4, input_shape=worlds.SHAPE, width=64, norm="none")
    return simulation.build(
        mlp,
        strategy,
        LocalTraining(optax.sgd(0.1), 1, 4),
        rounds=rounds,
        data=world(),
        mesh=simulation.client_mesh(1),
        clients_on_global=False,
        evaluate_every=0,
    )


def bounds(sim, seeds, significance):
    placed, found = sim.place(world()), []
    for seed in seeds:
        state = sim.init(jax.random.key(seed))
        before = sim.to_host(state)
        after = sim.to_host(sim.run(state, placed, sim.spec.run.rounds)[0])
        scores, members = canary_scores(sim, before, after)
        found.append(epsilon_lower_bound(scores, members, delta=DELTA, significance=significance))
    return found


def world():
    rng, ones = np.random.default_rng(0), np.ones(CLIENTS, int)
    dataset = datasets.synthetic(4, worlds.SHAPE, CLIENTS, 2 * CLIENTS)
    parts = partition.dirichlet(dataset, alpha=0.5, train_sizes=ones, test_sizes=ones, rng=rng)
    return clients.stack(dataset, parts, global_examples=4, rng=rng)


def flat(host):
    return pick(host["global_model"], lambda path: path.startswith("params/"))


def lips(inner):
    return transient_sparsity(inner, **LIPS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "wrap"), [("global", plain), ("global", lips), ("received", lips)]
)
def test_a_right_mechanism_shows_no_more_than_it_says(reference, wrap):
    """At a level that holds of twenty of them together with a chance of 95%."""
    found = bounds(audited(reference, wrap), range(20), 0.05 / 20)
    assert max(found) <= EPSILON


def test_a_clip_that_is_not_kept_is_caught(monkeypatch):
    """By most seeds, and with the same significance."""
    module = sys.modules["lipsjax.strategies.private"]
    monkeypatch.setattr(module, "clipped", lambda delta, _: (delta, jnp.bool_(True)))
    found = bounds(audited(), range(3), 0.05 / 20)
    assert np.median(found) > EPSILON


@pytest.mark.slow
def test_canaries_are_members_by_half_and_send_what_they_are_said_to():
    sim = built(canaries(fedavg(weighted=False), clients=CANARIES, length=2.0), rounds=1)
    data = world()
    state = sim.init(jax.random.key(4))
    before = sim.to_host(state)
    _, members = canary_scores(sim, before, before)
    assert 44 < members.sum() < 106  # within five deviations of a half
    other = sim.to_host(sim.init(jax.random.key(5)))
    assert (members != canary_scores(sim, other, other)[1]).any()
    after = sim.to_host(sim.run(state, sim.place(data), 1)[0])
    moved = {p: x - flat(before)[p] for p, x in flat(after).items()}
    plain = built(fedavg(weighted=False), rounds=1)
    honest = built_alone(plain, data)
    expected = jax.tree.map(
        lambda h, *vs: (h + 2.0 * sum(vs)) / CLIENTS,
        honest,
        *(direction(int(k), honest) for k in np.flatnonzero(members)),
    )
    worlds.assert_close(moved, expected, 1e-5)


def built_alone(sim, data):
    """Sum of the updates of those who are no canaries, one by one."""
    host = sim.to_host(sim.init(jax.random.key(4)))
    when, arrays = moment(host, np.arange(CLIENTS)), jax.tree.map(jnp.asarray, data)
    total = None
    for k in range(CANARIES, CLIENTS):
        one = jax.tree.map(lambda x, k=k: x[k], given_to(when, when.cohort))
        end = pick(
            turn_of(sim.spec, arrays, when, one).result.variables,
            lambda path: path.startswith("params/"),
        )
        delta = {p: x - flat(host)[p] for p, x in end.items()}
        total = delta if total is None else jax.tree.map(jnp.add, total, delta)
    return total


def test_the_bound_nears_what_two_gaussians_are_apart_by():
    """Scores of one release each: epsilon is known, and the bound is below it."""
    rng = np.random.default_rng(0)
    members = rng.random(5000) < 0.5
    scores = rng.normal(size=5000) + 2 * members
    epsilon = 2 * norm.ppf(1 - 1e-5) + 2  # of a Gaussian whose means are 2 apart, at delta 1e-5
    assert 1.5 < epsilon_lower_bound(scores, members, delta=1e-5) < epsilon


GOOD = (np.arange(4.0), np.array([True, False, True, False]))


@pytest.mark.parametrize(
    ("scores", "members", "options", "words"),
    [
        (GOOD[0][:3], GOOD[1], {}, r"\[M\] both, not \(3,\) and \(4,\)"),
        (GOOD[0] * np.nan, GOOD[1], {}, "scores must be finite"),
        (GOOD[0], GOOD[1] | True, {}, "members and others"),
        (*GOOD, {"delta": 0.0}, r"delta must be in \(0, 1\), not 0.0"),
        (*GOOD, {"significance": 1.0}, r"significance must be in \(0, 1\), not 1.0"),
    ],
)
def test_bad_scores_are_refused(scores, members, options, words):
    with pytest.raises(ValueError, match=words):
        epsilon_lower_bound(scores, members, **{"delta": 1e-5} | options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clients": 0}, "canaries must be at least 1, not 0"),
        ({"length": 0.0}, "length must be above 0, not 0.0"),
        ({"reference": "old"}, "one of global, received, not 'old'"),
    ],
)
def test_bad_canaries_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        canaries(fedavg(), **{"clients": 3, "length": 1.0} | options)


def test_more_canaries_than_clients_are_refused():
    run = RunContext(rounds=1, num_examples=(3,) * 4)
    with pytest.raises(ValueError, match="at most 4, the clients, not 5"):
        canaries(fedavg(), clients=5, length=1.0).check(run)
    with pytest.raises(ValueError, match="one of its kind is enough"):
        strategies.faulty(
            canaries(fedavg(), clients=5, length=1.0), clients=1, kind="nan", num_classes=2
        )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda few: private(few, clip=1.0, noise_multiplier=1.0, reference="received"),
            "give both the same reference",
        ),
        (
            lambda few: private(few, clip=1.0, noise_multiplier=1.0, noise_cohort_size=999),
            "leave noise_cohort_size out of an audit",
        ),
    ],
)
def test_an_audit_that_would_mislead_is_refused(make, words):
    few = canaries(fedavg(), clients=5, length=1.0)
    with pytest.raises(ValueError, match=words):
        make(few)


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (strategies.scaffold, "its messages are more than models"),
        (
            lambda: strategies.private_examples(fedavg(), clip=1.0, noise_multiplier=1.0),
            "they send what no step has noised",
        ),
    ],
)
def test_canaries_of_what_they_cannot_test_are_refused(inner, words):
    with pytest.raises(ValueError, match=words):
        canaries(inner(), clients=5, length=1.0)


def test_a_run_without_canaries_has_no_scores():
    sim = built(fedavg(), rounds=1)
    host = sim.to_host(sim.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="the strategy has no canaries"):
        canary_scores(sim, host, host)
