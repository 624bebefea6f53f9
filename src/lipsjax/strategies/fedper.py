"""FedPer: every client keeps a classifier of its own."""

from lipsjax.strategies.keep_local import keep_leaves
from lipsjax.strategies.layerwise import is_head
from lipsjax.strategy import Strategy, fedavg


def fedper() -> Strategy:
    """Average the body, keep the classifier with each client, and train both together.

    With body b and head h: client k trains ``(b_t, h_k)``; ``b_{t+1} = sum_k (n_k / n) b_k`` and
    h_k stays. The classifier is the head. :func:`keep_local` says what the server's model is
    measured with.

    Returns:
      A :class:`Strategy` whose client state is the head.

    Raises:
      ValueError: when a simulation is built, for a model without a classifier.

    References:
      Arivazhagan et al., "Federated Learning with Personalization Layers", arXiv 1912.00818.

    Example:
      >>> from lipsjax import models
      >>> from lipsjax.strategy import RunContext
      >>> model = models.build("cnn", num_classes=10, input_shape=(8, 8, 1))
      >>> run = RunContext(rounds=1, num_examples=(1,), layers=model.layers)
      >>> [fedper().is_shared(run, f"params/{name}/kernel") for name in ("conv1", "classifier")]
      [True, False]
    """
    return keep_leaves(fedavg(), lambda run: is_head(run.layers))._replace(name="fedper")
