"""Simulated time on the page: levers, classes of devices, accuracy over hours."""

import json
import re

import numpy as np
import pytest

from helpers import fake_study
from lipsjax import recording
from lipsjax.analysis.comparison import compare, recordings_of
from lipsjax.analysis.hours import device_classes, elapsed_hours, idle_share, worst_devices
from lipsjax.report import hours, plots
from lipsjax.report.anonymise import anonymous_study
from lipsjax.report.html import render
from lipsjax.report.markdown import markdown

LENGTHS = {"dense": 7200.0, "lips": 1800.0}  # seconds of a round


@pytest.fixture
def timed(tmp_path):
    """A recorded study whose sites have two classes of devices."""
    out = fake_study.write_study(tmp_path, seeds=5)
    for trial in recording.read_study(out).trials:
        folder = out / "runs" / trial.run
        path = folder / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["simulated_seconds"] = LENGTHS.get(trial.arm, 3600.0)
            row["idle_share"] = 0.25
            row["clients"] = {"accuracy": [*[0.5, 0.75] * 5, *[1.0] * 10]}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        setup = json.loads((folder / "setup.json").read_text())
        setup["devices"] = [
            {
                "name": name,
                "turns": 4.0,
                "steps": share,
                "turn_seconds": 900.0,
                "price_per_hour": price,
                "width": 0.25 if name == "pi" else 1.0,
            }
            for name, share, price in [("pi", 0.5, 0.0)] * 10 + [("rig", 1.0, 2.0)] * 10
        ]
        (folder / "setup.json").write_text(json.dumps(setup))
    return recording.read_study(out)


def test_measures_of_a_run(timed):
    run = next(trial.recording for trial in timed.trials if trial.arm == "dense")
    np.testing.assert_allclose(
        elapsed_hours(run), 2.0 * np.arange(1, len(run.scalars["round"]) + 1)
    )
    assert idle_share(run) == 0.25
    assert worst_devices(run) == pytest.approx(0.625)


def test_classes_of_devices(timed):
    pi, rig = device_classes(recordings_of(timed, 0)["dense"])
    assert (pi.name, pi.sites, pi.turns, pi.steps) == ("pi", 10, 4.0, 0.5)
    assert (pi.parts, rig.parts) == ({"width": (0.25, 0.25)}, {"width": (1.0, 1.0)})
    lines = {tuple(line[:2]): line for line in hours.class_lines(timed)}
    place = hours.CLASSES.index("does in part")
    assert [lines["dense", name][place] for name in ("pi", "rig")] == ["width 0.25", ""]
    assert pi.accuracy.mean == pytest.approx(0.625)
    assert np.isnan(pi.cost.mean)
    assert rig.cost.mean == pytest.approx(
        20.0
    )  # of ten sites, four turns of a quarter of an hour, at 2


def test_levers_and_their_unit(timed):
    rows = compare(timed)
    head, *lines = hours.levers(rows)
    assert head[1] == "hours"
    rounds = len(timed.trials[0].recording.scalars["round"])
    found = {line[0]: line for line in lines}
    assert float(found["dense"][1]) == pytest.approx(2.0 * rounds, rel=1e-2)
    assert float(found["lips"][1]) == pytest.approx(0.5 * rounds, rel=1e-2)
    assert found["dense"][3] == ""
    assert re.match(r"[+-]\d", found["lips"][3])
    assert found["lips"][5] == "25"


def test_the_page_and_markdown_have_them(timed):
    page, text = render(timed), markdown(timed)
    for shown in (page, text):
        assert "Hours at the sites" in shown
        assert "worst devices, %" in shown.lower()
    assert "simulated hours" in page
    drawing = plots.accuracy_hours(recordings_of(timed, 0))
    assert drawing.columns[:2] == ("arm", "simulated hours")
    ends = {row[0]: row[1] for row in drawing.rows}  # the last round of each
    assert ends["dense"] == 4 * ends["lips"]


def test_without_a_clock_nothing_is_shown(tmp_path):
    study = recording.read_study(fake_study.write_study(tmp_path, seeds=2))
    assert hours.levers(compare(study)) == []
    assert hours.class_lines(study) == []
    assert not plots.accuracy_hours(recordings_of(study, 0)).panels
    assert "Hours at the sites" not in render(study)


@pytest.mark.parametrize(
    ("given", "names"), [("press_line.csv", ["Device 1", "Device 2"]), ("pi-4", ["pi", "rig"])]
)
def test_devices_of_a_table_have_no_name_on_an_anonymous_page(timed, given, names):
    sited = timed._replace(
        trials=tuple(
            trial._replace(
                recording=trial.recording._replace(
                    config=trial.recording.config | {"sites": {"devices": [given]}},
                    setup=trial.recording.setup
                    | {
                        "devices": [
                            device | {"source": f"{given}, row 1"}
                            for device in trial.recording.setup["devices"]
                        ]
                    },
                )
            )
            for trial in timed.trials
        )
    )
    hidden = anonymous_study(sited)
    found = device_classes(recordings_of(hidden, 0)["dense"])
    assert [each.name for each in found] == names
    assert "press_line" not in str(hidden.trials)
