"""The devices that a run is planned for: those here, or a TPU that is not."""

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies


class Rates(NamedTuple):
    """What one device can do at best."""

    flops: float  # bfloat16 products, FLOP/s; float32 where the device is a CPU
    bandwidth: float  # of memory, bytes/s
    memory: float  # bytes


# per chip, which is one device; bf16, HBM bandwidth and capacity of each generation's page under
# https://cloud.google.com/tpu/docs, read in 2026-11
TPU_RATES = {
    "TPU v4": Rates(275e12, 1200e9, 32 * 2**30),  # .../v4
    "TPU v5 lite": Rates(197e12, 819e9, 16e9),  # .../v5e
    "TPU v5": Rates(459e12, 2765e9, 95e9),  # .../v5p-training
    "TPU v6 lite": Rates(918e12, 1600e9, 32e9),  # .../v6e
}
"""By the name that JAX gives a device."""

FILLED = 0.9
"""Share of a device's memory that a program may take."""
PASSES = {"highest": 6, "high": 3, "default": 1}
"""bfloat16 products that make one of float32 on a TPU, by jax.default_matmul_precision.

https://github.com/openxla/xla: the algorithms BF16_BF16_F32_X6 and _X3 that these names stand for.
"""


class Machine(NamedTuple):
    """Devices of one kind, in one or several processes."""

    devices: Sequence[Any]

    @property
    def platform(self) -> str:
        """Return "cpu", "gpu" or "tpu"."""
        return self.devices[0].platform

    @property
    def kind(self) -> str:
        """Return the devices' name."""
        return self.devices[0].device_kind

    @property
    def processes(self) -> int:
        """Number of processes that the devices belong to."""
        return len({device.process_index for device in self.devices})

    @property
    def memory(self) -> float | None:
        """Return the bytes that a device has for a program; None: not known, as on a CPU."""
        if self.kind in TPU_RATES:
            return TPU_RATES[self.kind].memory
        if self.platform == "cpu":
            return None
        mine = [d for d in self.devices if d.process_index == jax.process_index()]
        return (mine[0].memory_stats() or {}).get("bytes_limit")


def installed_memory() -> float:
    """Return the bytes of memory of this computer; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # no such names on Windows
        return math.inf


def here() -> Machine:
    """Return the devices of this command's processes."""
    return Machine(jax.devices())


def tpu(topology: str) -> Machine:
    """Return the devices of a TPU that need not be here, to compile for.

    Args:
      topology: generation and shape, as "v5e:2x2" or "v4:2x2x1".

    Raises:
      ValueError: if libtpu is not installed, or knows no such topology.
    """
    # else it looks for a machine on the network, and for others that use it
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ValueError(
            f"--device {topology} needs libtpu to compile with: pip install 'lipsjax[tpu]'"
        ) from None
    try:
        with _quiet():
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # whatever libtpu makes of it
        reason = str(error).partition(":")[2].strip() or str(error)
        raise ValueError(
            f"--device must be cpu or a TPU's generation and shape, as v5e:2x2, not {topology!r}: "
            f"{reason}"
        ) from None
    return Machine(found.devices)


def measure_cpu() -> Rates:
    """Measure what all cores together do: the best of some float32 products of size 2048.

    Memory counts as no limit, since caches serve most of what a small model moves.
    """
    n, times = 2048, []
    x = jnp.ones((n, n), jnp.float32)
    product = jax.jit(lambda x: x @ x).lower(x).compile()
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(product(x))
        times.append(time.perf_counter() - begin)
    return Rates(2 * n**3 / min(times), math.inf, math.inf)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a C library writes to the standard error off the terminal."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as aside:
        kept = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def fitting_chunk(needed: Any, limit: float, largest: int) -> int:
    """Return the largest chunk, of ``largest`` and its halves, whose program fits.

    Args:
      needed: chunk -> bytes that its compiled program needs on a device.
      limit: bytes that a device has.
      largest: where to begin.

    Raises:
      ValueError: if not even one client at a time fits.

    Example:
      >>> fitting_chunk(lambda chunk: 100 * chunk, limit=900, largest=32)
      8
    """
    chunk = largest
    while (size := needed(chunk)) > limit:
        if chunk == 1:
            raise ValueError(
                f"one client at a time needs {size / 2**30:.1f} GiB on each device, which has "
                f"{limit / 2**30:.1f} GiB: more devices, fewer clients or a smaller model need less"
            )
        chunk = -(-chunk // 2)
    return chunk


def program_bytes(compiled: Any) -> int:
    """Return the memory that a compiled program needs on each device: arguments, results, rest."""
    m = compiled.memory_analysis()
    taken = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    return taken + m.temp_size_in_bytes + m.generated_code_size_in_bytes
