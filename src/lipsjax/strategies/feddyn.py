"""FedDyn: every client updates its regulariser, so that local optima agree with the global one."""

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.strategies.steps import check_participation
from lipsjax.strategy import Strategy, alike, by_examples, fedavg
from lipsjax.types import LocalResult, LossFn, Received, Variables


def feddyn(*, alpha: float = 0.01, participation: float = 1.0, weighted: bool = False) -> Strategy:
    """Regularise each client dynamically, so that stationary points are those of the whole.

    Client k minimises ``f_k(w) + alpha (||w - w_t||^2 / 2 - <g_k, w>)``, where w_t is what it
    received, and then ``g_k <- g_k - (w_k - w_t)``. The server, with S of K clients:
    ``h <- h - (S / K) mean_S(w_k - w_t)``, ``w_{t+1} = mean_S(w_k) - h``. g_k and h are the paper's
    gradient states over alpha, which stay finite as alpha tends to 0; both begin as 0. Running
    statistics are averaged.

    Args:
      alpha: weight of the regulariser; the paper tries 0.1, 0.01 and 0.001.
      participation: S / K, the share of clients in a round.
      weighted: whether means are by examples; the paper's are uniform.

    Returns:
      A :class:`Strategy`. State: h at the server, g_k of each client, P values each.

    Raises:
      ValueError: for a value out of range.

    References:
      Acar et al., "Federated Learning Based on Dynamic Regularization", arXiv 2111.04263.

    Example:
      >>> from lipsjax.types import Variables
      >>> server, average = jnp.zeros(1), Variables(jnp.zeros(1), {})
      >>> mean = (Variables(jnp.ones(1), {}), jnp.ones(1))  # of models, and of movements
      >>> new, h = feddyn(participation=0.5).update(server, average, mean)
      >>> float(h[0]), float(new.params[0])
      (-0.5, 1.5)
    """
    if alpha < 0:
        raise ValueError(f"alpha must be at least 0, not {alpha}")
    check_participation(participation)

    def zeros(initial: Variables):
        return jax.tree.map(jnp.zeros_like, initial.params)

    def loss(loss_fn: LossFn, received: Received) -> LossFn:
        start, own = received.variables.params, received.client

        def regularised(params, norm, *batch):
            value, norm = loss_fn(params, norm, *batch)
            terms = jax.tree.map(
                lambda w, s, g: jnp.sum((w - s) ** 2) / 2 - jnp.sum(g * w), params, start, own
            )
            return value + alpha * sum(jax.tree.leaves(terms)), norm

        return regularised

    def send(received: Received, result: LocalResult):
        moved = tree.subtract(result.variables.params, received.variables.params)
        return (result.variables, moved), tree.subtract(received.client, moved)

    def update(h, average, mean):
        del average
        variables, moved = mean
        h = jax.tree.map(lambda h, d: h - participation * d, h, moved)
        return variables._replace(params=tree.subtract(variables.params, h)), h

    return fedavg()._replace(
        init_server=lambda initial, key: zeros(initial),
        init_client=zeros,
        loss=loss,
        send=send,
        weight=by_examples if weighted else alike,
        update=update,
        relative=True,
        refuses={"sign_majority": "its messages are more than models"},
    )
