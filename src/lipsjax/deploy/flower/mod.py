"""Transient sparsity (LIPS) at a Flower client: a mod that needs NumPy and Flower alone.

This file and ``masks.py`` stand by themselves, so that a site can copy them and read what it runs.
The mod zeroes part of the arrays that a training message brings, by the density that the server's
config says, and changes nothing that is sent. What decides is this node's own: the gradient of the
last mini-batch of its last training, which the training function hands over and which stays in
``Context.state``::

    app = ClientApp(mods=[lips])
    ...
    keep_gradient(context, {n: p.grad.numpy() for n, p in model.named_parameters()})

Method: arXiv 2506.00932. Written for flwr 1.40 to 1.42.
"""

import copy
import logging
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from .masks import CRITERIA, mask, mask_of_torch

GRADIENT = "lips.gradient"  # in Context.state: of the last mini-batch, of masked arrays
RECORD = "lips.record"  # in Context.state: rounds that began masked, and those that could not
log = logging.getLogger("flwr")


def keep_gradient(context: Context, gradient) -> None:
    """Hand over the gradient of the last mini-batch: name of an array -> its gradient.

    The training function calls it once, when it is done. The values stay at this node.
    """
    arrays = {name: Array(np.asarray(value)) for name, value in gradient.items()}
    context.state[GRADIENT] = ArrayRecord(arrays)


def lips(message: Message, context: Context, call_next) -> Message:
    """Zero part of the model that a training message brings; else leave everything as it is."""
    said: list[Any] = [c for c in message.content.config_records.values() if "lips-density" in c]
    if message.metadata.message_type.partition(".")[0] != "train" or not said:
        return call_next(message, context)
    density, criterion = float(said[0]["lips-density"]), said[0]["lips-criterion"]
    masked = said[0]["lips-masked"].split(",")
    if criterion not in CRITERIA:
        raise ValueError(f"lips: criterion must be {' or '.join(CRITERIA)}, not {criterion!r}")
    gradient = context.state.pop(GRADIENT, None)  # so that it is seen whether one is handed over
    try:
        if density < 1:
            thin = criterion == "magnitude" or set(masked) <= set(gradient or ())
            if thin:
                of_torch = bool(said[0].get("lips-torch-layout", False))
                message = thinned(message, gradient, criterion, masked, density, of_torch)
            note(context, said[0].get("server-round", 0), thin)
        reply = call_next(message, context)
        if criterion == "saliency" and not reply.has_error():
            check_handed_over(context, masked)
    finally:  # what failed leaves what there was
        if gradient is not None:
            context.state.setdefault(GRADIENT, gradient)
    return reply


def thinned(message, gradient, criterion: str, masked: list, density: float, of_torch: bool):
    """Return a message with masked arrays; the one that came may be that of all nodes."""
    kept_of = mask_of_torch if of_torch else mask
    ((key, arrays),) = message.content.array_records.items()
    made = dict(arrays)
    for name in masked:
        if name not in arrays:
            raise ValueError(f"lips: no array {name!r} to mask; there are {', '.join(arrays)}")
        weights = arrays[name].numpy()
        own = None if criterion == "magnitude" else gradient[name].numpy()
        keep = kept_of(weights, own, density, name)
        made[name] = Array(np.where(keep, weights, np.zeros_like(weights)))
    message = copy.copy(message)
    message.content = RecordDict({**message.content, key: ArrayRecord(made)})
    return message


def check_handed_over(context: Context, masked: list) -> None:
    """Keep the gradient of masked arrays alone; refuse a training that handed none over."""
    given = context.state.get(GRADIENT, {})
    lacking = [name for name in masked if name not in given]
    if lacking:
        raise ValueError(
            f"lips: criterion saliency needs the gradient of {lacking[0]!r}, and the training "
            "function handed none over: call keep_gradient(context, ...) at its end"
        )
    context.state[GRADIENT] = ArrayRecord({name: given[name] for name in masked})


def note(context: Context, server_round: int, thin: bool) -> None:
    """Record whether a round that should begin masked did; nothing of it is sent."""
    record: Any = context.state.setdefault(RECORD, MetricRecord({"masked": [], "whole": []}))
    record["masked" if thin else "whole"] += [int(server_round)]
    if not thin:
        log.warning("lips: round %s begins whole, as no gradient is kept here", server_round)
