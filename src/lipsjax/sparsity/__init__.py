"""Masks: which weights of the global model are sent, and when."""

from lipsjax.sparsity.density import constant, cosine, cubic, linear
from lipsjax.sparsity.shrinking import transient_shrink
from lipsjax.sparsity.transient import transient_sparsity

__all__ = [
    "constant",
    "cosine",
    "cubic",
    "linear",
    "transient_shrink",
    "transient_sparsity",
]
