"""Simulated faulty clients, to test what withstands them."""

import jax
import jax.numpy as jnp

from lipsjax.strategies.delta import delta_of, with_delta
from lipsjax.strategy import ClientContext, PersonalModel, Strategy, wrapped
from lipsjax.types import LossFn

KINDS = ("label_flip", "noise", "sign_flip", "nan")


def faulty(
    strategy: Strategy, *, clients: int, kind: str, num_classes: int, scale: float = 1.0
) -> Strategy:
    """Let the first clients of a simulation go wrong, in every round.

    With M faulty clients, client k < M

    - "label_flip": trains on labels ``classes - 1 - y`` (its test set stays right, and what it
      fine-tunes on after the last round);
    - "noise": adds normal noise of deviation ``scale`` to every entry of its delta;
    - "sign_flip": turns its delta into ``-scale`` times itself;
    - "nan": sends what is not a number, as a client that diverged.

    The fault falsifies what training changed before it is encoded: votes and codecs see it, and
    what the server clips is the falsified delta.

    Which clients these are says nothing where a partition draws them alike.

    Args:
      strategy: any that federates; encodings, and what makes it robust, go around this.
      clients: M.
      kind: as above.
      num_classes: of the data set.
      scale: of noise and of flipped deltas.

    Returns:
      A :class:`Strategy`.

    Raises:
      ValueError: for a value out of range, or if it cannot wrap the strategy.

    References:
      Fang et al., "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", arXiv
      1911.11815; Li et al., "RSA", arXiv 1811.03761, for flipped signs.

    Example:
      >>> from lipsjax.strategies import fedavg
      >>> faulty(fedavg(), clients=1, kind="tired", num_classes=2)
      Traceback (most recent call last):
      ValueError: kind must be one of label_flip, noise, sign_flip, nan, not 'tired'
    """
    strategy = wrapped(strategy, "faulty")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if clients < 0:
        raise ValueError(f"clients must be at least 0, not {clients}")
    if scale < 0:
        raise ValueError(f"scale must be at least 0, not {scale}")

    def on_flipped(loss_fn: LossFn, context: ClientContext) -> LossFn:
        def loss(params, batch_stats, images, labels, mask):
            flipped = jnp.where(context.client_id < clients, num_classes - 1 - labels, labels)
            return loss_fn(params, batch_stats, images, flipped, mask)

        return loss

    def encode(context: ClientContext, result):
        result, state = strategy.encode(context, result)
        delta = delta_of(strategy, context, result)
        if kind == "sign_flip":
            wrong = jax.tree.map(lambda d: -scale * d, delta)
        elif kind == "nan":
            wrong = jax.tree.map(lambda d: jnp.full_like(d, jnp.nan), delta)
        else:
            # a codec draws from the same key
            keys = jax.random.split(jax.random.fold_in(context.key, 1), len(delta))
            wrong = {
                path: d + scale * jax.random.normal(key, d.shape, jnp.float32).astype(d.dtype)
                for key, (path, d) in zip(keys, delta.items(), strict=True)
            }
        sent = jax.tree.map(lambda w, d: jnp.where(context.client_id < clients, w, d), wrong, delta)
        return with_delta(context, result, sent), state

    if kind != "label_flip":
        return strategy._replace(encode=encode)
    personal = strategy.personal_model
    if personal is not None:
        start, second_loss = personal
        personal = PersonalModel(start, lambda f, c: on_flipped(second_loss(f, c), c))
    return strategy._replace(
        loss=lambda f, c: on_flipped(strategy.loss(f, c), c), personal_model=personal
    )
