"""Transient shrinking: what is left of transient sparsity when its masks are taken away.

A mask of density d, chosen at random, takes a layer's norm to sqrt(d) of what it was, and leaves
most weights as they are. Scaling by sqrt(d) does the first without the second, and shrinking and
perturbing adds noise in place of what went. Both are controls: a gain that they share with masks
is not one of sparsity.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax import tree
from lipsjax.sparsity import density as densities
from lipsjax.sparsity import masking
from lipsjax.sparsity.masking import maskable
from lipsjax.strategy import (
    ClientContext,
    RunContext,
    Sparsifier,
    StoredGradient,
    Strategy,
    nest,
    wrapped,
)
from lipsjax.types import Array, Variables


def transient_shrink(
    strategy: Strategy,
    *,
    density: densities.Schedule | float = 0.5,
    every: int = 5,
    perturb: bool = False,
    kinds: tuple[str, ...] | None = None,
) -> Strategy:
    """Shrink the middle layers of the global model, every few rounds, before clients train.

    After round i = 0..T-1, where ``i mod every == 0`` and ``d_i = density(i / T) < 1``, client k
    receives ``sqrt(d_i) w``, or with ``perturb`` ``sqrt(d_i) w + sqrt(1 - d_i) e_k``: e_k is normal
    with the layer's initial standard deviation, so that a layer as large as at its start keeps its
    norm. In all other rounds it receives w. Nothing is masked.

    Args:
      strategy: what clients and server do otherwise.
      density: schedule of d, in (0, 1]; a number d0 means ``linear(d0, 1.0)``.
      every: rounds between such broadcasts, at least 1.
      perturb: whether noise is added, drawn per client and round.
      kinds: kinds of middle layers that shrink.

    Returns:
      A strategy with a ``sparsifier`` that masks nothing. State: server, the initial deviations. It
      costs no bits: a client that knows the schedule can do it by itself.

    Raises:
      ValueError: as :func:`~lipsjax.sparsity.transient.transient_sparsity`.

    References:
      With noise: Ash and Adams, "On Warm-Starting Neural Network Training", arXiv 1910.08475,
      there with a constant factor and deviation.

    Example:
      >>> from lipsjax import fedavg, models
      >>> model = models.build("cnn", num_classes=10, input_shape=(8, 8, 1))
      >>> run = RunContext(rounds=9, num_examples=(1,), layers=model.layers)
      >>> transient_shrink(fedavg(), density=0.5, every=5).sparsifier(run).layers
      ()
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    schedule = density if callable(density) else densities.linear(density)
    strategy = wrapped(strategy, "transient_shrink")

    def check(run: RunContext) -> None:
        strategy.check(run)
        maskable(run.layers, kinds)

    def init_server(run: RunContext, initial: Variables, key: Array):
        del key
        shrunk = maskable(run.layers, kinds)
        return masking.refill_source("noise", tree.kernels(initial.params, shrunk))

    inner = nest(strategy, init_server=init_server)

    def receive(context: ClientContext) -> Variables:
        broadcast, shrunk = context.broadcast, maskable(context.run.layers, kinds)
        variables = inner.receive(context)
        if broadcast is None:
            return variables

        def shrink(variables: Variables) -> Variables:
            kernels = tree.kernels(variables.params, shrunk)
            d = broadcast.density.astype(kernels[0].dtype)
            new = tree.scale(jnp.sqrt(d), kernels)
            if perturb:
                noise = masking.refill_values(
                    "noise", context.server_state.outer, kernels, broadcast.key
                )
                new = jax.tree.map(jnp.add, new, tree.scale(jnp.sqrt(1 - d), noise))
            return variables._replace(params=tree.with_kernels(variables.params, shrunk, new))

        return jax.lax.cond(broadcast.sparse, shrink, lambda v: v, variables)

    def sparsifier(run: RunContext) -> Sparsifier:
        def kept(variables: Variables) -> tuple[np.ndarray, np.ndarray]:
            del variables
            table = densities.density_table(schedule, every=every, rounds=run.rounds)
            return table, np.zeros((run.rounds, 0), np.int64)

        return Sparsifier(
            layers=(),
            gradient=None,
            shared=False,
            hold=0,
            kept=kept,
            score=lambda params, gradients, key: (),
            mask=lambda scores, kept: (),
            stored=lambda client_state: StoredGradient((), jnp.ones((), bool)),
            last=lambda gradients: (),
        )

    return inner._replace(check=check, receive=receive, sparsifier=sparsifier)
