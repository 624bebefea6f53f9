"""Ditto: every client has a model of its own, held near the average."""

import jax.numpy as jnp

from lipsjax import tree
from lipsjax.strategies.fedprox import pulled
from lipsjax.strategy import Companion, Strategy, fedavg, fits, seeing
from lipsjax.types import LossFn, Received, Variables


def ditto(strategy: Strategy | None = None, *, lam: float = 0.1) -> Strategy:
    """Train a personal model beside the shared one, pulled to what the client received.

    The shared model goes as the strategy says. Beside it, client k keeps v_k, which begins as the
    initial average, and in each of its rounds takes as many steps on the same batches along the
    gradient of ``f_k(v) + lam / 2 ||v - w_t||^2``, where w_t is what it received. v_k is what it
    predicts with; a client that never trained predicts with w_t.

    Args:
      strategy: of the shared model; None: FedAvg.
      lam: lambda; the paper tries 0.05, 0.1, 0.2, 1 and 2. With 0, v_k is trained alone.

    Returns:
      A :class:`Strategy` whose client state holds v_k, P values and its statistics. Each round
      trains twice.

    Raises:
      ValueError: for a negative lam, or a strategy that has a second model already.

    References:
      Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", arXiv
      2012.04221.

    Example:
      >>> initial = Variables({"w": jnp.ones(2)}, {})
      >>> strategy = ditto(lam=0.5)
      >>> own = strategy.init_client(initial)
      >>> strategy.deploy(Variables({"w": jnp.zeros(2)}, {}), own).params["w"].tolist()
      [0.0, 0.0]
    """
    if lam < 0:
        raise ValueError(f"lam must be at least 0, not {lam}")
    shared = fedavg() if strategy is None else strategy
    fits(shared, "ditto")

    def inner(received: Received) -> Received:
        return received._replace(client=received.client[2])

    def init_client(initial: Variables):
        return initial, jnp.zeros((), bool), shared.init_client(initial)

    def second_loss(loss_fn: LossFn, received: Received) -> LossFn:
        return pulled(loss_fn, received.variables.params, lam)

    def send(received, result):
        message, state = shared.send(inner(received), result)
        return message, (result.companion, jnp.ones((), bool), state)

    def deploy(variables, client):
        own, has_trained, state = client
        return tree.select(has_trained, own, shared.deploy(variables, state))

    from_inner = seeing(shared, inner)
    return from_inner._replace(
        init_client=init_client,
        receive=lambda server, client, average, delivery: shared.receive(
            server, client[2], average, delivery
        ),
        send=send,
        deploy=deploy,
        companion=Companion(start=lambda received: received.client[0], loss=second_loss),
        refuses={**shared.refuses, "ditto": "it has a second model already"},
    )
