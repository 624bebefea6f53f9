"""Local training of ONE client: a scan of optax steps over its own, masked examples.

Nothing here sees the client axis; the caller vmaps.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax import tree
from lipsjax.augmentation import Augment
from lipsjax.types import (
    Array,
    Examples,
    GradientOf,
    Layer,
    LocalResult,
    LossAux,
    LossFn,
    Model,
    Params,
    Variables,
)

DISTORTIONS = 2**32 - 1
"""Folded into a client's key where its epochs are not."""
NOISE = 2**32 - 2
"""Likewise, for what local steps draw."""


class LocalTraining(NamedTuple):
    """How a client trains: SGD or any other optax optimizer, fresh every round."""

    optimizer: optax.GradientTransformation
    epochs: int
    batch_size: int
    rate: Callable[[Array], Array] | None = None
    """Round -> factor of every step the optimizer takes; None: 1."""
    augment: Augment | None = None
    """Distort the images of a batch, each with a key of its own; None: they stay."""

    def at_round(self, t: Array) -> "LocalTraining":
        """Return the training of a round, its rate within the optimizer."""
        if self.rate is None:
            return self
        scaled = optax.chain(self.optimizer, optax.scale(self.rate(t)))  # pyright: ignore
        return self._replace(optimizer=scaled, rate=None)


class Sgd(NamedTuple):
    """Stochastic gradient descent with heavy-ball momentum at a constant rate."""

    learning_rate: float
    momentum: float


def sgd_of(optimizer: optax.GradientTransformation) -> Sgd | None:
    """Return the learning rate and the momentum of an optimizer that is plain SGD.

    It is told by its impulse response: of gradients 1, 0, 0, ... SGD makes the updates
    ``-lr, -lr m, -lr m^2, ...``, whenever the impulse comes, in proportion to its size, in each
    entry alone and wherever the weights are. Anything else, as Adam, Nesterov's momentum, a
    schedule, clipping, centring, LARS or noise, does not. Weight decay is not seen: it adds to the
    gradient, so what an optimizer does without one is taken off.

    Args:
      optimizer: any of optax.

    Returns:
      None if the optimizer is not plain SGD.

    Example:
      >>> sgd_of(optax.sgd(0.1, momentum=0.9))
      Sgd(learning_rate=0.1, momentum=0.9)
      >>> sgd_of(optax.sgd(0.1, momentum=0.9, nesterov=True)), sgd_of(optax.lars(0.1))
      (None, None)
    """
    steps, large = 4, 2.0**16
    nothing = jnp.zeros((steps, 2, 2))  # of a kernel: some optimizers treat vectors otherwise
    impulses = {
        "first": nothing.at[0, 0, 0].set(1),
        "later": nothing.at[1, 1, 1].set(1),
        "large": nothing.at[0].set(large),
    }

    def respond(gradients, kernel):
        params = {"kernel": kernel}

        def step(state, gradient):
            updates: Any
            updates, state = optimizer.update({"kernel": gradient}, state, params)
            return state, updates["kernel"]

        return jax.lax.scan(step, optimizer.init(params), gradients)[1]

    def respond_at(weight):
        kernel = jnp.full((2, 2), weight)
        still = respond(nothing, kernel)
        return {name: respond(g, kernel) - still for name, g in impulses.items()}

    try:
        at_zero, elsewhere = jax.jit(lambda: (respond_at(0.0), respond_at(0.5)))()
    except Exception:  # whatever an optimizer makes of parameters that are not its model's
        return None
    along = 0 - np.asarray(at_zero["first"], np.float64)[:, 0, 0]
    if not (np.isfinite(along).all() and along[0] > 0 and 0 <= along[1] < along[0]):
        return None
    dtype = at_zero["first"].dtype
    rate, momentum = _shortest(along[0], dtype), _shortest(along[1] / along[0], dtype)
    powers = rate * momentum ** np.arange(steps)[:, None, None]
    expected = {
        "first": -powers * np.eye(1, 4).reshape(2, 2),
        "later": -np.r_[np.zeros((1, 1, 1)), powers[:-1]] * np.eye(1, 4, 3).reshape(2, 2),
        "large": -large * powers * np.ones((2, 2)),
    }
    slack = 100 * np.finfo(dtype).eps
    for name, wanted in expected.items():
        for found in (at_zero[name], elsewhere[name]):
            if not np.allclose(found, wanted, rtol=slack, atol=slack * rate):
                return None
    return Sgd(rate, momentum)


def _shortest(value: float, dtype: np.dtype) -> float:
    """Return the decimal number of fewest digits that arithmetic of a type cannot tell from it."""
    for digits in range(1, 18):
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= 2 * np.finfo(dtype).eps * abs(value):
            return short
    return value


def model_loss(model: Model) -> LossFn:
    """Return the mean cross entropy of a batch, over its real examples.

    Args:
      model: predicts in training mode, unless a loss is asked for with train=False.

    Returns:
      ``(params, batch_stats, images [B, ...], labels [B], mask [B], train=True) -> (loss (),
      LossAux)``.
    """

    def loss(params, batch_stats, images, labels, mask, train=True):
        variables = Variables(params, batch_stats)
        logits, *aux = model.apply(variables, images, mask=mask, train=train)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        weight = mask.astype(losses.dtype)
        return jnp.sum(losses * weight) / jnp.maximum(jnp.sum(weight), 1), LossAux(*aux)

    return loss


def batch_order(key: Array, mask: Array, *, epochs: int, batch_size: int) -> tuple[Array, Array]:
    """Shuffle one client's examples into the batches of a round.

    Every epoch visits every real example once; real examples come first, so an epoch of a client
    with fewer examples ends in steps that hold padding alone.

    Args:
      key: consumed.
      mask: [n] bool, True for real examples, which come first.
      epochs: passes over the examples.
      batch_size: B.

    Returns:
      Positions [steps, B] int32 into the client's examples and their mask [steps, B], with
      ``steps = epochs * ceil(n / B)``. The order of the real examples does not depend on n.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mask = jnp.array([True, True, True, False])
      >>> order, real = batch_order(jax.random.key(0), mask, epochs=1, batch_size=2)
      >>> sorted(order[real].tolist()), real.tolist()
      ([0, 1, 2], [[True, True], [True, False]])
    """
    n = mask.shape[0]
    steps = math.ceil(n / batch_size)

    def epoch(index):
        draws = jax.random.uniform(jax.random.fold_in(key, index), (n,), jnp.float32)
        order = jnp.argsort(jnp.where(mask, draws, 2.0)).astype(jnp.int32)
        return jnp.pad(order, (0, steps * batch_size - n)).reshape(steps, batch_size)

    order = jax.vmap(epoch)(jnp.arange(epochs)).reshape(epochs * steps, batch_size)
    slots = jnp.arange(steps * batch_size, dtype=jnp.int32).reshape(steps, batch_size)
    real = slots < jnp.sum(mask, dtype=jnp.int32)
    return order, jnp.tile(real, (epochs, 1))


def train(
    key: Array,
    variables: Variables,
    pool: Examples,
    index: Array,
    mask: Array,
    *,
    training: LocalTraining,
    loss_fn: LossFn,
    layers: tuple[Layer, ...],
    ragged: bool,
    gradient_layers: tuple[Layer, ...],
    limit: Array | None = None,
    gradient_of: GradientOf | None = None,
) -> LocalResult:
    """Train one client for one round.

    Args:
      key: consumed.
      variables: what the client starts from.
      pool: examples [M, ...] that ``index`` points into.
      index: [n] int32, the client's examples.
      mask: [n] bool.
      training: optimizer, epochs, batch size.
      loss_fn: of a batch; differentiated with respect to params.
      layers: whose last gradient norms are reported.
      ragged: whether some client may have steps of padding alone, which then change nothing.
      gradient_layers: whose gradients of the last real step are returned.
      limit: () real steps after which the client stops early; None: it takes all.
      gradient_of: what makes a gradient of a loss and a batch; None: that of the batch's loss.

    Returns:
      The client's variables after training, and what the strategy and the measures ask about.
    """
    chex.assert_rank([index, mask], 1)
    chex.assert_equal_shape([index, mask])
    order, real = batch_order(key, mask, epochs=training.epochs, batch_size=training.batch_size)
    if limit is not None:
        place = jnp.cumsum(jnp.any(real, axis=1), dtype=jnp.int32)  # among real steps, from 1
        real, ragged = real & (place <= limit)[:, None], True
    plain = jax.value_and_grad(loss_fn, has_aux=True)
    gradient_fn = (lambda _, *batch: plain(*batch)) if gradient_of is None else gradient_of(loss_fn)
    dtype = jax.tree.leaves(variables.params)[0].dtype

    if ragged:
        has_one = jnp.any(real, axis=1)
        is_last = jnp.arange(len(real)) == len(real) - 1 - jnp.argmax(has_one[::-1])
    else:  # known before vmap, so that the branch below stays one
        is_last = np.arange(len(real)) == len(real) - 1

    def step(carry, batch):
        (params, batch_stats, opt_state), (last, loss_sum, seen, steps) = carry
        positions, batch_mask, ends, epoch_key, noise_key = batch
        rows = index[positions]
        images = pool.inputs[rows]
        if training.augment is not None:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(epoch_key, positions)
            images = training.augment(keys, images)
        (loss, aux), gradient = gradient_fn(
            noise_key, params, batch_stats, images, pool.labels[rows], batch_mask
        )
        updates, new_opt_state = training.optimizer.update(gradient, opt_state, params)
        new = (optax.apply_updates(params, updates), aux.batch_stats, new_opt_state)
        count = jnp.sum(batch_mask, dtype=jnp.int32)
        last = jax.lax.cond(ends, lambda: trace(gradient), lambda: last)
        if ragged:
            took = count > 0
            new = tree.select(took, new, (params, batch_stats, opt_state))
            loss = jnp.where(took, loss, 0)
        totals = (loss_sum + loss * count.astype(dtype), seen + count, steps + (count > 0))
        return (new, (last, *totals)), None

    def trace(gradient):
        return tree.kernels(gradient, gradient_layers), tree.norms(tree.kernels(gradient, layers))

    zero = jnp.zeros((), jnp.int32)
    start = (
        (*variables, training.optimizer.init(variables.params)),
        (
            jax.tree.map(jnp.zeros_like, trace(variables.params)),
            jnp.zeros((), dtype),
            zero,
            zero,
        ),
    )
    # by epoch and example, so that padding and batches do not decide what an example looks like
    epoch_keys = jax.random.split(jax.random.fold_in(key, DISTORTIONS), training.epochs)
    epoch_keys = jnp.repeat(epoch_keys, len(order) // training.epochs)
    noise_keys = None
    if gradient_of is not None:
        noise_keys = jax.random.split(jax.random.fold_in(key, NOISE), len(order))
    ((params, batch_stats, _), rest), _ = jax.lax.scan(
        step, start, (order, real, is_last, epoch_keys, noise_keys)
    )
    (last, last_norm), loss, seen, steps = rest
    return LocalResult(Variables(params, batch_stats), last, last_norm, loss, seen, steps)  # pyright: ignore


def whole_gradient(
    variables: Variables,
    pool: Examples,
    index: Array,
    mask: Array,
    *,
    batch_size: int,
    loss_fn: LossFn,
) -> Params:
    """Return the gradient of one client's loss over all its examples, at a model.

    Batches are taken in order and weighed by their real examples; batch statistics are those of
    each batch, and running statistics stay as they are.

    Args:
      variables: where the gradient is taken.
      pool: examples [M, ...].
      index: [n] int32, the client's examples.
      mask: [n] bool.
      batch_size: B.
      loss_fn: of a batch.

    Returns:
      A pytree like params.
    """
    n = mask.shape[0]
    steps = math.ceil(n / batch_size)
    pad = (0, steps * batch_size - n)
    rows = jnp.pad(index, pad).reshape(steps, batch_size)
    real = jnp.pad(mask, pad).reshape(steps, batch_size)

    def step(total, batch):
        row, batch_mask = batch
        gradient, _ = jax.grad(loss_fn, has_aux=True)(
            variables.params, variables.batch_stats, pool.inputs[row], pool.labels[row], batch_mask
        )
        count = jnp.sum(batch_mask, dtype=jnp.int32)
        share = jax.tree.map(lambda g: jnp.where(count > 0, g * count.astype(g.dtype), 0), gradient)
        return jax.tree.map(jnp.add, total, share), None

    start = jax.tree.map(jnp.zeros_like, variables.params)
    total, _ = jax.lax.scan(step, start, (rows, real))
    return jax.tree.map(lambda g: g / jnp.sum(mask).astype(g.dtype), total)
