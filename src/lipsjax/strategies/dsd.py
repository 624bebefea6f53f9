"""DSD: dense, then sparse, then dense again."""

import math

from lipsjax.sparsity.density import check_density
from lipsjax.sparsity.transient import transient_sparsity
from lipsjax.strategy import Strategy, fedavg


def dsd(
    strategy: Strategy | None = None,
    *,
    density: float = 0.7,
    start: float = 1 / 3,
    end: float = 2 / 3,
    kinds: tuple[str, ...] | None = None,
) -> Strategy:
    """Prune the smallest weights of the middle layers once, train sparse, then let them free.

    With progress ``x = i / T`` after round i: clients receive the global model w where x is below
    start or not below end; between, ``m * w`` held through all local steps, where m keeps the
    ``floor(density n_l)`` largest ``|w|`` of each middle layer at the first such round, and stays.
    Freed weights begin at zero. The density is the paper's one further hyperparameter; the lengths
    of the phases are options here, and the learning rate stays as it is.

    Args:
      strategy: what clients and server do otherwise; None: FedAvg.
      density: kept fraction of the sparse phase, in (0, 1].
      start: progress at which it begins.
      end: progress at which it ends.
      kinds: kinds of middle layers that are masked.

    Returns:
      A :class:`Strategy` with a sparsifier: no other wrapper goes around it.

    Raises:
      ValueError: for a value out of range, or if the strategy refuses masks.

    References:
      Han et al., "DSD: Dense-Sparse-Dense Training for Deep Neural Networks", arXiv 1607.04381.

    Example:
      >>> dsd(start=0.5, end=0.4)
      Traceback (most recent call last):
      ValueError: start and end must be 0 <= start < end <= 1, not 0.5 and 0.4
    """
    if not 0 <= start < end <= 1:
        raise ValueError(f"start and end must be 0 <= start < end <= 1, not {start} and {end}")
    check_density(density)
    return transient_sparsity(
        fedavg() if strategy is None else strategy,
        density=lambda progress: density if start <= progress < end else 1.0,
        every=1,
        criterion="magnitude",
        hold=math.inf,
        kinds=kinds,
        name="dsd",
    )
