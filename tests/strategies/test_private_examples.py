"""Differential privacy of examples: steps against a loop and jax-privacy, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import worlds
from helpers.refusals import refused
from lipsjax import local, simulation, strategies, transient_sparsity, tree
from lipsjax.keys import Purpose, derive
from lipsjax.local import LocalTraining, batch_order, model_loss
from lipsjax.privacy import Release, epsilon
from lipsjax.privacy.bounds import HAIR, gaussian
from lipsjax.rounds import Participation
from lipsjax.strategies import fedavg, private, private_examples
from lipsjax.strategies.private_examples import bounded
from lipsjax.strategy import RunContext
from lipsjax.types import Variables

SIZES = [5, 3, 8, 4]
RATE, EPOCHS, BATCH = 0.1, 2, 4


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def model():
    # of an example at a time, loops over convolutions take long to compile
    return worlds.tiny_model(norm="group", conv="patches")


def built(strategy, rounds=2, sizes=SIZES, training=None, **options):
    training = training or LocalTraining(optax.sgd(RATE), EPOCHS, BATCH)
    mesh = simulation.client_mesh(1)
    options = {"clients_on_global": False, "mesh": mesh, **options}
    data = worlds.world(sizes)
    return simulation.build(model(), strategy, training, rounds=rounds, data=data, **options), data


def guarded(inner=None, **options):
    return private_examples(inner or fedavg(), **{"clip": 0.3, "noise_multiplier": 0.5} | options)


@functools.cache
def slope():
    """The gradient of the loss of one example, compiled once."""
    loss = model_loss(model())
    return jax.jit(jax.grad(lambda p, x, y: loss(p, {}, x, y, jnp.ones(1, bool))[0]))


def stepped(variables, data, client, key, *, clip, z):
    """Train one client as Abadi et al. write it, example by example, in Python."""
    params = variables.params
    mask = data.train_mask[client]
    order, real = batch_order(key, jnp.asarray(mask), epochs=EPOCHS, batch_size=BATCH)
    noise_keys = jax.random.split(jax.random.fold_in(key, local.NOISE), len(order))
    last = None
    for positions, is_real, noise_key in zip(order, real, noise_keys, strict=True):
        rows = [data.train_index[client][p] for p in np.asarray(positions)[np.asarray(is_real)]]
        if not rows:
            continue
        total = jax.tree.map(lambda x: z * clip * x, gaussian(noise_key, params))
        for row in rows:
            image, label = data.train.inputs[row][None], data.train.labels[row][None]
            gradient = slope()(params, image, label)
            length = float(optax.tree.norm(gradient))
            short = min(1, clip / length * (1 - HAIR))
            total = optax.tree.add_scale(total, short, gradient)
        last = optax.tree.scale(1 / len(rows), total)
        params = optax.tree.add_scale(params, -RATE, last)
    return Variables(params, {}), last


@pytest.mark.parametrize("z", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
def test_a_round_is_that_of_the_loop(z):
    sim, data = built(guarded(noise_multiplier=z), rounds=1)
    key = jax.random.key(3)
    start = sim.init(key)
    before = sim.to_host(start)["global_model"]
    after = sim.to_host(sim.run(start, sim.place(data), 1)[0])["global_model"]
    ends = [
        stepped(before, data, k, derive(key, 0, k, Purpose.BATCHES), clip=0.3, z=z)[0]
        for k in range(len(SIZES))
    ]
    weights = np.array(SIZES) / sum(SIZES)
    mean = jax.tree.map(lambda *xs: sum(w * x for w, x in zip(weights, xs, strict=True)), *ends)
    worlds.assert_close(after.params, mean.params, 1e-8)


@pytest.mark.slow
def test_masks_are_of_the_noised_gradient():
    """What a client keeps of its last step is what it sent by, noise and all."""
    inner = guarded(noise_multiplier=0.7)
    sim, data = built(transient_sparsity(inner, density=0.4, every=1, gradient="stored"), rounds=2)
    key = jax.random.key(3)
    start = sim.init(key)
    before = sim.to_host(start)["global_model"]
    host = sim.to_host(sim.run(start, sim.place(data), 1)[0])
    for k in (0, 2):
        expected = stepped(before, data, k, derive(key, 0, k, Purpose.BATCHES), clip=0.3, z=0.7)[1]
        kept = jax.tree.map(lambda x, k=k: x[k], host["client_states"].outer.gradient)
        layers = sim.spec.sparsifier.layers
        worlds.assert_close(tuple(kept), tuple(tree.kernels(expected, layers)), 1e-8)


@pytest.mark.slow
def test_without_noise_or_bound_it_is_plain_training():
    ends = []
    for strategy in (fedavg(), guarded(clip=1e6, noise_multiplier=0.0)):
        sim, data = built(strategy, rounds=2)
        state, metrics = sim.run(sim.init(jax.random.key(0)), sim.place(data), 2)
        ends.append((sim.to_host(state)["global_model"], metrics.client_loss))
    worlds.assert_close(*ends)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated")
def test_the_sum_is_that_of_jax_privacy():
    clipping = pytest.importorskip("jax_privacy.clipping")
    data = worlds.world([6])
    variables = model().init(jax.random.key(0))
    images, labels = (jnp.asarray(x[data.train_index[0]]) for x in data.train)
    loss = model_loss(model())

    def of_one(params, image, label):
        return loss(params, {}, image, label, jnp.ones(1, bool))[0]

    theirs = clipping.clipped_grad(of_one, l2_clip_norm=0.2, batch_argnums=(1, 2))
    gradient_of = bounded(clip=0.2, noise_multiplier=0.0)(loss)
    _, ours = gradient_of(
        jax.random.key(0), variables.params, {}, images, labels, jnp.ones(6, bool)
    )
    six = jax.tree.map(lambda x: x / 6, theirs(variables.params, images, labels))
    worlds.assert_close(ours, six, 2e-6)  # of a clip with a hair below it


@pytest.mark.parametrize("broken", [np.nan, pytest.param(1e30, marks=pytest.mark.slow)])
def test_an_example_that_is_no_number_moves_a_batch_by_no_more_than_the_clip(broken):
    variables = model().init(jax.random.key(0))
    images = jnp.asarray(worlds.world([4]).train.inputs[:4])
    gradient_of = bounded(clip=0.2, noise_multiplier=0.0)(model_loss(model()))
    args = (jnp.zeros(4, jnp.int32), jnp.ones(4, bool))
    key = jax.random.key(0)
    _, whole = gradient_of(key, variables.params, {}, images.at[2].set(broken), *args)
    _, three = gradient_of(key, variables.params, {}, images[jnp.array([0, 1, 3])], *_first(args))
    moved = jax.tree.map(lambda a, b: a * 4 - b * 3, whole, three)
    assert float(optax.tree.norm(moved)) <= 0.2 * (1 + 1e-6)


def _first(args):
    return tuple(x[:3] for x in args)


def test_the_ledger_counts_every_epoch():
    training = LocalTraining(optax.sgd(0.1), epochs=3, batch_size=4)
    run = RunContext(rounds=7, num_examples=(5, 9), training=training)
    ledger = guarded(noise_multiplier=2.0).ledger(run)
    assert ledger.unit == "example"
    assert ledger.releases == (Release(2.0, 1.0, 21),)
    assert ledger.first(2).releases == (Release(2.0, 1.0, 6),)
    assert ledger.words() == "one example replaced by nothing, in data of known sizes"


def test_an_epsilon_that_is_asked_for_is_kept():
    pytest.importorskip("dp_accounting")
    training = LocalTraining(optax.sgd(0.1), epochs=3, batch_size=4)
    run = RunContext(rounds=7, num_examples=(5, 9), training=training)
    ledger = private_examples(fedavg(), clip=1.0, epsilon=4.0).ledger(run)
    assert 3.99 < epsilon(ledger) <= 4.0


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_a_round_in_which_nobody_arrives_changes_nothing(dropout):
    """As the server is not who is hidden from; of clients' privacy it is otherwise."""
    sim, data = built(guarded(), rounds=6, participation=Participation(dropout=dropout))
    state, placed = sim.init(jax.random.key(0)), sim.place(data)
    for _ in range(6):
        before = sim.to_host(state)["global_model"]
        state, metrics = sim.run(state, placed, 1)
        after = sim.to_host(state)["global_model"]
        moved = float(optax.tree.norm(optax.tree.sub(after, before)))
        arrived = metrics.scalars["clients_arrived"][0] if dropout else len(SIZES)
        assert (moved > 0) == (arrived > 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: guarded(clip=0.0), "clip must be above 0, not 0.0"),
        (lambda: guarded(epsilon=1.0), "and not both"),
        (lambda: guarded(noise_multiplier=-1.0), "noise_multiplier must be at least 0"),
        (lambda: guarded(delta=1.0), "delta must be in (0, 1), not 1.0"),
        (lambda: private(guarded(), clip=1.0, noise_multiplier=1.0), "a run has one guarantee"),
        (lambda: guarded(strategies.median(fedavg())), "goes inside median, not around it"),
        (lambda: guarded(strategies.local()), "cannot wrap local"),
        (lambda: guarded(strategies.ditto(fedavg())), "its steps are in no ledger"),
        (lambda: built(guarded(delta=0.2)), "delta must be below 1 / 8, a site's examples"),
        (
            lambda: built(transient_sparsity(guarded(), gradient="fresh")),
            "no mask by fresh gradients",
        ),
    ],
)
def test_what_is_not_covered_is_refused(make, words):
    assert words in refused(make)


def test_an_example_at_two_sites_is_refused():
    data = worlds.world(SIZES)
    index = np.array(data.train_index)
    index[1, 0] = index[0, 0]
    training = LocalTraining(optax.sgd(0.1), 1, 4)
    twice = data._replace(train_index=index)
    words = refused(lambda: simulation.build(model(), guarded(), training, rounds=2, data=twice))
    assert "is there 2 times" in words


def test_clients_in_turn_spend_on_their_turns_alone():
    training = LocalTraining(optax.sgd(0.1), epochs=3, batch_size=4)
    run = RunContext(
        rounds=7, num_examples=(5,) * 6, cohort=2, sampling="cyclic", training=training
    )
    ledger = guarded(noise_multiplier=2.0).ledger(run)
    assert ledger.releases == (Release(2.0, 1.0, 9),)
    assert [ledger.first(t).releases[0].rounds for t in (1, 3, 4, 7)] == [3, 3, 6, 9]


def test_running_statistics_are_refused():
    data, training = worlds.world(SIZES), LocalTraining(optax.sgd(0.1), 1, 4)
    batch = worlds.tiny_model(norm="batch")
    words = refused(lambda: simulation.build(batch, guarded(), training, rounds=2, data=data))
    assert "--model.norm group" in words
