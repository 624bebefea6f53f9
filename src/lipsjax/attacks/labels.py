"""Tell how many examples of each class a client holds from its classifier's bias alone."""

import chex
import jax.numpy as jnp

from lipsjax.types import Array


def expected_counts(
    bias: Array, mean_prediction: Array, *, examples: int | Array, rate: float | Array
) -> Array:
    """Solve the bias gradient of cross entropy for the classes' counts.

    The gradient of the mean loss over n examples with respect to the classifier's bias of class c
    is ``mean_i p_ic - n_c / n``, so a gradient step of size r adds ``r (n_c / n - mean_i p_ic)``.
    An attacker who guesses the mean prediction has n_c. Over several steps, r is their sum, and
    the mean prediction one of the way.

    Args:
      bias: [classes], what local training added.
      mean_prediction: [classes], of the client's examples, as the attacker guesses it.
      examples: n.
      rate: sum of the step sizes, which the attacker knows or guesses.

    Returns:
      Expected counts [classes]; they need be neither whole nor positive.

    References:
      Wainakh et al., "User-Level Label Leakage from Gradients in Federated Learning", arXiv
      2105.09369; Zhao et al., "iDLG", arXiv 2001.02610, is the case of one example.

    Example:
      >>> prediction, counts = jnp.array([0.25, 0.25, 0.5]), jnp.array([1.0, 0.0, 1.0])
      >>> step = 0.5 * (counts / 2 - prediction)
      >>> expected_counts(step, prediction, examples=2, rate=0.5).tolist()
      [1.0, 0.0, 1.0]
    """
    chex.assert_rank([bias, mean_prediction], 1)
    chex.assert_equal_shape([bias, mean_prediction])
    return examples * (mean_prediction + bias / rate)


def whole_counts(expected: Array, *, examples: int | Array) -> Array:
    """Round expected counts to whole ones that add up, by largest remainders.

    Args:
      expected: [classes]; what is negative counts as 0.
      examples: their sum.

    Returns:
      Counts [classes] int32, at least 0 each, that sum to ``examples``. Where nothing is expected
      of any class, all are of the one least far below.

    Example:
      >>> whole_counts(jnp.array([1.6, -0.3, 0.9]), examples=3).tolist()
      [2, 0, 1]
    """
    chex.assert_rank(expected, 1)
    positive = jnp.maximum(expected, 0)
    total = jnp.sum(positive)
    best = jnp.zeros_like(expected).at[jnp.argmax(expected)].set(1)
    share = jnp.where(total > 0, positive / jnp.where(total > 0, total, 1), best)
    wished = share * examples
    counts = jnp.floor(wished)
    lacking = examples - jnp.sum(counts)
    order = jnp.argsort(jnp.argsort(counts - wished))  # 0: the largest remainder
    return (counts + (order < lacking)).astype(jnp.int32)


def as_labels(counts: Array, *, examples: int) -> Array:
    """Return labels [examples] int32 of which each class has its count, in ascending order.

    >>> as_labels(jnp.array([2, 0, 1]), examples=3).tolist()
    [0, 0, 2]
    """
    classes = jnp.arange(counts.shape[0], dtype=jnp.int32)
    return jnp.repeat(classes, counts, total_repeat_length=examples)


def overlap(guessed: Array, true: Array) -> Array:
    """Return the share of labels that two lists of counts have in common, in [0, 1].

    >>> float(overlap(jnp.array([2, 0, 2]), jnp.array([1, 1, 2])))
    0.75
    """
    return jnp.sum(jnp.minimum(guessed, true)) / jnp.sum(true)
