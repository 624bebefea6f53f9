"""Masks: which weights of the average go out, and when."""

from lipsjax.sparsity.constant_topk import constant_topk
from lipsjax.sparsity.density import constant, cosine, cubic, linear
from lipsjax.sparsity.dsd import dsd
from lipsjax.sparsity.feddst import feddst
from lipsjax.sparsity.shrinking import transient_shrink
from lipsjax.sparsity.transient import transient_sparsity

__all__ = [
    "constant",
    "constant_topk",
    "cosine",
    "cubic",
    "dsd",
    "feddst",
    "linear",
    "transient_shrink",
    "transient_sparsity",
]
