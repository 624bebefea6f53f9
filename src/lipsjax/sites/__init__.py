"""What sites compute on and are linked by, and how long a study would take them."""

from lipsjax.sites.clock import Affordable, Clock, Work, afford, chosen, round_clock, turn_clock
from lipsjax.sites.devices import SHIPPED, Device, assign, read
from lipsjax.sites.turns import take_turns

__all__ = [
    "SHIPPED",
    "Affordable",
    "Clock",
    "Device",
    "Work",
    "afford",
    "assign",
    "chosen",
    "read",
    "round_clock",
    "take_turns",
    "turn_clock",
]
