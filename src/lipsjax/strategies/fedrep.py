"""FedRep: every client fits its own head to the shared representation, then the representation."""

import jax.numpy as jnp

from lipsjax.strategies.fedper import fedper
from lipsjax.strategies.layerwise import freeze, in_turn, is_head
from lipsjax.strategy import Strategy
from lipsjax.types import Layer


def fedrep(*, layers: tuple[Layer, ...], epochs: int, head_epochs: float | None = None) -> Strategy:
    """Train the head first, with the body fixed; then the body, with the head fixed.

    With body b and head h, client k takes the steps of its first ``head_epochs`` epochs along
    ``grad_h f_k(b_t, h)``, and all others along ``grad_b f_k(b, h_k)``; the server averages b by
    examples. Each part has its own momentum.

    Args:
      layers: of the model; the classifier is the head.
      epochs: local epochs of a round.
      head_epochs: of them for the head, the paper's many updates of the head for each of the body;
        None: all but one. May be a fraction.

    Returns:
      A :class:`Strategy` whose client state is the head; clients fine-tune the head alone.

    Raises:
      ValueError: for layers without a classifier, or head_epochs that leave a part no epoch.

    References:
      Collins et al., "Exploiting Shared Representations for Personalized Federated Learning", arXiv
      2102.07078.

    Example:
      >>> from lipsjax import models
      >>> model = models.build("cnn", num_classes=10, image_shape=(8, 8, 1))
      >>> fedrep(layers=model.layers, epochs=1)
      Traceback (most recent call last):
      ValueError: head_epochs must be above 0 and below the 1 local epochs, not 0
    """
    first = epochs - 1 if head_epochs is None else head_epochs
    if not 0 < first < epochs:
        raise ValueError(
            f"head_epochs must be above 0 and below the {epochs} local epochs, not {first}"
        )
    head = is_head(layers)

    def optimizer(base, received):
        switch = jnp.round(first * received.epoch_steps).astype(jnp.int32)
        return in_turn(base, head, switch)

    return fedper(layers=layers)._replace(
        optimizer=optimizer,
        adapt=lambda base, received: freeze(base, head),
        refuses={
            **fedper(layers=layers).refuses,
            "hold": "head and body have optimizers of their own, whose moments masks cannot find",
        },
    )
