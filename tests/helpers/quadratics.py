"""Problems whose solutions are known: quadratic clients, one round after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax.types import LocalResult, Received, Seen, Variables


def quadratics(
    strategy, hessians, optima, *, rounds, steps=5, rate=0.05, momentum=0.0, states=False
):
    """Rounds on ``f_k(w) = (w - w_k)' diag(h_k) (w - w_k) / 2`` of clients that count the same.

    ``steps`` is one number or one for each client; returns the average after every round, [T, n],
    and, if asked, what the clients keep. A client's features are its weights.
    """
    hessians, optima = jnp.asarray(hessians), jnp.asarray(optima)
    count, n = optima.shape
    steps = np.broadcast_to(steps, count)
    start = Variables({"w": jnp.zeros(n)}, {})
    base = optax.sgd(rate, momentum)

    def client(k, server, own, average, key):
        start = strategy.receive(server, own, average, None)
        key = jax.random.fold_in(key, k)
        received = Received(start, server, own, None, key, jnp.int32(k), jnp.int32(steps[k]))

        def loss(params, norm, *batch):
            del batch
            value = jnp.sum(hessians[k] * (params["w"] - optima[k]) ** 2) / 2
            return value, Seen(norm, params["w"][None])

        def train(params, loss, optimizer):
            gradient = jax.grad(loss, has_aux=True)

            def step(carry, _):
                params, state = carry
                along, _ = gradient(params, {}, None, None, jnp.ones(1, bool))
                updates, state = optimizer.update(along, state, params)
                return (optax.apply_updates(params, updates), state), None

            carry = params, optimizer.init(params)
            return Variables(jax.lax.scan(step, carry, length=steps[k])[0][0], {})

        trained = train(
            received.variables.params,
            strategy.loss(loss, received),
            strategy.optimizer(base, received),
        )
        taken = jnp.asarray(steps[k], jnp.int32)
        result = LocalResult(trained, (), jnp.zeros(1), 0.0, 0, taken)
        if strategy.companion is not None:
            first, second_loss = strategy.companion
            second = train(first(received).params, second_loss(loss, received), base)
            result = result._replace(companion=second)
        return strategy.send(received, result)

    @jax.jit
    def one_round(server, owns, average, key):
        sent = [client(k, server, own, average, key) for k, own in enumerate(owns)]
        messages = [message for message, _ in sent]
        if strategy.aggregate is None:
            mean = jax.tree.map(lambda *xs: sum(xs) / count, *messages)
        else:
            stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *messages)
            mean = strategy.aggregate(stacked, jnp.ones(count, bool))
        average, server = strategy.update(server, average, mean)
        return server, [own for _, own in sent], average

    carry = (
        strategy.init_server(start, jax.random.key(0)),
        [strategy.init_client(start)] * count,
        start,
    )
    path = []
    for t in range(rounds):
        carry = one_round(*carry, jax.random.key(t))
        path.append(np.asarray(carry[2].params["w"]))
    return (np.array(path), carry[1]) if states else np.array(path)


HESSIANS = np.array([[1.0, 4.0], [6.0, 0.5], [2.0, 3.0]])
OPTIMA = np.array([[2.0, -1.0], [-1.0, 3.0], [0.5, 0.5]])
TRUE = (HESSIANS * OPTIMA).sum(0) / HESSIANS.sum(0)


def biased(steps, rate):
    """Where FedAvg stops: each client pulls by how far its steps go, ``1 - (1 - rate h)^steps``."""
    pull = 1 - (1 - rate * HESSIANS) ** np.reshape(steps, (-1, 1))
    return (pull * OPTIMA).sum(0) / pull.sum(0)
