"""Transient sparsity (LIPS) as a wrapper around any strategy.

Every few rounds the average goes out with part of its middle layers masked; clients then train
densely, so that masked weights grow back at once (arXiv 2506.00932). A mask is chosen by the
``downlink``'s ``score`` and ``mask`` and applied by ``receive``: :mod:`lipsjax.sparsity.masking`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax import tree
from lipsjax.sparsity import density as densities
from lipsjax.sparsity import masking
from lipsjax.sparsity.criteria import CRITERIA, NEEDS_GRADIENT
from lipsjax.sparsity.topk import unpack
from lipsjax.strategy import Downlink, Strategy, fits, seeing
from lipsjax.types import Layer, Received, Variables

WRAPPERS = ("transient_sparsity", "constant_topk", "dsd")
"""What masks the average; there is one mask at most."""


def transient_sparsity(
    strategy: Strategy,
    *,
    layers: tuple[Layer, ...],
    density: densities.Schedule | float = 0.5,
    every: int = 5,
    criterion: str = "saliency",
    sharing: str = "client",
    scope: str = "layer",
    refill: str = "zero",
    hold: float = 0,
    gradient: str = "last_local",
    kinds: tuple[str, ...] = ("conv",),
    name: str = "transient_sparsity",
) -> Strategy:
    """Mask part of the middle layers of the average, every few rounds, before clients train.

    After round i = 0..T-1, where ``i mod every == 0`` and ``d_i = density(i / T) < 1``, client k
    receives ``m_k * w + (1 - m_k) * refill``: m_k keeps the ``floor(d_i n_l)`` largest scores of
    each middle layer l, ties by index. In all other rounds it receives w.

    Args:
      strategy: what clients and server do otherwise.
      layers: the model's layers; the middle ones of ``kinds`` are masked.
      density: schedule of the kept fraction, in (0, 1]; a number d0 means ``linear(d0, 1.0)``.
      every: rounds between sparse broadcasts, at least 1.
      criterion: "saliency" ``|g * w|``, "gradient" ``|g|``, "magnitude" ``|w|``, "lowest" (the
        smallest are kept), "inverted" (the smallest ``|g * w|`` are kept) or "random".
      sharing: "client" (each has its own mask) or "shared" (one, from the mean of the clients'
        scores, weighted by examples).
      scope: "layer" (the same density in each), "global" (all compete) or "erk".
      refill: "zero", "init" (the common initial values) or "noise" (normal, with the layer's
        initial standard deviation, drawn per client and round).
      hold: the first ``hold`` local steps end with masked weights set back and their momentum
        zero; 0: nothing holds the mask; ``math.inf``: all steps do.
      gradient: "last_local" (of the last mini-batch of the round; needs [C, masked weights]
        values until the average exists, and full participation), "fresh" (of the received
        average, over all the client's examples) or "stored" (as last_local, kept by every client
        between its rounds: [K, masked weights] values; one that never trained receives w, or,
        where masks are shared, the common mask, to which it adds zeros).
      kinds: kinds of middle layers that are masked.
      name: of the wrapper, in errors.

    Returns:
      A strategy with a ``downlink``. State: server, the refill's source; client, nothing unless
      gradients are stored. In flight: one bit per masked weight and client.

    Raises:
      ValueError: for a value that is not listed above, if nothing would be masked, or if the
        strategy refuses masks or has some already.

    References:
      Xiao et al., "Addressing the Collaboration Dilemma in Low-Data Federated Learning via
      Transient Sparsity", arXiv 2506.00932.

    Example:
      >>> from lipsjax import fedavg, models
      >>> model = models.build("cnn", num_classes=10, image_shape=(8, 8, 1))
      >>> lips = transient_sparsity(fedavg(), layers=model.layers, density=0.5, every=5)
      >>> [layer.name for layer in lips.downlink.layers]
      ['conv1', 'conv2', 'conv3']
    """
    fits(strategy, name)
    _check("criterion", criterion, CRITERIA)
    _check("sharing", sharing, ("client", "shared"))
    _check("scope", scope, ("layer", "global", "erk"))
    _check("refill", refill, ("zero", "init", "noise"))
    _check("gradient", gradient, ("last_local", "fresh", "stored"))
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    if hold < 0:
        raise ValueError(f"hold must be at least 0, not {hold}")
    if hold and "hold" in strategy.refuses:
        raise ValueError(f"hold must be 0 around this strategy: {strategy.refuses['hold']}")
    schedule = density if callable(density) else densities.linear(density)
    masked = maskable(layers, kinds)
    source = gradient if criterion in NEEDS_GRADIENT else None
    stores = source == "stored"
    needed = masked if source in ("last_local", "stored") else ()
    asked = tuple(dict.fromkeys((*strategy.gradient_layers, *needed)))

    def shapes(params) -> list[tuple[int, ...]]:
        return [kernel.shape for kernel in tree.kernels(params, masked)]

    def kept(variables: Variables, rounds: int) -> tuple[np.ndarray, np.ndarray]:
        table = densities.density_table(schedule, every=every, rounds=rounds)
        return table, densities.kept_counts(table, shapes(variables.params), scope=scope)

    def init_server(initial: Variables, key):
        kernels = tree.kernels(initial.params, masked)
        return masking.refill_source(refill, kernels), strategy.init_server(initial, key)

    def init_client(initial: Variables):
        zeros = jax.tree.map(jnp.zeros_like, tree.kernels(initial.params, masked))
        gradients = (zeros, jnp.zeros((), bool)) if stores else ()
        return gradients, strategy.init_client(initial)

    def receive(server, client, average, delivery):
        source, server = server
        variables = strategy.receive(server, client[1], average, None)
        if delivery is None:
            return variables

        def thin(variables: Variables) -> Variables:
            kernels = tree.kernels(variables.params, masked)
            filled = masking.refill_values(refill, source, kernels, delivery.key)
            values = masking.apply_masks(delivery.bits, kernels, filled)
            return variables._replace(params=tree.with_kernels(variables.params, masked, values))

        return jax.lax.cond(delivery.sparse, thin, lambda v: v, variables)

    def inner(received: Received) -> Received:
        return received._replace(
            server=received.server[1], client=received.client[1], delivery=None
        )

    within = seeing(strategy, inner)

    def optimizer(base: optax.GradientTransformation, received: Received):
        shaped = within.optimizer(base, received)
        return _held(shaped, received, masked, hold) if hold else shaped

    def send(received: Received, result):
        message, client = strategy.send(inner(received), result)
        if not stores:
            return message, ((), client)
        last = tuple(result.last_gradient[asked.index(layer)] for layer in masked)
        return message, ((last, jnp.ones((), bool)), client)

    def update(server, average, mean):
        average, inner_server = strategy.update(server[1], average, mean)
        return average, (server[0], inner_server)

    return within._replace(
        init_server=init_server,
        init_client=init_client,
        receive=receive,
        optimizer=optimizer,
        send=send,
        update=update,
        deploy=lambda variables, client: strategy.deploy(variables, client[1]),
        gradient_layers=asked,
        refuses={**strategy.refuses, **dict.fromkeys(WRAPPERS, f"{name} masks it already")},
        downlink=Downlink(
            layers=masked,
            gradient=source,
            shared=sharing == "shared",
            hold=hold,
            kept=kept,
            score=lambda params, gradients, key: masking.score_kernels(
                CRITERIA[criterion],
                tree.kernels(params, masked),
                gradients if source else None,
                key,
            ),
            mask=masking.choose,
            stored=lambda client: client[0],
            last=lambda gradients: tuple(gradients[asked.index(layer)] for layer in needed),
        ),
    )


def maskable(layers: tuple[Layer, ...], kinds: tuple[str, ...]) -> tuple[Layer, ...]:
    """Return the middle layers of some kinds.

    Raises:
      ValueError: for a kind that does not exist, or if there is no such layer.
    """
    for kind in kinds:
        _check("kinds", kind, ("conv", "dense"))
    masked = tuple(layer for layer in layers if layer.role == "middle" and layer.kind in kinds)
    if not masked:
        present = sorted({layer.kind for layer in layers if layer.role == "middle"})
        raise ValueError(
            f"nothing to mask: the model has no middle layer of kind {list(kinds)}; kinds must "
            f"name some of {present}"
        )
    return masked


def _held(
    optimizer: optax.GradientTransformation,
    received: Received,
    masked: tuple[Layer, ...],
    hold: float,
) -> optax.GradientTransformation:
    """Set masked weights back, and their moments to zero, after each of the first steps."""
    start, delivery = tree.kernels(received.variables.params, masked), received.delivery
    assert delivery is not None
    keep = tuple(unpack(b, w.shape) for b, w in zip(delivery.bits, start, strict=True))

    def init(params):
        return optimizer.init(params), jnp.zeros((), jnp.int32)

    def update(updates, state, params=None):
        inner, count = state
        updates, inner = optimizer.update(updates, inner, params)
        free = ~(delivery.sparse & (True if hold == math.inf else count < hold))
        may_move = tuple(free | kept for kept in keep)
        back = tree.subtract(start, tree.kernels(params, masked))
        moved = tree.kernels(updates, masked)
        updates = tree.with_kernels(updates, masked, jax.tree.map(jnp.where, may_move, moved, back))
        everywhere = tree.with_kernels(
            jax.tree.map(lambda _: jnp.ones((), bool), params), masked, may_move
        )
        inner = optax.tree_map_params(
            optimizer, lambda moment, may: jnp.where(may, moment, 0), inner, everywhere
        )
        return updates, (inner, count + 1)

    return optax.GradientTransformation(init, update)


def _check(name: str, value: Any, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
