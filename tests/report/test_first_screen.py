"""The first screen: cards, what next, words that are explained; whole without its script."""

import html
import json
import re
from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from helpers.edited_study import LOCAL, POOLED, SMALL, edit
from helpers.fake_study import with_accuracies, with_diverged, write_study
from lipsjax.analysis.cards import Measured, cards
from lipsjax.analysis.comparison import compare
from lipsjax.analysis.stats import Interval
from lipsjax.recording import read_study
from lipsjax.report import plots
from lipsjax.report.anonymise import anonymous_study
from lipsjax.report.cards import bar, lines, spread
from lipsjax.report.glossary import WORDS
from lipsjax.report.html import render, write_report
from lipsjax.report.markdown import markdown
from lipsjax.report.next_step import next_step

pytestmark = pytest.mark.usefixtures("sketched")
SHORT = SMALL | {"rounds": 3}


def write_whole(path, **options):
    """A study with all its controls."""
    write_study(path, arms=("dense", "lips", "alone", "all"), **SHORT | options)
    edit(path, "alone", LOCAL, accuracy_dense=-0.3)
    edit(path, "all", POOLED, accuracy_dense=0.05)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study with all its controls and its page, whose figures are empty."""
    prices = {"per_gb": 1.0, "per_point": 1.0}
    study = read_study(write_whole(tmp_path_factory.mktemp("whole"), prices=prices))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "svg", lambda *_: Markup("<svg></svg>"))
        return study, render(study)


def plain(text):
    """Texts of a page as they are read, without its style, script and figures."""
    seen = re.sub(r"<(style|script|svg).*?</\1>", "", text, flags=re.DOTALL)
    words = re.sub(r"</?a[^>]*>", "", seen)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", words)).replace("−", "-").split())


def test_the_first_screen_answers(whole):
    study, page = whole
    step = next_step(study)
    first = plain(page[: page.index('id="lines"')])
    for card in cards(compare(study)):
        assert f"{card.question} {card.word} {card.says}" in first
        for measured in card.measured:
            assert spread(measured) in first
            assert measured.label in first
    assert f"what next? {step.word} {step.sentence} {step.command} About" in first
    assert page.index('class="cards"') < page.index('id="next"') < page.index('class="summary"')


def test_a_card_that_lacks_an_arm_says_what_to_add(tmp_path):
    page = plain(render(read_study(write_study(tmp_path, **SHORT))))
    assert "No arm trained at each site alone. Add --arms dense lips local pooled" in page


def test_a_task_that_is_too_easy_is_called_so(whole):
    study, page = whole
    ends = {arm: [0.992, 0.994, 0.994, 0.996] for arm in study.arms}
    easy = plain(render(with_accuracies(study, ends)))
    assert "Too easy to tell: dense already gets 99.4" in easy
    assert "Too easy" not in plain(page)


def test_markdown_has_the_words_of_the_cards(whole):
    study, _ = whole
    text, step = markdown(study).replace("\\", ""), next_step(study)
    for question, answer in lines(cards(compare(study))):
        assert f"- **{question}** {answer}" in text
    assert f"**Is it worth going on?** {step.word}. {step.sentence}" in text
    assert f"```\n{step.command}\n```" in text


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.01, -0.01, 0.03), (60, 40, 40)),  # of an axis to 5 points
        ((0.0, -0.002, 0.002), (50, 45, 10)),  # of one to 2, which is the least
        ((-0.5, -1.4, 0.4), (25, 0, 70)),  # cut at what accuracies can differ by
    ],
)
def test_bars_lie_where_their_numbers_are(interval, expected):
    found = bar(Measured("a less b", Interval(*interval, 4)))
    assert (found.mean, found.low, found.width) == pytest.approx(expected)


def test_words_are_explained_once_and_linked_from_their_first_use(whole):
    _, page = whole
    links = re.findall(r'<a class="word" href="#([^"]*)">', page)
    assert len(links) == len(set(links)) >= 6
    for word in WORDS:
        assert page.count(f'<dt id="{word.anchor}">{word.name}</dt>') == 1
    assert set(links) <= {word.anchor for word in WORDS}


def test_the_page_is_whole_without_its_script(whole):
    body, script = whole[1].split("<script>")
    assert "<button" not in body  # the script makes them
    assert not re.search(r"\son\w+=", body)  # nothing that waits for one
    assert not re.search(r"fetch\(|XMLHttp|https?:|import\s*\(|src=|storage", script)


def test_pages_of_a_folder_link_each_other_by_name(tmp_path, whole):
    assert "survey.html" not in whole[1]
    write_study(tmp_path, **SHORT)
    (tmp_path / "survey.html").write_text("")
    page = write_report(tmp_path).read_text()
    assert page.count('href="survey.html"') == 2
    links = re.findall(r'(?:href|src)="([^"#]*)"', page)
    assert {link for link in links if not link.startswith("data:") and link} == {"survey.html"}


class Outline(HTMLParser):
    """Levels of headings, and what cells of tables are."""

    def __init__(self):
        super().__init__()
        self.levels, self.unscoped, self.places = [], 0, []

    def handle_starttag(self, tag, attrs):
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        self.unscoped += tag == "th" and "scope" not in dict(attrs)
        if tag in ("header", "main", "nav", "footer"):
            self.places.append(tag)


def test_headings_are_in_order_and_heads_of_tables_say_what_they_head(whole):
    outline = Outline()
    outline.feed(whole[1])
    assert outline.levels[0] == 1
    assert all(b - a <= 1 for a, b in zip(outline.levels, outline.levels[1:], strict=False))
    assert outline.unscoped == 0
    assert outline.places == ["header", "main", "nav", "footer"]


STUDIES = {
    "one seed": {"seeds": 1},
    "two seeds": {"seeds": 2},
    "one arm": {"arms": ("dense",)},
    "grid": {"cells": ("a", "b", "c", "d", "e"), "rounds": 3},
    "nothing of LIPS": {"missing": tuple(("lips", seed) for seed in range(4))},
    "nothing of dense": {"missing": tuple(("dense", seed) for seed in range(4))},
    "no bits": {"bits_ratio": float("nan"), "prices": {"per_gb": 1.0, "per_point": 1.0}},
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if i % 3 else ()) for i, case in enumerate(STUDIES)],
)
def test_no_number_that_is_none_is_on_a_page(tmp_path, case):
    page = render(read_study(write_study(tmp_path, **SHORT | STUDIES[case])))
    shown = re.sub(
        r"<style.*?</style>|<script.*?</script>|base64,[^\"]*", "", page, flags=re.DOTALL
    )
    assert not re.search(r"\bnan\b", shown, flags=re.IGNORECASE)


def test_no_number_that_is_none_is_on_a_page_of_what_diverged(tmp_path):
    study = read_study(write_study(tmp_path, **SHORT))
    ended = tuple(("lips", seed) for seed in range(4))
    assert not re.search(r"\bnan\b", plain(render(with_diverged(study, *ended))))


def test_what_the_script_reads_is_escaped_and_without_names_where_asked(tmp_path):
    evil = 'it\'s "</script>" & <b>'
    command = "python -m lipsjax.experiments.sweep /home/ulm.toml"
    study = read_study(write_study(tmp_path, arms=("dense", evil), command=command, **SHORT))
    page = render(study)
    assert page.count("</script>") == 1
    (found, *_) = re.findall(r'data-arms="([^"]*)"', page)
    expected = [[plots.arm_class(arm), arm] for arm in ("dense", evil)]
    assert json.loads(html.unescape(found)) == expected
    assert "ulm" in page
    assert "ulm" not in render(anonymous_study(study))
