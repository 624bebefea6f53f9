"""Aggregation that a few faulty clients cannot spoil."""

import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.strategies.delta import delta_of, shared_statistics, with_delta
from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import ClientContext, Strategy, uniform, wrapped
from lipsjax.types import Array, PyTree

FEW = 32
"""Rows that are sorted by exchanges."""


def median(strategy: Strategy) -> Strategy:
    """Take the median of the clients' messages, coordinate by coordinate.

    Of C messages that arrived, each entry is the middle one, or the mean of the two in the middle.
    It lies among the honest clients' while fewer than half are faulty. Clients count the same.

    Args:
      strategy: any whose messages can be averaged entry by entry.

    Returns:
      A :class:`Strategy` that needs [C, P] values on every device.

    Raises:
      ValueError: if it cannot wrap the strategy.

    References:
      Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", arXiv
      1803.01498.

    Example:
      >>> from lipsjax.strategies import fedavg
      >>> messages = jnp.array([[1.0], [3.0], [100.0], [7.0]])
      >>> median(fedavg()).aggregate(messages, jnp.array([True, True, True, False])).tolist()
      [3.0]
    """

    def middle(sizes: Array, place: Array) -> Array:
        return (place == (sizes - 1) // 2) | (place == sizes // 2)

    return _of_sorted(strategy, middle, "median")


def trimmed_mean(strategy: Strategy, *, trim: float = 0.1) -> Strategy:
    """Leave out the largest and the smallest messages, coordinate by coordinate, and average.

    Of C messages that arrived, ``b = floor(trim C)`` are left out at each end. The mean lies among
    the honest clients' while at most b are faulty. Clients count the same.

    Args:
      strategy: any whose messages can be averaged entry by entry.
      trim: share that is left out at each end, in [0, 0.5).

    Returns:
      A :class:`Strategy` that needs [C, P] values on every device.

    Raises:
      ValueError: for a share out of range, or if it cannot wrap the strategy.

    References:
      Yin et al., arXiv 1803.01498.

    Example:
      >>> from lipsjax.strategies import fedavg
      >>> messages = jnp.array([[1.0], [3.0], [100.0], [5.0]])
      >>> trimmed_mean(fedavg(), trim=0.25).aggregate(messages, jnp.ones(4, bool)).tolist()
      [4.0]
    """
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim must be in [0, 0.5), not {trim}")

    def between(sizes: Array, place: Array) -> Array:
        # on the host: the floor of a float32 product may be one too few
        counts = [math.floor(trim * count + 1e-9) for count in range(len(place) + 1)]
        left_out = jnp.array(counts, jnp.int32)[sizes]
        return (place >= left_out) & (place < sizes - left_out)

    return _of_sorted(strategy, between, "trimmed_mean")


def _of_sorted(strategy: Strategy, chosen: Callable[[Array, Array], Array], name: str) -> Strategy:
    """Average, of the sorted entries of messages that arrived, those at chosen places."""
    strategy = wrapped(strategy, name)

    def aggregate(messages: PyTree, arrived: Array) -> PyTree:
        count = jnp.sum(arrived, dtype=jnp.int32)
        keep = chosen(count, jnp.arange(len(arrived), dtype=jnp.int32))

        def one(x):
            # what is no number is the largest, as any other lie may be
            rows = [
                jnp.where(a & ~jnp.isnan(row), row, jnp.inf)
                for a, row in zip(arrived, x, strict=True)
            ]
            kept = [jnp.where(k, row, 0) for k, row in zip(keep, sorted_rows(rows), strict=True)]
            return sum(kept) / jnp.sum(keep).astype(x.dtype)

        return jax.tree.map(one, messages)

    return strategy._replace(aggregate=aggregate, weight=uniform)


def sorted_rows(rows: Sequence[Array]) -> list[Array]:
    """Sort entry by entry: row i of the result has the i-th smallest entries.

    Few rows go through Batcher's merge exchange, minima and maxima of whole rows, which compile to
    one pass over all of them; a sort of each column would call a comparator every time.

    Args:
      rows: C arrays of one shape, without NaN.

    References:
      Knuth, The Art of Computer Programming, volume 3, algorithm 5.2.2M.

    Example:
      >>> rows = jnp.array([3, 1]), jnp.array([2, 2]), jnp.array([1, 3])
      >>> [row.tolist() for row in sorted_rows(rows)]
      [[1, 1], [2, 2], [3, 3]]
    """
    rows = list(rows)
    if len(rows) > FEW:
        return list(jnp.sort(jnp.stack(rows), axis=0))
    for low, high in _exchanges(len(rows)):
        a, b = rows[low], rows[high]
        rows[low], rows[high] = jnp.minimum(a, b), jnp.maximum(a, b)
    return rows


def _exchanges(count: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of places that merge exchange compares, in its order."""
    run = 1
    while run < count:
        gap = run
        while gap >= 1:
            for first in range(gap % run, count - gap, 2 * gap):
                for low in range(first, first + min(gap, count - first - gap)):
                    if low // (2 * run) == (low + gap) // (2 * run):
                        yield low, low + gap
            gap //= 2
        run *= 2


def clip(strategy: Strategy, *, norm: float) -> Strategy:
    """Scale down what a client changed where it is longer than a bound.

    ``d_k <- d_k min(1, norm / ||d_k||)`` over all shared parameters together, as the server would
    on arrival, of whatever it has decoded; the strategy goes on as if training had changed so much.
    Running statistics stay. A client whose delta or statistics are not finite has no direction, and
    sends what it started from.

    Args:
      strategy: any that federates.
      norm: the bound on ``||d_k||``.

    Returns:
      A :class:`Strategy`.

    Raises:
      ValueError: for a norm that is not positive, or if it cannot wrap the strategy.

    References:
      Sun et al., "Can You Really Backdoor Federated Learning?", arXiv 1911.07963.

    Example:
      >>> from lipsjax.strategy import RunContext, fedavg
      >>> from lipsjax.types import LocalResult, Variables
      >>> start, end = (Variables({"w": jnp.array(x)}, {}) for x in ([0.0, 0.0], [3.0, 4.0]))
      >>> context = ClientContext(RunContext(rounds=1, num_examples=(1,)), start)
      >>> result = LocalResult(end, (), jnp.zeros(0), 0, 0, 1)
      >>> encoded, _ = clip(fedavg(), norm=1.0).encode(context, result)
      >>> encoded.variables.params["w"].round(3).tolist()
      [0.6, 0.8]
    """
    strategy = wrapped(strategy, "clip")
    check_positive(norm=norm)

    def encode(context: ClientContext, result):
        result, state = strategy.encode(context, result)
        delta = delta_of(strategy, context, result)
        length = jnp.sqrt(sum(jnp.sum(d**2) for d in delta.values()))
        factor = jnp.where(length > norm, norm / length, 1)
        began, ended = (
            shared_statistics(strategy, context.run, x.variables) for x in (context, result)
        )
        finite = jnp.isfinite(length)
        for values in ended.values():
            finite &= jnp.isfinite(values).all()
        shorter = {
            path: jnp.where(finite, factor.astype(d.dtype) * d, 0) for path, d in delta.items()
        }
        given = tree.put(result.variables, tree.select(finite, ended, began))
        return with_delta(context, result._replace(variables=given), shorter), state

    return strategy._replace(encode=encode, relative=True)
