"""Layer-wise inertia: does each layer of the global model still move, and what stops it?

Every measure is a pure function of kernels (one array per layer, in order) or of sums over
clients, so that it can be streamed from inside a compiled round. Names and formulas follow the
documentation (``docs/concepts/inertia.md``); ``drift`` is the measure that LIPS was published with
(arXiv 2506.00932).
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.types import Array, Kernels, Layer

DRIFT_REFERENCE = 2
"""Round after which the server's layers are kept as the reference of drift."""

MEASURES = (
    "drift_cosine",
    "drift_l1",
    "drift_l2",
    "relative_drift",
    "step",
    "client_step",
    "cancellation",
    "alignment",
    "grad_norm",
)


def relative_step(new: Kernels, old: Kernels) -> Array:
    """Return each layer's relative step in a round: ``||w' - w|| / ||w||``, [L], no unit.

    >>> import jax.numpy as jnp
    >>> float(relative_step((jnp.array([3.0, 6.5]),), (jnp.array([3.0, 4.0]),))[0])
    0.5
    """
    return tree.norms(tree.subtract(new, old)) / tree.norms(old)


def drift(now: Kernels, reference: Kernels) -> dict[str, Array]:
    """Compare each layer with what it was after the reference round.

    Args:
      now: kernels of the server's model.
      reference: kernels of it after round ``DRIFT_REFERENCE``.

    Returns:
      ``drift_cosine``, ``drift_l1``, ``drift_l2`` and ``relative_drift``
      (``||w - r|| / ||r||``), each [L].
    """
    difference = tree.subtract(now, reference)
    inner = jnp.stack([jnp.vdot(a, b) for a, b in zip(now, reference, strict=True)])
    l2, size = tree.norms(difference), tree.norms(reference)
    return {
        "drift_cosine": inner / (tree.norms(now) * size),
        "drift_l1": jnp.stack([jnp.sum(jnp.abs(d)) for d in difference]),
        "drift_l2": l2,
        "relative_drift": l2 / size,
    }


class DeltaSums(NamedTuple):
    """What clients' updates sum to; one client's share, or a sum of shares.

    D_k is client k's update from what it received, p_k its weight in the aggregate.
    """

    delta: Kernels  # sum_k p_k D_k
    unit: Kernels  # sum_k D_k / ||D_k||
    weighted_length: Array  # [L] sum_k p_k ||D_k||
    length: Array  # [L] sum_k ||D_k||
    movers: Array  # [L] clients with D_k != 0
    grad_norm: Array  # [L] sum_k of the last step's gradient norm
    clients: Array  # () clients


def delta_sums(started: Kernels, trained: Kernels, grad_norm: Array, weight: Array) -> DeltaSums:
    """Return one client's share of what a round changed.

    Args:
      started: kernels that the client started from.
      trained: kernels that it ended with.
      grad_norm: [L] gradient norms of its last step.
      weight: () p_k, its weight in the aggregate (weights need not sum to one).

    Returns:
      A :class:`DeltaSums` of one client; add up those of many.
    """
    chex.assert_trees_all_equal_shapes_and_dtypes(started, trained)
    chex.assert_shape(grad_norm, (len(started),))
    delta = tree.subtract(trained, started)
    length = tree.norms(delta)
    moved = length > 0
    inverse = jnp.where(moved, 1 / jnp.where(moved, length, 1), 0)
    return DeltaSums(
        delta=tuple(weight * d for d in delta),
        unit=tuple(i * d for i, d in zip(inverse, delta, strict=True)),
        weighted_length=weight * length,
        length=length,
        movers=moved.astype(length.dtype),
        grad_norm=grad_norm,
        clients=jnp.ones_like(length[0]),
    )


def delta_measures(total: DeltaSums, before: Kernels) -> dict[str, Array]:
    """Turn summed deltas into the per-layer measures of a round.

    * ``client_step = mean_k ||D_k|| / ||w||``: do clients move the layer?
    * ``cancellation = 1 - ||sum p_k D_k|| / sum p_k ||D_k||``: what averaging destroys.
    * ``alignment = mean over pairs of cos(D_j, D_k) = (||sum_k u_k||^2 - M) / (M (M - 1))`` with
      u_k = D_k / ||D_k|| over the M clients that moved the layer.
    * ``grad_norm = mean_k`` of the last step's gradient norm.

    Args:
      total: sum over the cohort of :func:`delta_sums`.
      before: kernels of the server's model at the start of the round.

    Returns:
      Each [L]; NaN where it is not defined (nothing moved, a single mover).
    """
    pairs = total.movers * (total.movers - 1)
    aligned = tree.norms(total.unit) ** 2 - total.movers
    return {
        "client_step": total.length / total.clients / tree.norms(before),
        "cancellation": 1 - tree.norms(total.delta) / total.weighted_length,
        "alignment": jnp.where(pairs > 0, aligned / jnp.where(pairs > 0, pairs, 1), jnp.nan),
        "grad_norm": total.grad_norm / total.clients,
    }


def layer_inertia(steps: Array, layers: tuple[Layer, ...]) -> Array:
    """Return how far each layer lags behind the outer ones: ``1 - step / mean(outer)``.

    Its mean over the middle layers is the :func:`inertia_index`.

    Args:
      steps: [L] from :func:`relative_step`.
      layers: the model's layers.

    Returns:
      [L] no unit; not finite where the outer layers stand still.

    Example:
      >>> import jax.numpy as jnp
      >>> names = ("stem", "middle", "classifier")
      >>> layers = tuple(Layer(name, name, "dense", (name,)) for name in names)
      >>> layer_inertia(jnp.array([0.5, 0.125, 0.5]), layers).tolist()
      [0.0, 0.75, 0.0]
    """
    middle = jnp.array([layer.role == "middle" for layer in layers])
    return 1 - steps / jnp.mean(steps, where=~middle)


def inertia_index(steps: Array, layers: tuple[Layer, ...]) -> Array:
    """Return how far middle layers lag behind outer ones: ``1 - mean(middle) / mean(outer)``.

    0: the middle layers move as much as stem and classifier, relative to their size; towards 1:
    they stand still; below 0: they move more.

    Args:
      steps: [L] from :func:`relative_step`.
      layers: the model's layers.

    Returns:
      () no unit.
    """
    middle = jnp.array([layer.role == "middle" for layer in layers])
    return 1 - jnp.mean(steps, where=middle) / jnp.mean(steps, where=~middle)
