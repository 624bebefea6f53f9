"""Small functions of pytrees and of the layers within them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from lipsjax.types import Array, Kernels, Layer, Params, PyTree


def kernel(params: Params, layer: Layer) -> Array:
    """Return a layer's weight kernel.

    >>> kernel({"stem": {"kernel": 3.0}}, Layer("stem", "stem", "conv", ("stem", "kernel")))
    3.0
    """
    for name in layer.path:
        params = params[name]
    return params


def kernels(params: Params, layers: Sequence[Layer]) -> Kernels:
    """Return the weight kernels of some layers, in the layers' order."""
    return tuple(kernel(params, layer) for layer in layers)


def with_kernels(params: Params, layers: Sequence[Layer], values: Kernels) -> Params:
    """Return params with some layers' kernels replaced; the inverse of :func:`kernels`."""
    by_path = {layer.path: value for layer, value in zip(layers, values, strict=True)}

    def replace(path, leaf):
        return by_path.get(tuple(entry.key for entry in path), leaf)

    return jax.tree_util.tree_map_with_path(replace, params)


def norms(values: Kernels) -> Array:
    """Return the L2 norm of every kernel, in order, [L]."""
    return jnp.stack([jnp.linalg.norm(v.ravel()) for v in values])


def subtract(a: PyTree, b: PyTree) -> PyTree:
    """Return a - b, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def scale(factor: Array, tree: PyTree) -> PyTree:
    """Return factor * tree, leaf by leaf, in each leaf's type."""
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, tree)


def weighted_sum(weights: Array, tree: PyTree) -> PyTree:
    """Sum over the leading axis with weights: ``sum_k weights[k] * leaf[k]``.

    A weight of zero removes its entry even where that is not finite, as padding may be.

    >>> weighted_sum(jnp.array([1.0, 0.0]), {"w": jnp.array([[2.0], [jnp.nan]])})["w"].tolist()
    [2.0]
    """

    def leaf(x):
        w = weights.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))
        return jnp.sum(jnp.where(w != 0, w * x, jnp.zeros_like(x)), axis=0)

    return jax.tree.map(leaf, tree)


def select(condition: Array, a: PyTree, b: PyTree) -> PyTree:
    """Return a where the scalar condition holds, else b."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def size(tree: PyTree) -> int:
    """Return the number of values in a pytree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def pick(tree: PyTree, wanted: Callable[[str], bool]) -> dict[str, Array]:
    """Return the leaves whose path, as ``a/b/c``, is wanted, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = ((jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves)
    return {name: leaf for name, leaf in named if wanted(name)}


def put(tree: PyTree, leaves: dict[str, Array]) -> PyTree:
    """Return a tree with the leaves at these paths replaced; the inverse of :func:`pick`."""

    def replace(path, leaf):
        return leaves.get(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(replace, tree)
