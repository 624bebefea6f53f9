"""SCAFFOLD: control variates correct the drift of clients."""

import jax
import jax.numpy as jnp
import optax

from lipsjax import tree
from lipsjax.strategies.steps import (
    add_to_gradient,
    check_fraction,
    check_participation,
    check_positive,
    effective_steps,
)
from lipsjax.strategy import BITS, Strategy, alike, by_examples, constant_traffic, fedavg
from lipsjax.types import LocalResult, Received, Variables


def scaffold(
    *,
    learning_rate: float,
    momentum: float = 0.0,
    participation: float = 1.0,
    server_learning_rate: float = 1.0,
    weighted: bool = False,
) -> Strategy:
    """Correct local steps by control variates, against the drift of clients (option II).

    Client k takes s steps ``y <- y - lr (g(y) - c_k + c)`` from the x that it received, then

    - ``c_k' = c_k - c + (x - y) / (lr ||a||_1)``, with ``||a||_1 = s`` without momentum
      (:func:`~lipsjax.strategies.steps.effective_steps`);
    - the server, with S of K clients: ``w <- w + lr_g (mean_S(y) - w)``,
      ``c <- c + (S / K) mean_S(c_k' - c_k)``.

    All control variates begin as 0. Running statistics are averaged. The paper has no momentum;
    with it, c_k is the mean of the client's gradients by their weight in its movement.

    Args:
      learning_rate: of the clients' SGD, which it must be.
      momentum: of the clients' SGD.
      participation: S / K, the share of clients in a round.
      server_learning_rate: lr_g.
      weighted: whether means are by examples; the paper's are uniform.

    Returns:
      A :class:`Strategy`. State: c at the server, c_k of each client, P values each. Clients
      exchange 2 P values each way.

    Raises:
      ValueError: for a value out of range.

    References:
      Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", arXiv
      1910.06378, algorithm 1.

    Example:
      >>> from lipsjax.types import Variables
      >>> strategy = scaffold(learning_rate=0.1, participation=0.5)
      >>> strategy.traffic(Variables(params={"w": jnp.ones(3)}, norm={}), 1).up.tolist()
      [192]
    """
    check_positive(learning_rate=learning_rate, server_learning_rate=server_learning_rate)
    check_fraction(momentum=momentum)
    check_participation(participation)

    def zeros(initial: Variables):
        return jax.tree.map(jnp.zeros_like, initial.params)

    def optimizer(base: optax.GradientTransformation, received: Received):
        return add_to_gradient(base, tree.subtract(received.server, received.client))

    def send(received: Received, result: LocalResult):
        lengths = learning_rate * effective_steps(result.steps, momentum)
        moved = tree.subtract(received.variables.params, result.variables.params)
        change = tree.subtract(tree.scale(1 / lengths, moved), received.server)  # c_k' - c_k
        new = jax.tree.map(jnp.add, received.client, change)
        return (result.variables, change), new

    def update(control, average: Variables, mean):
        variables, change = mean
        params = jax.tree.map(
            lambda w, y: w + server_learning_rate * (y - w), average.params, variables.params
        )
        control = jax.tree.map(lambda c, d: c + participation * d, control, change)
        return variables._replace(params=params), control

    def traffic(variables: Variables, rounds: int):
        values = tree.size(variables) + tree.size(variables.params)
        return constant_traffic(BITS * values, BITS * values, rounds)

    return fedavg()._replace(
        init_server=lambda initial, key: zeros(initial),
        init_client=zeros,
        optimizer=optimizer,
        send=send,
        weight=by_examples if weighted else alike,
        update=update,
        traffic=traffic,
        relative=True,
        refuses={"sign_majority": "its messages are more than models"},
    )
