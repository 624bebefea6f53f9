"""Site by site on every kind of page, and as CSV."""

import csv
import io

import pytest
from rich.console import Console

from helpers.fake_study import with_sites, write_study
from lipsjax.recording import read_study
from lipsjax.report.html import render
from lipsjax.report.markdown import markdown
from lipsjax.report.sites import sections, write_sites
from lipsjax.report.terminal import site_lines

pytestmark = pytest.mark.usefixtures("sketched")

NAMES = ("Brno", "<Ghent>", "=Ulm")
ENDS = {
    "dense": [[0.5, 0.8, 0.7], [0.52, 0.78, 0.7], [0.54, 0.82, 0.7]],
    "lips": [[0.6, 0.8, 0.7], [0.6, 0.82, 0.7], [0.6, 0.78, 0.7]],
    "local": [[0.3, 0.9, 0.7], [0.3, 0.9, 0.68], [0.3, 0.9, 0.72]],
}


def study_of(path, ends=ENDS, *, clients=3, **options):
    write_study(path, arms=tuple(ends), seeds=3, clients=clients, rounds=10, test_examples=1000)
    return with_sites(read_study(path), ends, **options)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_of(
        tmp_path_factory.mktemp("sites"), names=NAMES, classes=[0.1 * i for i in range(10)]
    )


def printed(study):
    console = Console(width=120, record=True, file=io.StringIO())
    for line in site_lines(study):
        console.print(line)
    return console.export_text()


PAGES = {"html": render, "markdown": markdown, "terminal": printed}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_tells_of_every_site(kind, study):
    text = PAGES[kind](study)
    assert "Site by site" in text
    assert "52.0" in text
    assert "dense against local: gains at Brno; loses at" in text.replace("\\", "")
    assert "dense: the worst site is Brno at 52.0" in text.replace("\\", "")


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_says_what_seeds_stand_for(kind, study):
    text = " ".join(PAGES[kind](study).split())
    assert "Seeds are redraws from these data, not other sites" in text


@pytest.mark.parametrize("kind", ["html", "markdown"])
def test_a_page_without_sites_says_it_too(kind, study):
    trials = tuple(t._replace(recording=t.recording._replace(by={})) for t in study.trials)
    text = PAGES[kind](study._replace(trials=trials))
    assert "Seeds are redraws from these data" in text
    assert "Site by site" not in text


def test_names_are_texts_on_a_page(study):
    page = render(study)
    assert "&lt;Ghent&gt;" in page
    assert "<Ghent>" not in page
    assert "gains over training alone (local)" in page
    assert '<th scope="row">9</th>' in page  # a class


def test_of_many_sites_the_worst_are_listed(tmp_path):
    count = 31
    names = tuple(f"site {i:02d}" for i in range(count))
    ends = {arm: [[0.2 + 0.02 * i for i in range(count)]] * 3 for arm in ("dense", "local")}
    study = study_of(tmp_path, ends, clients=count, names=names)
    (section,) = sections(study)
    assert [site.name for site in section.sites] == list(names[:5])
    page = render(study)
    assert "Of 31 sites the 5 of the lowest accuracy are listed" in page
    assert "site 30" not in page
    assert "no difference seen at 31 sites" in page


def test_made_up_clients_are_summarised(tmp_path):
    study = study_of(tmp_path)
    (section,) = sections(study)
    assert section.sites == ()
    for draw in PAGES.values():
        text = " ".join(draw(study).split())
        assert "The 3 clients are made up, and others in every seed" in text
        assert "gains at" not in text


def test_a_site_that_is_held_out_is_marked(tmp_path):
    held = {arm: [[0.4], [0.42], [0.44]] for arm in ENDS}
    study = study_of(tmp_path, clients=4, names=(*NAMES, "Wien"), held_out=held)
    for kind, draw in PAGES.items():
        text = draw(study)
        assert "held out" in text, kind
        assert "42.0" in text, kind


def test_leaving_out_one_site_in_each_cell_shows_every_value(tmp_path):
    """Too many cells for figures: the sites that never trained are told all the same."""
    ends = {"dense": [[0.5, 0.8, 0.7]] * 3}
    cells = tuple(f"hold out {i}" for i in range(6))
    write_study(tmp_path, arms=("dense",), cells=cells, seeds=3, clients=4, rounds=10)
    found = with_sites(
        read_study(tmp_path), ends, names=(*NAMES, "Wien"), held_out={"dense": [[0.4]] * 3}
    )
    page = render(found)
    assert "Sites that never trained" in page
    assert page.count('<th scope="row">Wien</th>') == len(cells)
    assert "no interval over the sites is given" in " ".join(page.split())


def test_every_site_of_every_arm_is_in_the_csv(study, tmp_path):
    path = tmp_path / "sites.csv"
    assert write_sites(study, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    row = next(r for r in rows if (r["arm"], r["site"]) == ("dense", "Brno"))
    assert float(row["accuracy_mean"]) == pytest.approx(0.52)
    assert float(row["alone_difference_mean"]) == pytest.approx(0.22)
    assert row["reference_difference_mean"] == ""
    assert row["seeds"] == "3"
    assert row["trains"] == "1"
    assert {r["site"] for r in rows} == {"Brno", "<Ghent>", "'=Ulm"}


def test_where_nothing_is_recorded_an_old_csv_goes(study, tmp_path):
    (tmp_path / "sites.csv").write_text("old")
    trials = tuple(t._replace(recording=t.recording._replace(by={})) for t in study.trials)
    assert not write_sites(study._replace(trials=trials), tmp_path / "sites.csv")
    assert not (tmp_path / "sites.csv").exists()
