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
from lipsjax.sparsity.transient import WRAPPERS, maskable
from lipsjax.strategy import Downlink, Strategy, fits, seeing
from lipsjax.types import Layer, Received, Variables


def transient_shrink(
    strategy: Strategy,
    *,
    layers: tuple[Layer, ...],
    density: densities.Schedule | float = 0.5,
    every: int = 5,
    perturb: bool = False,
    kinds: tuple[str, ...] = ("conv",),
) -> Strategy:
    """Shrink the middle layers of the average, every few rounds, before clients train.

    After round i = 0..T-1, where ``i mod every == 0`` and ``d_i = density(i / T) < 1``, client k
    receives ``sqrt(d_i) w``, or with ``perturb`` ``sqrt(d_i) w + sqrt(1 - d_i) e_k``: e_k is normal
    with the layer's initial standard deviation, so that a layer as large as at its start keeps its
    norm. In all other rounds it receives w. Nothing is masked.

    Args:
      strategy: what clients and server do otherwise.
      layers: the model's layers; the middle ones of ``kinds`` shrink.
      density: schedule of d, in (0, 1]; a number d0 means ``linear(d0, 1.0)``.
      every: rounds between such broadcasts, at least 1.
      perturb: whether noise is added, drawn per client and round.
      kinds: kinds of middle layers that shrink.

    Returns:
      A strategy with a ``downlink`` that masks nothing. State: server, the initial deviations. It
      costs no bits: a client that knows the schedule can do it by itself.

    Raises:
      ValueError: as :func:`~lipsjax.sparsity.transient.transient_sparsity`.

    References:
      With noise: Ash and Adams, "On Warm-Starting Neural Network Training", arXiv 1910.08475,
      there with a constant factor and deviation.

    Example:
      >>> from lipsjax import fedavg, models
      >>> model = models.build("cnn", num_classes=10, image_shape=(8, 8, 1))
      >>> control = transient_shrink(fedavg(), layers=model.layers, density=0.5, every=5)
      >>> control.downlink.layers
      ()
    """
    fits(strategy, "transient_sparsity")
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    schedule = density if callable(density) else densities.linear(density)
    shrunk = maskable(layers, kinds)

    def kept(variables: Variables, rounds: int) -> tuple[np.ndarray, np.ndarray]:
        del variables
        table = densities.density_table(schedule, every=every, rounds=rounds)
        return table, np.zeros((rounds, 0), np.int64)

    def init_server(initial: Variables, key):
        source = masking.refill_source("noise", tree.kernels(initial.params, shrunk))
        return source, strategy.init_server(initial, key)

    def receive(server, client, average, delivery):
        source, server = server
        variables = strategy.receive(server, client, average, None)
        if delivery is None:
            return variables

        def shrink(variables: Variables) -> Variables:
            kernels = tree.kernels(variables.params, shrunk)
            d = delivery.density.astype(kernels[0].dtype)
            new = tree.scale(jnp.sqrt(d), kernels)
            if perturb:
                noise = masking.refill_values("noise", source, kernels, delivery.key)
                new = jax.tree.map(jnp.add, new, tree.scale(jnp.sqrt(1 - d), noise))
            return variables._replace(params=tree.with_kernels(variables.params, shrunk, new))

        return jax.lax.cond(delivery.sparse, shrink, lambda v: v, variables)

    def inner(received: Received) -> Received:
        return received._replace(server=received.server[1], delivery=None)

    def update(server, average, mean):
        average, inner_server = strategy.update(server[1], average, mean)
        return average, (server[0], inner_server)

    return seeing(strategy, inner)._replace(
        init_server=init_server,
        receive=receive,
        send=lambda received, result: strategy.send(inner(received), result),
        update=update,
        refuses={**strategy.refuses, **dict.fromkeys(WRAPPERS, "its average is shrunk already")},
        downlink=Downlink(
            layers=(),
            gradient=None,
            shared=False,
            hold=0,
            kept=kept,
            score=lambda params, gradients, key: (),
            mask=lambda scores, kept: (),
            stored=lambda client: ((), jnp.ones((), bool)),
            last=lambda gradients: (),
        ),
    )
