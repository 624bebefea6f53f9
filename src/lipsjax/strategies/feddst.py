"""FedDST: a sparse model whose mask moves to where gradients are."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax import tree
from lipsjax.sparsity.density import check_density, erk
from lipsjax.sparsity.topk import topk_mask
from lipsjax.sparsity.transient import WRAPPERS, maskable
from lipsjax.strategy import BITS, Strategy, Traffic, fedavg
from lipsjax.types import Array, Layer, LocalResult, Received, Variables


def feddst(
    *,
    layers: tuple[Layer, ...],
    rounds: int,
    density: float = 0.2,
    every: int = 15,
    fraction: float = 0.01,
    kinds: tuple[str, ...] = ("conv",),
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
      layers: of the model; the middle ones are sparse, as in transient sparsity.
      rounds: T.
      density: of all masked layers together, in (0, 1].
      every: rounds between readjustments.
      fraction: of the kept weights that the first one replaces. The published code runs density
        0.2, every 15, fraction 0.01 on CIFAR-10.
      kinds: kinds of middle layers that are sparse.

    Returns:
      A :class:`Strategy` whose server state is the mask, a bit as a byte each, and the round.

    Raises:
      ValueError: for a value out of range, or if nothing would be masked.

    References:
      Bibikar et al., "Federated Dynamic Sparse Training", arXiv 2112.09824.

    Example:
      >>> from lipsjax import models
      >>> model = models.build("cnn", num_classes=10, image_shape=(8, 8, 1))
      >>> feddst(layers=model.layers, rounds=40, fraction=2.0)
      Traceback (most recent call last):
      ValueError: fraction must be in [0, 1], not 2.0
    """
    check_density(density)
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], not {fraction}")
    if every != int(every) or every < 1:
        raise ValueError(f"every must be a whole number, at least 1, not {every}")
    masked = maskable(layers, kinds)
    changes = np.array([(t - 1) % every == 0 and t < rounds / 2 for t in range(rounds)])
    share = [fraction * (1 + math.cos(2 * math.pi * t / rounds)) / 2 for t in range(rounds)]

    def kept_of(params) -> np.ndarray:
        shapes = [w.shape for w in tree.kernels(params, masked)]
        sizes = np.array([math.prod(s) for s in shapes])
        return np.floor(erk(density, shapes) * sizes).astype(np.int32)

    def largest(scores: Array, count) -> Array:
        return topk_mask(scores.ravel(), count).reshape(scores.shape)

    def init_server(initial: Variables, key):
        del key
        kernels = zip(tree.kernels(initial.params, masked), kept_of(initial.params), strict=True)
        return tuple(largest(jnp.abs(w), k) for w, k in kernels), jnp.zeros((), jnp.int32)

    def tiny(w: Array):
        return jnp.finfo(w.dtype).tiny

    def only(params, masks):
        kernels = zip(tree.kernels(params, masked), masks, strict=True)
        return tree.with_kernels(params, masked, tuple(jnp.where(m, w, 0) for w, m in kernels))

    def receive(server, client, average, delivery):
        del client, delivery
        return average._replace(params=only(average.params, server[0]))

    def optimizer(base: optax.GradientTransformation, received: Received):
        def update(updates, state, params=None):
            updates, state = base.update(updates, state, params)
            return only(updates, received.server[0]), state

        return optax.GradientTransformation(base.init, update)

    def send(received: Received, result: LocalResult):
        masks, done = received.server
        params = result.variables.params
        counts = kept_of(params)
        remaining = np.floor((1 - np.array(share))[:, None] * counts).astype(np.int32)

        def readjust():
            new = []
            kernels = tree.kernels(params, masked)
            of_round = jnp.asarray(remaining)[done]
            layer = zip(kernels, masks, result.last_gradient, of_round, counts, strict=True)
            for w, m, g, remain, count in layer:
                # a kept weight that is zero comes before all that are not kept
                stays = largest(jnp.where(m, jnp.maximum(jnp.abs(w), tiny(w)), 0), remain)
                new.append(largest(jnp.where(stays, jnp.inf, jnp.abs(g)), count))
            return tuple(new)

        masks = jax.lax.cond(jnp.asarray(changes)[done], readjust, lambda: masks)
        sent = result.variables._replace(params=only(params, masks))
        pairs = zip(masks, tree.kernels(params, masked), strict=True)
        return (sent, tuple(m.astype(w.dtype) for m, w in pairs)), received.client

    def update(server, average, mean):
        del average
        masks, done = server
        variables, keeping = mean
        kernels = zip(tree.kernels(variables.params, masked), keeping, strict=True)
        merged = tuple(jnp.where(m > 0, w / jnp.where(m > 0, m, 1), 0) for w, m in kernels)

        def agree():
            counts = kept_of(variables.params)
            return tuple(
                largest(jnp.maximum(jnp.abs(w), 1024 * tiny(w) * m), k)
                for w, m, k in zip(merged, keeping, counts, strict=True)
            )

        masks = jax.lax.cond(jnp.asarray(changes)[done], agree, lambda: masks)
        params = only(tree.with_kernels(variables.params, masked, merged), masks)
        return variables._replace(params=params), (masks, done + 1)

    def traffic(variables: Variables, rounds: int):
        bitmap = sum(w.size for w in tree.kernels(variables.params, masked))
        values = tree.size(variables) - bitmap + int(kept_of(variables.params).sum())
        changed = changes[:rounds]
        # the mask comes down at first, and after each change of it
        new = np.concatenate([[True], changed[:-1]])
        up, down = (BITS * values + bitmap * which.astype(np.int64) for which in (changed, new))
        return Traffic(up, down)

    own = "it has masks of its own"
    averages = "its server averages each weight over those who keep it"
    return fedavg()._replace(
        init_server=init_server,
        receive=receive,
        optimizer=optimizer,
        send=send,
        update=update,
        traffic=traffic,
        gradient_layers=masked,
        refuses={
            **dict.fromkeys((*WRAPPERS, "compress"), own),
            **dict.fromkeys(("median", "trimmed_mean", "sign_majority"), averages),
        },
    )
