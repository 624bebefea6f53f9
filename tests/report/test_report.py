"""From recordings on disk to comparison, verdict, tables and page, on made-up studies."""

import csv
import html
import io
import math
import re
import shutil
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from helpers.fake_study import write_study
from lipsjax.analysis.comparison import compare, middle_step, recordings_of
from lipsjax.analysis.stats import Difference, Interval, holm, paired_difference
from lipsjax.analysis.verdict import NO_DIFFERENCE, UNKNOWN, findings, verdict
from lipsjax.analysis.wording import bounds, format_bits, shown
from lipsjax.recording import read_study
from lipsjax.report import plots
from lipsjax.report import terminal as report
from lipsjax.report.html import MOST_CURVES, write_report
from lipsjax.report.setting import describe_arm, describe_setting, describe_sparsity

pytestmark = pytest.mark.slow  # others of the kind are in the default tests

SMALL: dict[str, Any] = {"seeds": 3, "rounds": 12, "clients": 4, "classes": 3}


def rows_of(path, **options):
    return compare(read_study(write_study(path, **(SMALL | options))))


def finding(rows, topic, subject="lips against dense"):
    (found,) = [f for f in findings(rows) if (f.subject, f.topic) == (subject, topic)]
    return found


def page_of(path):
    return write_report(path).read_text(encoding="utf-8")


# Comparison

OWN = {
    "arms": ("fedavg", "moon", "fedavg + lips", "moon + lips"),
    "references": {"moon + lips": "moon"},
}


@pytest.mark.usefixtures("sketched")
def test_an_arm_is_compared_with_the_one_that_it_names(tmp_path):
    rows = {row.arm: row for row in rows_of(tmp_path, **OWN)}
    assert [row.reference for row in rows.values()] == ["fedavg", "fedavg", "fedavg", "moon"]
    ends = {arm: row.means["personalised"].mean for arm, row in rows.items()}
    found = rows["moon + lips"].differences["personalised"].interval.mean
    np.testing.assert_allclose(found, ends["moon + lips"] - ends["moon"])
    assert finding(list(rows.values()), "Bits", "moon + lips against moon")
    study = read_study(tmp_path)
    console = Console(file=io.StringIO(), width=120)
    console.print(report.summary_table(study, width=120))
    text = console.file.getvalue()
    assert "vs moon" in text
    assert "from fedavg, or from the arm after vs" in " ".join(text.split())
    assert "Each arm, alone and with transient sparsity" in page_of(tmp_path)


def test_pairs_put_each_arm_beside_itself_with_masks(tmp_path):
    rows = [r._replace(transient="lips" in r.arm) for r in rows_of(tmp_path, **OWN)]
    axes = plots.pairs(rows).panels[0].axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["fedavg", "moon"]
    points = [
        line
        for line in axes.lines
        if line.get_marker() in ("o", "s") and len(line.get_xdata()) == 1
    ]
    drawn = [float(line.get_xdata()[0]) for line in points]
    order = ("fedavg", "fedavg + lips", "moon", "moon + lips")
    by_arm = {row.arm: row.means["personalised"].mean for row in rows}
    np.testing.assert_allclose(drawn, [by_arm[arm] for arm in order])


@pytest.mark.usefixtures("sketched")
def test_accuracies_after_the_last_round_are_shown_where_there_are_some(tmp_path):
    write_study(tmp_path, **SMALL)
    assert "Fine-tuned" not in page_of(tmp_path)
    for path in tmp_path.glob("runs/*/metrics.jsonl"):
        *rows, last = path.read_text().splitlines()
        last = last.replace('"round"', '"accuracy_tuned": 0.875, "accuracy_new": 0.5, "round"')
        path.write_text("\n".join([*rows, last, ""]))
    rows = compare(read_study(tmp_path))
    assert rows[1].means["tuned"].mean == 0.875
    assert rows[1].differences["new"].interval.mean == 0
    page = page_of(tmp_path)
    assert "Fine-tuned" in page
    assert "New clients" in page
    assert "New, fine-tuned" not in page


def test_rows_are_the_paired_differences_of_the_last_rounds(tmp_path):
    write_study(tmp_path, **SMALL)
    study = read_study(tmp_path)
    dense, lips = compare(study)

    by_arm = recordings_of(study, 0)
    ends = {
        arm: [np.mean(run.scalars["accuracy_dense"][-2:]) for run in runs]  # ceil(10% of 12) = 2
        for arm, runs in by_arm.items()
    }
    assert dense.is_reference
    assert not dense.differences
    np.testing.assert_allclose(dense.means["personalised"].mean, np.mean(ends["dense"]))
    expected = paired_difference(ends["lips"], ends["dense"])
    np.testing.assert_allclose(lips.differences["personalised"].interval, expected.interval)
    np.testing.assert_allclose(lips.adjusted["personalised"], expected.p)
    assert lips.means["uplink_bits"].mean == 12 * 2.4e7
    for arm, row in (("dense", dense), ("lips", lips)):
        # rounds 1, 6 and 11 begin from a masked model in lips, and count in neither arm
        free = [0, 2, 3, 4, 5, 7, 8, 9, 10]
        steps = [run.layers["step"][free, 1:4].mean() for run in by_arm[arm]]
        np.testing.assert_allclose(row.means["step"].mean, np.mean(steps))
        ends = [run.scalars["inertia_index"][10] for run in by_arm[arm]]
        np.testing.assert_allclose(row.means["inertia_end"].mean, np.mean(ends))


def test_differences_use_the_seeds_that_both_arms_finished(tmp_path):
    dense, lips = rows_of(tmp_path, missing=(("dense", 0), ("lips", 2)))
    assert dense.seeds == (1, 2)
    assert lips.seeds == (0, 1)
    assert lips.differences["personalised"].interval.n == 1


def test_holm_runs_over_all_compared_rows_of_the_study(tmp_path):
    rows = rows_of(tmp_path, arms=("dense", "lips", "random"), cells=("a", "b"))
    compared = [row for row in rows if not row.is_reference]
    assert [row.comparisons for row in rows] == [4] * 6
    np.testing.assert_allclose(
        [row.adjusted["global"] for row in compared],
        holm([row.differences["global"].p for row in compared]),
    )


def test_sparse_evaluation_leaves_the_window_in_place(tmp_path):
    rows = rows_of(tmp_path, evaluate_every=5)
    assert all(math.isfinite(row.means["personalised"].low) for row in rows)


# Verdict


@pytest.mark.parametrize(("gain", "outcome"), [(0.1, "helps"), (-0.1, "hurts")])
def test_clear_effects_are_named(tmp_path, gain, outcome):
    rows = rows_of(tmp_path, gain=gain)
    for topic in ("Personalised accuracy", "Global accuracy"):
        found = finding(rows, topic)
        assert found.outcome == outcome
        assert found.detail.startswith(f"lips {outcome}, {'+' if gain > 0 else '-'}")


def with_difference(row, low, high, n=5):
    """The row with another interval of the personalised difference."""
    interval = Interval((low + high) / 2, low, high, n)
    p = 0.9 if low <= 0 <= high else 0.001
    return row._replace(
        differences={**row.differences, "personalised": Difference(interval, p)},
        adjusted={**row.adjusted, "personalised": p},
    )


def test_no_difference_says_what_is_ruled_out(tmp_path):
    dense, lips = rows_of(tmp_path)
    found = finding([dense, with_difference(lips, -0.021, 0.015)], "Personalised accuracy")
    assert found.outcome == NO_DIFFERENCE
    assert found.detail == (
        "no difference seen, -0.30 points (95% interval -2.10 to +1.50, 5 seeds); "
        "a gain above 1.50 or a loss above 2.10 points is ruled out at this level."
    )


def test_the_verdict_is_symmetric(tmp_path):
    dense, lips = rows_of(tmp_path)
    outcomes = [
        finding([dense, with_difference(lips, *bounds)], "Personalised accuracy").outcome
        for bounds in ((0.001, 0.02), (-0.02, -0.001), (0.0, 0.02), (-0.02, 0.0))
    ]
    assert outcomes == ["helps", "hurts", NO_DIFFERENCE, NO_DIFFERENCE]


def test_holm_takes_back_what_one_interval_says(tmp_path):
    dense, lips = rows_of(tmp_path)
    lips = with_difference(lips, 0.001, 0.02)
    lips = lips._replace(adjusted={**lips.adjusted, "personalised": 0.12}, comparisons=4)
    found = finding([dense, lips], "Personalised accuracy")
    assert found.outcome == NO_DIFFERENCE
    assert "once all comparisons are counted" in found.detail
    assert "Holm-adjusted p 0.12" in found.detail


def test_one_seed_concludes_nothing(tmp_path):
    rows = rows_of(tmp_path, seeds=1)
    assert [(f.topic, f.outcome) for f in findings(rows)] == [
        ("Is this setting stuck?", UNKNOWN),
        ("Stuck in its middle layers?", UNKNOWN),
        (
            "Personalised accuracy, Global accuracy, Inertia (whole run, unmasked rounds), Inertia "
            "(last 10%, unmasked rounds), Rounds to the target, Time",
            UNKNOWN,
        ),
        ("Bits", "saved no bits"),  # counted, not estimated
    ]
    assert any("no interval and nothing can be concluded" in s for s in verdict(rows))
    assert not re.search("helps|hurts|95%", " ".join(verdict(rows)))


def test_no_common_seed_concludes_nothing(tmp_path):
    rows = rows_of(tmp_path, seeds=2, missing=(("dense", 0), ("lips", 1)))
    assert any("no seed is finished in both arms" in sentence for sentence in verdict(rows))
    assert finding(rows, "Bits").outcome == UNKNOWN


def test_bits_are_exact(tmp_path):
    assert "lips saved no bits in this run" in finding(rows_of(tmp_path / "a"), "Bits").detail
    fewer = finding(rows_of(tmp_path / "b", bits_ratio=0.5), "Bits")
    assert fewer.outcome == "fewer bits"
    assert fewer.detail == "lips moved as many bits up and 144 Mbit fewer down per run than dense."
    more = finding(rows_of(tmp_path / "c", bits_ratio=1.5), "Bits")
    assert "144 Mbit more down" in more.detail


def test_inertia_of_an_arm_is_compared(tmp_path):
    found = finding(rows_of(tmp_path, unstick=1.8), "Inertia (whole run, unmasked rounds)")
    assert found.outcome == "lower inertia index"
    assert "larger step of the middle layers" in found.detail


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.2, 0.4, "middle layers move less than stem and classifier"),
        (-0.4, -0.2, "middle layers move more than stem and classifier"),
        (-0.1, 0.2, NO_DIFFERENCE),
    ],
)
def test_whether_the_reference_is_stuck_follows_from_its_index(tmp_path, low, high, outcome):
    dense, lips = rows_of(tmp_path)
    index = Interval((low + high) / 2, low, high, 3)
    dense = dense._replace(means={**dense.means, "inertia": index, "inertia_end": index})
    found = finding([dense, lips], "Stuck in its middle layers?", subject="dense")
    assert found.outcome == outcome
    assert f"({bounds(index, digits=3)}) over the whole run" in found.detail


def test_many_cells_are_counted(tmp_path):
    rows = rows_of(tmp_path, cells=("a", "b", "c"), gain=0.1)
    assert finding(rows, "Personalised accuracy").detail == "helps in all 3 cells."
    *others, last = rows
    rows = [*others, with_difference(last, -0.1, 0.1)]
    assert finding(rows, "Personalised accuracy").detail == (
        "helps in 2 of 3 cells (a | b); no difference seen in 1 of 3 cells."
    )


# The page


class Page(HTMLParser):
    """Collects what a browser would fetch, and checks that elements close."""

    def __init__(self):
        super().__init__()
        self.links, self.ids, self.open, self.figures = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        fetching = {"src", "href", "xlink:href", "data", "srcset", "action"}
        self.links += [value for name, value in attrs if name in fetching]
        self.ids += [value for name, value in attrs if name == "id"]
        self.figures += tag == "figure"
        if tag not in {"meta", "br", "link", "img", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text):
    page = Page()
    page.feed(text)
    assert page.open == []
    return page


def test_page_is_self_contained(tmp_path):
    write_study(tmp_path, **SMALL)
    text = page_of(tmp_path)
    page = parsed(text)
    assert page.figures == 10
    within = ("#", "data:image/png;base64,", "data:text/csv;charset=utf-8;base64,")
    assert all(link.startswith(within) for link in page.links)
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", text))
    assert not re.search(r"<script [^>]|<link|@import|fetch\(|XMLHttp|import\(", text)
    assert text.count("<script>") == 1
    assert len(page.ids) == len(set(page.ids))


def test_page_says_what_the_study_says(tmp_path):
    write_study(tmp_path, arms=("dense", "lips", "random masks"), **SMALL)
    study = read_study(tmp_path)
    text = html.unescape(page_of(tmp_path)).replace("−", "-")
    for found in findings(compare(study)):
        assert found.detail in text
    for trial in study.trials:
        assert f"<code>{trial.run}</code>" in text  # and no link, which would not survive mailing
    for word in ("dense", "lips", "random masks", study.command, "jax 0.10.2", "Dirichlet(0.1)"):
        assert word in text
    assert "Not finished" not in text


@pytest.mark.slow
def test_same_recordings_give_the_same_bytes(tmp_path):
    write_study(tmp_path / "a", **SMALL)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = page_of(tmp_path / "a"), page_of(tmp_path / "b")
    assert first == second
    assert page_of(tmp_path / "a") == first


def test_names_are_escaped(tmp_path):
    evil = '<script>alert("&")</script>'
    write_study(
        tmp_path,
        arms=("dense", evil, "$x^{$ 日本"),
        cells=("a < b & c",),
        name=evil,
        description=evil,
        command="run --name '<b>'",
        **SMALL,
    )
    text = page_of(tmp_path)
    parsed(text)
    assert text.count("<script") == 1  # the page's own
    assert "<b>'" not in text
    assert "a &lt; b &amp; c" in text
    assert "日本" in text
    assert evil in html.unescape(text)


@pytest.mark.parametrize("arms", [("dense",), ("dense", *"abcde")])
@pytest.mark.slow
def test_one_to_six_arms(tmp_path, arms):
    write_study(tmp_path, arms=arms, **(SMALL | {"seeds": 2}))
    page = parsed(page_of(tmp_path))
    assert page.figures == (7 if len(arms) == 1 else 9)  # one arm costs what it costs


@pytest.mark.usefixtures("sketched")
def test_cells_have_figures_of_their_own(tmp_path):
    write_study(tmp_path, cells=("z=1", "a=2"), **SMALL)
    text = page_of(tmp_path)
    page = parsed(text)
    assert page.figures == 3 + 2 * 7 - 1  # costs of the second cell are equal, and not drawn
    assert len(page.ids) == len(set(page.ids))
    assert text.index("Curves: z=1") < text.index("Curves: a=2")


@pytest.mark.usefixtures("sketched")
def test_unfinished_trials_are_counted(tmp_path):
    write_study(tmp_path, missing=(("lips", 1), ("lips", 2), ("dense", 2)), **SMALL)
    text = " ".join(page_of(tmp_path).split())
    assert "dense lacks 1 trial;" in text
    assert "lips lacks 2 trials." in text
    caption = str(report.summary_table(read_study(tmp_path)).caption)
    assert "Not finished: 2 of lips." in caption


@pytest.mark.usefixtures("sketched")
def test_an_arm_without_a_finished_trial(tmp_path):
    missing = tuple(("dense", seed) for seed in range(3))
    write_study(tmp_path, missing=missing, **SMALL)
    text = page_of(tmp_path)
    assert "No trial is finished yet." in text
    assert not re.search(r"\bnan\b", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))


def test_nothing_finished_is_one_line_and_no_page(tmp_path):
    missing = tuple((arm, seed) for arm in ("dense", "lips") for seed in range(3))
    write_study(tmp_path, missing=missing, **SMALL)
    with pytest.raises(ValueError, match=r"'fake' has no finished trial") as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "study.json"]


def test_unknown_reference_is_named(tmp_path):
    write_study(tmp_path, reference="sparse", **SMALL)
    with pytest.raises(ValueError, match="a reference is no arm of the study"):
        write_report(tmp_path)


@pytest.mark.usefixtures("sketched")
def test_a_failing_write_leaves_the_old_page(tmp_path, monkeypatch):
    write_study(tmp_path, **SMALL)
    before = page_of(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


# Tables


@pytest.mark.parametrize("cells", [("",), ("partition.alpha=0.1", "partition.alpha=[/]10")])
def test_terminal_table_fits_100_columns(tmp_path, cells):
    arms = ("dense", "lips", "random masks [bold]")
    write_study(tmp_path, arms=arms, cells=cells, gain=-0.25, noise=0.05, **SMALL)
    console = Console(width=100, file=io.StringIO())
    console.print(report.summary_table(read_study(tmp_path)))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(lines)
    text = " ".join(" ".join(lines).split())
    assert re.search(r"-\d\d\.\d \[-\d\d\.\d, ", text)
    assert all(cell in text for cell in cells)


def test_table_file_holds_every_row(tmp_path):
    write_study(tmp_path, cells=("a", "b"), **SMALL)
    study = read_study(tmp_path)
    report.write_table(study, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = compare(study)
    assert [(line["cell"], line["arm"]) for line in lines] == [(r.cell, r.arm) for r in rows]
    assert float(lines[1]["global_mean"]) == rows[1].means["global"].mean
    assert float(lines[1]["global_difference_holm"]) == rows[1].adjusted["global"]
    assert lines[0]["global_difference_mean"] == ""


# Figures and words


def means_of(axes):
    """Lines of means, between thin ones of single seeds."""
    return [line for line in axes.lines if "|" in line.get_gid() and " seed|" not in line.get_gid()]


def test_figures_draw_what_was_recorded(tmp_path):
    write_study(tmp_path, **SMALL)
    arms = recordings_of(read_study(tmp_path), 0)
    lips = arms["lips"]

    curves = plots.accuracy_curves(arms)
    drawn = means_of(curves.panels[0].axes[0])[1].get_ydata()
    np.testing.assert_allclose(
        drawn, np.mean([run.scalars["accuracy_dense"] for run in lips], axis=0)
    )
    heat = [figure.axes[0].images[0] for figure in plots.inertia_heatmap(arms).panels]
    np.testing.assert_allclose(
        heat[1].get_array(), np.mean([r.layers["step"] for r in lips], axis=0).T
    )
    assert heat[0].norm is heat[1].norm
    marks = plots.inertia_heatmap(arms).panels[1].axes[0].lines[0]
    assert marks.get_xdata().tolist() == [0.5, 5.5, 10.5]
    moved = means_of(plots.relative_steps(arms).panels[1].axes[0])[1].get_ydata()
    np.testing.assert_allclose(
        moved, np.exp(np.mean([np.log(middle_step(run)) for run in lips], axis=0))
    )
    mix = plots.class_mix(lips[0]).panels[0].axes[0].images[0].get_array()
    np.testing.assert_array_equal(mix.T.filled(0), lips[0].setup["survey"]["train_counts"])


def test_figures_of_many_clients_and_a_still_layer(tmp_path):
    write_study(tmp_path, **(SMALL | {"clients": 60, "classes": 30}))
    arms = recordings_of(read_study(tmp_path), 0)
    for runs in arms.values():
        for run in runs:
            run.layers["step"][:, 2] = 0.0
            run.layers["step"][3] = np.nan
    for drawing in (
        plots.inertia_heatmap(arms),
        plots.relative_steps(arms),
        plots.class_mix(arms["dense"][0]),
    ):
        for figure in drawing.panels:
            element = plots.svg(figure, "name", "label")
            assert element.startswith('<svg role="img" aria-label="label"')


@pytest.mark.usefixtures("sketched")
def test_curves_of_too_many_arms_are_left_out(tmp_path):
    arms = tuple(f"arm{i}" for i in range(MOST_CURVES + 1))
    write_study(tmp_path, arms=arms, seeds=2, rounds=3, clients=2, classes=2)
    page = page_of(tmp_path)
    assert "too many arms to draw a curve for each" in page
    assert "Accuracy over rounds" not in page
    sentences = verdict(compare(read_study(tmp_path)))
    # the setting, what the reference shows, and a sentence for each topic
    assert len(sentences) == 9
    assert all("12 comparisons" in sentence for sentence in sentences[2:])
    assert "Training examples per client and class" in page


def test_forest_of_the_reference_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no differences to draw"):
        plots.forest(rows_of(tmp_path, arms=("dense",)))


def test_setting_in_words(tmp_path):
    write_study(tmp_path, **SMALL)
    study = read_study(tmp_path)
    text = dict(describe_setting(study.trials[0].recording))
    assert text["Clients"] == (
        "4 clients with 30 training and 30 test examples each, class mixes drawn from "
        "Dirichlet(0.1)"
    )
    assert text["Local training"].endswith("learning rate 0.05, momentum 0.9")
    assert describe_arm(study, "dense").startswith("Dense:")
    config = study.trials[0].recording.config
    config["strategy"] |= {"name": "moon", "options": {"mu": 5.0}, "clip_norm": 1.0, "cohort": 3}
    config["strategy"] |= {"compression": "top_k", "aggregation": "median"}
    config["participation"] |= {"sampling": "examples", "dropout": 0.25}
    config["faults"] |= {"clients": 2, "kind": "noise"}
    config["partition"]["new_clients"] = 1
    text = dict(describe_setting(study.trials[0].recording))
    assert text["Strategy"] == (
        "moon (mu 5.0), updates compressed by top_k, deltas clipped to 1, aggregated by median, "
        "12 rounds, 3 clients drawn in every round, drawn by their examples, 25% dropout, "
        "2 faulty clients (noise)"
    )
    assert text["Clients"].endswith("; 1 further client for the end, without training")
    guarded = {"clip": 0.5, "epsilon": 8.0, "delta": 1e-5, "adaptive": None, "reference": "global"}
    config["participation"] |= {"sampling": "poisson", "dropout": 0.0}
    config["faults"]["clients"] = 0
    config |= {"privacy": guarded, "secure": {"bits": 16, "clip": 2.0}}
    text = dict(describe_setting(study.trials[0].recording))
    assert text["Strategy"].endswith(
        "each drawn for itself, differential privacy of clients by epsilon 8 at delta 1e-05 (one "
        "client more or less), updates of norm 0.5 at most, from the whole model, secure sums of "
        "16 bits within 2"
    )
    config |= {"privacy": guarded | {"unit": "example"}, "secure": {"bits": None}}
    text = dict(describe_setting(study.trials[0].recording))
    assert text["Strategy"].endswith(
        "differential privacy of each site's examples by epsilon 8 at delta 1e-05 (one example "
        "replaced by nothing), gradients of norm 0.5 at most"
    )
    config |= {"privacy": guarded | {"noise_cohort_size": 4000}, "secure": {"bits": None}}
    text = dict(describe_setting(study.trials[0].recording))
    assert "noise as of rounds of 4,000 clients, which simulates" in text["Strategy"]
    guarded |= {"epsilon": None, "noise_multiplier": 2.0, "adaptive": 0.5, "reference": "received"}
    config |= {"privacy": guarded, "secure": {"bits": None}}
    text = dict(describe_setting(study.trials[0].recording))
    assert text["Strategy"].endswith(
        "by a noise multiplier of 2 (one client more or less), updates of norm 0.5 at most at "
        "first, then of their 50% quantile, from what the client received"
    )
    config["participation"] |= {"sampling": "examples", "dropout": 0.25}
    config["faults"]["clients"] = 2
    del config["privacy"], config["secure"]
    config["partition"] |= {"kind": "shards", "classes": 1, "sizes": "power", "features": "noise"}
    text = dict(describe_setting(study.trials[0].recording))
    assert text["Clients"] == (
        "4 clients with 30 training examples on average (power-law, skew 1) and 30 test examples "
        "each, 1 class each; 1 further client for the end, without training; the images of each "
        "client have noise of its own strength, up to 25% of the range of pixels"
    )
    for name in ("sizes", "size_skew", "features", "feature_skew", "classes"):
        del config["partition"][name]
    config["partition"]["kind"] = "iid"
    for name in ("participation", "faults", "privacy", "secure"):
        config.pop(name, None)
    assert "12 rounds" in dict(describe_setting(study.trials[0].recording))["Strategy"]
    write_study(tmp_path / "again", **SMALL)
    study = read_study(tmp_path / "again")
    assert "Also differs" not in describe_arm(study, "lips")
    lips = next(trial for trial in study.trials if trial.arm == "lips").recording.config
    lips["local"]["learning_rate"] = 0.1
    assert "Also differs in local.learning_rate = 0.1 (dense: 0.05)." in describe_arm(study, "lips")
    words = describe_sparsity(lips["sparsity"] | {"hold": 1, "schedule": "constant"})
    assert "after every 5 rounds" in words
    assert "Kept are 50%, the largest |gradient × weight|" in words
    assert "held for the first 1 local step." in words
    trigger = {"trigger": "inertia", "threshold": 0.25, "window": 3}
    words = describe_sparsity(lips["sparsity"] | trigger)
    assert words.startswith("Adaptive transient sparsity: after every 5 rounds, if the inertia")
    assert "of the last 3 rounds that began unmasked is above 0.25, clients receive" in words
    assert "Kept are from 100% down to 50%, the less the more the layer lags" in words


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0.0, "0 bit"),
        (999.0, "999 bit"),
        (999_999.0, "1 Mbit"),
        (1.234e9, "1.23 Gbit"),
        (5e17, "500 Pbit"),
        (math.nan, "not counted"),
    ],
)
def test_bits_in_words(count, text):
    assert format_bits(count) == text


def test_intervals_in_words():
    assert shown(Interval(0.5, math.nan, math.nan, 1), scale=100, sign="+") == "+50.0"
    assert shown(Interval(-0.5, -0.75, -0.25, 2), digits=2) == "-0.50 [-0.75, -0.25]"
    assert shown(Interval(math.nan, math.nan, math.nan, 0)) == "none"
