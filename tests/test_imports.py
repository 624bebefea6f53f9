"""The order of the rooms: a room imports those before it, never one after it (docs/design.md)."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lipsjax

SOURCE = Path(__file__).parents[1] / "src" / "lipsjax"

# from the data to the commands; entries of one line may import each other
ROOMS = [
    {"types", "keys", "tree"},
    {"datasets", "partition", "clients"},
    {"models"},
    {"local", "augmentation"},
    {"privacy"},
    {"strategy"},
    {"sparsity"},
    {"strategies"},
    {"metrics"},
    {"rounds", "simulation"},
    {"sites"},
    {"recording"},
    {"attacks"},
    {"analysis"},
    {"report"},
    {"runs"},
    {"deploy"},
    {"experiments"},
]
PLACE = {name: i for i, names in enumerate(ROOMS) for name in names}
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
def test_a_room_imports_no_later_one(path):
    place = PLACE[package_of(path)]
    for name in imported(path):
        assert PLACE[name] <= place, f"{path.name} imports {name}, a later room"


def test_every_entry_has_a_room():
    entries = {
        p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert entries - {"__init__"} == set(PLACE)


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("__init__.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_init_files_hold_no_code(path):
    """But for the top one, whose names are imported on first use."""
    if path.parent == SOURCE:
        return
    for node in ast.parse(path.read_text()).body:
        is_all = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_all or is_docstring or isinstance(node, ast.ImportFrom), ast.unparse(node)


@pytest.mark.whole
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("lipsjax", ["jax", "numpy"]),
        ("lipsjax.experiments.sweep", ["jax", "matplotlib", "sklearn"]),
        ("lipsjax.datasets", ["jax", "sklearn", "tensorflow_datasets", "tensorflow"]),
        ("lipsjax.report.html", ["jax", "orbax"]),
        ("lipsjax.report.survey, lipsjax.runs.data", ["jax", "orbax", "matplotlib"]),
        ("lipsjax.recording", ["jax", "filelock"]),
        *(
            pytest.param(module, absent, marks=pytest.mark.slow)
            for module, absent in [
                ("lipsjax.runs.trial", ["tensorboardX", "wandb", "mlflow"]),
                ("lipsjax.experiments.search", ["jax", "optuna"]),
                ("lipsjax.report.results", ["jax", "pandas", "matplotlib", "pyarrow"]),
            ]
        ),
    ],
)
def test_what_an_import_does_not_pull_in(module, absent):
    code = f"import sys, {module}; print([m for m in {absent} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_top_has_every_module_and_types_what_it_has():
    """The block that only checkers read imports the names of the one that Python reads."""
    modules = {p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert set(lipsjax._MODULES) == {m for m in modules if not m.startswith("__")} - {"py"}
    (block,) = (n for n in ast.parse((SOURCE / "__init__.py").read_text()).body if is_typing(n))
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == lipsjax._HOME | dict.fromkeys(lipsjax._MODULES, "lipsjax")


def is_typing(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.mark.whole
@pytest.mark.parametrize("order", [pytest.param(1, marks=pytest.mark.slow), -1])
def test_names_do_not_depend_on_what_was_imported_before(order):
    names = sorted(lipsjax.__all__)[::order]
    code = f"import lipsjax; print([getattr(lipsjax, name).__name__ for name in {names}])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(found.stdout) == [
        f"lipsjax.{name}" if name in lipsjax._MODULES else name for name in names
    ]


TYPED = """
import lipsjax as lj

reveal_type(lj.fedavg)
reveal_type(lj.build)
reveal_type(lj.Strategy)
reveal_type(lj.recording.read)
reveal_type(lj.keys.derive)
"""


@pytest.mark.whole
def test_a_checker_sees_real_types(tmp_path):
    pytest.importorskip("basedpyright")
    (tmp_path / "user.py").write_text(TYPED)
    paths = {"extraPaths": [str(SOURCE.parent)], "typeCheckingMode": "standard"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(paths))
    argv = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    ended = subprocess.run([*argv, "-p", str(tmp_path)], capture_output=True, text=True)
    said = [m["message"] for m in json.loads(ended.stdout)["generalDiagnostics"]]
    types = [message.partition('" is "')[2] for message in said]
    assert types[0].endswith('-> Strategy"')
    assert types[1].startswith("(model: Model, strategy: Strategy,")
    assert types[1].endswith('-> Simulation"')
    assert types[2] == 'type[Strategy]"'
    assert types[3] == '(run_dir: Path) -> Recording"'
    assert "Unknown" not in types[4]
    assert types[4].startswith("(key: ")
