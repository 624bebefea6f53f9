"""What goes around a strategy, compression, robust means, faults; and what goes around what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw
from hypothesis.extra import numpy as arrays

from helpers.quadratics import HESSIANS, OPTIMA, quadratics
from helpers.worlds import simulate, tiny_model, world
from lipsjax import fedavg, keep_local, models, strategies, transient_sparsity
from lipsjax.strategy import ClientContext, RunContext, check_wraps
from lipsjax.tree import size
from lipsjax.types import LossAux, Variables

LAYERS = tiny_model().layers


def run_of(rounds, sizes=(5, 5), **known):
    return RunContext(rounds=rounds, num_examples=sizes, layers=LAYERS, **known)


INITIAL = jax.eval_shape(tiny_model().init, jax.random.key(0))
VALUES, PARAMETERS = size(INITIAL), size(INITIAL.params)
STATISTICS = VALUES - PARAMETERS


def reported(values):
    """Messages of C clients, of one number each per entry."""
    shape = draw.tuples(draw.integers(1, 9), draw.integers(1, 3))
    return arrays.arrays(float, shape, elements=draw.floats(-1e6, 1e6, width=32)).map(values)


ROBUST = {
    "median": (strategies.median(fedavg()), lambda count: (count - 1) // 2),
    "trimmed_mean": (
        strategies.trimmed_mean(fedavg(), trim=0.3),
        lambda count: int(np.floor(0.3 * count + 1e-9)),
    ),
}


@pytest.mark.parametrize("name", ROBUST)
@settings(max_examples=30, deadline=None)
@given(messages=reported(np.asarray), data=draw.data())
def test_robust_means_stay_among_the_honest(name, messages, data):
    """With as many liars as promised, whatever they say, and in any order."""
    strategy, promised = ROBUST[name]
    count = len(messages)
    liars = data.draw(draw.integers(0, promised(count)))
    lies = data.draw(
        arrays.arrays(float, (liars, messages.shape[1]), elements=draw.floats(-1e12, 1e12))
    )
    honest = messages[liars:]
    said = np.concatenate([lies, honest])
    slack = 1e-9 * np.abs(honest).max()

    def aggregate(order):  # among ten rows, so that all draws are one program
        rows = np.full((10, 3), np.nan)
        rows[:count, : said.shape[1]] = said[list(order)]
        found = strategy.aggregate(jnp.asarray(rows), jnp.arange(10) < count)
        return np.asarray(found)[: said.shape[1]]

    found = aggregate(range(count))
    assert (found >= honest.min(0) - slack).all()
    assert (found <= honest.max(0) + slack).all()
    again = aggregate(data.draw(draw.permutations(range(count))))
    np.testing.assert_allclose(again, found, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("name", ROBUST)
def test_who_did_not_arrive_is_not_counted(name):
    strategy, _ = ROBUST[name]
    messages = jnp.array([[1.0], [np.nan], [2.0], [9.0], [1e9]])
    arrived = jnp.array([True, False, True, True, False])
    few = jnp.array([[1.0], [2.0], [9.0]])
    np.testing.assert_allclose(
        strategy.aggregate(messages, arrived), strategy.aggregate(few, jnp.ones(3, bool))
    )


def test_a_liar_spoils_the_mean_and_not_the_median():
    def end(wrap):
        lying = strategies.faulty(fedavg(), clients=1, kind="sign_flip", num_classes=2, scale=5.0)
        return quadratics(wrap(lying), HESSIANS, OPTIMA, rounds=60)[-1]

    honest = OPTIMA[1:]
    median = end(strategies.median)
    assert (median >= np.minimum(honest.min(0), 0) - 1e-9).all()
    assert (median <= np.maximum(honest.max(0), 0) + 1e-9).all()
    assert np.abs(end(lambda s: s)).max() > 1e3


@settings(max_examples=20, deadline=None)
@given(draw.lists(draw.floats(-5, 5), min_size=1, max_size=6), draw.integers(1, 7))
def test_random_rounding_is_right_on_average(values, levels):
    moved = {"a": jnp.array(values + [0.0] * (6 - len(values)))}  # all draws are one shape
    codec = strategies.quantise(levels=levels)
    sent = jax.vmap(lambda k: codec.apply(k, moved, 6)["a"])(
        jax.random.split(jax.random.key(0), 4000)
    )
    step = float(jnp.linalg.norm(moved["a"])) / levels
    # each is off by at most a step, so that the mean of 4,000 is off by at most 5 deviations
    assert np.abs(sent.mean(0) - moved["a"]).max() <= 5 * step / 2 / np.sqrt(4000) + 1e-9
    assert np.abs(sent - moved["a"]).max() <= step + 1e-9


def test_top_k_with_feedback_loses_nothing():
    """What was not sent yet is what clients still hold: sums agree at any time."""
    codec = strategies.top_k(fraction=0.25)
    rng, lost = np.random.default_rng(0), {"a": jnp.zeros(8)}
    moved_in_all = sent_in_all = 0
    for _ in range(20):
        moved = {"a": jnp.asarray(rng.normal(size=8))}
        wished = {"a": moved["a"] + lost["a"]}
        sent = jax.jit(codec.apply)(jax.random.key(0), wished, int(codec.values(np.array([8]))[0]))
        assert (np.asarray(sent["a"]) != 0).sum() == 2
        lost = {"a": wished["a"] - sent["a"]}
        moved_in_all, sent_in_all = moved_in_all + moved["a"], sent_in_all + sent["a"]
    np.testing.assert_allclose(moved_in_all, sent_in_all + lost["a"], rtol=1e-12)


def test_each_client_sends_its_own_fraction():
    """Client by client as if all had that fraction; of five clients, three fractions in turn."""
    fractions, moved = (0.125, 0.5, 1.0), {"a": jnp.arange(1.0, 6.0), "b": jnp.arange(-6.0, -3.0)}
    together = strategies.top_k(fraction=fractions)
    counts = together.values(np.full(5, 8))
    assert counts.tolist() == [1, 4, 8, 1, 4]
    for count in counts.tolist():
        sent = together.apply(jax.random.key(0), moved, count)
        assert sum(int((x != 0).sum()) for x in sent.values()) == count
    traffic = strategies.compress(fedavg(), together).traffic(run_of(2, (5,) * 5), INITIAL)
    kept = [max(1, int(fractions[k % 3] * PARAMETERS)) for k in range(5)]
    bits = [count * (32 + INDEX) + 32 * STATISTICS for count in kept]
    assert traffic.up.tolist() == [bits] * 2
    assert traffic.sent(1, np.array([4, 0])).tolist() == [bits[4], bits[0]]
    assert traffic.received(1, 0, np.array([4, 0])).tolist() == [32 * VALUES] * 2


def test_whole_rounds_with_a_fraction_for_each_client():
    """Of clients that move weights of their own, each goes as where all have its fraction."""
    own, fractions = np.kron(np.eye(3), np.ones((1, 4))), (0.1, 0.25, 1.0)
    hessians, optima = (
        own * np.tile([1.0, 4.0, 2.0, 0.5], 3),
        own * np.tile([2.0, -1.0, 3.0, 1.0], 3),
    )

    def weights(fraction):
        strategy = strategies.compress(fedavg(), strategies.top_k(fraction=fraction))
        return quadratics(strategy, hessians, optima, rounds=6).reshape(6, 3, 4)

    together = weights(fractions)
    for client, fraction in enumerate(fractions):
        np.testing.assert_array_equal(together[:, client], weights(fraction)[:, client])
    assert (together[0, :2] != 0).sum(-1).tolist() == [1, 3]  # of 12 weights


def test_compression_reaches_where_fedavg_stops():
    exact = quadratics(fedavg(), HESSIANS, OPTIMA, rounds=400)[-1]
    rough = strategies.compress(fedavg(), strategies.top_k(fraction=0.5))
    np.testing.assert_allclose(
        quadratics(rough, HESSIANS, OPTIMA, rounds=400)[-20:].mean(0), exact, atol=0.15
    )


FIRST = sum(
    x.size
    for x in jax.tree.leaves(INITIAL.params["stem"]) + jax.tree.leaves(INITIAL.params["norm_stem"])
)
HEAD = size(INITIAL.params["classifier"])
MASKABLE = INITIAL.params["conv_a"]["kernel"].size + INITIAL.params["conv_b"]["kernel"].size
INDEX = int(np.ceil(np.log2(PARAMETERS)))
LEAVES = len(jax.tree.leaves(INITIAL.params))
PERSONAL = size([INITIAL.params[n] for n in INITIAL.params if n.startswith("norm")]) + STATISTICS
BITS = {
    "fedavg": (fedavg(), 32 * VALUES, 32 * VALUES),
    "scaffold": (
        strategies.scaffold(),
        32 * (VALUES + PARAMETERS),
        32 * (VALUES + PARAMETERS),
    ),
    "fedper": (strategies.fedper(), 32 * (VALUES - HEAD), 32 * (VALUES - HEAD)),
    "fedbabu": (strategies.fedbabu(), 32 * (VALUES - HEAD), 32 * (VALUES - HEAD)),
    "top_k": (
        strategies.compress(fedavg(), strategies.top_k(fraction=0.1)),
        PARAMETERS // 10 * (32 + INDEX) + 32 * STATISTICS,
        32 * VALUES,
    ),
    "quantise": (
        strategies.compress(fedavg(), strategies.quantise(levels=15)),
        PARAMETERS * 5 + 32 * LEAVES + 32 * STATISTICS,
        32 * VALUES,
    ),
    "sign_majority": (
        strategies.sign_majority(fedavg()),
        PARAMETERS + 32 * STATISTICS,
        32 * VALUES,
    ),
    "top_k, personal norms": (
        strategies.compress(keep_local(fedavg(), models.is_norm), strategies.top_k(fraction=0.1)),
        (VALUES - PERSONAL) // 10 * (32 + int(np.ceil(np.log2(VALUES - PERSONAL)))),
        32 * (VALUES - PERSONAL),
    ),
}


@pytest.mark.parametrize("name", BITS)
def test_bits_by_hand(name):
    strategy, up, down = BITS[name]
    found = strategy.traffic(run_of(2), INITIAL)
    assert found.up.tolist() == [up] * 2
    assert [found.down(0, None), found.down(1, 0), found.down(1, None)] == [down] * 3


def test_bits_that_differ_by_round():
    part = strategies.fedpart(full_rounds=1, rounds_per_layer=1)
    up, down, _ = part.traffic(run_of(3), INITIAL)
    assert up[:2].tolist() == [32 * VALUES, 32 * (FIRST + STATISTICS)]
    assert [down(0, None), down(1, 0), down(2, 1)] == [32 * VALUES, *up[:2]]
    dst = strategies.feddst(density=0.5, every=2)
    up, down, _ = dst.traffic(run_of(8), INITIAL)
    kept = up[0] // 32 - (VALUES - MASKABLE)
    assert MASKABLE / 2 - 2 <= kept <= MASKABLE / 2
    assert (up - up[0]).tolist() == [0, MASKABLE, 0, MASKABLE, 0, 0, 0, 0]
    downs = [down(t, t - 1 if t else None) - up[0] for t in range(8)]
    assert downs == [MASKABLE, 0, MASKABLE, 0, MASKABLE, 0, 0, 0]


def test_bits_of_clients_that_missed_rounds():
    """What has changed since a client received comes down; all of it, if it never did."""
    part = strategies.fedpart(full_rounds=1, rounds_per_layer=1)
    up, down, _ = part.traffic(run_of(5), INITIAL)
    assert down(3, None) == 32 * VALUES
    assert down(3, 0) == 32 * VALUES  # round 0 trained everything
    assert down(3, 1) == up[1] + up[2] - 32 * STATISTICS  # two layers, the statistics once
    dst = strategies.feddst(density=0.5, every=2)
    up, down, _ = dst.traffic(run_of(8), INITIAL)
    assert down(7, None) - up[0] == MASKABLE
    assert down(7, 3) - up[0] == MASKABLE  # the mask changed at the end of round 3
    assert down(7, 4) == up[0]


def lips(strategy, **options):
    return transient_sparsity(strategy, every=1, gradient="stored", **options)


TOGETHER = {
    "lips(compress(scaffold))": lambda: lips(
        strategies.compress(strategies.scaffold(), strategies.top_k(fraction=0.1))
    ),
    "lips(median(compress(faulty(fedbn))))": lambda: lips(
        strategies.median(
            strategies.compress(
                strategies.faulty(
                    keep_local(fedavg(), models.is_norm), clients=1, kind="noise", num_classes=4
                ),
                strategies.quantise(),
            )
        )
    ),
    "lips(ifa(clip(fedadam)))": lambda: lips(
        strategies.ifa(strategies.clip(strategies.fedadam(), norm=1.0), every=1)
    ),
    "lips(ditto(fedbn)), held": lambda: lips(
        strategies.ditto(keep_local(fedavg(), models.is_norm)), hold=2
    ),
    "lips(sign_majority(moon))": lambda: lips(strategies.sign_majority(strategies.moon())),
    "constant_topk(compress(feddyn))": lambda: strategies.constant_topk(
        strategies.compress(strategies.feddyn(), strategies.quantise())
    ),
    "dsd(trimmed_mean(fednova))": lambda: strategies.dsd(
        strategies.trimmed_mean(strategies.fednova()), start=0.0, end=1.0
    ),
    "compress(ditto)": lambda: strategies.compress(strategies.ditto(), strategies.quantise()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_what_goes_together_trains(name):
    state, metrics, _ = simulate(
        tiny_model(), TOGETHER[name](), world([6, 5, 7]), rounds=2, evaluate_every=0, chunk=3
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state["global_model"]))
    assert np.isfinite(metrics.client_loss).all()


APART = {
    "lips(fedpart)": (lambda: lips(strategies.fedpart()), "trains one layer a round"),
    "lips(feddst)": (
        lambda: lips(strategies.feddst()),
        "transient_sparsity cannot wrap feddst: it has masks of its own",
    ),
    "lips(constant_topk)": (
        lambda: lips(strategies.constant_topk()),
        "transient_sparsity cannot wrap constant_topk: one of its kind is enough",
    ),
    "dsd(lips)": (
        lambda: strategies.dsd(lips(fedavg())),
        "dsd cannot wrap transient_sparsity: one of its kind is enough",
    ),
    "compress(lips)": (
        lambda: strategies.compress(lips(fedavg()), strategies.quantise()),
        "compress goes inside transient_sparsity, not around it",
    ),
    "compress(compress)": (
        lambda: strategies.compress(
            strategies.compress(fedavg(), strategies.quantise()), strategies.quantise()
        ),
        "compress cannot wrap compress: one of its kind is enough",
    ),
    "compress(fedpart)": (
        lambda: strategies.compress(strategies.fedpart(), strategies.quantise()),
        "sends one layer a round",
    ),
    "sign_majority(scaffold)": (
        lambda: strategies.sign_majority(strategies.scaffold()),
        "its messages are more than models",
    ),
    "median(feddst)": (
        lambda: strategies.median(strategies.feddst()),
        "averages each weight over those who keep it",
    ),
    "keep_local(compress)": (
        lambda: keep_local(strategies.compress(fedavg(), strategies.quantise()), models.is_norm),
        "keep_local goes inside compress, not around it",
    ),
    "clip(sign_majority)": (
        lambda: strategies.clip(strategies.sign_majority(fedavg()), norm=1.0),
        "every vote is as long as any other",
    ),
    "sign_majority(compress)": (
        lambda: strategies.sign_majority(strategies.compress(fedavg(), strategies.quantise())),
        "what it sends is encoded already",
    ),
    "faulty(clip)": (
        lambda: strategies.faulty(
            strategies.clip(fedavg(), norm=1.0), clients=1, kind="noise", num_classes=2
        ),
        "faulty goes inside clip, not around it",
    ),
    "median(local)": (lambda: strategies.median(strategies.local()), "clients train alone"),
    "halfway(local)": (
        lambda: check_wraps(strategies.local(), "halfway"),
        "wrapper must be one of keep_local, .*, not 'halfway'",
    ),
    "ditto(ditto)": (
        lambda: strategies.ditto(strategies.ditto()),
        "ditto cannot wrap ditto: one of its kind is enough",
    ),
    "lips(fedrep), held": (
        lambda: lips(strategies.fedrep(), hold=1),
        "hold must be 0 around",
    ),
    "compress(median)": (
        lambda: strategies.compress(strategies.median(fedavg()), strategies.quantise()),
        "compress goes inside median, not around it",
    ),
}


@pytest.mark.parametrize("name", APART)
def test_what_makes_no_sense_is_refused(name):
    make, part = APART[name]
    with pytest.raises(ValueError, match=part):
        make()


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: strategies.top_k(fraction=0), r"fraction must be in \(0, 1\], not 0"),
        (lambda: strategies.quantise(levels=0.5), "levels must be a whole number, at least 1"),
        (lambda: strategies.sign_majority(fedavg(), step=0), "step must be above 0, not 0"),
        (lambda: strategies.trimmed_mean(fedavg(), trim=0.5), r"trim must be in \[0, 0.5\)"),
        (lambda: strategies.clip(fedavg(), norm=-1), "norm must be above 0, not -1"),
        (lambda: strategies.moon(mu=-1), "mu must be at least 0, not -1"),
        (lambda: strategies.moon(temperature=0), "temperature must be above 0, not 0"),
        (lambda: strategies.ditto(lam=-1), "lam must be at least 0, not -1"),
        (
            lambda: strategies.fedpart(full_rounds=0.5),
            "full_rounds must be a whole number, at least 0, not 0.5",
        ),
        (
            lambda: strategies.ifa(every=0),
            "every must be a whole number, at least 1, not 0",
        ),
        (
            lambda: strategies.faulty(fedavg(), clients=1, kind="noise", num_classes=2, scale=-1),
            "scale must be at least 0, not -1",
        ),
        (
            lambda: strategies.feddst(every=0),
            "every must be a whole number, at least 1, not 0",
        ),
    ],
)
def test_what_is_out_of_range_is_refused(make, part):
    with pytest.raises(ValueError, match=part):
        make()


def test_a_model_without_a_classifier_has_no_head():
    run = RunContext(rounds=1, num_examples=(5,), layers=LAYERS[:2])
    with pytest.raises(ValueError, match="declares no classifier"):
        strategies.fedper().init_client(run, INITIAL)


def test_moon_says_that_it_needs_features():
    context = ClientContext(run_of(1), Variables({}, {}), client_state=Variables({}, {}))
    loss = strategies.moon().loss(lambda *batch: (0.0, LossAux({}, None)), context)
    with pytest.raises(ValueError, match="moon needs a model that sows features"):
        loss({}, {}, None, None, None)
