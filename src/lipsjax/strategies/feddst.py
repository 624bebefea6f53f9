"""FedDST: a sparse model whose mask moves to where gradients are."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax import tree
from lipsjax.sparsity.density import check_density, erk
from lipsjax.sparsity.masking import maskable, with_old
from lipsjax.sparsity.topk import topk_mask
from lipsjax.strategy import (
    BITS,
    ClientContext,
    Rank,
    RunContext,
    ServerContext,
    Strategy,
    Traffic,
    fedavg,
)
from lipsjax.types import Array, Kernels, Layer, LocalResult, Params, Variables


class Masked(NamedTuple):
    """What a client of FedDST sends: its model, zero where it is masked, and its mask."""

    variables: Variables
    keeps: Kernels  # 1 or 0 for each weight of the masked layers


class Readjustments(NamedTuple):
    """What is known of the masks of a run before it starts."""

    layers: tuple[Layer, ...]  # the masked ones
    due: np.ndarray  # [T] bool, whether clients prune and regrow at the end of a round
    share: np.ndarray  # [T] of the kept weights that are then replaced


def feddst(
    *,
    density: float = 0.2,
    every: int = 15,
    fraction: float = 0.01,
    kinds: tuple[str, ...] | None = None,
) -> Strategy:
    """Train a sparse model; every few rounds clients prune and regrow it, and the server agrees.

    The server's mask m keeps ``k_l = floor(d_l n_l)`` weights of each middle layer, with d_l by the
    Erdos-Renyi-kernel rule; at first the largest initial weights. Clients train ``m * w``. At the
    end of rounds t with ``(t - 1) mod every = 0`` and ``t < T / 2``, client k drops all but its
    ``floor((1 - a_t) k_l)`` largest weights, ``a_t = fraction (1 + cos(2 pi t / T)) / 2``, and
    regrows as many, at zero, where its last gradient is largest: m_k. The server averages each
    weight over the clients that keep it,
    ``w = sum_k n_k m_k w_k / sum_k n_k m_k``, and keeps the k_l largest of each layer, of equal
    ones those that more clients keep.

    Args:
      density: of all masked layers together, in (0, 1].
      every: rounds between readjustments.
      fraction: of the kept weights that the first one replaces. The published code runs density
        0.2, every 15, fraction 0.01 on CIFAR-10.
      kinds: kinds of middle layers that are sparse.

    Returns:
      A :class:`Strategy` whose server state is the mask, a bit as a byte each.

    Raises:
      ValueError: for a value out of range; when a simulation is built, if nothing would be masked.

    References:
      Bibikar et al., "Federated Dynamic Sparse Training", arXiv 2112.09824.

    Example:
      >>> feddst(fraction=2.0)
      Traceback (most recent call last):
      ValueError: fraction must be in [0, 1], not 2.0
    """
    check_density(density)
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], not {fraction}")
    if every != int(every) or every < 1:
        raise ValueError(f"every must be a whole number, at least 1, not {every}")

    def plan(run: RunContext) -> Readjustments:
        rounds = range(run.rounds)
        due = [(t - 1) % every == 0 and t < run.rounds / 2 for t in rounds]
        share = [fraction * (1 + math.cos(2 * math.pi * t / run.rounds)) / 2 for t in rounds]
        return Readjustments(maskable(run.layers, kinds), np.array(due), np.array(share))

    def kept_of(params: Params, layers) -> np.ndarray:
        shapes = [w.shape for w in tree.kernels(params, layers)]
        sizes = np.array([math.prod(s) for s in shapes])
        return np.floor(erk(density, shapes) * sizes).astype(np.int32)

    def init_server(run: RunContext, initial: Variables, key):
        del key
        layers = plan(run).layers
        counts = kept_of(initial.params, layers)
        kernels = zip(tree.kernels(initial.params, layers), counts, strict=True)
        return tuple(_largest(jnp.abs(w), k) for w, k in kernels)

    def receive(context: ClientContext):
        layers = plan(context.run).layers
        params = _only(context.variables.params, layers, context.server_state)
        return context.variables._replace(params=params)

    def optimizer(base: optax.GradientTransformation, context: ClientContext):
        layers = plan(context.run).layers

        def update(updates, state, params=None):
            updates, state = base.update(updates, state, params)
            return _only(updates, layers, context.server_state), state

        return optax.GradientTransformation(base.init, update)

    def send(context: ClientContext, result: LocalResult):
        layers, due, share = plan(context.run)
        params = result.variables.params
        counts = kept_of(params, layers)
        remaining = np.floor((1 - share)[:, None] * counts).astype(np.int32)

        def readjust():
            new = []
            of_round = jnp.asarray(remaining)[context.round]
            layer = zip(
                tree.kernels(params, layers),
                context.server_state,
                result.last_gradient,
                of_round,
                counts,
                strict=True,
            )
            for w, m, g, remain, count in layer:
                # a kept weight that is zero comes before all that are not kept
                stays = _largest(jnp.where(m, jnp.maximum(jnp.abs(w), _tiny(w)), 0), remain)
                grown = _largest(jnp.where(stays, jnp.inf, jnp.abs(g)), count)
                new.append((grown, stays))
            masks, stay = zip(*new, strict=True)
            return masks, stay

        is_due, old = jnp.asarray(due)[context.round], context.server_state
        masks, stay = jax.lax.cond(is_due, readjust, lambda: (old, old))
        sent = result.variables._replace(params=_only(params, layers, stay))  # grown from zero
        pairs = zip(masks, tree.kernels(params, layers), strict=True)
        keeps = tuple(m.astype(w.dtype) for m, w in pairs)
        return Masked(sent, keeps), context.client_state

    def update(context: ServerContext, mean: Masked):
        layers, due, _ = plan(context.run)
        variables, keeping = mean
        kernels = zip(tree.kernels(variables.params, layers), keeping, strict=True)
        merged = tuple(jnp.where(m > 0, w / jnp.where(m > 0, m, 1), 0) for w, m in kernels)

        def agree():
            counts = kept_of(variables.params, layers)
            return tuple(
                _largest(jnp.maximum(jnp.abs(w), 1024 * _tiny(w) * m), k)
                for w, m, k in zip(merged, keeping, counts, strict=True)
            )

        is_due = jnp.asarray(due)[context.round]
        masks = jax.lax.cond(is_due, agree, lambda: context.server_state)
        params = tree.with_kernels(variables.params, layers, merged)
        return variables._replace(params=_only(params, layers, masks)), masks

    def learned(context: ServerContext, mean: Masked, new: Variables) -> Variables:
        del mean
        layers = plan(context.run).layers
        masked = tuple(w == 0 for w in tree.kernels(new.params, layers))
        return with_old(layers, masked, context.global_model, new)

    def traffic(run: RunContext, variables: Variables):
        layers, due, _ = plan(run)
        bitmap = sum(w.size for w in tree.kernels(variables.params, layers))
        kept = int(kept_of(variables.params, layers).sum())
        values = BITS * (tree.size(variables) - bitmap + kept)

        def down(t: int, last: int | None) -> int:
            """Add the mask where it has changed since a client received, or if it never did."""
            return values + bitmap * (last is None or bool(due[last:t].any()))

        return Traffic(values + bitmap * due.astype(np.int64), down)

    own = "it has masks of its own"
    averages = "its server averages each weight over those who keep it"
    return fedavg()._replace(
        name="feddst",
        init_server=init_server,
        receive=receive,
        optimizer=optimizer,
        send=send,
        update=update,
        learned=learned,
        traffic=traffic,
        gradient_layers=lambda run: maskable(run.layers, kinds),
        refuses={
            **dict.fromkeys((Rank.PART, Rank.BROADCAST, Rank.ENCODE), own),
            **dict.fromkeys((Rank.AGGREGATE, Rank.VOTE), averages),
            Rank.PRIVATE: "clients choose and send its masks, which no noise covers",
        },
    )


def _largest(scores: Array, count) -> Array:
    """Mark the largest scores of a kernel."""
    return topk_mask(scores.ravel(), count).reshape(scores.shape)


def _tiny(w: Array):
    """Return the smallest number that is above zero, in a weight's type."""
    return jnp.finfo(w.dtype).tiny


def _only(params: Params, layers: tuple[Layer, ...], masks: Kernels) -> Params:
    """Set what is masked to zero."""
    kernels = zip(tree.kernels(params, layers), masks, strict=True)
    return tree.with_kernels(params, layers, tuple(jnp.where(m, w, 0) for w, m in kernels))
