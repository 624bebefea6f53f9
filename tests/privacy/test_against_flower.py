"""Integers of secure sums against those of Flower's SecAgg+, with the same grid.

Run where flwr is installed (``pip install flwr``, 1.42 when this was written); it is no extra, as
only this looks at it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsjax.privacy.integers import from_integers, most, to_integers

flower = pytest.importorskip("flwr.common.secure_aggregation.quantization")

CLIP = 0.75


def ours(x, bits, seed):
    q = to_integers(jax.random.key(seed), jnp.asarray(x, jnp.float32), clip=CLIP, bits=bits)
    return np.asarray(q.astype(jnp.int32))


def theirs(x, bits):
    """Flower counts from zero up, lipsjax from the middle to both sides."""
    (q,) = flower.quantize([np.asarray(x, np.float64)], CLIP, 2 * most(bits))
    return q - most(bits)


@pytest.mark.parametrize("bits", [4, 12, 16])
def test_values_on_the_grid_and_beyond_the_clip_are_the_same_integers(bits):
    grid = np.linspace(-most(bits), most(bits), 7).round() / most(bits) * CLIP
    x = np.concatenate([[-9, -CLIP, 0, CLIP, 9], grid])
    # of float32 a value on the grid may lie one rounding beside it, and be drawn to a neighbour
    assert np.abs(ours(x, bits, 0) - theirs(x, bits)).max() <= (bits > 12)


@pytest.mark.parametrize("bits", [4, 16])
def test_both_round_to_the_same_neighbours_with_the_same_chances(bits):
    """Share of draws that go up, of 4,000, within five deviations of the difference."""
    x = np.random.default_rng(0).uniform(-CLIP, CLIP, 9)
    np.random.seed(0)  # noqa: NPY002  Flower draws from the global generator
    mine = np.stack([ours(x, bits, seed) for seed in range(4000)])
    other = np.stack([theirs(x, bits) for _ in range(4000)])
    assert set(mine.min(0) - other.min(0)) | set(mine.max(0) - other.max(0)) == {0}
    share = mine.mean(0) - mine.min(0)
    deviation = np.sqrt(2 * share * (1 - share) / 4000)
    assert (np.abs(mine.mean(0) - other.mean(0)) < 5 * deviation + 1e-3).all()


def test_sums_mean_the_same():
    """Of ten clients: added as integers, each decoded by its own package."""
    x, bits = np.random.default_rng(1).uniform(-1, 1, (10, 50)), 16
    np.random.seed(1)  # noqa: NPY002
    total = sum(jnp.asarray(ours(one, bits, i)).astype(jnp.uint32) for i, one in enumerate(x))
    mine = np.asarray(from_integers(total, clip=CLIP, bits=bits, modulus=2**32))
    added = sum(theirs(one, bits) + most(bits) for one in x)
    (decoded,) = flower.dequantize([added], CLIP, 2 * most(bits))
    other = decoded - 9 * CLIP  # it shifts by one client's zero, and the sum holds ten
    step, cut = CLIP / most(bits), np.clip(x, -CLIP, CLIP).sum(0)
    for found in (mine, other):
        assert np.abs(found - cut).max() <= 10 * step
