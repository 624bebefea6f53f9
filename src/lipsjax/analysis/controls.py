"""Is it the saliency, or would any disturbance do? LIPS against the controls of itself.

A control is an arm of transient sparsity that differs from the LIPS arm in its criterion,
operation, sharing, hold or trigger, and in nothing else that it reads. It is found by its config,
whatever it is called. Only controls of another criterion or operation lack the saliency: a shared
or a held mask, or one that inertia triggers, is chosen by it too, and says something else. Where
LIPS diverged in any seed, nothing is shown to be its merit.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any, NamedTuple

from lipsjax.analysis.comparison import Row, difference
from lipsjax.analysis.finding import (
    FEWEST,
    NO_DIFFERENCE,
    TOO_FEW,
    UNKNOWN,
    Finding,
    is_too_few,
    named,
)
from lipsjax.analysis.stats import Difference, holm
from lipsjax.analysis.wording import points

LIPS = {
    **{"criterion": "saliency", "operation": "mask", "sharing": "client", "hold": 0},
    "trigger": "schedule",
}
"""What makes transient sparsity LIPS; a control differs in at least one of these."""

OPPOSITE = ("inverted", "lowest")
"""Criteria that keep what LIPS would drop: to be better than these does not say better than any."""

ACCURACIES = ("personalised", "global")
SALIENCY = "Is it the saliency, or any disturbance?"
BETTER = "better"
WORSE = "worse"


class Control(NamedTuple):
    """LIPS against one control in one cell."""

    cell: str
    lips: str
    control: str
    differs: str  # "criterion random, hold 5"
    sparsity: Mapping[str, Any]  # of the control
    differences: Mapping[str, Difference]  # accuracy -> LIPS - control
    adjusted: Mapping[str, float]  # accuracy -> p after Holm over all controls of the study
    comparisons: int  # how many these are
    diverged: Mapping[str, str] = MappingProxyType({})  # of the two -> "diverged in 1 of 5 seeds"

    @property
    def lacks_saliency(self) -> bool:
        """Whether saliency has no part in it, or the opposite one."""
        return any(self.sparsity.get(n, LIPS[n]) != LIPS[n] for n in ("criterion", "operation"))

    @property
    def is_neutral(self) -> bool:
        """Whether it disturbs with no regard to saliency, so that it can stand for any."""
        criterion = self.sparsity.get("criterion")
        masks = self.sparsity.get("operation", "mask") == "mask"
        return self.lacks_saliency and not (masks and criterion in OPPOSITE)

    def outcome(self, accuracy: str = "personalised") -> str:
        """Whether LIPS is better or worse, no difference is seen, or one cannot tell."""
        found = self.differences[accuracy].interval
        return named(found, self.adjusted[accuracy], up=BETTER, down=WORSE)


def is_lips(config: Mapping[str, Any]) -> bool:
    """Whether a run has transient sparsity as LIPS has it, of whatever density."""
    sparsity = config.get("sparsity")
    return bool(sparsity) and not _differs(sparsity)


def controls_of(rows: Sequence[Row]) -> list[Control]:
    """LIPS, in its first arm, against each of its controls, cell by cell.

    Args:
      rows: the rows of :func:`lipsjax.analysis.comparison.compare`.

    Returns:
      One comparison per cell and control, seed by seed; Holm's correction runs over all of them,
      accuracy by accuracy.
    """
    found = []
    for _, members in groupby(rows, lambda row: row.cell):
        cell = list(members)
        lips = next((row for row in cell if is_lips(row.config)), None)
        if lips is not None:
            found += [_compare(lips, row) for row in cell if _is_control(row, lips)]
    adjusted = {m: holm([c.differences[m].p for c in found]) for m in ACCURACIES}
    return [
        control._replace(
            adjusted={m: float(adjusted[m][i]) for m in ACCURACIES}, comparisons=len(found)
        )
        for i, control in enumerate(found)
    ]


def findings_of(controls: Sequence[Control]) -> list[Finding]:
    """The controls in sentences.

    Args:
      controls: of :func:`controls_of`.

    Returns:
      For each cell whether it is the saliency, decided on personalised accuracy, then a sentence
      for each control.
    """
    found = []
    for cell, members in groupby(controls, lambda control: control.cell):
        group = list(members)
        subject = f"{group[0].lips} against its controls"
        found.append(Finding(subject, cell, SALIENCY, *_answer(group)))
        for control in group:
            topic = f"{control.control} ({control.differs})"
            found.append(Finding(subject, cell, topic, control.outcome(), _told(control)))
    return found


def _differs(sparsity: Mapping[str, Any]) -> str:
    """In which of its fields sparsity is not that of LIPS; older recordings lack some."""
    return ", ".join(
        f"{name} {sparsity[name]}" for name, own in LIPS.items() if sparsity.get(name, own) != own
    )


def _is_control(row: Row, lips: Row) -> bool:
    sparsity = row.config.get("sparsity")
    if not sparsity or not _differs(sparsity) or _rest(row.config) != _rest(lips.config):
        return False
    own = lips.config["sparsity"]
    return all(sparsity.get(name) == own.get(name) for name in _read_by(sparsity))


def _rest(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("seed", "sparsity")}


def _read_by(sparsity: Mapping[str, Any]) -> list[str]:
    """The fields beyond those of LIPS that a control's operation and criterion read."""
    fields = ["density", "every", "kinds"]
    if sparsity.get("trigger", "schedule") == "schedule":
        fields.append("schedule")
    if sparsity.get("operation", "mask") == "mask":
        fields += ["scope", "refill"]
        if sparsity["criterion"] not in ("magnitude", "lowest", "random"):
            fields.append("gradient")
    return fields


def _compare(lips: Row, control: Row) -> Control:
    return Control(
        cell=lips.cell,
        lips=lips.arm,
        control=control.arm,
        differs=_differs(control.config["sparsity"]),
        sparsity=control.config["sparsity"],
        differences={m: difference(lips, control, m) for m in ACCURACIES},
        adjusted={},
        comparisons=0,
        diverged={row.arm: row.share_diverged for row in (lips, control) if row.diverged},
    )


def _answer(controls: Sequence[Control]) -> tuple[str, str]:
    """An outcome and a sentence from the controls of one cell."""
    lips, controls = controls[0].lips, [c for c in controls if c.lacks_saliency]
    if not any(control.is_neutral for control in controls):
        return UNKNOWN, (
            "Cannot tell: no finished control disturbs without regard to saliency, as random masks "
            "and scaling do."
        )
    words, total = Counter(control.outcome() for control in controls), len(controls)
    counts = (
        f"{lips} is better than {_names(controls, BETTER)}, worse than {_names(controls, WORSE)}, "
        f"no difference is seen from {_names(controls, NO_DIFFERENCE)}"
    )
    if words[UNKNOWN]:
        counts += f", and one cannot tell for {_names(controls, UNKNOWN)}"
    diverged = {arm: told for control in controls for arm, told in control.diverged.items()}
    counts += "".join(f"; {arm} {told}" for arm, told in diverged.items())
    if words[BETTER] == total and lips not in diverged:
        return "the saliency", f"The saliency: on personalised accuracy {counts}."
    if words[UNKNOWN] == total:
        return UNKNOWN, f"Cannot tell: no control has {FEWEST} seeds in common with it."
    return "not shown", (
        f"That it is the saliency is not shown: on personalised accuracy {counts}."
    )


def _names(controls: Sequence[Control], word: str) -> str:
    names = [control.control for control in controls if control.outcome() == word]
    listed = f" ({', '.join(names)})" if names else ""
    return f"{len(names)} of {len(controls)}{listed}"


def _told(control: Control) -> str:
    clauses = []
    for accuracy in ACCURACIES:
        interval, word = control.differences[accuracy].interval, control.outcome(accuracy)
        if math.isnan(interval.mean):
            clauses.append(f"{accuracy} accuracy: not measured in every seed of both arms")
            continue
        several = control.comparisons > 1 and word != UNKNOWN
        p = f"Holm-adjusted p {control.adjusted[accuracy]:.2g}" if several else ""
        how = f"{control.lips} {word}" if word in (BETTER, WORSE) else word
        why = f", as {TOO_FEW}" if is_too_few(interval) else ""
        clauses.append(f"{accuracy} accuracy: {how}{why}, {points(interval, note=p)}")
    clauses += [f"{arm} {told}" for arm, told in control.diverged.items()]
    return f"{'; '.join(clauses)}."
