"""FedRep: every client fits its own head to the shared representation, then the representation."""

import jax.numpy as jnp

from lipsjax.strategies.fedper import fedper
from lipsjax.strategies.layerwise import freeze, in_turn, is_head
from lipsjax.strategy import Rank, RunContext, Strategy


def fedrep(*, head_epochs: float | None = None) -> Strategy:
    """Train the head first, with the body fixed; then the body, with the head fixed.

    With body b and head h, client k takes the steps of its first ``head_epochs`` epochs along
    ``grad_h f_k(b_t, h)``, and all others along ``grad_b f_k(b, h_k)``; the server averages b by
    examples. The classifier is the head. Each part has its own momentum.

    Args:
      head_epochs: of the local epochs for the head, the paper's many updates of the head for each
        of the body; None: all but one. May be a fraction.

    Returns:
      A :class:`Strategy` whose client state is the head; clients fine-tune the head alone.

    Raises:
      ValueError: when a simulation is built, for a model without a classifier, or head_epochs that
        leave a part no epoch.

    References:
      Collins et al., "Exploiting Shared Representations for Personalized Federated Learning", arXiv
      2102.07078.

    Example:
      >>> import optax
      >>> from lipsjax.local import LocalTraining
      >>> training = LocalTraining(optax.sgd(0.1), epochs=1, batch_size=5)
      >>> fedrep().check(RunContext(rounds=1, num_examples=(5,), training=training))
      Traceback (most recent call last):
      ValueError: head_epochs must be above 0 and below the 1 local epochs, not 0
    """

    def first(run: RunContext) -> float:
        epochs = run.training.epochs
        chosen = epochs - 1 if head_epochs is None else head_epochs
        if not 0 < chosen < epochs:
            raise ValueError(
                f"head_epochs must be above 0 and below the {epochs} local epochs, not {chosen}"
            )
        return chosen

    def check(run: RunContext) -> None:
        first(run)

    def optimizer(base, context):
        switch = jnp.round(first(context.run) * context.epoch_steps).astype(jnp.int32)
        return in_turn(base, is_head(context.run.layers), switch)

    hold = "head and body have optimizers of their own, whose moments masks cannot find"
    return fedper()._replace(
        name="fedrep",
        check=check,
        optimizer=optimizer,
        finetune_optimizer=lambda base, context: freeze(base, is_head(context.run.layers)),
        refuses={Rank.HOLD: hold},
    )
