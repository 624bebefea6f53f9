"""SCAFFOLD: control variates correct the drift of clients."""

import jax
import jax.numpy as jnp
import optax

from lipsjax import tree
from lipsjax.strategies.steps import add_to_gradient, check_positive, effective_steps
from lipsjax.strategy import (
    BITS,
    ClientContext,
    Rank,
    RunContext,
    ServerContext,
    Strategy,
    by_examples,
    constant_traffic,
    fedavg,
    uniform,
)
from lipsjax.types import LocalResult, Variables


def scaffold(
    *,
    server_learning_rate: float = 1.0,
    weighted: bool = False,
) -> Strategy:
    """Correct local steps by control variates, against the drift of clients (option II).

    Client k takes s steps ``y <- y - lr (g(y) - c_k + c)`` from the x that it received, then

    - ``c_k' = c_k - c + (x - y) / (lr ||a||_1)``, with ``||a||_1 = s`` without momentum
      (:func:`~lipsjax.strategies.steps.effective_steps`);
    - the server, of S clients that arrived of K: ``w <- w + lr_g (mean_S(y) - w)``,
      ``c <- c + (S / K) mean_S(c_k' - c_k)``, so that c stays the mean of all c_k.

    All control variates begin as 0. Running statistics are averaged. The paper has no momentum;
    with it, c_k is the mean of the client's gradients by their weight in what they changed. lr and
    momentum are those of the clients' SGD; with weights by examples, S / K is their share of all
    examples.

    Args:
      server_learning_rate: lr_g.
      weighted: whether means are by examples; the paper's are uniform.

    Returns:
      A :class:`Strategy`. State: c at the server, c_k of each client, P values each. Clients
      exchange 2 P values each way.

    Raises:
      ValueError: for a value out of range; when a simulation is built, if clients do not train by
        plain SGD at a constant rate.

    References:
      Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", arXiv
      1910.06378, algorithm 1.

    Example:
      >>> run = RunContext(rounds=1, num_examples=(5, 5))
      >>> variables = Variables(params={"w": jnp.ones(3)}, batch_stats={})
      >>> scaffold().traffic(run, variables).up.tolist()
      [192]
    """
    check_positive(server_learning_rate=server_learning_rate)

    def zeros(initial: Variables):
        return jax.tree.map(jnp.zeros_like, initial.params)

    def check(run: RunContext):
        _ = run.sgd  # raises where it is not plain SGD, under python -O too

    def optimizer(base: optax.GradientTransformation, context: ClientContext):
        return add_to_gradient(base, tree.subtract(context.server_state, context.client_state))

    def send(context: ClientContext, result: LocalResult):
        sgd = context.run.sgd
        lengths = sgd.learning_rate * effective_steps(result.steps, sgd.momentum)
        moved = tree.subtract(context.variables.params, result.variables.params)
        # c_k' - c_k
        change = tree.subtract(tree.scale(1 / lengths, moved), context.server_state)
        new = jax.tree.map(jnp.add, context.client_state, change)
        return (result.variables, change), new

    def update(context: ServerContext, mean):
        variables, change = mean
        params = jax.tree.map(
            lambda w, y: w + server_learning_rate * (y - w),
            context.global_model.params,
            variables.params,
        )
        change = tree.scale(context.share, change)
        control = jax.tree.map(jnp.add, context.server_state, change)
        return variables._replace(params=params), control

    def traffic(run: RunContext, variables: Variables):
        values = tree.size(variables) + tree.size(variables.params)
        return constant_traffic(run, up=BITS * values, down=BITS * values)

    return fedavg()._replace(
        name="scaffold",
        init_server=lambda run, initial, key: zeros(initial),
        init_client=lambda run, initial: zeros(initial),
        check=check,
        optimizer=optimizer,
        send=send,
        weight=by_examples if weighted else uniform,
        update=update,
        traffic=traffic,
        relative=True,
        refuses={
            **dict.fromkeys((Rank.PART, Rank.VOTE), "its messages are more than models"),
            Rank.PRIVATE: "its messages are more than models, and each part would need a bound and "
            "noise of its own; fedavg, fedprox, fedopt and moon send models alone",
        },
    )
