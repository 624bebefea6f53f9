"""What a site may spend on its device in a run, and how long a turn that pays for."""

import math
from collections.abc import Sequence

import numpy as np

from lipsjax.sites.devices import Device


def payable_seconds(devices: Sequence[Device], turns: float) -> np.ndarray:
    """Return how long a turn each site can pay for, [K] seconds; inf where nothing bounds it.

    A device of price p an hour whose site may spend B in a run can be used B / p hours, which is
    ``3600 B / (p n)`` seconds in each of n turns. It is paid from the start to the end of a turn,
    so that waiting for a device that is not available all the time is paid, too.

    Args:
      devices: [K].
      turns: n, of each in the run; on average, where clients are drawn.

    Example:
      >>> paid = Device("a", 1.0, 1.0, 1.0, price_per_hour=0.5, budget=0.25)
      >>> payable_seconds([paid, paid._replace(budget=None)], 10.0).tolist()
      [180.0, inf]
    """
    return np.array(
        [
            math.inf
            if device.budget is None or not device.price_per_hour
            else 3600 * device.budget / (device.price_per_hour * turns)
            for device in devices
        ]
    )


def budgets_for(devices: Sequence[Device], turns: float, seconds: np.ndarray) -> np.ndarray:
    """Return what turns of so many seconds cost each site in a run, [K].

    >>> paid = Device("a", 1.0, 1.0, 1.0, price_per_hour=0.5)
    >>> budgets_for([paid], 10.0, np.array([180.0])).tolist()
    [0.25]
    """
    prices = np.array([device.price_per_hour for device in devices])
    return prices * turns * seconds / 3600
