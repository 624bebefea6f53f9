"""Write a Flower app that carries a run over: model, partition, settings, and the mod itself."""

import json
import re
import shutil
import tempfile
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import jax
import numpy as np

import lipsjax
from lipsjax.deploy.flower.settings import settings_of
from lipsjax.models import weights
from lipsjax.recording.files import naming, write_json
from lipsjax.runs.config import Config, Execution
from lipsjax.runs.data import share_out
from lipsjax.runs.dataset import load_for
from lipsjax.runs.prepare import Prepared, prepare
from lipsjax.types import Variables

HERE = Path(__file__).parent
COPIED = ("masks.py", "mod.py", "server.py", "inprocess.py")
"""Files of this folder that an app has as they are, in lips_app/lips."""
OF_APP = ("client_app.py", "server_app.py", "sites.py")
NEEDS = {"torch": '"torch>=2.6"', "flax": '"lipsjax"'}


class Written(NamedTuple):
    """What an app was made with."""

    sites: int
    masked: tuple[str, ...]  # names of arrays


def write_app(
    folder: Path, config: Config, execution: Execution, *, client: str, arm: str, study: str
) -> Written:
    """Write an app to a folder that is not there yet, or is empty.

    Args:
      folder: of the app; it is there whole or not at all.
      config: of one run, its seed included.
      execution: says where data lie.
      client: torch or flax.
      arm: what the config is called in its study.
      study: what that is called.

    Raises:
      ValueError: for what cannot be carried over, cannot be run, or a folder that holds something.
    """
    settings = settings_of(config, client)
    check_folder(folder)
    prepared = prepare(config, execution)
    names = array_names(prepared, client)
    masked = masked_names(prepared, names)
    settings["classes"] = prepared.setup["num_classes"]
    settings["input-shape"] = json.dumps(list(prepared.data.train.inputs.shape[1:]))
    if masked:
        settings["masked"] = ",".join(masked)
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _write_code(made, client)
            _write_texts(made, settings, prepared, client=client, arm=arm, study=study)
            write_sites(made / "sites", prepared)
            write_indices(made / "sites", prepared, execution)
            write_model(made / "model.safetensors", prepared, client)
            made.chmod(0o755)
            made.replace(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return Written(settings["sites"], masked)


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
      ValueError: naming it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} must be a new folder or an empty one, and it holds something")


def initial_model(prepared: Prepared) -> Variables:
    """Return the global model before the first round."""
    key = jax.random.key(prepared.config.seed)
    return jax.tree.map(np.asarray, prepared.simulation.init(key).global_model)


def array_names(prepared: Prepared, client: str) -> dict[str, str]:
    """Return what each array of a model is called here -> what it is called at the client."""
    model = initial_model(prepared)
    return dict(zip(weights.to_arrays(model), _arrays(prepared, model, client), strict=True))


def _arrays(prepared: Prepared, model: Variables, client: str) -> dict[str, np.ndarray]:
    """Return a model's arrays in the client's names and layout."""
    if client == "flax":
        return weights.to_arrays(model)
    shape = tuple(prepared.data.train.inputs.shape[1:])
    names, flattened = weights.conventions(prepared.config.model.name, shape)
    return weights.to_arrays(model, layout="torch", names=names, flattened=flattened)


def masked_names(prepared: Prepared, names: dict[str, str]) -> tuple[str, ...]:
    """Return what the arrays are called that transient sparsity masks; none without it."""
    sparsifier = prepared.simulation.spec.sparsifier
    layers = () if sparsifier is None else sparsifier.layers
    return tuple(names["/".join(("params", *layer.path))] for layer in layers)


def write_model(path: Path, prepared: Prepared, client: str) -> None:
    """Write the initial global model as safetensors, in the client's names and layout."""
    weights.write(path, _arrays(prepared, initial_model(prepared), client))


def site_files(prepared: Prepared) -> list[str]:
    """Return what the files of sites are called, in their order, without a suffix."""
    count = prepared.config.partition.clients
    names = prepared.setup["site_names"] or [f"site{i}" for i in range(count)]
    digits = len(str(count - 1))
    plain = [re.sub(r"[^\w.-]+", "-", str(name)) for name in names[:count]]
    return [f"{i:0{digits}}-{name}" for i, name in enumerate(plain)]


def write_sites(folder: Path, prepared: Prepared) -> None:
    """Write what each site holds, NAME.npz: inputs as the model reads them, and labels."""
    folder.mkdir(exist_ok=True)
    data = prepared.data
    for site, name in enumerate(site_files(prepared)):
        held = {}
        for split, index, mask in (
            ("train", data.train_index, data.train_mask),
            ("test", data.test_index, data.test_mask),
        ):
            pool, rows = getattr(data, split), index[site][mask[site]]
            held[f"x_{split}"] = as_read(pool.inputs[rows], prepared)
            held[f"y_{split}"] = np.asarray(pool.labels[rows], np.int64)
        np.savez_compressed(folder / f"{name}.npz", **held)


def as_read(inputs: np.ndarray, prepared: Prepared) -> np.ndarray:
    """Return inputs as the first layer reads them: float32, of images in bytes over 255."""
    scaled = inputs.astype(np.float32)
    if np.issubdtype(inputs.dtype, np.integer):
        scaled = scaled / np.float32(255)
    if prepared.normalise is None:
        return scaled
    mean, deviation = (np.asarray(x, np.float32) for x in prepared.normalise)
    return (scaled - mean) / np.where(deviation > 0, deviation, np.float32(1))


def has_indices(config: Config) -> bool:
    """Tell whether positions in the data set as it is loaded say what a site holds.

    Sites that the data name are parted into training and test anew, unless the data say how.
    """
    return config.partition.kind != "natural" or config.partition.split == "given"


def write_indices(folder: Path, prepared: Prepared, execution: Execution) -> None:
    """Write which examples each site holds, NAME.json: positions in the data set's two splits."""
    if not has_indices(prepared.config):
        return
    folder.mkdir(exist_ok=True)
    dataset, fingerprint = load_for(prepared.config, execution.data_dir)
    parts = share_out(prepared.config, dataset).partition
    for site, name in enumerate(site_files(prepared)):
        held = {"dataset": dataset.name, "fingerprint": fingerprint}
        for split in ("train", "test"):
            held[split] = np.asarray(getattr(parts, split)[site]).tolist()
        write_json(folder / f"{name}.json", held)


def _write_code(made: Path, client: str) -> None:
    """Write the app's Python, which is that of this package's folder."""
    package = made / "lips_app"
    (package / "lips").mkdir(parents=True)
    (package / "__init__.py").write_text('"""A Flower app made by lipsjax."""\n')
    (package / "lips" / "__init__.py").write_text('"""Transient sparsity, as in lipsjax."""\n')
    for name in COPIED:
        shutil.copyfile(HERE / name, package / "lips" / name)
    for name in OF_APP:
        shutil.copyfile(HERE / "template" / name, package / name)
    shutil.copyfile(HERE / "template" / f"task_{client}.py", package / "task.py")
    shutil.copyfile(HERE / "template" / "simulate.py", made / "simulate.py")


def _write_texts(
    made: Path, settings: dict[str, Any], prepared: Prepared, *, client: str, arm: str, study: str
) -> None:
    """Write pyproject.toml and README.md."""
    config, is_torch = prepared.config, client == "torch"
    said = {
        "arm": arm,
        "study": study,
        "version": lipsjax.__version__,
        "description": _toml(f"A Flower app of the arm {arm} of {study}, by lipsjax"),
        "needs": NEEDS[client],
        "config": "\n".join(f"{name} = {_toml(value)}" for name, value in settings.items()),
        "seed": config.seed,
        "model": config.model.name,
        "dataset": prepared.setup.get("dataset", config.dataset),
        "sites": settings["sites"],
        "rounds": config.rounds,
        "strategy": config.strategy.name,
        "lips": "" if config.sparsity is None else " with transient sparsity (LIPS)",
        "client": "PyTorch's" if is_torch else "Flax's",
        "needs_more": ""
        if is_torch
        else " lipsjax itself is needed too: install it from its clone before.",
        "index": "| `sites/*.json` | which examples of the data set these are, by position |\n"
        if has_indices(config)
        else "",
        "draws": " Mini-batches are drawn\nby the same rule from another generator."
        if is_torch
        else "",
    }
    for name in ("pyproject.toml", "README.md"):
        file = (HERE / "template" / name).with_suffix(".template")
        text = Template(file.read_text(encoding="utf-8"))
        (made / name).write_text(text.substitute(said), encoding="utf-8")


def _toml(value: Any) -> str:
    """Return a value as TOML writes it, which for texts, numbers and truth is nearly JSON."""
    return json.dumps(value)
