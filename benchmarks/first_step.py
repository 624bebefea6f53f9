"""What it would give to share the first local step: there all clients hold the same weights.

python benchmarks/first_step.py --json first_step.json

In the first step of a dense round forward and input gradients are of one set of weights, so clients
may go through them as one large batch; kernel gradients remain each client's own, and so do the
statistics of BatchNorm. Timed are the gradients of the first step of a cohort: one client after the
other, as lipsjax takes them on CPU, and in a vmap over so many clients whose weights are shared,
after a check in float64 that both are the same. What it would give a round is the difference, over
the steps that a round has.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from jax.sharding import Mesh, PartitionSpec
from measure import Case, Figure, interleave, ratio, report, start_jax
from workloads import WORKLOADS, Workload, make_data

from lipsjax.local import model_loss

TOGETHER = (5, 10, 25)
"""Clients of a vmap that are tried."""


@dataclass(frozen=True)
class Options:
    """What is timed."""

    workloads: tuple[Literal["w1", "w2", "w3"], ...] = ("w1", "w2", "w3")
    """Which workloads."""
    repeats: int = 9
    """Interleaved repeats behind each ratio."""
    devices: int | None = None
    """CPU devices; none: one per core."""
    json: Path | None = None
    """Write the figures here."""


def first_gradients(workload: Workload, together: int, devices: int, dtype: Any):
    """Return what sums the gradients of all clients' first steps, ``together`` in a vmap."""
    data, model = make_data(workload), workload.model(workload.image_shape, "loop", dtype)
    start, loss = model.init(jax.random.key(0)), model_loss(model)
    mask = jnp.ones(workload.batch_size, bool)
    rows = data.train_index[: workload.cohort, : workload.batch_size]
    rows = rows.reshape(devices, -1, together, workload.batch_size)
    images, labels = data.train.inputs[rows], data.train.labels[rows]

    def gradient(params, x, y):
        return jax.grad(lambda p: loss(p, start.batch_stats, x, y, mask)[0])(params)

    def of_device(params, images, labels):
        def some(total, batches):
            each = jax.vmap(gradient, in_axes=(None, 0, 0))(params, *batches)
            return jax.tree.map(lambda t, g: t + jnp.sum(g, 0), total, each), None

        zero = jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(some, zero, (images[0], labels[0]))
        return jax.lax.psum(total, "devices")

    split = PartitionSpec("devices")
    whole = jax.jit(
        jax.shard_map(
            of_device,
            mesh=Mesh(jax.devices()[:devices], "devices"),
            in_specs=(PartitionSpec(), split, split),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )
    return lambda: whole(start.params, images, labels)


def apart(left: Any, right: Any) -> float:
    """Return the largest difference of two sums, over the largest value of its array."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(float(jnp.abs(a - b).max() / jnp.abs(a).max()) for a, b in pairs)


def main(options: Options) -> None:
    """Check, time, report."""
    devices, figures = start_jax(options.devices), []
    for name in options.workloads:
        workload = WORKLOADS[name]
        sizes = [n for n in TOGETHER if workload.cohort % (n * devices) == 0]
        few = workload._replace(cohort=devices * sizes[0])
        with jax.enable_x64(True):
            one = first_gradients(few, 1, devices, jnp.float64)()
            off = apart(one, first_gradients(few, sizes[0], devices, jnp.float64)())
        if off > 1e-9:
            raise SystemExit(f"{name}: shared differs by {off} in float64")
        rounds = {n: first_gradients(workload, n, devices, jnp.float32) for n in (1, *sizes)}
        cases = {f"shared_by_{n}": Case(lambda _, f=f: f()) for n, f in rounds.items()}
        times = interleave(cases, options.repeats)
        one = times.pop("shared_by_1")
        figures.append(Figure(f"{name}_first_step", "s", one))
        figures += [ratio(f"{name}_{shared}_over_one", t, one) for shared, t in times.items()]
    report(f"The first step, its weights shared: {devices} CPU devices", figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
