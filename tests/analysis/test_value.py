"""Costs, benefits and break-even by hand arithmetic; prices and targets that are none."""

import dataclasses
import math

import numpy as np
import pytest

from helpers import commands
from helpers.edited_study import POOLED, SMALL, edit, rows_of, study_with_controls
from helpers.fake_study import write_study
from lipsjax.analysis.value import (
    NEVER,
    PAYS_ALWAYS,
    PAYS_BELOW,
    PAYS_FROM,
    appraise,
    cost,
    findings_of,
    gigabytes,
)
from lipsjax.analysis.verdict import findings, verdict
from lipsjax.recording import read_study
from lipsjax.runs.config import Prices
from lipsjax.runs.study import Study, check_prices, check_target, expand

ALL = {"per_gb": 2.0, "per_device_hour": 3.0, "per_point": 10.0}


def row_of(rows, gains, bits, hours=0.0):
    """The rows of a study of three seeds in which the second arm has these differences."""
    dense, lips = rows
    base = {"personalised": 0.5, "uplink_bits": 8e9, "downlink_bits": 8e9, "device_hours": 1.0}
    theirs = dict.fromkeys(range(3), dense.values[0] | base)
    ours = {
        seed: theirs[seed]
        | {
            "personalised": 0.5 + gain,
            "uplink_bits": 8e9 + 8e9 * more,
            "device_hours": 1.0 + hours,
        }
        for seed, gain, more in zip(range(3), gains, bits, strict=True)
    }
    return [dense._replace(values=theirs), lips._replace(values=ours)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return rows_of(write_study(tmp_path_factory.mktemp("value"), **SMALL))


def test_gigabytes_and_cost_by_hand():
    run = {"uplink_bits": 1.6e10, "downlink_bits": 0.8e10, "device_hours": 0.25}
    assert gigabytes(run) == 3.0
    assert cost(run, ALL) == 3.0 * 2.0 + 0.25 * 3.0
    assert cost(run, {"per_gb": 2.0}) == 6.0
    assert cost(run, {"per_device_hour": 3.0, "per_gb": None}) == 0.75
    assert cost(run, {"per_point": 1.0}) is None
    assert cost(run, {"per_gb": 0.0}) == 0.0


def test_cost_of_a_recorded_run_by_hand(tmp_path):
    write_study(tmp_path, **SMALL)
    study = read_study(tmp_path)
    first = study.trials[0].recording
    numbers = rows_of(tmp_path)[0].values[0]
    # 20 rounds of 24 Mbit each way; seconds on one device
    np.testing.assert_allclose(gigabytes(numbers), 20 * 2 * 2.4e7 / 8 / 1e9)
    np.testing.assert_allclose(numbers["device_hours"], first.seconds / 3600)


def test_break_even_by_hand(rows):
    # 1, 2 and 3 points more for 2, 4 and 6 more: 2 a point, in every seed
    (value,) = appraise(row_of(rows, [0.01, 0.02, 0.03], [1, 2, 3]), ALL)
    assert value.priced == ("bits", "device-hours")
    np.testing.assert_allclose(value.reference_cost.mean, 2 * 2.0 + 3.0)
    np.testing.assert_allclose(value.extra.mean, 4.0)
    np.testing.assert_allclose(value.gain.mean, 2.0)
    np.testing.assert_allclose(value.benefit.mean, 20.0)
    np.testing.assert_allclose(value.net.mean, 16.0)
    # the interval of the gain holds zero: t(2, 0.975) / sqrt(3) = 2.48
    assert value.outcome == "cannot tell"
    (value,) = appraise(row_of(rows, [0.04, 0.05, 0.06], [4, 5, 6]), ALL)
    assert value.outcome == PAYS_FROM
    np.testing.assert_allclose(value.break_even[:3], 2.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("gains", "bits", "outcome"),
    [
        ([0.04, 0.05, 0.06], [-1, -1, -1], PAYS_ALWAYS),
        ([0.04, 0.05, 0.06], [0, 0, 0], PAYS_ALWAYS),
        ([-0.04, -0.05, -0.06], [1, 1, 1], NEVER),
        ([-0.04, -0.05, -0.06], [1, -2, 3], "cannot tell"),  # it may save something
        ([0.04, 0.05, 0.06], [1, -2, 3], "cannot tell"),
        ([-0.04, -0.05, -0.06], [0, 0, 0], NEVER),
        ([-0.04, -0.05, -0.06], [-1, -1, -1], PAYS_BELOW),
        ([0, 0, 0], [1, 1, 1], "cannot tell"),  # equal counts are no gain of zero
        ([0, 0, 0], [-1, -1, -1], "cannot tell"),
        ([-0.04, 0.05, 0.0], [1, 1, 1], "cannot tell"),
    ],
)
def test_when_it_pays(rows, gains, bits, outcome):
    (value,) = appraise(row_of(rows, gains, bits), ALL)
    assert value.outcome == outcome
    assert (value.break_even is None) == (outcome not in (PAYS_FROM, PAYS_BELOW))
    (said,) = findings_of(value)
    assert said.outcome == outcome
    assert "nan" not in said.detail


def test_a_gain_that_does_not_outlive_holm_has_no_break_even(rows):
    dense, lips = row_of(rows, [0.04, 0.05, 0.06], [4, 5, 6])
    several = lips._replace(adjusted={**lips.adjusted, "personalised": 0.06})
    (value,) = appraise([dense, several], ALL)
    assert (value.outcome, value.break_even) == ("cannot tell", None)
    (said,) = findings_of(value)
    assert "break-even is not known, as no gain or loss in accuracy is seen" in said.detail


def test_without_prices_there_is_no_money(rows):
    nothing = dict.fromkeys(ALL)
    assert appraise(rows, nothing) is None
    assert appraise(rows, None) is None
    assert appraise(rows, {}) is None
    assert verdict(rows) == verdict(rows, nothing)
    assert not any(f.topic == "Value" for f in findings(rows, nothing))


def test_a_part_of_the_prices_gives_a_part_of_the_answer(rows):
    changed = row_of(rows, [0.04, 0.05, 0.06], [4, 5, 6])
    (value,) = appraise(changed, {"per_point": 10.0})
    assert (value.cost, value.extra, value.net, value.break_even) == (None,) * 4
    (said,) = findings_of(value)
    assert said.outcome == "gains"
    assert "bits and device-hours have no price" in said.detail
    assert "benefit +50.00" in said.detail
    (value,) = appraise(changed, {"per_gb": 2.0})
    assert (value.benefit, value.net) == (None, None)
    np.testing.assert_allclose(value.break_even.mean, 2.0)
    (said,) = findings_of(value)
    assert "a point of accuracy has no price" in said.detail
    assert "breaks even where a point is worth 2.00" in said.detail
    assert "counting bits;" in said.detail


def test_one_seed_and_uncounted_bits(tmp_path):
    rows = rows_of(write_study(tmp_path, **SMALL | {"seeds": 1}))
    ((said,),) = [findings_of(value) for value in appraise(rows, ALL)]
    assert said.outcome == "cannot tell"
    write_study(tmp_path / "b", **SMALL)
    edit(tmp_path / "b", "lips", uplink_bits=math.nan)
    (value,) = appraise(rows_of(tmp_path / "b"), ALL)
    (said,) = findings_of(value)
    assert "not measured in every seed" in said.detail
    assert "nan" not in said.detail


def test_every_compared_row_has_a_value(tmp_path):
    write_study(tmp_path, arms=("dense", "a", "b"), cells=("x", "y"), prices=ALL, **SMALL)
    study = read_study(tmp_path)
    assert study.prices == ALL
    values = appraise(rows_of(tmp_path), study.prices)
    assert [(v.cell, v.arm) for v in values] == [(c, a) for c in "xy" for a in "ab"]
    said = [f for f in findings(rows_of(tmp_path), study.prices) if f.topic == "Value"]
    assert len(said) == 4


def test_pooling_has_no_value_as_nobody_counted_what_it_moves(tmp_path):
    rows = rows_of(study_with_controls(tmp_path))
    assert [value.arm for value in appraise(rows, ALL)] == ["A"]
    write_study(tmp_path / "b", arms=("dense", "pooled"), bits_ratio=0.5, **SMALL)
    edit(tmp_path / "b", "pooled", POOLED)
    (bits,) = [f for f in findings(rows_of(tmp_path / "b")) if f.topic == "Bits"]
    assert bits.detail.endswith("What it takes to bring the examples to one site is not counted.")


# What is refused before anything is written.

BAD = {
    "negative price": (["--prices.per-gb", "-1"], "prices.per_gb must be a finite number", "-1"),
    "price that is no number": (["--prices.per-point", "nan"], "prices.per_point", "nan"),
    "price without end": (["--prices.per-device-hour", "inf"], "prices.per_device_hour", "inf"),
    "price in words": (["--prices.per-gb", "cheap"], "--prices.per-gb must be", "'cheap'"),
    "price of something else": (["--prices.per-mb", "1"], "unknown option", "--prices.per-gb"),
    "target in percent": (["--target", "80"], "target must be an accuracy in (0, 1]", "80"),
    "target 0": (["--target", "0"], "target must be an accuracy in (0, 1]", "not 0.0"),
    "target below 0": (["--target", "-0.5"], "target must be an accuracy", "-0.5"),
    "target that is no number": (["--target", "nan"], "target", "nan"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_prices_and_targets_end_in_one_line(tmp_path, case):
    argv, *parts = BAD[case]
    ended = commands.call("sweep", *argv, "--out", str(tmp_path / "out"))
    assert ended.status == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert all(part in ended.err for part in parts), ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("target = 1.5\n", "target must be an accuracy in (0, 1], not 1.5"),
        ("target = 'best'\n", "target must be a finite number or none, not 'best'"),
        (
            "[prices]\nper_gb = -0.1\n",
            "prices.per_gb must be a finite number, at least 0",
        ),
        ("[prices]\nper_gb = nan\n", "prices.per_gb must be a finite number or none, not nan"),
        ("[prices]\nper_bit = 1.0\n", "unknown field prices.per_bit"),
        ("prices = 3\n", "prices must be a table, not 3"),
    ],
)
def test_bad_prices_and_targets_of_a_study_file(tmp_path, text, part):
    (tmp_path / "study.toml").write_text(text)
    ended = commands.call("sweep", str(tmp_path / "study.toml"), "--out", str(tmp_path / "out"))
    assert ended.status == 2
    assert part in ended.err
    assert not (tmp_path / "out").exists()


def test_prices_and_targets_that_are_allowed():
    check_prices(Prices())
    check_prices(Prices(per_gb=0.0, per_point=5.0))
    check_target(None)
    check_target(1.0)
    assert expand(dataclasses.replace(Study(seeds=1), target=0.5, prices=Prices(per_gb=0.1)))
