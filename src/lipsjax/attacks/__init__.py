"""What a client's message gives away: attacks of a server that does as it should, and looks.

Each attack is written for one client; the caller vmaps. What an attack did not find is not safe: a
stronger one may find it.
"""

from lipsjax.attacks.bitmaps import Bitmaps, read_mixes
from lipsjax.attacks.canaries import canary_scores
from lipsjax.attacks.labels import as_labels, expected_counts, overlap, whole_counts
from lipsjax.attacks.likeness import Likeness, compare, distinct
from lipsjax.attacks.linear import Read, invert_linear
from lipsjax.attacks.matching import (
    COSINE,
    DLG,
    Found,
    Search,
    distance,
    objective_of,
    reconstruct,
    simulate,
    total_variation,
)
from lipsjax.attacks.membership import against_others, margin
from lipsjax.attacks.seen import Seen, aware, nearest_start, revealed, unaware

__all__ = [
    "COSINE",
    "DLG",
    "Bitmaps",
    "Found",
    "Likeness",
    "Read",
    "Search",
    "Seen",
    "against_others",
    "as_labels",
    "aware",
    "canary_scores",
    "compare",
    "distance",
    "distinct",
    "expected_counts",
    "invert_linear",
    "margin",
    "nearest_start",
    "objective_of",
    "overlap",
    "read_mixes",
    "reconstruct",
    "revealed",
    "simulate",
    "total_variation",
    "unaware",
    "whole_counts",
]
