"""FedDyn: every client updates its regulariser, so that local optima agree with the global one."""

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.strategy import (
    ClientContext,
    Rank,
    ServerContext,
    Strategy,
    by_examples,
    fedavg,
    uniform,
)
from lipsjax.types import LocalResult, LossFn, Variables


def feddyn(*, alpha: float = 0.01, weighted: bool = False) -> Strategy:
    """Regularise each client dynamically, so that stationary points are those of the whole.

    Client k minimises ``f_k(w) + alpha (||w - w_t||^2 / 2 - <g_k, w>)``, where w_t is what it
    received, and then ``g_k <- g_k - (w_k - w_t)``. The server, of S clients that arrived of K:
    ``h <- h - (S / K) mean_S(w_k - w_t)``, ``w_{t+1} = mean_S(w_k) - h``. g_k and h are the paper's
    gradient states over alpha, which stay finite as alpha tends to 0; both begin as 0, and h stays
    the mean of all g_k. Running statistics are averaged.

    Args:
      alpha: weight of the regulariser; the paper tries 0.1, 0.01 and 0.001.
      weighted: whether means are by examples; the paper's are uniform.

    Returns:
      A :class:`Strategy`. State: h at the server, g_k of each client, P values each.

    Raises:
      ValueError: for a value out of range.

    References:
      Acar et al., "Federated Learning Based on Dynamic Regularization", arXiv 2111.04263.

    Example:
      >>> from lipsjax.strategy import RunContext
      >>> context = ServerContext(
      ...     RunContext(rounds=1, num_examples=(5, 5)),
      ...     global_model=Variables(jnp.zeros(1), {}),
      ...     server_state=jnp.zeros(1),
      ...     share=jnp.array(0.5),
      ... )
      >>> mean = (Variables(jnp.ones(1), {}), jnp.ones(1))  # of models, and of what changed
      >>> new, h = feddyn().update(context, mean)
      >>> float(h[0]), float(new.params[0])
      (-0.5, 1.5)
    """
    if alpha < 0:
        raise ValueError(f"alpha must be at least 0, not {alpha}")

    def zeros(initial: Variables):
        return jax.tree.map(jnp.zeros_like, initial.params)

    def loss(loss_fn: LossFn, context: ClientContext) -> LossFn:
        start, own = context.variables.params, context.client_state

        def regularised(params, batch_stats, *batch):
            value, aux = loss_fn(params, batch_stats, *batch)
            terms = jax.tree.map(
                lambda w, s, g: jnp.sum((w - s) ** 2) / 2 - jnp.sum(g * w), params, start, own
            )
            return value + alpha * sum(jax.tree.leaves(terms)), aux

        return regularised

    def send(context: ClientContext, result: LocalResult):
        delta = tree.subtract(result.variables.params, context.variables.params)
        return (result.variables, delta), tree.subtract(context.client_state, delta)

    def update(context: ServerContext, mean):
        variables, delta = mean
        h = tree.subtract(context.server_state, tree.scale(context.share, delta))
        return variables._replace(params=tree.subtract(variables.params, h)), h

    return fedavg()._replace(
        name="feddyn",
        init_server=lambda run, initial, key: zeros(initial),
        init_client=lambda run, initial: zeros(initial),
        loss=loss,
        send=send,
        weight=by_examples if weighted else uniform,
        update=update,
        relative=True,
        refuses={
            **dict.fromkeys((Rank.PART, Rank.VOTE), "its messages are more than models"),
            Rank.PRIVATE: "its messages are more than models, and each part would need a bound and "
            "noise of its own; fedavg, fedprox, fedopt and moon send models alone",
        },
    )
