"""The same round as one first writes it in JAX: Flax's own layers, a vmap over clients, a scan."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from torch_loop import Average, to_torch, torch_name
from workloads import CLASSES, Workload


class ResNet8(nn.Module):
    """W2's network, of ``nn.Conv``, ``nn.BatchNorm``, ``nn.max_pool`` and ``nn.Dense``."""

    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Return logits [B, 10]."""

        def conv(features, size, stride, padding, name):
            return nn.Conv(
                features,
                (size, size),
                (stride, stride),
                padding,
                use_bias=False,
                param_dtype=self.dtype,
                name=name,
            )

        def norm(name):
            return nn.BatchNorm(
                use_running_average=False, momentum=0.9, param_dtype=self.dtype, name=name
            )

        x = nn.relu(norm("norm_stem")(conv(64, 7, 2, 3, "stem")(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        for i, width in enumerate((64, 128, 256), start=1):
            stride = 1 if i == 1 else 2
            y = nn.relu(
                norm(f"norm_block{i}_conv1")(conv(width, 3, stride, 1, f"block{i}_conv1")(x))
            )
            y = norm(f"norm_block{i}_conv2")(conv(width, 3, 1, 1, f"block{i}_conv2")(y))
            if stride != 1:
                x = conv(width, 1, stride, 0, f"block{i}_shortcut")(x)
                x = norm(f"norm_block{i}_shortcut")(x)
            x = nn.relu(x + y)
        return nn.Dense(CLASSES, param_dtype=self.dtype, name="classifier")(x.mean((1, 2)))


def make_round(workload: Workload, initial: Any, batches: Any):
    """Return a function that trains W2's clients from ``initial`` and gives their average.

    Args:
      workload: its SGD.
      initial: params and running statistics of lipsjax.
      batches: per client, uint8 images [steps, B, H, W, C] and labels [steps, B].

    Returns:
      The function, and what turns its result into arrays by PyTorch's names.
    """
    by_name = to_torch(initial)
    dtype = next(iter(by_name.values())).dtype
    model, optimizer = ResNet8(dtype), optax.sgd(workload.learning_rate, workload.momentum)
    images = np.stack([x for x, _ in batches]).astype(dtype) / 255
    labels = np.stack([y for _, y in batches])
    empty = jax.eval_shape(model.init, jax.random.key(0), images[0, 0])
    variables = _filled(empty, by_name)

    def train(images, labels):
        def step(carry, batch):
            params, statistics, state = carry

            def loss(params):
                logits, new = model.apply(
                    {"params": params, "batch_stats": statistics}, batch[0], mutable="batch_stats"
                )
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
                return losses.mean(), new["batch_stats"]

            gradient, statistics = jax.grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), statistics, state), None

        params = variables["params"]
        start = params, variables["batch_stats"], optimizer.init(params)
        (params, statistics, _), _ = jax.lax.scan(step, start, (images, labels))
        return {"params": params, "batch_stats": statistics}

    @jax.jit
    def one_round(images, labels):
        return jax.tree.map(lambda x: x.mean(0), jax.vmap(train)(images, labels))

    images, labels = jnp.asarray(images), jnp.asarray(labels)
    return lambda: one_round(images, labels)


def _filled(empty: Any, by_name: Average) -> Any:
    """Return Flax variables of these shapes with the values of lipsjax."""

    def fill(path, leaf):
        value = by_name[torch_name(path)]
        if leaf.ndim > 1:
            value = value.transpose(2, 3, 1, 0) if leaf.ndim == 4 else value.T
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(fill, empty)
