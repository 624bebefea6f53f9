"""Differential privacy of examples within sites: bounded gradients, and noise on each batch's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lipsjax.privacy import accounting
from lipsjax.privacy.bounds import clipped, gaussian
from lipsjax.privacy.ledger import RELATION_OF, Ledger, Release
from lipsjax.strategies.steps import check_positive
from lipsjax.strategy import Rank, RunContext, Strategy, wrapped
from lipsjax.types import Array, GradientOf, LossAux, LossFn, PyTree, Variables


def private_examples(
    strategy: Strategy,
    *,
    clip: float,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    delta: float = 1e-5,
) -> Strategy:
    r"""Bound each example's gradient in local training, and add Gaussian noise to each batch's.

    Of a batch of b real examples, a local step takes

    .. math:: g = \frac{1}{b} \Big(\sum_{i} g_i \min(1, c / \lVert g_i \rVert) + z c\, \xi\Big),
              \qquad \xi \sim N(0, I)

    over all parameters together, of the client's own noise. Whatever a client sends follows from
    such steps, so that the server need not be trusted: saliency is of these gradients too.

    Batches are those of plain training, each example in one of every epoch; no amplification by
    sampling is claimed. Epochs add up as one Gaussian each, over all rounds in which a client may
    be. How many examples a client holds is public, and no example may be at two sites. Losses are
    taken of one example at a time. Fine-tuning after the last round is not covered.

    Args:
      strategy: any that federates one model. Inputs must not have been normalised by the clients'
        own data.
      clip: c, above 0.
      noise_multiplier: z, at least 0; or epsilon is given.
      epsilon: that a client's whole training may spend at ``delta``; the least z is found, by PLD.
        Needs dp-accounting.
      delta: below 1 / n of the largest site, as a chance of that allows to give one example away.

    Returns:
      A :class:`Strategy` with a ledger, of one client.

    Raises:
      ValueError: for a value out of range, or if it cannot wrap the strategy; when a simulation is
        built, for models with running statistics, which batches share.

    References:
      Abadi et al., "Deep Learning with Differential Privacy", arXiv 1607.00133.

    Example:
      >>> import optax
      >>> from lipsjax.local import LocalTraining
      >>> from lipsjax.strategies import fedavg
      >>> training = LocalTraining(optax.sgd(0.1), epochs=5, batch_size=4)
      >>> run = RunContext(rounds=8, num_examples=(5, 9), training=training)
      >>> private_examples(fedavg(), clip=1.0, noise_multiplier=2.0).ledger(run).releases
      (Release(noise_multiplier=2.0, sampling=1.0, rounds=40),)
    """
    check_positive(clip=clip)
    accounting.check_noise(noise_multiplier, epsilon, delta)
    strategy = wrapped(strategy, "private_examples")
    if strategy.personal_model is not None:
        raise ValueError(
            "private_examples cannot wrap what trains a second model of each client, as ditto "
            "does: its steps are in no ledger"
        )

    def multiplier(run: RunContext) -> float:
        if noise_multiplier is not None:
            return noise_multiplier
        assert epsilon is not None
        rounds = run.turns * run.training.epochs
        return accounting.noise_multiplier(epsilon, delta, sampling=1.0, rounds=rounds)

    def ledger(run: RunContext) -> Ledger:
        each = run.training.epochs
        release = Release(multiplier(run), 1.0, run.turns * each)
        relation = RELATION_OF["example"]
        return Ledger("example", relation, (release,), delta, each=each, period=run.period)

    def check(run: RunContext) -> None:
        strategy.check(run)
        most = max(run.num_examples)
        if delta >= 1 / most:
            raise ValueError(f"delta must be below 1 / {most}, a site's examples, not {delta:g}")

    def init_client(run: RunContext, initial: Variables) -> PyTree:
        if jax.tree.leaves(initial.batch_stats):
            raise ValueError(
                "private_examples cannot train with running statistics, in which the examples of "
                "a batch meet: use a model with another normalisation (--model.norm group), in "
                "all arms that are compared"
            )
        return strategy.init_client(run, initial)

    return strategy._replace(
        check=check,
        init_client=init_client,
        gradient=lambda run: bounded(clip=clip, noise_multiplier=multiplier(run)),
        ledger=ledger,
        refuses={
            **strategy.refuses,
            Rank.PRIVATE: "a run has one guarantee, of clients or of examples",
        },
    )


def bounded(*, clip: float, noise_multiplier: float) -> GradientOf:
    """Return what takes each example's gradient, bounds it, and adds noise to the sum.

    Args:
      clip: on the norm of each example's.
      noise_multiplier: deviation of the noise over the clip.
    """

    def gradient_of(loss_fn: LossFn):
        plain = jax.value_and_grad(loss_fn, has_aux=True)

        def of_batch(key, params, batch_stats, images, labels, mask):
            def of_example(image, label, is_real):
                alone = jnp.ones(1, bool)
                (loss, _), gradient = plain(params, batch_stats, image[None], label[None], alone)
                short, _ = clipped(gradient, clip)
                return jax.tree.map(lambda x: jnp.where(is_real, x, 0), (loss, short))

            loss, total = _summed(of_example, images, labels, mask)
            count = jnp.maximum(jnp.sum(mask), 1)

            def noised(x, noise):
                return (x + noise_multiplier * clip * noise) / count.astype(x.dtype)

            gradient = jax.tree.map(noised, total, gaussian(key, params))
            return (loss / count.astype(loss.dtype), LossAux(batch_stats, None)), gradient

        return of_batch

    return gradient_of


def _summed(function: Callable[..., PyTree], *batch: Array) -> PyTree:
    """Sum a function over a batch: on CPU one after the other, as gradients of many are slow there.

    ``benchmarks/README.md`` has the measurement.
    """

    def one_by_one(*batch):
        each = jax.eval_shape(function, *(x[0] for x in batch))
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), each)

        def add(total, one):
            return jax.tree.map(jnp.add, total, function(*one)), None

        return jax.lax.scan(add, zero, batch)[0]

    def at_once(*batch):
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.vmap(function)(*batch))

    return jax.lax.platform_dependent(*batch, cpu=one_by_one, default=at_once)
