"""Figures of a study: pure functions from recordings and comparison rows to a :class:`Drawing`.

Nothing here touches pyplot's global state or the disk.
"""

from lipsjax.report.plots.curves import (
    Arms,
    accuracy_cells,
    accuracy_curves,
    changes,
    class_mix,
    inertia_heatmap,
    relative_steps,
    stages,
)
from lipsjax.report.plots.effects import ACCURACIES, cost, coupling, forest, pairs, sites
from lipsjax.report.plots.figures import PAINTS, PANEL, Drawing, colours, csv_link, csv_text, svg
from lipsjax.report.plots.maps import MARKS, Grid, effect_map, grid_of, largest_difference

__all__ = [
    "ACCURACIES",
    "MARKS",
    "PAINTS",
    "PANEL",
    "Arms",
    "Drawing",
    "Grid",
    "accuracy_cells",
    "accuracy_curves",
    "changes",
    "class_mix",
    "colours",
    "cost",
    "coupling",
    "csv_link",
    "csv_text",
    "effect_map",
    "forest",
    "grid_of",
    "inertia_heatmap",
    "largest_difference",
    "pairs",
    "relative_steps",
    "sites",
    "stages",
    "svg",
]
