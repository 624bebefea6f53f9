"""The Colab notebook: what its first cell installs, and that all cells run, as small as can be.

A runtime is simulated by a program ``nvidia-smi`` that prints, and by packages ``jax`` and ``pip``
that say what they are told and note what they are asked.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "lipsjax_colab.ipynb"
CELLS = {cell["id"]: cell for cell in json.loads(NOTEBOOK.read_text())["cells"]}

T4, NEWER = "Tesla T4, 550.54.15", "NVIDIA L4, 580.65.06"
JAX = """
import os
__version__ = "0.12.0"
def default_backend():
    return os.environ["SEES"]
"""
PIP = """
import os, sys
with open(os.environ["ASKED"], "w") as file:
    file.write(" ".join(sys.argv[1:]))
"""


def install(tmp_path, *, gpu=None, sees="cpu", packages=(), before="", **environment):
    """Run the first cell in a runtime: how it ended, and what pip was asked for."""
    runtime = tmp_path / "runtime"
    sources = {"jax/__init__.py": JAX, "pip/__init__.py": "", "pip/__main__.py": PIP}
    for name, text in (sources | {f"{package}.py": "" for package in packages}).items():
        (runtime / name).parent.mkdir(parents=True, exist_ok=True)
        (runtime / name).write_text(text)
    if gpu is not None:
        smi = runtime / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\n{gpu}\n")
        smi.chmod(0o755)
    asked = tmp_path / "asked"
    known = {"PATH": f"{runtime}:/usr/bin:/bin", "PYTHONPATH": str(runtime), "SEES": sees}
    source = before + "".join(CELLS["install"]["source"])
    ended = subprocess.run(
        [sys.executable, "-S", "-c", source],  # without the packages that are installed here
        env=known | {"ASKED": str(asked), "LIPSJAX_SOURCE": "SOURCE"} | environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    return ended, asked.read_text() if asked.exists() else None


@pytest.mark.whole
@pytest.mark.parametrize(
    ("runtime", "asked", "said"),
    [
        ({}, "SOURCE", "a CPU"),
        ({"gpu": "echo has failed; exit 9"}, "SOURCE", "a CPU"),
        ({"gpu": f"echo '{T4}'", "sees": "gpu"}, "SOURCE jax[cuda12]", "Tesla T4, driver 550"),
        ({"gpu": f"echo '{NEWER}'", "sees": "gpu"}, "SOURCE jax[cuda13]", "NVIDIA L4, driver 580"),
        (
            {"gpu": f"echo '{NEWER}'", "sees": "gpu", "packages": ["jax_cuda12_plugin"]},
            "SOURCE jax[cuda12]",
            "NVIDIA L4, driver 580",
        ),
        ({"gpu": f"echo '{T4}'", "JAX_PLATFORMS": "cpu"}, "SOURCE", "as JAX_PLATFORMS says"),
        ({"gpu": f"echo '{T4}'", "sees": "gpu", "packages": ["lipsjax"]}, None, "Tesla T4"),
        ({"packages": ["lipsjax"]}, None, "a CPU"),
    ],
)
def test_what_is_there_decides_what_is_installed(runtime, asked, said, tmp_path):
    ended, pip = install(tmp_path, **runtime)
    assert ended.returncode == 0, ended.stderr
    assert pip == (asked and f"install -q {asked}")
    assert said in ended.stdout.splitlines()[0]
    assert ended.stdout.splitlines()[-1] == f"JAX 0.12.0 runs on: {runtime.get('sees', 'cpu')}"


@pytest.mark.whole
@pytest.mark.parametrize(
    ("packages", "asked"), [([], "SOURCE jax[cuda12]"), (["lipsjax"], "jax[cuda12]")]
)
def test_a_gpu_that_jax_does_not_see_stops_all(packages, asked, tmp_path):
    ended, pip = install(tmp_path, gpu=f"echo '{T4}'", sees="cpu", packages=packages)
    assert ended.returncode == 1
    assert pip == f"install -q {asked}"
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(
        "RuntimeError: this runtime has Tesla T4, driver 550.54.15, but JAX 0.12.0 runs on cpu: "
    )
    assert "runs on:" not in ended.stdout


@pytest.mark.whole
def test_nothing_is_installed_over_a_jax_that_runs(tmp_path):
    ended, pip = install(tmp_path, gpu=f"echo '{T4}'", sees="gpu", before="import jax\n")
    assert ended.stderr.splitlines()[-1].startswith("RuntimeError: JAX was imported before")
    assert pip is None


def test_it_installs_from_the_repository():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    repository = about["project"]["urls"]["Repository"]
    assert f'"git+{repository}"' in "".join(CELLS["install"]["source"])


def test_outputs_are_not_committed():
    assert not any(cell.get("outputs") for cell in CELLS.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter and its event loop
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPSJAX_NOTEBOOK", "tiny")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path / "empty"
    folder.mkdir()
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": folder}}
    ).execute()
    outputs = {
        cell["id"]: cell.get("outputs", []) for cell in notebook.cells if cell.cell_type == "code"
    }
    said = "".join(output.get("text", "") for shown in outputs.values() for output in shown)
    for part in ("report: results/digits/report.html", "runs on: cpu", "at best", "no GPU or TPU"):
        assert part in said
    for name in ("page", "survey", "own"):
        assert "<iframe srcdoc=" in outputs[name][-1]["data"]["text/html"]
    assert "image/png" in outputs["results"][-1]["data"]
