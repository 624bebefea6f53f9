"""Nothing is shown that cannot be: accuracies beyond 0 and 100%, or a gain of more than is left."""

import io
import math
import re

import numpy as np
import pytest
from rich.console import Console

from helpers.edited_study import SMALL, edit, rows_of
from helpers.fake_study import with_accuracies, write_study
from lipsjax.analysis.comparison import compare
from lipsjax.analysis.stats import Difference, Interval
from lipsjax.analysis.verdict import findings
from lipsjax.analysis.wording import capped, clipped, gained, percent, points
from lipsjax.recording import read_study
from lipsjax.report import html, plots
from lipsjax.report.markdown import markdown
from lipsjax.report.summary import executive
from lipsjax.report.terminal import summary_table

WILD = {"dense": [0.3, 0.99], "lips": [0.98, 0.2]}
"""Ends of two seeds, whose intervals reach far beyond 0 and 100%."""


@pytest.fixture
def wild(tmp_path):
    return with_accuracies(read_study(write_study(tmp_path, **SMALL | {"seeds": 2})), WILD)


def numbers_in(text):
    """The bounds of all intervals in brackets or words, with those of bits and times left out."""
    spans = re.findall(r"\[([-+−\d.]+), ([-+−\d.]+)\]", text)
    spans += re.findall(r"95% interval ([-+−\d.]+) to ([-+−\d.]+)", text)
    return [float(bound.replace("−", "-").rstrip(".")) for span in spans for bound in span]


def test_intervals_of_accuracy_stay_within_what_there_is(wild):
    rows = compare(wild)
    assert rows[0].means["personalised"].high > 2  # the file of all digits keeps them
    told = [*executive(wild), *(f.sentence for f in findings(rows)), markdown(wild)]
    assert numbers_in(" ".join(told))
    assert max(map(abs, numbers_in(" ".join(told)))) <= 100
    console = Console(width=200, file=io.StringIO())
    console.print(summary_table(wild, width=200))
    assert max(map(abs, numbers_in(console.file.getvalue()))) <= 100
    page = re.sub(r"<svg.*?</svg>", "", html.render(wild), flags=re.DOTALL)
    assert max(map(abs, numbers_in(page))) <= 100
    assert "ruled out" not in " ".join(told)


def test_figures_stay_within_what_there_is(wild):
    rows = compare(wild)
    arms = {t.arm: [u.recording for u in wild.trials if u.arm == t.arm] for t in wild.trials}
    for drawing in (plots.accuracy_curves(arms), plots.stages(arms)):
        bands = np.array([row[2:] for row in drawing.rows], float)
        assert np.nanmin(bands) >= 0
        assert np.nanmax(bands) <= 1
        for panel in drawing.panels:
            for band in panel.axes[0].collections:
                heights = band.get_paths()[0].vertices[:, 1]
                assert heights.min() >= 0
                assert heights.max() <= 1
    for row in plots.forest(rows).rows:
        assert -1 <= row[5] <= row[6] <= 1
    lines = [
        line for line in plots.forest(rows).panels[0].axes[0].lines if len(line.get_xdata()) == 2
    ]
    assert max(max(np.abs(line.get_xdata())) for line in lines) <= 100
    for row in (*plots.pairs(rows).rows, *((*r[:3], *r[6:9]) for r in plots.cost(rows).rows)):
        assert 0 <= row[4] <= row[5] <= 1


def test_bands_of_equal_counts_have_a_width(tmp_path):
    study = read_study(write_study(tmp_path, **SMALL | {"seeds": 3}, test_examples=90))
    study = with_accuracies(study, {"dense": [0.75] * 3, "lips": [0.75] * 3})
    arms = {t.arm: [u.recording for u in study.trials if u.arm == t.arm] for t in study.trials}
    for _, _, mean, low, high, *_ in plots.accuracy_curves(arms).rows:
        assert mean == 0.75
        # t(2, 0.975) / sqrt(3) = 2.484 steps of an example of 360
        np.testing.assert_allclose(high - low, 2 * 2.4841377 / 360, rtol=1e-6)


def test_a_dot_of_two_seeds_is_hollow(tmp_path):
    for seeds, is_hollow in ((2, True), (3, False)):
        rows = rows_of(write_study(tmp_path / str(seeds), **SMALL | {"seeds": seeds}))
        (dot,) = [
            line for line in plots.forest(rows).panels[0].axes[0].lines if line.get_marker() == "o"
        ]
        assert (dot.get_markerfacecolor() == "none") == is_hollow


def ruled_out(rows, low, high, mean=None):
    """What is said of a difference of personalised accuracy between these bounds."""
    dense, lips = rows
    interval = Interval((low + high) / 2 if mean is None else mean, low, high, 4)
    lips = lips._replace(
        differences={**lips.differences, "personalised": Difference(interval, 0.9)},
        adjusted={**lips.adjusted, "personalised": 0.9},
    )
    (found,) = [f for f in findings([dense, lips]) if f.topic == "Personalised accuracy"]
    return found.detail.partition("; ")[2]


def test_only_what_could_be_is_ruled_out(tmp_path):
    study = read_study(write_study(tmp_path, **SMALL))
    rows = compare(with_accuracies(study, {"dense": [0.9] * 4, "lips": [0.9] * 4}))
    assert ruled_out(rows, -0.021, 0.015, 0.0) == (
        "a gain above 1.50 or a loss above 2.10 points is ruled out at this level."
    )
    # the reference lacks ten points to 100%
    assert ruled_out(rows, -0.12, 0.12) == ("a loss above 12.00 points is ruled out at this level.")
    assert ruled_out(rows, -1.7393, 1.7393) == ("no gain or loss that there could be is ruled out.")
    # never "above 0.00"
    assert ruled_out(rows, -0.02, 0.0, 0.0) == (
        "a gain above 0.01 or a loss above 2.00 points is ruled out at this level."
    )
    assert ruled_out(rows, -0.00002, 0.0, 0.0).startswith("a gain above 0.01 or a loss above 0.01 ")


def test_an_inertia_index_is_at_most_one(tmp_path):
    write_study(tmp_path, **SMALL)
    edit(tmp_path, "dense", inertia_index=0.45)
    rows = rows_of(tmp_path)
    index = rows[0].means["inertia_end"]
    wide = index._replace(low=index.mean - 0.5, high=index.mean + 0.5)
    dense = rows[0]._replace(means={**rows[0].means, "inertia_end": wide, "inertia": wide})
    text = " ".join(f.sentence for f in findings([dense, rows[1]]) if f.subject == "dense")
    assert "to 1.000)" in text
    assert max(numbers_in(text)) <= 1


def test_benefits_are_of_no_more_than_a_hundred_points(wild):
    (value,) = html.appraise(compare(wild), {"per_point": 2.0})
    assert (value.benefit.low, value.benefit.high) == (-200, 200)


def test_what_is_within_is_left_alone():
    within, none = Interval(0.5, 0.25, 0.75, 3), Interval(0.5, math.nan, math.nan, 1)
    assert clipped(within, 0, 1) == capped(within) == within
    assert percent(within) == "50.0 [25.0, 75.0]"
    assert gained(within) == "+50.0 [25.0, 75.0]"
    assert percent(none) == "50.0"
    assert points(none) == "+50.00 points (no interval, 1 seed)"
    assert points(Interval(0.05, -1.6, 1.7, 2)) == (
        "+5.00 points (95% interval -100.00 to +100.00, 2 seeds)"
    )
