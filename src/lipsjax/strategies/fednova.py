"""FedNova: clients that take more steps do not count more."""

from typing import NamedTuple

import jax

from lipsjax import tree
from lipsjax.strategies.steps import effective_steps
from lipsjax.strategy import ClientContext, Rank, RunContext, ServerContext, Strategy, fedavg
from lipsjax.types import Array, LocalResult, Params, PyTree, Variables


class Normalised(NamedTuple):
    """What a client of FedNova sends."""

    start: Params  # x_k
    per_step: Params  # d_k
    steps: Array  # () ||a_k||_1
    batch_stats: PyTree


def fednova() -> Strategy:
    """Average updates per step, so that unequal numbers of local steps do not shift the optimum.

    Client k goes from the x_k that it received to y_k and sends ``d_k = (x_k - y_k) / ||a_k||_1``,
    where ``||a_k||_1`` is its number of steps, or what momentum makes of it
    (:func:`~lipsjax.strategies.steps.effective_steps`). The server, with ``p_k = n_k / n``:
    ``w <- sum_k p_k x_k - (sum_k p_k ||a_k||_1) (sum_k p_k d_k)``; all x_k are w but after a sparse
    broadcast. With equal steps it is FedAvg. Running statistics are averaged. The momentum is that
    of the clients' SGD.

    Returns:
      A :class:`Strategy` without state.

    Raises:
      ValueError: when a simulation is built, if clients do not train by plain SGD at a constant
        rate.

    References:
      Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
      Optimization", arXiv 2007.07481.

    Example:
      >>> import jax.numpy as jnp
      >>> context = ServerContext(RunContext(rounds=1, num_examples=(1,)), Variables({}, {}))
      >>> mean = Normalised(jnp.zeros(1), jnp.ones(1), jnp.array(3.0), {})
      >>> float(fednova().update(context, mean)[0].params[0])
      -3.0
    """

    def check(run: RunContext):
        _ = run.sgd  # raises where it is not plain SGD, under python -O too

    def send(context: ClientContext, result: LocalResult):
        start = context.variables.params
        steps = effective_steps(result.steps, context.run.sgd.momentum)
        per_step = tree.scale(1 / steps, tree.subtract(start, result.variables.params))
        message = Normalised(start, per_step, steps, result.variables.batch_stats)
        return message, context.client_state

    def update(context: ServerContext, mean: Normalised):
        params = jax.tree.map(
            lambda x, d: x - mean.steps.astype(x.dtype) * d, mean.start, mean.per_step
        )
        return Variables(params, mean.batch_stats), context.server_state

    def moved(message: Normalised) -> dict[str, Array]:
        delta = tree.scale(-message.steps, message.per_step)
        return tree.pick(Variables(delta, {}), lambda path: True)

    return fedavg()._replace(
        name="fednova",
        check=check,
        send=send,
        update=update,
        reveals=lambda run, model, start, message: moved(message),
        relative=True,
        refuses={
            **dict.fromkeys((Rank.PART, Rank.VOTE), "its messages are more than models"),
            Rank.PRIVATE: "its messages are more than models, and each part would need a bound and "
            "noise of its own; fedavg, fedprox, fedopt and moon send models alone",
            Rank.SECURE: "it sends weights and counts of steps, whose ranges no clip is for",
        },
    )
