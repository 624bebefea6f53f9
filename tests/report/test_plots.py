"""Figures: colours by role, what is drawn of few seeds, limits, texts, classes of arms."""

import json
import re
from importlib import resources
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

from helpers.edited_study import LOCAL, POOLED, SMALL, edit, rows_of
from helpers.fake_study import with_accuracies, with_diverged, with_sites, write_study
from lipsjax.analysis.comparison import compare, recordings_of
from lipsjax.recording import read_study
from lipsjax.report import html, plots
from lipsjax.report.plots.roles import DARK, LIGHT
from lipsjax.report.sites import sections

SCHEMES = {"light": LIGHT, "dark": DARK}
CONTROLS = ("random", "magnitude", "inverted", "lowest")
ROLES = {
    "dense": {"sparsity": None},
    "lips": {},
    "local": LOCAL,
    "pooled": POOLED,
    "tuned": {"sparsity": None, "local": {"weight_decay": 5e-4}},
    "random": {"sparsity": {"criterion": "random"}},
    "held": {"sparsity": {"hold": 3}},
    "moon": {"sparsity": None, "strategy": {"name": "moon"}},
}
"""Arm -> what its config has that those of made-up studies have not."""


def study_of(path, configs, **options):
    write_study(path, arms=tuple(configs), **(SMALL | options))
    for arm, config in configs.items():
        edit(path, arm, config)
    return read_study(path)


def axes_of(drawing):
    return [panel.axes[0] for panel in drawing.panels]


# Colours


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(first, second):
    """WCAG 2's ratio of two colours."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(colour, vision):
    """CIELAB under D65 of a colour as it is seen."""
    xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
         [0.0193339, 0.1191920, 0.9503041]]
    ) @ np.clip(vision @ linear(colour), 0, 1)  # fmt: skip
    ratio = xyz / [0.95047, 1.0, 1.08883]
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


VISIONS = {
    "usual": np.eye(3),
    # Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
}  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
def test_colours_of_arms_can_be_seen_on_their_ground(scheme):
    """3:1 is what WCAG 2.1 asks of graphics."""
    paper = {paint.name: paint for paint in plots.PAINTS}["paper"]
    for role, colour in SCHEMES[scheme].items():
        assert contrast(colour, getattr(paper, scheme)) >= 3, role


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_colours_of_arms_can_be_told_apart(scheme, vision):
    """A distance in CIELAB of 2.3 is just seen; these are small marks far apart."""
    colours = SCHEMES[scheme].values()
    seen = [lab(colour, VISIONS[vision]) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 18


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_arm_looks_like_a_verdict(scheme):
    """The page's green says better, and its rust worse: LIPS in rust looked like a loss."""
    page = (resources.files("lipsjax.report") / "templates" / "report.html").read_text()
    verdicts = re.findall(r"--(?:good|bad): (#\w{6})", page)
    assert len(verdicts) == 4  # on light ground, then on dark
    of_scheme = verdicts[:2] if scheme == "light" else verdicts[2:]
    for role, colour in SCHEMES[scheme].items():
        for verdict in of_scheme:
            assert np.linalg.norm(lab(colour, np.eye(3)) - lab(verdict, np.eye(3))) > 30, role


def test_colours_follow_the_role_and_not_the_name_or_the_order(tmp_path):
    first = plots.looks_of(study_of(tmp_path / "a", ROLES))
    renamed = {f"arm {arm[::-1]}": config for arm, config in reversed(ROLES.items())}
    second = plots.looks_of(study_of(tmp_path / "b", renamed))
    for arm, look in first.items():
        assert look.colour == second[f"arm {arm[::-1]}"].colour
        assert look.colour == LIGHT[arm if arm in LIGHT else "other"]


def test_lips_that_inertia_triggers_has_a_colour_of_its_own():
    triggered = {"sparsity": {"criterion": "saliency", "trigger": "inertia"}}
    control = {"sparsity": {"criterion": "random", "trigger": "inertia"}}
    found = plots.looks({"a": triggered, "b": control, "c": {"sparsity": {"trigger": "schedule"}}})
    assert [look.colour for look in found.values()] == [
        LIGHT[role] for role in ("adaptive", "other", "lips")
    ]


def test_eleven_arms_have_few_hues_and_no_two_the_same_look(tmp_path):
    arms = ROLES | {c: {"sparsity": {"criterion": c}} for c in CONTROLS[1:]}
    found = plots.looks_of(study_of(tmp_path, arms, seeds=1, rounds=2))
    assert len(found) == 11
    assert len({look.colour for look in found.values() if look.is_told} - {LIGHT["dense"]}) == 4
    assert len(set(found.values())) == 11


def test_an_arm_looks_the_same_in_all_figures(tmp_path):
    study = study_of(tmp_path, ROLES, rounds=6)
    look = plots.looks_of(study)["tuned"]
    rows, arms = compare(study), recordings_of(study, 0)
    element = plots.arm_class("tuned")
    for drawing in (
        plots.forest(rows),
        plots.summary_forest(rows),
        plots.cost(rows),
        plots.accuracy_curves(arms),
    ):
        lines = [line for ax in axes_of(drawing) for line in ax.lines]
        own = [line for line in lines if (line.get_gid() or "").split("|")[0] == element]
        assert own
        assert {line.get_color() for line in own} == {look.colour}


def test_curves_end_where_the_comparison_says(tmp_path):
    study = study_of(tmp_path, {arm: ROLES[arm] for arm in ("dense", "local")}, rounds=10)
    drawing = plots.accuracy_curves(recordings_of(study, 0))
    at = drawing.columns.index("global_accuracy_mean")
    for row in compare(study):
        last = [line[at] for line in drawing.rows if line[0] == row.arm][-1]
        assert last == pytest.approx(row.means["global"].mean)  # the last 10% are one round


# Few seeds, and rounds that were not measured


@pytest.mark.parametrize(("seeds", "lines", "bands"), [(1, 1, 0), (4, 5, 0), (5, 1, 1)])
def test_few_seeds_have_a_line_each_and_more_a_band(tmp_path, seeds, lines, bands):
    arms = recordings_of(study_of(tmp_path, {"dense": {}}, seeds=seeds), 0)
    for ax in axes_of(plots.accuracy_curves(arms)):
        assert (len(ax.lines) - 1, len(ax.collections)) == (lines, bands)  # one leads to the name
    (ax,) = axes_of(plots.relative_steps(arms))
    assert (len(ax.lines), len(ax.collections)) == (2 * lines, 2 * bands)
    drawn = plots.accuracy_curves(arms).panels[0].axes[0].lines
    own = [run.scalars["accuracy_dense"] for run in arms["dense"]]
    if lines > 1:
        for line, values in zip(drawn[1:-1], own, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), values)
            assert line.get_linewidth() < drawn[0].get_linewidth()


def test_controls_of_many_arms_have_no_bands(tmp_path):
    study = study_of(tmp_path, ROLES, seeds=5, rounds=4)
    ax = axes_of(plots.accuracy_curves(recordings_of(study, 0)))[0]
    banded = {band.get_gid().split("|")[0] for band in ax.collections}
    assert banded == {plots.arm_class(a) for a in ("dense", "lips", "local", "pooled", "tuned")}


def test_heat_maps_have_no_blank_stripes(tmp_path):
    study = study_of(tmp_path, {"dense": {}, "lips": {}}, rounds=8)
    arms = recordings_of(study, 0)
    for runs in arms.values():
        for run in runs:
            run.layers["step"][[1, 2, 4, 5, 7]] = np.nan
    drawing = plots.inertia_heatmap(arms)
    for arm, ax in zip(arms, axes_of(drawing), strict=True):
        image = np.ma.filled(ax.images[0].get_array(), np.nan)
        assert not np.isnan(image).any()
        mean = np.mean([run.layers["step"] for run in arms[arm]], axis=0)
        np.testing.assert_array_equal(image.T, mean[[0, 0, 0, 3, 3, 3, 6, 6]])
    # the table says what was measured
    assert sum(np.isnan(row[2]) for row in drawing.rows) == 2 * 5


# Limits, ticks and texts


def test_axes_of_accuracies_stay_within_0_and_100_percent(tmp_path):
    study = read_study(write_study(tmp_path, **SMALL | {"seeds": 3}))
    study = with_accuracies(study, {"dense": [0.02, 0.01, 0.0], "lips": [0.99, 1.0, 0.97]})
    ends = {"dense": [[0.0, 0.5, 0.9, 1.0]] * 3, "lips": [[0.1, 0.6, 0.9, 1.0]] * 3}
    sited = with_sites(study, ends, names=("a", "b", "c", "d"))
    (section,) = sections(sited)
    look = plots.looks_of(study)
    rows, arms = compare(study), recordings_of(study, 0)
    drawn = {
        "y": [plots.accuracy_curves(arms), plots.stages(arms), plots.accuracy_cells({"": arms})],
        "x": [plots.pairs(rows), plots.sites(section.sites, section.arms, look, alone=None)],
    }
    for which, drawings in drawn.items():
        for ax in (ax for drawing in drawings for ax in axes_of(drawing)):
            low, high = getattr(ax, f"get_{which}lim")()
            assert 0 <= low < high <= 1
            ticks = getattr(ax, f"{which}axis").get_major_formatter()
            assert [ticks(v) for v in (0.0, 0.125, 0.3, 1.0)] == ["0%", "12.5%", "30%", "100%"]


def test_logarithmic_ticks_are_plain_and_no_fewer_than_three(tmp_path):
    arms = recordings_of(study_of(tmp_path, {"dense": {}, "lips": {}}), 0)
    axes = [ax.yaxis for ax in axes_of(plots.relative_steps(arms))]
    axes.append(plots.inertia_heatmap(arms).key.axes[0].xaxis)
    for axis in axes:
        assert len(axis.get_minorticklocs()) == 0
        texts = [axis.get_major_formatter()(value) for value in axis.get_majorticklocs()]
        assert len(texts) >= 3
        assert all(re.fullmatch(r"[\d.]+%", text) for text in texts)


@pytest.mark.slow
def test_texts_are_no_smaller_than_9_pixels_on_a_phone(tmp_path):
    """Of 390 pixels the page leaves 358 to a panel, and 173 to each of two small ones."""
    study = study_of(tmp_path, ROLES, rounds=4, clients=20)
    rows, arms = compare(study), recordings_of(study, 0)
    drawings = [plots.forest(rows), plots.summary_forest(rows), plots.cost(rows)]
    drawings += [plots.coupling(rows), plots.pairs(rows), plots.accuracy_cells({"a = 1": arms})]
    drawings += [plots.class_mix(arms["dense"][0])]
    drawings += [f(arms) for f in (plots.accuracy_curves, plots.stages, plots.inertia_heatmap)]
    drawings += [plots.relative_steps(arms), plots.changes(arms)]
    for drawing in drawings:
        for panel in (*drawing.panels, *filter(None, [drawing.key])):
            inches = panel.get_figwidth()
            scale = (358 if inches == plots.PANEL else 173) / (72 * inches)
            sizes = [
                text.get_fontsize() for text in panel.findobj(lambda a: hasattr(a, "get_fontsize"))
            ]
            assert scale * min(sizes) >= 9


# The forest plot of the first screen


def texts_of(drawing):
    return [text.get_text() for text in drawing.panels[0].axes[0].texts]


def test_the_summary_draws_every_arm_and_writes_its_number(tmp_path):
    rows = compare(study_of(tmp_path, ROLES))
    drawing = plots.summary_forest(rows)
    (ax,) = axes_of(drawing)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(ROLES)[1:]
    dots = [line for line in ax.lines if line.get_marker() not in ("", "None")]
    wanted = [100 * row.differences["personalised"].interval.mean for row in rows[1:]]
    np.testing.assert_allclose([dot.get_xdata()[0] for dot in dots], wanted)
    for text, mean in zip(texts_of(drawing), wanted, strict=False):
        assert re.fullmatch(r"[+−]\d+\.\d \[−?\d+\.\d, −?\d+\.\d\]", text)
        assert float(text.split()[0].replace("−", "-")) == pytest.approx(mean, abs=0.0501)
    assert drawing.panels[0].get_suptitle().startswith("Points of accuracy against dense (")
    columns = dict(zip(drawing.columns, drawing.rows[0], strict=True))
    assert columns["difference"] == rows[1].differences["personalised"].interval.mean


def test_arms_that_diverged_or_have_few_seeds_are_told_in_words(tmp_path):
    arms = {arm: ROLES[arm] for arm in ("dense", "lips", "local", "random")}
    gone = tuple(("random", seed) for seed in (1, 2, 3))
    study = with_diverged(study_of(tmp_path, arms, missing=gone), ("local", 0))
    drawing = plots.summary_forest(compare(study))
    (ax,) = axes_of(drawing)
    dots = [line for line in ax.lines if line.get_marker() not in ("", "None")]
    assert len(dots) == 1
    texts = texts_of(drawing)
    assert "diverged in 1 of 4 seeds" in texts
    assert any(re.fullmatch(r"[+−][\d.]+ from one seed: too few to judge", t) for t in texts)
    assert "nan" not in plots.svg(drawing.panels[0], "name", "label")


def test_a_summary_without_an_interval_or_of_too_many_lines_has_no_panel(tmp_path):
    one = compare(study_of(tmp_path / "one", {"dense": {}, "lips": {}}, seeds=1))
    alone = compare(study_of(tmp_path / "alone", {"dense": {}}))
    cells = tuple(f"a = {i}" for i in range(15))
    many = rows_of(write_study(tmp_path / "many", cells=cells, **SMALL | {"rounds": 2}))
    for rows in (one, alone, many):
        drawing = plots.summary_forest(rows)
        assert drawing.panels == ()
        assert len(drawing.rows) == sum(not row.is_reference for row in rows)


# Nothing to show


@pytest.mark.usefixtures("sketched")
def test_equal_costs_have_no_figure(tmp_path):
    write_study(tmp_path, **SMALL)
    for path in tmp_path.glob("runs/*/setup.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"flops_per_round": 7e9}))
    drawing = plots.cost(rows_of(tmp_path))
    assert drawing.panels == ()
    assert {row[1] for row in drawing.rows} == {"bits", "flops"}
    page = html.render(read_study(tmp_path))
    assert "All arms cost the same" in page
    assert "Up and to the left is better" not in page
    edit(tmp_path, "lips", downlink_bits=1e7)
    titles = [ax.get_xlabel() for ax in axes_of(plots.cost(rows_of(tmp_path)))]
    assert titles == ["moved per run, up and down"] * 2


def test_changes_of_too_few_rounds_have_no_figure(tmp_path):
    arms = recordings_of(study_of(tmp_path, {"dense": {}}, rounds=1), 0)
    assert plots.changes(arms).panels == ()


# What the page's script reads


def test_what_is_drawn_of_an_arm_has_its_class_and_says_its_value(tmp_path):
    name = 'a "b" <c> | d'
    configs = {"dense": {}, name: {}}
    rows = compare(study_of(tmp_path, configs))
    (panel,) = plots.summary_forest(rows).panels
    element = plots.svg(panel, "name", "label")
    root = ElementTree.fromstring(element)
    svg = "{http://www.w3.org/2000/svg}"
    groups = [g for g in root.iter(f"{svg}g") if "arm" in g.get("class", "").split()]
    assert {g.get("class") for g in groups} == {f"arm {plots.arm_class(name)}"}
    titles = [g.find(f"{svg}title").text for g in groups]
    assert len(titles) == 3  # the interval, the dot, the number
    assert all(re.match(re.escape(name) + r": [+−][\d.]+ points", title) for title in titles)
    assert plots.svg(plots.summary_forest(rows).panels[0], "name", "label") == element


def test_lines_of_seeds_are_of_the_arm_and_told_from_its_mean(tmp_path):
    arms = recordings_of(study_of(tmp_path, {"dense": {}}, seeds=3), 0)
    element = plots.svg(plots.stages(arms).panels[0], "name", "label")
    assert element.count('class="arm arm-dense"') == 3
    assert element.count('class="arm arm-dense seed"') == 3 * 3
    assert "<title>dense, before</title>" in element


def test_classes_of_arms_are_words_and_differ():
    names = ("lips", "Lips", "moon + lips", "moon lips", "moon-lips", "ü", "ä", "a b", "1")
    found = [plots.arm_class(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"arm-[a-z0-9-]+", each) for each in found)
