"""One communication round, compiled: what it is made from, its steps, its places."""

from lipsjax.rounds.participation import Participation, Turns
from lipsjax.rounds.placement import AXIS, Placement
from lipsjax.rounds.round import run_round
from lipsjax.rounds.spec import Metrics, PerRound, RoundSpec, State

__all__ = [
    "AXIS",
    "Metrics",
    "Participation",
    "PerRound",
    "Placement",
    "RoundSpec",
    "State",
    "Turns",
    "run_round",
]
