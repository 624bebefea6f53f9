"""Differential privacy of clients: a bound on what each adds to a sum, and noise on the sum."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.privacy import accounting, banded
from lipsjax.privacy.bounds import clipped, gaussian
from lipsjax.privacy.ledger import RELATION_OF, Ledger, Release
from lipsjax.strategies.delta import Delta, shared_params, shared_statistics
from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import (
    ClientContext,
    Rank,
    RunContext,
    ServerContext,
    Sparsifier,
    Strategy,
    nest,
    uniform,
    wrapped,
)
from lipsjax.types import Array, PyTree, Variables

Reference = Literal["global", "received"]
Mechanism = Literal["gaussian", "banded"]
MECHANISMS = ("gaussian", "banded")
"""Noise of each round for itself, or of which later rounds take back a part."""
REFERENCES = ("global", "received")
"""The whole model that went out, or what a client received of it."""
CLIP_RATE = 0.2
"""How fast an adaptive clip follows its quantile."""
SHARE_OF_COUNT = 20
"""An expected cohort has so many deviations of the noise on a count."""


class Bounded(NamedTuple):
    """What a client sends."""

    delta: Delta  # no longer than the clip
    below: Array  # () float, 1/2 if it had been short enough, else -1/2; 0 where nobody asks


class Noised(NamedTuple):
    """What the server makes of the sum."""

    model: Variables
    below: Array  # () float, noised share of clients whose deltas were short enough
    memory: PyTree  # noise of the rounds before that bands take back; () without


def private(
    strategy: Strategy,
    *,
    clip: float,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    delta: float = 1e-5,
    adaptive: float | None = None,
    reference: Reference = "global",
    mechanism: Mechanism = "gaussian",
    noise_cohort_size: int | None = None,
) -> Strategy:
    r"""Bound what each client adds to the global model, and add Gaussian noise to the sum.

    With C clients expected in a round, of which those in S arrive,

    .. math:: w \leftarrow w + \frac{1}{C} \Big(\sum_{k \in S} d_k \min(1, c / \lVert d_k \rVert)
              + z c\, \xi\Big), \qquad \xi \sim N(0, I)

    over all shared parameters together. The divisor is the expected size, never who arrived; a
    round in which nobody does adds noise all the same. Clients count alike. The noise is of one
    key, the same on all devices, from the run's seed: a simulation, whose seed must not be told
    with its model.

    ``reference="global"`` bounds ``d_k = w_k - w``: of a client that received a masked model the
    mass that was zeroed counts against the clip. ``reference="received"`` bounds
    ``d_k = w_k - m_k w``, what training added, and adds that to w.

    An adaptive clip follows the norm that a share of the deltas is below:
    ``c <- c exp(-0.2 (b - adaptive))``, b being the noised share of those that were below c. The
    noise on that count is C / 20, and that on the deltas is raised so that both together are worth
    z.

    Banded noise is :math:`C^{-1} Z` over rounds, of :mod:`lipsjax.privacy.banded`, with as
    many bands as there are groups of clients in turn, K / C: what is added in one round is taken
    back in part in later ones, so that the model that sums them up is less noisy at the same z. A
    client is in ``ceil(T C / K)`` rounds at most, which count as one Gaussian each, banded or not.

    A cohort of noise simulates a larger federation: the noise on the mean is that of N clients in a
    round, ``z c / N``, while C train. Its ledger is that of a federation N / C times as large, and
    protects nobody here.

    Args:
      strategy: one that sends models, without running statistics. Inputs must not have been
        normalised by the clients' own data.
      clip: c, above 0; with ``adaptive`` where it begins.
      noise_multiplier: z, at least 0; or epsilon is given.
      epsilon: that the whole run may spend at ``delta``; the least z is found, by PLD. Needs
        dp-accounting.
      delta: below 1 / K, as a chance of 1 / K allows to give one client away.
      adaptive: share of deltas that shall be below the clip, in (0, 1); None: it stays.
      reference: what a delta is from.
      mechanism: "gaussian", noise of each round for itself; or "banded", for clients in turn.
      noise_cohort_size: N, at least C; None: C.

    Returns:
      A :class:`Strategy` with a ledger. State: server, the clip, if it adapts, or the noise that
      bands remember.

    Raises:
      ValueError: for a value out of range, or if it cannot wrap the strategy; when a simulation is
        built, for cohorts that are neither everybody nor Poisson nor in turn, and for running
        statistics.

    References:
      McMahan et al., "Learning Differentially Private Recurrent Language Models", arXiv 1710.06963;
      Andrew et al., "Differentially Private Learning with Adaptive Clipping", arXiv 1905.03871;
      Granqvist et al., "pfl-research", arXiv 2404.06430, whose name a cohort of noise has.

    Example:
      >>> from lipsjax.strategies import fedavg
      >>> run = RunContext(rounds=40, num_examples=(5,) * 20)
      >>> private(fedavg(), clip=1.0, noise_multiplier=4.0).ledger(run).releases
      (Release(noise_multiplier=4.0, sampling=1.0, rounds=40),)
    """
    check_positive(clip=clip)
    accounting.check_noise(noise_multiplier, epsilon, delta)
    if adaptive is not None and not 0 < adaptive < 1:
        raise ValueError(f"adaptive must be in (0, 1), not {adaptive}")
    if reference not in REFERENCES:
        raise ValueError(f"reference must be one of {', '.join(REFERENCES)}, not {reference!r}")
    if noise_cohort_size is not None and noise_cohort_size < 1:
        raise ValueError(f"noise_cohort_size must be at least 1, not {noise_cohort_size}")
    if mechanism not in MECHANISMS:
        raise ValueError(f"mechanism must be one of {', '.join(MECHANISMS)}, not {mechanism!r}")
    if mechanism == "banded" and adaptive is not None:
        raise ValueError(
            "banded noise is of one scale for all rounds, and an adaptive clip changes it: leave "
            "one of them out"
        )
    strategy = wrapped(strategy, "private")
    if strategy.canaries not in ("", reference):
        raise ValueError(
            f"canaries send from {strategy.canaries}, and private takes deltas from {reference}: "
            "give both the same reference"
        )
    if strategy.canaries and noise_cohort_size is not None:
        raise ValueError(
            "canaries find more than a ledger says where noise is that of a larger federation: "
            "leave noise_cohort_size out of an audit"
        )

    def bands(run: RunContext) -> int:
        return min(run.period, run.rounds)

    def start_clip(_run: RunContext, _initial: Variables, _key: Array) -> Array:
        return jnp.float32(clip)

    def start_bands(run: RunContext, initial: Variables, _key: Array) -> PyTree:
        return banded.start(shared_params(strategy, run, initial), bands(run))

    inner = strategy
    if adaptive is not None:
        inner = nest(strategy, init_server=start_clip)
    elif mechanism == "banded":
        inner = nest(strategy, init_server=start_bands)

    def multiplier(run: RunContext) -> float:
        if noise_multiplier is not None:
            return noise_multiplier
        assert epsilon is not None
        return accounting.noise_multiplier(
            epsilon, delta, sampling=run.rate, rounds=run.turns, failure=run.overflow
        )

    def accounted(run: RunContext) -> int:
        """Return how many clients in a round the noise is for."""
        return run.cohort if noise_cohort_size is None else noise_cohort_size

    def on_deltas(run: RunContext) -> float:
        """Return the multiplier of the noise on deltas, which a noised count raises."""
        z, size = multiplier(run), accounted(run)
        if adaptive is None or z == 0:
            return z
        of_count = 2 * size / SHARE_OF_COUNT  # a client moves the count by one half
        if of_count <= z:
            raise ValueError(
                f"an adaptive clip needs a noise multiplier below {of_count:g} with {size} "
                f"clients in a round, not {z:.4g}: leave adaptive out, or take more clients"
            )
        return (z**-2 - of_count**-2) ** -0.5

    def check(run: RunContext) -> None:
        strategy.check(run)
        if accounted(run) < run.cohort:
            raise ValueError(
                f"noise_cohort_size must be at least {run.cohort}, the clients in a round, not "
                f"{noise_cohort_size}: less noise protects nobody"
            )
        clients = run.num_clients * accounted(run) // run.cohort
        if delta >= 1 / clients:
            raise ValueError(f"delta must be below 1 / {clients}, the clients, not {delta:g}")
        if delta <= run.overflow:
            raise ValueError(
                f"delta must be above {run.overflow:g}, the chance that a round has more clients "
                f"than slots, not {delta:g}"
            )
        if run.cohort < run.num_clients and run.sampling not in ("poisson", "cyclic"):
            raise ValueError(
                f"a cohort of {run.cohort} of {run.num_clients} clients that is always as large is "
                "no Poisson sample, and is not accounted for: use sampling poisson "
                "(--participation.sampling poisson) or cyclic, or let all take part"
            )
        if mechanism == "banded" and run.period == 1:
            raise ValueError(
                "banded noise is for clients in turn, each in every second round at most: use "
                "--participation.sampling cyclic with a --strategy.cohort, or mechanism gaussian"
            )
        on_deltas(run)

    def ledger(run: RunContext) -> Ledger:
        return Ledger(
            "client",
            RELATION_OF["client"],
            (Release(multiplier(run), run.rate, run.turns),),
            delta,
            run.overflow,
            times=accounted(run) / run.cohort,
            period=run.period,
        )

    def init_client(run: RunContext, initial: Variables) -> PyTree:
        if shared_statistics(strategy, run, initial):
            raise ValueError(
                "private cannot send running statistics, which no clip bounds: use a model with "
                "another normalisation (--model.norm group), in all arms that are compared"
            )
        return inner.init_client(run, initial)

    def bound(context: ClientContext | ServerContext) -> Array | float:
        return context.server_state.outer if adaptive is not None else clip

    def send(context: ClientContext, result):
        model, state = inner.send(context, result)
        if not isinstance(model, Variables):
            raise ValueError(f"private cannot wrap {strategy.name}: its messages are no models")
        start = context.variables if reference == "received" else context.global_model
        end, begin = (shared_params(strategy, context.run, x) for x in (model, start))
        short, was_below = clipped(tree.subtract(end, begin), bound(context))
        half = was_below.astype(jnp.float32) - 0.5 if adaptive is not None else jnp.float32(0)
        return Bounded(short, half), state

    def combine(context: ServerContext, total: Bounded) -> Noised:
        expected, z = context.run.cohort, on_deltas(context.run)
        key = derive(context.key, context.round, SERVER, Purpose.NOISE)
        for_deltas, for_count = jax.random.split(key)
        noise, memory = gaussian(for_deltas, total.delta), ()
        if mechanism == "banded":
            column = banded.coefficients(context.run.rounds, bands(context.run))
            noise, memory = banded.correlated(column, noise, context.server_state.outer)
        old = tree.pick(context.global_model, total.delta.__contains__)
        scale = z * bound(context) * (expected / accounted(context.run))
        new = {
            path: old[path] + ((d + (scale * noise[path]).astype(d.dtype)) / expected)
            for path, d in total.delta.items()
        }
        deviation = expected / SHARE_OF_COUNT if z else 0
        noised = total.below + deviation * jax.random.normal(for_count, (), jnp.float32)
        return Noised(tree.put(context.global_model, new), noised / expected + 0.5, memory)

    def update(context: ServerContext, mean: Noised):
        new, state = inner.update(context, mean.model)
        if adaptive is not None:
            followed = state.outer * jnp.exp(-CLIP_RATE * (mean.below - adaptive))
            state = state._replace(outer=followed)
        elif mechanism == "banded":
            state = state._replace(outer=mean.memory)
        return new, state

    def scalars(context: ServerContext, mean: Noised) -> dict[str, Array]:
        return {"clip": context.server_state.outer, "share_below_clip": mean.below}

    def reveals(run: RunContext, model: Variables, start: Variables, message: Bounded) -> Delta:
        if reference == "received":
            return message.delta
        moved = tree.subtract(
            shared_params(strategy, run, model), shared_params(strategy, run, start)
        )
        return jax.tree.map(jnp.add, message.delta, moved)

    return inner._replace(
        init_client=init_client,
        check=check,
        send=send,
        combine=combine,
        update=update,
        scalars=scalars if adaptive is not None else None,
        learned=lambda context, mean, new: inner.learned(context, mean.model, new),
        weight=uniform,
        reveals=reveals,
        ledger=ledger,
        refuses={
            **strategy.refuses,
            Rank.AGGREGATE: "its noise is for a sum; median and trimmed mean are none",
            Rank.SECURE: "rounding to integers lengthens what it has bounded, so that its noise "
            "would be too small for its ledger",
        },
    )


def check_protected_masks(strategy: Strategy, run: RunContext, sparsifier: Sparsifier) -> None:
    """Raise ValueError for masks that carry what neither noise nor a sum of integers covers.

    Masks of random or of the global model's own values follow from what has been noised; those that
    a client chooses by its gradients stay with it. What clients' gradients or personal weights
    decide for others, or the server reads of clients' masks, is neither.
    """
    if Rank.EXAMPLES in strategy.wrappers and sparsifier.gradient == "fresh":
        raise ValueError(
            "private_examples goes with no mask by fresh gradients, on which is no noise: use "
            "--sparsity.gradient last_local, which is that of a noised step"
        )
    if not {Rank.PRIVATE, Rank.SECURE} & {*strategy.wrappers}:
        return
    name = "private" if Rank.PRIVATE in strategy.wrappers else "secure"
    if sparsifier.shared and sparsifier.gradient is not None:
        raise ValueError(
            f"{name} goes with no mask that all share by the clients' gradients, as their raw "
            "scores would be sent: use --sparsity.sharing client, or --sparsity.criterion magnitude"
        )
    personal = [
        layer.name
        for layer in sparsifier.layers
        if not strategy.is_shared(run, "/".join(("params", *layer.path)))
    ]
    if sparsifier.shared and personal:
        raise ValueError(
            f"{name} goes with no mask that all share by weights that stay with clients, as those "
            f"of {personal[0]}: use --sparsity.sharing client"
        )
    if sparsifier.hold == math.inf:
        raise ValueError(
            f"{name} goes with no mask that holds through a round, as the server reads the masks "
            "of those who arrive: use --sparsity.hold 0"
        )
