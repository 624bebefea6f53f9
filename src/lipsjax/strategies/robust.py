"""Aggregation that a few faulty clients cannot spoil."""

import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from lipsjax.strategies.delta import as_if_moved, movement
from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import Strategy, alike, fits
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
      ValueError: if the strategy refuses it, or has a ``downlink``.

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
      ValueError: for a share out of range, if the strategy refuses it, or has a ``downlink``.

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
    fits(strategy, name)

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

    reason = "messages are put in order already"
    names = ("median", "trimmed_mean", "compress", "sign_majority", "keep_local", "ditto")
    return strategy._replace(
        aggregate=aggregate,
        weight=alike,
        refuses={**strategy.refuses, **dict.fromkeys(names, reason)},
    )


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
    """Scale down what a client moved where it is longer than a bound.

    ``d_k <- d_k min(1, norm / ||d_k||)`` over all shared parameters together, as the server would
    on arrival; the strategy goes on as if the client had moved so. Running statistics stay.

    Args:
      strategy: any without a ``downlink``.
      norm: the bound on ``||d_k||``.

    Returns:
      A :class:`Strategy`.

    Raises:
      ValueError: for a norm that is not positive, or a strategy with a ``downlink``.

    References:
      Sun et al., "Can You Really Backdoor Federated Learning?", arXiv 1911.07963.

    Example:
      >>> from lipsjax.strategies import fedavg
      >>> from lipsjax.types import LocalResult, Received, Variables
      >>> start, end = (Variables({"w": jnp.array(x)}, {}) for x in ([0.0, 0.0], [3.0, 4.0]))
      >>> result = LocalResult(end, (), jnp.zeros(0), 0, 0, 1)
      >>> message, _ = clip(fedavg(), norm=1.0).send(Received(start, (), (), None), result)
      >>> message.params["w"].round(3).tolist()
      [0.6, 0.8]
    """
    fits(strategy, "clip")
    check_positive(norm=norm)

    def send(received, result):
        moved = movement(strategy, received, result)
        length = jnp.sqrt(sum(jnp.sum(d**2) for d in moved.values()))
        factor = jnp.where(length > norm, norm / length, 1)
        shorter = jax.tree.map(lambda d: factor.astype(d.dtype) * d, moved)
        return strategy.send(received, as_if_moved(received, result, shorter))

    return strategy._replace(send=send, relative=True)
