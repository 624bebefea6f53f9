"""What a run costs: the bits of every round, and the FLOPs of training."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from lipsjax import tree
from lipsjax.metrics.costs import Bits, round_bits
from lipsjax.metrics.flops import flops
from lipsjax.rounds import Metrics, RoundSpec
from lipsjax.rounds.decision import positions, trigger_of
from lipsjax.simulation import Simulation
from lipsjax.strategy import Traffic
from lipsjax.types import Array, PyTree, Variables


@functools.lru_cache(maxsize=8)
def training_flops(simulation: Simulation) -> float:
    """Return the FLOPs of one round without any measuring; see :func:`lipsjax.metrics.flops`.

    Of the whole cohort, the same for any devices and chunk. What is computed counts: padded
    examples, and of branches the costliest, so that a gradient that only sparse broadcasts need is
    in it. Traced once for a simulation, which takes seconds; nothing
    is compiled.
    """
    return flops(simulation.trace_training().jaxpr)


class Sent(NamedTuple):
    """What of the weights that can be masked a broadcast keeps."""

    density: float  # that it aims at, the mean over these weights; 1: it is dense
    kept: int | None  # how many; None: all, as it is dense


DENSE = Sent(1.0, None)


class Account(NamedTuple):
    """What the cohorts of a run move, if all clients that are drawn arrive."""

    clients: tuple[int, ...]  # [T] of each cohort
    up: tuple[int, ...]  # [T] bits, without masks
    down: tuple[int, ...]  # [T]
    masks: dict[str, Any]  # how masks are counted

    def bits(self, t: int, sent: Sent, before: Sent) -> Bits:
        """Return the bits of a round, of the broadcast that follows it and the one before it."""
        return round_bits(
            clients=self.clients[t],
            uplink=self.up[t],
            downlink=self.down[t],
            kept=sent.kept,
            kept_before=before.kept,
            **self.masks,
        )


def account_of(simulation: Simulation, key: Array) -> Account:
    """Return what the rounds of a run move, whatever its broadcasts turn out to keep.

    What a client receives may depend on the round in which it received last, and so on the cohorts
    that the run's key draws.

    Args:
      simulation: of the run.
      key: the run's root key; not consumed.
    """
    spec = simulation.spec
    variables = jax.eval_shape(spec.model.init, jax.random.key(0))
    traffic = spec.strategy.traffic(spec.run, variables)
    rounds = range(spec.run.rounds)
    sizes = tuple(
        len(simulation.cohort(key, t)) if spec.run.poisson else spec.cohort for t in rounds
    )
    up = tuple(sizes[t] * int(traffic.up[t]) for t in rounds)
    down = tuple(_received(simulation, key, traffic.down))
    return Account(sizes, up, down, masks_of(spec, variables, traffic))


def masks_of(spec: RoundSpec, variables: Variables, traffic: Traffic) -> dict[str, Any]:
    """Return how the masks of a run are counted; nothing where there are none.

    Args:
      spec: of the run.
      variables: of the model, or their shapes.
      traffic: of the strategy.
    """
    sparsifier = spec.sparsifier
    if sparsifier is None or not sparsifier.layers:
        return {}
    kernels = tree.kernels(variables.params, sparsifier.layers)
    return {
        "maskable": sum(w.size for w in kernels),
        "held": sparsifier.hold == math.inf,
        "relative": spec.strategy.relative,
        "gradient": sparsifier.gradient,
        "shared": sparsifier.shared,
        "sent_per_value": traffic.per_value,
    }


def sent_after(simulation: Simulation, first: int, metrics: Metrics) -> list[Sent]:
    """Return what went out after each round of a call: by the schedule, or as a trigger chose.

    Args:
      simulation: of the run.
      first: round of the call.
      metrics: of its rounds.
    """
    spec, rounds = simulation.spec, range(first, first + len(metrics.client_loss))
    if trigger_of(spec) is None:
        return [scheduled(simulation, t) for t in rounds]
    assert spec.sparsifier is not None
    masked = positions(spec.model.layers, spec.sparsifier.layers)
    return [_chosen(simulation, row[masked]) for row in metrics.layers["density_level"]]


def on_its_way(simulation: Simulation, host: dict[str, PyTree]) -> Sent:
    """Return what was sent after the last round of a state on the host."""
    if trigger_of(simulation.spec) is not None:
        return _chosen(simulation, host["trigger"].levels)
    done = int(host["round"])
    return scheduled(simulation, done - 1) if done else DENSE


def scheduled(simulation: Simulation, t: int) -> Sent:
    """Return what the schedule sends after a round."""
    density, kept = simulation.schedule.densities[t], simulation.schedule.per_round.kept[t]
    return Sent(float(density), int(kept.sum()) if density < 1 and kept.size else None)


def _chosen(simulation: Simulation, levels: np.ndarray) -> Sent:
    """Return what density levels [masked layers] keep."""
    if not levels.any():
        return DENSE
    densities, counts, sizes = _of_levels(simulation)
    kept = counts[levels, np.arange(len(levels))]
    return Sent(float(np.average(densities[levels], weights=sizes)), int(kept.sum()))


@functools.lru_cache(maxsize=8)
def _of_levels(simulation: Simulation) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return the density of each level, what each layer keeps at it, and the layers' sizes."""
    spec = simulation.spec
    assert spec.sparsifier is not None
    variables = jax.eval_shape(spec.model.init, jax.random.key(0))
    sizes = [w.size for w in tree.kernels(variables.params, spec.sparsifier.layers)]
    return *spec.sparsifier.kept(variables), sizes


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
