"""A vectorised simulator of low-data federated learning, with transient sparsity (LIPS).

Names are imported on first use, so that ``import lipsjax`` and ``--help`` do not wait for JAX.
"""

import importlib
from typing import Any

_HOME = {
    "ClientData": "lipsjax.clients",
    "LocalTraining": "lipsjax.local",
    "Model": "lipsjax.types",
    "Participation": "lipsjax.rounds",
    "Simulation": "lipsjax.simulation",
    "Strategy": "lipsjax.strategy",
    "build": "lipsjax.simulation",
    "fedavg": "lipsjax.strategy",
    "keep_local": "lipsjax.strategies",
    "transient_sparsity": "lipsjax.sparsity",
}
_MODULES = (
    "clients",
    "datasets",
    "local",
    "metrics",
    "models",
    "partition",
    "simulation",
    "sparsity",
    "strategies",
)

__all__ = [*_HOME, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"lipsjax.{name}")
    raise AttributeError(f"module 'lipsjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
