"""Evaluation of one model on one set of examples, as sums that are divided last."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lipsjax.types import Array, Examples, Model, Variables


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
    chex.assert_rank([index, mask], 1)
    chex.assert_equal_shape([index, mask])
    count = index.shape[0]
    batch_size = min(batch_size, count)
    steps = math.ceil(count / batch_size)
    pad = (0, steps * batch_size - count)
    rows = jnp.pad(index, pad).reshape(steps, batch_size)
    real = jnp.pad(mask, pad).reshape(steps, batch_size)
    dtype = jax.tree.leaves(variables.params)[0].dtype

    def score(total, batch):
        row, batch_mask = batch
        labels = pool.labels[row]
        images = pool.inputs[row]
        logits = model.apply(variables, images, mask=batch_mask, train=False).logits
        weight = batch_mask.astype(dtype)
        correct = (jnp.argmax(logits, axis=-1) == labels).astype(dtype)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        share = (jnp.sum(weight * correct), jnp.sum(weight * losses), jnp.sum(weight))
        return Score(*(a + b for a, b in zip(total, share, strict=True))), None

    zero = jnp.zeros((), dtype)
    return jax.lax.scan(score, Score(zero, zero, zero), (rows, real))[0]
