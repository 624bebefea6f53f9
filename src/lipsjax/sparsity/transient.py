"""Transient sparsity (LIPS) as a wrapper around any strategy.

Every few rounds the global model goes out with part of its middle layers masked; clients then train
densely, so that masked weights grow back at once (arXiv 2506.00932). A mask is chosen by the
``sparsifier``'s ``score`` and ``mask`` and applied by ``receive``: :mod:`lipsjax.sparsity.masking`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax import tree
from lipsjax.sparsity import density as densities
from lipsjax.sparsity import masking
from lipsjax.sparsity.adaptive import inertia_trigger, level_densities
from lipsjax.sparsity.criteria import CRITERIA, KEEPS_SMALLEST, NEEDS_GRADIENT, Criterion
from lipsjax.sparsity.masking import check_choice, maskable
from lipsjax.sparsity.topk import unpack
from lipsjax.strategy import (
    ClientContext,
    Rank,
    RunContext,
    ServerContext,
    Sparsifier,
    StoredGradient,
    Strategy,
    nest,
    wrapped,
)
from lipsjax.types import Array, Layer, Variables


def transient_sparsity(
    strategy: Strategy,
    *,
    density: densities.Schedule | float = 0.5,
    every: int = 5,
    criterion: str | Criterion = "saliency",
    sharing: str = "client",
    scope: str = "layer",
    refill: str = "zero",
    hold: float = 0,
    gradient: str = "last_local",
    kinds: tuple[str, ...] | None = None,
    trigger: str = "schedule",
    threshold: float = 0.0,
    window: int = 3,
    name: str = "transient_sparsity",
) -> Strategy:
    """Mask part of the middle layers of the global model, every few rounds, before clients train.

    After round i = 0..T-1, where ``i mod every == 0`` and ``d_i = density(i / T) < 1``, client k
    receives ``m_k * w + (1 - m_k) * refill``: m_k keeps the ``floor(d_i n_l)`` largest scores of
    each middle layer l, ties by index. In all other rounds it receives w.

    With ``trigger="inertia"``, which is this project's own extension and in no paper, no clock but
    what stands still decides. Let ``i_l = 1 - step_l / mean(step of outer layers)``, averaged over
    the last ``window`` rounds that began unmasked, round i included. Where ``i mod every == 0``, it
    is followed by a sparse broadcast if the mean of i_l over the middle layers, the inertia index,
    is above ``threshold``, and some masked layer's i_l is. Layer l then keeps ``floor(d_l n_l)``:
    d_l has 16 levels, from 1 at the threshold down to ``density`` at ``i_l = 1``, where a layer
    stands still. By default the index must be above 0, where the middle layers move less than the
    outer ones: what a report calls stuck. A window of 3 rounds is the most that is free of the
    regrowth right after a mask when ``every`` is 5.

    Args:
      strategy: what clients and server do otherwise.
      density: schedule of the kept fraction, in (0, 1]; a number d0 means ``linear(d0, 1.0)``. With
        trigger="inertia" a number: the least that a layer keeps.
      every: rounds between sparse broadcasts, at least 1; with trigger="inertia" between those
        that may be sparse, at least 2, as a round that begins masked moves by construction.
      criterion: "saliency" ``|g * w|``, "gradient" ``|g|``, "magnitude" ``|w|``, "lowest" (the
        smallest are kept), "inverted" (the smallest ``|g * w|`` are kept) or "random"; or a
        function ``(weights, gradient, key) -> scores``, of one shape and not negative.
      sharing: "client" (each has its own mask) or "shared" (one, from the mean of the clients'
        scores, weighted by examples).
      scope: "layer" (the same density in each), "global" (all compete) or "erk".
      refill: "zero", "init" (the common initial values) or "noise" (normal, with the layer's
        initial standard deviation, drawn per client and round).
      hold: the first ``hold`` local steps end with masked weights set back and their momentum
        zero; 0: nothing holds the mask; ``math.inf``: all steps do.
      gradient: "last_local" (of the last mini-batch of the round; needs [C, masked weights]
        values until the global model exists, and full participation), "fresh" (of the received
        model, over all the client's examples) or "stored" (as last_local, kept by every client
        between its rounds: [K, masked weights] values; one that never trained receives w, or,
        where masks are shared, the common mask, to which it adds zeros).
      kinds: kinds of middle layers that are masked, "conv", "dense"; None: the convolutions, or of
        a model that has none in its middle, its dense layers.
      trigger: "schedule" or "inertia".
      threshold: that the inertia index must be above, below 1. Read by trigger="inertia" only.
      window: rounds that it is the mean of, or as many as there were. Read by it only.
      name: of the wrapper, in errors.

    Returns:
      A strategy with a ``sparsifier``. State: server, the refill's source; client, nothing unless
      gradients are stored. In flight: one bit per masked weight and client. A trigger keeps
      [window, layers] values.

    Raises:
      ValueError: for a value that is not listed above, or if the strategy refuses masks or has some
        already; when a simulation is built, if nothing would be masked.

    References:
      Xiao et al., "Addressing the Collaboration Dilemma in Low-Data Federated Learning via
      Transient Sparsity", arXiv 2506.00932.

    Example:
      >>> from lipsjax import fedavg, models
      >>> model = models.build("cnn", num_classes=10, input_shape=(8, 8, 1))
      >>> run = RunContext(rounds=9, num_examples=(1,), layers=model.layers)
      >>> lips = transient_sparsity(fedavg(), density=0.5, every=5)
      >>> [layer.name for layer in lips.sparsifier(run).layers]
      ['conv1', 'conv2', 'conv3']
    """
    if not callable(criterion):
        check_choice("criterion", criterion, CRITERIA)
    check_choice("sharing", sharing, ("client", "shared"))
    check_choice("scope", scope, ("layer", "global", "erk"))
    check_choice("refill", refill, ("zero", "init", "noise"))
    check_choice("gradient", gradient, ("last_local", "fresh", "stored"))
    masking.check_kinds(kinds)
    check_choice("trigger", trigger, ("schedule", "inertia"))
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    if hold < 0:
        raise ValueError(f"hold must be at least 0, not {hold}")
    if hold and Rank.HOLD in strategy.refuses:
        raise ValueError(f"hold must be 0 around {strategy.name}: {strategy.refuses[Rank.HOLD]}")
    adapts = trigger == "inertia"
    rule = inertia_trigger(threshold=threshold, window=window, every=every) if adapts else None
    densities_of = _by_level(density, scope) if adapts else _by_round(density, every)
    scored = criterion if callable(criterion) else CRITERIA[criterion]
    source = gradient if callable(criterion) or criterion in NEEDS_GRADIENT else None
    choose = masking.choose_smallest if criterion in KEEPS_SMALLEST else masking.choose
    stores = source == "stored"
    strategy = wrapped(strategy, name)

    def masked_of(run: RunContext) -> tuple[Layer, ...]:
        return maskable(run.layers, kinds)

    def gradient_layers(run: RunContext) -> tuple[Layer, ...]:
        needed = masked_of(run) if source in ("last_local", "stored") else ()
        return tuple(dict.fromkeys((*strategy.gradient_layers(run), *needed)))

    def check(run: RunContext) -> None:
        strategy.check(run)
        _check_run(run, source, hold)
        masked_of(run)

    def init_server(run: RunContext, initial: Variables, key: Array):
        del key
        kernels = tree.kernels(initial.params, masked_of(run))
        return masking.refill_source(refill, kernels)

    def init_client(run: RunContext, initial: Variables):
        zeros = jax.tree.map(jnp.zeros_like, tree.kernels(initial.params, masked_of(run)))
        return StoredGradient(zeros, jnp.zeros((), bool))

    inner = nest(strategy, init_server=init_server, init_client=init_client if stores else None)

    def receive(context: ClientContext) -> Variables:
        broadcast, masked = context.broadcast, masked_of(context.run)
        variables = inner.receive(context)
        if broadcast is None:
            return variables

        def thin(variables: Variables) -> Variables:
            kernels = tree.kernels(variables.params, masked)
            filled = masking.refill_values(
                refill, context.server_state.outer, kernels, broadcast.key
            )
            values = masking.apply_masks(broadcast.packed_masks, kernels, filled)
            return variables._replace(params=tree.with_kernels(variables.params, masked, values))

        return jax.lax.cond(broadcast.sparse, thin, lambda v: v, variables)

    def optimizer(base: optax.GradientTransformation, context: ClientContext):
        shaped = inner.optimizer(base, context)
        return _held(shaped, context, masked_of(context.run), hold) if hold else shaped

    def send(context: ClientContext, result):
        message, state = inner.send(context, result)
        if not stores:
            return message, state
        last = _among(result.last_gradient, gradient_layers(context.run), masked_of(context.run))
        return message, state._replace(outer=StoredGradient(last, jnp.ones((), bool)))

    def sparsifier(run: RunContext) -> Sparsifier:
        masked, asked = masked_of(run), gradient_layers(run)

        def kept(variables: Variables) -> tuple[np.ndarray, np.ndarray]:
            table = densities_of(run)
            shapes = [kernel.shape for kernel in tree.kernels(variables.params, masked)]
            return table, densities.kept_counts(table, shapes, scope=scope)

        def score(params, gradients, key):
            kernels = tree.kernels(params, masked)
            given = gradients if source else None
            return masking.score_kernels(scored, kernels, given, key)

        return Sparsifier(
            layers=masked,
            gradient=source,
            shared=sharing == "shared",
            hold=hold,
            kept=kept,
            score=score,
            mask=choose,
            stored=lambda client_state: client_state.outer,
            last=lambda gradients: _among(gradients, asked, masked if source else ()),
            trigger=rule,
        )

    def learned(context: ServerContext, mean, new: Variables) -> Variables:
        new, held = inner.learned(context, mean, new), context.held
        if held is None:
            return new
        return masking.with_old(masked_of(context.run), held, context.global_model, new)

    return inner._replace(
        learned=learned,
        check=check,
        receive=receive,
        optimizer=optimizer,
        send=send,
        gradient_layers=gradient_layers,
        sparsifier=sparsifier,
    )


def _by_round(
    density: densities.Schedule | float, every: int
) -> Callable[[RunContext], np.ndarray]:
    """Return what gives the density of each round's broadcast, by a schedule."""
    schedule = density if callable(density) else densities.linear(density)
    return lambda run: densities.density_table(schedule, every=every, rounds=run.rounds)


def _by_level(
    density: densities.Schedule | float, scope: str
) -> Callable[[RunContext], np.ndarray]:
    """Return what gives the density of each level, or refuse what a trigger does not go with."""
    if callable(density):
        raise ValueError("density must be a number with trigger='inertia', not a schedule")
    if scope != "layer":
        raise ValueError(
            f"scope must be 'layer' with trigger='inertia', not {scope!r}: each layer's density "
            "follows its own inertia"
        )
    table = level_densities(density)
    return lambda run: table


def _check_run(run: RunContext, source: str | None, hold: float) -> None:
    """Raise ValueError if the gradients or the local steps that masks need are not there."""
    if source == "last_local" and run.cohort < run.num_clients:
        raise ValueError(
            f"gradient='last_local' needs every client in every round, not {run.cohort} of "
            f"{run.num_clients}: use gradient='stored' or 'fresh'"
        )
    if source == "last_local" and not run.all_arrive:
        raise ValueError(
            "gradient='last_local' needs every client to end every round: with dropout, mid-round "
            "dropout or stragglers use gradient='stored' or 'fresh'"
        )
    if not 0 < hold < math.inf:
        return
    training = run.training
    steps = training.epochs * -(-max(run.num_examples) // training.batch_size)
    if steps < hold:
        raise ValueError(f"hold must be at most {steps}, the local steps of a round, not {hold}")


def _among(gradients, asked: tuple[Layer, ...], wanted: tuple[Layer, ...]):
    """Return the gradients of some of the layers that were asked for, in their order."""
    return tuple(gradients[asked.index(layer)] for layer in wanted)


class Held(NamedTuple):
    """State of an optimizer that masks hold."""

    inner: Any  # of the optimizer
    steps: Array  # () int32, done


def _held(
    optimizer: optax.GradientTransformation,
    context: ClientContext,
    masked: tuple[Layer, ...],
    hold: float,
) -> optax.GradientTransformation:
    """Set masked weights back, and their moments to zero, after each of the first steps."""
    start, broadcast = tree.kernels(context.variables.params, masked), context.broadcast
    assert broadcast is not None
    keep = tuple(unpack(b, w.shape) for b, w in zip(broadcast.packed_masks, start, strict=True))

    def init(params):
        return Held(optimizer.init(params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        updates, inner = optimizer.update(updates, state.inner, params)
        free = ~(broadcast.sparse & (True if hold == math.inf else state.steps < hold))
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
        return updates, Held(inner, state.steps + 1)

    return optax.GradientTransformation(init, update)
