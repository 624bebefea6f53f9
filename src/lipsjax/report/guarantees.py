"""What each arm promises about privacy, and what the page shows beside it."""

import math
from collections.abc import Mapping
from typing import Any

from lipsjax.analysis.comparison import Row
from lipsjax.privacy.ledger import RELATION_OF, RELATIONS

HEAD = ("arm", "protects", "data that it cannot tell apart", "epsilon", "delta")
OUTSIDE = (
    "Epsilon is of what a run released, all rounds together: of clients its models, of examples "
    "the messages of their site. Losses, personalised accuracies, inertia by clients' updates, and "
    "choices between arms or settings are of raw data, and stand outside of it: show this page to "
    "those alone who may see the data. Arms of one seed share noise, so that no guarantee covers "
    "publishing two."
)


def guarantee_lines(rows: list[Row]) -> list[list[str]]:
    """Return a line per arm, as `HEAD` has it; none where no arm promises anything.

    An arm that promises different things in different cells of a grid has a line in each.

    Args:
      rows: of the comparison.

    Returns:
      Texts, not escaped.
    """
    if all(_privacy(row.config)["clip"] is None for row in rows):
        return []
    found = [(row, _promise(row)) for row in rows if row.config]
    of_arm: dict[str, list[list[str]]] = {}
    for row, promise in found:
        of_arm.setdefault(row.arm, []).append(promise)

    def named(row: Row, promise: list[str]) -> tuple[str, ...]:
        same = all(other == promise for other in of_arm[row.arm])
        return (row.arm if same else f"{row.arm} ({row.cell})", *promise)

    once = dict.fromkeys(named(row, promise) for row, promise in found)
    return [list(line) for line in once]


def _privacy(config: Mapping[str, Any]) -> Mapping[str, Any]:
    # recordings without privacy, and from before there was any, do not speak of it
    return {"unit": "client", "noise_cohort_size": None, **config.get("privacy", {"clip": None})}


def _promise(row: Row) -> list[str]:
    privacy, epsilon = _privacy(row.config), row.means["epsilon"].mean
    if privacy["clip"] is None:
        return ["nobody", "", "none", ""]
    if math.isnan(epsilon):
        return ["nobody", "", "none: a clip without noise", ""]
    unit = privacy["unit"]
    apart = RELATIONS[RELATION_OF[unit]].format(unit=unit)
    protects = "each client" if unit == "client" else "each example, from the server too"
    if privacy["noise_cohort_size"] is not None:
        protects = f"nobody here: noise as of {privacy['noise_cohort_size']:,} clients in a round"
    return [protects, apart, f"{epsilon:.3g}", f"{privacy['delta']:g}"]
