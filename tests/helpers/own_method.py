"""A package as somebody else would bring it: a model, two strategies, data, a measure and more.

Tests copy it into a folder of its own, beside entry points; nothing of the package names it.
"""
# ruff: noqa: ARG001

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lipsjax as lj
from lipsjax.models.layers import Dense
from lipsjax.types import Layer, Variables


class Small(nn.Module):
    """Two layers of a few units, and a classifier."""

    num_classes: int
    units: int = 4

    @nn.compact
    def __call__(self, x, *, mask, train):
        x = x.reshape(len(x), -1)
        for name in ("stem", "hidden"):
            x = nn.relu(Dense(self.units, name=name)(x))
        return Dense(self.num_classes, name="classifier")(x)

    def layers(self):
        roles = (("stem", "stem"), ("hidden", "middle"), ("classifier", "classifier"))
        return tuple(Layer(name, role, "dense", (name, "kernel")) for name, role in roles)


def fedsam(rho: float = 0.05) -> lj.Strategy:
    """FedSAM (arXiv 2206.02618): each step follows the gradient at w + rho g / ||g||."""

    def shaped(loss_fn, context):
        def sharp(params, batch_stats, *batch):
            gradient = jax.grad(lambda p: loss_fn(p, batch_stats, *batch)[0])(params)
            scale = rho / (optax.tree.norm(gradient) + 1e-12)
            ascent = jax.lax.stop_gradient(jax.tree.map(lambda g: scale * g, gradient))
            return loss_fn(optax.apply_updates(params, ascent), batch_stats, *batch)

        return sharp

    return lj.fedavg()._replace(name="fedsam", loss=shaped)


def fedexp(epsilon: float = 1e-3) -> lj.Strategy:
    """FedExP (arXiv 2301.09604): w <- w + max(1, mean ||d_k||^2 / 2 (||d||^2 + e)) d."""

    def send(context, result):
        delta = lj.tree.subtract(result.variables.params, context.variables.params)
        size = optax.tree.norm(delta) ** 2
        return (delta, size, result.variables.batch_stats), context.client_state

    def update(context, mean):
        delta, sizes, batch_stats = mean
        rate = jnp.maximum(1, sizes / (2 * (optax.tree.norm(delta) ** 2 + epsilon)))
        step = jax.tree.map(lambda d: rate.astype(d.dtype) * d, delta)
        params = optax.apply_updates(context.global_model.params, step)
        return Variables(params, batch_stats), context.server_state

    uniform = {"weight": jnp.ones_like}
    return lj.fedavg()._replace(name="fedexp", send=send, update=update, relative=True, **uniform)


def bars(size: int = 6) -> lj.datasets.Dataset:
    """Upright and level bars in noise, the same at every call."""
    rng = np.random.default_rng(7)

    def draw(count):
        labels = rng.integers(0, 2, count)
        wave = np.sin(np.arange(size))
        clean = np.where(labels[:, None, None] == 1, wave[:, None], wave[None, :])
        images = (clean + rng.normal(0, 0.3, clean.shape)).astype(np.float32)
        return lj.types.Examples(images[..., None], labels.astype(np.int32))

    return lj.datasets.Dataset("bars", draw(120), draw(60), num_classes=2)


def in_turn(dataset, *, rng, clients, size=10):
    """Client k holds examples k, k + K, ... of a shuffled split, ``size`` of each."""
    train, test = (rng.permutation(len(x.labels)) for x in (dataset.train, dataset.test))
    held = [tuple(order[k::clients][:size] for k in range(clients)) for order in (train, test)]
    return lj.partition.Partition(*held, np.full((clients, dataset.num_classes), 0.5))


def squared(weights, gradient, key):
    """Keep what (g w)^2 is largest of."""
    return (gradient * weights) ** 2


def largest_step(old, new, layers):
    """The largest step of any weight, and of the first layer's."""
    steps = [
        jnp.max(jnp.abs(lj.tree.kernels(new, (x,))[0] - lj.tree.kernels(old, (x,))[0]))
        for x in layers
    ]
    return {"largest_step": jnp.max(jnp.stack(steps)), "stem_step": steps[0]}
