"""FedBABU: the body learns under a classifier that nobody trains."""

from lipsjax import tree
from lipsjax.strategies.layerwise import freeze, is_head
from lipsjax.strategy import BITS, RunContext, Strategy, fedavg
from lipsjax.types import Variables


def fedbabu(*, head_only: bool = False) -> Strategy:
    """Train and average the body alone; the classifier stays as drawn until clients fine-tune.

    With body b and initial head h_0, which is the classifier: client k takes steps along
    ``grad_b f_k(b, h_0)``; ``b_{t+1} = sum_k (n_k / n) b_k``. To predict for itself, a client
    fine-tunes after the last round; without that, its accuracy is that of the random head.

    Args:
      head_only: whether fine-tuning leaves the body alone; else all moves.

    Returns:
      A :class:`Strategy` without state.

    Raises:
      ValueError: when a simulation is built, for a model without a classifier.

    References:
      Oh et al., "FedBABU: Toward Enhanced Representation for Federated Image Classification", arXiv
      2106.06042.

    Example:
      >>> from lipsjax import models
      >>> model = models.build("cnn", num_classes=10, input_shape=(8, 8, 1))
      >>> run = RunContext(rounds=1, num_examples=(1,), layers=model.layers)
      >>> fedbabu().is_shared(run, "params/classifier/bias")
      False
    """
    average = fedavg()

    def head(run: RunContext):
        return is_head(run.layers)

    def check(run: RunContext) -> None:
        head(run)

    def optimizer(base, context):
        is_fixed = head(context.run)
        return freeze(base, lambda path: not is_fixed(path))

    def finetune_optimizer(base, context):
        return freeze(base, head(context.run)) if head_only else base

    def traffic(run: RunContext, variables: Variables):
        fixed = BITS * tree.size(tree.pick(variables, head(run)))
        return average.traffic(run, variables).without(fixed)

    return average._replace(
        name="fedbabu",
        check=check,
        optimizer=optimizer,
        finetune_optimizer=finetune_optimizer,
        traffic=traffic,
        is_shared=lambda run, path: not head(run)(path),
    )
