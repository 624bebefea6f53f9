"""How often chance alone makes a finding, how often intervals hold the truth, and what is missed.

python benchmarks/false_findings.py

Null studies are drawn, in which no arm differs from the reference, and judged by the rule of
lipsjax.analysis.finding, with and without its least number of seeds and its least spread of one
step. Accuracies are continuous, or counts of a test set whose step is of the size of the spread
between seeds, where equal differences come about by chance. Then one arm is made better by one or
two standard deviations of the seed-wise difference.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tyro
from scipy import stats

from lipsjax.analysis.finding import ALPHA, FEWEST, UNKNOWN, named
from lipsjax.analysis.stats import holm, paired_difference

LEVEL = 0.95
SHARED = 0.8
"""Share of the variance of an arm's accuracy that the rounds of a window have in common."""


@dataclass(frozen=True)
class Options:
    """What is drawn."""

    studies: int = 20_000
    """Studies behind each row."""
    seeds: tuple[int, ...] = (2, 3, 5)
    """Seeds of a study."""
    arms: tuple[int, ...] = (1, 20)
    """Arms that are compared with the reference."""
    windows: tuple[int, ...] = (1, 4)
    """Rounds that the end of a run is averaged over."""
    spreads: tuple[float, ...] = (1.0, 3.0)
    """Standard deviations of the seed-wise difference, in test examples; one is continuous too."""
    examples: int = 360
    """Test examples that accuracies are counts of."""
    checked: int = 50
    """Studies of each row that are judged by lipsjax.analysis itself too."""
    seed: int = 0
    """Of the random numbers."""


class Setting(NamedTuple):
    """One row of the table."""

    seeds: int
    arms: int
    window: int
    spread: float | None  # of the seed-wise difference, in examples; None: continuous


class Judged(NamedTuple):
    """What is said of some studies of A arms."""

    named: np.ndarray  # [studies, A] bool, whether an effect is named
    holds: np.ndarray  # [studies, A] bool, whether the interval holds zero


def draw(
    setting: Setting, studies: int, examples: int, rng: np.random.Generator, effect: float = 0.0
) -> np.ndarray:
    """Draw the accuracies of the reference and the arms, [studies, 1 + A, seeds].

    Arms and reference are exchangeable, so that their differences have mean zero, but for the first
    arm, which is better by some standard deviations of the seed-wise difference.
    """
    shape = (studies, 1 + setting.arms, setting.seeds, setting.window)
    unit = 1 / examples if setting.spread is None else setting.spread / examples
    # the difference of two arms has twice the variance of one, and a window divides that of rounds
    own = np.sqrt(SHARED / 2) * unit * rng.standard_normal((*shape[:3], 1))
    rounds = np.sqrt((1 - SHARED) * setting.window / 2) * unit * rng.standard_normal(shape)
    accuracies = rng.normal(0.75, 0.03, (studies, 1, setting.seeds, 1)) + own + rounds
    accuracies[:, 1] += effect * unit
    if setting.spread is not None:
        accuracies = np.rint(examples * accuracies) / examples
    return accuracies.mean(axis=3)


def judge(accuracies: np.ndarray, step: float, fewest: int) -> Judged:
    """Judge studies as lipsjax.analysis does, all at once."""
    differences = accuracies[:, 1:] - accuracies[:, :1]
    seeds = differences.shape[2]
    spread = np.where(np.ptp(differences, axis=2) == 0, 0, differences.std(axis=2, ddof=1))
    error = np.maximum(spread, step) / np.sqrt(seeds)
    mean = np.abs(differences.mean(axis=2))
    exact = np.where(mean == 0, 0.0, np.inf)
    t = np.divide(mean, error, out=exact, where=error > 0)
    holds = mean <= stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * error
    adjusted = adjust(2 * stats.t.sf(t, seeds - 1))
    return Judged(~holds & (adjusted < ALPHA) & (seeds >= fewest), holds)


def adjust(p: np.ndarray) -> np.ndarray:
    """Adjust the p values of each study by Holm, [studies, A]."""
    order = np.argsort(p, axis=1)
    factors = p.shape[1] - np.arange(p.shape[1])
    stepped = np.minimum(1, factors * np.take_along_axis(p, order, axis=1))
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(stepped, axis=1), axis=1)
    return adjusted


def check(accuracies: np.ndarray, step: float, judged: Judged) -> None:
    """Check studies against lipsjax.analysis, one by one."""
    for study, (reference, *arms) in enumerate(accuracies):
        found = [paired_difference(arm, reference, LEVEL, step=step) for arm in arms]
        adjusted = holm([each.p for each in found])
        for arm, (each, p) in enumerate(zip(found, adjusted, strict=True)):
            word = named(each.interval, float(p), up="helps", down="hurts")
            is_named = word in ("helps", "hurts")
            held = each.interval.low <= 0 <= each.interval.high
            if is_named != judged.named[study, arm] or held != judged.holds[study, arm]:
                raise SystemExit(f"study {study}, arm {arm}: lipsjax.analysis says {word!r}")
            assert (word == UNKNOWN) == (len(reference) < FEWEST)


def row(setting: Setting, options: Options, rng: np.random.Generator) -> tuple[list[str], bool]:
    """Draw and judge one row; return its cells, and whether chance finds no more than it may."""
    step = 0.0 if setting.spread is None else 1 / options.examples
    rules = {"before": (0.0, 2), "after": (step, FEWEST)}
    found: dict[str, list[float]] = {rule: [] for rule in rules}
    bounds = None
    for effect in (0.0, 1.0, 2.0):
        accuracies = draw(setting, options.studies, options.examples, rng, effect)
        for rule, arguments in rules.items():
            judged = judge(accuracies, *arguments)
            if rule == "after":
                check(accuracies[: options.checked], step, judged)
            if effect:
                found[rule].append(judged.named[:, 0].mean())
            else:
                any_named = judged.named.any(axis=1)
                found[rule] += [any_named.mean(), judged.holds.mean()]
                bounds = exact_bounds(int(any_named.sum()), options.studies)
    assert bounds is not None
    kind = "continuous" if setting.spread is None else f"{setting.spread:g}"
    false, *others = (
        f"{100 * before:.1f} → {100 * after:.1f}"
        for before, after in zip(found["before"], found["after"], strict=True)
    )
    interval = f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"
    is_exact = setting.spread is None and setting.arms == 1 and setting.seeds >= FEWEST
    is_right = bounds[0] <= ALPHA and (not is_exact or 0.045 <= found["after"][0] <= 0.055)
    cells = [str(setting.seeds), str(setting.arms), str(setting.window), kind]
    return [*cells, false, interval, *others], is_right


def exact_bounds(count: int, total: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share."""
    low, high = stats.binomtest(count, total).proportion_ci(LEVEL, "exact")
    return float(low), float(high)


def main(options: Options) -> None:
    """Print the table; end with an error if chance finds more than it may."""
    rng = np.random.default_rng(options.seed)
    head = ["seeds", "arms", "rounds", "sd", "any false finding", "exact interval", "coverage"]
    head += ["power at 1 sd", "power at 2 sd"]
    print(f"| {' | '.join(head)} |")
    print(f"|{'---:|' * len(head)}")
    wrong = []
    for values in itertools.product(
        options.seeds, options.arms, options.windows, (None, *options.spreads)
    ):
        cells, is_right = row(Setting(*values), options, rng)
        print(f"| {' | '.join(cells)} |", flush=True)
        if not is_right:
            wrong.append(str(Setting(*values)))
    if wrong:
        raise SystemExit(f"chance finds more, or less, than it should: {'; '.join(wrong)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
