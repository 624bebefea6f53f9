"""Ditto: every client has a model of its own, held near the global model."""

from typing import NamedTuple

import jax.numpy as jnp

from lipsjax import tree
from lipsjax.strategies.fedprox import pulled
from lipsjax.strategy import (
    ClientContext,
    PersonalModel,
    Strategy,
    fedavg,
    nest,
    wrapped,
)
from lipsjax.types import Array, LossFn, Variables


class DittoState(NamedTuple):
    """What a client keeps of its own model."""

    model: Variables  # v_k
    exists: Array  # () bool, whether the client has trained


def ditto(strategy: Strategy | None = None, *, lam: float = 0.1) -> Strategy:
    """Train a personal model beside the shared one, pulled to what the client received.

    The shared model goes as the strategy says. Beside it, client k keeps v_k, which begins as the
    initial model, and in each of its rounds takes as many steps on the same batches along the
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
      >>> from lipsjax.strategy import RunContext
      >>> run = RunContext(rounds=1, num_examples=(1,))
      >>> strategy, initial = ditto(lam=0.5), Variables({"w": jnp.ones(2)}, {})
      >>> state = strategy.init_client(run, initial)
      >>> context = ClientContext(run, Variables({"w": jnp.zeros(2)}, {}), client_state=state)
      >>> strategy.predict_with(context).params["w"].tolist()  # it has not trained
      [0.0, 0.0]
    """
    if lam < 0:
        raise ValueError(f"lam must be at least 0, not {lam}")
    shared = wrapped(fedavg() if strategy is None else strategy, "ditto")
    inner = nest(shared, init_client=lambda run, initial: DittoState(initial, jnp.zeros((), bool)))

    def second_loss(loss_fn: LossFn, context: ClientContext) -> LossFn:
        return pulled(loss_fn, context.variables.params, lam)

    def send(context: ClientContext, result):
        message, state = inner.send(context, result)
        own = DittoState(result.personal_model, jnp.ones((), bool))
        return message, state._replace(outer=own)

    def predict_with(context: ClientContext):
        own = context.client_state.outer
        return tree.select(own.exists, own.model, inner.predict_with(context))

    return inner._replace(
        send=send,
        predict_with=predict_with,
        personal_model=PersonalModel(
            start=lambda context: context.client_state.outer.model, loss=second_loss
        ),
    )
