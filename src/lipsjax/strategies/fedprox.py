"""FedProx: clients stay near what they received."""

import jax
import jax.numpy as jnp

from lipsjax.strategy import Strategy, fedavg
from lipsjax.types import LossFn, Params


def fedprox(*, mu: float = 0.01) -> Strategy:
    """Federated averaging with a proximal term, against clients that drift apart.

    Client k minimises ``f_k(w) + mu / 2 ||w - w_t||^2``, where w_t is what it received; the server
    averages by examples, ``w_{t+1} = sum_k (n_k / n) w_k``. With mu = 0 it is FedAvg.

    Args:
      mu: weight of the term; the paper tries 0.001, 0.01, 0.1 and 1.

    Returns:
      A :class:`Strategy` without state.

    Raises:
      ValueError: if mu is negative.

    References:
      Li et al., "Federated Optimization in Heterogeneous Networks", arXiv 1812.06127.

    Example:
      >>> import jax.numpy as jnp
      >>> from lipsjax.strategy import ClientContext, RunContext
      >>> from lipsjax.types import Variables
      >>> run = RunContext(rounds=1, num_examples=(1,))
      >>> context = ClientContext(run, Variables(jnp.zeros(2), ()))
      >>> loss = fedprox(mu=0.5).loss(lambda w, batch_stats: (jnp.sum(w), batch_stats), context)
      >>> float(loss(jnp.array([1.0, 2.0]), ())[0])  # 3 + 0.25 * 5
      4.25
    """
    if mu < 0:
        raise ValueError(f"mu must be at least 0, not {mu}")

    return fedavg()._replace(
        name="fedprox", loss=lambda loss_fn, context: pulled(loss_fn, context.variables.params, mu)
    )


def pulled(loss_fn: LossFn, anchor: Params, weight: float) -> LossFn:
    """Return a loss with ``weight / 2 ||w - anchor||^2`` added."""

    def loss(params, batch_stats, *batch):
        value, aux = loss_fn(params, batch_stats, *batch)
        gaps = jax.tree.map(lambda w, a: jnp.sum((w - a) ** 2), params, anchor)
        return value + weight / 2 * sum(jax.tree.leaves(gaps)), aux

    return loss
