"""What a run costs: the bits of every round, and the FLOPs of training."""

import functools
import math
from collections.abc import Iterator

import jax
import numpy as np

from lipsjax import tree
from lipsjax.metrics.costs import Bits, round_bits
from lipsjax.metrics.flops import flops
from lipsjax.simulation import Simulation
from lipsjax.types import Array


@functools.lru_cache(maxsize=8)
def training_flops(simulation: Simulation) -> float:
    """Return the FLOPs of one round without any measuring; see :func:`lipsjax.metrics.flops`.

    Of the whole cohort, the same for any devices and chunk. What is computed counts: padded
    examples, and of branches the costliest, so that a gradient that only sparse broadcasts need is
    in it. Traced once for a simulation, which takes seconds; nothing
    is compiled.
    """
    return flops(simulation.trace_training().jaxpr)


def bits_of_rounds(simulation: Simulation, key: Array) -> tuple[Bits, ...]:
    """Return the bits of every round of a run, if all clients that are drawn arrive.

    What a client receives may depend on the round in which it received last, and so on the cohorts
    that the run's key draws.

    Args:
      simulation: of the run.
      key: the run's root key; not consumed.
    """
    spec, (densities, per_round) = simulation.spec, simulation.schedule
    variables = jax.eval_shape(spec.model.init, jax.random.key(0))
    traffic = spec.strategy.traffic(spec.run, variables)
    downs = _received(simulation, key, traffic.down)
    sparsifier, masks = spec.sparsifier, {}
    if sparsifier is not None and sparsifier.layers:
        kernels = tree.kernels(variables.params, sparsifier.layers)
        masks = {
            "maskable": sum(w.size for w in kernels),
            "held": sparsifier.hold == math.inf,
            "relative": spec.strategy.relative,
            "gradient": sparsifier.gradient,
            "shared": sparsifier.shared,
            "sent_per_value": traffic.per_value,
        }
    kept = [
        int(counts.sum()) if density < 1 and counts.size else None
        for density, counts in zip(densities, per_round.kept, strict=True)
    ]
    return tuple(
        round_bits(
            clients=spec.cohort,
            uplink=spec.cohort * int(traffic.up[t]),
            downlink=down,
            kept=kept[t],
            kept_before=kept[t - 1] if t else None,
            **masks,
        )
        for t, down in enumerate(downs)
    )


def _received(simulation: Simulation, key: Array, down) -> Iterator[int]:
    """Yield the bits that each round's cohort receives, without masks."""
    run = simulation.spec.run
    last: list[int | None] = [None] * run.num_clients
    everyone = np.arange(run.num_clients)
    for t in range(run.rounds):
        cohort = everyone if run.cohort == run.num_clients else simulation.cohort(key, t)
        counts: dict[int | None, int] = {}
        for client in cohort:
            counts[last[client]] = counts.get(last[client], 0) + 1
            last[client] = t
        yield sum(clients * down(t, since) for since, clients in counts.items())
