"""Device classes: what a site computes on, and the link that it has. No JAX here."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Device(NamedTuple):
    """A device of a site and its link."""

    name: str
    gflops: float  # 10^9 operations a second that training reaches
    up_mbit: float  # 10^6 bits a second, from the site
    down_mbit: float
    availability: float = 1.0  # share of the time in which it can be used, in (0, 1]
    price_per_hour: float = 0.0  # of the device, from the start to the end of its turns
    source: str = ""  # of the figures
    budget: float | None = None  # that its site may spend on it in a run; None: any


_HPL = (
    "HPL (float64) of github.com/geerlingguy/top500-benchmark, README at commit 0137a2e: {} Gflops"
)
_LINKS = {
    "mobile": (3.0, 35.0, "the FCC's benchmark of mobile 5G-NR, 35/3 Mbit/s (2024 report)"),
    "old": (3.0, 25.0, "the FCC's benchmark of fixed broadband of 2015, 25/3 Mbit/s"),
    "fixed": (20.0, 100.0, "the FCC's benchmark of fixed broadband of 2024, 100/20 Mbit/s"),
}


def _shipped(name: str, gflops: float, link: str) -> Device:
    up, down, source = _LINKS[link]
    return Device(name, gflops, up, down, source=f"{_HPL.format(gflops)}; {source}")


SHIPPED = {
    device.name: device
    for device in (
        _shipped("pi-zero-2w", 0.370, "mobile"),
        _shipped("pi-4", 11.889, "old"),
        _shipped("pi-5", 30.249, "fixed"),
        _shipped("m2-air", 104.68, "fixed"),
        _shipped("ryzen-5600x", 229.0, "fixed"),
    )
}
"""Classes that are known by name. Their speed is what solving dense systems reaches in float64;
training small models in float32 may reach more or less: a site had better measure its own."""

_NEEDED = ("device", "gflops", "up_mbit", "down_mbit")
_MAYBE = ("availability", "price_per_hour", "budget")
_ALLOWED = ("site", *_NEEDED, *_MAYBE)


def read(path: str | Path) -> dict[str, Device]:
    r"""Read a table of sites: a CSV file with a row for each.

    Columns: ``device``, ``gflops``, ``up_mbit``, ``down_mbit``; perhaps ``site``, its name,
    ``availability`` in (0, 1], ``price_per_hour``, and ``budget``, which may be spent in a run.

    Args:
      path: of the file.

    Returns:
      Name of a site, or its row's number from 0 where there is no such column -> its device.

    Raises:
      ValueError: naming the file, the row and what is allowed.

    Example:
      >>> import pathlib, tempfile
      >>> file = pathlib.Path(tempfile.mkdtemp()) / "sites.csv"
      >>> _ = file.write_text("device,gflops,up_mbit,down_mbit\nrig,50,10,20\n")
      >>> read(file)["0"].gflops
      50.0
    """
    path = Path(path).expanduser()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        said = (getattr(error, "strerror", None) or str(error)).lower()
        raise ValueError(f"{path} cannot be read: {said}") from None
    if not rows:
        raise ValueError(f"{path} holds no sites: it needs a header and a row for each")
    columns = [name for name in rows[0] if name is not None]
    for name in _NEEDED:
        if name not in columns:
            raise ValueError(f"{path} has no column {name}; it needs {', '.join(_NEEDED)}")
    for name in columns:
        if name not in _ALLOWED:
            raise ValueError(f"{path}: column {name!r} is not read; allowed are {_listed()}")
    found: dict[str, Device] = {}
    for number, row in enumerate(rows):
        where = f"{path}, row {number + 1}"
        name = row.get("site") or str(number)
        if name in found:
            raise ValueError(f"{where}: the site {name!r} is there twice")
        found[name] = _device(row, where)
    return found


def assign(devices: Sequence[Device], clients: int) -> tuple[Device, ...]:
    """Deal device classes out to clients, in turn.

    >>> pi, air = SHIPPED["pi-4"], SHIPPED["m2-air"]
    >>> [device.name for device in assign([pi, air], 3)]
    ['pi-4', 'm2-air', 'pi-4']
    """
    return tuple(devices[k % len(devices)] for k in range(clients))


def _listed() -> str:
    return ", ".join(_ALLOWED)


def _device(row: dict[str, str | None], where: str) -> Device:
    numbers = {name: _number(row, name, where) for name in _NEEDED[1:]}
    for name in _MAYBE:
        if row.get(name):
            numbers[name] = _number(row, name, where)
    for name, value in numbers.items():
        if not math.isfinite(value) or value < 0 or (value == 0 and name != "price_per_hour"):
            allowed = "at least 0" if name == "price_per_hour" else "above 0"
            raise ValueError(f"{where}: {name} must be a number {allowed}, not {value:g}")
    if numbers.get("availability", 1.0) > 1:
        raise ValueError(
            f"{where}: availability must be in (0, 1], not {numbers['availability']:g}"
        )
    return Device(name=row["device"] or "unnamed", **numbers, source=where)


def _number(row: dict[str, str | None], name: str, where: str) -> float:
    try:
        return float(row[name] or "")
    except ValueError:
        raise ValueError(f"{where}: {name} must be a number, not {row[name]!r}") from None
