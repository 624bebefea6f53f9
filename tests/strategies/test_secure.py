"""Secure aggregation: integers against Python's own, rounds against float sums, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import worlds
from lipsjax import strategies, transient_sparsity
from lipsjax.privacy.integers import capacity, from_integers, most, to_integers
from lipsjax.strategies import compress, fedavg, secure, top_k
from lipsjax.strategy import RunContext
from lipsjax.types import Variables

SIZES = [5, 3, 8, 6]
CLIP = 4.0


def rounds(strategy, *, norm="batch", count=2, **options):
    data = worlds.world(SIZES)
    with jax.enable_x64(True):
        return worlds.simulate(
            worlds.tiny_model(norm=norm),
            strategy,
            data,
            rounds=count,
            clients_on_global=False,
            **options,
        )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-most(16), most(16)), min_size=1, max_size=50),
    st.sampled_from([2**32, 2**24]),
)
def test_sums_of_integers_are_exact(values, modulus):
    """As Python's integers have them, through wrapping: values on the grid lose nothing."""
    values = np.pad(values, (0, 50 - len(values)))  # one shape compiles once
    x = jnp.asarray(values.astype(np.float64) / most(16), jnp.float32)
    total = jnp.sum(to_integers(jax.random.key(0), x, clip=1.0, bits=16))
    whole = from_integers(total, clip=float(most(16)), bits=16, modulus=modulus)
    assert float(whole) == np.float32(values.sum())


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("bits", "modulus"), [(16, 2**32), (22, 2**32), (4, 256)])
def test_a_sum_is_right_up_to_its_capacity_and_no_further(sign, bits, modulus):
    """Of as many of the largest value as there is room for; with one more it wraps around."""
    room = capacity(bits=bits, modulus=modulus)
    one = int(to_integers(jax.random.key(0), jnp.float32([sign]), clip=1.0, bits=bits)[0])

    def summed(clients):
        total = jnp.uint32(clients * one % 2**32)
        return float(from_integers(total, clip=1.0, bits=bits, modulus=modulus))

    assert summed(room) == pytest.approx(sign * room, rel=1e-6)
    assert abs(summed(room + 1) - sign * (room + 1)) > 1
    guarded = secure(fedavg(weighted=False), clip=1.0, bits=bits, modulus=modulus)
    guarded.check(RunContext(rounds=1, num_examples=(1,) * room))
    with pytest.raises(ValueError, match=f"room for {room} clients in a round, not {room + 1}"):
        guarded.check(RunContext(rounds=1, num_examples=(1,) * (room + 1)))


def test_rounding_is_right_on_average_and_within_a_step():
    x = jnp.linspace(-1, 1, 7, dtype=jnp.float32)
    keys = jax.random.split(jax.random.key(1), 4000)
    q = jax.vmap(lambda key: to_integers(key, x, clip=1.0, bits=4))(keys).astype(jnp.int32)
    found, step = np.asarray(q) / most(4), 1 / most(4)
    assert np.abs(found - np.asarray(x)).max() < step
    assert np.abs(found.mean(0) - np.asarray(x)).max() < 5 * step / np.sqrt(4000)


@pytest.mark.parametrize(
    ("bits", "weighted"),
    [
        (16, True),
        pytest.param(22, False, marks=pytest.mark.slow),
        pytest.param(22, True, marks=pytest.mark.slow),
    ],
)
def test_a_round_is_that_of_floats_within_a_step_of_each_client(bits, weighted):
    plain, _, _ = rounds(fedavg(weighted=weighted), count=1)
    hidden, metrics, _ = rounds(secure(fedavg(weighted=weighted), clip=CLIP, bits=bits), count=1)
    step = CLIP / most(bits)
    most_off = step * (len(SIZES) * max(SIZES) / sum(SIZES) if weighted else 1)
    off = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), plain["global_model"], hidden["global_model"]
    )
    assert 0 < max(jax.tree.leaves(off)) <= most_off
    assert metrics.scalars["share_cut"][0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "inner", [strategies.scaffold, pytest.param(strategies.feddyn, marks=pytest.mark.slow)]
)
def test_messages_of_several_parts_are_summed_part_by_part(inner):
    plain, _, _ = rounds(inner(), count=2)
    hidden, metrics, _ = rounds(secure(inner(), clip=16.0, bits=24), count=2)
    for name in ("global_model", "server_state"):
        worlds.assert_close(plain[name], hidden[name], 1e-3)
    assert (metrics.scalars["share_cut"] == 0).all()


def test_what_is_beyond_the_clip_is_cut_and_counted():
    _, metrics, _ = rounds(secure(fedavg(), clip=1e-3), count=1)
    assert 0 < metrics.scalars["share_cut"][0] <= 1


@pytest.mark.parametrize("several", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sparse_messages_say_how_much_one_client_alone_sent(several):
    """All of it where there is one client; of several, some of what top-k sends."""
    sparse = secure(compress(fedavg(), top_k(fraction=0.05)), clip=CLIP)
    data = worlds.world(SIZES if several else SIZES[:1])
    with jax.enable_x64(True):
        _, metrics, _ = worlds.simulate(
            worlds.tiny_model(norm="group"), sparse, data, rounds=1, clients_on_global=False
        )
    share = metrics.scalars["share_single"][0]
    assert 0 < share < 1 if several else share == 1


@pytest.mark.slow
def test_integers_are_the_same_on_any_devices():
    """And with LIPS around it."""
    guarded = transient_sparsity(secure(fedavg(), clip=CLIP), every=1, density=0.5)
    one, two = (rounds(guarded, count=2, devices=d)[0] for d in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, one["global_model"], two["global_model"])


def test_keys_and_shares_are_in_the_bits():
    """By hand: of ten clients each agrees with eight, on 3 values of 32 bits and a weight."""
    run = RunContext(rounds=2, num_examples=(5,) * 10)
    variables = Variables({"w": jnp.zeros(3)}, {})
    traffic = secure(fedavg(), clip=1.0).traffic(run, variables)
    shares = 8 * (2 * 256 + 128) + 8 * 256
    assert traffic.up.tolist() == [3 * 32 + 32 + 2 * 256 + shares] * 2
    assert traffic.down(0, None) == 3 * 32 + 8 * (2 * 256 + 2 * 256 + 128)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip": 0.0}, "clip must be above 0, not 0.0"),
        ({"clip": 1.0, "bits": 1}, "bits must be in 2..24, not 1"),
        ({"clip": 1.0, "bits": 25}, "bits must be in 2..24, not 25"),
        ({"clip": 1.0, "modulus": 1000}, "a power of two in 2..2^32, not 1000"),
        ({"clip": 1.0, "modulus": 2**33}, "a power of two in 2..2^32"),
        ({"clip": 1.0, "neighbours": 0}, "neighbours must be at least 1, not 0"),
    ],
)
def test_values_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError) as error:
        secure(fedavg(), **options)
    assert words in str(error.value)


@pytest.mark.parametrize("wrap", [strategies.median, strategies.trimmed_mean])
def test_robust_means_are_refused(wrap):
    with pytest.raises(ValueError, match="need every message by itself, which it hides"):
        wrap(secure(fedavg(), clip=1.0))


def test_weights_that_wrap_around_are_refused():
    guarded = secure(fedavg(), clip=1.0, bits=2, modulus=2**8)
    with pytest.raises(ValueError, match="weights of a round add up to 256 or more"):
        guarded.check(RunContext(rounds=1, num_examples=(200, 100)))


@pytest.mark.slow
def test_training_of_a_float32_model_too():
    data = worlds.world(SIZES)
    host, _, _ = worlds.simulate(
        worlds.tiny_model(dtype=jnp.float32), secure(fedavg(), clip=CLIP), data, rounds=1
    )
    assert {x.dtype for x in jax.tree.leaves(host["global_model"])} == {np.dtype(np.float32)}
