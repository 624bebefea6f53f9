"""What decides which weights are kept: the largest of a score.

Each criterion is ``(weights, gradient, key) -> scores``, all of one shape; scores are never
negative, which the top-k relies on.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lipsjax.types import Array

Criterion = Callable[[Array, Any, Array], Array]
"""(weights, gradient or None, key) -> scores."""


def saliency(weights: Array, gradient: Any, key: Array) -> Array:
    """Keep what the loss would miss most, to first order: ``|g * w|`` (SNIP, arXiv 1810.02340)."""
    del key
    return jnp.abs(gradient * weights)


def gradient_size(weights: Array, gradient: Any, key: Array) -> Array:
    """Keep where the loss is steepest: ``|g|``."""
    del weights, key
    return jnp.abs(gradient)


def magnitude(weights: Array, gradient: Any, key: Array) -> Array:
    """Keep the largest weights: ``|w|``."""
    del gradient, key
    return jnp.abs(weights)


def lowest(weights: Array, gradient: Any, key: Array) -> Array:
    """Keep the smallest weights: ``1 / |w|``, infinite at zero."""
    del gradient, key
    return 1 / jnp.abs(weights)


def random(weights: Array, gradient: Any, key: Array) -> Array:
    """Keep any: uniform draws in [0, 1), the same in every precision."""
    del gradient
    return jax.random.uniform(key, weights.shape, jnp.float32).astype(weights.dtype)


CRITERIA: dict[str, Criterion] = {
    "saliency": saliency,
    "magnitude": magnitude,
    "lowest": lowest,
    "inverted": saliency,  # of which the smallest are kept: what the loss would miss least
    "random": random,
    "gradient": gradient_size,
}
NEEDS_GRADIENT = frozenset({"saliency", "gradient", "inverted"})
KEEPS_SMALLEST = frozenset({"inverted"})
"""Criteria of which the smallest scores are kept: of shared masks, of the clients' mean score."""
