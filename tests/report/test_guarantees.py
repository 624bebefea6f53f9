"""What each arm promises, on the page and in Markdown; nothing where none does."""

import html

import numpy as np
import pytest

from helpers.fake_study import write_study
from lipsjax.analysis.comparison import compare
from lipsjax.recording import read_study
from lipsjax.report.guarantees import OUTSIDE, guarantee_lines
from lipsjax.report.html import render
from lipsjax.report.markdown import markdown

CLIENTS = {"clip": 1.0, "epsilon": 8.0, "delta": 1e-6}


@pytest.fixture
def study(tmp_path):
    return read_study(write_study(tmp_path, seeds=2, rounds=6))


def promising(study, privacy, spent):
    """LIPS promises something, and has spent so much by its last round."""

    def promised(trial):
        run = trial.recording
        if trial.arm == "dense":
            return trial
        scalars = {**run.scalars, "epsilon": np.linspace(spent / 6, spent, 6)}
        config = {**run.config, "privacy": privacy}
        return trial._replace(recording=run._replace(scalars=scalars, config=config))

    return study._replace(trials=tuple(map(promised, study.trials)))


@pytest.mark.parametrize(
    ("privacy", "spent", "line"),
    [
        (CLIENTS, 7.9996, ["each client", "one client more or less", "8", "1e-06"]),
        (
            CLIENTS | {"unit": "example"},
            4.25,
            [
                "each example, from the server too",
                "one example replaced by nothing, in data of known sizes",
                "4.25",
                "1e-06",
            ],
        ),
        (
            CLIENTS | {"noise_cohort_size": 20_000},
            8.0,
            [
                "nobody here: noise as of 20,000 clients in a round",
                "one client more or less",
                "8",
                "1e-06",
            ],
        ),
        (CLIENTS, np.nan, ["nobody", "", "none: a clip without noise", ""]),
    ],
)
def test_a_line_for_each_arm(study, privacy, spent, line):
    first, second = guarantee_lines(compare(promising(study, privacy, spent)))
    assert first == ["dense", "nobody", "", "none", ""]
    assert second == ["lips", *line]


@pytest.mark.parametrize("alike", [True, False])
def test_an_arm_has_one_line_for_all_cells_in_which_it_promises_the_same(tmp_path, alike):
    found = read_study(write_study(tmp_path, seeds=2, rounds=6, cells=("a = 1", "a = 2")))
    both = [promising(found, CLIENTS | {"delta": d}, 8.0) for d in (1e-6, 1e-6 if alike else 1e-5)]
    trials = tuple(t for cell in (0, 1) for t in both[cell].trials if t.cell == cell)
    names = [line[0] for line in guarantee_lines(compare(found._replace(trials=trials)))]
    assert names == ["dense", *(["lips"] if alike else ["lips (a = 1)", "lips (a = 2)"])]


def test_the_page_says_what_is_promised_and_what_is_outside(study):
    made = promising(study, CLIENTS, 7.5)
    page, text = html.unescape(render(made)), markdown(made)
    for shown in (page, text):
        assert "What is promised" in shown
        assert OUTSIDE in shown
        assert "one client more or less" in shown
    assert '<td class="number">7.5</td>' in page


def test_nothing_is_said_where_nothing_is_promised(study):
    assert guarantee_lines(compare(study)) == []
    assert "What is promised" not in render(study)
    assert "What is promised" not in markdown(study)
