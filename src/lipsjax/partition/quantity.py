"""How many examples clients hold, where some hold more than others."""

from typing import Literal

import numpy as np

from lipsjax.partition.sampling import apportion

_LARGEST_SKEW = 100.0


def sizes(
    kind: Literal["equal", "lognormal", "power"],
    *,
    mean: int,
    clients: int,
    skew: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws the number of training examples of each client.

    Client k has the weight w_k: 1 for "equal"; exp(skew z_k) with z_k standard normal for
    "lognormal"; r_k^(-skew) for "power", where r is a random order of 1..K. Each client gets one
    example, and the other K (mean - 1) are shared in proportion to the weights, rounded by
    largest remainders:

      n_k = 1 + K (mean - 1) w_k / sum(w)

    A skew of 0 makes all clients equal.

    Args:
      kind: of the weights.
      mean: examples per client.
      clients: their number K.
      skew: in 0..100; not read by "equal".
      rng: the source of randomness; it is advanced, but for "equal".

    Returns:
      [K] int64, each at least 1, which sum to K * mean exactly.

    Raises:
      ValueError: an unknown kind, mean or clients below 1, or a skew out of range.

    Example:
      >>> sizes("power", mean=10, clients=4, skew=1.0, rng=np.random.default_rng(0))
      array([ 7, 18, 10,  5])
    """
    if min(mean, clients) < 1:
        raise ValueError(f"mean is {mean} and clients is {clients}; allowed are >= 1")
    if kind == "equal":
        return np.full(clients, mean, np.int64)
    if not 0 <= skew <= _LARGEST_SKEW:
        raise ValueError(f"size skew is {skew}; allowed are 0..{_LARGEST_SKEW:g}")
    if kind == "lognormal":
        logs = skew * rng.standard_normal(clients)
    elif kind == "power":
        logs = -skew * np.log(rng.permutation(clients) + 1)
    else:
        raise ValueError(f"sizes is {kind!r}; allowed are equal, lognormal, power")
    # the largest weight is 1, whatever the skew
    weights = np.exp(logs - logs.max())
    (shared,) = apportion(np.array([clients * (mean - 1)]), weights[None])
    return 1 + shared
