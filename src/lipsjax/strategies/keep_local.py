"""Leaves that every client keeps for itself, around any strategy."""

from collections.abc import Callable

import jax

from lipsjax import tree
from lipsjax.strategy import BITS, ClientContext, RunContext, Strategy, nest, wrapped
from lipsjax.types import Variables


def keep_local(strategy: Strategy, is_personal: Callable[[str], bool]) -> Strategy:
    """Let every client keep some leaves for itself.

    Personal leaves never come from the server: a client starts from its own, as its last round
    left them. The server averages them all the same, so that its model can be measured; that
    mean is never sent and costs no bits.

    Args:
      strategy: any strategy whose messages are variables.
      is_personal: of a leaf's path, such as ``params/norm_stem/norm/scale``.

    Returns:
      A strategy whose client state holds the personal leaves, [K, ...] each.

    Raises:
      ValueError: if a wrapper is around the strategy already; and, when a simulation is built, if
        no leaf is personal or the strategy keeps client state itself.

    References:
      With normalisation as the personal part, FedBN: Li et al., arXiv 2102.07623.

    Example:
      >>> from lipsjax import models
      >>> from lipsjax.strategy import fedavg
      >>> run = RunContext(rounds=1, num_examples=(1,))
      >>> fedbn = keep_local(fedavg(), models.is_norm)
      >>> paths = "params/stem/kernel", "batch_stats/norm_stem/norm/mean"
      >>> [fedbn.is_shared(run, path) for path in paths]
      [True, False]
    """
    return keep_leaves(strategy, lambda run: is_personal)


def keep_leaves(
    strategy: Strategy, personal_of: Callable[[RunContext], Callable[[str], bool]]
) -> Strategy:
    """Return :func:`keep_local` of leaves that depend on the run, as on the model's layers."""
    strategy = wrapped(strategy, "keep_local")

    def init_client(run: RunContext, initial: Variables):
        leaves = tree.pick(initial, personal_of(run))
        if not leaves:
            raise ValueError("keep_local keeps nothing: no leaf of the model is personal")
        if jax.tree.leaves(strategy.init_client(run, initial)):
            raise ValueError(
                "keep_local goes around strategies without client state: what others keep, such as "
                "control variates, would count personal leaves as shared"
            )
        return leaves

    inner = nest(strategy, init_client=init_client)

    def receive(context: ClientContext):
        return tree.put(inner.receive(context), context.client_state.outer)

    def send(context: ClientContext, result):
        message, state = inner.send(context, result)
        return message, state._replace(outer=tree.pick(result.variables, personal_of(context.run)))

    def traffic(run: RunContext, variables: Variables):
        personal = BITS * tree.size(tree.pick(variables, personal_of(run)))
        return strategy.traffic(run, variables).without(personal)

    return inner._replace(
        receive=receive,
        send=send,
        traffic=traffic,
        is_shared=lambda run, path: strategy.is_shared(run, path) and not personal_of(run)(path),
    )
