"""Federated strategies as values; one file per published method."""

from lipsjax.strategies.canaries import canaries
from lipsjax.strategies.compression import Codec, compress, quantise, sign_majority, top_k
from lipsjax.strategies.constant_topk import constant_topk
from lipsjax.strategies.ditto import ditto
from lipsjax.strategies.dsd import dsd
from lipsjax.strategies.faults import faulty
from lipsjax.strategies.fedbabu import fedbabu
from lipsjax.strategies.fedbuff import fedbuff
from lipsjax.strategies.feddst import feddst
from lipsjax.strategies.feddyn import feddyn
from lipsjax.strategies.fednova import fednova
from lipsjax.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedopt, fedyogi
from lipsjax.strategies.fedpart import fedpart
from lipsjax.strategies.fedper import fedper
from lipsjax.strategies.fedprox import fedprox
from lipsjax.strategies.fedrep import fedrep
from lipsjax.strategies.ifa import ifa
from lipsjax.strategies.keep_local import keep_local
from lipsjax.strategies.local import local
from lipsjax.strategies.moon import moon
from lipsjax.strategies.private import private
from lipsjax.strategies.private_examples import private_examples
from lipsjax.strategies.robust import clip, median, trimmed_mean
from lipsjax.strategies.scaffold import scaffold
from lipsjax.strategies.secure import secure
from lipsjax.strategies.submodels import submodels
from lipsjax.strategy import Strategy, fedavg

__all__ = [
    "Codec",
    "Strategy",
    "canaries",
    "clip",
    "compress",
    "constant_topk",
    "ditto",
    "dsd",
    "faulty",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedbabu",
    "fedbuff",
    "feddst",
    "feddyn",
    "fednova",
    "fedopt",
    "fedpart",
    "fedper",
    "fedprox",
    "fedrep",
    "fedyogi",
    "ifa",
    "keep_local",
    "local",
    "median",
    "moon",
    "private",
    "private_examples",
    "quantise",
    "scaffold",
    "secure",
    "sign_majority",
    "submodels",
    "top_k",
    "trimmed_mean",
]
