"""Federated strategies as values."""

from lipsjax.strategies.base import Downlink, Strategy, fedavg, keep_local

__all__ = ["Downlink", "Strategy", "fedavg", "keep_local"]
