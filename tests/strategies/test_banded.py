"""Banded noise of clients in turn: against the matrix written out, and what it is worth."""

import itertools

import jax
import numpy as np
import optax
import pytest

from helpers import worlds
from helpers.refusals import refused
from lipsjax import models, simulation, transient_sparsity
from lipsjax.local import LocalTraining
from lipsjax.privacy import Release
from lipsjax.rounds import Participation
from lipsjax.strategies import fedavg, private
from lipsjax.strategy import RunContext
from lipsjax.tree import pick

toeplitz = pytest.importorskip("jax_privacy.matrix_factorization.toeplitz")

CLIENTS, COHORT, CLIP, Z, ROUNDS = 6, 2, 0.5, 3.0, 8
IN_TURN = {"cohort_size": COHORT, "participation": Participation(sampling="cyclic")}


def guarded(**options):
    chosen = {"clip": CLIP, "noise_multiplier": Z, "mechanism": "banded"}
    return private(fedavg(), **chosen | options)


def built(strategy, rate=0.0, **options):
    data = worlds.world([3] * CLIENTS)
    mlp = models.build("mlp", num_classes=4, input_shape=worlds.SHAPE, width=16, norm="none")
    sim = simulation.build(
        mlp,
        strategy,
        LocalTraining(optax.sgd(rate), 1, 4),
        rounds=ROUNDS,
        data=data,
        mesh=simulation.client_mesh(1),
        clients_on_global=False,
        **IN_TURN | options,
    )
    return sim, data


def flat(host):
    shared = pick(host["global_model"], lambda path: path.startswith("params/"))
    return np.concatenate([np.ravel(shared[path]) for path in sorted(shared)])


def moves(strategy, seed=0):
    """Move of the global model in each round, of clients that learn nothing: [T, P]."""
    sim, data = built(strategy)
    state, placed = sim.init(jax.random.key(seed)), sim.place(data)
    ends = [flat(sim.to_host(state))]
    for _ in range(ROUNDS):
        state, _ = sim.run(sim.from_host(sim.to_host(state)), placed, 1)
        ends.append(flat(sim.to_host(state)))
    return np.diff(np.array(ends, np.float64), axis=0)


def matrix():
    """C as jax-privacy writes it out: banded, Toeplitz, columns of length 1."""
    coefficients = np.asarray(toeplitz.optimize_banded_toeplitz(ROUNDS, CLIENTS // COHORT))
    return np.asarray(toeplitz.materialize_lower_triangular(coefficients, ROUNDS), np.float64)


def test_noise_of_all_rounds_is_the_inverse_matrix_times_that_of_plain_gaussians():
    plain, banded = moves(guarded(mechanism="gaussian")), moves(guarded())
    np.testing.assert_allclose(banded, np.linalg.inv(matrix()) @ plain, rtol=0, atol=2e-5)
    # what the model sums up is less noisy, at the same noise multiplier
    assert np.square(banded.cumsum(0)).mean() < 0.9 * np.square(plain.cumsum(0)).mean()


def test_who_takes_part_in_turn_moves_one_column_of_length_one_each_time():
    """Whatever a client sends in its rounds: the whole is no longer than one clip each."""
    c, bands = matrix(), CLIENTS // COHORT
    assert np.linalg.norm(c, axis=0).max() <= 1 + 1e-6
    rng = np.random.default_rng(0)
    for first in range(bands):
        turns = range(first, ROUNDS, bands)
        updates = np.zeros((ROUNDS, 5))
        for t in turns:
            update = rng.normal(size=5)
            updates[t] = update / np.linalg.norm(update)
        assert np.linalg.norm(c @ updates) <= np.sqrt(len(turns)) * (1 + 1e-6)


def test_clients_in_turn_meet_every_third_round_and_all_of_them():
    sim, _ = built(guarded())
    drawn = [sim.cohort(jax.random.key(2), t).tolist() for t in range(6)]
    assert drawn[:3] == drawn[3:]
    assert sorted(itertools.chain(*drawn[:3])) == list(range(CLIENTS))
    other = [sim.cohort(jax.random.key(3), t).tolist() for t in range(3)]
    assert other != drawn[:3]


@pytest.mark.parametrize("mechanism", ["gaussian", "banded"])
def test_the_ledger_counts_the_rounds_of_one_client(mechanism):
    run = RunContext(rounds=8, num_examples=(3,) * 6, cohort=2, sampling="cyclic")
    ledger = guarded(mechanism=mechanism).ledger(run)
    assert ledger.releases == (Release(Z, 1.0, 3),)
    counts = [ledger.first(t).releases[0].rounds for t in range(1, 9)]
    assert counts == [1, 1, 1, 2, 2, 2, 3, 3]


@pytest.mark.slow
def test_with_masks_it_goes_on_from_a_checkpoint_to_the_bit():
    data = worlds.world([3] * CLIENTS)
    strategy = transient_sparsity(guarded(), every=1, density=0.5, gradient="stored")
    worlds.simulate(
        worlds.tiny_model(norm="group", dtype=np.float32),
        strategy,
        data,
        rounds=3,
        stops=True,
        clients_on_global=False,
        **IN_TURN,
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: guarded(mechanism="tree"), "one of gaussian, banded, not 'tree'"),
        (lambda: guarded(adaptive=0.5), "an adaptive clip changes it"),
        (
            lambda: built(guarded(), cohort_size=6, participation=Participation()),
            "use --participation.sampling cyclic",
        ),
        (
            lambda: built(guarded(), participation=Participation(sampling="poisson")),
            "use --participation.sampling cyclic",
        ),
        (lambda: built(fedavg(), cohort_size=4), "a cohort that divides 6, the clients, not 4"),
        (lambda: built(fedavg(), cohort_size=6), "sampling in turn needs a cohort below 6"),
    ],
)
def test_what_has_no_turns_is_refused(make, words):
    assert words in refused(make)
