"""Results as tables, and files of them: each number is that of the recording."""

import csv
import importlib.util
import json

import numpy as np
import pytest

import lipsjax as lj
from helpers import commands
from helpers.commands import refusal
from helpers.fake_study import LAYERS, MEASURES, write_study
from lipsjax.analysis.comparison import compare
from lipsjax.recording import RecordingError
from lipsjax.report import html, plots, results
from lipsjax.report.plots.figures import panel

pytestmark = pytest.mark.slow  # others of the kind are in the default tests

SMALL = {"seeds": 3, "rounds": 6}
FEWER = {"seeds": 2, "rounds": 3, "clients": 4}


@pytest.fixture
def without(monkeypatch):
    """Makes a package one that is not installed."""
    find = importlib.util.find_spec

    def hide(name):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n, *rest: None if n == name else find(n, *rest)
        )

    return hide


def with_grid(out, *overrides):
    """Says in study.json what the cells set."""
    study = json.loads((out / "study.json").read_text())
    for cell, fields in zip(study["cells"], overrides, strict=True):
        cell["overrides"] = fields
    (out / "study.json").write_text(json.dumps(study))
    return out


def test_a_row_per_run_and_round(tmp_path, without):
    without("pandas")
    write_study(tmp_path, cells=("a = 1", "a = 2"), missing=(("lips", 1),), **SMALL)
    found = lj.load_results(tmp_path)
    table = found.rounds
    assert set(table) >= {"arm", "cell", "seed", "run", "round", "accuracy_dense", "density"}
    assert {len(values) for values in table.values()} == {2 * (3 + 2) * 6}
    for trial in found.study.trials:
        rows = table["run"] == trial.run
        assert set(table["arm"][rows]) == {trial.arm}
        assert set(table["seed"][rows]) == {trial.seed}
        assert table["round"][rows].tolist() == list(range(6))
        for name, values in trial.recording.scalars.items():
            np.testing.assert_array_equal(table[name][rows], values)
    assert [(each["arm"], each["seed"]) for each in found.unfinished] == [("lips", 1)] * 2


def test_a_row_per_layer(tmp_path, without):
    without("pandas")
    write_study(tmp_path, **SMALL)
    found = lj.load_results(str(tmp_path))
    table = found.layers
    assert len(table["layer"]) == 2 * 3 * 6 * len(LAYERS)
    run = found.study.trials[-1]
    for i, (name, role, kind, size) in enumerate(LAYERS):
        rows = (table["run"] == run.run) & (table["layer"] == name)
        assert {*table["role"][rows]} == {role}
        assert {*table["kind"][rows]} == {kind}
        assert {*table["size"][rows]} == {size}
        for measure in MEASURES:
            values = run.recording.layers[measure][:, i]
            np.testing.assert_array_equal(table[measure][rows], values)


def test_fields_of_the_grid_are_columns(tmp_path, without):
    without("pandas")
    write_study(tmp_path, cells=("one", "two"), **SMALL)
    with_grid(tmp_path, {"a.b": 0.5, "local": {"epochs": 2, "kind": "x"}}, {"a.b": 2, "c": [1, 2]})
    found = lj.load_results(tmp_path)
    for table in (found.rounds, found.layers, found.comparison):
        one = table["cell"] == "one"
        assert set(table["a.b"][one]) == {0.5}
        assert set(table["a.b"][~one]) == {2.0}
        assert set(table["local.epochs"][one]) == {2}
        assert np.isnan(table["local.epochs"][~one]).all()
        assert set(table["local.kind"][~one]) == {""}
        assert set(table["c"][~one]) == {"[1, 2]"}


def test_no_sites_where_nothing_was_recorded_of_them(tmp_path, without):
    without("pandas")
    write_study(tmp_path, **SMALL)
    table = lj.load_results(tmp_path).sites
    assert {"arm", "seed", "round", "client", "site"} <= set(table)
    assert {len(values) for values in table.values()} == {0}


class Recorded:
    """A recording that holds measures of each client."""

    def __init__(self, recording, by, names):
        self.config = recording.config | {"partition": {"new_clients": 1}}
        self.scalars = recording.scalars
        self.setup = recording.setup | {"site_names": names}
        self.by = by


def test_a_row_per_site_that_was_measured(tmp_path):
    write_study(tmp_path, seeds=1, rounds=2, clients=3, arms=("dense",))
    study = lj.load_results(tmp_path).study
    trained = np.array([[0.5, np.nan], [0.25, 0.75]])
    held_out = np.array([[np.nan], [1.0]])
    by = {"clients": {"accuracy": trained}, "new_clients": {"accuracy": held_out}}
    for kept, sites, values in (
        (by, ["north", "north", "south", "east"], [0.5, 0.25, 0.75, 1.0]),
        ({"new_clients": by["new_clients"]}, ["east"], [1.0]),
    ):
        run = Recorded(study.trials[0].recording, kept, ["north", "south", "east"])
        table = results.sites_table(
            study._replace(trials=(study.trials[0]._replace(recording=run),))
        )
        assert table["site"].tolist() == sites
        assert table["accuracy"].tolist() == values
    assert table["client"].tolist() == [2]


def test_comparison_has_the_numbers_of_the_report(tmp_path, without):
    without("pandas")
    write_study(tmp_path, arms=("dense", "lips", "random"), **SMALL)
    found = lj.load_results(tmp_path)
    table = found.comparison
    for row in compare(found.study):
        at = (table["arm"] == row.arm) & (table["measure"] == "personalised")
        (i,) = np.flatnonzero(at)
        assert (table["mean"][i], table["low"][i], table["high"][i]) == row.means["personalised"][
            :3
        ]
        assert table["seeds"][i] == 3
        if row.is_reference:
            assert np.isnan(table["difference"][i])
            continue
        difference = row.differences["personalised"]
        ends = ("difference", "difference_low", "difference_high", "paired_seeds")
        assert tuple(table[name][i] for name in ends) == difference.interval
        assert table["p"][i] == difference.p
        assert table["holm"][i] == row.adjusted["personalised"]


def test_frames_where_pandas_is_installed(tmp_path):
    pandas = pytest.importorskip("pandas")
    write_study(tmp_path, **SMALL)
    found = lj.load_results(tmp_path)
    for table in (found.rounds, found.layers, found.sites, found.comparison):
        assert isinstance(table, pandas.DataFrame)
    means = found.rounds.groupby(["arm", "round"]).accuracy_dense.mean()
    assert means["lips", 5] > means["dense", 5]


def test_a_study_of_which_nothing_is_finished_has_empty_tables(tmp_path, without):
    without("pandas")
    write_study(tmp_path, missing=tuple(("dense", i) for i in range(3)), arms=("dense",), **SMALL)
    found = lj.load_results(tmp_path)
    for table in (found.rounds, found.layers, found.sites, found.comparison):
        assert {len(values) for values in table.values()} == {0}
    assert len(found.unfinished) == 3


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(RecordingError, match="holds no study"):
        lj.load_results(tmp_path)


def test_tables_of_every_round_lie_beside_those_of_the_report():
    """What the report writes of sites took the place of what each had round by round."""
    assert not {"table", "sites"} & set(results.TABLES)


def test_csv_holds_all_rows_and_no_formulas(tmp_path):
    write_study(tmp_path, arms=("dense", "=1+1"), evaluate_every=2, **SMALL)
    ended = commands.call("report", str(tmp_path), "--format", "csv")
    assert ended.status == 0, ended.err
    assert not (tmp_path / "sites.csv").exists()
    assert not (tmp_path / "report.html").exists()
    rows = list(csv.DictReader((tmp_path / "rounds.csv").read_text().splitlines()))
    table = results.rounds_table(lj.load_results(tmp_path).study)
    assert list(rows[0]) == list(table)
    assert {row["arm"] for row in rows} == {"dense", "'=1+1"}
    for name in ("accuracy_dense", "uplink_bits"):
        values = [float(row[name] or "nan") for row in rows]
        np.testing.assert_array_equal(values, table[name])
    assert len((tmp_path / "layers.csv").read_text().splitlines()) == 1 + 2 * 3 * 6 * len(LAYERS)
    assert "=" not in {line[0] for line in (tmp_path / "comparison.csv").read_text().splitlines()}


def test_parquet_holds_the_tables(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_study(tmp_path, cells=("one", "two"), **SMALL)
    with_grid(tmp_path, {"a": 1, "b": "x"}, {"a": 0.5})
    study = lj.load_results(tmp_path).study
    for path in results.write_tables(study, tmp_path, "parquet"):
        table, read = results.TABLES[path.stem](study), parquet.read_table(path)
        assert read.column_names == list(table)
        for name, values in table.items():
            assert read[name].to_pylist() == pytest.approx(values.tolist(), nan_ok=True)


def test_parquet_without_pyarrow_is_refused_in_one_line(tmp_path, without):
    without("pyarrow")
    write_study(tmp_path, **SMALL)
    ended = commands.call("report", str(tmp_path), "--format", "parquet")
    refusal(ended, "parquet needs pyarrow: pip install 'lipsjax[frames]'")
    assert not list(tmp_path.glob("*.parquet"))


@pytest.fixture
def two_panels(monkeypatch):
    """Leaves a page with one figure of two panels and a legend."""
    drawings = (plots.Drawing((panel()[0], panel()[0]), (), (), key=panel()[0]),)
    monkeypatch.setattr(html, "figures", lambda study: dict(zip(["mix-0"], drawings, strict=True)))


@pytest.mark.usefixtures("two_panels")
def test_each_panel_is_a_file_and_equal_figures_are_equal_bytes(tmp_path):
    write_study(tmp_path, **FEWER)
    study = lj.load_results(tmp_path).study
    names = ["mix-0.0", "mix-0.1", "mix-0.key"]
    assert list(lj.load_results(tmp_path).figures()) == names
    for kind, begin in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        saved = []
        for _ in range(2):
            folder = results.write_figures(study, tmp_path, kind)
            saved.append([(folder / f"{name}.{kind}").read_bytes() for name in names])
        assert saved[0] == saved[1]
        assert all(content.startswith(begin) for content in saved[0])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_every_figure_is_written(tmp_path, form):
    write_study(tmp_path, cells=("one", "two"), **FEWER)
    ended = commands.call("report", str(tmp_path), "--format", form)
    assert ended.status == 0, ended.err
    written = {path.stem for path in (tmp_path / "figures").glob(f"*.{form}")}
    assert written == set(lj.load_results(tmp_path).figures())
    assert {"differences.0", "accuracy-0.0", "relative_steps-0.key", "mix-0", "mix-1"} <= written
