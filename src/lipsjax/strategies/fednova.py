"""FedNova: clients that take more steps do not count more."""

import jax

from lipsjax import tree
from lipsjax.strategies.steps import check_fraction, effective_steps
from lipsjax.strategy import Strategy, fedavg
from lipsjax.types import LocalResult, Received, Variables


def fednova(*, momentum: float = 0.0) -> Strategy:
    """Average movements per step, so that unequal numbers of local steps do not shift the optimum.

    Client k moves from the x_k that it received to y_k and sends ``d_k = (x_k - y_k) / ||a_k||_1``,
    where ``||a_k||_1`` is its number of steps, or what momentum makes of it
    (:func:`~lipsjax.strategies.steps.effective_steps`). The server, with ``p_k = n_k / n``:
    ``w <- sum_k p_k x_k - (sum_k p_k ||a_k||_1) (sum_k p_k d_k)``; all x_k are w but after a sparse
    broadcast. With equal steps it is FedAvg. Running statistics are averaged.

    Args:
      momentum: of the clients' SGD, which it must be.

    Returns:
      A :class:`Strategy` without state.

    Raises:
      ValueError: for a momentum out of range.

    References:
      Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
      Optimization", arXiv 2007.07481.

    Example:
      >>> import jax.numpy as jnp
      >>> mean = (jnp.zeros(1), jnp.ones(1), jnp.array(3.0), {})  # of x, d, ||a||_1, statistics
      >>> float(fednova().update((), None, mean)[0].params[0])
      -3.0
    """
    check_fraction(momentum=momentum)

    def send(received: Received, result: LocalResult):
        start = received.variables.params
        steps = effective_steps(result.steps, momentum)
        per_step = tree.scale(1 / steps, tree.subtract(start, result.variables.params))
        return (start, per_step, steps, result.variables.norm), received.client

    def update(server, average, mean):
        del average
        start, per_step, steps, norm = mean
        params = jax.tree.map(lambda x, d: x - steps.astype(x.dtype) * d, start, per_step)
        return Variables(params, norm), server

    return fedavg()._replace(
        send=send,
        update=update,
        relative=True,
        refuses={"sign_majority": "its messages are more than models"},
    )
