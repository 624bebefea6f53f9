"""Results as tidy tables: a row per run and round, per layer, per client, per comparison.

No JAX is needed, nor pandas: without it a table is a dict of arrays.
"""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lipsjax.analysis.comparison import compare
from lipsjax.analysis.stats import Interval
from lipsjax.recording import StudyRecording, read_study, whole_file, write_atomically
from lipsjax.report.table import table_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Columns = dict[str, np.ndarray]
"""A table: name of a column -> its values, as many in each."""

NOTHING = Interval(np.nan, np.nan, np.nan, 0)


class Results(NamedTuple):
    """A recorded study, as tables and figures.

    Tables are pandas DataFrames where pandas is installed, and else dicts of NumPy arrays. Each has
    the columns ``arm``, ``cell`` (its label), and one for each field of the grid; those of runs
    have ``seed`` and ``run``, the name of its directory, too.
    """

    study: StudyRecording

    @property
    def rounds(self) -> Any:
        """A row per finished run and round: density, accuracies, losses, bits, inertia ..."""
        return _frame(rounds_table(self.study))

    @property
    def layers(self) -> Any:
        """A row per finished run, round and layer: name, role, kind, size and its measures."""
        return _frame(layers_table(self.study))

    @property
    def sites(self) -> Any:
        """A row per finished run, round and client; none where nothing was recorded of clients."""
        return _frame(sites_table(self.study))

    @property
    def comparison(self) -> Any:
        """A row per cell, arm and measure: its mean over seeds, and its difference, if it has one.

        Columns: ``reference``, ``measure``, ``seeds``; ``mean``, ``low``, ``high`` over them;
        ``difference``, ``difference_low``, ``difference_high`` and ``p`` over ``paired_seeds``;
        ``holm``, which is p after Holm's correction over all compared rows. Intervals are
        Student's, as computed: one of an accuracy may go beyond 0 or 1, where the page ends it.
        """
        return _frame(comparison_table(self.study))

    @property
    def unfinished(self) -> tuple[dict[str, Any], ...]:
        """Trials that are in no table: arm, cell, seed, run, and why they ended, if they did."""
        return (*self.study.diverged, *self.study.missing)

    def figures(self) -> "dict[str, Figure]":
        """Draw the figures of the report; one for each panel, and one for each shared legend.

        Returns:
          The name of a figure, as in ``accuracy-0`` of the first cell -> the figure; of one with
          several panels each has its number after a dot, and its legend ``key``.

        Raises:
          ValueError: if no trial of the study is finished.
        """
        return figures_of(self.study)


def load_results(out: str | Path) -> Results:
    """Read the results of a study from the directory that it was written to.

    Args:
      out: what ``--out``, or ``out`` of :func:`lipsjax.sweep`, was.

    Returns:
      The results. They stay what they were when other runs are finished later.

    Raises:
      RecordingError: if there is no study, or it cannot be read.
    """
    return Results(read_study(Path(out).expanduser()))


def rounds_table(study: StudyRecording) -> Columns:
    """A row per finished run and round; NaN where nothing was measured."""
    blocks = []
    for about, run in _runs(study):
        rounds = run.scalars["round"].astype(int)
        others = {name: values for name, values in run.scalars.items() if name != "round"}
        blocks.append(_block(about, {"round": rounds, **others}))
    return _joined(blocks, [*_columns_of_runs(study), "round"])


def layers_table(study: StudyRecording) -> Columns:
    """A row per finished run, round and layer; NaN where nothing was measured."""
    blocks = []
    for about, run in _runs(study):
        layers = run.setup["layers"]
        rounds = run.scalars["round"].astype(int)
        facts = {
            "layer" if name == "name" else name: np.tile(
                np.array([layer.get(name) for layer in layers]), len(rounds)
            )
            for name in ("name", "role", "kind", "size")
        }
        measures = {name: values.reshape(-1) for name, values in run.layers.items()}
        blocks.append(_block(about, {"round": np.repeat(rounds, len(layers)), **facts, **measures}))
    head = ["round", "layer", "role", "kind", "size"]
    return _joined(blocks, [*_columns_of_runs(study), *head])


def sites_table(study: StudyRecording) -> Columns:
    """A row per finished run, round and client, where something was measured of that client.

    New clients, which never trained, come after the others, as in ``site_names`` of the setup.
    """
    blocks = []
    for about, run in _runs(study):
        begin = 0
        for group in ("clients", "new_clients"):
            measures: Columns = dict(run.by.get(group, {}))
            if not measures:
                begin = len(run.setup["survey"]["train_counts"]) - run.config["partition"].get(
                    "new_clients", 0
                )
                continue
            rounds, count = next(iter(measures.values())).shape
            names = run.setup.get("site_names") or [""] * (begin + count)
            facts = {
                "round": np.repeat(run.scalars["round"].astype(int), count),
                "client": np.tile(np.arange(begin, begin + count), rounds),
                "site": np.tile(np.array(names[begin : begin + count]), rounds),
            }
            values = {name: each.reshape(-1) for name, each in measures.items()}
            known = ~np.all([np.isnan(each) for each in values.values()], axis=0)
            kept = {name: each[known] for name, each in (facts | values).items()}
            blocks.append(_block(about, kept))
            begin += count
    return _joined(blocks, [*_columns_of_runs(study), "round", "client", "site"])


def comparison_table(study: StudyRecording) -> Columns:
    """A row per cell, arm and measure; differences of the reference from itself are NaN."""
    head = ["arm", "cell", *_grid_fields(study), "reference", "measure", "seeds"]
    if not study.trials:
        return _joined([], head)
    at = {cell["label"]: _grid_values(cell) for cell in study.cells}
    found: list[dict[str, Any]] = []
    for row in compare(study):
        about = {"arm": row.arm, "cell": row.cell, **at[row.cell], "reference": row.reference}
        for measure in row.means:
            mean, paired = row.means[measure], row.differences.get(measure)
            interval = NOTHING if paired is None else paired.interval
            found.append(
                about
                | {"measure": measure, "seeds": len(row.seeds)}
                | {"mean": mean.mean, "low": mean.low, "high": mean.high}
                | {"paired_seeds": interval.n, "difference": interval.mean}
                | {"difference_low": interval.low, "difference_high": interval.high}
                | {
                    "p": np.nan if paired is None else paired.p,
                    "holm": row.adjusted.get(measure, np.nan),
                }
            )
    return _joined([_block(each, {"": np.zeros(1)}) for each in found], head)


def figures_of(study: StudyRecording) -> "dict[str, Figure]":
    """Draw the figures of the report; as :meth:`Results.figures`."""
    from lipsjax.report.html import figures  # not at the top: tables need no Matplotlib

    found = {}
    for name, drawing in figures(study).items():
        one = len(drawing.panels) == 1
        found |= {name if one else f"{name}.{i}": p for i, p in enumerate(drawing.panels)}
        if drawing.key is not None:
            found[f"{name}.key"] = drawing.key
    return found


Kind = Literal["csv", "parquet"]
TABLES: dict[str, Callable[[StudyRecording], Columns]] = {
    "rounds": rounds_table,
    "layers": layers_table,
    "site_rounds": sites_table,  # sites.csv is the report's, with intervals over seeds
    "comparison": comparison_table,
}
"""Name of a file -> its table."""


def write_tables(study: StudyRecording, out: Path, kind: Kind) -> list[Path]:
    """Writes a study's tidy tables: ``rounds.csv`` and the others, each whole or not at all.

    Args:
      study: the recorded study.
      out: folder that they are written to.
      kind: csv, or parquet, which needs pyarrow.

    Returns:
      The paths of the files; there is none of a table without rows.

    Raises:
      ValueError: for parquet where pyarrow is not installed, before anything is written.
    """
    if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError("parquet needs pyarrow: pip install 'lipsjax[frames]'; or use csv")
    paths = []
    for name, make in TABLES.items():
        table = make(study)
        if not len(table["arm"]):
            continue
        paths.append(out / f"{name}.{kind}")
        if kind == "csv":
            rows = zip(*(map(_cell, values.tolist()) for values in table.values()), strict=True)
            write_atomically(paths[-1], table_text(list(table), rows))
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            with whole_file(paths[-1]) as file:
                pq.write_table(pa.table(dict(table)), file)
    return paths


def _cell(value: Any) -> Any:
    """A value as CSV has it: nothing where nothing was measured."""
    return "" if value != value or value is None else value


def write_figures(study: StudyRecording, out: Path, kind: Literal["svg", "png", "pdf"]) -> Path:
    """Writes the report's figures, each panel as a file of its own.

    Args:
      study: the recorded study.
      out: folder of the study.
      kind: of the files; equal recordings give equal bytes.

    Returns:
      The folder that holds them, ``figures``.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    import warnings

    import matplotlib as mpl

    drawn, folder = figures_of(study), out / "figures"
    folder.mkdir(exist_ok=True)
    dates = {"svg": {"Date": None}, "png": {}, "pdf": {"CreationDate": None}}
    for name, figure in drawn.items():
        # letters as fonts and not as shapes, which journals ask for
        settings: Any = {"svg.hashsalt": name, "pdf.fonttype": 42}
        with (
            mpl.rc_context(settings),
            warnings.catch_warnings(),
            whole_file(folder / f"{name}.{kind}") as file,
        ):
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(file, format=kind, dpi=300, facecolor="white", metadata=dates[kind])
    return folder


def _runs(study: StudyRecording) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield what is the same in all rows of a run, and its recording."""
    for trial in study.trials:
        cell = study.cells[trial.cell]
        about = {"arm": trial.arm, "cell": cell["label"], "seed": trial.seed, "run": trial.run}
        yield about | _grid_values(cell), trial.recording


def _columns_of_runs(study: StudyRecording) -> list[str]:
    return ["arm", "cell", "seed", "run", *_grid_fields(study)]


def _grid_fields(study: StudyRecording) -> list[str]:
    """The fields that some cell sets, by dotted name."""
    return list(dict.fromkeys(name for cell in study.cells for name in _grid_values(cell)))


def _grid_values(cell: dict[str, Any]) -> dict[str, Any]:
    """What a cell sets: dotted field -> value, a list as its JSON."""
    return dict(_flat(cell.get("overrides", {}).items()))


def _flat(items: Iterable[tuple[str, Any]], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in items:
        if isinstance(value, dict):
            yield from _flat(value.items(), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value) if isinstance(value, list) else value


def _block(about: dict[str, Any], columns: Columns) -> Columns:
    """Rows that share some values."""
    rows = len(next(iter(columns.values())))
    return {name: np.repeat(np.array(value), rows) for name, value in about.items()} | columns


def _joined(blocks: list[Columns], head: list[str]) -> Columns:
    """Blocks below each other; what one does not have is NaN or empty there, as its type says."""
    names = list(dict.fromkeys([*head, *(name for block in blocks for name in block)]))
    return {name: _column([(b.get(name), len(b["arm"])) for b in blocks]) for name in names if name}


def _column(parts: list[tuple[np.ndarray | None, int]]) -> np.ndarray:
    """A column of what blocks have, and nothing where one has none: texts, or numbers."""
    known = [values for values, _ in parts if values is not None]
    if not known:
        return np.zeros(0)
    kinds = {values.dtype.kind for values in known}
    if kinds <= set("iufb"):
        lacking = np.nan if len(known) < len(parts) else 0
        return np.concatenate([np.full(n, lacking) if v is None else v for v, n in parts])
    texts = [
        np.full(n, "", object) if v is None else np.array([str(x) for x in v], object)
        for v, n in parts
    ]
    return np.concatenate(texts)


def _frame(table: Columns) -> Any:
    """A table as a DataFrame, where pandas is installed."""
    if importlib.util.find_spec("pandas") is None:
        return table
    import pandas as pd

    return pd.DataFrame(table)
