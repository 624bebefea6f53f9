"""FedBuff: a server that takes clients' updates as they come, a buffer at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import ClientContext, Rank, RunContext, ServerContext, Strategy, fedavg
from lipsjax.types import LocalResult, Params, PyTree, Variables


class Update(NamedTuple):
    """What a client adds to the buffer."""

    delta: Params  # from the version that went out, scaled by its staleness
    batch_stats: PyTree


def fedbuff(*, server_learning_rate: float = 1.0, exponent: float = 0.5) -> Strategy:
    """Buffered asynchronous averaging: stale deltas count less.

    Client k, which began with version v of the global model and is in update t, sends ``s d_k``:
    ``d_k = w_k - w_v`` is from the version that went out, whole, whatever a mask made of it, and
    ``s = (1 + t - v)^-a``. The server takes ``w <- w + lr sum_k (n_k / n) s d_k`` over its buffer;
    stale ones do not make the others count more. Running statistics are averaged, and not scaled.
    In rounds, where nothing is stale, it is FedAvg with a server rate.

    Args:
      server_learning_rate: lr, above 0.
      exponent: a, at least 0; the paper's is 0.5, and 0 counts all alike.

    Returns:
      A :class:`Strategy` whose clients may take turns (:class:`lipsjax.rounds.Turns`).

    Raises:
      ValueError: for a value out of range.

    References:
      Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", arXiv 2106.06639;
      it counts every client of a buffer the same.

    Example:
      >>> run, sent = RunContext(rounds=1, num_examples=(5,)), Variables({"w": jnp.zeros(1)}, {})
      >>> context = ClientContext(run, sent, global_model=sent, staleness=3)
      >>> trained = LocalResult(Variables({"w": jnp.ones(1)}, {}), (), (), 0.0, 5, 1)
      >>> float(fedbuff().send(context, trained)[0].delta["w"][0])
      0.5
    """
    check_positive(server_learning_rate=server_learning_rate)
    if exponent < 0:
        raise ValueError(f"exponent must be at least 0, not {exponent}")

    def send(context: ClientContext, result: LocalResult):
        params, batch_stats = result.variables
        delta = tree.subtract(params, context.global_model.params)
        dtype = jax.tree.leaves(delta)[0].dtype
        scale = (1 + jnp.asarray(context.staleness, dtype)) ** -exponent
        return Update(tree.scale(scale, delta), batch_stats), context.client_state

    def update(context: ServerContext, mean: Update):
        params = jax.tree.map(
            lambda w, d: w + server_learning_rate * d, context.global_model.params, mean.delta
        )
        return Variables(params, mean.batch_stats), context.server_state

    def reveals(_run: RunContext, model: Variables, start: Variables, message: Update):
        # of a client that waited for nobody, which is who can be attacked
        ended = jax.tree.map(jnp.add, model.params, message.delta)
        moved = tree.subtract(ended, start.params)
        return tree.pick(Variables(moved, {}), lambda path: True)

    sent = "it sends deltas that staleness has scaled, and no models"
    return fedavg()._replace(
        name="fedbuff",
        send=send,
        update=update,
        reveals=reveals,
        takes_turns=True,
        refuses=dict.fromkeys((Rank.PART, Rank.VOTE, Rank.PRIVATE, Rank.SECURE), sent),
    )
