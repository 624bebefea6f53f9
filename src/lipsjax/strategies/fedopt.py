"""The FedOpt family: an optimizer at the server takes the clients' movement for a gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lipsjax import tree
from lipsjax.strategies.steps import check_fraction, check_positive
from lipsjax.strategy import Strategy, fedavg
from lipsjax.types import Variables


def fedopt(optimizer: optax.GradientTransformation) -> Strategy:
    """Let any optax optimizer at the server follow the clients' mean movement.

    ``w <- w + u``, where u is the optimizer's update for the gradient ``w - sum_k (n_k / n) w_k``.
    With ``optax.sgd(1.0)`` it is FedAvg. Running statistics are averaged and never go through the
    optimizer, so that variances stay positive.

    Args:
      optimizer: the server's.

    Returns:
      A :class:`Strategy` whose server state is the optimizer's.

    References:
      Reddi et al., "Adaptive Federated Optimization", arXiv 2003.00295.

    Example:
      >>> strategy = fedopt(optax.sgd(0.5))
      >>> average, mean = Variables(jnp.zeros(1), {}), Variables(jnp.ones(1), {})
      >>> float(strategy.update(strategy.init_server(average, None), average, mean)[0].params[0])
      0.5
    """

    def update(state, average: Variables, mean: Variables):
        gradient = tree.subtract(average.params, mean.params)
        updates, state = optimizer.update(gradient, state, average.params)
        return mean._replace(params=optax.apply_updates(average.params, updates)), state

    return fedavg()._replace(
        init_server=lambda initial, key: optimizer.init(initial.params), update=update
    )


def fedavgm(*, server_learning_rate: float = 1.0, server_momentum: float = 0.9) -> Strategy:
    """Federated averaging with momentum at the server.

    ``v <- beta v + (w - mean(w_k))``, ``w <- w - lr v``.

    Args:
      server_learning_rate: lr.
      server_momentum: beta.

    Raises:
      ValueError: for a value out of range.

    References:
      Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
      Classification", arXiv 1909.06335.

    Example:
      >>> strategy = fedavgm(server_momentum=0.5)
      >>> average, mean = Variables(jnp.zeros(1), {}), Variables(jnp.ones(1), {})
      >>> average, state = strategy.update(strategy.init_server(average, None), average, mean)
      >>> float(strategy.update(state, average, mean)[0].params[0])  # v = -0.5
      1.5
    """
    check_positive(server_learning_rate=server_learning_rate)
    check_fraction(server_momentum=server_momentum)
    return fedopt(optax.sgd(server_learning_rate, server_momentum))


def fedadagrad(*, server_learning_rate: float = 0.01, tau: float = 1e-3) -> Strategy:
    """FedOpt with Adagrad: ``v <- v + d^2``, ``w <- w + lr d / (sqrt(v) + tau)``, d the movement.

    Args:
      server_learning_rate: lr; the paper tunes it for every task.
      tau: degree of adaptivity; v begins as ``tau^2``.

    Raises:
      ValueError: for a value out of range.

    References:
      Reddi et al., arXiv 2003.00295, algorithm 2, with beta_1 = 0.

    Example:
      >>> _ = fedadagrad(server_learning_rate=0.1)
    """
    return _adaptive(lambda v, d2: v + d2, server_learning_rate, 0.0, tau)


def fedadam(
    *,
    server_learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> Strategy:
    """FedOpt with Adam: ``m <- b1 m + (1 - b1) d``, ``v <- b2 v + (1 - b2) d^2``.

    Then ``w <- w + lr m / (sqrt(v) + tau)``; d is the clients' mean movement. As in the paper there
    is no bias correction.

    Args:
      server_learning_rate: lr; the paper tunes it for every task.
      beta1: b1.
      beta2: b2.
      tau: degree of adaptivity; v begins as ``tau^2``.

    Raises:
      ValueError: for a value out of range.

    References:
      Reddi et al., arXiv 2003.00295, algorithm 2.

    Example:
      >>> _ = fedadam(server_learning_rate=0.1)
    """
    check_fraction(beta2=beta2)
    return _adaptive(lambda v, d2: beta2 * v + (1 - beta2) * d2, server_learning_rate, beta1, tau)


def fedyogi(
    *,
    server_learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> Strategy:
    """FedOpt with Yogi: as :func:`fedadam`, but ``v <- v - (1 - b2) d^2 sign(v - d^2)``.

    Args:
      server_learning_rate: lr; the paper tunes it for every task.
      beta1: b1.
      beta2: b2.
      tau: degree of adaptivity; v begins as ``tau^2``.

    Raises:
      ValueError: for a value out of range.

    References:
      Reddi et al., arXiv 2003.00295, algorithm 2.

    Example:
      >>> _ = fedyogi(server_learning_rate=0.1)
    """
    check_fraction(beta2=beta2)
    return _adaptive(
        lambda v, d2: v - (1 - beta2) * d2 * jnp.sign(v - d2), server_learning_rate, beta1, tau
    )


def _adaptive(second: Callable, learning_rate: float, beta1: float, tau: float) -> Strategy:
    """Return FedOpt with a rule ``(v, d^2) -> v`` for the second moment."""
    check_positive(server_learning_rate=learning_rate, tau=tau)
    check_fraction(beta1=beta1)

    def init(params):
        first = jax.tree.map(jnp.zeros_like, params)
        return first, jax.tree.map(lambda w: jnp.full_like(w, tau**2), params)

    def update(updates, state, params=None):
        del params
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state[0], updates)
        moment = jax.tree.map(lambda v, g: second(v, g * g), state[1], updates)
        step = jax.tree.map(lambda m, v: -learning_rate * m / (jnp.sqrt(v) + tau), first, moment)
        return step, (first, moment)

    return fedopt(optax.GradientTransformation(init, update))
