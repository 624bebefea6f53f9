"""MOON: representations near the global model's, away from the client's own last ones."""

import jax
import jax.numpy as jnp

from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import ClientContext, Rank, Strategy, fedavg
from lipsjax.types import Array, LossFn


def moon(*, mu: float = 1.0, temperature: float = 0.5) -> Strategy:
    """Contrast each client's features with the global model's and with its own last model's.

    Client k minimises ``f_k(w) + mu l(w)``, where on every example, with z the features of w, z_t
    those of the model it received and z_k those of its model at the end of its last round,
    ``l = -log(e^(cos(z, z_t) / tau) / (e^(cos(z, z_t) / tau) + e^(cos(z, z_k) / tau)))``.
    The server averages by examples. Features are what the classifier reads, in training mode for
    all three models; the paper puts a projection head before them, which is left out here. A
    client that never trained has the initial model for its last one.

    Args:
      mu: weight of the contrast; 1 in the published code.
      temperature: tau; 0.5 in the published code.

    Returns:
      A :class:`Strategy`. State: the last model of each client, P values and its statistics. Each
      step predicts with three models and differentiates one: 5/3 of FedAvg's products.

    Raises:
      ValueError: for a value out of range; when compiled, if the model sows no features.

    References:
      Li et al., "Model-Contrastive Federated Learning", arXiv 2103.16257.

    Example:
      >>> from lipsjax.strategy import RunContext
      >>> from lipsjax.types import Variables
      >>> run, initial = RunContext(rounds=1, num_examples=(1,)), Variables({"w": jnp.ones(2)}, {})
      >>> moon(mu=5.0).init_client(run, initial).params["w"].shape
      (2,)
    """
    if mu < 0:
        raise ValueError(f"mu must be at least 0, not {mu}")
    check_positive(temperature=temperature)

    def loss(loss_fn: LossFn, context: ClientContext) -> LossFn:
        start, last = context.variables, context.client_state

        def contrastive(params, batch_stats, images, labels, mask):
            def features(variables):
                batch = images, labels, mask
                _, aux = loss_fn(variables.params, variables.batch_stats, *batch, train=False)
                return jax.lax.stop_gradient(aux.features)

            value, aux = loss_fn(params, batch_stats, images, labels, mask)
            if aux.features is None:
                raise ValueError("moon needs a model that sows features; this one sows none")
            near, far = (cosine(aux.features, features(v)) for v in (start, last))
            each = jax.nn.softplus((far - near) / temperature)
            real = mask.astype(each.dtype)
            return value + mu * jnp.sum(each * real) / jnp.maximum(jnp.sum(real), 1), aux

        return contrastive

    return fedavg()._replace(
        name="moon",
        init_client=lambda run, initial: initial,
        loss=loss,
        send=lambda context, result: (result.variables, result.variables),
        refuses={Rank.PART: "a client that never trained is compared with the whole initial model"},
    )


def cosine(a: Array, b: Array) -> Array:
    """Return the cosine of each row with its counterpart, [B]; 0 where one is zero."""

    def unit(x):
        return x / jnp.sqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-16))

    return jnp.sum(unit(a) * unit(b), axis=-1)
