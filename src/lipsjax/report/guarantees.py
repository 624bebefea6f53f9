"""What each arm promises about privacy, and what the page shows beside it."""

import math
from collections.abc import Mapping
from typing import Any

from lipsjax.analysis.comparison import Row
from lipsjax.privacy.ledger import RELATIONS

HEAD = ("arm", "protects", "data that it cannot tell apart", "epsilon", "delta")
OUTSIDE = (
    "Epsilon is of what a run released, all rounds together: of clients its models, of examples "
    "the messages of their site. Losses, personalised accuracies, inertia by clients' updates, and "
    "choices between arms or settings are of raw data, and stand outside of it: show this page to "
    "those alone who may see the data. Arms of one seed share noise, so that no guarantee covers "
    "publishing two."
)
_RELATION = {"client": "add_or_remove_one", "example": "replace_special"}


def guarantee_lines(rows: list[Row]) -> list[list[str]]:
    """Return a line per cell and arm, as `HEAD` has it; none where no arm promises anything.

    Args:
      rows: of the comparison.

    Returns:
      Texts, not escaped.
    """
    if all(_privacy(row.config)["clip"] is None for row in rows):
        return []
    return [_line(row) for row in rows if row.config]


def _privacy(config: Mapping[str, Any]) -> Mapping[str, Any]:
    # recordings without privacy, and from before there was any, do not speak of it
    return {"unit": "client", "noise_cohort_size": None, **config.get("privacy", {"clip": None})}


def _line(row: Row) -> list[str]:
    arm = f"{row.arm} ({row.cell})" if row.cell else row.arm
    privacy, epsilon = _privacy(row.config), row.means["epsilon"].mean
    if privacy["clip"] is None:
        return [arm, "nobody", "", "none", ""]
    if math.isnan(epsilon):
        return [arm, "nobody", "", "none: a clip without noise", ""]
    unit = privacy["unit"]
    apart = RELATIONS[_RELATION[unit]].format(unit=unit)
    protects = "each client" if unit == "client" else "each example, from the server too"
    if privacy["noise_cohort_size"] is not None:
        protects = f"nobody here: noise as of {privacy['noise_cohort_size']:,} clients in a round"
    return [arm, protects, apart, f"{epsilon:.3g}", f"{privacy['delta']:g}"]
