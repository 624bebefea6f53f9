"""How far local SGD goes: what methods divide by that undo the number of steps."""

import jax.numpy as jnp
import optax

from lipsjax.types import Array, PyTree


def effective_steps(steps: Array, momentum: float) -> Array:
    """Return ``||a||_1``: the summed weights of the gradients in what a client's training changed.

    SGD with momentum m moves by ``-lr sum_j a_j g_j`` in s steps, with
    ``a_j = (1 - m^(s - j + 1)) / (1 - m)``, so that ``||a||_1 = (s - m (1 - m^s) / (1 - m)) /
    (1 - m)``, which is s without momentum.

    References:
      Wang et al., arXiv 2007.07481, section 4.

    >>> import jax.numpy as jnp
    >>> [round(float(effective_steps(jnp.array(s), 0.5)), 3) for s in (1, 2, 3)]  # 1, 1 + 1.5, ...
    [1.0, 2.5, 4.25]
    """
    s = steps.astype(jnp.result_type(float))
    m = momentum
    return (s - m * (1 - m**s) / (1 - m)) / (1 - m)


def add_to_gradient(
    optimizer: optax.GradientTransformation, correction: PyTree
) -> optax.GradientTransformation:
    """Return an optimizer that adds a constant to every gradient first."""

    def update(updates, state, params=None):
        return optimizer.update(optax.tree.add(updates, correction), state, params)

    return optax.GradientTransformation(optimizer.init, update)


def check_fraction(**values: float) -> None:
    """Refuse a weight of the past that is not in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), not {value}")


def check_positive(**values: float) -> None:
    """Refuse a value that must be above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}")
