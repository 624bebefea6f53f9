"""MOON: representations near the average's, away from the client's own last ones."""

import jax
import jax.numpy as jnp

from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import Strategy, fedavg
from lipsjax.types import Array, LossFn, Received


def moon(*, mu: float = 1.0, temperature: float = 0.5) -> Strategy:
    """Contrast each client's features with the average's and with its own last model's.

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
      >>> from lipsjax.types import Variables
      >>> initial = Variables({"w": jnp.ones(2)}, {})
      >>> moon(mu=5.0).init_client(initial).params["w"].shape
      (2,)
    """
    if mu < 0:
        raise ValueError(f"mu must be at least 0, not {mu}")
    check_positive(temperature=temperature)

    def loss(loss_fn: LossFn, received: Received) -> LossFn:
        average, last = received.variables, received.client

        def contrastive(params, norm, images, labels, mask):
            def features(variables):
                seen = loss_fn(variables.params, variables.norm, images, labels, mask)[1]
                return jax.lax.stop_gradient(seen.features)

            value, seen = loss_fn(params, norm, images, labels, mask)
            if seen.features is None:
                raise ValueError("moon needs a model that sows features; this one sows none")
            near, far = (cosine(seen.features, features(v)) for v in (average, last))
            each = jax.nn.softplus((far - near) / temperature)
            real = mask.astype(each.dtype)
            return value + mu * jnp.sum(each * real) / jnp.maximum(jnp.sum(real), 1), seen

        return contrastive

    return fedavg()._replace(
        init_client=lambda initial: initial,
        loss=loss,
        send=lambda received, result: (result.variables, result.variables),
    )


def cosine(a: Array, b: Array) -> Array:
    """Return the cosine of each row with its counterpart, [B]; 0 where one is zero."""

    def unit(x):
        return x / jnp.sqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-16))

    return jnp.sum(unit(a) * unit(b), axis=-1)
