"""The Colab notebook runs, as small as it can be, on a runtime without an accelerator."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "lipsjax_colab.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter and its event loop
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPSJAX_NOTEBOOK", "tiny")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    ).execute()
    said = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    for part in ("report: results/digits/report.html", "this runtime has: cpu", "at best"):
        assert part in said
