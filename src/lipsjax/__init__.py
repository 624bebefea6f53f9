"""A vectorised simulator of low-data federated learning, with transient sparsity (LIPS).

Names are imported on first use, so that ``import lipsjax`` and ``--help`` do not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what checkers and editors see; test_imports.py holds it to what is below
    from lipsjax import (
        analysis,
        attacks,
        augmentation,
        clients,
        datasets,
        deploy,
        experiments,
        keys,
        local,
        metrics,
        models,
        partition,
        privacy,
        recording,
        report,
        rounds,
        runs,
        simulation,
        sites,
        sparsity,
        strategies,
        strategy,
        tree,
        types,
    )
    from lipsjax.clients import ClientData
    from lipsjax.experiments.python import sweep
    from lipsjax.local import LocalTraining
    from lipsjax.report.results import load_results
    from lipsjax.rounds import Participation
    from lipsjax.runs.given import named
    from lipsjax.simulation import Simulation, build
    from lipsjax.sparsity import transient_sparsity
    from lipsjax.strategies import keep_local
    from lipsjax.strategy import ClientContext, RunContext, ServerContext, Strategy, fedavg
    from lipsjax.types import Model

_HOME = {
    "ClientContext": "lipsjax.strategy",
    "ClientData": "lipsjax.clients",
    "LocalTraining": "lipsjax.local",
    "Model": "lipsjax.types",
    "Participation": "lipsjax.rounds",
    "RunContext": "lipsjax.strategy",
    "ServerContext": "lipsjax.strategy",
    "Simulation": "lipsjax.simulation",
    "Strategy": "lipsjax.strategy",
    "build": "lipsjax.simulation",
    "fedavg": "lipsjax.strategy",
    "keep_local": "lipsjax.strategies",
    "load_results": "lipsjax.report.results",
    "named": "lipsjax.runs.given",
    "sweep": "lipsjax.experiments.python",
    "transient_sparsity": "lipsjax.sparsity",
}
_MODULES = (
    "analysis",
    "attacks",
    "augmentation",
    "clients",
    "datasets",
    "deploy",
    "experiments",
    "keys",
    "local",
    "metrics",
    "models",
    "partition",
    "privacy",
    "recording",
    "report",
    "rounds",
    "runs",
    "simulation",
    "sites",
    "sparsity",
    "strategies",
    "strategy",
    "tree",
    "types",
)

__all__ = [*_HOME, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"lipsjax.{name}")
    raise AttributeError(f"module 'lipsjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
