"""Flower's quickstart for PyTorch, which was not written here, before and after the page's diff.

Run where ``LIPSJAX_FLOWER_QUICKSTART`` names its folder, of a clone of github.com/adap/flower:
``examples/quickstart-pytorch``. Its data are CIFAR-10 from a hub; here stand random images.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")
torch = pytest.importorskip("torch")

from flwr.app import Context, RecordDict

from lipsjax.deploy.flower.inprocess import InProcess
from lipsjax.deploy.flower.mod import GRADIENT, RECORD

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "flower.md"
GIVEN = os.environ.get("LIPSJAX_FLOWER_QUICKSTART", "")
NODES = 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GIVEN, reason="LIPSJAX_FLOWER_QUICKSTART names no folder"),
]


def diff():
    (block,) = re.findall(r"^```diff\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return block


class Images(torch.utils.data.Dataset):
    """Images that tell their classes, in batches as the app's loader makes them."""

    def __init__(self, number, size):
        rng = np.random.default_rng(number)
        self.labels = rng.integers(0, 10, size)
        faint = rng.normal(size=(size, 3, 32, 32)) + self.labels[:, None, None, None] / 3
        self.images = faint.astype(np.float32)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, at):
        return {"img": torch.from_numpy(self.images[at]), "label": int(self.labels[at])}


def loader(number, size):
    return torch.utils.data.DataLoader(Images(number, size), batch_size=32, shuffle=True)


@pytest.fixture
def absent(monkeypatch):
    """Stands for packages that only the app's own data need."""
    for name, holds in {
        "datasets": ["load_dataset"],
        "flwr_datasets": ["FederatedDataset"],
        "flwr_datasets.partitioner": ["IidPartitioner"],
        "torchvision": [],
        "torchvision.transforms": ["Compose", "Normalize", "ToTensor"],
    }.items():
        module = types.ModuleType(name)
        for each in holds:
            setattr(module, each, lambda *_, **__: None)
        monkeypatch.setitem(sys.modules, name, module)


def run(folder, monkeypatch):
    """Run the app of a folder; return its last model, what its nodes keep, and what they met."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "pytorchexample"]:
        del sys.modules[name]
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    client = importlib.import_module("pytorchexample.client_app")
    server = importlib.import_module("pytorchexample.server_app")
    met, train = [], client.train_fn

    def watched(model, *arguments):
        met.append({n: p.detach().numpy().copy() for n, p in model.named_parameters()})
        return train(model, *arguments)

    monkeypatch.setattr(client, "train_fn", watched)
    load = lambda number, nodes, size: (loader(number, 64), loader(100 + number, 32))  # noqa: E731
    monkeypatch.setattr(client, "load_data", load)
    monkeypatch.setattr(server, "load_centralized_dataset", lambda: loader(99, 64))
    config = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    nodes = [{"partition-id": i, "num-partitions": NODES} for i in range(NODES)]
    grid = InProcess(client.app, nodes, config)
    torch.manual_seed(0)
    server.app(grid, Context(1, 1, {}, RecordDict(), config))
    return torch.load("final_model.pt"), grid, met


@pytest.mark.usefixtures("absent")
def test_five_lines_of_change(tmp_path, monkeypatch):
    added = [line for line in diff().splitlines() if re.match(r"\+(?!\+)", line)]
    assert len(added) == 5
    for name in ("before", "after"):
        shutil.copytree(GIVEN, tmp_path / name)
    ended = subprocess.run(
        ["patch", "-p1"], input=diff(), cwd=tmp_path / "after", capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout
    before, grid, met = run(tmp_path / "before", monkeypatch)
    assert all(not at.state for at in grid.contexts.values())
    assert not any((weights["conv2.weight"] == 0).any() for weights in met)
    after, grid, met = run(tmp_path / "after", monkeypatch)
    assert before.keys() == after.keys()
    assert all(torch.isfinite(x).all() for x in after.values())
    first, second, _ = (met[i : i + NODES] for i in (0, NODES, 2 * NODES))
    zeros = [{n: int((x == 0).sum()) for n, x in weights.items()} for weights in first + second]
    half = {"conv2.weight": met[0]["conv2.weight"].size // 2}
    nothing = dict.fromkeys(met[0], 0)
    assert zeros == [nothing] * NODES + [nothing | half] * NODES
    masked = [dict(at.state[RECORD]) for at in grid.contexts.values() if RECORD in at.state]
    assert masked == [{"masked": [2], "whole": []}] * NODES
    assert all(set(at.state[GRADIENT]) == {"conv2.weight"} for at in grid.contexts.values())
