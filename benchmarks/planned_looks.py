"""How often planned looks claim what is not so, see what is, and how many seeds they take.

python benchmarks/planned_looks.py

Studies are drawn in which all arms differ from one dense arm by exactly the margin, up or down, or
by nothing, and are decided by the rule of lipsjax.analysis.decision; then the first arm is better
by the margin and one standard deviation of the seed-wise difference more. Their differences share
the dense arm, so they are correlated by one half. Several comparisons share the error, recycled on
each claim, or are tested in a fixed order, gated. For contrast, plain 95% intervals are looked at
after each of 3 to 20 seeds, with five planned looks beside them, at a margin that is negligible.
Last, how far off the mean and the estimate are, once a study of one arm that is better has ended.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tyro
from scipy import special, stats

from lipsjax.analysis.decision import (
    BETTER,
    CLAIMS,
    EQUIVALENT,
    UNDECIDED,
    WORSE,
    Plan,
    decide,
    false_claims,
    levels_of,
)

MARGIN = 1.0
PLANS = ((8, 12, 16, 24, 32, 40), (4, 8, 12, 16, 20))
NEGLIGIBLE = 1e6
"""Standard deviation of the seed-wise difference, in margins, at which the margin is negligible."""

SURE = 0.999
"""Level of the exact intervals that decide whether chance claims more than it may."""


@dataclass(frozen=True)
class Options:
    """What is drawn."""

    studies: int = 20_000
    """Studies behind each figure."""
    spreads: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    """Standard deviations of the seed-wise difference, in margins."""
    comparisons: tuple[int, ...] = (1, 6)
    """Arms that are compared with the dense one."""
    estimated: int = 5_000
    """Studies behind each figure of the estimates, which take lipsjax.analysis one by one."""
    checked: int = 5
    """Studies behind each figure that are decided by lipsjax.analysis itself too."""
    seed: int = 0
    """Of the random numbers."""


class Decided(NamedTuple):
    """What is said of some studies of m comparisons."""

    claims: np.ndarray  # [studies, m] index into CLAIMS; -1: not decided
    seeds: np.ndarray  # [studies, m]

    def share(self, claim: str) -> np.ndarray:
        """Whether some comparison of each study is claimed so, [studies] bool."""
        return (self.claims == CLAIMS.index(claim)).any(axis=1)

    def any_claim(self) -> np.ndarray:
        """Whether anything is claimed of each study, [studies] bool."""
        return (self.claims != -1).any(axis=1)


def draw(
    effects: list[float], spread: float, seeds: int, studies: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw seed-wise differences from one dense arm, [studies, m, seeds]."""
    arms = rng.standard_normal((studies, 1 + len(effects), seeds)) * spread / np.sqrt(2)
    return arms[:, 1:] - arms[:, :1] + np.array(effects)[:, None]


def judge(plan: Plan, differences: np.ndarray) -> Decided:
    """Decide studies as lipsjax.analysis does, all at once."""
    levels = np.stack([levels_of(plan, claim) for claim in CLAIMS])
    claims = np.full(differences.shape[:2], -1)
    seeds = np.full_like(claims, plan.looks[-1])
    for look, n in enumerate(plan.looks):
        p = p_values(differences[:, :, :n], plan.margin)
        while True:
            level = LEVELS[plan.order](levels[:, :, look], claims)
            new = (claims == -1) & (level > 0) & (p <= level)
            if not new.any():
                break
            claim, study, comparison = np.nonzero(new)
            claims[study, comparison], seeds[study, comparison] = claim, n
    return Decided(claims, seeds)


def recycled(levels: np.ndarray, claims: np.ndarray) -> np.ndarray:
    """Level of each claim, [3, studies, 1], where what was claimed hands its share on."""
    rejected = np.stack([(claims == c).sum(axis=1) for c in range(len(CLAIMS))])
    left = claims.shape[1] - rejected
    return levels[np.arange(len(CLAIMS))[:, None], left - 1][:, :, None]


def gated(levels: np.ndarray, claims: np.ndarray) -> np.ndarray:
    """Level of each claim, [3, studies, m]: the whole one once all before were claimed, or none."""
    open_before = np.cumsum(claims == -1, axis=1) - (claims == -1)
    return levels[:, 0, None, None] * (open_before == 0)


LEVELS = {"recycled": recycled, "gated": gated}
"""Order of comparisons -> how levels [3, m] of a look follow from the claims so far."""


def p_values(values: np.ndarray, margin: float) -> np.ndarray:
    """One-sided p of each claim, [3, studies, m]."""
    n, mean = values.shape[2], values.mean(axis=2)
    error = values.std(axis=2, ddof=1) / np.sqrt(n)
    above_low, below_high = (mean + margin) / error, (margin - mean) / error
    inside = np.maximum(special.stdtr(n - 1, -above_low), special.stdtr(n - 1, -below_high))
    return np.stack([special.stdtr(n - 1, below_high), special.stdtr(n - 1, above_low), inside])


def check(plan: Plan, differences: np.ndarray, decided: Decided) -> None:
    """Check studies against lipsjax.analysis, one by one."""
    words = (*CLAIMS, UNDECIDED)  # of index -1: the last
    for study, values in enumerate(differences):
        found = decide(plan, dict(zip(plan.comparisons, values, strict=True)))
        for arm, each in enumerate(found.values()):
            word, seeds = words[decided.claims[study, arm]], decided.seeds[study, arm]
            if (each.claim, each.seeds) != (word, seeds):
                raise SystemExit(
                    f"study {study}, comparison {arm}: {word!r} after {seeds} seeds here, and by "
                    f"lipsjax.analysis {each.claim!r} after {each.seeds}"
                )


def plan_of(looks: tuple[int, ...], comparisons: int, order: str = "recycled") -> Plan:
    """The default plan with these looks."""
    return Plan(MARGIN, looks, tuple(f"arm {i}" for i in range(comparisons)), order=order)


def decided_at(
    plan: Plan, effects: list[float], spread: float, options: Options, rng: np.random.Generator
) -> Decided:
    """Draw studies of these effects, decide them, and check some of them."""
    differences = draw(effects, spread, plan.looks[-1], options.studies, rng)
    decided = judge(plan, differences)
    check(plan, differences[: options.checked], Decided(*(d[: options.checked] for d in decided)))
    return decided


def row(
    plan: Plan, spread: float, options: Options, rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Draw and decide one row; return its cells, and what chance claims too often."""
    m = len(plan.comparisons)
    at = {e: decided_at(plan, [e] * m, spread, options, rng) for e in (MARGIN, -MARGIN, 0.0)}
    far = decided_at(plan, [MARGIN + spread] + [0.0] * (m - 1), spread, options, rng)
    asked = str(m) if plan.order == "recycled" else f"{m} {plan.order}"
    cells, excess = [" ".join(map(str, plan.looks)), asked, f"{spread:g}"], []
    for effect, claim in ((MARGIN, BETTER), (-MARGIN, WORSE)):
        # all three claims are wrong there; the third has no share of its own worth telling
        wrong = [at[effect].share(claim), at[effect].share(EQUIVALENT)]
        wrong.append(at[effect].any_claim())
        for told, most in zip(
            wrong, false_claims(plan.alpha, plan.equivalence, plan.order), strict=True
        ):
            cells.append(percent(told))
            if at_least(told) > most:
                excess.append(f"{cells[-1]}% instead of {100 * most:.3g}% ({', '.join(cells[:3])})")
    cells.append(percent(at[0.0].share(BETTER) | at[0.0].share(WORSE)))
    cells.append(percent(at[0.0].claims[:, 0] == CLAIMS.index(EQUIVALENT)))
    cells.append(f"{at[0.0].seeds.mean():.1f}")
    cells.append(percent(far.claims[:, 0] == CLAIMS.index(BETTER)))
    cells.append(f"{far.seeds[:, 0].mean():.1f}")
    return cells, excess


def at_least(told: np.ndarray) -> float:
    """Lower bound of a share, by Clopper and Pearson."""
    found = stats.binomtest(int(told.sum()), told.size).proportion_ci(SURE, "exact")
    return float(found.low)


def percent(told: np.ndarray) -> str:
    """Share of the studies, in percent."""
    return f"{100 * told.mean():.2f}"


def plain(effect: float, options: Options, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Look at plain 95% intervals after each of 3 to 20 seeds, until one excludes zero.

    Returns whether any does, [studies] bool, and the mean number of seeds.
    """
    values = draw([effect], 1.0, 20, options.studies, rng)[:, 0]
    seeds = np.full(options.studies, 20)
    found = np.zeros(options.studies, bool)
    for n in range(3, 21):
        first = values[:, :n]
        t = first.mean(axis=1) / first.std(axis=1, ddof=1) * np.sqrt(n)
        new = ~found & (np.abs(t) > special.stdtrit(n - 1, 0.975))
        found, seeds[new] = found | new, n
    return found, float(seeds.mean())


def contrast(options: Options, rng: np.random.Generator) -> None:
    """Print how often no effect and one of 1 sd are named, by plain and by planned looks."""
    print("\n| looks | rule | named at no effect | named at 1 sd | seeds at 1 sd |")
    print("|---|---|---:|---:|---:|")
    false, _ = plain(0.0, options, rng)
    true, seeds = plain(1.0, options, rng)
    print(f"| each of 3 to 20 | plain 95% | {percent(false)} | {percent(true)} | {seeds:.1f} |")
    for looks in PLANS:
        plan = plan_of(looks, 1)
        at = [decided_at(plan, [e * NEGLIGIBLE], NEGLIGIBLE, options, rng) for e in (0.0, 1.0)]
        named = [percent(each.share(BETTER) | each.share(WORSE)) for each in at]
        told = " ".join(map(str, looks))
        print(f"| {told} | planned | {' | '.join(named)} | {at[1].seeds.mean():.1f} |")


def estimates(options: Options, rng: np.random.Generator) -> None:
    """Print how far the mean and the estimate are off once one arm that is better was decided."""
    print(f"\n| {' | '.join(ESTIMATES)} |")
    print(f"|---|{'---:|' * (len(ESTIMATES) - 1)}")
    for looks, above in itertools.product(PLANS, (0.5, 1.0, 2.0)):
        plan, effect = plan_of(looks, 1), MARGIN * (1 + above)
        values = draw([effect], MARGIN, looks[-1], options.estimated, rng)
        ended = [next(iter(decide(plan, {"arm 0": each}).values())) for each in values[:, 0]]
        mean, low, high = np.array([each.interval[:3] for each in ended]).T
        estimate = np.array([each.estimate for each in ended])
        cells = [
            " ".join(map(str, looks)),
            f"{above:g}",
            f"{np.mean([e.seeds for e in ended]):.1f}",
        ]
        for told in (mean, estimate):
            cells += [percent(told > effect), f"{told.mean() - effect:+.3f}".replace("-", "−")]
        cells.append(percent((low <= effect) & (effect <= high)))
        print(f"| {' | '.join(cells)} |", flush=True)


ESTIMATES = (
    *("looks", "effect above the margin, sd", "seeds"),
    *("mean above the effect", "mean less the effect, sd"),
    *("estimate above it", "estimate less it, sd"),
    "plain interval holds it",
)

HEAD = (
    *("looks", "comparisons", "sd"),
    *("better at +margin", "equivalent", "any wrong"),
    *("worse at −margin", "equivalent", "any wrong"),
    *("better or worse at 0", "equivalent at 0", "seeds at 0"),
    *("power at margin + 1 sd", "seeds"),
)


def main(options: Options) -> None:
    """Print the tables; end with an error if chance claims more than it may."""
    rng = np.random.default_rng(options.seed)
    print(f"| {' | '.join(HEAD)} |")
    print(f"|---|{'---:|' * (len(HEAD) - 1)}")
    wrong = []
    plans = [plan_of(*each) for each in itertools.product(PLANS, options.comparisons)]
    most = max(options.comparisons)
    plans += [plan_of(looks, most, "gated") for looks in PLANS if most > 1]
    for plan, spread in itertools.product(plans, options.spreads):
        cells, excess = row(plan, spread, options, rng)
        print(f"| {' | '.join(cells)} |", flush=True)
        wrong += excess
    contrast(options, rng)
    estimates(options, rng)
    if wrong:
        raise SystemExit(f"chance claims more than it may: {'; '.join(wrong)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
