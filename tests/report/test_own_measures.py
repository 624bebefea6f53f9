"""Measures that a study names itself are compared as all others, and shown in their own units."""

import numpy as np
import pytest

from helpers.fake_study import write_study
from lipsjax.analysis.comparison import MEASURES, compare
from lipsjax.recording import read_study
from lipsjax.report.html import render
from lipsjax.report.markdown import markdown
from lipsjax.report.own_measures import own_lines
from lipsjax.report.results import comparison_table


@pytest.fixture
def study(tmp_path):
    """Its measure is 3 in every round of dense, 5 of LIPS, and a little more in each seed."""
    found = read_study(write_study(tmp_path, seeds=3, rounds=6))

    def measured(trial):
        run = trial.recording
        values = np.full(6, (3 if trial.arm == "dense" else 5) + trial.seed / 8)
        return trial._replace(
            recording=run._replace(
                scalars={**run.scalars, "largest_step": values},
                setup={**run.setup, "own_measures": ["largest_step"]},
            )
        )

    return found._replace(trials=tuple(map(measured, found.trials)))


def test_own_measures_are_compared_seed_by_seed(study):
    dense, lips = compare(study)
    assert list(dense.means) == [*MEASURES, "largest_step"]
    assert (dense.means["largest_step"].mean, lips.means["largest_step"].mean) == (3.125, 5.125)
    assert lips.differences["largest_step"].interval.mean == 2
    table = comparison_table(study)
    at = table["measure"] == "largest_step"
    assert table["arm"][at].tolist() == ["dense", "lips"]
    assert table["difference"][at][1] == 2


def test_own_measures_have_a_table(study):
    first, second = own_lines(compare(study))
    assert [*first[:3], *first[4:]] == ["largest_step", "dense", "3", "", ""]
    assert first[3].startswith("3.125 [")
    assert second[4].startswith("2")
    assert "| largest\\_step | dense | 3 | 3.125 " in markdown(study)
    assert '<th scope="row">largest_step</th>' in render(study)


def test_without_own_measures_there_is_no_table(tmp_path):
    study = read_study(write_study(tmp_path, seeds=2, rounds=6))
    assert own_lines(compare(study)) == []
    assert "largest" not in markdown(study).partition("## Results")[2].partition("##")[0]
