"""What an attacker at the server takes a client's message for."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.strategies.delta import Delta, shared_params
from lipsjax.strategy import Rank, RunContext, Strategy
from lipsjax.types import Array, PyTree, Variables


class Seen(NamedTuple):
    """One client's message, as an attacker reads it."""

    start: Variables  # what the client began its training from, as the attacker believes
    delta: Delta  # what training then added to each shared parameter
    matched: dict[str, Array]  # bool, which of these values the attacker trusts


def unaware(strategy: Strategy, run: RunContext, global_model: Variables, message: PyTree) -> Seen:
    """Read a message as one of a client that got the global model whole and sent its update whole.

    Args:
      strategy: what clients send.
      run: static.
      global_model: that went out.
      message: of one client.
    """
    return _whole(global_model, revealed(strategy, run, global_model, global_model, message))


def _whole(start: Variables, delta: Delta) -> Seen:
    return Seen(start, delta, jax.tree.map(lambda d: jnp.ones(d.shape, bool), delta))


def aware(
    strategy: Strategy, run: RunContext, global_model: Variables, start: Variables, message: PyTree
) -> Seen:
    """Read a message by the rules of the defence: from the masked model, and only what was sent.

    Where updates are compressed, a value that did not move at all was not sent, as by top-k.

    Args:
      strategy: what clients send.
      run: static.
      global_model: that went out.
      start: what the client began from, known or guessed (:func:`nearest_start`).
      message: of one client.
    """
    delta = revealed(strategy, run, global_model, start, message)
    if Rank.ENCODE not in strategy.wrappers:
        return _whole(start, delta)
    return Seen(start, delta, jax.tree.map(lambda d: d != 0, delta))


def nearest_start(
    strategy: Strategy, run: RunContext, global_model: Variables, message: PyTree
) -> Variables:
    """Guess which weights a client had masked: those that end nearer to zero than to what went out.

    It is for masks that clients choose themselves and never send.

    Args:
      strategy: with a sparsifier.
      run: static.
      global_model: that went out.
      message: of one client.

    Returns:
      The global model with the guessed weights of the masked layers set to zero.
    """
    assert strategy.sparsifier is not None
    layers = strategy.sparsifier(run).layers
    delta = revealed(strategy, run, global_model, global_model, message)
    kernels = tree.kernels(global_model.params, layers)
    paths = ["/".join(("params", *layer.path)) for layer in layers]
    guessed = tuple(
        jnp.where(jnp.abs(w + delta[path]) < jnp.abs(delta[path]), 0, w) if path in delta else w
        for path, w in zip(paths, kernels, strict=True)
    )
    return global_model._replace(params=tree.with_kernels(global_model.params, layers, guessed))


def revealed(
    strategy: Strategy, run: RunContext, global_model: Variables, start: Variables, message: PyTree
) -> Delta:
    """Return what a message says that training added to each shared parameter.

    Args:
      strategy: what clients send; its own ``reveals`` reads its messages, or they hold a model.
      run: static.
      global_model: that went out.
      start: what training began from.
      message: of one client.

    Raises:
      ValueError: if it reveals nothing.
    """
    shared = shared_params(strategy, run, start)
    if not shared:
        raise ValueError(f"{strategy.name} sends nothing, so nothing can be attacked")
    if strategy.reveals is not None:
        said = strategy.reveals(run, global_model, start, message)
        return {path: said[path] for path in shared}
    (model, *_) = (x for x in jax.tree.leaves(message, is_leaf=_is_model) if _is_model(x))
    return tree.subtract(shared_params(strategy, run, model), shared)


def _is_model(x: PyTree) -> bool:
    return isinstance(x, Variables)
