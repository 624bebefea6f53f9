"""What a study that is run until it is decided asks for. No JAX here.

::

    [until]                     # in a TOML file, or --until decided --margin 1 --max-seeds 40
    margin = 1
    max_seeds = 40
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from lipsjax.runs.fields import nearest, shown

LOOKS = (8, 12, 16, 24, 32, 40)
"""Seeds of the looks that are taken where none are named: those below the most seeds, then it."""
MOST_SEEDS = 1000
"""Largest number of seeds of a plan, so that a slip of the pen is refused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Until:
    """Seeds are run batch by batch, and looked at as planned, until all comparisons are decided."""

    margin: float = 1.0
    """Points of accuracy within which a difference does not matter."""
    max_seeds: int = 40
    """Seeds of the last look: what is open then is not decided."""
    looks: tuple[int, ...] = ()
    """Seeds at each look, the last equal to max_seeds; none: of 8, 12, 16, 24, 32, 40 those below
    max_seeds, then it."""
    measures: tuple[Literal["personalised", "global"], ...] = ("personalised",)
    """Accuracies that are decided about."""
    order: Literal["recycled", "gated"] = "recycled"
    """How comparisons share the error: recycled on each claim, or one after the other."""
    arms: tuple[str, ...] = ()
    """Arms that are decided about, the others run the study's seeds; none: all compared ones."""
    most_runs: int | None = None
    """Runs of the whole study that are not exceeded; what is open then is not decided."""


def looks_of(until: Until) -> tuple[int, ...]:
    """Return the seeds at each look.

    Example:
      >>> looks_of(Until(max_seeds=20)), looks_of(Until(max_seeds=5))
      ((8, 12, 16, 20), (5,))
    """
    derived = (*(seeds for seeds in LOOKS if seeds < until.max_seeds), until.max_seeds)
    return until.looks or derived


def decided_arms(until: Until, references: Mapping[str, str]) -> tuple[str, ...]:
    """Return the arms that are decided about, in the study's order.

    Args:
      until: what is asked for.
      references: of all arms; the first one's is itself.

    Example:
      >>> decided_arms(Until(), {"dense": "dense", "local": "dense", "lips": "dense"})
      ('local', 'lips')
    """
    named = [" ".join(arm.split()) for arm in until.arms]
    compared = (arm for arm, reference in references.items() if arm != reference)
    return tuple(arm for arm in compared if not named or arm in named)


def seeds_at_most(until: Until | None, references: Mapping[str, str], seeds: int) -> dict[str, int]:
    """Return how many seeds each arm runs at most.

    Example:
      >>> own = {"dense": "dense", "local": "dense", "lips": "dense"}
      >>> seeds_at_most(Until(max_seeds=20, arms=("lips",)), own, 5)
      {'dense': 20, 'local': 5, 'lips': 20}
    """
    if until is None:
        return dict.fromkeys(references, seeds)
    decided = decided_arms(until, references)
    followed = {*decided, *(references[arm] for arm in decided)}
    return {arm: until.max_seeds if arm in followed else seeds for arm in references}


def check_until(until: Until, references: Mapping[str, str], seeds: int) -> None:
    """Refuse what is no plan of looks.

    Args:
      until: what is asked for.
      references: of all arms.
      seeds: of the arms that are not decided about.

    Raises:
      ValueError: naming the field, its value and what is allowed.
    """
    if not 0 < until.margin <= 50 or not math.isfinite(until.margin):
        raise ValueError(f"margin must be above 0 and at most 50 points, not {until.margin:g}")
    if not 2 <= until.max_seeds <= MOST_SEEDS:
        raise ValueError(f"max_seeds must be in 2..{MOST_SEEDS}, not {shown(until.max_seeds)}")
    if not until.measures:
        raise ValueError("measures must name personalised, global, or both")
    if len({*until.measures}) < len(until.measures):
        raise ValueError(f"measures names {until.measures[0]} twice")
    if until.most_runs is not None and until.most_runs < 1:
        raise ValueError(f"most_runs must be at least 1, not {shown(until.most_runs)}")
    _check_looks(looks_of(until), until.max_seeds)
    _check_arms(until.arms, references)
    if until.arms and seeds > until.max_seeds:
        raise ValueError(
            f"seeds of the arms that are not decided about must be at most max_seeds, "
            f"{until.max_seeds}, not {seeds}"
        )


def _check_looks(looks: Sequence[int], last: int) -> None:
    told = " ".join(map(str, looks[:20]))
    if looks[0] < 2:
        raise ValueError(f"looks must begin with at least 2 seeds, not {shown(looks[0])}")
    if any(a >= b for a, b in itertools.pairwise(looks)):
        raise ValueError(f"looks must rise, not {told}")
    if looks[-1] != last:
        raise ValueError(f"looks must end with max_seeds, {last}, not with {shown(looks[-1])}")


def _check_arms(arms: Sequence[str], references: Mapping[str, str]) -> None:
    if len(references) < 2:
        raise ValueError(f"until needs two arms, and the study has {', '.join(references)} alone")
    named = [" ".join(arm.split()) for arm in arms]
    for i, arm in enumerate(named):
        if arm not in references:
            hint = nearest(arm, references)
            raise ValueError(
                f"unknown arm {shown(arm)} to decide about{hint}; there are {', '.join(references)}"
            )
        if references[arm] == arm:
            raise ValueError(f"{arm} is what others are compared with: there is nothing to decide")
        if arm in named[:i]:
            raise ValueError(f"{arm} is to be decided about twice")
