"""Read the inputs of a biased linear first layer off its gradient."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from lipsjax.types import Array


class Read(NamedTuple):
    """What a linear layer gives away."""

    inputs: Array  # [units, D], one candidate for each unit
    strength: Array  # [units], size of the unit's bias gradient; 0: it says nothing


def invert_linear(kernel: Array, bias: Array) -> Read:
    """Divide a linear layer's kernel gradient by its bias gradient.

    With ``y = x W + b`` a batch gives ``dL/dW_u = sum_i d_iu x_i`` and ``dL/db_u = sum_i d_iu``,
    so their ratio is the mean of the inputs weighed by ``d_iu``: of one example, or where only one
    of a batch passes a ReLU's unit u, the input itself. What local training adds to both over
    several steps stands for their gradients; factors that both share cancel.

    Args:
      kernel: [D, units], gradient or delta of the kernel.
      bias: [units], of the bias.

    Returns:
      A candidate for each unit. Units without a gradient give zeros, of strength 0.

    References:
      Phong et al., "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE
      TIFS 2018; Geiping et al., arXiv 2003.14053, proposition 3.1.

    Example:
      >>> x, d = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.0, -2.0])
      >>> read = invert_linear(jnp.outer(x, d), d)
      >>> read.inputs.tolist(), read.strength.tolist()
      ([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]], [0.5, 0.0, 2.0])
    """
    chex.assert_rank([kernel, bias], [2, 1])
    chex.assert_equal(kernel.shape[1], bias.shape[0])
    says = bias != 0
    inputs = jnp.where(says, kernel / jnp.where(says, bias, 1), 0).T
    return Read(inputs, jnp.abs(bias))
