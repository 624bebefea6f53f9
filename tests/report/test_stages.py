"""The page of stages: what it says of numbers and bounds, and what comes next."""

import math

import pytest

from lipsjax.analysis.gates import GO, NO_GO, OPEN, Gate, GateResult, decide
from lipsjax.analysis.stats import Interval
from lipsjax.report.stages import (
    NOT_BEGUN,
    NOT_FINISHED,
    Outcome,
    bar,
    bound_text,
    next_step,
    number_text,
    words,
    write_page,
)

GAIN = Gate(gate="gain", arm="lips", over="dense", at_least=1.0)
BITS = Gate(gate="bits", arm="lips", at_most=2e9)


@pytest.mark.parametrize(
    ("gate", "interval", "said"),
    [
        (
            GAIN,
            (2.0, -0.5, 4.5),
            "gain of lips over dense, personalised: +2.00 [-0.50, 4.50] points",
        ),
        (GAIN, (90.0, 50.0, 130.0), "+90.00 [50.00, 100.00] points"),  # no more can be
        (BITS, (1.5e9, 1.5e9, 1.5e9), "bits that a run of lips moves: 1.5 Gbit"),
        (BITS, (1.5e9, 1e9, 2e9), "1.5 Gbit [1 Gbit, 2 Gbit]"),
        (
            Gate(gate="worst_site", arm="lips", at_least=40),
            (45.0, -5.0, 95.0),
            "worst site of lips: 45.0 [0.0, 95.0] %",
        ),
        (
            Gate(gate="worst_site", arm="lips", over="dense", at_least=-3),
            (1.0, 0.5, 1.5),
            "worst site of lips less that of dense: +1.00 [0.50, 1.50] points",
        ),
        (Gate(gate="minutes", arm="lips", at_most=2), (1.0, -1, 3), "takes: 1.00 [0.00, 3.00] min"),
        (Gate(gate="money", arm="lips", at_most=2), (1.0, 0.5, 1.5), "lips: 1.00 [0.50, 1.50]"),
    ],
)
def test_numbers_have_their_intervals_and_units(gate, interval, said):
    assert said in f"{words(gate)}: {number_text(GateResult(gate, Interval(*interval, 5), OPEN))}"


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (GAIN, "at least +1 point"),
        (Gate(gate="over_alone", arm="lips", over="local", at_least=0), "at least 0 points"),
        (Gate(gate="accuracy", arm="lips", at_least=62.5), "at least 62.5 %"),
        (BITS, "at most 2 Gbit"),
        (Gate(gate="minutes", arm="lips", at_most=0.5), "at most 0.5 min"),
        (Gate(gate="money", arm="lips", at_most=1234), "at most 1,234.00"),
    ],
)
def test_bounds_have_units(gate, said):
    assert bound_text(gate) == said


def test_a_bar_is_on_the_side_that_its_word_says():
    passes = bar(GateResult(GAIN, Interval(2.0, 1.5, 2.5, 5), GO))
    fails = bar(GateResult(GAIN, Interval(0.0, -0.5, 0.5, 5), NO_GO))
    cheap = bar(GateResult(BITS, Interval(1e9, 1e9, 1e9, 5), GO))
    assert passes.good[0] <= passes.low
    assert passes.low + passes.width <= 100
    assert fails.low + fails.width < fails.good[0]
    assert sum(fails.good) == 100
    assert cheap.low + cheap.width < sum(cheap.good)
    assert bar(GateResult(GAIN, Interval(math.nan, math.nan, math.nan, 0), OPEN)) is None


def outcome(name, word, interval=None, seeds=(5,), **fields):
    results = () if interval is None else (decide(GAIN, Interval(*interval)),)
    asked = () if word == NOT_BEGUN else seeds
    about = {"name": name, "title": name, "description": "", "folder": f"01-{name}"}
    return Outcome(**about, gates=(GAIN,), seeds=asked, word=word, results=results, **fields)


PASSED = outcome("small", GO, (2.0, 1.5, 2.5, 5), seconds=180.0, finished=10, runs=10)
WIDE = (2.0, 0.0, 4.0, 5)  # needs 17 seeds in all
NEXT = {
    "all": ([PASSED], GO, "Every stage passed", ""),
    "failed": (
        [PASSED, outcome("pilot", NO_GO, (0.0, -1.0, 0.5, 5)), outcome("last", NOT_BEGUN)],
        NO_GO,
        "Stage 2 (pilot) failed: gain of lips over dense, personalised: +0.00 [-1.00, 0.50] "
        "points, where at least +1 point was asked. Not begun: last.",
        "",
    ),
    "open": (
        [outcome("small", OPEN, WIDE, seconds=300.0)],
        OPEN,
        "Stage 1 (small) needs 8 more seeds, some 8 minutes of computing, with which",
        "lipsjax poc X --seeds small=13",
    ),
    "at its bound": (
        [outcome("small", OPEN, (1.0, 0.0, 2.0, 5))],
        OPEN,
        "seeds do not settle it",
        "",
    ),
    "stopped": (
        [PASSED, outcome("b", NOT_FINISHED)],
        NOT_FINISHED,
        "is not finished",
        "lipsjax poc X",
    ),
    "new": ([outcome("small", NOT_BEGUN)], NOT_BEGUN, "has not begun", "lipsjax poc X"),
}


@pytest.mark.parametrize(("outcomes", "word", "said", "command"), NEXT.values(), ids=NEXT)
def test_what_comes_next(outcomes, word, said, command):
    found = next_step(outcomes, "lipsjax poc X")
    assert (found.word, found.command) == (word, command)
    assert said in found.sentence


def test_a_page_of_any_state_is_whole(tmp_path):
    for number, (outcomes, word, *_) in enumerate(NEXT.values()):
        path = tmp_path / f"{number}.html"
        write_page(path, "<b>", "a & b", outcomes, "lipsjax poc X")
        page = path.read_text()
        assert f"<b>{word.capitalize()}</b>" in page
        assert "<h1>&lt;b&gt;</h1>" in page
        assert page.count("<section") == page.count("</section>") == 1 + len(outcomes)
        assert "nan" not in page
        assert "<script" not in page
        assert "http" not in page
