"""What a plan allows one to say: by hand, by closed testing, and by laws that hold for any data."""

import importlib.util
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lipsjax.analysis.decision import (
    BETTER,
    CLAIMS,
    EQUIVALENT,
    OPEN,
    UNDECIDED,
    WORSE,
    Plan,
    check_plan,
    decide,
    levels_of,
)
from lipsjax.analysis.sequential import nominal
from lipsjax.analysis.stats import mean_interval

LOOKS = (4, 8, 12)
NAMES = ("a", "b", "c")
MIRROR = {BETTER: WORSE, WORSE: BETTER}


def drawn(seed, m, looks=LOOKS, scale=1.5):
    """Differences of m comparisons, some far from the margin of 1."""
    rng = np.random.default_rng(seed)
    effects = rng.choice([-2.5, -1.0, 0.0, 1.0, 2.5], m) * scale / 1.5
    values = effects[:, None] + rng.normal(0, 1, (m, looks[-1]))
    return dict(zip(NAMES, values, strict=False))


def claims(decisions):
    return {name: (each.claim, each.look) for name, each in decisions.items()}


def p_by_scipy(values, margin):
    def p(at, side):
        return stats.ttest_1samp(values, at, alternative=side).pvalue

    return {
        BETTER: p(margin, "greater"),
        WORSE: p(-margin, "less"),
        EQUIVALENT: max(p(-margin, "greater"), p(margin, "less")),
    }


def by_closed_testing(plan, differences):
    """Reject a hypothesis once every intersection with it is rejected: the slow oracle.

    An intersection of s hypotheses is tested by Bonferroni, each at the level of alpha / s; it
    stays rejected once a hypothesis in it is.
    """
    made = {}
    for look, n in enumerate(plan.looks):
        p = {name: p_by_scipy(differences[name][:n], plan.margin) for name in plan.comparisons}
        before = dict(made)
        for claim in CLAIMS:
            rejected = {name for name, (was, _) in before.items() if was == claim}
            alpha = plan.equivalence if claim == EQUIVALENT else plan.alpha
            testable = {name for name in plan.comparisons if name not in before}
            subsets = [
                set(each)
                for size in range(1, len(plan.comparisons) + 1)
                for each in itertools.combinations(plan.comparisons, size)
            ]
            gone = [
                each
                for each in subsets
                if each & rejected
                or any(
                    0 < p[name][claim] <= nominal(plan.looks, alpha / len(each))[look]
                    for name in each & testable
                )
            ]
            for name in testable:
                if all(each in gone for each in subsets if name in each):
                    made[name] = (claim, look)
    return made


@pytest.mark.parametrize("m", [1, 2, 3])
def test_recycling_is_closed_testing(m):
    plan = Plan(1.0, LOOKS, NAMES[:m])
    seen = set()
    for seed in range(40):
        differences = drawn(seed, m)
        found = claims(decide(plan, differences))
        expected = by_closed_testing(plan, differences)
        assert found == {name: expected.get(name, (UNDECIDED, None)) for name in NAMES[:m]}
        seen |= set(found.values())
    assert {claim for claim, _ in seen} == {*CLAIMS, UNDECIDED}
    assert {look for _, look in seen} >= {None, 1, 2}


def test_the_plan_of_one_has_no_correction():
    plan = Plan(1.0, LOOKS, ("a",))
    for claim, alpha in ((BETTER, 0.025), (WORSE, 0.025), (EQUIVALENT, 0.05)):
        np.testing.assert_array_equal(levels_of(plan, claim), [nominal(LOOKS, alpha)])


def test_a_claim_hands_its_alpha_on_at_the_same_look():
    plan = Plan(1.0, (10,), ("a", "b"))
    noise = np.array([-1, 1] * 5) / 2.0
    error = noise.std(ddof=1) / math.sqrt(10)
    # p of 0.02 is above 0.0125 and below 0.025
    near = 1.0 + stats.t.isf(0.02, 9) * error + noise
    alone = decide(plan, {"a": noise + 0.9, "b": near})
    assert alone["b"].claim == UNDECIDED
    assert decide(plan, {"a": noise + 9, "b": near})["b"].claim == BETTER
    # of another family nothing is handed on
    assert decide(plan, {"a": noise - 9, "b": near})["b"].claim == UNDECIDED


def test_by_hand():
    plan = Plan(1.0, (4, 8), ("a",))
    first, last = nominal((4, 8), 0.025)
    values = np.array([2.0, 3.0, 4.0, 3.0, 2.0, 3.0, 4.0, 3.0])
    # of the first four: mean 3, s = sqrt(2 / 3), t = 2 / (s / 2); of all: t = 2 / (s / sqrt(8))
    t4 = 2 / (math.sqrt(2 / 3) / 2)
    t8 = 2 / (math.sqrt(4 / 7) / math.sqrt(8))
    assert stats.t.sf(t4, 3) > first
    assert stats.t.sf(t8, 7) < last
    found = decide(plan, {"a": values})["a"]
    assert found[:3] == (BETTER, 1, 8)
    assert found.interval == mean_interval(values)
    assert 1 < found.estimate <= 3


def test_gated_waits_for_those_before():
    noise = np.array([-1, 1] * 6) / 2.0
    far, near, none = noise + 9, noise + 1.1, noise * 9 + 1
    plan = Plan(1.0, LOOKS, ("a", "b"), order="gated")
    found = decide(plan, {"a": far, "b": far})
    assert [each.claim for each in found.values()] == [BETTER, BETTER]
    assert found["a"].look == found["b"].look
    assert decide(plan, {"a": none, "b": far})["b"].claim == UNDECIDED
    assert decide(plan, {"a": near, "b": far})["b"].claim == UNDECIDED
    # the second is tested at the whole alpha, in its turn alone
    alone = decide(Plan(1.0, LOOKS, ("b",)), {"b": near})["b"]
    assert decide(plan, {"a": far, "b": near})["b"] == alone


def test_open_before_the_last_look_and_before_the_first():
    plan = Plan(1.0, LOOKS, ("a",))
    wide = np.array([-9.0, 9.0] * 6)
    assert decide(plan, {"a": wide})["a"].claim == UNDECIDED
    seen = decide(plan, {"a": wide[:11]})["a"]
    assert seen[:3] == (OPEN, None, 8)
    assert seen.interval == mean_interval(wide[:8])
    none = decide(plan, {"a": wide[:3]})["a"]
    assert none[:3] == (OPEN, None, 0)
    assert math.isnan(none.estimate)
    assert none.interval.n == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_seed_ends_its_comparison_alone(bad):
    values = np.array([5.0, 6.0] * 6)
    plan = Plan(1.0, LOOKS, ("a", "b"))
    diverged = values.copy()
    diverged[2] = bad
    found = decide(plan, {"a": diverged[:4], "b": values[:4]})
    assert found["a"][:3] == (UNDECIDED, None, 4)
    assert math.isnan(found["a"].estimate)
    assert decide(plan, {"a": diverged, "b": values})["b"].claim == BETTER
    # one that comes after the claim changes nothing
    late = np.concatenate([values[:8], [bad] * 4])
    claimed = decide(plan, {"a": values, "b": values})["a"]
    assert claimed.look is not None
    assert claimed.look < 2
    assert decide(plan, {"a": late, "b": values})["a"] == claimed


def test_counts_scatter_by_a_step():
    plan, equal = Plan(1.0, LOOKS, ("a",)), [1.5] * 12
    assert decide(plan, {"a": equal})["a"].claim == BETTER
    assert decide(plan, {"a": equal}, steps={"a": 5.0})["a"].claim == UNDECIDED
    # a look of level 0 is no stop, whatever p is
    looks = (8, 12, 16, 24, 32, 40)
    assert (nominal(looks, 0.025) > 0).tolist() == [False] * 2 + [True] * 4
    assert decide(Plan(1.0, looks, ("a",)), {"a": [1.5] * 40})["a"].look == 2
    # exactly at the margin nothing is known
    assert decide(plan, {"a": [1.0] * 12})["a"].claim == UNDECIDED


seeds = st.integers(0, 2**31)


@given(seeds, st.integers(1, 3))
@settings(max_examples=25)
def test_a_sign_flip_swaps_better_and_worse(seed, m):
    plan, differences = Plan(1.0, LOOKS, NAMES[:m]), drawn(seed, m)
    forth = decide(plan, differences)
    back = decide(plan, {name: -values for name, values in differences.items()})
    for name, each in forth.items():
        assert back[name][:3] == (MIRROR.get(each.claim, each.claim), each.look, each.seeds)
        np.testing.assert_allclose(back[name].estimate, -each.estimate, atol=1e-6)


@given(seeds)
@settings(max_examples=25)
def test_what_was_claimed_stays_claimed(seed):
    plan, differences = Plan(1.0, LOOKS, NAMES), drawn(seed, 3)
    before = {}
    for n in (4, 7, 8, 12):
        now = claims(decide(plan, {name: values[:n] for name, values in differences.items()}))
        assert before.items() <= now.items()
        before = {name: each for name, each in now.items() if each[0] in CLAIMS}


@given(seeds, st.permutations(NAMES))
@settings(max_examples=25)
def test_the_order_of_comparisons_does_not_matter(seed, order):
    differences = drawn(seed, 3)
    found = decide(Plan(1.0, LOOKS, NAMES), differences)
    assert decide(Plan(1.0, LOOKS, tuple(order)), differences) == found


@given(seeds, st.sampled_from([("obrien_fleming", 0.01), ("pocock", 0.01)]))
@settings(max_examples=25)
def test_more_alpha_never_claims_later(seed, drawn_plan):
    spending, alpha = drawn_plan
    differences = drawn(seed, 2)
    few, many = (
        decide(Plan(1.0, LOOKS, NAMES[:2], a, 2 * a, spending), differences)
        for a in (alpha, 3 * alpha)
    )
    for name, each in few.items():
        if each.claim in CLAIMS:
            assert many[name].claim == each.claim
            assert (many[name].look or 0) <= (each.look or 0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"margin": 0.0}, "margin must be a number above 0, got 0.0"),
        ({"margin": -1.0}, "margin must be"),
        ({"margin": math.nan}, "margin must be"),
        ({"margin": math.inf}, "margin must be"),
        ({"looks": ()}, "looks must be whole numbers"),
        ({"looks": (1, 8)}, "at least 2"),
        ({"looks": (8, 8)}, "rise"),
        ({"looks": (16, 8)}, "rise"),
        ({"looks": (8.5, 16)}, "whole numbers"),
        ({"comparisons": ()}, "comparisons must be one or more names, each once"),
        ({"comparisons": ("a", "a")}, "each once, got"),
        ({"comparisons": "a"}, "comparisons must be"),
        ({"alpha": 0.0}, "alpha must be in"),
        ({"alpha": 0.5}, "alpha must be in"),
        ({"equivalence": math.nan}, "equivalence must be in"),
        ({"spending": "none"}, "spending must be one of obrien_fleming, pocock, got 'none'"),
        ({"order": "holm"}, "order must be one of recycled, gated, got 'holm'"),
    ],
)
def test_bad_plans_are_refused(changed, said):
    plan = Plan(1.0, (8, 16), ("a",))._replace(**changed)
    with pytest.raises(ValueError, match=said) as error:
        check_plan(plan)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=said):
        decide(plan, {"a": [1.0] * 16})


@pytest.mark.parametrize(
    ("differences", "steps", "said"),
    [
        ({}, {}, "differences must be of a, got those of"),
        ({"a": [1.0], "b": [1.0]}, {}, "got those of a, b"),
        ({"a": [[1.0]]}, {}, "a vector"),
        ({"a": [1.0]}, {"b": 1.0}, "steps must be at least 0, of a; got 1.0 of 'b'"),
        ({"a": [1.0]}, {"a": -1.0}, "got -1.0 of 'a'"),
    ],
)
def test_bad_differences_are_refused(differences, steps, said):
    with pytest.raises(ValueError, match=said):
        decide(Plan(1.0, (8, 16), ("a",)), differences, steps=steps)


def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "planned_looks.py"
    spec = importlib.util.spec_from_file_location("planned_looks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("m", "order", "studies"), [(1, "recycled", 150), (3, "recycled", 60), (3, "gated", 60)]
)
def test_the_simulation_decides_as_the_library_does(m, order, studies):
    script = benchmark()
    rng = np.random.default_rng(m)
    plan = script.plan_of(LOOKS, m, order)
    effects = list(rng.choice([-2.0, 0.0, 1.0, 2.5], m))
    differences = script.draw(effects, 1.0, LOOKS[-1], studies, rng)
    decided = script.judge(plan, differences)
    script.check(plan, differences, decided)
    wrong = decided._replace(claims=decided.claims[::-1] * 0 + 1)
    with pytest.raises(SystemExit, match="here, and by"):
        script.check(plan, differences, wrong)


def test_the_simulation_prints_its_table(capsys):
    script = benchmark()
    script.PLANS = (LOOKS,)
    script.main(
        script.Options(studies=200, spreads=(1.0,), comparisons=(2,), checked=2, estimated=50)
    )
    table, contrast, estimates = capsys.readouterr().out.strip().split("\n\n")
    shared, in_order = (line.strip("| ").split(" | ") for line in table.splitlines()[2:])
    assert (shared[1], in_order[1]) == ("2", "2 gated")
    assert len(shared) == len(in_order) == len(script.HEAD)
    # an effect of a margin and a deviation more is mostly seen
    assert 50 < float(shared[-2]) <= float(in_order[-2]) <= 100
    assert len(contrast.splitlines()) == 4
    assert [line.count("|") for line in estimates.splitlines()] == [len(script.ESTIMATES) + 1] * 5
