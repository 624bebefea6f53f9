"""The page: data links that hold the figures' numbers, maps, both colour schemes, one file."""

import base64
import csv
import html
import io
import json
import re
from itertools import product
from typing import Any

import numpy as np
import pytest

from helpers.fake_study import with_claims, write_study
from lipsjax.analysis.comparison import compare, recordings_of
from lipsjax.analysis.decision import BETTER, EQUIVALENT, OPEN, UNDECIDED, WORSE
from lipsjax.analysis.finding import NO_DIFFERENCE, UNKNOWN, outcome
from lipsjax.analysis.stats import Difference, Interval
from lipsjax.recording import Comparison, read_study
from lipsjax.report import html as page
from lipsjax.report import plots
from lipsjax.report.summary import executive

pytestmark = pytest.mark.slow  # others of the kind are in the default tests

SMALL: dict[str, Any] = {"seeds": 3, "rounds": 6, "clients": 3, "classes": 3}
FIELDS = {
    "partition.train_examples": [10, 30],
    "partition.alpha": [0.1, 1.0, 10.0],
    "model.clients": [5, 20],
}


def grid_cells(fields):
    chosen = [dict(zip(fields, values, strict=True)) for values in product(*fields.values())]
    return [
        {"label": ", ".join(f"{k} = {v}" for k, v in cell.items()), "overrides": cell}
        for cell in chosen
    ]


def write_grid(path, fields, **options):
    """A fake study whose cells are a grid, as a sweep records them."""
    cells = grid_cells(fields)
    labels = tuple(cell["label"] for cell in cells)
    out = write_study(path, cells=labels, **(SMALL | options))
    record = json.loads((out / "study.json").read_text())
    (out / "study.json").write_text(json.dumps(record | {"cells": cells}))
    return read_study(out)


def figures_of(text):
    """file name -> (rows of its data link, its SVG elements)."""
    found = {}
    for figure in re.findall(r"<figure>.*?</figure>", text, flags=re.DOTALL):
        name, link = re.search(r'download="([^"]*)" href="([^"]*)"', figure).groups()
        head, _, encoded = link.partition(",")
        assert head == "data:text/csv;charset=utf-8;base64"
        table = csv.DictReader(io.StringIO(base64.b64decode(encoded).decode()))
        assert name not in found
        found[name] = list(table), re.findall(r"<svg.*?</svg>", figure, flags=re.DOTALL)
    return found


def page_of(path):
    return page.write_report(path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A small study and its page, which costs seconds to draw."""
    path = write_study(tmp_path_factory.mktemp("plain"), **SMALL)
    return read_study(path), page_of(path)


def curve_of(line):
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def column(table, name, **where):
    rows = [row for row in table if all(row[k] == v for k, v in where.items())]
    return np.array([float(row[name] or "nan") for row in rows])


# Data behind figures


def test_data_links_hold_what_their_figures_draw(plain):
    study, text = plain
    arms, figures = recordings_of(study, 0), figures_of(text)
    assert set(figures) == {
        "all-arms.csv",
        "differences.csv",
        "coupling.csv",
        *(f"{name}-0.csv" for name in ("cost", "accuracy", "stages", "steps", "relative_steps")),
        *("changes-0.csv", "mix-0.csv"),
    }
    table = figures["accuracy-0.csv"][0]
    lines = plots.accuracy_curves(arms).panels[1].axes[0].lines
    means = [
        line for line in lines if " seed" not in str(line.get_gid()) and len(line.get_xdata()) > 2
    ]
    for arm, line in zip(arms, means, strict=True):
        rounds, mean = curve_of(line)
        np.testing.assert_array_equal(column(table, "round", arm=arm), rounds)
        np.testing.assert_allclose(column(table, "global_accuracy_mean", arm=arm), mean, rtol=1e-5)
    table = figures["steps-0.csv"][0]
    image = plots.inertia_heatmap(arms).panels[1].axes[0].images[0].get_array()
    np.testing.assert_allclose(column(table, "conv2", arm="lips"), image[2], rtol=1e-5)
    table = figures["changes-0.csv"][0]
    (dots,) = plots.changes(arms).panels[1].axes[0].lines[-1:]
    moved, gained = (values[::3] for values in curve_of(dots))
    last = {"arm": "lips", "seed": "2"}
    np.testing.assert_allclose(column(table, "step_change", **last), moved, rtol=1e-5)
    np.testing.assert_allclose(column(table, "gain_change", **last), gained, rtol=1e-5)
    table = figures["mix-0.csv"][0]
    counts = arms["dense"][0].setup["survey"]["train_counts"]
    assert [[int(row[f"class {i}"]) for i in range(3)] for row in table] == counts


def test_differences_and_costs_of_the_data_are_those_of_the_comparison(plain):
    study, text = plain
    _, lips = compare(study)
    figures = figures_of(text)
    first = figures["differences.csv"][0][0]
    found = lips.differences["personalised"].interval
    assert (first["arm"], first["reference"], first["measure"]) == ("lips", "dense", "personalised")
    drawn = [float(first[name]) for name in ("difference", "low", "high", "seeds")]
    np.testing.assert_allclose(drawn, found, rtol=1e-5)
    assert first["outcome"] == outcome(lips, "personalised", up="helps", down="hurts")
    bits = [row for row in figures["cost-0.csv"][0] if row["cost"] == "bits"]
    assert {float(row["cost_mean"]) for row in bits} == {2 * 6 * 2.4e7}
    (coupled,) = [row for row in figures["coupling.csv"][0] if row["arm"] == "lips"]
    np.testing.assert_allclose(
        float(coupled["coupling_mean"]), lips.means["coupling"].mean, rtol=1e-5
    )


def test_costs_are_operations_where_they_were_counted(tmp_path):
    rows = compare(read_study(write_study(tmp_path, **SMALL)))
    assert {row[1] for row in plots.cost(rows).rows} == {"bits", "seconds"}
    for path in tmp_path.glob("runs/*/setup.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"flops_per_round": 7e9}))
    drawing = plots.cost(compare(read_study(tmp_path)))
    assert {row[1] for row in drawing.rows} == {"bits", "flops"}
    at = drawing.columns.index("cost_mean")
    assert [row[at] for row in drawing.rows if row[1] == "flops"] == [6 * 7e9] * 4


def test_names_beside_points_keep_apart():
    from lipsjax.report.plots.lines import spread

    places = spread([0.1, 0.11, 0.12, 0.97, 0.98], 0.1)
    assert np.diff(places).min() >= 0.1 - 1e-12
    assert places.max() <= 1
    np.testing.assert_array_equal(spread([0.2, 0.6], 0.1), [0.2, 0.6])


# Maps


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_grid_has_a_map(tmp_path, count):
    fields = dict(list(FIELDS.items())[:count])
    study = write_grid(tmp_path, fields, rounds=2)
    rows = [row for row in compare(study) if not row.is_reference]
    drawing = plots.effect_map(rows, plots.grid_of(study.cells), limit=0.1)
    assert len(drawing.panels) == 2 * (2 if count == 3 else 1)
    lines = [dict(zip(drawing.columns, line, strict=True)) for line in drawing.rows]
    assert len(lines) == 2 * len(study.cells)
    for row in rows:
        values = dict(part.split(" = ") for part in row.cell.split(", "))
        short = {k.rpartition(".")[2].replace("_", " "): v for k, v in values.items()}
        (line,) = [r for r in lines if r["measure"] == "global" and short.items() <= r.items()]
        assert line["difference"] == row.differences["global"].interval.mean
        place = plots.grid_of(study.cells).at(row.cell)
        axes = drawing.panels[len(drawing.panels) // 2 + place[0]].axes[0]
        (text,) = [t.get_text() for t in axes.texts if t.get_position() == place[:0:-1]]
        assert text.endswith(f"{100 * line['difference']:+.1f}".replace("-", "−"))


@pytest.mark.parametrize(
    ("low", "high", "p", "sign", "word"),
    [
        (0.01, 0.03, 0.01, "▲ +2.0", "helps"),
        (-0.03, -0.01, 0.01, "▼ −2.0", "hurts"),
        (0.01, 0.03, 0.2, "○ +2.0", NO_DIFFERENCE),  # Holm takes it back
        (-0.01, 0.05, 0.01, "○ +2.0", NO_DIFFERENCE),
        (np.nan, np.nan, np.nan, "? +2.0", UNKNOWN),
    ],
)
def test_signs_of_a_map_follow_the_rule(tmp_path, low, high, p, sign, word):
    study = write_grid(tmp_path, {"partition.alpha": [0.1, 1.0]}, rounds=3)
    rows = [row for row in compare(study) if not row.is_reference]
    mean = 0.02 if np.isnan(low) else (low + high) / 2
    changed = Difference(Interval(mean, low, high, 3), p)
    rows[1] = rows[1]._replace(
        differences={**rows[1].differences, "personalised": changed},
        adjusted={**rows[1].adjusted, "personalised": p},
    )
    drawing = plots.effect_map(rows, plots.grid_of(study.cells), limit=0.05)
    texts = {tuple(t.get_position()): t.get_text() for t in drawing.panels[0].axes[0].texts}
    assert texts[1, 0] == sign
    assert dict(zip(drawing.columns, drawing.rows[1], strict=True))["outcome"] == word


def test_a_map_shows_what_planned_looks_decided(tmp_path):
    claims = [BETTER, EQUIVALENT, WORSE, UNDECIDED, OPEN]
    study = write_grid(tmp_path, {"partition.alpha": [1, 2, 3, 4, 5]}, rounds=3)
    asked = [Comparison("lips", "dense", cell, "personalised") for cell in range(5)]
    study = with_claims(study, dict(zip(asked, claims, strict=True)))
    told = page.figures(study)["map-0"]
    lines = [dict(zip(told.columns, line, strict=True)) for line in told.rows]
    of = {m: [e["planned"] for e in lines if e["measure"] == m] for m in ("personalised", "global")}
    assert of == {"personalised": claims, "global": [""] * 5}  # of global nothing was planned
    decided, plain = ({t.get_text()[0] for t in p.axes[0].texts} for p in told.panels)
    assert decided == set(plots.PLANNED.values())
    assert not decided & plain
    (counts,) = (each["counts"] for each in page.contents(study)["maps"])
    assert counts["Personalised accuracy"] == dict.fromkeys(claims, 1)
    text = page.render(study)
    assert all(f"{sign} {word}" in text for word, sign in plots.PLANNED.items())


def test_maps_have_one_scale_centred_at_zero(tmp_path):
    study = write_grid(tmp_path, FIELDS, gain=0.1)
    rows = [row for row in compare(study) if not row.is_reference]
    limit = plots.largest_difference(rows)
    drawing = plots.effect_map(rows, plots.grid_of(study.cells), limit=limit)
    norms = [panel.axes[0].collections[0].norm for panel in drawing.panels]
    assert {(norm.vmin, norm.vmax) for norm in norms} == {(-100 * limit, 100 * limit)}
    titles = [panel.axes[0].get_title(loc="left") for panel in drawing.panels]
    assert titles[:2] == ["Personalised accuracy, clients 5", "Personalised accuracy, clients 20"]
    axes = drawing.panels[0].axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.1", "1.0", "10.0"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["10", "30"]


def test_what_is_no_grid_has_no_map():
    full = grid_cells({"a": [1, 2], "b": [1, 2]})
    assert plots.grid_of(full).fields == ("a", "b")
    assert plots.grid_of(full[:3]) is None  # not the full product
    assert plots.grid_of(grid_cells({name: [1, 2] for name in "abcd"})) is None
    assert plots.grid_of([{"label": "", "overrides": {}}]) is None
    assert plots.grid_of([{"label": "a"}, {"label": "b"}]) is None
    assert plots.grid_of([*full[:3], full[0] | {"label": "again"}]) is None
    assert plots.grid_of(grid_cells({"a": [1], "b": [1, 2]})).fields == ("b",)
    assert plots.grid_of(grid_cells({"a.every": [1, 2], "b.every": [1, 2]})).fields == (
        "a.every",
        "b.every",
    )


def test_many_cells_have_a_small_panel_each(tmp_path):
    study = write_grid(tmp_path, {"a.x": [1, 2, 3, 4, 5]}, seeds=2)
    text = page_of(tmp_path)
    table, elements = figures_of(text)["cells.csv"]
    assert len(elements) == 1 + 5
    assert "Curves: " not in text
    runs = recordings_of(study, 4)["lips"]
    mean = np.mean([run.scalars["accuracy_dense"] for run in runs], axis=0)
    np.testing.assert_allclose(column(table, "a.x = 5: lips"), mean, rtol=1e-5)
    shown = re.search(r"Personalised accuracy:</b> (.*?) of 5 cells", text)[1]
    assert sum(map(int, re.findall(r"in (\d+)", shown))) == 5


@pytest.mark.slow
def test_a_page_of_many_cells_is_small(tmp_path):
    fields = {"a.x": [1, 2, 3, 4], "a.y": [1, 2, 3, 4], "a.z": [1, 2]}
    write_grid(tmp_path, fields, seeds=3, rounds=60)
    assert len(page_of(tmp_path)) < 1.5e6


# Colours


def test_every_ink_follows_light_and_dark(plain):
    _, text = plain
    style = text[: text.index("</style>")]
    light, dark = style.split("prefers-color-scheme: dark", 1)
    for paint in plots.PAINTS:
        assert f"--{paint.name}: {paint.light};" in light
        assert f"--{paint.name}: {paint.dark};" in dark
    drawn = "".join(e for _, elements in figures_of(text).values() for e in elements)
    styles = " ".join(re.findall(r'style="([^"]*)"', drawn))
    assert not {paint.light for paint in plots.PAINTS} & set(re.findall("#[0-9a-f]{6}", styles))
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", styles))
    assert {"ink", "tick", "axis", "grid", "lips", "grey"} <= used
    assert used <= {paint.name for paint in plots.PAINTS}
    # without a fill of its own a text would be black on dark
    for element in re.findall(r"<text [^>]*>", drawn):
        assert "fill: " in element


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_both_schemes(scheme):
    """WCAG's contrast: 4.5 of texts, whose colours are those of inks."""
    paints = {paint.name: getattr(paint, scheme) for paint in plots.PAINTS}
    ground = luminance(paints["paper"])
    for name in ("ink", "tick"):
        bright, dim = sorted((luminance(paints[name]), ground), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, name


def test_a_name_that_looks_like_a_colour_stays_a_name(tmp_path):
    rows = compare(read_study(write_study(tmp_path, arms=("dense", "#0072b2"), **SMALL)))
    element = plots.svg(plots.forest(rows).panels[0], "name", "label")
    assert re.search(r"<text [^>]*>#0072b2</text>", element)


# The whole page


def test_the_summary_comes_first_in_five_lines(plain):
    study, text = plain
    text = html.unescape(text).replace("−", "-")
    summary = re.search(r'<ol class="summary">(.*?)</ol>', text, flags=re.DOTALL)
    lines = re.findall(r"<li>(.*?)</li>", re.sub(r"</?a[^>]*>", "", summary[1]))
    assert lines == executive(study)
    assert len(lines) == 5
    assert summary.start() < text.index("What this study shows")


@pytest.mark.usefixtures("sketched")
def test_arms_are_grouped_by_what_they_are(tmp_path):
    arms = ("dense", "alone", "lips", "random")
    write_study(tmp_path, arms=arms, **SMALL)
    for path in tmp_path.glob("runs/*/config.json"):
        record = json.loads(path.read_text())
        index = int(path.parent.name.split("-")[3])
        if index == 1:
            record["config"]["sparsity"] = None
            record["config"]["strategy"]["name"] = "local"
        if index == 3:
            record["config"]["sparsity"]["criterion"] = "random"
        path.write_text(json.dumps(record))
    rows = compare(read_study(tmp_path))
    assert [page.kind_of(row) for row in rows] == [
        page.SETTING,
        page.OTHERS,
        page.LIPS,
        page.VARIANTS,
    ]
    text = page_of(tmp_path)
    order = [page.SETTING, page.LIPS, "lips against dense", page.VARIANTS]
    order += ["lips against its controls", "random against dense", page.OTHERS]
    order += ["alone against dense"]
    places = [re.search(rf"<h[34]>{re.escape(name)}</h[34]>", text).start() for name in order]
    assert places == sorted(places)


@pytest.mark.usefixtures("sketched")
def test_money_is_shown_where_prices_were_given(tmp_path, plain):
    assert "What it is worth" not in plain[1]
    prices = {"per_gb": 0.5, "per_device_hour": None, "per_point": 20.0}
    write_study(tmp_path, prices=prices, **SMALL)
    text = " ".join(page_of(tmp_path).split())
    assert "What it is worth" in text
    assert "a gigabyte moved 0.50, a point of personalised accuracy 20.00." in text
    assert "a device-hour 0" not in text


THIN = (
    {"seeds": 1},
    {"missing": (("dense", 0), ("lips", 2))},
    {"missing": tuple(("lips", seed) for seed in range(3))},
    {"missing": tuple(("dense", seed) for seed in range(3))},
    {"arms": ("dense",)},
    {"rounds": 1},
    {"evaluate_every": 4},
    {"bits_ratio": float("nan")},
)


@pytest.mark.parametrize(
    "options",
    [pytest.param(o, marks=pytest.mark.slow if i % 2 else ()) for i, o in enumerate(THIN)],
    ids=str,
)
def test_thin_studies_still_have_a_page(tmp_path, options):
    write_study(tmp_path, **(SMALL | options))
    check_texts(page_of(tmp_path))


@pytest.mark.parametrize("options", THIN[:3], ids=str)
def test_thin_grids_still_have_a_page(tmp_path, options):
    write_grid(tmp_path, {"partition.alpha": [0.1, 1.0, 2.0, 3.0, 4.0]}, **options)
    check_texts(page_of(tmp_path))


def check_texts(text):
    """No number that is none is shown."""
    seen = re.sub(r"<svg.*?</svg>|base64,[^\"]*|<style.*?</style>", "", text, flags=re.DOTALL)
    assert not re.search(r"\bnan\b", seen)
    for element in (e for _, elements in figures_of(text).values() for e in elements):
        assert not re.search(r">[^<]*\bnan\b[^<]*<", element)


def test_a_map_without_measured_values(tmp_path):
    study = write_grid(
        tmp_path,
        {"partition.alpha": [0.1, 1.0]},
        missing=tuple(("lips", seed) for seed in range(3)),
    )
    rows = [row for row in compare(study) if not row.is_reference]
    assert plots.largest_difference(rows) == 0.01
    drawing = plots.effect_map(rows, plots.grid_of(study.cells), limit=0.01)
    assert {t.get_text() for t in drawing.panels[0].axes[0].texts} == {"?"}
    assert {row[drawing.columns.index("outcome")] for row in drawing.rows} == {UNKNOWN}


def test_a_grid_page_is_deterministic_and_alone(tmp_path):
    write_grid(tmp_path, FIELDS, seeds=2, rounds=3, arms=("dense", "lips", "random"))
    first = page_of(tmp_path)
    assert page_of(tmp_path) == first
    figures = figures_of(first)
    assert {"map-0.csv", "map-1.csv"} < set(figures)
    assert all(table and elements for table, elements in figures.values())
    links = re.findall(r'(?:href|src)="([^"]*)"', first)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"<script [^>]|<link|@import|url\((?!#)", first)
    ids = re.findall(r'\bid="([^"]*)"', first)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"', first[: first.index("</nav>")]):
        assert target in ids
