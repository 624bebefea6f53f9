"""Clients that do nothing but make themselves seen, to audit what is said to hide them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.privacy.bounds import gaussian
from lipsjax.strategies.delta import Delta, shared_params
from lipsjax.strategies.private import REFERENCES, Reference
from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import ClientContext, Rank, RunContext, Strategy, nest, wrapped
from lipsjax.types import Array, Variables


class Canaries(NamedTuple):
    """State at the server."""

    members: Array  # [M] bool


def canaries(
    strategy: Strategy, *, clients: int, length: float, reference: Reference = "global"
) -> Strategy:
    r"""Let the first clients send directions of their own, or nothing, in every round.

    Canary k < M is a member with a chance of one half, which the run's seed decides. In place of
    what it trained it sends, with a direction :math:`v_k` drawn once for all runs,

    .. math:: d_k = b_k \, \ell \, v_k / \lVert v_k \rVert, \qquad v_k \sim N(0, I), \;
              b_k \in \{0, 1\}

    Behind a clip below the length it moves the sum as far as any client can, so that who tells
    members from the others by the models that were released has measured how much they tell:
    :func:`lipsjax.attacks.canary_scores`, and :func:`lipsjax.privacy.epsilon_lower_bound`.

    Args:
      strategy: any that sends models; what protects clients goes around this.
      clients: M, fewer than the clients or as many.
      length: l, above 0; well above the clip, so that a clip that is not kept is seen.
      reference: what the delta is from, as of :func:`~lipsjax.strategies.private`.

    Returns:
      A :class:`Strategy`. State: server, which canaries are members, [M] bool.

    Raises:
      ValueError: for a value out of range, or if it cannot wrap the strategy; when a simulation is
        built, for more canaries than clients.

    References:
      Andrew et al., "One-shot Empirical Privacy Estimation for Federated Learning", arXiv
      2302.03098.

    Example:
      >>> from lipsjax.strategies import fedavg, private
      >>> watched = private(canaries(fedavg(), clients=50, length=9.0), clip=1, noise_multiplier=2)
      >>> watched.check(RunContext(rounds=1, num_examples=(5,) * 40))
      Traceback (most recent call last):
      ValueError: canaries must be at most 40, the clients, not 50
    """
    strategy = wrapped(strategy, "canaries")
    if clients < 1:
        raise ValueError(f"canaries must be at least 1, not {clients}")
    check_positive(length=length)
    if reference not in REFERENCES:
        raise ValueError(f"reference must be one of {', '.join(REFERENCES)}, not {reference!r}")

    if Rank.EXAMPLES in strategy.wrappers:
        raise ValueError(
            "canaries cannot wrap private_examples: they send what no step has noised, so that any "
            "guarantee of examples would look broken"
        )
    if reason := strategy.refuses.get(Rank.PRIVATE):
        raise ValueError(f"canaries cannot wrap {strategy.name}: {reason}")

    def members(_run: RunContext, _initial: Variables, key: Array) -> Canaries:
        of_members = derive(key, 0, SERVER, Purpose.CANARIES)
        return Canaries(jax.random.bernoulli(of_members, shape=(clients,)))

    inner = nest(strategy._replace(canaries=reference), init_server=members)

    def check(run: RunContext) -> None:
        strategy.check(run)
        if clients > run.num_clients:
            raise ValueError(
                f"canaries must be at most {run.num_clients}, the clients, not {clients}"
            )

    def encode(context: ClientContext, result):
        result, state = inner.encode(context, result)
        start = context.variables if reference == "received" else context.global_model
        begin, trained = (
            shared_params(strategy, context.run, x) for x in (start, result.variables)
        )
        is_canary = context.client_id < clients
        among = jnp.minimum(context.client_id, clients - 1)
        sent = length * context.server_state.outer.members[among]

        def chosen(path: str, v: Array) -> Array:
            return jnp.where(is_canary, begin[path] + (sent * v).astype(v.dtype), trained[path])

        ends = {path: chosen(path, v) for path, v in direction(among, begin).items()}
        return result._replace(variables=tree.put(result.variables, ends)), state

    return inner._replace(check=check, encode=encode)


def direction(canary: Array | int, like: Delta) -> Delta:
    """Return the direction of a canary, of length 1, the same in all runs."""
    drawn = gaussian(jax.random.fold_in(jax.random.key(0), canary), like)
    length = jnp.sqrt(sum(jnp.sum(v**2) for v in drawn.values()))
    return {path: v / length.astype(v.dtype) for path, v in drawn.items()}
