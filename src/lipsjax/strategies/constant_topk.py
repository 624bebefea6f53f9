"""Constant top-k masks: a model that stays sparse."""

import math

from lipsjax.sparsity import density as densities
from lipsjax.sparsity.transient import transient_sparsity
from lipsjax.strategy import Strategy, fedavg


def constant_topk(
    strategy: Strategy | None = None,
    *,
    density: float = 0.5,
    kinds: tuple[str, ...] | None = None,
) -> Strategy:
    """Keep the largest weights of the middle layers, and hold all others at zero.

    After every round, clients receive ``m * w``, where m keeps the ``floor(density n_l)`` largest
    ``|w|`` of each middle layer, ties by index, and holds through all local steps. As weights at
    zero stay there, the mask is that of the first average ever after. It is the control of
    transient sparsity that is neither transient nor salient; the server knows the mask, so that
    values outside need not be sent ("server masks" in the counts of bits).

    Args:
      strategy: what clients and server do otherwise; None: FedAvg.
      density: kept fraction, in (0, 1].
      kinds: kinds of middle layers that are masked.

    Returns:
      A :class:`Strategy` with a sparsifier: no other wrapper goes around it.

    Raises:
      ValueError: for a value out of range, or if the strategy refuses masks.

    References:
      Magnitude pruning: Han et al., arXiv 1506.02626.

    Example:
      >>> constant_topk(density=0.0)
      Traceback (most recent call last):
      ValueError: density must be in (0, 1], not 0.0
    """
    return transient_sparsity(
        fedavg() if strategy is None else strategy,
        density=densities.constant(density),
        every=1,
        criterion="magnitude",
        hold=math.inf,
        kinds=kinds,
        name="constant_topk",
    )
