"""One communication round, compiled: what it is made from, its steps, its places."""

from lipsjax.rounds.participation import Participation
from lipsjax.rounds.round import run_round
from lipsjax.rounds.spec import AXIS, Metrics, Setup, State, Tables, cohort, homes, places

__all__ = [
    "AXIS",
    "Metrics",
    "Participation",
    "Setup",
    "State",
    "Tables",
    "cohort",
    "homes",
    "places",
    "run_round",
]
