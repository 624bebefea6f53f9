"""Figures of a study: pure functions from recordings and comparison rows to a :class:`Drawing`.

Nothing here touches pyplot's global state or the disk.
"""

from lipsjax.report.plots.curves import (
    accuracy_cells,
    accuracy_curves,
    accuracy_hours,
    changes,
    class_mix,
    inertia_heatmap,
    relative_steps,
    stages,
)
from lipsjax.report.plots.effects import cost, coupling, sites
from lipsjax.report.plots.figures import (
    PAINTS,
    PANEL,
    Drawing,
    arm_class,
    csv_link,
    csv_text,
    svg,
)
from lipsjax.report.plots.forest import ACCURACIES, forest, pairs, summary_forest
from lipsjax.report.plots.leaks import gallery, leakage
from lipsjax.report.plots.maps import (
    MARKS,
    PLANNED,
    Grid,
    effect_map,
    found,
    grid_of,
    largest_difference,
)
from lipsjax.report.plots.roles import Arms, Look, looks, looks_of

__all__ = [
    "ACCURACIES",
    "MARKS",
    "PAINTS",
    "PANEL",
    "PLANNED",
    "Arms",
    "Drawing",
    "Grid",
    "Look",
    "accuracy_cells",
    "accuracy_curves",
    "accuracy_hours",
    "arm_class",
    "changes",
    "class_mix",
    "cost",
    "coupling",
    "csv_link",
    "csv_text",
    "effect_map",
    "forest",
    "found",
    "gallery",
    "grid_of",
    "inertia_heatmap",
    "largest_difference",
    "leakage",
    "looks",
    "looks_of",
    "pairs",
    "relative_steps",
    "sites",
    "stages",
    "summary_forest",
    "svg",
]
