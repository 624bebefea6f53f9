"""What the code before behaviour 3 got wrong in silence: each line fails there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.worlds import assert_close, simulate, tiny_model, world
from lipsjax import fedavg, models, simulation, strategies, tree
from lipsjax.local import LocalTraining, Sgd, sgd_of
from lipsjax.metrics.costs import round_bits
from lipsjax.models.layers import BatchNorm
from lipsjax.rounds import Participation
from lipsjax.runs.build import build_optimizer
from lipsjax.runs.config import Config, Execution, LocalConfig
from lipsjax.runs.costs import scheduled
from lipsjax.runs.fields import override
from lipsjax.runs.prepare import prepare
from lipsjax.runs.trial import DivergedError, _check_finite
from lipsjax.sparsity import transient_sparsity
from lipsjax.sparsity.topk import unpack
from lipsjax.strategy import ClientContext, RunContext
from lipsjax.types import Layer, LocalResult, LossAux, Variables

LAYERS = (
    Layer("a", "stem", "conv", ("a",)),
    Layer("b", "middle", "conv", ("b",)),
    Layer("c", "classifier", "dense", ("c",)),
)


def config_of(**fields) -> Config:
    config = Config(dataset="synthetic", rounds=3)
    for name, value in fields.items():
        config = override(config, name.replace("__", "."), value)
    return config


# ---- models ----


@pytest.mark.parametrize("ratio", [100, 1000, 3000])
def test_the_variance_survives_a_mean_of_many_deviations(ratio):
    """Its relative error was 1e-3, 0.19 and 1.0 in float32."""
    x = np.random.default_rng(0).normal(ratio, 1, (16, 8, 8, 4)).astype(np.float32)
    layer, mask = BatchNorm(), jnp.ones(16, bool)
    variables = layer.init(jax.random.key(0), x, mask=mask, train=False)
    y, new = layer.apply(variables, x, mask=mask, train=True, mutable=["batch_stats"])
    exact = x.astype(np.float64).var((0, 1, 2))
    found = (np.asarray(new["batch_stats"]["var"]) - 0.9) / 0.1
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    wanted = (x - x.astype(np.float64).mean((0, 1, 2))) / np.sqrt(exact + 1e-5)
    np.testing.assert_allclose(y, wanted, atol=2e-3)

    def loss(scale, x):
        params = dict(variables) | {"params": {**variables["params"], "scale": scale}}
        y, _ = layer.apply(params, x, mask=mask, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y))

    slope = jax.grad(loss)(jnp.ones(4), jnp.asarray(x))
    np.testing.assert_allclose(slope, (np.cos(wanted) * wanted).sum((0, 1, 2)), rtol=1e-2, atol=1)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_other_norms_take_the_variance_in_two_passes(kind):
    """Groups and tokens too: a constant added to all inputs of a norm changes nothing."""
    from lipsjax.models.layers import Norm

    x = np.random.default_rng(0).normal(size=(4, 8, 8, 8)).astype(np.float32)
    layer, mask = Norm(kind), jnp.ones(4, bool)
    variables = layer.init(jax.random.key(0), x, mask=mask, train=True)
    near, far = (layer.apply(variables, x + c, mask=mask, train=True) for c in (0, 1000))
    np.testing.assert_allclose(near, far, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "deviation", "bias"),
    [
        pytest.param("vgg5", 0.01, 0.0, marks=pytest.mark.slow),
        pytest.param("resnet6", 1 / np.sqrt(3 * 128), 128**-0.5, marks=pytest.mark.slow),
        ("resnet8", 0.0361, 256**-0.5),
    ],
)
def test_classifiers_begin_as_published(name, deviation, bias):
    model = models.build(name, num_classes=100, input_shape=(32, 32, 3))
    found = jax.jit(lambda key: model.init(key).params["classifier"])(jax.random.key(0))
    np.testing.assert_allclose(np.std(found["kernel"]), deviation, rtol=0.02)
    assert np.abs(found["bias"]).max() <= bias
    assert (np.std(found["bias"]) > 0) == (bias > 0)


# ---- strategies ----


def test_moon_compares_with_what_its_frozen_models_predict():
    """They took the statistics of the batch, and now their own running ones."""
    seen = []

    def loss(params, batch_stats, *batch, train=True):
        assert len(batch) == 3
        seen.append((float(params), train))
        return jnp.zeros(()), LossAux(batch_stats, jnp.ones((1, 2)))

    run = RunContext(rounds=1, num_examples=(1,))
    start, last = (Variables(jnp.float32(i), {}) for i in (1, 2))
    context = ClientContext(run, start, client_state=last)
    shaped = strategies.moon().loss(loss, context)
    shaped(jnp.float32(0), {}, jnp.zeros(1), jnp.zeros(1, int), jnp.ones(1, bool))
    assert seen == [(0.0, True), (1.0, False), (2.0, False)]


def test_feddst_regrows_at_zero():
    """A weight that is dropped and grows back at once kept its old value."""
    strategy = strategies.feddst(density=0.5, every=1, fraction=1.0)
    run = RunContext(rounds=100, num_examples=(1,), layers=LAYERS)
    kernel = jnp.arange(1.0, 9.0).reshape(2, 2, 1, 2)
    variables = Variables({"a": jnp.ones(2), "b": kernel, "c": jnp.ones(2)}, {})
    (mask,) = strategy.init_server(run, variables, None)
    steep = jnp.where(mask, 10.0, 1.0)  # so that what is dropped grows back
    context = ClientContext(run, variables, server_state=(mask,), round=jnp.int32(1))
    result = LocalResult(variables, (steep,), jnp.zeros(3), 0.0, 1, 1)
    message, _ = strategy.send(context, result)
    kept, sent = np.asarray(message.keeps[0]) > 0, np.asarray(message.variables.params["b"])
    assert kept.sum() == 4
    assert (sent[kept] == 0).any(), "some have grown back"
    assert (sent[kept][sent[kept] != 0] > 0).all()


def test_a_shared_inverted_mask_keeps_what_clients_together_miss_least():
    """It averaged 1 / |g w|, which one client's zero makes infinite."""
    strategy = transient_sparsity(fedavg(), criterion="inverted", sharing="shared")
    run = RunContext(rounds=5, num_examples=(1, 1), layers=LAYERS)
    sparsifier = strategy.sparsifier(run)
    params = {"b": jnp.ones((1, 1, 1, 3))}
    of_clients = [jnp.array([0.0, 1.0, 5.0]), jnp.array([9.0, 2.0, 5.0])]  # means 4.5, 1.5, 5
    scores = [
        sparsifier.score(params, (g.reshape(1, 1, 1, 3),), jax.random.key(0)) for g in of_clients
    ]
    mean = jax.tree.map(lambda *s: sum(s) / 2, *scores)
    (packed,) = sparsifier.mask(mean, jnp.array([1]))
    assert unpack(packed, (3,)).tolist() == [False, True, False]


@pytest.mark.slow
def test_who_is_drawn_by_examples_weighs_as_all_others():
    """Large clients counted twice, once in the draw and once in the mean."""
    data, training = world([12, 2, 2, 2]), LocalTraining(optax.sgd(0.1), 1, 4)
    ends = []
    for strategy in (strategies.fedprox(mu=0.1), uniform_fedprox()):
        drawn = {"participation": Participation("examples"), "cohort_size": 2}
        state, _, _ = simulate(tiny_model(), strategy, data, rounds=2, training=training, **drawn)
        ends.append(state["global_model"])
    assert_close(*ends, 1e-12)


def uniform_fedprox():
    """Return FedProx as its paper has it: drawn by examples, averaged uniformly."""
    return strategies.fedprox(mu=0.1)._replace(weight=lambda n: jnp.ones_like(n))


LIE = strategies.faulty(fedavg(), clients=1, kind="nan", num_classes=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        strategies.median(LIE),
        strategies.trimmed_mean(LIE, trim=0.34),
        strategies.clip(LIE, norm=1.0),
    ],
    ids=["median", "trimmed mean", "clip"],
)
def test_a_client_that_sends_no_number_is_withstood(strategy):
    """NaN of one client stopped a run even under the median."""
    data, training = world([6, 6, 6]), LocalTraining(optax.sgd(0.1), 1, 6)
    state, metrics, sim = simulate(tiny_model(), strategy, data, rounds=2, training=training)
    _check_finite(sim, jax.random.key(1), metrics, 0, state, None)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state["global_model"]))


def test_a_client_whose_training_diverges_stops_no_robust_run():
    sim = simulation.build(
        tiny_model(),
        strategies.median(fedavg()),
        LocalTraining(optax.sgd(0.1), 1, 6),
        rounds=1,
        data=world([6, 6, 6]),
        mesh=simulation.client_mesh(1),
    )
    key = jax.random.key(0)
    host = sim.to_host(sim.init(key))

    def check(*losses):
        _check_finite(sim, key, FakeMetrics(np.array([losses])), 0, host, None)

    check(0.1, np.nan, 0.1)
    with pytest.raises(DivergedError, match=r"round 0, clients 0, 1, 2"):
        check(np.nan, np.inf, np.nan)


@pytest.mark.parametrize("what", ["params", "batch_stats"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_client_that_diverged_gives_nothing_at_all(what, wrong):
    """Clipping took its parameters back, and averaged its running statistics all the same."""
    start, end = (Variables({"w": jnp.full(2, x)}, {"mean": jnp.full(2, x)}) for x in (1.0, 3.0))
    diverged = end._replace(
        **{what: jax.tree.map(lambda x: x.at[0].set(wrong), end[what == "batch_stats"])}
    )
    context = ClientContext(RunContext(rounds=1, num_examples=(1,)), start)
    clip = strategies.clip(fedavg(), norm=1e3)
    for sent, wanted in ((diverged, start), (end, end)):
        result = LocalResult(sent, (), jnp.zeros(1), 0.0, 1, jnp.int32(1))
        encoded, _ = clip.encode(context, result)
        assert_close(encoded.variables, wanted, 1e-12)


@dataclasses.dataclass
class FakeMetrics:
    client_loss: np.ndarray


@pytest.mark.slow
def test_a_global_model_that_is_no_number_after_the_last_round_is_seen():
    """Its accuracy is a number: class 0 of every image."""
    data, training = world([6, 6, 6]), LocalTraining(optax.sgd(0.1), 1, 6)
    state, metrics, sim = simulate(tiny_model(), LIE, data, rounds=1, training=training)
    assert np.isfinite(metrics.client_loss).all()
    with pytest.raises(DivergedError, match=r"global model is not finite after round 0"):
        _check_finite(sim, jax.random.key(1), metrics, 0, state, None)


# ---- optimizers ----


def test_an_optimizer_that_draws_is_refused():
    """noisy_sgd added the same noise in every round of every client."""
    with pytest.raises(ValueError, match="draws noise from a key in its state"):
        simulation.build(
            tiny_model(),
            fedavg(),
            LocalTraining(optax.noisy_sgd(0.1, key=0), 1, 6),
            rounds=1,
            data=world([6, 6]),
        )


PLAIN = optax.sgd(0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("optimizer", "found"),
    [
        (PLAIN, (0.1, 0.9)),
        (optax.sgd(0.01), (0.01, 0.0)),
        (optax.chain(optax.add_decayed_weights(5e-4), PLAIN), (0.1, 0.9)),
        (optax.lars(0.1), None),
        (optax.lars(0.1, weight_decay=0.1), None),
        (optax.chain(optax.scale_by_trust_ratio(), PLAIN), None),
        (optax.chain(optax.centralize(), PLAIN), None),
        (optax.chain(optax.clip_by_global_norm(1e4), PLAIN), None),
        (optax.sgd(0.1, momentum=0.9, nesterov=True), None),
    ],
)
def test_plain_steps_are_so_wherever_the_weights_are(optimizer, found):
    """LARS is SGD at weights of zero, where it was looked at; so SCAFFOLD took it for that."""
    assert sgd_of(optimizer) == (found and Sgd(*found))


@pytest.mark.parametrize("name", ["adamw", "lion", "lamb", "nadamw"])
def test_weights_do_not_decay_twice_or_the_wrong_way(name):
    with pytest.raises(ValueError, match=rf"{name} decays weights itself: give --local.options"):
        build_optimizer(LocalConfig(optimizer=name, options={}, weight_decay=0.1))
    build_optimizer(LocalConfig(optimizer=name, options={"weight_decay": 0.1}))


# ---- measures ----


@pytest.mark.slow
def test_what_is_forgotten_has_not_moved():
    """IFA's re-initialised weights were counted as a step."""
    data, training = world([6, 6, 6]), LocalTraining(optax.sgd(0.0), 1, 6)
    strategy = strategies.ifa(fedavg(), every=1, fraction=0.5)
    state, metrics, sim = simulate(tiny_model(), strategy, data, rounds=2, training=training)
    start = sim.to_host(sim.init(jax.random.key(1)))["global_model"]
    changed = tree.subtract(state["global_model"].params, start.params)
    assert max(np.abs(x).max() for x in jax.tree.leaves(changed)) > 0.1
    np.testing.assert_allclose(metrics.layers["step"], 0, atol=1e-12)


@pytest.mark.parametrize(
    "strategy",
    [
        strategies.dsd(fedavg(), density=0.5, start=0.0, end=1.0),
        *(
            pytest.param(strategy, marks=pytest.mark.slow)
            for strategy in (
                strategies.constant_topk(fedavg(), density=0.5),
                strategies.constant_topk(strategies.fedadam(), density=0.5),
                strategies.feddst(density=0.5, every=1, fraction=0.5),
            )
        ),
    ],
    ids=["dsd", "constant_topk", "constant_topk of fedadam", "feddst"],
)
@pytest.mark.slow
def test_what_is_masked_has_not_moved(strategy):
    """Weights that a mask has set to zero were counted as a step, at a learning rate of 0 too."""
    data, training = world([6, 6, 6]), LocalTraining(optax.sgd(0.0), 1, 6)
    _, metrics, _ = simulate(tiny_model(), strategy, data, rounds=3, training=training)
    np.testing.assert_allclose(metrics.layers["step"], 0, atol=1e-12)


@pytest.mark.slow
def test_aggregation_gains_over_the_same_clients():
    """Before was of those who arrived, after of all that were drawn."""
    from lipsjax.analysis.comparison import aggregation_gain
    from lipsjax.recording import Recording

    data, training = world([6, 9, 4, 5]), LocalTraining(optax.sgd(0.1), 1, 6)
    some = Participation(dropout=0.5)
    _, metrics, sim = simulate(
        *(tiny_model(), strategies.local(), data), rounds=6, training=training, participation=some
    )
    scalars = {name: np.asarray(x) for name, x in metrics.scalars.items()}
    arrived = scalars["clients_arrived"]
    assert (arrived < 4).any()
    scalars["round"] = np.arange(6)
    # clients that train alone predict with their own models, before and after
    gain = aggregation_gain(Recording({}, {}, {}, scalars, {}, 0.0, 0.0))
    np.testing.assert_allclose(gain[arrived > 0], 0, atol=1e-12)
    assert np.isnan(gain[arrived == 0]).all()
    assert sim.spec.cohort == 4


# ---- bits ----

VALUES, P_MASKABLE, KEPT = 100, 60, 20
UPLINKS = {  # bits up of one client, and of one value more
    "none": (32 * VALUES, 32),
    "sign_majority": (VALUES, 1),
    "quantise of 15 levels": (5 * VALUES + 32, 5),
    "top_k of 10": (10 * (32 + 7), 0),
}


@pytest.mark.parametrize("gradient", [None, "last_local", "fresh"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("name", UPLINKS)
def test_bits_of_every_compression_and_mask(name, held, shared, gradient):
    """By hand, of two clients in a round that begins and ends sparse; none is negative."""
    up, each = UPLINKS[name]
    relative = name != "none"
    found = round_bits(
        clients=2,
        uplink=2 * up,
        downlink=2 * 32 * VALUES,
        maskable=P_MASKABLE,
        kept=KEPT,
        kept_before=KEPT,
        held=held,
        relative=relative,
        gradient=gradient,
        shared=shared,
        sent_per_value=each,
    )
    scores = 2 * 32 * P_MASKABLE if gradient else 0
    bitmaps = 2 * P_MASKABLE
    told = bitmaps if relative and gradient and not shared else 0
    together = shared and gradient is not None
    client_up = 2 * up + told + (scores if together else 0)
    client_down = 2 * 32 * VALUES + (bitmaps if together else 0)
    assert (found.uplink, found.downlink) == (client_up, client_down)
    if gradient == "fresh":
        server = (client_up, client_down)
    else:
        left_out = 2 * each * (P_MASKABLE - KEPT) if held else 0
        down = 2 * 32 * (VALUES - (P_MASKABLE - KEPT)) + bitmaps
        server = (2 * up - left_out + scores, down)
    assert (found.uplink_server_masks, found.downlink_server_masks) == server
    assert min(found) >= 0


@pytest.mark.parametrize(
    ("compression", "options", "saved"),
    [
        ("none", {}, 32),
        ("sign_majority", {}, 1),
        ("quantise", {"levels": 15}, 5),
        ("top_k", {"fraction": 0.1}, 0),
    ],
)
def test_masks_leave_out_what_a_value_takes(compression, options, saved):
    """Votes under constant masks, 4 clients, width 4, took -78504 bits; right is 10776."""
    config = config_of(
        dataset="digits",
        partition__clients=4,
        model__width=4,
        strategy__name="constant_topk",
        strategy__compression=compression,
        strategy__compression_options=options,
    )
    prepared = prepare(config, Execution(devices=1))
    before, sent = (scheduled(prepared.simulation, t) for t in (0, 1))
    bits = prepared.account.bits(1, sent, before)
    masked = 2880 // 4  # of 4 clients, each with half of its maskable weights
    assert bits.uplink - bits.uplink_server_masks == 4 * masked * saved
    if compression == "sign_majority":
        assert bits.uplink_server_masks == 10776
