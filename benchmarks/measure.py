"""Time callables side by side, and put the figures into a table and a file.

A machine's speed changes from minute to minute, so what is compared is interleaved: every repeat
runs each callable once, beginning with another one each time, and ratios are taken repeat by
repeat.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

PAUSE = 0.5
"""Seconds before each timed call, for threads of another library to stop spinning."""


class Case(NamedTuple):
    """What is timed: ``run`` with what ``prepare`` made for this one call, before the clock."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


class Figure(NamedTuple):
    """A measured number: the median of ``samples``, if there are several."""

    name: str
    unit: str
    samples: Sequence[float]

    @property
    def value(self) -> float:
        """Median."""
        return float(np.median(self.samples))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of the median at 95% or more, from order statistics; None below 6 samples."""
        n = len(self.samples)
        below = int(stats.binom.ppf(0.025, n, 0.5))
        if n < 6:
            return None
        ordered = np.sort(self.samples)
        return float(ordered[below - 1]), float(ordered[n - below])

    def record(self) -> dict[str, Any]:
        """Return what goes into the file."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "n": len(self.samples),
            "min": float(min(self.samples)),
            "max": float(max(self.samples)),
        }


def start_jax(devices: int | None) -> int:
    """Split the host into CPU devices, one per core by default; before JAX looks for any.

    ``JAX_PLATFORMS`` asks for another platform.
    """
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
    count = devices or len(os.sched_getaffinity(0))
    jax.config.update("jax_num_cpu_devices", count)
    return count


def once(case: Case) -> tuple[float, Any]:
    """Run a case; return seconds and result, both when all of the result is there."""
    prepared = jax.block_until_ready(case.prepare())
    time.sleep(PAUSE)
    begin = time.perf_counter()
    result = jax.block_until_ready(case.run(prepared))
    return time.perf_counter() - begin, result


def interleave(cases: Mapping[str, Case], repeats: int, *, warm_up: int = 1) -> dict[str, list]:
    """Time cases in turn.

    Args:
      cases: by name.
      repeats: timed calls of each.
      warm_up: calls of each before, which do not count.

    Returns:
      Seconds by name, [repeats] each; those of one position belong together.
    """
    names = list(cases)
    for _ in range(warm_up):
        for name in names:
            once(cases[name])
    seconds: dict[str, list] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(once(cases[name])[0])
    return seconds


def ratio(name: str, above: Sequence[float], below: Sequence[float]) -> Figure:
    """Return the ratio of two interleaved cases, repeat by repeat."""
    return Figure(name, "x", [a / b for a, b in zip(above, below, strict=True)])


def report(title: str, figures: Sequence[Figure], file: Path | None) -> None:
    """Print a table, and write the list of figures as JSON if a file is named."""
    load = os.getloadavg()[0]
    table = Table(title=title, caption=f"load average of the last minute: {load:.1f}")
    for heading in ("figure", "median", "unit", "n", "min", "max", "95% of the median"):
        left = heading in ("figure", "unit")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for figure in figures:
        row, interval = figure.record(), figure.interval
        numbers = [f"{row[key]:.4g}" for key in ("value", "min", "max")]
        between = f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else ""
        table.add_row(row["name"], numbers[0], row["unit"], str(row["n"]), *numbers[1:], between)
    Console(width=None if os.isatty(1) else 120).print(table)
    if file is not None:
        file.write_text(json.dumps([figure.record() for figure in figures], indent=1) + "\n")
