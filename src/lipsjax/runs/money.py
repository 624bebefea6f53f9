"""What devices cost and what sites may spend on them: from a config, or from its table of sites."""

from collections.abc import Sequence

import numpy as np

from lipsjax.runs.config import Config
from lipsjax.runs.levers import check_count
from lipsjax.sites import Device


def priced(config: Config, devices: Sequence[Device]) -> tuple[Device, ...]:
    """Return the devices of a config's sites with their prices and budgets.

    Args:
      config: the science.
      devices: [K], as they are in a table or known by name.

    Raises:
      ValueError: for what is given twice, or cannot be kept to.

    Example:
      >>> from lipsjax.runs.config import SitesConfig
      >>> wanted = Config(sites=SitesConfig(price_per_hour=(0.5, 2.0), budget=1.0))
      >>> found = priced(wanted, [Device("a", 1, 1, 1), Device("b", 1, 1, 1)])
      >>> [(device.price_per_hour, device.budget) for device in found]
      [(0.5, 1.0), (2.0, 1.0)]
    """
    wanted = config.sites
    if wanted.price_per_hour:
        _refuse_twice("price_per_hour", any(device.price_per_hour for device in devices))
        check_count("price_per_hour", wanted.price_per_hour, len(wanted.devices), len(devices))
        prices = np.resize(wanted.price_per_hour, len(devices)).tolist()
        devices = [
            device._replace(price_per_hour=price)
            for device, price in zip(devices, prices, strict=True)
        ]
    if wanted.budget is not None:
        _refuse_twice("budget", any(device.budget is not None for device in devices))
        devices = [device._replace(budget=wanted.budget) for device in devices]
    _check_budgets(config, devices)
    return tuple(devices)


def is_limited(config: Config, devices: Sequence[Device]) -> bool:
    """Tell whether a site may be late, or over its budget."""
    return config.sites.deadline is not None or any(d.budget is not None for d in devices)


def check(config: Config) -> None:
    """Raise ValueError for amounts of money that are none."""
    wanted = config.sites
    if wanted.budget is not None and not wanted.budget > 0:
        raise ValueError(f"sites.budget must be above 0, not {wanted.budget:g}")
    for price in wanted.price_per_hour:
        if not price >= 0:
            raise ValueError(f"sites.price_per_hour must be at least 0, not {price:g}")


def _refuse_twice(name: str, is_in_table: bool) -> None:
    if is_in_table:
        raise ValueError(
            f"sites.{name} says what the column {name} of the table in sites.devices does: leave "
            "one out"
        )


def _check_budgets(config: Config, devices: Sequence[Device]) -> None:
    """Raise ValueError for budgets that a run cannot be kept to."""
    bounded = [device for device in devices if device.budget is not None]
    if not bounded:
        return
    if not any(device.price_per_hour for device in bounded):
        raise ValueError(
            "a budget of sites needs the price of a device: sites.price_per_hour, or that column "
            "of a FILE.csv"
        )
    if config.sites.buffer is not None:
        raise ValueError(
            "sites.buffer goes with no budget: how many turns a site has follows from how long "
            "they take"
        )
    if config.participation.sampling == "examples":
        raise ValueError(
            "a budget of sites goes with no participation.sampling='examples', which does not give "
            "every site as many turns"
        )
