"""From an execution to a plan: what it leaves open is decided, and what changes bits is noted."""

import importlib.metadata
import platform
from typing import Any

from lipsjax.runs.config import Execution
from lipsjax.runs.machine import Machine
from lipsjax.runs.startup import check_devices

PACKAGES = ("lipsjax", "jax", "jaxlib", "flax", "optax", "numpy")
"""Packages that decide the bits of a run."""


def resolve(execution: Execution, clients: int, machine: Machine) -> dict[str, Any]:
    """Decide what the execution leaves open, and note what would change the bits.

    Args:
      execution: what was asked for.
      clients: that take part in a round; more devices than that would idle.
      machine: whose devices there are.

    Returns:
      The plan of a run; its chunk may still be "auto", where it depends on memory.

    Raises:
      ValueError: for an execution that is not possible here.
    """
    on_cpu = machine.platform == "cpu"
    check_devices(execution.devices, clients)
    devices = execution.devices or _usable_devices(clients, machine)
    conv = execution.conv
    if conv == "auto":
        conv = "loop" if on_cpu else "grouped"
    # on CPU one client at a time keeps its patches in cache; elsewhere width pays
    chunk = 1 if on_cpu and execution.chunk == "auto" else execution.chunk
    if execution.rounds_per_call < 1:
        raise ValueError(f"rounds_per_call must be at least 1, not {execution.rounds_per_call}")
    wrong = [t for t in execution.keep_checkpoints if t < 0]
    if wrong:
        raise ValueError(f"keep_checkpoints must be rounds from 0, not {wrong[0]}")
    kept = {"keep_checkpoints": sorted(set(execution.keep_checkpoints))}
    return {
        "platform": machine.platform,
        "device": machine.kind,
        "host": platform.platform(),
        "python": platform.python_version(),
        "processes": machine.processes,
        "devices": devices,
        "chunk": chunk,
        "conv": conv,
        "precision": execution.precision,
        "rounds_per_call": execution.rounds_per_call,
        "versions": versions(),
        **(kept if execution.keep_checkpoints else {}),
    }


def describe_plan(plan: dict[str, Any], dtype: str) -> str:
    """Return a plan in a line."""
    where = f"{plan['devices']} x {plan['device']}"
    if plan["processes"] > 1:
        where += f" in {plan['processes']} processes"
    products = dtype
    if plan["platform"] != "cpu" and dtype == "float32":
        products += f" at precision {plan['precision']}"
    return f"plan: {where}, chunk {plan['chunk']}, convolution {plan['conv']}, {products}"


def _usable_devices(clients: int, machine: Machine) -> int:
    """Return how many devices have something to do, as many in each process."""
    useful = min(len(machine.devices), clients)
    return max(useful // machine.processes, 1) * machine.processes


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the bits of a run."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}
