"""The global model of a run, in and out of safetensors."""

import json
import shutil

import jax
import numpy as np
import pytest

from helpers import commands
from helpers.commands import call, refusal
from lipsjax import recording
from lipsjax.models import weights
from lipsjax.recording.checkpoints import read_global_model

pytest.importorskip("safetensors")
ONE_A_CALL = ("--rounds-per-call", "1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    assert commands.run(out, "--rounds", "2", *commands.MLP[:4]).status == 0
    return commands.run_dir(out)


@pytest.mark.parametrize("layout", ["flax", "torch"])
def test_what_is_exported_is_the_last_global_model(run, layout, tmp_path):
    file = tmp_path / "model.safetensors"
    ended = call("export", str(run), str(file), "--layout", layout)
    assert ended.status == 0, ended
    assert "the global model after round 2 of 2" in ended.out
    done, model = read_global_model(run)
    assert done == 2
    names, flattened = weights.conventions("mlp", tuple(recording.read(run).setup["input_shape"]))
    again = weights.from_arrays(weights.read(file), model, names=names, flattened=flattened)
    jax.tree.map(np.testing.assert_array_equal, again, model)


@pytest.mark.slow
def test_a_run_begins_where_another_ended(run, tmp_path):
    """The model that is exported in PyTorch's layout is the one that the next run starts from."""
    file, out = tmp_path / "model.safetensors", tmp_path / "out"
    assert call("export", str(run), str(file), "--layout", "torch").status == 0
    begun = ("--model.init", str(file), "--local.learning-rate", "0")
    assert commands.run(out, "--rounds", "1", *commands.MLP[:4], *begun).status == 0
    _, wanted = read_global_model(run)
    _, found = read_global_model(commands.run_dir(out))
    # a mean of equal models, weighted by examples, is they to rounding
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found.params, wanted.params
    )
    about = json.loads((commands.run_dir(out) / "config.json").read_text())
    assert about["parts"].keys() == {"model.init"}
    copied = shutil.copy(file, tmp_path / "copy.safetensors")
    again = ("--model.init", str(copied), "--local.learning-rate", "0")
    ended = commands.run(out, "--rounds", "1", *commands.MLP[:4], *again)
    assert "found finished" in ended.out


@pytest.mark.slow
def test_weights_that_were_written_anew_are_read_anew(run, tmp_path):
    """In one process too, where simulations are kept: a file's name does not say what it holds."""
    file, begun = tmp_path / "w.safetensors", {}
    argv = (*commands.MLP[:4], "--model.init", str(file), "--local.learning-rate", "0")
    arrays = weights.to_arrays(read_global_model(run)[1])
    for factor in (1, 2):
        out = tmp_path / f"out{factor}"
        weights.write(file, {name: np.float32(factor) * x for name, x in arrays.items()})
        assert commands.run(out, "--rounds", "1", *argv).status == 0
        begun[factor] = read_global_model(commands.run_dir(out))[1].params
    jax.tree.map(lambda x, y: np.testing.assert_allclose(2 * x, y, rtol=1e-6), begun[1], begun[2])


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda x: {}, ["lacks"]),
        (lambda x: x | {"more": np.ones(2)}, ["holds more", "does not have"]),
        (lambda x: {n: v[..., :1] for n, v in x.items()}, ["and the model has"]),
        (lambda x: {n: v * np.float32("nan") for n, v in x.items()}, ["holds NaN"]),
        (None, ["cannot be read: no such file"]),
    ],
)
def test_weights_of_another_model_are_refused(change, parts, run, tmp_path):
    file, out = tmp_path / "w.safetensors", tmp_path / "out"
    if change is not None:
        arrays = weights.to_arrays(read_global_model(run)[1])
        weights.write(file, change(arrays))
    argv = ("--model.init", str(file), "--rounds", "1", *commands.MLP[:4])
    refusal(commands.run(out, *argv), "model.init", "w.safetensors", *parts)
    assert not out.exists()


def checkpoints(folder):
    return sorted(folder.glob("checkpoints/*.npz"), key=lambda p: int(p.stem.split("-")[0]))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_kept(tmp_path):
    out = tmp_path / "out"
    assert commands.run(out, "--rounds", "2", *commands.MLP[:4], *ONE_A_CALL).status == 0
    run = commands.run_dir(out)
    first, newest = checkpoints(run)
    newest.write_bytes(b"")
    assert read_global_model(run)[0] == 1
    assert newest.exists()
    first.write_bytes(b"")
    refusal(call("export", str(run), str(tmp_path / "w")), str(run), "no whole checkpoint")
    assert not (tmp_path / "w").exists()


def test_what_cannot_be_exported(tmp_path, run):
    refusal(call("export", str(tmp_path), str(tmp_path / "w")), str(tmp_path), "cannot be read")
    refusal(call("export", str(run), str(tmp_path / "no" / "w")), "no such file or directory")
    refusal(call("export", str(run), "w", "--layout", "keras"), "'keras'", "'flax', 'torch'")
