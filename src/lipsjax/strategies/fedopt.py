"""The FedOpt family: an optimizer at the server takes the clients' mean delta for a gradient."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lipsjax import tree
from lipsjax.strategies.steps import check_fraction, check_positive
from lipsjax.strategy import ServerContext, Strategy, fedavg
from lipsjax.types import Params, Variables


class Moments(NamedTuple):
    """State of an adaptive server."""

    first: Params  # m
    second: Params  # v


def fedopt(optimizer: optax.GradientTransformation) -> Strategy:
    """Let any optax optimizer at the server follow the clients' mean delta.

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
      >>> from lipsjax.strategy import RunContext
      >>> strategy, run = fedopt(optax.sgd(0.5)), RunContext(rounds=1, num_examples=(1,))
      >>> old, mean = Variables(jnp.zeros(1), {}), Variables(jnp.ones(1), {})
      >>> context = ServerContext(run, old, strategy.init_server(run, old, None))
      >>> float(strategy.update(context, mean)[0].params[0])
      0.5
    """

    def update(context: ServerContext, mean: Variables):
        old = context.global_model.params
        gradient = tree.subtract(old, mean.params)
        updates, state = optimizer.update(gradient, context.server_state, old)
        return mean._replace(params=optax.apply_updates(old, updates)), state

    return fedavg()._replace(
        name="fedopt",
        init_server=lambda run, initial, key: optimizer.init(initial.params),
        update=update,
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
      >>> from lipsjax.strategy import RunContext
      >>> strategy, run = fedavgm(server_momentum=0.5), RunContext(rounds=1, num_examples=(1,))
      >>> old, mean = Variables(jnp.zeros(1), {}), Variables(jnp.ones(1), {})
      >>> new, state = strategy.update(
      ...     ServerContext(run, old, strategy.init_server(run, old, None)), mean)
      >>> float(strategy.update(ServerContext(run, new, state), mean)[0].params[0])  # v = -0.5
      1.5
    """
    check_positive(server_learning_rate=server_learning_rate)
    check_fraction(server_momentum=server_momentum)
    return fedopt(optax.sgd(server_learning_rate, server_momentum))


def fedadagrad(*, server_learning_rate: float = 0.01, tau: float = 1e-3) -> Strategy:
    """FedOpt with Adagrad: ``v <- v + d^2``, ``w <- w + lr d / (sqrt(v) + tau)``.

    d is the clients' mean delta.

    Args:
      server_learning_rate: lr; the paper tunes it for every task.
      tau: degree of adaptivity; v begins as ``tau^2``.

    Raises:
      ValueError: for a value out of range.

    References:
      Reddi et al., arXiv 2003.00295, algorithm 2, with beta_1 = 0.

    Example:
      >>> fedadagrad(server_learning_rate=0.0)
      Traceback (most recent call last):
      ValueError: server_learning_rate must be above 0, not 0.0
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

    Then ``w <- w + lr m / (sqrt(v) + tau)``; d is the clients' mean delta. As in the paper there
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
      >>> fedadam(server_learning_rate=0.0)
      Traceback (most recent call last):
      ValueError: server_learning_rate must be above 0, not 0.0
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
      >>> fedyogi(server_learning_rate=0.0)
      Traceback (most recent call last):
      ValueError: server_learning_rate must be above 0, not 0.0
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
        return Moments(first, jax.tree.map(lambda w: jnp.full_like(w, tau**2), params))

    def update(updates, state, params=None):
        del params
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.first, updates)
        moment = jax.tree.map(lambda v, g: second(v, g * g), state.second, updates)
        step = jax.tree.map(lambda m, v: -learning_rate * m / (jnp.sqrt(v) + tau), first, moment)
        return step, Moments(first, moment)

    return fedopt(optax.GradientTransformation(init, update))
