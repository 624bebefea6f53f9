"""What an attacker makes of a message: of every kind of strategy, mask and compression."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import worlds
from lipsjax import LocalTraining, strategies, tree
from lipsjax.attacks import nearest_start, revealed, unaware
from lipsjax.attacks.attackers import (
    Knowledge,
    Target,
    masks_are_known,
    member_scores,
    seen_by,
    updates,
)
from lipsjax.attacks.victims import given_to, in_chunks, moment, turn_of
from lipsjax.sparsity import transient_sparsity
from lipsjax.strategies.delta import shared_params
from lipsjax.strategy import ServerContext, fedavg

SIZES = [5, 8, 3, 6]
TRAINING = LocalTraining(optax.sgd(0.02, momentum=0.5), 2, 4)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def before_round(strategy, at, training=TRAINING):
    """Return the simulation, its data, the state before a round, and the state after it."""
    model, data = worlds.tiny_model(norm="group"), worlds.world(SIZES)
    options = {"rounds": at + 1, "total": 4, "training": training}
    (*_, host, after), _, sim = worlds.round_by_round(model, strategy, data, **options)
    when = moment(host, sim.cohort(jax.random.key(1), at))
    return sim, jax.tree.map(jnp.asarray, data), when, after


def turns(sim, data, when):
    given = given_to(when, when.cohort)
    turn = jax.jit(jax.vmap(lambda g: _arrays(turn_of(sim.spec, data, when, g))))
    return in_chunks(turn, given, chunk=3)


def _arrays(turn):
    """Return what of a turn is arrays: message, start, end."""
    return turn.message, turn.context.variables, turn.result.variables


LIPS = {"density": 0.5, "every": 1}
PLAIN = {
    "fedavg": fedavg,
    "fedprox": lambda: strategies.fedprox(mu=0.1),
    "scaffold": strategies.scaffold,
    "feddyn": lambda: strategies.feddyn(alpha=0.1),
    "fednova": strategies.fednova,
    "fedadam": strategies.fedadam,
    "fedper": strategies.fedper,
}


@pytest.mark.whole
@pytest.mark.parametrize(
    "name",
    [name if name == "fedavg" else pytest.param(name, marks=pytest.mark.slow) for name in PLAIN],
)
def test_messages_are_those_of_the_round_and_say_what_training_added(name):
    """Their mean makes the model that the round made; from the true start they tell the delta."""
    strategy = transient_sparsity(PLAIN[name](), **LIPS)
    sim, data, when, after = before_round(strategy, 1)
    assert bool(when.state.sparse)
    spec, found = sim.spec, turns(sim, data, when)
    sizes = jnp.asarray(SIZES)
    weights = np.asarray(spec.strategy.weight(sizes), float)
    mean = jax.tree.map(
        lambda *x: jnp.tensordot(weights / weights.sum(), jnp.stack(x), 1), *[m for m, *_ in found]
    )
    context = ServerContext(
        spec.run,
        when.state.global_model,
        when.state.server_state,
        when.state.round,
        share=jnp.ones(()),
    )
    new, _ = spec.strategy.update(context, mean)
    worlds.assert_close(new, after["global_model"])
    for message, start, end in found:
        added = tree.subtract(
            shared_params(spec.strategy, spec.run, end),
            shared_params(spec.strategy, spec.run, start),
        )
        worlds.assert_close(revealed(spec.strategy, spec.run, start, start, message), added)


@pytest.mark.whole
def test_masks_that_are_not_sent_are_guessed():
    """After short training, most weights that end nearer to zero than to what went out were."""
    sim, data, when, _ = before_round(transient_sparsity(fedavg(), **LIPS), 1)
    spec, layers = sim.spec, sim.spec.sparsifier.layers
    right = total = 0
    for message, start, _ in turns(sim, data, when):
        guessed = nearest_start(spec.strategy, spec.run, when.state.global_model, message)
        pairs = zip(
            tree.kernels(guessed.params, layers), tree.kernels(start.params, layers), strict=True
        )
        for guess, true in pairs:
            right += int(jnp.sum((guess == 0) == (true == 0)))
            total += guess.size
    assert right / total > 0.9


@pytest.mark.whole
@pytest.mark.parametrize(
    ("options", "knowledge", "known"),
    [
        ({}, Knowledge("aware"), False),
        ({}, Knowledge("aware", bitmaps=True), True),
        ({"criterion": "random"}, Knowledge("aware"), True),
        pytest.param({"criterion": "magnitude"}, Knowledge("aware"), True, marks=pytest.mark.slow),
        pytest.param({"sharing": "shared"}, Knowledge("aware"), True, marks=pytest.mark.slow),
    ],
)
def test_who_knows_the_mask_has_the_true_start(options, knowledge, known):
    training = TRAINING._replace(optimizer=optax.sgd(0.5, momentum=0.5))  # far enough to err
    strategy = transient_sparsity(fedavg(), **LIPS, **options)
    sim, data, when, _ = before_round(strategy, 1, training)
    spec = sim.spec
    assert masks_are_known(spec, knowledge) == known
    given = jax.tree.map(lambda x: x[0], given_to(when, np.array([2])))
    turn = turn_of(spec, data, when, given)
    seen = seen_by(spec, knowledge, when, turn)
    is_true = all(
        bool((a == b).all())
        for a, b in zip(
            jax.tree.leaves(seen.start.params),
            jax.tree.leaves(turn.context.variables.params),
            strict=True,
        )
    )
    assert is_true == known
    naive = unaware(spec.strategy, spec.run, when.state.global_model, turn.message)
    worlds.assert_close(naive.start, when.state.global_model)
    assert all(bool(x.all()) for x in naive.matched.values())


@pytest.mark.whole
def test_of_a_compressed_update_what_was_sent_is_matched():
    strategy = strategies.compress(fedavg(), strategies.top_k(fraction=0.1))
    sim, data, when, _ = before_round(strategy, 1)
    given = jax.tree.map(lambda x: x[0], given_to(when, np.array([1])))
    turn = turn_of(sim.spec, data, when, given)
    seen = seen_by(sim.spec, Knowledge("aware"), when, turn)
    sizes = sum(x.size for x in seen.matched.values())
    assert sum(int(x.sum()) for x in seen.matched.values()) == int(0.1 * sizes)


@pytest.mark.slow
@pytest.mark.whole
def test_of_votes_only_signs_are_seen():
    sim, data, when, _ = before_round(strategies.sign_majority(fedavg(), step=0.01), 1)
    given = jax.tree.map(lambda x: x[0], given_to(when, np.array([1])))
    turn = turn_of(sim.spec, data, when, given)
    seen = seen_by(sim.spec, Knowledge("unaware"), when, turn)
    assert {float(x) for d in seen.delta.values() for x in jnp.abs(d).ravel()} == {1.0}


@pytest.mark.unit
def test_who_sends_nothing_gives_nothing_away():
    strategy = strategies.local()
    model = worlds.tiny_model(norm="group")
    start = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="local sends nothing"):
        revealed(strategy, None, start, start, start)


@pytest.mark.slow
@pytest.mark.whole
def test_scores_of_membership_are_those_of_a_loop():
    sim, data, when, _ = before_round(fedavg(), 1)
    spec, model = sim.spec, sim.spec.model
    target = Target(data, 0.0, 1.0, None)
    received = jax.vmap(updates(spec, Knowledge("unaware")), in_axes=(None, None, 0))
    everyone = received(target, when, given_to(when, when.cohort))
    inputs, labels = data.test.inputs[:5], data.test.labels[:5]
    found = member_scores(model)(everyone, when, jnp.asarray(2), inputs, labels)

    def log_p(variables):
        mask = jnp.ones(len(inputs), bool)
        return jax.nn.log_softmax(model.apply(variables, inputs, mask=mask, train=False).logits)

    def flat(params):
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])

    ends = [end for _, _, end in turns(sim, data, when)]
    went_out = when.state.global_model
    chosen = jax.jacobian(lambda p: log_p(went_out._replace(params=p)))(went_out.params)
    for i, y in enumerate(np.asarray(labels)):
        assert found["loss"][i] == pytest.approx(float(log_p(ends[2])[i, y]), abs=1e-9)
        assert found["global"][i] == pytest.approx(float(log_p(went_out)[i, y]), abs=1e-9)
        slope = flat(jax.tree.map(lambda x, i=i, y=y: x[i, y], chosen))
        for k, end in enumerate(ends):
            p = np.exp(np.asarray(log_p(end))[i])
            margin = np.log(p[y]) - np.log(p.sum() - p[y])
            moved = flat(end.params) - flat(went_out.params)
            cosine = slope @ moved / np.linalg.norm(slope) / np.linalg.norm(moved)
            assert found["margins"][k, i] == pytest.approx(margin, abs=1e-7)
            assert found["cosines"][k, i] == pytest.approx(cosine, abs=1e-9)
