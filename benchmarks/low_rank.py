"""What W1 would gain if no client's wide kernel were ever made while it trains.

python benchmarks/low_rank.py --json low_rank.json

Of n examples in batches of B, a dense kernel [in, out] takes n / B steps, each less a product of
[in, B] and [B, out]: with few examples it stays ``c_0 w - sum_s c_s x_s^T dy_s``, n rows in all. So
a step may read the shared w, correct what comes out by Gram products with earlier rows, and make
the kernel once, at the end. The optimizer runs on the coefficients c: plain SGD, with momentum and
decay of weights, does to them what it does to weights. The round here is W1's training and average
alone, written both ways by hand, after a check in float64 that both give the same model.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro
from jax.sharding import Mesh, PartitionSpec
from measure import Case, Figure, interleave, ratio, report, start_jax
from workloads import WORKLOADS, Workload, make_data, make_training

from lipsjax.local import model_loss

WIDE = "dense1"
"""The layer that holds 1.6 of W1's 1.63 million weights."""


@dataclass(frozen=True)
class Options:
    """What is timed."""

    pairs: int = 20
    """Interleaved rounds behind the ratio."""
    devices: int | None = None
    """CPU devices; none: one per core."""
    json: Path | None = None
    """Write the figures here."""


def plain_steps(loss_fn, optimizer, params: Any, batches) -> Any:
    """Train one client as usual: every step reads and writes the wide kernel."""

    def step(carry, batch):
        params, state = carry
        gradient = jax.grad(loss_fn)(params, *batch)
        updates, state = optimizer.update(gradient, state, params)
        return (_moved(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return params


def low_rank_steps(loss_fn, optimizer, params: Any, batches) -> Any:
    """Train one client with the wide kernel as coefficients of its start and of every step."""
    kernel, bias = params[WIDE]["kernel"], params[WIDE]["bias"]
    steps, size = batches[1].shape
    others = {name: layer for name, layer in params.items() if name != WIDE} | {"bias": bias}
    inputs = jnp.zeros((steps * size, kernel.shape[0]), kernel.dtype)
    slopes = jnp.zeros((steps * size, kernel.shape[1]), kernel.dtype)

    def step(carry, indexed):
        (others, c), state, inputs, slopes = carry
        index, batch = indexed

        def loss(others, tap):
            seen = []

            def wide(call, args, kwargs, context):
                if context.module.path != (WIDE,):
                    return call(*args, **kwargs)
                (x,) = args
                seen.append(x)
                correction = ((x @ inputs.T) * jnp.repeat(c[1:], size)) @ slopes
                return c[0] * (x @ kernel) + correction + others["bias"] + tap

            own = {name: layer for name, layer in others.items() if name != "bias"}
            with nn.intercept_methods(wide):
                value = loss_fn(own | {WIDE: {"kernel": kernel, "bias": bias}}, *batch)
            return value, seen[0]

        tap = jnp.zeros((size, kernel.shape[1]), kernel.dtype)
        (gradient, slope), x = jax.grad(loss, argnums=(0, 1), has_aux=True)(others, tap)
        inputs = jax.lax.dynamic_update_slice(inputs, x, (index * size, 0))
        slopes = jax.lax.dynamic_update_slice(slopes, slope, (index * size, 0))
        of_this_step = jnp.zeros_like(c).at[1 + index].set(1)
        updates, state = optimizer.update((gradient, of_this_step), state, (others, c))
        return (_moved((others, c), updates), state, inputs, slopes), None

    coefficients = jnp.zeros(1 + steps, kernel.dtype).at[0].set(1)
    start = (others, coefficients)
    carry = (start, optimizer.init(start), inputs, slopes)
    ((others, c), _, inputs, slopes), _ = jax.lax.scan(step, carry, (jnp.arange(steps), batches))
    made = c[0] * kernel + inputs.T @ (slopes * jnp.repeat(c[1:], size)[:, None])
    own = {name: layer for name, layer in others.items() if name != "bias"}
    return own | {WIDE: {"kernel": made, "bias": others["bias"]}}


def _moved(params: Any, updates: Any) -> Any:
    return optax.apply_updates(params, updates)


def make_round(workload: Workload, steps, dtype, devices: int):
    """Return the average of a cohort's models from one start, and that start with the batches."""
    data, training = make_data(workload), make_training(workload)
    model = workload.model(workload.image_shape, "loop", dtype)
    whole = model_loss(model)
    rows = data.train_index[: workload.cohort].reshape(devices, -1, workload.examples)
    shape = (*rows.shape[:2], -1, workload.batch_size)
    batches = (
        data.train.inputs[rows].reshape(*shape, *workload.image_shape),
        data.train.labels[rows].reshape(shape),
    )

    def loss_fn(params, images, labels):
        return whole(params, {}, images, labels, jnp.ones(len(labels), bool))[0]

    def of_device(params, batches):
        def one(total, batches):
            end = steps(loss_fn, training.optimizer, params, batches)
            return jax.tree.map(lambda t, x: t + x / workload.cohort, total, end), None

        zero = jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(one, zero, jax.tree.map(lambda x: x[0], batches))
        return jax.lax.psum(total, "devices")

    mesh = Mesh(jax.devices()[:devices], "devices")
    spec = PartitionSpec("devices")
    whole_round = jax.jit(
        jax.shard_map(
            of_device,
            mesh=mesh,
            in_specs=(PartitionSpec(), spec),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )
    start = model.init(jax.random.key(0)).params
    return functools.partial(whole_round, start, batches)


WAYS = {"plain": plain_steps, "low_rank": low_rank_steps}


def main(options: Options) -> None:
    """Check, time, report."""
    devices, workload = start_jax(options.devices), WORKLOADS["w1"]
    with jax.enable_x64(True):
        few = workload._replace(cohort=2 * devices)
        plain, low = (make_round(few, way, jnp.float64, devices)() for way in WAYS.values())
        off = max(
            float(jnp.abs(a - b).max() / jnp.abs(a).max())
            for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(low), strict=True)
        )
    if off > 1e-9:
        raise SystemExit(f"the two ways differ by {off} in float64")
    rounds = {name: make_round(workload, way, jnp.float32, devices) for name, way in WAYS.items()}
    cases = {name: Case(lambda _, f=f: f()) for name, f in rounds.items()}
    times = interleave(cases, options.pairs)
    figures = [Figure("w1_low_rank_difference_float64", "", [off])]
    figures += [Figure(f"w1_{name}_training", "s", times[name]) for name in WAYS]
    figures.append(ratio("w1_low_rank_over_plain", times["low_rank"], times["plain"]))
    report("W1 without making a client's wide kernel", figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
