"""Masks of NumPy are those of the simulator to the byte."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipsjax.deploy.flower.masks import mask, mask_of_torch
from lipsjax.sparsity import masking
from lipsjax.sparsity.criteria import CRITERIA
from lipsjax.sparsity.density import kept_counts

DTYPES = [np.float32, np.float64]


def simulated(weights, gradient, density):
    """The bytes that the simulator's compiled round makes."""
    criterion = CRITERIA["magnitude" if gradient is None else "saliency"]
    kept = kept_counts(np.array([density]), [weights.shape], scope="layer")[0]

    @jax.jit
    def choose(w, g, kept):
        scores = masking.score_kernels(criterion, (w,), None if g is None else (g,), KEY)
        return masking.choose(scores, kept)[0]

    return np.asarray(choose(weights, gradient, jnp.asarray(kept))).tobytes()


KEY = jax.random.key(0)
LEVELS = st.sampled_from([0.0, -0.0, 0.25, -0.25, 0.5, 1.0, -1.0, 3.0, 1e-30, 1e-39, 1e-310, 1e18])


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    pairs=st.lists(st.tuples(LEVELS, LEVELS), min_size=24, max_size=24),
    density=st.floats(0.001, 1, exclude_min=True),
    with_gradient=st.booleans(),
)
def test_bytes_are_the_simulators(dtype, pairs, density, with_gradient):
    """Few values, so ties are many; zeros of both signs, and numbers too small to be normal."""
    weights, gradient = np.array(pairs, dtype).T.reshape(2, 2, 3, 4)
    gradient = gradient if with_gradient else None
    assert np.packbits(mask(weights, gradient, density)).tobytes() == simulated(
        weights, gradient, density
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_cpu_takes_for_zero(dtype):
    """Factors and products below the smallest normal number: NumPy keeps them, XLA does not."""
    tiny = np.finfo(dtype).tiny
    gradient = np.array([tiny / 4, tiny, 1, tiny / 2, 1e-3], dtype)
    weights = np.array([1e10, 0.5, tiny / 2, 1, 1e-2], dtype)
    assert (np.abs(gradient * weights) > 0).all()
    for density in (0.2, 0.4, 0.6, 0.8, 1.0):
        found = np.packbits(mask(weights, gradient, density)).tobytes()
        assert found == simulated(weights, gradient, density)


def test_how_many_are_kept_is_of_float64():
    for n, density in [(10, 0.3), (1000, 0.57), (7, 0.1), (3, 0.29 / 0.29), (90, 0.7)]:
        (kept,) = kept_counts(np.array([density]), [(n,)], scope="layer")[0]
        assert mask(np.arange(n, dtype=np.float32), None, density).sum() == kept


def test_layouts_of_pytorch_keep_the_same_of_equal_scores():
    weights = np.ones((3, 3, 4, 5), np.float32)  # [height, width, in, out], all ties
    theirs = np.moveaxis(weights, (-1, -2), (0, 1))
    kept = mask_of_torch(theirs, theirs, 0.3)
    assert kept.shape == (5, 4, 3, 3)
    assert np.array_equal(np.moveaxis(kept, (0, 1), (-1, -2)), mask(weights, weights, 0.3))
    assert not np.array_equal(kept, mask(theirs, theirs, 0.3))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value):
    weights = np.array([1.0, value])
    for gradient in (None, np.ones(2)):
        with pytest.raises(ValueError, match="scores of conv are not finite"):
            mask(weights, gradient, 0.5, "conv")
    with pytest.raises(ValueError, match="not finite"):  # of finite factors
        mask(np.float32([1e30, 1]), np.float32([1e30, 1]), 0.5)


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"gradient of conv has shape \(3,\), not \(2,\)"):
        mask(np.ones(2), np.ones(3), 0.5, "conv")


@pytest.mark.whole
def test_a_client_needs_no_jax():
    pytest.importorskip("flwr")
    code = (
        "import sys, lipsjax.deploy.flower.mod, lipsjax.deploy.flower.server;"
        "print([m for m in ('jax', 'flax', 'scipy', 'torch') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip().splitlines()[-1] == "[]"
