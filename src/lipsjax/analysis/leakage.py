"""What recorded attacks come to: leakage with intervals over seeds or victims. No JAX."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from lipsjax.analysis.stats import Difference, Interval, mean_interval, paired_difference
from lipsjax.recording import StudyRecording
from lipsjax.recording.attacks import AttackRecording

SCORES = ("loss", "global", "lira", "fedmia")
"""Of membership."""
FALSE_POSITIVES = 0.01
DRAWS = 1000
"""Of a bootstrap."""

MEASURES = {
    "label": ("accuracy", "chance"),
    **dict.fromkeys(
        ("linear", "gradient", "cosine"), ("identified", "mse", "mse_of_mean", "psnr", "ssim")
    ),
    "bitmaps": ("explained", "p"),
}


class Membership(NamedTuple):
    """How well scores tell members from others, over all victims."""

    auc: float
    true_positives: float  # share of members above the threshold
    false_positives: float  # share of non-members above it, at most what was asked for
    non_members: int


class Leak(NamedTuple):
    """One measure of one attack, of one arm."""

    attack: str
    attacker: str
    round: int
    measure: str
    interval: Interval
    over: str  # "seeds" or "victims": what the interval is over
    victims: int
    threat: str


def leaks(recordings: Sequence[Sequence[AttackRecording]]) -> list[Leak]:
    """Return every measure of every attack on the runs of one arm.

    With two seeds or more an interval is over seeds, of the means over victims; with one it is over
    its victims. Of membership, whose thresholds are of all victims together, it is a percentile
    bootstrap over victims of all seeds.

    Args:
      recordings: of each seed's run, its attacks.
    """
    everything = sorted((a.key, i, a) for i, run in enumerate(recordings) for a in run)
    found: list[Leak] = []
    for key, group in itertools.groupby(everything, key=lambda each: each[0]):
        runs = [each[2] for each in group]
        found += _of_attack(key, [a.rows for a in runs], runs[0].about)
    return found


MAIN = {
    "label": "accuracy",
    **dict.fromkeys(("linear", "gradient", "cosine"), "identified"),
    "membership": "lira auc",
    "bitmaps": "explained",
}
"""The measure of an attack by which arms are compared; the more, the more leaks."""


class Compared(NamedTuple):
    """What one arm gives away beside what its reference does, victim by victim."""

    arm: str
    reference: str
    leak: Leak
    other: Leak
    difference: Difference


def by_arm(study: StudyRecording, cell: int) -> dict[str, list[Leak]]:
    """Return the leaks of every arm of a cell that was attacked, in the study's order."""
    found = {}
    for arm in study.arms:
        runs = [t.attacks for t in study.trials if (t.arm, t.cell) == (arm, cell) and t.attacks]
        if runs:
            found[arm] = leaks(runs)
    return found


def compared(study: StudyRecording, cell: int) -> list[Compared]:
    """Compare arms with their references in the main measure of each attack by victims' images.

    Victims are paired: arms of a study share their clients, data and first models. Differences
    are over seeds, or over the victims of one. Arms whose victims hold other numbers of examples
    are not compared.
    """
    leaks_of = by_arm(study, cell)
    found = []
    for arm, reference in study.references.items():
        if arm == reference or arm not in leaks_of or reference not in leaks_of:
            continue
        mine, theirs = (_values(study, cell, name) for name in (arm, reference))
        for leak in leaks_of[arm]:
            if MAIN[leak.attack] != leak.measure or leak.attack in ("membership", "bitmaps"):
                continue
            key = leak.attack, leak.attacker, leak.round
            other = next((x for x in leaks_of[reference] if _same(x, leak)), None)
            if other is None or mine[key].keys() != theirs[key].keys():
                continue
            a, b = ([values[k] for k in sorted(values)] for values in (mine[key], theirs[key]))
            found.append(Compared(arm, reference, leak, other, paired_difference(a, b)))
    return found


def _same(a: Leak, b: Leak) -> bool:
    return a[:4] == b[:4]


def _values(study: StudyRecording, cell: int, arm: str) -> dict[tuple, dict[tuple, float]]:
    """Return the main measure: attack, attacker, round -> seed, or client of the one -> value."""
    trials = [t for t in study.trials if (t.arm, t.cell) == (arm, cell) and t.attacks]
    found: dict[tuple, dict[tuple, float]] = {}
    for trial in trials:
        for attack in trial.attacks:
            name = attack.about["attack"]
            if name in ("membership", "bitmaps"):
                continue
            each = {
                (row["client"], row.get("examples")): _mean(row[MAIN[name]]) for row in attack.rows
            }
            into = found.setdefault((name, attack.about["attacker"], attack.about["round"]), {})
            if len(trials) == 1:
                into |= each
            else:
                into[(trial.seed,)] = float(np.mean(list(each.values())))
    return found


def _of_attack(
    key: tuple[int, str, str, str], seeds: list[list[dict[str, Any]]], about: dict[str, Any]
) -> Iterable[Leak]:
    t, attack, attacker, _ = key
    victims = sum(map(len, seeds))
    if attack == "membership":
        for name, interval in membership(seeds).items():
            yield Leak(attack, attacker, t, name, interval, "victims", victims, about["threat"])
        return
    for measure in MEASURES[attack]:
        values = [[_mean(row[measure]) for row in rows] for rows in seeds]
        if attack == "bitmaps":  # of one attacker on all clients of a run
            means, over = [each[0] for each in values], "seeds"
        elif len(seeds) > 1:
            means, over = [float(np.mean(each)) for each in values], "seeds"
        else:
            means, over = values[0], "victims"
        yield Leak(
            attack, attacker, t, measure, mean_interval(means), over, victims, about["threat"]
        )


def _mean(value: float | list[float | None]) -> float:
    """Return a victim's value: the mean over its examples, NaN where one is not known."""
    return float(np.mean(np.array(value, float)))


def membership(seeds: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Interval]:
    """Return area under the curve, and true positives at 1% false ones, of each score.

    Args:
      seeds: rows of the victims of each.

    Returns:
      By ``SCORE auc`` and ``SCORE tpr``; the intervals are over victims, which are drawn whole.
    """
    victims = [row for rows in seeds for row in rows]
    drawn = np.random.default_rng(0).integers(len(victims), size=(DRAWS, len(victims)))
    times = np.stack([np.bincount(each, minlength=len(victims)) for each in drawn])
    found = {}
    for name in SCORES:
        members = [np.array(row["members"][name], float) for row in victims]
        others = [np.array(row["others"][name], float) for row in victims]
        whole = tell_apart(
            np.concatenate(members), np.concatenate(others), false_positives=FALSE_POSITIVES
        )
        draws = _areas(members, others, times), _true_positives(members, others, times)
        for measure, value, each in zip(("auc", "tpr"), whole, draws, strict=False):
            low, high = np.percentile(each, [2.5, 97.5])
            interval = Interval(value, float(low), float(high), len(victims))
            found[f"{name} {measure}"] = interval
    return found


def _areas(members: list[np.ndarray], others: list[np.ndarray], times: np.ndarray) -> np.ndarray:
    """Return the area under the curve where victims count several times, [draws]."""
    owner = np.repeat(np.arange(len(others)), [len(x) for x in others])
    pooled = np.concatenate(others)
    order = np.argsort(pooled, kind="stable")
    ranked = pooled[order]
    below = np.zeros((len(members), len(others)))  # how often who of one is above who of another
    for place, mine in enumerate(members):
        for side in ("left", "right"):  # ties count half
            ends = np.searchsorted(ranked, mine, side=side)
            passed = np.bincount(ends, minlength=len(ranked) + 1)[::-1].cumsum()[::-1][1:]
            np.add.at(below[place], owner[order], passed / 2)
    sizes = times @ [len(x) for x in members], times @ [len(x) for x in others]
    return np.einsum("di,ij,dj->d", times, below, times) / (sizes[0] * sizes[1])


def _true_positives(
    members: list[np.ndarray], others: list[np.ndarray], times: np.ndarray
) -> np.ndarray:
    """Return true positives at few false ones where victims count several times, [draws]."""

    def ranked(of_each: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        owner = np.repeat(np.arange(len(of_each)), [len(x) for x in of_each])
        pooled = np.concatenate(of_each)
        order = np.argsort(-pooled, kind="stable")
        return pooled[order], owner[order]

    (high, whose), (mine, who) = ranked(others), ranked(members)
    found = []
    for counts in times:
        weights = counts[whose].cumsum()
        allowed = int(FALSE_POSITIVES * weights[-1] + 1e-9)
        threshold = high[np.searchsorted(weights, allowed, side="right")]
        found.append(counts[who][mine > threshold].sum() / counts[who].sum())
    return np.array(found)


def tell_apart(
    members: np.ndarray, others: np.ndarray, *, false_positives: float = 0.01
) -> Membership:
    """Return the area under the curve, and true positives at few false ones.

    Args:
      members: scores of members.
      others: scores of non-members, at least ``1 / false_positives``, else no threshold lets any
        through.
      false_positives: share of non-members that may be above the threshold.

    Returns:
      A :class:`Membership`. The threshold is the smallest that no larger share of non-members is
      above; ties count half in the area.

    Example:
      >>> found = tell_apart(np.array([1.0, 3.0]), np.array([0.0, 2.0]), false_positives=0.5)
      >>> found.auc, found.true_positives, found.false_positives
      (0.75, 1.0, 0.5)
    """
    allowed = int(false_positives * len(others) + 1e-9)
    threshold = np.sort(others)[::-1][allowed] if allowed < len(others) else -np.inf
    area = stats.mannwhitneyu(members, others).statistic / (len(members) * len(others))
    return Membership(
        float(area),
        float(np.mean(members > threshold)),
        float(np.mean(others > threshold)),
        len(others),
    )
