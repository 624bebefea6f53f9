"""Secure aggregation: the server learns a sum of integers, and none of its terms."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax import tree
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.privacy.integers import capacity, from_integers, to_integers
from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import (
    BITS,
    ClientContext,
    Rank,
    RunContext,
    ServerContext,
    Strategy,
    Traffic,
    uniform,
    wrapped,
)
from lipsjax.types import Array, PyTree, Variables

KEY_BITS = 256
"""Of a public key, of a seed, and of a share of either."""
CIPHER_BITS = 128
"""That an encrypted message is longer than what it holds: its tag."""


class Hidden(NamedTuple):
    """What a client adds to the sum; integers are uint32, and wrap around."""

    values: PyTree  # the message, times the weight over the largest weight, as integers
    weight: Array  # ()
    cut: Array  # () float, share of the values that were beyond the clip
    sent: PyTree  # 1 where a compressed update sends a value; () of others


class Opened(NamedTuple):
    """What the server makes of the sum."""

    mean: PyTree
    cut: Array  # () float, share of values beyond the clip
    single: Array | None  # () float, share of the values sent that one client alone sent


def secure(
    strategy: Strategy,
    *,
    clip: float,
    bits: int = 16,
    modulus: int = 2**32,
    neighbours: int | None = None,
) -> Strategy:
    """Add up messages as integers of a group, so that masks could hide each of them.

    A message, as the difference from the global model where it is a model, and as it is otherwise,
    is multiplied with ``n_k / max n``, cut to [-clip, clip], rounded at random to a multiple of
    ``step = clip / (2^(bits - 1) - 1)``, and added modulo ``modulus``; weights are added as they
    are. What the server divides last is exact but for the rounding, of at most one step a client.
    The masks themselves cancel in the sum, so that none are simulated: their keys and shares are
    counted in the bits.

    Args:
      strategy: any whose messages are averaged.
      clip: of one value, above 0; how many are cut is recorded.
      bits: of one integer, 2 to 24.
      modulus: of the sum, a power of two, at most 2^32.
      neighbours: with how many others each client exchanges keys and shares; None:
        ``2 ceil(log2 C)``, capped at C - 1, the order of Bell et al.

    Returns:
      A :class:`Strategy` without further state.

    Raises:
      ValueError: for a value out of range, or if it cannot wrap the strategy; when a simulation is
        built, for more clients in a round than the sum has room for.

    References:
      Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS
      2017; Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS
      2020.

    Example:
      >>> from lipsjax.strategies import fedavg
      >>> run = RunContext(rounds=1, num_examples=(5,) * 1025)
      >>> secure(fedavg(), clip=1.0, bits=22).check(run)
      Traceback (most recent call last):
      ValueError: a sum modulo 4294967296 of integers of 22 bits has room for 1024 clients in a \
round, not 1025: use fewer bits
    """
    strategy = wrapped(strategy, "secure")
    check_positive(clip=clip)
    if not 2 <= bits <= 24:
        raise ValueError(f"bits must be in 2..24, not {bits}")
    if modulus & (modulus - 1) or not 2 <= modulus <= 2**32:
        raise ValueError(f"modulus must be a power of two in 2..2^32, not {modulus}")
    if neighbours is not None and neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, not {neighbours}")
    encodes = Rank.ENCODE in strategy.wrappers

    def weights(run: RunContext) -> np.ndarray:
        # who is drawn by examples has been weighed by them
        weight = uniform if run.sampling == "examples" else strategy.weight
        with jax.ensure_compile_time_eval():
            return np.asarray(weight(jnp.asarray(run.num_examples, jnp.int32)))

    def largest(run: RunContext) -> int:
        return int(weights(run).max())

    def check(run: RunContext) -> None:
        strategy.check(run)
        room = capacity(bits=bits, modulus=modulus)
        if run.slots > room:
            raise ValueError(
                f"a sum modulo {modulus} of integers of {bits} bits has room for {room} clients in "
                f"a round, not {run.slots}: use fewer bits"
            )
        each = np.sort(weights(run).astype(np.float64))
        if (each != np.floor(each)).any():
            raise ValueError(f"weights must be whole numbers, to be summed as such, not {each[0]}")
        if each[-run.slots :].sum() >= modulus:
            raise ValueError(f"weights of a round add up to {modulus} or more: make them smaller")

    def send(context: ClientContext, result):
        message, state = strategy.send(context, result)
        moved = _from_model(message, context.global_model, jnp.subtract)
        weight = jnp.asarray(weights(context.run))[context.client_id]
        factor = weight / largest(context.run)
        leaves, structure = jax.tree.flatten(moved)
        if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in leaves):
            raise ValueError(f"secure sums floats, and {strategy.name} sends other numbers too")
        keys = jax.random.split(derive(context.key, 0, SERVER, Purpose.ROUNDING), len(leaves))
        scaled = [x * jnp.asarray(factor, x.dtype) for x in leaves]
        integers = [
            to_integers(key, x, clip=clip, bits=bits) for key, x in zip(keys, scaled, strict=True)
        ]
        beyond = [jnp.mean(~(jnp.abs(x) <= clip), dtype=jnp.float32) * x.size for x in scaled]
        cut = jnp.asarray(sum(beyond)) / sum(x.size for x in scaled)
        values = jax.tree.unflatten(structure, integers)
        sent: PyTree = ()
        if encodes:
            own = _from_model(message, context.variables, jnp.subtract)
            sent = jax.tree.map(lambda x: (x != 0).astype(jnp.uint32), own)
        return Hidden(values, jnp.asarray(weight, jnp.uint32), cut, sent), state

    def combine(context: ServerContext, total: Hidden) -> Opened:
        weight = total.weight.astype(jnp.float32)
        each = largest(context.run) / jnp.maximum(weight, 1)
        dtype = jax.tree.leaves(context.global_model)[0].dtype

        def opened(x):
            value = from_integers(x, clip=clip, bits=bits, modulus=modulus, dtype=dtype)
            return value * each.astype(dtype)

        moved = jax.tree.map(opened, total.values)
        mean = _from_model(moved, context.global_model, jnp.add)
        return Opened(mean, total.cut / jnp.maximum(context.arrived, 1), _single(total.sent))

    def update(context: ServerContext, opened: Opened):
        return strategy.update(context, opened.mean)

    def scalars(context: ServerContext, opened: Opened) -> dict[str, Array]:
        found = {"share_cut": opened.cut}
        if opened.single is not None:
            found["share_single"] = opened.single
        if strategy.scalars is not None:
            found |= strategy.scalars(context, opened.mean)
        return found

    def traffic(run: RunContext, variables: Variables) -> Traffic:
        plain = strategy.traffic(run, variables)
        asked = 2 * math.ceil(math.log2(max(run.cohort, 2))) if neighbours is None else neighbours
        others = min(asked, run.cohort - 1)
        # two public keys; of each neighbour an encrypted pair of shares; and shares to unmask with
        agreed = 2 * KEY_BITS + others * (2 * KEY_BITS + CIPHER_BITS) + others * KEY_BITS
        # a masked message has no zeros, so that every value is sent at the width of the group
        width = (modulus - 1).bit_length()
        values = tree.size(tree.pick(variables, lambda path: strategy.is_shared(run, path)))
        return plain._replace(
            up=np.maximum(plain.up // BITS, values) * width + BITS + agreed,
            down=lambda t, last: (
                plain.down(t, last) + others * (2 * KEY_BITS + 2 * KEY_BITS + CIPHER_BITS)
            ),
            per_value=width,
        )

    return strategy._replace(
        check=check,
        send=send,
        combine=combine,
        update=update,
        learned=lambda context, opened, new: strategy.learned(context, opened.mean, new),
        scalars=scalars,
        traffic=traffic,
        weighs_itself=True,
        reveals=_nothing_alone,
        refuses={
            **strategy.refuses,
            Rank.AGGREGATE: "median and trimmed mean need every message by itself, which it hides",
        },
    )


def _from_model(message: PyTree, model: Variables, change) -> PyTree:
    """Subtract the global model from a message's models, or add it; other parts stay."""

    def one(part):
        return jax.tree.map(change, part, model) if isinstance(part, Variables) else part

    return jax.tree.map(one, message, is_leaf=lambda part: isinstance(part, Variables))


def _single(sent: PyTree) -> Array | None:
    """Return which share of the values that anybody sent was sent by one client alone."""
    if not jax.tree.leaves(sent):
        return None
    alone, any_ = (
        sum(jnp.sum(test(x), dtype=jnp.int32) for x in jax.tree.leaves(sent))
        for test in (lambda x: x == 1, lambda x: x > 0)
    )
    return jnp.asarray(alone, jnp.float32) / jnp.maximum(jnp.asarray(any_), 1)


def _nothing_alone(*_):
    """Raise ValueError, as no message is seen by itself."""
    raise ValueError(
        "secure aggregation hides each client's message: there is none to attack, but the sum"
    )
