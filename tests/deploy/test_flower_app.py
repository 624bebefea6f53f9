"""``lipsjax deploy``: what an app carries over, that it runs, and what is refused."""

import json
import os
import subprocess
import sys
import tomllib

import jax
import numpy as np
import pytest

from helpers.commands import call, refusal
from lipsjax import datasets
from lipsjax.deploy.flower import app
from lipsjax.deploy.flower.masks import mask
from lipsjax.models import weights
from lipsjax.runs.config import Config, Execution
from lipsjax.runs.data import share_out
from lipsjax.runs.study import expand, load_study

pytest.importorskip("safetensors")
pytestmark = pytest.mark.whole

STUDY = """
name = "Three sites"
seeds = 2

[config]
dataset = "synthetic"
rounds = {rounds}
partition = {{ clients = 3, train_examples = 10, test_examples = 10 }}
model = {{ name = "cnn", width = 3{model} }}
local = {{ epochs = 2, batch_size = 4{local} }}
{more}
[arms.dense]
[arms.lips]
sparsity = {{ every = 1, density = 0.4{sparsity} }}
"""


def study(folder, *, rounds=2, model="", local="", more="", sparsity=""):
    path = folder / "study.toml"
    said = {"rounds": rounds, "model": model, "local": local, "more": more, "sparsity": sparsity}
    path.write_text(STUDY.format(**said))
    return path


def deploy(folder, *options, **changes):
    return call("deploy", "flower", str(study(folder, **changes)), str(folder / "app"), *options)


def simulate(folder):
    """The app's README command, in this environment; returns its last model."""
    environment = {**os.environ, "JAX_ENABLE_X64": "0"}
    ended = subprocess.run(
        [sys.executable, "simulate.py"],
        cwd=folder / "app",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count(": accuracy 0.") == 2, ended.stdout
    return weights.read(folder / "app" / "final.safetensors").arrays


def settings(folder):
    about = tomllib.loads((folder / "app" / "pyproject.toml").read_text())
    return about["tool"]["flwr"]["app"]["config"]


def test_what_an_app_carries_over(tmp_path):
    changes = {"local": ", weight_decay = 0.01, schedule = 'cosine'", "model": ", norm = 'group'"}
    ended = deploy(tmp_path, "--seed", "1", **changes)
    assert ended.status == 0, ended
    assert "the arm lips, seed 1, 3 sites, masking conv1.weight, conv2.weight, conv3" in ended.out
    found = settings(tmp_path)
    wanted = {
        **{"num-server-rounds": 2, "seed": 1, "sites": 3, "cohort": 3, "strategy": "fedavg"},
        **{"model": "cnn", "width": 3, "norm": "group", "classes": 4, "input-shape": "[8, 8, 1]"},
        **{"local-epochs": 2, "batch-size": 4, "learning-rate": 0.05, "rate-schedule": "cosine"},
        **{"optimizer": "sgd", "optimizer-options": '{"momentum": 0.9}', "weight-decay": 0.01},
        **{"density": 0.4, "every": 1, "density-schedule": "linear", "criterion": "saliency"},
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found["masked"] == "conv1.weight,conv2.weight,conv3.weight"
    page = (tmp_path / "app" / "README.md").read_text()
    assert "cnn on synthetic, 3 sites, 2 rounds" in page
    assert page.count("$") == page.count("$PWD") == 1
    held = weights.read(tmp_path / "app" / "model.safetensors").arrays
    assert held["conv1.weight"].shape == (6, 3, 3, 3)


def test_files_of_sites_hold_what_the_partition_gives_them(tmp_path):
    """Arrays as they are, and positions by which users of Flower Datasets select the same."""
    assert deploy(tmp_path).status == 0
    config = expand(load_study(tmp_path / "study.toml"))[2].config
    dataset = datasets.load("synthetic")
    parts = share_out(config, dataset).partition
    files = sorted((tmp_path / "app" / "sites").glob("*.npz"))
    assert [file.name for file in files] == ["0-site0.npz", "1-site1.npz", "2-site2.npz"]
    for number, file in enumerate(files):
        held, index = np.load(file), json.loads(file.with_suffix(".json").read_text())
        assert index["train"] == parts.train[number].tolist()
        for split in ("train", "test"):
            examples = getattr(dataset, split)
            assert np.array_equal(held[f"y_{split}"], examples.labels[index[split]])
            inputs = examples.inputs[index[split]]
            scale = 255 if inputs.dtype == np.uint8 else 1
            assert np.allclose(held[f"x_{split}"], inputs / scale, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "norm"), [("dense", "batch"), ("lips", "batch"), ("lips", "none")])
def test_an_app_of_flax_is_the_run(arm, norm, tmp_path):
    """Of its own README command, in float32: two rounds, the second of which begins masked."""
    pytest.importorskip("flwr")
    changes = {"model": f", norm = '{norm}'"}
    ended = deploy(tmp_path, "--client", "flax", "--arm", arm, **changes)
    assert ended.status == 0, ended
    found = simulate(tmp_path)
    (trial, *_) = [t for t in expand(load_study(tmp_path / "study.toml")) if t.arm == arm]
    with jax.enable_x64(False):
        prepared = app.prepare(trial.config, Execution(devices=1))
        sim = prepared.simulation
        state, _ = sim.run(sim.init(jax.random.key(0)), sim.place(prepared.data), 2)
        wanted = weights.to_arrays(jax.tree.map(np.asarray, state.global_model))
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": ", norm = 'none'", "local": ", optimizer = 'adam', options = {}"},
        {"more": "strategy = { name = 'fedprox', options = { mu = 0.1 } }"},
        {
            "model": ", norm = 'group'",
            "more": "strategy = { name = 'fedavgm', cohort = 2 }",
            "sparsity": ", gradient = 'stored'",
        },
    ],
    ids=["sgd", "adam", "fedprox", "fedavgm"],
)
def test_an_app_of_pytorch_runs(changes, tmp_path):
    pytest.importorskip("flwr")
    pytest.importorskip("torch")
    assert deploy(tmp_path, **changes).status == 0
    found, begun = simulate(tmp_path), weights.read(tmp_path / "app" / "model.safetensors").arrays
    assert found.keys() == begun.keys()
    assert all(np.isfinite(x).all() for x in found.values())
    assert not np.allclose(found["conv1.weight"], begun["conv1.weight"])


REFUSED = {
    "a strategy": ({"more": "strategy.name = 'scaffold'"}, ["'scaffold'", "fedavg, fedprox"]),
    "an adaptive server": (
        {"more": "strategy.name = 'fedadam'"},
        ["'fedadam'", "corrects the bias"],
    ),
    "momentum of statistics": (
        {"more": "strategy.name = 'fedavgm'"},
        ["'fedavgm'", "model.norm='batch'", "group, none"],
    ),
    "compression": (
        {"more": "strategy = { compression = 'top_k', compression_options = { fraction = 0.1 } }"},
        ["strategy.compression='top_k'", "cannot be carried over"],
    ),
    "a median": ({"more": "strategy.aggregation = 'median'"}, ["strategy.aggregation='median'"]),
    "own statistics": ({"more": "strategy.norm = 'local'"}, ["strategy.norm='local'"]),
    "privacy": ({"more": "privacy = { clip = 1.0, epsilon = 8.0 }"}, ["privacy.clip=1.0"]),
    "secure sums": ({"more": "secure.bits = 16"}, ["secure.bits=16"]),
    "a deadline": (
        {"more": 'sites = { devices = ["pi-4"], deadline = 9.0 }'},
        ["sites.deadline=9.0 cannot be carried over to Flower"],
    ),
    "faults": ({"more": "faults.clients = 1"}, ["faults.clients=1"]),
    "dropout": (
        {"more": "participation.dropout = 0.5", "sparsity": ", gradient = 'stored'"},
        ["participation.dropout=0.5"],
    ),
    "augmentation": ({"local": ", augmentation = ['flip']"}, ["local.augmentation=('flip',)"]),
    "fine-tuning": ({"more": "evaluation.tune_epochs = 2"}, ["evaluation.tune_epochs=2"]),
    "bfloat16": ({"model": ", dtype = 'bfloat16'"}, ["model.dtype='bfloat16'"]),
    "a criterion": ({"sparsity": ", criterion = 'random'"}, ["'random'", "saliency, magnitude"]),
    "fresh gradients": ({"sparsity": ", gradient = 'fresh'"}, ["'fresh'", "last_local, stored"]),
    "shared masks": ({"sparsity": ", sharing = 'shared'"}, ["sharing='shared'", "client"]),
    "held masks": ({"sparsity": ", hold = 2"}, ["sparsity.hold=2", "allowed is 0"]),
    "a refill": ({"sparsity": ", refill = 'init'"}, ["sparsity.refill='init'", "zero"]),
    "an optimizer": (
        {"local": ", optimizer = 'adamw', options = {}"},
        ["'adamw'", "sgd, adam, or --client flax"],
    ),
    "an option": (
        {"local": ", optimizer = 'adam', options = { eps_root = 1e-8 }"},
        ["eps_root of adam", "b1, b2, eps"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_carried_over(case, tmp_path):
    """Also where the run itself is possible: nothing is left out in silence."""
    changes, parts = REFUSED[case]
    refusal(deploy(tmp_path, **changes), *parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.toml"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--arm", "nope"], ["--arm must be one of dense, lips", "'nope'"]),
        (["--seed", "7"], ["--seed must be in 0..1", "not 7"]),
        (["--cell", "1"], ["--cell must be in 0..0", "not 1"]),
        (["--client", "keras"], ["--client", "'keras'", "torch", "flax"]),
        (["--lient", "flax"], ["unknown option '--lient'", "did you mean --client"]),
    ],
)
def test_what_is_not_in_a_study(options, parts, tmp_path):
    refusal(deploy(tmp_path, *options), *parts)
    assert not (tmp_path / "app").exists()


def test_which_arm_must_be_said_where_several_are_sparse(tmp_path):
    path = study(tmp_path)
    path.write_text(path.read_text() + "[arms.rare]\nsparsity = { every = 2 }\n")
    ended = call("deploy", "flower", str(path), str(tmp_path / "app"))
    refusal(ended, "--arm must say which of dense, lips, rare: 2 of them")


def test_models_without_a_twin_are_refused_of_pytorch_alone(tmp_path):
    path = study(tmp_path, rounds=1)
    path.write_text(path.read_text().replace('"cnn", width = 3', '"vgg5"'))
    argv = ("deploy", "flower", str(path), str(tmp_path / "app"))
    refusal(call(*argv), "model.name='vgg5'", "mlp, cnn, or --client flax")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "mine.txt").write_text("mine")
    refusal(deploy(tmp_path), "app must be a new folder or an empty one")
    assert [path.name for path in (tmp_path / "app").iterdir()] == ["mine.txt"]
    refusal(call("deploy", "fedml", "STUDY.toml", "app"), "'fedml'", "flower")
    refusal(call("deploy", "flower", str(tmp_path / "no.toml"), "app"), "no.toml", "no such file")


def test_nothing_is_left_of_an_app_that_could_not_be_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(app, "write_model", full)
    refusal(deploy(tmp_path), "no space left on device")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.toml"]


def test_masks_of_a_round_as_a_file(tmp_path):
    rng = np.random.default_rng(0)
    held = {"a": rng.normal(size=(3, 4)).astype(np.float32), "b": np.ones(3, np.float32)}
    given = {"a": rng.normal(size=(3, 4)).astype(np.float32)}
    files = [str(tmp_path / name) for name in ("w.safetensors", "g.safetensors", "m.safetensors")]
    weights.write(files[0], held)
    weights.write(files[1], given)
    ended = call("deploy", "masks", *files, "--density", "0.3")
    assert ended.status == 0, ended
    assert "masks of 1 arrays, which keep 3 of 12 weights" in ended.out
    found = weights.read(files[2]).arrays
    assert found.keys() == {"a"}
    assert np.array_equal(found["a"], mask(held["a"], given["a"], 0.3))
    refusal(call("deploy", "masks", *files, "--density", "0"), "density must be in (0, 1], not 0.0")
    weights.write(files[1], {"c": given["a"]})
    refusal(call("deploy", "masks", *files), "a gradient of 'c'", "a, b")
    refusal(call("deploy", "masks", files[0], "no", files[2]), "no cannot be read: no such file")


def test_defaults_of_strategies_are_the_simulators():
    """What a study leaves to the strategy is written out."""
    import inspect

    from lipsjax import strategies
    from lipsjax.deploy.flower.settings import settings_of
    from lipsjax.runs.config import ModelConfig, StrategyConfig

    def of(name):
        return settings_of(
            Config(strategy=StrategyConfig(name=name), model=ModelConfig(norm="group")), "torch"
        )

    def default(factory, option):
        return inspect.signature(factory).parameters[option].default

    assert of("fedprox")["proximal-mu"] == default(strategies.fedprox, "mu")
    for option in ("server_learning_rate", "server_momentum"):
        found = of("fedavgm")[option.replace("_", "-")]
        assert found == default(strategies.fedavgm, option)
