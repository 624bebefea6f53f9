"""Stands for training: a run is there at once, with the accuracy that a test asks for."""

import contextlib
import json
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np

from helpers.fake_study import _curves, _write_run
from lipsjax.recording import BEHAVIOUR
from lipsjax.runs import trial as trials
from lipsjax.runs.config import Config, to_dict
from lipsjax.runs.dataset import load_for

FAKE = (
    *("--dataset", "synthetic", "--rounds", "3", "--partition.clients", "3", "--workers", "1"),
    *("--partition.train-examples", "20", "--evaluation.global-examples", "50"),
)
"""Of a study whose runs are fake."""


class KilledError(BaseException):
    """Stands for what ends a command: nothing catches it."""


@contextlib.contextmanager
def fake_runs(
    accuracy: Callable[[Config], float | None], *, most: int = 10**6
) -> Iterator[list[Config]]:
    """Trains nothing: a run ends with an accuracy, and diverges where that is None.

    Args:
      accuracy: of a config, personalised and global; a share.
      most: runs after which the command is killed.

    Yields:
      The configs of the runs that were done.
    """
    done: list[Config] = []

    def run_trial(config, execution, *_):
        folder = trials.run_dir_of(config, execution)
        if (folder / "diverged.json").exists():
            raise trials.DivergedError("as before")
        if len(done) == most:
            raise KilledError
        done.append(config)
        end = accuracy(config)
        fingerprint = load_for(config, execution.data_dir)[1]
        _write(folder, config, fingerprint, end)
        if end is None:
            raise trials.DivergedError("made up")

    with mock.patch.object(trials, "run_trial", run_trial):
        yield done


def _write(folder, config, fingerprint, end):
    """Writes a run that ends with an accuracy; one that diverged, if that is None."""
    curves = _curves(
        config.rounds,
        level=0.5,
        gain=0.0,
        unstick=1.0,
        bits_ratio=1.0,
        evaluate_every=1,
        rng=np.random.default_rng(0),
        sparse=config.sparsity is not None,
    )
    for row in curves:
        row |= dict.fromkeys(("accuracy_dense", "global_accuracy"), 0.5 if end is None else end)
    _write_run(
        folder,
        config=config,
        counts=np.full((config.partition.clients, 10), 6),
        curves=curves,
        test_examples=10_000,
        seconds=60.0,
        finished=end is not None,
    )
    recorded = {
        "behaviour": BEHAVIOUR,
        "config": to_dict(config),
        "data_fingerprint": fingerprint,
    }
    (folder / "config.json").write_text(json.dumps(recorded))
    if end is None:
        (folder / "diverged.json").write_text('{"reason": "made up"}')
