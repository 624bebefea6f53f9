"""Differential privacy of clients: rounds against a loop, sensitivity, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from helpers import worlds
from helpers.refusals import refused
from lipsjax import models, simulation, strategies, transient_sparsity
from lipsjax.attacks.victims import given_to, moment, turn_of
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.local import LocalTraining
from lipsjax.privacy import Release
from lipsjax.privacy.bounds import HAIR, clipped, gaussian
from lipsjax.rounds import Participation
from lipsjax.rounds.participation import OVERFLOW, poisson_slots
from lipsjax.strategies import fedavg, private
from lipsjax.strategies.private import CLIP_RATE
from lipsjax.strategy import RunContext
from lipsjax.tree import pick

SIZES = [5, 3, 8, 6, 4, 7]
POISSON = {"cohort_size": 3, "participation": Participation(sampling="poisson")}
LIPS = {"density": 0.4, "every": 1}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def model():
    return worlds.tiny_model(norm="group")


def before_and_after(strategy, rounds=2, **options):
    data = worlds.world(SIZES)
    run = {"rounds": rounds + 1, "total": 4, "clients_on_global": False, **options}
    hosts, metrics, sim = worlds.round_by_round(model(), strategy, data, **run)
    return data, *hosts[-2:], metrics, sim


def models_sent(plain, data, before, cohort, **options):
    """Models of a round's clients, by the strategy without any protection: start and end."""
    sim = sim_of(plain, data, rounds=4, **options)
    when = moment(before, cohort)
    found = []
    for i in range(len(cohort)):
        one = jax.tree.map(lambda x, i=i: x[i], given_to(when, cohort))
        turn = turn_of(sim.spec, jax.tree.map(jnp.asarray, data), when, one)
        found.append((turn.context.variables, turn.result.variables))
    return found


def sim_of(strategy, data, *, rounds, **options):
    training = LocalTraining(optax.sgd(0.1, momentum=0.9), 2, 4)
    mesh = simulation.client_mesh(1)
    chosen = {"rounds": rounds, "data": data, "mesh": mesh, "clients_on_global": False}
    return simulation.build(model(), strategy, training, **chosen | options)


def flat(variables):
    return pick(variables, lambda path: path.startswith("params/"))


def expected_model(before, sent, *, clip, z, size, reference):
    """Clip, add and noise in NumPy."""
    old = flat(before["global_model"])
    total = {path: np.zeros(x.shape) for path, x in old.items()}
    for start, end in sent:
        begin = flat(start) if reference == "received" else old
        delta = {path: np.asarray(flat(end)[path] - begin[path]) for path in old}
        length = np.sqrt(sum(float(np.sum(d**2)) for d in delta.values()))
        for path in total:
            total[path] += delta[path] * min(1, clip / length * (1 - HAIR))
    noise = gaussian(noise_keys(before, int(before["round"]))[0], old)
    return {p: old[p] + (total[p] + z * clip * np.asarray(noise[p])) / size for p in old}


def noise_keys(before, t):
    """Of the noise on deltas, and on the count."""
    of_server = derive(jax.random.wrap_key_data(before["key"]), 0, SERVER, Purpose.SERVER)
    return jax.random.split(derive(of_server, t, SERVER, Purpose.NOISE))


def dense(inner):
    return inner


def lips(inner):
    return transient_sparsity(inner, **LIPS)


def of_random(inner):
    return transient_sparsity(inner, criterion="random", **LIPS)


def stored(inner):
    return transient_sparsity(inner, gradient="stored", **LIPS)


def later(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("wrap", "options", "reference"),
    [
        later(dense, POISSON, "global"),
        (lips, {}, "global"),
        (stored, POISSON, "received"),
        later(dense, {}, "global"),
        later(dense, {}, "received"),
        later(lips, {}, "received"),
        later(of_random, POISSON, "global"),
        later(of_random, POISSON, "received"),
        later(stored, POISSON, "global"),
    ],
)
def test_a_round_is_that_of_the_loop(wrap, options, reference):
    clip, z = 0.2, 0.7
    guarded = wrap(private(fedavg(), clip=clip, noise_multiplier=z, reference=reference))
    data, before, after, _, sim = before_and_after(guarded, **options)
    cohort = sim.cohort(jax.random.key(1), 2)
    sent = models_sent(wrap(fedavg(weighted=False)), data, before, cohort, **options)
    size = options.get("cohort_size", len(SIZES))
    wanted = expected_model(before, sent, clip=clip, z=z, size=size, reference=reference)
    worlds.assert_close(flat(after["global_model"]), wanted)


@pytest.mark.slow
def test_an_adaptive_clip_follows_the_share_below_it():
    data, before, after, metrics, sim = before_and_after(
        private(fedavg(), clip=0.3, noise_multiplier=0.1, adaptive=0.5), rounds=2
    )
    old = float(before["server_state"].outer)
    cohort = sim.cohort(jax.random.key(1), 2)
    plain = {**before, "server_state": ()}
    lengths = []
    for start, end in models_sent(fedavg(weighted=False), data, plain, cohort):
        parts = [np.asarray(flat(end)[p] - flat(start)[p]) for p in flat(start)]
        lengths.append(np.sqrt(sum(np.sum(d**2) for d in parts)))
    key = noise_keys(before, 2)[1]
    noise = len(SIZES) / 20 * float(jax.random.normal(key, (), jnp.float32))
    share = np.mean(np.array(lengths) <= old) + noise / len(SIZES)
    wanted = old * np.exp(-CLIP_RATE * (share - 0.5))
    assert float(after["server_state"].outer) == pytest.approx(wanted, rel=1e-5)
    assert metrics.scalars["share_below_clip"][2] == pytest.approx(share, rel=1e-5)
    assert metrics.scalars["clip"][2] == pytest.approx(old)


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=200, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=6), st.floats(1e-3, 1e3))
def test_no_client_moves_the_sum_by_more_than_the_clip(values, bound):
    """Whatever training made of it, and in float32."""
    half = len(values) // 2
    delta = {"a": np.float32(values[:half]), "b": np.float32(values[half:])}
    short, _ = clipped(jax.tree.map(jnp.asarray, delta), bound)
    length = np.sqrt(sum(np.sum(np.asarray(d, np.float64) ** 2) for d in short.values()))
    assert length <= bound * (1 + 1e-6)


@pytest.mark.slow
def test_a_cohort_of_noise_is_that_of_a_larger_federation():
    """Six clients of whom twelve make the noise: half of it, for a federation twice as large."""
    data = worlds.world(SIZES)
    ends, z, clip = {}, 1.5, 0.2
    for size in (None, 12):
        guarded = private(fedavg(), clip=clip, noise_multiplier=z, noise_cohort_size=size)
        sim = sim_of(guarded, data, rounds=1)
        key = jax.random.key(1)
        before = sim.to_host(sim.init(key))
        state, _ = sim.run(sim.init(key), sim.place(data), 1)
        ends[size] = flat(sim.to_host(state)["global_model"])
    noise = gaussian(noise_keys(before, 0)[0], flat(before["global_model"]))
    apart = {p: ends[None][p] - ends[12][p] for p in noise}
    half = {p: z * clip / 12 * np.asarray(x) for p, x in noise.items()}
    worlds.assert_close(apart, half)
    ledger = guarded.ledger(sim.spec.run)
    assert ledger.times == 2
    assert "2 times as large as the simulated one" in ledger.words()


@pytest.mark.parametrize("spread", [0, 2])
def test_the_clip_holds_of_ten_million_values(spread):
    """In float32, whose sums lose what float64 tells: equal values, and very unequal ones."""
    rng = np.random.default_rng(0)
    delta = {"a": rng.lognormal(0, spread, 10**7).astype(np.float32)}
    short, _ = jax.jit(clipped)(delta, jnp.float32(0.5))
    assert np.linalg.norm(np.asarray(short["a"], np.float64)) <= 0.5 * (1 + 1e-6)


def test_noise_is_normal_new_in_each_round_and_of_its_own_in_each_leaf():
    """Of clients that learn nothing: what is left of a round is noise of z clip / C."""
    clip, z, count = 0.5, 3.0, 4
    data = worlds.world([4] * count)
    mlp = models.build("mlp", num_classes=4, input_shape=worlds.SHAPE, width=64, norm="none")
    still = LocalTraining(optax.sgd(0.0), 1, 4)
    sim = simulation.build(
        mlp,
        private(fedavg(), clip=clip, noise_multiplier=z),
        still,
        rounds=2,
        data=data,
        mesh=simulation.client_mesh(1),
        clients_on_global=False,
    )
    state, placed, ends = sim.init(jax.random.key(3)), sim.place(data), []
    for t in range(3):
        ends.append(flat(sim.to_host(state)["global_model"]))
        if t < 2:
            state, _ = sim.run(state, placed, 1)
    moves = [{p: (b[p] - a[p]).ravel() for p in a} for a, b in itertools.pairwise(ends)]
    draws = [np.concatenate(list(m.values())) / (z * clip / count) for m in moves]
    size = len(draws[0])
    for draw in draws:
        assert abs(draw.mean()) < 5 / np.sqrt(size)
        assert abs(draw.var() - 1) < 5 * np.sqrt(2 / size)
    assert abs(np.corrcoef(*draws)[0, 1]) < 5 / np.sqrt(size)
    kernels = [m for p, m in moves[0].items() if m.shape == (64 * 64,)]
    assert len(kernels) >= 2
    assert abs(np.corrcoef(kernels[:2])[0, 1]) < 5 / 64


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32, allow_subnormal=False), min_size=1, max_size=6))
def test_what_is_short_enough_is_left_alone(values):
    delta = {"a": jnp.asarray(np.float32(values))}
    short, was_below = clipped(delta, 10.0)
    assert bool(was_below)
    np.testing.assert_array_equal(short["a"], delta["a"])


def with_other_labels(data, client):
    """The same sites, one of which holds something else."""
    labels = np.array(data.train.labels)
    labels[data.train_index[client]] = (labels[data.train_index[client]] + 1) % 4
    return data._replace(train=data.train._replace(labels=labels))


@pytest.mark.parametrize(
    ("criterion", "reference"),
    [
        ("magnitude", "received"),
        later("saliency", "global"),
        *(later(c, "global") for c in ("magnitude", "random")),
        *(later(c, "received") for c in ("saliency", "random")),
    ],
)
def test_replacing_a_client_moves_the_sum_by_two_clips_at_most(criterion, reference):
    """Of the second round, which a first follows that both share: there nothing is learned."""
    clip = 0.05
    strategy = transient_sparsity(
        private(fedavg(), clip=clip, noise_multiplier=0.0, reference=reference),
        **LIPS,
        criterion=criterion,
    )
    data = worlds.world(SIZES)
    ends = []
    sim, key = sim_of(strategy, data, rounds=3), jax.random.key(1)
    base = sim.to_host(sim.run(sim.init(key), sim.place(data), 1)[0])
    for world in (data, with_other_labels(data, 2)):
        state, _ = sim.run(sim.from_host(base), sim.place(world), 1)
        ends.append(flat(sim.to_host(state)["global_model"]))
    moved = {p: (ends[1][p] - ends[0][p]) * len(SIZES) for p in ends[0]}
    length = np.sqrt(sum(np.sum(np.asarray(d) ** 2) for d in moved.values()))
    assert 0 < length <= 2 * clip * (1 + 1e-6)


def test_a_masked_start_counts_against_the_clip():
    """A clip of what training added lets the zeroed mass through, many times the bound."""
    data = worlds.world(SIZES)
    lips, bound = {"density": 0.2, "every": 1, "criterion": "magnitude"}, 0.1
    sim = sim_of(transient_sparsity(strategies.clip(fedavg(), norm=bound), **lips), data, rounds=3)
    host = sim.to_host(sim.run(sim.init(jax.random.key(1)), sim.place(data), 1)[0])
    when, arrays = moment(host, np.arange(len(SIZES))), jax.tree.map(jnp.asarray, data)
    one = jax.tree.map(lambda x: x[0], given_to(when, when.cohort))
    sent, old = flat(turn_of(sim.spec, arrays, when, one).message), flat(host["global_model"])
    apart = np.sqrt(sum(np.sum((np.asarray(sent[p]) - old[p]) ** 2) for p in old))
    assert apart > 10 * bound
    guarded = private(fedavg(), clip=bound, noise_multiplier=1.0)
    spec = sim_of(transient_sparsity(guarded, **lips), data, rounds=3).spec
    message = turn_of(spec, arrays, when, one).message.delta
    assert np.sqrt(sum(np.sum(np.asarray(d) ** 2) for d in message.values())) <= bound


def test_an_empty_cohort_gets_noise_all_the_same():
    data = worlds.world([4] * 12)
    rare = {"cohort_size": 1, "participation": Participation(sampling="poisson")}
    sim = sim_of(private(fedavg(), clip=0.5, noise_multiplier=2.0), data, rounds=8, **rare)
    key = jax.random.key(0)
    (empty, *_) = (t for t in range(8) if len(sim.cohort(key, t)) == 0)
    state, placed, before = sim.init(key), sim.place(data), {}
    for t in range(empty + 1):
        before = sim.to_host(state)
        state, metrics = sim.run(state, placed, 1)
        assert metrics.scalars["clients_arrived"][0] == len(sim.cohort(key, t))
    noise = gaussian(
        noise_keys(before, empty)[0],
        flat(before["global_model"]),
    )
    after = flat(sim.to_host(state)["global_model"])
    wanted = {p: x + np.asarray(noise[p]) for p, x in flat(before["global_model"]).items()}
    worlds.assert_close(after, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [private(fedavg(), clip=0.2, noise_multiplier=1.0), later(fedavg())]
)
def test_poisson_rounds_are_the_same_on_any_devices_and_chunks(strategy):
    data = worlds.world([4] * 7)
    options = {"rounds": 2, "clients_on_global": False, "participation": POISSON["participation"]}
    lips = transient_sparsity(strategy, gradient="stored", **LIPS)
    ends = [
        worlds.simulate(
            model(), lips, data, cohort_size=3, devices=devices, chunk=chunk, **options
        )[0]
        for devices, chunk in ((1, 1), (2, 2))
    ]
    for name in ("global_model", "client_states", "server_state", "packed_masks"):
        worlds.assert_close(ends[0][name], ends[1][name])


@pytest.mark.slow
def test_who_is_not_drawn_has_no_part_in_a_median():
    """On one device, where chunks of several clients hold some who are not drawn."""
    data, median = worlds.world([4] * 7), strategies.median(fedavg())
    options = {"rounds": 2, "cohort_size": 3, "clients_on_global": False}
    ends = [
        worlds.simulate(
            model(), median, data, chunk=c, participation=POISSON["participation"], **options
        )[0]["global_model"]
        for c in (1, 4)
    ]
    worlds.assert_close(*ends)


def test_poisson_cohorts_are_of_clients_drawn_each_for_itself():
    """Sizes and counts within five deviations of binomials'."""
    data = worlds.world([3] * 10)
    options = {"cohort_size": 3, "participation": POISSON["participation"]}
    sim = sim_of(fedavg(), data, rounds=500, **options)
    drawn = [sim.cohort(jax.random.key(5), t) for t in range(500)]
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    assert np.abs(counts - 150).max() < 5 * np.sqrt(500 * 0.3 * 0.7)
    sizes = np.array([len(ids) for ids in drawn])
    assert abs(sizes.mean() - 3) < 5 * np.sqrt(10 * 0.3 * 0.7 / 500)
    assert abs(sizes.var() - 2.1) < 1
    assert all(len(set(ids)) == len(ids) for ids in drawn)


@pytest.mark.parametrize(("clients", "expected", "rounds"), [(20, 3, 40), (2000, 20, 1000)])
def test_slots_are_the_fewest_of_a_chance_that_small(clients, expected, rounds):
    slots, chance = poisson_slots(clients=clients, expected=expected, rounds=rounds)
    assert chance <= OVERFLOW < rounds * binom(clients, expected / clients).sf(slots - 1)


def test_a_cohort_beyond_its_slots_ends_the_run(monkeypatch):
    monkeypatch.setattr(simulation, "poisson_slots", lambda **_: (1, 0.5))
    data = worlds.world([3] * 8)
    options = {"cohort_size": 3, "participation": POISSON["participation"]}
    sim = sim_of(fedavg(), data, rounds=5, **options)
    with pytest.raises(ValueError, match=r"draws \d clients, and there are 1 slots"):
        sim.run(sim.init(jax.random.key(0)), sim.place(data), 5)


def test_the_ledger_says_what_is_released():
    full = RunContext(rounds=7, num_examples=(3,) * 9)
    part = RunContext(
        rounds=7, num_examples=(3,) * 9, cohort=3, sampling="poisson", slots=8, overflow=1e-13
    )
    strategy = transient_sparsity(private(fedavg(), clip=1.0, noise_multiplier=2.0))
    assert strategy.ledger(full).releases == (Release(2.0, 1.0, 7),)
    assert strategy.ledger(part).releases == (Release(2.0, part.rate, 7),)
    assert strategy.ledger(part).failure == 1e-13
    assert part.rate - 2**-23 < 1 / 3 <= part.rate
    assert fedavg().ledger is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip": 0.0, "noise_multiplier": 1.0}, "clip must be above 0, not 0.0"),
        ({"clip": float("nan"), "noise_multiplier": 1.0}, "clip must be above 0, not nan"),
        ({"clip": 1.0}, "either noise_multiplier or epsilon"),
        ({"clip": 1.0, "noise_multiplier": 1.0, "epsilon": 1.0}, "and not both"),
        ({"clip": 1.0, "noise_multiplier": -1.0}, "noise_multiplier must be at least 0"),
        ({"clip": 1.0, "noise_multiplier": float("inf")}, "and finite, not inf"),
        ({"clip": 1.0, "epsilon": 0.0}, "epsilon must be above 0 and finite, not 0.0"),
        ({"clip": 1.0, "noise_multiplier": 1.0, "delta": 0.0}, "delta must be in (0, 1)"),
        ({"clip": 1.0, "noise_multiplier": 1.0, "adaptive": 1.0}, "adaptive must be in (0, 1)"),
        ({"clip": 1.0, "noise_multiplier": 1.0, "reference": "x"}, "one of global, received"),
        ({"clip": 1.0, "noise_multiplier": 1.0, "noise_cohort_size": 0}, "at least 1, not 0"),
    ],
)
def test_values_out_of_range_are_refused(options, words):
    assert words in refused(lambda: private(fedavg(), **options))


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (strategies.scaffold, "its messages are more than models"),
        (strategies.fednova, "its messages are more than models"),
        (strategies.feddyn, "its messages are more than models"),
        (strategies.feddst, "no noise covers"),
        (strategies.local, "private cannot wrap local"),
        (lambda: strategies.sign_majority(fedavg()), "votes are no sum of models"),
        (lambda: strategies.median(fedavg()), "goes inside median, not around it"),
        (lambda: guarded(), "one of its kind is enough"),
    ],
)
def test_what_sends_no_plain_model_is_refused(inner, words):
    assert words in refused(lambda: private(inner(), clip=1.0, noise_multiplier=1.0))


def guarded(**options):
    return private(fedavg(), **{"clip": 1.0, "noise_multiplier": 1.0} | options)


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (strategies.median, "its noise is for a sum"),
        (strategies.trimmed_mean, "its noise is for a sum"),
        (lambda inner: strategies.secure(inner, clip=1.0), "too small for its ledger"),
        (lambda inner: strategies.clip(inner, norm=1.0), "clip goes inside private"),
    ],
)
def test_what_cannot_go_around_it_is_refused(wrap, words):
    assert words in refused(lambda: wrap(guarded()))


EXAMPLES = {"cohort_size": 3, "participation": Participation(sampling="examples")}


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (guarded, {"cohort_size": 3}, "no Poisson sample, and is not accounted for"),
        (guarded, EXAMPLES, "no Poisson sample, and is not accounted for"),
        (lambda: guarded(delta=0.2), {}, "delta must be below 1 / 6, the clients, not 0.2"),
        (
            lambda: guarded(delta=0.1, noise_cohort_size=12),
            {},
            "below 1 / 12, the clients, not 0.1",
        ),
        (lambda: guarded(noise_cohort_size=5), {}, "noise_cohort_size must be at least 6"),
        (lambda: guarded(adaptive=0.5), {}, "needs a noise multiplier below 0.6 with 6 clients"),
        (
            lambda: transient_sparsity(guarded(), sharing="shared"),
            {},
            "no mask that all share by the clients' gradients",
        ),
        (lambda: transient_sparsity(guarded(), hold=float("inf")), {}, "holds through a round"),
        (
            fedavg,
            {"participation": POISSON["participation"]},
            "sampling by Poisson's rule needs a cohort below 6",
        ),
    ],
)
def test_runs_that_are_not_accounted_for_are_refused(make, options, words):
    assert words in refused(lambda: sim_of(make(), worlds.world(SIZES), rounds=2, **options))


def test_running_statistics_are_refused():
    data, training = worlds.world(SIZES), LocalTraining(optax.sgd(0.1), 1, 4)
    batch = worlds.tiny_model(norm="batch")
    words = refused(lambda: simulation.build(batch, guarded(), training, rounds=2, data=data))
    assert "running statistics, which no clip bounds" in words
    assert "--model.norm group" in words


def test_masks_that_follow_from_what_was_noised_are_shared_freely():
    masks = transient_sparsity(guarded(), criterion="magnitude", sharing="shared")
    assert sim_of(masks, worlds.world(SIZES), rounds=2).spec.sparsifier.shared
