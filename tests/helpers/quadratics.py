"""Problems whose solutions are known: quadratic clients, one round after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax.local import LocalTraining
from lipsjax.strategy import ClientContext, RunContext, ServerContext, message_of
from lipsjax.types import LocalResult, LossAux, Variables


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
    run = RunContext(
        rounds=rounds,
        num_examples=(1,) * count,
        training=LocalTraining(base, epochs=1, batch_size=1),
    )
    strategy.check(run)

    def client(k, t, server, own, model):
        context = ClientContext(
            run,
            model,
            server,
            own,
            round=t,
            key=jax.random.fold_in(jax.random.key(t), k),
            client_id=jnp.int32(k),
            epoch_steps=jnp.int32(steps[k]),
        )
        context = context._replace(variables=strategy.receive(context))

        def loss(params, batch_stats, *batch, train=True):
            del batch, train
            value = jnp.sum(hessians[k] * (params["w"] - optima[k]) ** 2) / 2
            return value, LossAux(batch_stats, params["w"][None])

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
            context.variables.params,
            strategy.loss(loss, context),
            strategy.optimizer(base, context),
        )
        taken = jnp.asarray(steps[k], jnp.int32)
        result = LocalResult(trained, (), jnp.zeros(1), 0.0, 0, taken)
        if strategy.personal_model is not None:
            first, second_loss = strategy.personal_model
            second = train(first(context).params, second_loss(loss, context), base)
            result = result._replace(personal_model=second)
        return message_of(strategy, context, result)

    @jax.jit
    def one_round(t, server, owns, model):
        sent = [client(k, t, server, own, model) for k, own in enumerate(owns)]
        messages = [message for message, _ in sent]
        if strategy.aggregate is None:
            mean = jax.tree.map(lambda *xs: sum(xs) / count, *messages)
        else:
            stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *messages)
            mean = strategy.aggregate(stacked, jnp.ones(count, bool))
        context = ServerContext(
            run, model, server, t, jax.random.key(0), jnp.int32(count), jnp.ones(())
        )
        model, server = strategy.update(context, mean)
        return server, [own for _, own in sent], model

    carry = (
        strategy.init_server(run, start, jax.random.key(0)),
        [strategy.init_client(run, start)] * count,
        start,
    )
    path = []
    for t in range(rounds):
        carry = one_round(t, *carry)
        path.append(np.asarray(carry[2].params["w"]))
    return (np.array(path), carry[1]) if states else np.array(path)


HESSIANS = np.array([[1.0, 4.0], [6.0, 0.5], [2.0, 3.0]])
OPTIMA = np.array([[2.0, -1.0], [-1.0, 3.0], [0.5, 0.5]])
TRUE = (HESSIANS * OPTIMA).sum(0) / HESSIANS.sum(0)


def biased(steps, rate):
    """Where FedAvg stops: each client pulls by how far its steps go, ``1 - (1 - rate h)^steps``."""
    pull = 1 - (1 - rate * HESSIANS) ** np.reshape(steps, (-1, 1))
    return (pull * OPTIMA).sum(0) / pull.sum(0)
