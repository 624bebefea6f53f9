"""Simulated faulty clients, to test what withstands them."""

import jax
import jax.numpy as jnp

from lipsjax.strategies.delta import as_if_moved, movement
from lipsjax.strategy import Companion, Strategy, fits
from lipsjax.types import LossFn, Received

KINDS = ("label_flip", "noise", "sign_flip")


def faulty(
    strategy: Strategy, *, clients: int, kind: str, num_classes: int, scale: float = 1.0
) -> Strategy:
    """Let the first clients of a simulation go wrong, in every round.

    With M faulty clients, client k < M

    - "label_flip": trains on labels ``classes - 1 - y`` (its test set stays right, and what it
      fine-tunes on after the last round);
    - "noise": sends its movement with normal noise of deviation ``scale`` on every entry;
    - "sign_flip": sends ``-scale`` times its movement.

    Which clients these are says nothing where a partition draws them alike.

    Args:
      strategy: any without a ``downlink``; what makes it robust goes around this.
      clients: M.
      kind: as above.
      num_classes: of the data set.
      scale: of noise and of flipped movements.

    Returns:
      A :class:`Strategy`.

    Raises:
      ValueError: for a value out of range, or a strategy with a ``downlink``.

    References:
      Fang et al., "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", arXiv
      1911.11815; Li et al., "RSA", arXiv 1811.03761, for flipped signs.

    Example:
      >>> from lipsjax.strategies import fedavg
      >>> faulty(fedavg(), clients=1, kind="tired", num_classes=2)
      Traceback (most recent call last):
      ValueError: kind must be one of label_flip, noise, sign_flip, not 'tired'
    """
    fits(strategy, "faulty")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if clients < 0:
        raise ValueError(f"clients must be at least 0, not {clients}")
    if scale < 0:
        raise ValueError(f"scale must be at least 0, not {scale}")

    def on_flipped(loss_fn: LossFn, received: Received) -> LossFn:
        def loss(params, norm, images, labels, mask):
            flipped = jnp.where(received.client_id < clients, num_classes - 1 - labels, labels)
            return loss_fn(params, norm, images, flipped, mask)

        return loss

    def send(received, result):
        moved = movement(strategy, received, result)
        if kind == "sign_flip":
            wrong = jax.tree.map(lambda d: -scale * d, moved)
        else:
            # a codec inside draws from the same key
            keys = jax.random.split(jax.random.fold_in(received.key, 1), len(moved))
            wrong = {
                path: d + scale * jax.random.normal(key, d.shape, jnp.float32).astype(d.dtype)
                for key, (path, d) in zip(keys, moved.items(), strict=True)
            }
        sent = jax.tree.map(
            lambda w, d: jnp.where(received.client_id < clients, w, d), wrong, moved
        )
        return strategy.send(received, as_if_moved(received, result, sent))

    if kind == "label_flip":
        companion = strategy.companion
        if companion is not None:
            start, second_loss = companion
            companion = Companion(start, lambda f, r: on_flipped(second_loss(f, r), r))
        return strategy._replace(
            loss=lambda f, r: on_flipped(strategy.loss(f, r), r), companion=companion
        )
    return strategy._replace(send=send)
