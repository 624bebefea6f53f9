"""Tell whether an example was trained on, from how models and updates treat it.

A score is large where an example looks like a member. Each is of one victim and one example; its
null is what clients do who never saw the example.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax.types import Array


def margin(log_probabilities: Array, labels: Array) -> Array:
    """Return the logit of the probability of the label, ``log p - log(1 - p)``.

    Its distribution over models is close to normal, where that of the loss is not.

    Args:
      log_probabilities: [..., classes].
      labels: [...] int.

    References:
      Carlini et al., "Membership Inference Attacks From First Principles", arXiv 2112.03570.

    Example:
      >>> p = jnp.array([[0.5, 0.5], [0.9, 0.1]])
      >>> [round(float(x), 4) for x in margin(jnp.log(p), jnp.array([0, 0]))]
      [0.0, 2.1972]
    """
    is_label = jnp.arange(log_probabilities.shape[-1]) == labels[..., None]
    right = jnp.sum(jnp.where(is_label, log_probabilities, 0), axis=-1)
    others = jnp.where(is_label, -jnp.inf, log_probabilities)
    return right - jax.nn.logsumexp(others, axis=-1)


def against_others(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how unusual a victim's values are among those of clients that never saw an example.

    ``(v - mean(others)) / std(others)``: the one-sided likelihood ratio of LiRA's offline form,
    monotone in ``Pr[N(mean, std) <= v]``.

    Args:
      values: [examples], of the victim.
      others: [clients, examples], at least two clients.

    Raises:
      ValueError: for fewer than two other clients.

    References:
      Carlini et al., arXiv 2112.03570; with updates of other clients for the null, Zhu et al.,
      "FedMIA", arXiv 2402.06289.

    Example:
      >>> against_others(np.array([3.0]), np.array([[0.0], [2.0]])).tolist()
      [2.0]
    """
    if len(others) < 2:
        raise ValueError(f"a null distribution needs at least 2 other clients, not {len(others)}")
    spread = np.std(others, axis=0)
    return (values - np.mean(others, axis=0)) / np.maximum(spread, 1e-12)
