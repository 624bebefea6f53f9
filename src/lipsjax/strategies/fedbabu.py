"""FedBABU: the body learns under a classifier that nobody trains."""

from lipsjax import tree
from lipsjax.strategies.layerwise import freeze, is_head
from lipsjax.strategy import BITS, Strategy, Traffic, fedavg
from lipsjax.types import Layer, Variables


def fedbabu(*, layers: tuple[Layer, ...], head_only: bool = False) -> Strategy:
    """Train and average the body alone; the classifier stays as drawn until clients fine-tune.

    With body b and initial head h_0: client k takes steps along ``grad_b f_k(b, h_0)``;
    ``b_{t+1} = sum_k (n_k / n) b_k``. To predict for itself, a client fine-tunes after the last
    round; without that, its accuracy is that of the random head.

    Args:
      layers: of the model; the classifier is the head.
      head_only: whether fine-tuning leaves the body alone; else all moves.

    Returns:
      A :class:`Strategy` without state.

    Raises:
      ValueError: for layers without a classifier.

    References:
      Oh et al., "FedBABU: Toward Enhanced Representation for Federated Image Classification", arXiv
      2106.06042.

    Example:
      >>> from lipsjax import models
      >>> model = models.build("cnn", num_classes=10, image_shape=(8, 8, 1))
      >>> fedbabu(layers=model.layers).is_shared("params/classifier/bias")
      False
    """
    head = is_head(layers)

    def traffic(variables: Variables, rounds: int):
        up, down = fedavg().traffic(variables, rounds)
        fixed = BITS * tree.size(tree.pick(variables, head))
        return Traffic(up - fixed, down - fixed)

    return fedavg()._replace(
        optimizer=lambda base, received: freeze(base, lambda path: not head(path)),
        adapt=(lambda base, received: freeze(base, head)) if head_only else fedavg().adapt,
        traffic=traffic,
        is_shared=lambda path: not head(path),
    )
