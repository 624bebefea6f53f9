"""Federated strategies as values; one file per published method."""

from lipsjax.strategies.base import Downlink, Strategy, fedavg, keep_local
from lipsjax.strategies.feddyn import feddyn
from lipsjax.strategies.fednova import fednova
from lipsjax.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedopt, fedyogi
from lipsjax.strategies.fedprox import fedprox
from lipsjax.strategies.scaffold import scaffold

__all__ = [
    "Downlink",
    "Strategy",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "feddyn",
    "fednova",
    "fedopt",
    "fedprox",
    "fedyogi",
    "keep_local",
    "scaffold",
]
