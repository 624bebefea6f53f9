"""The way of the data: a module imports what stands before it, never what comes after."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "lipsjax"

# each stage may import itself and the stages before it
ORDER = [
    {"datasets"},
    {"partition"},
    {"clients"},
    {"types", "keys"},
    {"tree"},
    {"topk", "augmentation"},
    {"program"},
    {"models", "metrics", "local"},
    {"strategies"},
    {"sparsity"},
    {"rounds"},
    {"simulation"},
    {"recording", "checkpoints"},
    {"stats"},
    {"comparison"},
    {"wording"},
    {"finding"},
    {"diagnosis", "controls", "value"},
    {"verdict"},
    {"setting"},
    {"summary"},
    {"markdown"},
    {"plots"},
    {"page"},
    {"report"},
    {"survey"},
    {"experiments"},
]
STAGE = {name: i for i, names in enumerate(ORDER) for name in names}
FILES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


def package_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path):
    """First-level modules of lipsjax that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "lipsjax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lipsjax."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("lipsjax."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    stage = STAGE[package_of(path)]
    for name in imported(path):
        assert STAGE[name] <= stage, f"{path.name} imports {name}, which comes after it"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("lipsjax", ["jax", "numpy"]),
        ("lipsjax.experiments.sweep", ["jax", "matplotlib", "sklearn"]),
        ("lipsjax.experiments.search", ["jax", "optuna"]),
        ("lipsjax.experiments.trial", ["tensorboardX", "wandb", "mlflow"]),
        ("lipsjax.datasets", ["jax", "sklearn", "tensorflow_datasets", "tensorflow"]),
        ("lipsjax.report", ["jax", "orbax"]),
        ("lipsjax.survey, lipsjax.experiments.sharing", ["jax", "orbax", "matplotlib"]),
    ],
)
def test_what_an_import_does_not_pull_in(module, absent):
    code = f"import sys, {module}; print([m for m in {absent} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
