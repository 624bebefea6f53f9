"""Measures of one run by hand, and the statistics under them against SciPy and textbooks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from helpers.edited_study import SMALL
from helpers.fake_study import write_study
from lipsjax.analysis.comparison import MEASURES, compare, target_of
from lipsjax.analysis.stats import Interval, mean_interval, ratio_interval, seeds_needed, spearman
from lipsjax.recording import RecordingError, read, read_study

# Measures


def one_run(tmp_path, **scalars):
    """A recording whose scalars are given."""
    write_study(tmp_path, seeds=1, rounds=12, clients=2, classes=2, arms=("dense",))
    (run,) = (tmp_path / "runs").iterdir()
    recorded = read(run)
    changed = {name: np.array(values, float) for name, values in scalars.items()}
    return recorded._replace(scalars=recorded.scalars | changed)


def test_gains_by_hand(tmp_path):
    after, before = np.arange(12) / 12, np.arange(12) / 24
    run = one_run(tmp_path, accuracy_dense=after, accuracy_before=before)
    # the last 10% of 12 rounds are two
    np.testing.assert_allclose(MEASURES["gain"](run, 0.5), (10 / 24 + 11 / 24) / 2)
    run = one_run(tmp_path / "b", global_accuracy=after, global_accuracy_clients=before)
    np.testing.assert_allclose(MEASURES["gain_global"](run, 0.5), (10 / 24 + 11 / 24) / 2)
    del run.scalars["global_accuracy_clients"]
    assert math.isnan(MEASURES["gain_global"](run, 0.5))


def test_target_by_hand(tmp_path):
    accuracy = [math.nan, 0.2, math.nan, 0.5, math.nan, 0.4, *[0.7] * 6]
    run = one_run(
        tmp_path, accuracy_dense=accuracy, uplink_bits=[1.0] * 12, downlink_bits=[2.0] * 12
    )
    names = ("reached", "rounds_to_target", "bits_to_target")
    assert [MEASURES[name](run, 0.5) for name in names] == [1, 4, 12]  # round 3 is the fourth
    assert [MEASURES[name](run, 0.71) for name in names[:1]] == [0]
    assert all(math.isnan(MEASURES[name](run, 0.71)) for name in names[1:])
    assert all(math.isnan(MEASURES[name](run, math.nan)) for name in names)


def test_target_of_a_cell(tmp_path):
    write_study(tmp_path / "a", **SMALL)
    study = read_study(tmp_path / "a")
    assert study.target is None
    dense, _ = compare(study)
    np.testing.assert_allclose(target_of(study, 0), 0.95 * dense.means["personalised"].mean)
    write_study(tmp_path / "b", target=2 / 3, **SMALL)
    assert target_of(read_study(tmp_path / "b"), 0) == 2 / 3


def test_a_seed_that_never_arrives_leaves_no_mean(tmp_path):
    write_study(tmp_path, target=0.999, **SMALL)
    dense, lips = compare(read_study(tmp_path))
    assert dense.means["reached"].mean == 0
    assert math.isnan(dense.means["rounds_to_target"].mean)
    assert math.isnan(lips.differences["bits_to_target"].interval.mean)


def test_flops_and_device_hours_by_hand(tmp_path):
    run = one_run(tmp_path)
    assert math.isnan(MEASURES["flops"](run, 0.5))
    run = run._replace(
        setup=run.setup | {"flops_per_round": 2e9}, plan=run.plan | {"devices": 4}, seconds=1800.0
    )
    assert MEASURES["flops"](run, 0.5) == 24e9
    assert MEASURES["device_hours"](run, 0.5) == 2.0


def test_coupling_is_of_first_differences(tmp_path):
    # both fall over training, yet where one falls faster the other falls slower
    steps = np.array([5, 1, 4, 2, 6, 3, 1, 5, 2, 4, 3], float)
    run = one_run(
        tmp_path,
        accuracy_dense=-np.cumsum([0, *(10 - steps)]),
        accuracy_before=np.zeros(12),
    )
    run.layers["step"][:, 1:4] = -np.cumsum([0, *steps])[:, None]
    np.testing.assert_allclose(MEASURES["coupling"](run, 0.5), -1.0)
    run.layers["step"][:, 1:4] = 1.0
    assert math.isnan(MEASURES["coupling"](run, 0.5))


def test_coupling_leaves_out_what_is_not_measured(tmp_path):
    accuracy = np.full(12, math.nan)
    accuracy[[0, 4, 8]] = 0.5
    assert math.isnan(MEASURES["coupling"](one_run(tmp_path, accuracy_dense=accuracy), 0.5))


# Statistics


def test_spearman_of_a_textbook():
    # hours of television against IQ, ten people: 1 - 6 * 194 / (10 * 99) = -29/165
    iq = [106, 86, 100, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 0, 27, 50, 28, 29, 20, 12, 6, 17]
    np.testing.assert_allclose(spearman(iq, hours), -29 / 165)


def test_spearman_with_ties_is_pearson_of_mean_ranks():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 30).astype(float), rng.integers(0, 5, 30).astype(float)
    ranks = [[(np.sum(x < v) + np.sum(x <= v) + 1) / 2 for v in x] for x in (a, b)]
    np.testing.assert_allclose(spearman(a, b), np.corrcoef(*ranks)[0, 1])
    a[3] = math.nan
    kept = np.arange(30) != 3
    np.testing.assert_allclose(spearman(a, b), spearman(a[kept], b[kept]))


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4])]
)
def test_spearman_of_too_little_is_nan(a, b):
    assert math.isnan(spearman(a, b))


law = settings(derandomize=True, deadline=None, max_examples=60, database=None)
numbers = st.lists(st.floats(-5, 5), min_size=6, max_size=6)


@law
@given(numbers, st.floats(-3, 3))
def test_fieller_holds_what_the_t_test_does_not_exclude(a, rho):
    b = np.array([2.0, 2.5, 3.0, 2.2, 2.7, 2.1])
    a = np.round(np.array(a), 3) + np.array([0.0, 0.1, 0.2, 0.3, 0.1, 0.7])
    found = ratio_interval(a, b)
    p = scipy_stats.ttest_1samp(a - rho * b, 0.0).pvalue
    if abs(p - 0.05) > 1e-6:
        assert (found.low <= rho <= found.high) == (p > 0.05)
    np.testing.assert_allclose(found.mean, a.mean() / b.mean())


def test_fieller_is_not_given_where_it_is_not_bounded():
    assert math.isnan(ratio_interval([1.0, 2.0], [1.0, -1.0]).mean)
    assert math.isnan(ratio_interval([1.0], [1.0]).mean)
    assert math.isnan(ratio_interval([1.0, math.nan], [1.0, 1.1]).mean)


@law
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(0.05, 2))
def test_seeds_needed_is_the_smallest_number(values, half):
    deviation = np.std(values, ddof=1)
    n = seeds_needed(mean_interval(values), half)

    def reach(k):
        return scipy_stats.t.ppf(0.975, k - 1) * deviation / math.sqrt(k)

    assert reach(n) <= half * (1 + 1e-9)
    assert n == 2 or reach(n - 1) > half * (1 - 1e-9)


def test_seeds_needed_without_a_spread():
    assert seeds_needed(mean_interval([0.5]), 0.01) is None
    assert seeds_needed(Interval(0.5, 0.5, 0.5, 3), 0.01) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spearman([1.0], [1.0, 2.0]), "1 and 2"),
        (lambda: ratio_interval([1.0], [1.0, 2.0]), "1 and 2"),
        (lambda: ratio_interval([[1.0]], [1.0]), r"shape \(1, 1\)"),
        (
            lambda: seeds_needed(mean_interval([0.0, 1.0]), 0.0),
            "half_width must be above 0, got 0.0",
        ),
        (lambda: seeds_needed(mean_interval([0.0, 1.0]), math.nan), "half_width .* nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# What older and damaged recordings hold


def test_a_study_from_before_there_were_prices(tmp_path):
    study = read_study(write_study(tmp_path, **SMALL))
    assert study.target is None
    assert study.prices == {"per_gb": None, "per_device_hour": None, "per_point": None}


@pytest.mark.parametrize("damage", [{"target": "high"}, {"prices": 3}, {"prices": {"per_gb": []}}])
def test_damaged_prices_are_named(tmp_path, damage):
    write_study(tmp_path, **SMALL, **damage)
    with pytest.raises(RecordingError, match=r"study\.json is damaged"):
        read_study(tmp_path)
