"""Compressed updates around any strategy, with exact bit counts."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax import tree
from lipsjax.sparsity.topk import topk_mask
from lipsjax.strategies.delta import (
    Delta,
    delta_of,
    shared_params,
    shared_statistics,
    where_held,
    with_delta,
)
from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import (
    BITS,
    ClientContext,
    Rank,
    RunContext,
    ServerContext,
    Strategy,
    Traffic,
    nest,
    uniform,
    wrapped,
)
from lipsjax.types import Array, PyTree, Variables

USUAL_FRACTION = 0.01
"""Of values that top_k sends."""


class Codec(NamedTuple):
    """What becomes of a delta on its way: encoded and decoded at once."""

    apply: Callable[[Array, Delta, Array | int], Delta]
    """(key, delta, how many values the client sends) -> what the server makes of it."""
    values: Callable[[np.ndarray], np.ndarray]
    """Values that each client holds, int64 [K] -> how many of them it sends."""
    bits: Callable[[np.ndarray, int], np.ndarray]
    """(values that each client holds, int64 [K], leaves) -> bits of a message of each."""
    feedback: bool  # whether clients add what was lost to their next delta
    per_value: int  # bits of one value more; 0 if the message does not grow with them


def top_k(*, fraction: float | Sequence[float] = USUAL_FRACTION) -> Codec:
    """Send the largest values of a delta, and where they are; keep the rest for next time.

    Of the P values that a client holds, ``k = max(1, floor(fraction P))`` of the largest size are
    sent, ties by index, as 32 bits and an index of ``ceil(log2 P)`` bits each.

    Args:
      fraction: of the values, in (0, 1]; of several, client k takes number k, and they are dealt
        out in turn.

    Raises:
      ValueError: for a fraction out of range.

    References:
      Stich et al., "Sparsified SGD with Memory", arXiv 1809.07599.

    Example:
      >>> codec = top_k(fraction=0.5)
      >>> delta = {"a": jnp.array([1.0, -3.0]), "b": jnp.array([2.0, 0.5])}
      >>> [x.tolist() for x in codec.apply(jax.random.key(0), delta, 2).values()]
      [[0.0, -3.0], [2.0, 0.0]]
      >>> held = np.array([4])
      >>> codec.values(held).tolist(), codec.bits(held, 2).tolist()  # of 32 bits, indices of 2 bits
      ([2], [68])
    """
    fractions = np.atleast_1d(np.asarray(fraction, np.float64))
    for each in fractions.tolist():
        if not 0 < each <= 1:
            raise ValueError(f"fraction must be in (0, 1], not {each:g}")
    if not len(fractions):
        raise ValueError("fraction must be a number, or one and more, not none")

    def apply(key, delta, count):
        del key
        flat = jnp.concatenate([x.ravel() for x in delta.values()])
        sent = jnp.where(topk_mask(jnp.abs(flat), count), flat, 0)
        ends = np.cumsum([x.size for x in delta.values()])[:-1]
        parts = zip(delta.items(), jnp.split(sent, ends), strict=True)
        return {path: part.reshape(x.shape) for (path, x), part in parts}

    def values(held):
        return np.maximum(1, np.floor(np.resize(fractions, len(held)) * held)).astype(np.int64)

    def bits(held, leaves):
        del leaves
        return values(held) * (BITS + np.ceil(np.log2(held)).astype(np.int64))

    return Codec(apply, values, bits, feedback=True, per_value=0)


def quantise(*, levels: int = 255) -> Codec:
    """Round every value up or down at random, to a multiple of its leaf's norm over the levels.

    With ``r = levels |v_i| / ||v||``, v_i becomes ``sign(v_i) ||v|| / levels`` times floor(r), or
    one more with probability ``r - floor(r)``: right on average. A value takes its sign and
    ``ceil(log2(levels + 1))`` bits, a leaf 32 bits for its norm.

    Args:
      levels: at least 1; the paper's s.

    Raises:
      ValueError: for levels below 1.

    References:
      Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding",
      arXiv 1610.02132, without its Elias coding.

    Example:
      >>> codec = quantise(levels=1)
      >>> sent = codec.apply(jax.random.key(0), {"a": jnp.array([0.6, -0.8])}, 2)["a"]
      >>> sorted(set(jnp.abs(sent).tolist()) | {0.0, 1.0})
      [0.0, 1.0]
      >>> codec.bits(np.array([2]), 1).tolist()
      [36]
    """
    if levels != int(levels) or levels < 1:
        raise ValueError(f"levels must be a whole number, at least 1, not {levels}")

    def apply(key, delta, count):
        del count

        def one(key, v):
            size = jnp.linalg.norm(v.ravel())
            ratio = jnp.where(size > 0, levels * jnp.abs(v) / jnp.where(size > 0, size, 1), 0)
            draw = jax.random.uniform(key, v.shape, jnp.float32).astype(v.dtype)
            up = draw < ratio - jnp.floor(ratio)
            return jnp.sign(v) * size / levels * (jnp.floor(ratio) + up)

        keys = jax.random.split(key, len(delta))
        return {path: one(k, v) for k, (path, v) in zip(keys, delta.items(), strict=True)}

    per_value = 1 + math.ceil(math.log2(levels + 1))

    def bits(held, leaves):
        return held * per_value + BITS * leaves

    return Codec(apply, lambda held: held, bits, feedback=False, per_value=per_value)


def compress(strategy: Strategy, codec: Codec) -> Strategy:
    """Compress what clients send of any strategy.

    Client k, whose training changed parameters by d_k, sends ``C(d_k + e_k)``, and behaves, as does
    the server, as if its training had ended at what it received plus that. With feedback,
    ``e_k <- d_k + e_k - C(d_k + e_k)``, which begins as 0; else e_k is 0. What a strategy's message
    holds beside the model, such as a change of control variates, follows from the delta and is not
    sent. Running statistics go whole; nothing is compressed on its way down. Of a weight that a
    client does not hold in a round, nothing is sent and nothing is kept for next time.

    Args:
      strategy: any whose updates can be encoded.
      codec: of this module.

    Returns:
      A :class:`Strategy`; with feedback, its client state has P values more.

    Raises:
      ValueError: if it cannot wrap the strategy.

    Example:
      >>> from lipsjax.strategy import fedavg
      >>> run, shapes = RunContext(rounds=1, num_examples=(5,)), Variables({"w": jnp.zeros(64)}, {})
      >>> strategy = compress(fedavg(), top_k(fraction=0.5))
      >>> strategy.traffic(run, shapes).up.tolist()  # 32 x (32 + 6)
      [1216]
    """
    strategy = wrapped(strategy, "compress")

    def nothing_lost(run: RunContext, initial: Variables):
        return jax.tree.map(jnp.zeros_like, shared_params(strategy, run, initial))

    inner = nest(strategy, init_client=nothing_lost if codec.feedback else None)

    def held(run: RunContext, variables: Variables, *, statistics: bool) -> np.ndarray:
        """Return how many shared parameters, or statistics, each client holds, [K]."""
        shared = shared_statistics if statistics else shared_params
        leaves = shared(strategy, run, variables)
        lacks = strategy.unheld(run, variables)
        whole = np.full(run.num_clients, tree.size(leaves), np.int64)
        return whole - sum(lacks[path] for path in leaves.keys() & lacks.keys())

    def sent_by(context: ClientContext) -> Array:
        counts = codec.values(held(context.run, context.variables, statistics=False))
        return jnp.asarray(counts, jnp.int32)[context.client_id % len(counts)]

    def encode(context: ClientContext, result):
        result, state = inner.encode(context, result)
        delta = delta_of(strategy, context, result)
        if not codec.feedback:
            sent = codec.apply(context.key, delta, sent_by(context))
            return with_delta(context, result, sent), state
        wished = where_held(strategy, context, jax.tree.map(jnp.add, delta, state.outer))
        sent = codec.apply(context.key, wished, sent_by(context))
        return with_delta(context, result, sent), state._replace(outer=tree.subtract(wished, sent))

    def traffic(run: RunContext, variables: Variables):
        down = strategy.traffic(run, variables).down
        leaves = len(shared_params(strategy, run, variables))
        up = codec.bits(held(run, variables, statistics=False), leaves)
        up = up + BITS * held(run, variables, statistics=True)
        if (up == up[0]).all():
            return Traffic(np.full(run.rounds, up[0], np.int64), down, codec.per_value)
        return Traffic(np.tile(up, (run.rounds, 1)), down, codec.per_value)

    return inner._replace(
        encode=encode,
        traffic=traffic,
        relative=True,
        refuses={**strategy.refuses, Rank.VOTE: "what it sends is encoded already"},
    )


class Ballot(NamedTuple):
    """What a client sends where parameters are voted on."""

    message: PyTree  # of the strategy, whose running statistics are averaged
    votes: Delta  # 1 or -1 for each shared parameter


def sign_majority(strategy: Strategy, *, step: float = 0.001) -> Strategy:
    """Let every client vote on the direction of each parameter, in one bit.

    Client k sends the signs of what its training changed, 0 as +; the server takes
    ``w + step sign(sum_k sign(d_k))`` for the clients' mean, and the strategy goes on from there: a
    tie moves nothing. Clients count the same; running statistics go whole and are averaged.

    Args:
      strategy: one whose messages are models, as those of FedAvg, FedProx, MOON, FedOpt.
      step: how far a parameter goes in a round.

    Returns:
      A :class:`Strategy` whose clients send a bit per shared parameter.

    Raises:
      ValueError: if it cannot wrap the strategy, as where messages are more than models.

    References:
      Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", arXiv
      1802.04434, with a round's delta in place of a gradient.

    Example:
      >>> from lipsjax.strategy import fedavg
      >>> context = ServerContext(
      ...     RunContext(rounds=1, num_examples=(5,)), Variables({"w": jnp.zeros(2)}, {}))
      >>> mean = Ballot(context.global_model, {"params/w": jnp.array([1 / 3, -1.0])})
      >>> sign_majority(fedavg(), step=0.5).update(context, mean)[0].params["w"].tolist()
      [0.5, -0.5]
    """
    strategy = wrapped(strategy, "sign_majority")
    check_positive(step=step)

    def send(context: ClientContext, result):
        delta = delta_of(strategy, context, result)
        votes = jax.tree.map(lambda d: jnp.where(d < 0, -1.0, 1.0).astype(d.dtype), delta)
        message, state = strategy.send(context, result)
        return Ballot(message, votes), state

    def update(context: ServerContext, mean: Ballot):
        old = tree.pick(context.global_model, mean.votes.__contains__)
        new = jax.tree.map(lambda w, v: w + step * jnp.sign(v), old, mean.votes)
        return strategy.update(context, tree.put(mean.message, new))

    def traffic(run: RunContext, variables: Variables):
        plain = strategy.traffic(run, variables)
        values = tree.size(shared_params(strategy, run, variables))
        return plain._replace(up=plain.up - (BITS - 1) * values, per_value=1)

    return strategy._replace(
        send=send,
        update=update,
        reveals=lambda run, model, start, message: message.votes,
        weight=uniform,
        traffic=traffic,
        refuses={
            **strategy.refuses,
            Rank.CLIP: "every vote is as long as any other",
            Rank.PRIVATE: "votes are no sum of models; leave the compression out",
        },
    )
