"""What a run costs: the bits of every round, and the FLOPs of training."""

import functools
import math
from collections.abc import Iterator, Sequence
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

    up: tuple[np.ndarray, ...]  # [T] bits of each client of the cohort, without masks
    down: tuple[np.ndarray, ...]  # the same
    masks: dict[str, Any]  # how masks are counted

    def bits(self, t: int, sent: Sent, before: Sent) -> Bits:
        """Return the bits of a round, of the broadcast that follows it and the one before it."""
        return round_bits(
            clients=len(self.up[t]),
            uplink=int(self.up[t].sum()),
            downlink=int(self.down[t].sum()),
            kept=sent.kept,
            kept_before=before.kept,
            **self.masks,
        )

    def of_each(self, t: int, bits: Bits) -> tuple[np.ndarray, np.ndarray]:
        """Share a round's bits out: what each client of its cohort sends and receives, [C] each.

        Masks cost all of them the same.
        """
        clients = max(len(self.up[t]), 1)
        masks_up = (bits.uplink - int(self.up[t].sum())) // clients
        masks_down = (bits.downlink - int(self.down[t].sum())) // clients
        return self.up[t] + masks_up, self.down[t] + masks_down

    def sent_by(self, t: int, uplink: int, arrives: np.ndarray) -> int:
        """Return what those who arrive send of the bits that the whole cohort would send.

        Args:
          t: the round.
          uplink: of the cohort.
          arrives: [C] bool.
        """
        up, clients = self.up[t], max(len(self.up[t]), 1)
        masks = uplink - int(up.sum())
        return int(up[arrives].sum()) + masks * int(arrives.sum()) // clients


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
    clients, rounds = spec.run.num_clients, range(spec.run.rounds)
    all_of_them = spec.run.cohort == clients
    cohorts = [np.arange(clients) if all_of_them else simulation.cohort(key, t) for t in rounds]
    return Account(
        up=tuple(traffic.sent(t, cohort) for t, cohort in enumerate(cohorts)),
        down=tuple(_received(cohorts, clients, traffic)),
        masks=masks_of(spec, variables, traffic),
    )


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


def _received(
    cohorts: Sequence[np.ndarray], clients: int, traffic: Traffic
) -> Iterator[np.ndarray]:
    """Yield the bits that each client of each round's cohort receives, without masks."""
    last: np.ndarray = np.full(clients, -1)  # round in which each received last, -1: never
    for t, cohort in enumerate(cohorts):
        since = last[cohort]
        found = np.zeros(len(cohort), np.int64)
        for round_ in np.unique(since).tolist():
            among = since == round_
            found[among] = traffic.received(t, None if round_ < 0 else round_, cohort[among])
        last[cohort] = t
        is_one = len(found) and (found == found[0]).all()
        yield np.broadcast_to(found[0], len(found)) if is_one else found  # takes no memory
