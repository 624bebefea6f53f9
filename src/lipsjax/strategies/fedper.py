"""FedPer: every client keeps a classifier of its own."""

from lipsjax.strategies.layerwise import is_head
from lipsjax.strategy import Strategy, fedavg, keep_local
from lipsjax.types import Layer


def fedper(*, layers: tuple[Layer, ...]) -> Strategy:
    """Average the body, keep the classifier with each client, and train both together.

    With body b and head h: client k trains ``(b_t, h_k)``; ``b_{t+1} = sum_k (n_k / n) b_k`` and
    h_k stays. :func:`keep_local` says what the server's model is measured with.

    Args:
      layers: of the model; the classifier is the head.

    Returns:
      A :class:`Strategy` whose client state is the head.

    Raises:
      ValueError: for layers without a classifier.

    References:
      Arivazhagan et al., "Federated Learning with Personalization Layers", arXiv 1912.00818.

    Example:
      >>> from lipsjax import models
      >>> model = models.build("cnn", num_classes=10, image_shape=(8, 8, 1))
      >>> strategy = fedper(layers=model.layers)
      >>> [strategy.is_shared(f"params/{name}/kernel") for name in ("conv1", "classifier")]
      [True, False]
    """
    return keep_local(fedavg(), is_head(layers))
