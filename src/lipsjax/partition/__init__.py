"""Who holds which examples, how many, and what sets them apart: the split of a data set."""

from lipsjax.partition.features import distort
from lipsjax.partition.natural import natural, whole_for_testing
from lipsjax.partition.quantity import sizes
from lipsjax.partition.splits import Partition, dirichlet, iid, pool, shards
from lipsjax.partition.survey import Survey, describe

__all__ = [
    "Partition",
    "Survey",
    "describe",
    "dirichlet",
    "distort",
    "iid",
    "natural",
    "pool",
    "shards",
    "sizes",
    "whole_for_testing",
]
