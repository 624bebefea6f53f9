"""Compressed updates around any strategy, with exact bit counts."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax import tree
from lipsjax.sparsity.topk import topk_mask
from lipsjax.strategies.delta import Movement, as_if_moved, movement
from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import BITS, Strategy, Traffic, alike, fits, seeing
from lipsjax.types import Array, Received, Variables


class Codec(NamedTuple):
    """What becomes of a movement on its way: coded and decoded at once."""

    apply: Callable[[Array, Movement], Movement]  # (key, movement) -> what the server makes of it
    bits: Callable[[list[int]], int]  # sizes of the leaves -> bits of one message
    feedback: bool  # whether clients add what was lost to their next movement


def top_k(*, fraction: float = 0.01) -> Codec:
    """Send the largest values of a movement, and where they are; keep the rest for next time.

    Of P values, ``k = max(1, floor(fraction P))`` of the largest size are sent, ties by index, as
    32 bits and an index of ``ceil(log2 P)`` bits each.

    Args:
      fraction: of the values, in (0, 1].

    Raises:
      ValueError: for a fraction out of range.

    References:
      Stich et al., "Sparsified SGD with Memory", arXiv 1809.07599.

    Example:
      >>> codec = top_k(fraction=0.5)
      >>> moved = {"a": jnp.array([1.0, -3.0]), "b": jnp.array([2.0, 0.5])}
      >>> [x.tolist() for x in codec.apply(jax.random.key(0), moved).values()]
      [[0.0, -3.0], [2.0, 0.0]]
      >>> codec.bits([2, 2])  # two values of 32 bits, two indices of 2 bits
      68
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], not {fraction}")

    def kept(size: int) -> int:
        return max(1, math.floor(fraction * size))

    def apply(key, moved):
        del key
        flat = jnp.concatenate([x.ravel() for x in moved.values()])
        sent = jnp.where(topk_mask(jnp.abs(flat), kept(flat.size)), flat, 0)
        ends = np.cumsum([x.size for x in moved.values()])[:-1]
        parts = zip(moved.items(), jnp.split(sent, ends), strict=True)
        return {path: part.reshape(x.shape) for (path, x), part in parts}

    def bits(sizes):
        total = sum(sizes)
        return kept(total) * (BITS + math.ceil(math.log2(total)))

    return Codec(apply, bits, feedback=True)


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
      >>> sent = codec.apply(jax.random.key(0), {"a": jnp.array([0.6, -0.8])})["a"]
      >>> sorted(set(jnp.abs(sent).tolist()) | {0.0, 1.0})
      [0.0, 1.0]
      >>> codec.bits([2])
      36
    """
    if levels != int(levels) or levels < 1:
        raise ValueError(f"levels must be a whole number, at least 1, not {levels}")

    def apply(key, moved):
        def one(key, v):
            size = jnp.linalg.norm(v.ravel())
            ratio = jnp.where(size > 0, levels * jnp.abs(v) / jnp.where(size > 0, size, 1), 0)
            draw = jax.random.uniform(key, v.shape, jnp.float32).astype(v.dtype)
            up = draw < ratio - jnp.floor(ratio)
            return jnp.sign(v) * size / levels * (jnp.floor(ratio) + up)

        keys = jax.random.split(key, len(moved))
        return {path: one(k, v) for k, (path, v) in zip(keys, moved.items(), strict=True)}

    def bits(sizes):
        return sum(sizes) * (1 + math.ceil(math.log2(levels + 1))) + BITS * len(sizes)

    return Codec(apply, bits, feedback=False)


def compress(strategy: Strategy, codec: Codec) -> Strategy:
    """Compress what clients send of any strategy.

    Client k with movement d_k sends ``C(d_k + e_k)``, and behaves, as does the server, as if its
    training had ended at what it received plus that. With feedback, ``e_k <- d_k + e_k - C(d_k +
    e_k)``, which begins as 0; else e_k is 0. What a strategy's message holds beside the model, such
    as a change of control variates, follows from the movement and is not sent. Running statistics
    go whole; nothing is compressed on its way down.

    Args:
      strategy: any without a ``downlink``.
      codec: of this module.

    Returns:
      A :class:`Strategy`; with feedback, its client state has P values more.

    Raises:
      ValueError: if the strategy refuses it, or has a ``downlink``.

    Example:
      >>> from lipsjax.strategies import fedavg
      >>> shapes = Variables({"w": jnp.zeros(64)}, {})
      >>> compress(fedavg(), top_k(fraction=0.5)).traffic(shapes, 1).up.tolist()  # 32 x (32 + 6)
      [1216]
    """
    fits(strategy, "compress")

    def inner(received: Received) -> Received:
        return received._replace(client=received.client[1])

    def init_client(initial: Variables):
        lost = jax.tree.map(jnp.zeros_like, tree.pick(initial, sends)) if codec.feedback else {}
        return lost, strategy.init_client(initial)

    def sends(path: str) -> bool:
        return path.startswith("params/") and strategy.is_shared(path)

    def send(received, result):
        lost, _ = received.client
        moved = movement(strategy, received, result)
        wished = jax.tree.map(jnp.add, moved, lost) if codec.feedback else moved
        sent = codec.apply(received.key, wished)
        lost = tree.subtract(wished, sent) if codec.feedback else {}
        message, state = strategy.send(inner(received), as_if_moved(received, result, sent))
        return message, (lost, state)

    def traffic(variables: Variables, rounds: int):
        down = strategy.traffic(variables, rounds).down
        sizes = [x.size for x in tree.pick(variables, sends).values()]
        statistics = tree.size(
            tree.pick(variables, lambda p: p.startswith("norm/") and strategy.is_shared(p))
        )
        up = codec.bits(sizes) + BITS * statistics
        return Traffic(np.full(rounds, up, np.int64), down)

    return seeing(strategy, inner)._replace(
        init_client=init_client,
        receive=lambda server, client, average, delivery: strategy.receive(
            server, client[1], average, delivery
        ),
        send=send,
        deploy=lambda variables, client: strategy.deploy(variables, client[1]),
        traffic=traffic,
        relative=True,
        refuses={
            **strategy.refuses,
            "compress": "what it sends is compressed already",
            "keep_local": "it goes inside, so that personal leaves are not compressed",
            "ditto": "it goes inside, so that the shared model alone is compressed",
        },
    )


def sign_majority(strategy: Strategy, *, step: float = 0.001) -> Strategy:
    """Let every client vote on the direction of each parameter, in one bit.

    Client k sends the signs of its movement, 0 as +; the server takes
    ``w + step sign(sum_k sign(d_k))`` for the clients' mean, and the strategy goes on from there: a
    tie moves nothing. Clients count the same; running statistics go whole and are averaged.

    Args:
      strategy: one whose messages are models, as those of FedAvg, FedProx, MOON, FedOpt.
      step: how far a parameter goes in a round.

    Returns:
      A :class:`Strategy` whose clients send a bit per shared parameter.

    Raises:
      ValueError: if the strategy's messages are more than models, or it has a ``downlink``.

    References:
      Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", arXiv
      1802.04434, with a round's movement in place of a gradient.

    Example:
      >>> from lipsjax.strategies import fedavg
      >>> strategy = sign_majority(fedavg(), step=0.5)
      >>> average = Variables({"w": jnp.zeros(2)}, {})
      >>> mean = average, {"params/w": jnp.array([1 / 3, -1.0])}  # of models, of votes
      >>> strategy.update((), average, mean)[0].params["w"].tolist()
      [0.5, -0.5]
    """
    fits(strategy, "sign_majority")
    check_positive(step=step)

    def send(received, result):
        moved = movement(strategy, received, result)
        votes = jax.tree.map(lambda d: jnp.where(d < 0, -1.0, 1.0).astype(d.dtype), moved)
        message, state = strategy.send(received, result)
        return (message, votes), state

    def update(server, average, mean):
        model, votes = mean
        old = tree.pick(average, votes.__contains__)
        new = jax.tree.map(lambda w, v: w + step * jnp.sign(v), old, votes)
        return strategy.update(server, average, tree.put(model, new))

    def traffic(variables: Variables, rounds: int):
        up, down = strategy.traffic(variables, rounds)
        values = tree.pick(variables, lambda p: p.startswith("params/") and strategy.is_shared(p))
        return Traffic(up - (BITS - 1) * tree.size(values), down)

    reason = "its messages are votes"
    return strategy._replace(
        send=send,
        update=update,
        weight=alike,
        traffic=traffic,
        refuses={
            **strategy.refuses,
            **dict.fromkeys(("compress", "sign_majority", "keep_local", "ditto"), reason),
        },
    )
