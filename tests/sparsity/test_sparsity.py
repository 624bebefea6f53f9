"""Masks: exact k, ties by index, outer layers untouched; density schedules and distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.worlds import SHAPE, simulate, tiny_model, world
from lipsjax import fedavg, models, transient_sparsity
from lipsjax.sparsity import constant, cosine, cubic, linear
from lipsjax.sparsity.density import density_table, erk, kept_counts
from lipsjax.sparsity.topk import pack, topk_mask, unpack
from lipsjax.strategy import Broadcast, ClientContext, RunContext


def plain_topk(scores, k):
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:k]] = True
    return mask


SCORES = [0.0, 1e-45, 1e-38, 0.5, 0.5000001, 1.0, 3.0, 1e38, float("inf")]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    # few lengths: each is a program
    scores=st.sampled_from([1, 3, 40]).flatmap(
        lambda n: st.lists(st.sampled_from(SCORES), min_size=n, max_size=n)
    ),
    share=st.floats(0, 1),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_topk_is_a_stable_sort(scores, share, dtype):
    scores = np.array(scores, dtype)
    k = int(share * len(scores))
    np.testing.assert_array_equal(jax.jit(topk_mask)(scores, k), plain_topk(scores, k))


def test_topk_under_vmap_with_a_traced_k():
    scores = np.random.default_rng(0).random((3, 50)).round(1).astype(np.float32)
    masks = jax.jit(jax.vmap(topk_mask))(scores, jnp.array([0, 17, 50]))
    for row, k, mask in zip(scores, (0, 17, 50), masks, strict=True):
        np.testing.assert_array_equal(mask, plain_topk(row, k))


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 3, 2), (17, 5)])
def test_packing_round_trip(shape):
    mask = np.random.default_rng(1).random(shape) < 0.5
    bits = pack(jnp.asarray(mask))
    assert bits.nbytes == -(-mask.size // 8)
    np.testing.assert_array_equal(unpack(bits, shape), mask)


def test_published_schedule():
    table = density_table(linear(0.5), every=5, rounds=300)
    assert table[0] == 0.5
    assert table[5] == 0.5 + 0.5 * 5 / 300
    assert table[1] == 1.0
    assert (table < 1).sum() == 60


@pytest.mark.parametrize("schedule", [linear, cosine, cubic])
def test_schedules_rise_from_start_to_one(schedule):
    values = [schedule(0.2)(x) for x in np.linspace(0, 1, 50)]
    assert values[0] == pytest.approx(0.2)
    assert values[-1] == pytest.approx(1.0)
    assert (np.diff(values) > 0).all()


def test_known_points():
    assert constant(0.3)(0.7) == 0.3
    assert cosine(0.5)(0.5) == pytest.approx(0.75)
    assert cubic(0.0 + 0.2)(0.5) == pytest.approx(1 - 0.8 / 8)


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, float("nan")])
def test_density_out_of_range(bad):
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]"):
        linear(bad)


def test_counts_are_floors_in_float64():
    # float32 would give 0.29 * 100 = 29.0 here
    assert kept_counts(np.array([0.29]), [(100,)], scope="layer")[0, 0] == 28
    counts = kept_counts(np.array([0.5, 1.0]), [(3, 3), (5,)], scope="layer")
    np.testing.assert_array_equal(counts, [[4, 2], [9, 5]])
    assert kept_counts(np.array([0.5]), [(3, 3), (5,)], scope="global").tolist() == [[7]]


def test_erk_keeps_the_total_and_caps_at_one():
    shapes = [(3, 3, 4, 8), (3, 3, 64, 64), (1, 1, 8, 16)]
    sizes = np.array([np.prod(s) for s in shapes])
    for density in (0.05, 0.3, 0.9, 1.0):
        by_layer = erk(density, shapes)
        assert (by_layer <= 1).all()
        assert (by_layer * sizes).sum() == pytest.approx(density * sizes.sum())
    low = erk(0.01, shapes)  # too low for any layer to be full
    raw = np.array([sum(s) for s in shapes]) / sizes
    np.testing.assert_allclose(low / low[1], raw / raw[1])


def chosen_masks(sparse_round, **options):
    """Masks in flight after round 0 of a tiny run, by layer, [clients, ...]."""
    strategy = transient_sparsity(fedavg(), **options)
    state, _, sim = simulate(tiny_model(), strategy, world([8, 8, 8]), rounds=sparse_round, total=6)
    params = state["global_model"].params
    return (
        {
            layer.name: np.stack([unpack(b, params[layer.path[0]]["kernel"].shape) for b in bits])
            for layer, bits in zip(sim.spec.sparsifier.layers, state["packed_masks"], strict=True)
        },
        state,
        sim,
    )


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.1, 0.37, 0.99])
def test_exact_count_in_every_layer(density):
    masks, state, _ = chosen_masks(1, density=density, every=5, kinds=("conv", "dense"))
    assert set(masks) == {"conv_b", "conv_a", "hidden"}  # never stem or classifier
    assert state["sparse"]
    for mask in masks.values():
        each = mask.reshape(len(mask), -1).sum(1)
        assert (each == int(np.floor(density * mask[0].size))).all()


@pytest.mark.whole
@pytest.mark.slow
def test_dense_rounds_send_no_mask():
    _, state, sim = chosen_masks(2, density=0.3, every=5)
    assert not state["sparse"]
    np.testing.assert_array_equal(
        sim.schedule.per_round.sparse, [True, False, False, False, False, True]
    )


@pytest.mark.slow
@pytest.mark.whole
def test_outer_layers_biases_and_norms_are_never_masked():
    model = tiny_model()
    strategy = transient_sparsity(fedavg(), density=0.1, every=1, kinds=("conv", "dense"))
    state, _, sim = simulate(model, strategy, world([8, 8]), rounds=1, total=3)
    model = state["global_model"]
    packed = jax.tree.map(lambda b: b[0], state["packed_masks"])
    context = ClientContext(
        sim.spec.run,
        model,
        server_state=state["server_state"],
        broadcast=Broadcast(packed, jax.random.key(0), jnp.ones((), bool), jnp.float32(0.1)),
    )
    received = strategy.receive(context)
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(model), jax.tree.leaves(received), strict=True
        )
        if not np.array_equal(a, b)
    }
    assert changed == {f"params/{n}/kernel" for n in ("conv_b", "conv_a", "hidden")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "size"}, "criterion must be one of saliency"),
        ({"sharing": "all"}, "sharing must be one of client, shared"),
        ({"scope": "model"}, "scope must be one of"),
        ({"refill": "ones"}, "refill must be one of zero, init, noise, not 'ones'"),
        ({"gradient": "mean"}, "gradient must be one of"),
        ({"kinds": ("attention",)}, "kinds must be one of conv, dense"),
        ({"every": 0}, "every must be at least 1, not 0"),
        ({"hold": -1}, "hold must be at least 0, not -1"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        transient_sparsity(fedavg(), **options)


def test_refused_for_the_run_as_a_whole():
    model, data = tiny_model(), world([8, 8, 8])
    strategy = transient_sparsity(fedavg())
    with pytest.raises(ValueError, match="needs every client in every round, not 2 of 3"):
        simulate(model, strategy, data, rounds=1, cohort_size=2)
    with pytest.raises(ValueError, match="nothing to mask"):
        simulate(model, transient_sparsity(fedavg(), kinds=()), data, rounds=1)
    strategy = transient_sparsity(fedavg(), hold=99)
    with pytest.raises(ValueError, match="hold must be at most 4"):
        simulate(model, strategy, data, rounds=1)


def test_default_model_masks_all_convolutions_but_the_stem():
    model = models.build("resnet8", num_classes=10, input_shape=(32, 32, 3))
    run = RunContext(rounds=3, num_examples=(5,), layers=model.layers)
    sparsifier = transient_sparsity(fedavg()).sparsifier(run)
    assert len(sparsifier.layers) == 8  # 6 of the blocks and 2 shortcuts
    assert SHAPE == (5, 5, 1)
