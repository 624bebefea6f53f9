"""Evaluation of one model on one set of examples, as sums that are divided last."""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lipsjax.types import Array, Examples, Model, Variables


class ByClass(NamedTuple):
    """Sums over the examples of each class, [classes]."""

    correct: Array
    examples: Array

    @property
    def accuracy(self) -> Array:
        """Fraction of correct examples, in [0, 1]; NaN of a class without any."""
        return self.correct / self.examples


class Score(NamedTuple):
    """Sums over examples."""

    correct: Array  # () examples whose largest logit is the label's
    loss: Array  # () cross entropy
    examples: Array  # () real examples

    @property
    def accuracy(self) -> Array:
        """Fraction of correct examples, in [0, 1]."""
        return self.correct / self.examples

    @property
    def mean_loss(self) -> Array:
        """Mean cross entropy, in nats."""
        return self.loss / self.examples


def evaluate(
    model: Model,
    variables: Variables,
    pool: Examples,
    index: Array,
    mask: Array,
    *,
    batch_size: int,
) -> Score:
    """Score a model in evaluation mode.

    Args:
      model: the network.
      variables: its parameters and running statistics.
      pool: examples [M, ...] that ``index`` points into.
      index: [m] int32.
      mask: [m] bool, False on padding.
      batch_size: examples predicted at once; bounds memory, does not change the result.

    Returns:
      Sums over the real examples, in the type of the parameters.
    """

    def score(row, real):
        return _score(model, variables, pool, row, real)[0]

    return _sum_over_batches(score, index, mask, batch_size)


def evaluate_by_class(
    model: Model,
    variables: Variables,
    pool: Examples,
    index: Array,
    mask: Array,
    *,
    batch_size: int,
) -> tuple[Score, ByClass]:
    """Score a model as :func:`evaluate` does, and its examples class by class.

    Args:
      model: the network, with a logit for each class.
      variables: its parameters and running statistics.
      pool: examples [M, ...] that ``index`` points into.
      index: [m] int32.
      mask: [m] bool, False on padding.
      batch_size: as of :func:`evaluate`.

    Returns:
      Sums over all real examples, and over those of each class.
    """

    def score(row, real):
        total, correct, logits = _score(model, variables, pool, row, real)
        weight = real.astype(correct.dtype)
        of_class = jax.nn.one_hot(pool.labels[row], logits.shape[-1], dtype=correct.dtype)
        return total, ByClass((weight * correct) @ of_class, weight @ of_class)

    return _sum_over_batches(score, index, mask, batch_size)


def _score(
    model: Model, variables: Variables, pool: Examples, row: Array, real: Array
) -> tuple[Score, Array, Array]:
    """Score one batch: its sums, which of its examples are correct [B], and logits."""
    dtype = jax.tree.leaves(variables.params)[0].dtype
    labels = pool.labels[row]
    images = pool.inputs[row]
    logits = model.apply(variables, images, mask=real, train=False).logits
    weight = real.astype(dtype)
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(dtype)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    total = Score(jnp.sum(weight * correct), jnp.sum(weight * losses), jnp.sum(weight))
    return total, correct, logits


def _sum_over_batches(score: Callable, index: Array, mask: Array, batch_size: int):
    """Add up ``score(row [B], real [B])`` over batches of examples."""
    chex.assert_rank([index, mask], 1)
    chex.assert_equal_shape([index, mask])
    count = index.shape[0]
    batch_size = min(batch_size, count)
    steps = math.ceil(count / batch_size)
    pad = (0, steps * batch_size - count)
    rows = jnp.pad(index, pad).reshape(steps, batch_size)
    real = jnp.pad(mask, pad).reshape(steps, batch_size)
    once = jax.jit(score, inline=True)  # its shapes and the loop's body are of one trace
    shapes = jax.eval_shape(once, rows[0], real[0])
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(total, batch):
        return jax.tree.map(jnp.add, total, once(*batch)), None

    return jax.lax.scan(add, zero, (rows, real))[0]
