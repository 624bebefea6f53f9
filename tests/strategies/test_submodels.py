"""Parts of a model against narrow models of their own, and against a loop that averages by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import strategy_loops as loops
from helpers.loop_reference import flat, unflat
from helpers.oracle import check
from helpers.refusals import refused
from helpers.worlds import SHAPE, assert_close, simulate, tiny_model, world
from lipsjax import fedavg, keep_local, models, strategies, transient_sparsity, tree
from lipsjax.local import LocalTraining, model_loss, train
from lipsjax.strategies import compress, submodels
from lipsjax.strategy import ClientContext, Rank, RunContext
from lipsjax.types import Layer, LocalResult, Model, Variables


class Flattened(nn.Module):
    """A convolution whose maps a dense layer reads, position by position."""

    width: int

    @property
    def param_dtype(self):
        return jnp.float64

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Conv(self.width, (3, 3), name="stem", param_dtype=jnp.float64)(x))
        x = nn.Dense(3 * self.width, name="hidden", param_dtype=jnp.float64)(x.reshape(len(x), -1))
        return nn.Dense(4, name="classifier", param_dtype=jnp.float64)(jnp.tanh(x))

    def layers(self):
        return (
            Layer("stem", "stem", "conv", ("stem", "kernel")),
            Layer("hidden", "middle", "dense", ("hidden", "kernel")),
            Layer("classifier", "classifier", "dense", ("classifier", "kernel")),
        )


def build(name, width, norm="batch", **options):
    if name == "flattened":
        return models.from_flax(Flattened(width), SHAPE)
    own = {"param_dtype": jnp.float64, "norm": norm, "width": width, **options}
    return models.build(name, num_classes=4, input_shape=SHAPE, **own)


def gathered(variables, shapes):
    """The first channels of every axis; those of each position, where maps are flattened."""

    def one(path, wide, narrow):
        keys = jax.tree_util.keystr(path, simple=True, separator="/")
        if keys == "params/hidden/kernel" and len(wide) > 25:
            at = wide.reshape(25, -1, wide.shape[1])
            return at[:, : narrow.shape[0] // 25, : narrow.shape[1]].reshape(narrow.shape)
        return wide[tuple(slice(n) for n in narrow.shape)]

    return jax.tree_util.tree_map_with_path(one, variables, shapes)


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def pair(name, norm, wide=8, narrow=4):
    """A model, and a narrow one that begins as the first channels of it."""
    whole, small = build(name, wide, norm), build(name, narrow, norm)

    def init(key):
        return gathered(whole.init(key), shapes_of(small))

    return whole, Model(init, small.apply, small.layers)


OPTIMIZERS = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "clipped": optax.chain(
        optax.clip_by_global_norm(0.5), optax.add_decayed_weights(0.01), optax.adam(0.01)
    ),
}
EQUAL = [
    ("mlp", "batch", "sgd"),
    ("flattened", "none", "clipped"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("cnn", "none", "clipped"),
            ("mlp", "none", "clipped"),
            ("cnn", "batch", "sgd"),
            ("resnet8", "batch", "clipped"),
            ("resnet6", "none", "sgd"),
        )
    ),
]


@functools.partial(jax.jit, static_argnames=("model", "optimizer_of"))
def trained(model, start, data, optimizer_of):
    return train(
        jax.random.key(3),
        start,
        data.train,
        data.train_index[0],
        data.train_mask[0],
        training=LocalTraining(optimizer_of(start), 2, 3),
        loss_fn=model_loss(model),
        layers=model.layers,
        ragged=False,
        gradient_layers=(),
    )


@pytest.mark.parametrize(("name", "norm", "optimizer"), EQUAL)
def test_a_width_trains_as_a_narrow_model(name, norm, optimizer):
    """What it holds comes out as a narrow network of its own, and all else stays exactly 0."""
    whole, small = pair(name, norm)
    data, strategy = world([7]), submodels(fedavg(), widths=(1.0, 0.5))
    run = RunContext(rounds=1, num_examples=(7, 7), layers=whole.layers)
    initial = whole.init(jax.random.key(0))
    context = ClientContext(run, initial, global_model=initial, client_id=jnp.int32(1))
    start = strategy.receive(context)
    small_start = small.init(jax.random.key(0))
    assert_close(gathered(start, shapes_of(small)), small_start, 0)

    def confined(start):
        return strategy.optimizer(OPTIMIZERS[optimizer], context._replace(variables=start))

    found = trained(whole, start, data, confined)
    expected = trained(small, small_start, data, lambda _: OPTIMIZERS[optimizer])
    assert_close(gathered(found.variables, shapes_of(small)), expected.variables)
    assert_close(found.loss, expected.loss)
    for values in (start, found.variables):
        assert nonzero(values) == nonzero(gathered(values, shapes_of(small)))
    moved = tree.subtract(found.variables.params, start.params)
    assert all((x != 0).any() for x in jax.tree.leaves(moved["classifier"]))


def nonzero(values):
    return sum(int((x != 0).sum()) for x in jax.tree.leaves(values))


class PartLoop(loops.StrategyLoop):
    """Masks by index, averages entry by entry, of a cnn or an mlp; no code of the package."""

    def part(self, client):
        """What a client holds, {path: bool}, of the model that goes out."""
        width = self.options["widths"][client % len(self.options["widths"])]
        density = self.options["densities"][client % len(self.options["densities"])]
        parts = {}
        for path, x in flat(self.average).items():
            mask, name = np.zeros(x.shape, bool), path.split("/")[1]
            for at in np.ndindex(x.shape):
                held = name == "classifier" or at[-1] < width * x.shape[-1]
                if x.ndim > 1 and name != "stem":
                    held = held and at[-2] < width * x.shape[-2]
                mask[at] = held
            if name.startswith(("conv", "dense")) and path.endswith("kernel"):
                places = [at for at in np.ndindex(x.shape) if mask[at]]
                kept = sorted(
                    places, key=dict(zip(places, -np.abs(x[mask]), strict=True)).get
                )  # and stable
                mask = np.zeros(x.shape, bool)
                for at in kept[: max(1, int(density * len(places)))]:
                    mask[at] = True
            parts[path] = mask
        return parts

    def with_own(self, variables, client):
        values = {**flat(variables), **self.memory[client]}
        part = self.part(client)
        return unflat(variables, {p: np.where(part[p], x, 0) for p, x in values.items()})

    def correct(self, gradient, client):
        part = self.part(client)
        return unflat(
            gradient, {p: np.where(part[f"params/{p}"], g, 0) for p, g in flat(gradient).items()}
        )

    def aggregate(self, members, starts, results):
        parts, sent = ({c: f(c) for c in members} for f in (self.part, lambda c: flat(results[c])))
        new = {}
        for path, old in flat(self.average).items():
            values = np.array(old)
            for at in np.ndindex(old.shape):
                holders = [c for c in members if parts[c][path][at]]
                weight = sum(self.weight(c) for c in holders)
                if holders:
                    values[at] = sum(self.weight(c) * sent[c][path][at] for c in holders) / weight
            new[path] = values
        return self.update(self.average, unflat(self.average, new))


class AdamPartLoop(PartLoop, loops.FedAdamLoop):
    """The server goes on from there by Adam."""


ADAM = {"server_learning_rate": 0.1, "beta1": 0.8, "beta2": 0.9, "tau": 0.01}
THREE = {"widths": (0.5, 1.0, 0.5), "densities": (0.3, 1.0)}
ROUNDS = {
    "three classes": (THREE, fedavg, PartLoop, {}, "mlp", "batch"),
    "convolutions": (THREE, fedavg, PartLoop, {}, "cnn", "batch"),
    "widths": ({"widths": (0.5, 1.0), "densities": (1.0,)}, fedavg, PartLoop, {}, "cnn", "none"),
    "densities": (
        {"widths": (1.0,), "densities": (0.01, 0.7)},
        fedavg,
        PartLoop,
        {},
        "cnn",
        "batch",
    ),
    "nobody": ({"widths": (0.5,), "densities": (0.5,)}, fedavg, PartLoop, {}, "cnn", "batch"),
    "fedadam": (THREE, lambda: strategies.fedadam(**ADAM), AdamPartLoop, ADAM, "cnn", "none"),
    "personal": (THREE, lambda: keep_local(fedavg(), models.is_norm), PartLoop, {}, "cnn", "batch"),
}
QUICK = ("three classes",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ROUNDS],
)
def test_rounds_equal_their_loop(name):
    """With fewer clients than all in a round, of unequal sizes, in three classes."""
    options, make, loop, inner, kind, norm = ROUNDS[name]
    sizes = {"width": 4, "depth": 2} if kind == "mlp" else {"width": 2}
    data, model = world([9, 2, 6, 5, 4]), build(kind, norm=norm, **sizes)
    loop = loop(
        build(kind, norm=norm, conv="grouped", **sizes),
        data,
        jax.random.key(1),
        options={**options, **inner},
        rounds=4,
        epochs=2,
        batch_size=4,
        learning_rate=0.1,
        cohort=3,
        personal=models.is_norm if name == "personal" else None,
    )
    check(
        model,
        submodels(make(), **options),
        data,
        loop,
        rounds=3,
        total=4,
        cohort_size=3,
        devices=1 if name in QUICK else 4,
        chunk=3 if name in QUICK else 1,
        stops=name not in QUICK,
        compare_loss=False,
        evaluate_every=int(name not in QUICK),
        clients_on_global=True,
    )


@pytest.mark.slow
def test_a_whole_part_among_others_is_federated_averaging():
    """The first client holds everything, by masks that keep everything."""
    data, parts = world([9]), submodels(fedavg(), widths=(1.0, 0.5), densities=(1.0, 0.5))
    ends = [simulate(build("cnn", 2), each, data, rounds=2)[:2] for each in (fedavg(), parts)]
    assert_close(*ends, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_whole_parts_are_federated_averaging(optimizer):
    data, training = world([9, 2, 6]), LocalTraining(OPTIMIZERS[optimizer], 2, 4)
    ends = [
        simulate(build("cnn", 2), each, data, rounds=2, training=training)[:2]
        for each in (fedavg(), submodels(fedavg(), widths=(1.0, 1.0), densities=(1.0,)))
    ]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_what_nobody_holds_stays_to_the_bit():
    data, model = world([4, 5]), build("mlp", 4, depth=1)
    state, _, sim = simulate(
        model, submodels(fedavg(), widths=(0.5,)), data, rounds=1, evaluate_every=0
    )
    begin = sim.to_host(sim.init(jax.random.key(1)))["global_model"]
    old, new = flat(begin), flat(state["global_model"])
    for path, axes in {
        "params/stem/kernel": (slice(None), slice(2)),
        "params/dense1/kernel": (slice(2), slice(2)),
        "params/classifier/kernel": (slice(2), slice(None)),
        "batch_stats/norm_stem/norm/var": (slice(2),),
    }.items():
        part = np.zeros(old[path].shape, bool)
        part[axes] = True
        np.testing.assert_array_equal(new[path][~part], old[path][~part])
        assert (new[path][part] != old[path][part]).mean() > 0.4  # units may be dead
    assert (old["batch_stats/norm_stem/norm/var"] == 1).all()


def one_message(strategy, model, client, seed=0):
    """What one client sends of a training that changed all that it holds, and its start."""
    run = RunContext(rounds=1, num_examples=(5,) * 4, layers=model.layers)
    initial = model.init(jax.random.key(seed))
    context = ClientContext(
        run,
        initial,
        client_state=strategy.init_client(run, initial),
        key=jax.random.key(1),
        client_id=jnp.int32(client),
        global_model=initial,
    )
    start = strategy.receive(context)
    changed = jax.tree.map(lambda x: jnp.where(x != 0, 1.1 * x + 0.01, 0), start)
    result = LocalResult(changed, (), jnp.zeros(0), 0.0, 5, 1)
    encoded, state = strategy.encode(context._replace(variables=start), result)
    context = context._replace(variables=start, client_state=state)
    return start, encoded, *strategy.send(context, encoded)


@pytest.mark.parametrize("codec", [strategies.top_k(fraction=0.2), strategies.quantise(levels=3)])
@pytest.mark.parametrize("part", [{"widths": (1.0, 0.5)}, {"densities": (1.0, 0.25)}])
def test_an_encoded_part_has_nothing_outside(codec, part):
    model = build("mlp", 4, "none", depth=2)
    start, encoded, message, state = one_message(
        compress(submodels(fedavg(), **part), codec), model, 1
    )
    sent = flat(encoded.variables)
    is_cut = 0
    for path, x in flat(start).items():
        if "bias" in path:
            continue
        assert (sent[path][x == 0] == 0).all()
        np.testing.assert_array_equal(flat(message.model)[path], sent[path])
        np.testing.assert_array_equal(
            message.held[path] != 0, x != 0
        ) if path in message.held else 0
        is_cut += (x == 0).sum()
    assert is_cut > 8
    if codec.feedback:
        assert nonzero(state.outer) > 0
        for path, lost in state.outer.items():
            outside = np.asarray(flat(start)[path]) == 0
            assert "bias" in path or (np.asarray(lost)[outside] == 0).all()


def test_what_top_k_kept_back_of_a_weight_that_is_no_longer_held_is_gone():
    model = build("mlp", 4, "none", depth=1)
    strategy = compress(submodels(fedavg(), densities=(0.25,)), strategies.top_k(fraction=0.1))
    run = RunContext(rounds=2, num_examples=(5,), layers=model.layers)
    initial = model.init(jax.random.key(0))
    state = strategy.init_client(run, initial)
    state = state._replace(outer=jax.tree.map(lambda x: x + 100.0, state.outer))
    context = ClientContext(run, initial, client_state=state, client_id=0, global_model=initial)
    start = strategy.receive(context)
    result = LocalResult(start, (), jnp.zeros(0), 0.0, 5, 1)
    encoded, state = strategy.encode(context._replace(variables=start), result)
    masked = np.asarray(start.params["dense1"]["kernel"]) == 0
    assert masked.sum() == 12  # of 16
    assert (encoded.variables.params["dense1"]["kernel"][masked] == 0).all()
    left = np.asarray(state.outer["params/dense1/kernel"])
    assert (left[masked] == 0).all()
    moved = tree.subtract(encoded.variables.params, start.params)
    sent, lost = (sum(float(x.sum()) for x in jax.tree.leaves(t)) for t in (moved, state.outer))
    values = sum(x.size for x in state.outer.values()) - 12
    assert sent + lost == pytest.approx(100 * values)


@pytest.mark.parametrize("kind", ["noise", "nan", "sign_flip"])
def test_a_faulty_client_falsifies_no_more_than_it_holds(kind):
    model = build("mlp", 4, "none", depth=1)
    lying = {"clients": 2, "num_classes": 4, "kind": kind}
    wrong = strategies.faulty(submodels(fedavg(), widths=(1.0, 0.5)), **lying)
    kernel = np.asarray(one_message(wrong, model, 1)[2].model.params["dense1"]["kernel"])
    assert (kernel[2:] == 0).all()
    assert (kernel[:, 2:] == 0).all()
    assert (kernel[:2, :2] != 0).all()


@pytest.mark.parametrize("is_faulty", [False, True])
def test_a_clip_measures_what_is_held(is_faulty):
    """A narrow client's delta is as long as that of the narrow model, whatever was falsified."""
    model = build("mlp", 4, "none", depth=1)
    part = submodels(fedavg(), widths=(0.5,))
    if is_faulty:
        part = strategies.faulty(part, clients=1, num_classes=4, kind="noise")
    start, _, message, _ = one_message(strategies.clip(part, norm=0.01), model, 0)
    delta = tree.subtract(message.model.params, start.params)
    assert optax.tree.norm(delta) == pytest.approx(0.01)


def test_an_optimizer_sees_the_gradient_of_what_is_held():
    """Of ones, a bound on their norm leaves 1 / sqrt(held) each; of a density too."""
    model = build("mlp", 4, "none", depth=2)
    strategy = submodels(fedavg(), densities=(0.25,))
    run = RunContext(rounds=1, num_examples=(5,), layers=model.layers)
    initial = model.init(jax.random.key(0))
    context = ClientContext(run, initial, client_id=0, global_model=initial)
    context = context._replace(variables=strategy.receive(context))
    optimizer = strategy.optimizer(
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)), context
    )
    params = context.variables.params
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    held = tree.size(params) - 2 * 12
    for path, x in flat(updates).items():
        part = flat(params)[path] != 0 if "dense" in path and "kernel" in path else True
        np.testing.assert_allclose(x, np.where(part, -(held**-0.5), 0), rtol=1e-12)
    # and moves nothing else, whatever the optimizer makes of a gradient of 0
    restless = strategy.optimizer(
        optax.stateless(lambda g, _: jax.tree.map(lambda x: x + 1, g)), context
    )
    moved, _ = restless.update(ones, restless.init(params), params)
    assert nonzero(moved) == held


def test_a_message_reveals_what_training_added_to_the_part():
    model = build("mlp", 4, "none", depth=1)
    strategy = submodels(fedavg(), widths=(0.5,))
    start, encoded, message, _ = one_message(strategy, model, 0)
    run = RunContext(rounds=1, num_examples=(5,) * 4, layers=model.layers)
    whole = model.init(jax.random.key(0))
    assert_close(
        strategy.reveals(run, whole, start, message),
        flat(Variables(tree.subtract(encoded.variables.params, start.params), {})),
    )
    seen = strategy.reveals(run, whole, whole, message)  # by who knows nothing of parts
    assert (seen["params/dense1/kernel"][2:] == 0).all()


def test_clients_predict_and_fine_tune_with_their_part():
    """A client that never trained, and one after the last round, have what their width holds."""
    model = build("mlp", 4, "none", depth=1)
    strategy = submodels(fedavg(), widths=(1.0, 0.5))
    run = RunContext(rounds=1, num_examples=(5, 5), layers=model.layers)
    initial = model.init(jax.random.key(0))
    context = ClientContext(run, initial, client_id=jnp.int32(3), global_model=initial)
    own = strategy.predict_with(context._replace(variables=strategy.receive(context)))
    assert_close(own.params["stem"]["kernel"][:, 2:], np.zeros((25, 2)), 0)
    assert_close(own.params["stem"]["kernel"][:, :2], initial.params["stem"]["kernel"][:, :2], 0)
    optimizer = strategy.finetune_optimizer(optax.sgd(1.0), context._replace(variables=own))
    ones = jax.tree.map(jnp.ones_like, own.params)
    updates, _ = optimizer.update(ones, optimizer.init(own.params), own.params)
    assert updates["dense1"]["kernel"].tolist() == [[-1, -1, 0, 0]] * 2 + [[0] * 4] * 2
    assert updates["classifier"]["bias"].tolist() == [-1] * 4


def test_equal_weights_are_held_by_index_and_zeros_before_what_a_width_leaves_out():
    model = build("mlp", 4, "none", depth=1)
    run = RunContext(rounds=1, num_examples=(5,), layers=model.layers)
    zeros = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    strategy = submodels(fedavg(), widths=(0.5,), densities=(0.75,))
    mask = strategy.held(ClientContext(run, zeros, client_id=0))["params/dense1/kernel"]
    assert mask.astype(int).tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]


MLP = build("mlp", 4, "batch", depth=2)
# by hand: 25 inputs, 4 units each, 2 middle layers, 4 classes; scale, bias, mean and var of each
WHOLE = 25 * 4 + 2 * 16 + 4 * 4 + 4 + 3 * 4 * 4
HALF = 25 * 2 + 2 * 4 + 2 * 4 + 4 + 3 * 4 * 2


@pytest.mark.parametrize(
    ("part", "up", "down"),
    [
        ({}, [WHOLE] * 3, [32 * WHOLE] * 3),
        ({"widths": (1.0, 0.5)}, [WHOLE, HALF, WHOLE], [32 * WHOLE, 32 * HALF, 32 * WHOLE]),
        # 5 of 16 in both middle layers, and a bit for each of 32
        (
            {"densities": (1.0, 0.35)},
            [WHOLE, WHOLE - 22, WHOLE],
            [32 * WHOLE, 32 * (WHOLE - 22) + 32, 32 * WHOLE],
        ),
        # 3 of the 4 that a width leaves in each, and a bit for each of 8
        (
            {"widths": (1.0, 0.5), "densities": (0.9,)},
            [WHOLE - 4, HALF - 2, WHOLE - 4],
            [32 * (WHOLE - 4) + 32, 32 * (HALF - 2) + 8, 32 * (WHOLE - 4) + 32],
        ),
    ],
)
def test_bits_by_hand(part, up, down):
    run = RunContext(rounds=2, num_examples=(5,) * 3, layers=MLP.layers)
    found = submodels(fedavg(), **part).traffic(run, shapes_of(MLP))
    everyone = np.arange(3)
    assert [found.sent(t, everyone).tolist() for t in range(2)] == [[32 * n for n in up]] * 2
    for t, last in ((0, None), (1, 0)):
        assert found.received(t, last, everyone).tolist() == down


def test_bits_of_parts_that_are_encoded_or_kept():
    run = RunContext(rounds=1, num_examples=(5,) * 2, layers=MLP.layers)
    part = functools.partial(submodels, widths=(1.0, 0.5))
    statistics = 2 * 3 * 4
    coded = compress(part(fedavg()), strategies.quantise(levels=15)).traffic(run, shapes_of(MLP))
    leaves = 3 + 2 + 2 * 3  # kernels and a bias; scale and bias
    up = [5 * (WHOLE - statistics), 5 * (HALF - statistics // 2)]
    assert coded.up[0].tolist() == [
        up[0] + 32 * leaves + 32 * statistics,
        up[1] + 32 * leaves + 32 * statistics // 2,
    ]
    assert coded.received(0, None, np.arange(2)).tolist() == [32 * WHOLE, 32 * HALF]
    kept = part(keep_local(fedavg(), models.is_norm)).traffic(run, shapes_of(MLP))
    assert kept.up[0].tolist() == [32 * (WHOLE - 48), 32 * (HALF - 24)]
    personal = keep_local(fedavg(), lambda path: path == "params/dense1/kernel")
    masked = submodels(personal, densities=(0.25,)).traffic(run, shapes_of(MLP))
    assert masked.up[0].tolist() == [32 * (WHOLE - 16 - 12)] * 2
    assert masked.received(0, None, np.arange(2)).tolist() == [32 * (WHOLE - 28) + 16] * 2


def of(model, **part):
    """Initialise a client, as is done when a simulation is built."""
    run = RunContext(rounds=1, num_examples=(5,), layers=model.layers)
    return submodels(fedavg(), **part).init_client(run, shapes_of(model))


class Odd(nn.Module):
    """Layers that are no chain: a concatenation, or a norm of flattened maps."""

    kind: str

    @nn.compact
    def __call__(self, x, *, mask, train):
        y = nn.Conv(4, (3, 3), name="stem")(x)
        if self.kind == "joined":
            y = nn.Conv(4, (3, 3), name="middle")(jnp.concatenate([x, y], axis=-1))
        y = y.reshape(len(y), -1)
        if self.kind == "flat":
            y = nn.BatchNorm(use_running_average=not train)(y, mask=mask[:, None])
        return nn.Dense(4, name="classifier")(y)


HALVED = {"widths": (0.5,)}
PARTED = functools.partial(submodels, widths=(0.5,))
REFUSED = {
    "no width": (lambda: submodels(fedavg(), widths=()), "widths must be at least one, not none"),
    "zero": (lambda: submodels(fedavg(), widths=(1, 0)), "widths must be in (0, 1], not 0"),
    "above": (
        lambda: submodels(fedavg(), densities=(1.5,)),
        "densities must be in (0, 1], not 1.5",
    ),
    "nan": (
        lambda: submodels(fedavg(), densities=(float("nan"),)),
        "densities must be in (0, 1], not nan",
    ),
    "fraction": (
        lambda: of(build("cnn", 6), widths=(0.5, 0.25)),
        "widths must leave whole channels, and 0.25 of the 6 of stem are none: allowed are "
        "multiples of 1/6",
    ),
    "too narrow": (
        lambda: of(build("mlp", 4), widths=(1e-9,)),
        "widths must leave whole channels, and 1e-09 of the 4 of stem are none: allowed are "
        "multiples of 1/4",
    ),
    "group": (
        lambda: of(tiny_model(norm="group"), **HALVED),
        "widths below 1 need normalisation by running statistics or none",
    ),
    "vit": (
        lambda: of(models.build("vit", num_classes=4, input_shape=(8, 8, 1), width=8), **HALVED),
        "widths below 1 need normalisation by running statistics or none",
    ),
    "joined": (
        lambda: of(models.from_flax(Odd("joined"), SHAPE), **HALVED),
        "widths below 1 need layers that read what others put out: middle reads 5 channels, after "
        "layers that put out [4]",
    ),
    "flat": (
        lambda: of(models.from_flax(Odd("flat"), SHAPE), **HALVED),
        "widths below 1 need normalisation of what a layer puts out, one of [4] channels, and ",
    ),
    "no middle": (
        lambda: of(models.from_flax(Odd("none"), SHAPE), densities=(0.5,)),
        "densities below 1 need a model with middle layers; this one has none",
    ),
    "no classifier": (
        lambda: of(build("mlp", 4)._replace(layers=build("mlp", 4).layers[:2]), **HALVED),
        "widths below 1 need a model that declares its classifier",
    ),
    "twice": (lambda: PARTED(PARTED(fedavg())), "submodels cannot wrap submodels: one of its kind"),
    "scaffold": (lambda: PARTED(strategies.scaffold()), "its messages are more than models"),
    "fednova": (lambda: PARTED(strategies.fednova()), "its messages are more than models"),
    "feddyn": (lambda: PARTED(strategies.feddyn()), "its messages are more than models"),
    "fedbuff": (lambda: PARTED(strategies.fedbuff()), "it sends deltas that staleness has scaled"),
    "feddst": (lambda: PARTED(strategies.feddst()), "it has masks of its own"),
    "fedpart": (lambda: PARTED(strategies.fedpart()), "it trains one layer a round"),
    "moon": (lambda: PARTED(strategies.moon()), "compared with the whole initial model"),
    "local": (lambda: PARTED(strategies.local()), "clients train alone"),
    "inside ditto": (lambda: PARTED(strategies.ditto()), "submodels goes inside ditto"),
    "ditto": (lambda: strategies.ditto(PARTED(fedavg())), "its second model would be whole"),
    "keep_local": (
        lambda: keep_local(PARTED(fedavg()), models.is_norm),
        "keep_local goes inside submodels",
    ),
    "examples": (
        lambda: strategies.private_examples(PARTED(fedavg()), clip=1.0, noise_multiplier=1.0),
        "it bounds gradients of whole models",
    ),
    "votes": (lambda: strategies.sign_majority(PARTED(fedavg())), "would count as a vote"),
    "private": (
        lambda: strategies.private(PARTED(fedavg()), clip=1.0, noise_multiplier=1.0),
        "each weight has a mean of its own",
    ),
    "canaries": (
        lambda: strategies.canaries(PARTED(fedavg()), clients=1, length=1.0),
        "each weight has a mean of its own",
    ),
    "secure": (
        lambda: strategies.secure(PARTED(fedavg()), clip=1.0),
        "would be cut as if it was 0",
    ),
    "median": (lambda: strategies.median(PARTED(fedavg())), "would count as 0"),
    "trimmed_mean": (lambda: strategies.trimmed_mean(PARTED(fedavg())), "would count as 0"),
    "ifa": (lambda: strategies.ifa(PARTED(fedavg())), "held by nobody would stay random"),
    "lips": (lambda: transient_sparsity(PARTED(fedavg())), "masks keep a share of whole layers"),
    "lips, held": (
        lambda: transient_sparsity(PARTED(fedavg()), hold=2),
        "masks keep a share of whole layers",
    ),
    "dsd": (lambda: strategies.dsd(PARTED(fedavg())), "masks keep a share of whole layers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(name):
    make, part = REFUSED[name]
    said = refused(make)
    assert part in said
    assert "\n" not in said


def test_messages_that_are_no_models_are_refused():
    own = fedavg()._replace(name="own", send=lambda context, result: ({"a": 1.0}, ()))
    said = refused(lambda: one_message(submodels(own, **HALVED), build("mlp", 4), 0))
    assert said == "submodels cannot wrap own: its messages are no models"


def test_a_misfit_is_refused_when_a_simulation_is_built():
    with pytest.raises(ValueError, match="widths must leave whole channels"):
        simulate(build("mlp", 3), PARTED(fedavg()), world([4, 5]), rounds=1)


def test_every_rank_around_has_a_reason_or_a_test():
    """What goes around parts is faults, encodings and clips."""
    around = {rank for rank in Rank if rank > Rank.PART} - PARTED(fedavg()).refuses.keys()
    assert around == {Rank.FAULT, Rank.ENCODE, Rank.CLIP}


@pytest.mark.slow
def test_what_goes_together_trains():
    inside = strategies.fedprox(mu=0.1)
    lying = strategies.faulty(
        submodels(inside, widths=(0.5, 1.0), densities=(0.5,)),
        clients=1,
        kind="noise",
        num_classes=4,
    )
    strategy = strategies.clip(compress(lying, strategies.top_k(fraction=0.3)), norm=1.0)
    state, metrics, _ = simulate(
        build("cnn", 2), strategy, world([6, 5, 7]), rounds=3, tune_epochs=1, new_clients=1
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state["global_model"]))
    assert np.isfinite(metrics.scalars["accuracy_new_tuned"][-1])


INNER = {
    "fedprox": lambda: strategies.fedprox(mu=0.1),
    "fedyogi": strategies.fedyogi,
    "fedper": strategies.fedper,
    "fedrep": strategies.fedrep,
    "fedbabu": strategies.fedbabu,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INNER)
def test_what_sends_models_alone_goes_inside(name):
    """A federation of narrow clients is one of the narrow model, fine-tuning included."""
    whole, small = pair("mlp", "batch")
    data, parts = world([5, 7, 4]), PARTED(INNER[name]())
    options = {"rounds": 2, "evaluate_every": 0, "tune_epochs": 1, "new_clients": 1}
    state, metrics, _ = simulate(whole, parts, data, **options)
    expected, told, _ = simulate(small, INNER[name](), data, **options)
    assert_close(gathered(state["global_model"], shapes_of(small)), expected["global_model"], 1e-9)
    assert_close(metrics.client_loss, told.client_loss)
    for measure in ("accuracy_tuned", "accuracy_new", "accuracy_new_tuned"):
        assert_close(metrics.scalars[measure], told.scalars[measure])
