"""A run whose sparsity inertia triggers: its identity, what it records, and how it goes on."""

import json

import numpy as np
import pytest

from helpers import commands
from lipsjax import models
from lipsjax.runs.config import MODELS, Config, ModelConfig, SparsityConfig, to_dict
from lipsjax.runs.reads import unread
from lipsjax.sparsity.masking import maskable

ADAPTIVE = (
    *("--model.name", "mlp", "--model.depth", "2", "--lips", "--strategy.name", "scaffold"),
    *("--sparsity.trigger", "inertia", "--sparsity.threshold", "-9", "--sparsity.every", "2"),
    *("--sparsity.density", "0.3", "--model.width", "8"),
    *("--rounds-per-call", "1"),  # a plan's bits are its own, and one of two rounds ends on none
)
"""Sparse after rounds 0, 2 and 4; its server must know what clients started from.

At width 2 the first masks end all rectifiers: what moves then is rounding, no layer lags behind
layers that stand still, and whether a round is sparse depends on the processor.
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    ended = commands.run(out, *ADAPTIVE)
    assert ended.status == 0, ended.err
    return out


@pytest.mark.slow
@pytest.mark.whole
def test_what_is_recorded_is_what_was_used(whole):
    folder = commands.run_dir(whole)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    layers = json.loads((folder / "setup.json").read_text())["layers"]
    config = json.loads((folder / "config.json").read_text())["config"]
    assert config["sparsity"]["kinds"] == ["dense"]
    masked = [i for i, layer in enumerate(layers) if layer["role"] == "middle"]
    sizes = np.array([layers[i]["size"] for i in masked])
    clients, began_masked = 3, False
    up = rows[0]["uplink_bits"]
    for row in rows:
        levels, steps = np.array(row["layers"]["density_level"]), np.array(row["layers"]["step"])
        assert np.delete(steps, masked).min() > 1e-3, "the outer layers stand still"
        assert not np.delete(levels, masked).any()
        densities = 1 - 0.7 * levels[masked] / 15
        kept = np.floor(densities * sizes + 1e-9).sum()
        sparse = row["round"] % 2 == 0
        assert levels.any() == sparse
        assert row["density"] == pytest.approx((densities * sizes).sum() / sizes.sum())
        # its server makes out what a masked client began from by a bitmap
        assert row["uplink_bits"] == up + clients * sizes.sum() * began_masked
        down = row["downlink_bits"]
        if sparse:
            down -= clients * (32 * (sizes.sum() - kept) - sizes.sum())
        assert row["downlink_bits_server_masks"] == down
        began_masked = sparse
    assert len({tuple(row["layers"]["density_level"]) for row in rows}) > 2


@pytest.mark.slow
@pytest.mark.whole
def test_it_goes_on_to_the_same_bits(whole, tmp_path):
    """Stopped between a sparse broadcast and the round that begins from it."""
    commands.stop_at_save(tmp_path, 3, *ADAPTIVE)
    assert "goes on after round 2 of 6" in commands.run(tmp_path, *ADAPTIVE).out
    name = f"runs/{commands.run_dir(whole).name}/metrics.jsonl"
    assert commands.files(tmp_path)[name] == commands.files(whole)[name]


def test_runs_without_a_trigger_have_the_identity_that_they_had():
    known = to_dict(Config(sparsity=SparsityConfig()))["sparsity"]
    assert set(known) == {
        *("density", "schedule", "every", "operation", "criterion", "sharing", "scope", "refill"),
        *("hold", "gradient", "kinds"),
    }
    adaptive = to_dict(Config(sparsity=SparsityConfig(trigger="inertia")))["sparsity"]
    assert adaptive == known | {"trigger": "inertia", "threshold": 0.0, "window": 3}


def test_what_a_trigger_does_not_read():
    schedule, inertia = (
        {n for n in unread(Config(sparsity=SparsityConfig(trigger=t))) if "sparsity" in n}
        for t in ("schedule", "inertia")
    )
    assert schedule == {"sparsity.threshold", "sparsity.window"}
    assert inertia == {"sparsity.schedule"}


@pytest.mark.parametrize("name", MODELS.built_in)
def test_kinds_are_recorded_as_they_are_masked(name):
    shape = (40, 3) if name == "conv1d" else (32, 32, 3)
    model = models.build(name, num_classes=10, input_shape=shape)
    config = Config(model=ModelConfig(name=name), sparsity=SparsityConfig())
    kinds = {layer.kind for layer in maskable(model.layers, None)}
    assert kinds == set(to_dict(config)["sparsity"]["kinds"])


@pytest.mark.whole
@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--sparsity.operation", "scale"], ["operation must be mask", "not 'scale'"]),
        (["--sparsity.scope", "erk"], ["scope must be 'layer' with trigger='inertia'", "'erk'"]),
        (["--sparsity.every", "1"], ["every must be at least 2 with trigger='inertia', not 1"]),
        (["--sparsity.threshold", "1.5"], ["threshold must be a number below 1, not 1.5"]),
        (["--sparsity.window", "0"], ["window must be at least 1, not 0"]),
        (["--sparsity.density", "1"], ["density must be in (0, 1)", "not 1.0"]),
        (["--strategy.cohort", "2"], ["gradient='last_local'", "2 of 3"]),
        (["--sparsity.trigger", "clock"], ["trigger", "schedule", "inertia"]),
    ],
)
def test_refused(tmp_path, argv, parts):
    ended = commands.run(tmp_path, *ADAPTIVE, "--strategy.name", "fedavg", *argv)
    commands.refusal(ended, *parts)
    assert commands.nothing_left(tmp_path)
