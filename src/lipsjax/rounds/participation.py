"""Who takes part in a round, and how far each client gets."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binom

from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.strategy import RunContext
from lipsjax.types import Array


class Turns(NamedTuple):
    """Whose turns end in which update of the server, where clients do not wait for each other.

    A turn is all that a client does between receiving a model and sending. Version v of the global
    model is that after v updates. All is known before the run starts.

    Example:
      >>> turns = Turns(np.array([[0, 1], [0, 2]]), np.array([[0, 0], [1, 0]]))
      >>> turns.staleness.tolist(), turns.versions
      ([[0, 0], [0, 1]], 2)
    """

    clients: np.ndarray  # [T, C] int, whose turns each update is made of: all different, in order
    began: np.ndarray  # [T, C] int, the version that each turn began with, at most t

    @property
    def staleness(self) -> np.ndarray:
        """Updates of the server while each turn lasted, [T, C]."""
        return np.arange(len(self.began))[:, None] - self.began

    @property
    def versions(self) -> int:
        """How many versions of the global model are in use at once, at most."""
        return 1 + int(self.staleness.max())


class Participation(NamedTuple):
    """Which clients a round draws, and what becomes of them; by default all arrive."""

    sampling: str = "uniform"
    """Or "examples": drawn in proportion to them, and weighed alike; or "poisson": each client by
    itself, so that a cohort has the size that it happens to have; or "cyclic": in turn."""
    dropout: float = 0.0
    """Chance that a client that was drawn never trains."""
    mid_round_dropout: float = 0.0
    """Chance that one that trains stops midway, and sends nothing."""
    stragglers: float = 0.0
    """Chance that one that arrives did fewer steps."""
    min_work: float = 0.1
    """Share of its steps that a straggler does at least."""
    limits: tuple[int, ...] | None = None
    """Most steps that each client does in a round, as of a deadline; 0: it never trains."""
    turns: Turns | None = None
    """Who takes part where clients do not wait for each other; None: in rounds, all together."""

    @property
    def all_arrive(self) -> bool:
        """Whether every client that is drawn does all its steps and sends."""
        chances = self.dropout, self.mid_round_dropout, self.stragglers
        return not any(chances) and self.limits is None


EVERYONE = Participation()
SAMPLINGS = ("uniform", "examples", "poisson", "cyclic")
OVERFLOW = 1e-12
"""Chance, over all rounds of a run, that a Poisson cohort is larger than its slots."""


class Cohort(NamedTuple):
    """Who is drawn for a round."""

    ids: Array  # [slots] int32, all different
    size: Any  # () int32; the first so many of them take part


def poisson_slots(*, clients: int, expected: int, rounds: int) -> tuple[int, float]:
    """Return how many slots Poisson cohorts need, and the chance that some round needs more.

    A cohort is as large as a binomial of ``clients`` and ``expected / clients``; the slots are the
    fewest that a run of ``rounds`` outgrows with a chance of at most 1e-12.

    Args:
      clients: K.
      expected: size of a cohort on average.
      rounds: T.

    Example:
      >>> slots, chance = poisson_slots(clients=100, expected=10, rounds=50)
      >>> 10 < slots < 40, 0 < chance <= OVERFLOW
      (True, True)
    """
    sizes = binom(clients, expected / clients)
    slots = int(sizes.isf(OVERFLOW / rounds))
    while rounds * sizes.sf(slots) > OVERFLOW:
        slots += 1
    return min(slots, clients), float(min(rounds * sizes.sf(slots), 1.0))


class ClientOutcome(NamedTuple):
    """What becomes of one client in one round."""

    steps: Array  # () int32, real steps it takes
    arrives: Array  # () bool, whether the server hears from it
    dropped: Array  # () bool
    stopped: Array  # () bool, midway
    straggled: Array  # () bool


def check(participation: Participation) -> None:
    """Raise ValueError for what is out of range, naming the value."""
    if participation.sampling not in SAMPLINGS:
        raise ValueError(
            f"sampling must be one of {', '.join(SAMPLINGS)}, not {participation.sampling!r}"
        )
    for name in ("dropout", "mid_round_dropout", "stragglers"):
        value = getattr(participation, name)
        if not 0 <= value < 1 and not (name == "stragglers" and value == 1):
            raise ValueError(f"{name} must be in [0, 1), not {value}")
    if not 0 < participation.min_work <= 1:
        raise ValueError(f"min_work must be in (0, 1], not {participation.min_work}")
    turns = participation.turns
    if turns is None:
        return
    if not participation.all_arrive or participation.sampling != "uniform":
        raise ValueError(
            "turns say who arrives in which update: they go with no sampling, dropout, stragglers "
            "or limits"
        )
    if not (np.diff(turns.clients) > 0).all() or not (turns.staleness >= 0).all():
        raise ValueError("turns must name different clients in order, and versions that exist")


def draw_cohort(
    run: RunContext, participation: Participation, key: Array, round_index: Array
) -> Cohort:
    """Draw who takes part: C clients without replacement; all, in order, if C = K.

    A Poisson cohort has every client with a chance of C / K, drawn for itself. In turn, each of
    K / C groups, which are drawn once, has every K / C-th round.

    Args:
      run: with the clients' numbers of examples, and C.
      participation: how they are drawn.
      key: the run's root key; not consumed.
      round_index: () int.
    """
    everyone = jnp.arange(run.num_clients, dtype=jnp.int32)
    if participation.turns is not None:
        return Cohort(jnp.asarray(participation.turns.clients, jnp.int32)[round_index], run.cohort)
    if run.cohort == run.num_clients:
        return Cohort(everyone, run.cohort)
    draw = derive(key, round_index, SERVER, Purpose.COHORT)
    if participation.sampling == "examples":
        # in the order of exponential clocks whose rates are the numbers of examples
        sizes = jnp.array(run.num_examples, jnp.float32)
        clocks = jax.random.exponential(draw, (run.num_clients,), jnp.float32) / sizes
        return Cohort(jnp.argsort(clocks)[: run.cohort].astype(jnp.int32), run.cohort)
    if participation.sampling == "poisson":
        chances = jax.random.uniform(draw, (run.num_clients,), jnp.float32)
        drawn = chances < jnp.float32(run.rate)
        ids = jnp.argsort(chances)[: run.slots].astype(jnp.int32)  # who is drawn comes first
        return Cohort(ids, jnp.sum(drawn, dtype=jnp.int32))
    if participation.sampling == "cyclic":
        once = derive(key, 0, SERVER, Purpose.COHORT)
        groups = jax.random.permutation(once, everyone).reshape(run.period, run.cohort)
        return Cohort(groups[round_index % run.period], run.cohort)
    return Cohort(jax.random.permutation(draw, everyone)[: run.cohort], run.cohort)


def draw_outcome(
    participation: Participation, key: Array, round_index: Array, client: Array, steps: Array
) -> ClientOutcome:
    """Draw what becomes of a client.

    A client drops out, or stops midway, or straggles, or does all its steps. One that stops midway
    does a share of its steps that is uniform in [0, 1); a straggler one that is uniform in
    [min_work, 1), and at least one step. Where there are limits, one that would do more straggles,
    and one whose limit is 0 drops out.

    Args:
      participation: the chances.
      key: the run's root key; not consumed.
      round_index: () int.
      client: () int, its id.
      steps: () int32, those of a whole round.

    Example:
      >>> key = jax.random.key(0)
      >>> outcome = draw_outcome(Participation(dropout=0.5), key, 0, 3, jnp.array(10))
      >>> bool(outcome.arrives) == (not outcome.dropped), int(outcome.steps) in (0, 10)
      (True, True)
    """
    draws = jax.random.uniform(derive(key, round_index, client, Purpose.OUTCOME), (4,), jnp.float32)
    dropped = draws[0] < participation.dropout
    stopped = ~dropped & (draws[1] < participation.mid_round_dropout)
    straggled = ~dropped & ~stopped & (draws[2] < participation.stragglers)
    low = participation.min_work
    least = jnp.maximum(jnp.floor((low + (1 - low) * draws[3]) * steps), 1)
    taken = jnp.where(straggled, least, steps)
    taken = jnp.where(stopped, jnp.floor(draws[3] * steps), taken)
    if participation.limits is not None:
        most = jnp.array(participation.limits, jnp.int32)[client]
        dropped |= most == 0
        stopped &= ~dropped
        straggled = ~dropped & ~stopped & (straggled | (most < taken))
        taken = jnp.minimum(taken, most)
    taken = jnp.where(dropped, 0, taken).astype(jnp.int32)
    return ClientOutcome(taken, ~dropped & ~stopped, dropped, stopped, straggled)
