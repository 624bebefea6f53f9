"""Calls the commands in this process, as a shell would, and says how they ended."""

import contextlib
import importlib
import io
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from helpers.options import last_of_each
from lipsjax.experiments import command
from lipsjax.recording.checkpoints import Checkpoints
from lipsjax.runs import startup

TINY = (
    *("--dataset", "synthetic", "--rounds", "6", "--rounds-per-call", "2", "--devices", "1"),
    *("--partition.clients", "3", "--partition.train-examples", "20"),
    *("--model.width", "2", "--local.epochs", "1", "--evaluation.global-examples", "50"),
)
ARMS = ("--arms", "dense", "lips")
"""Of a study: half of the default arms, in half of the time."""
MLP = ("--model.name", "mlp", "--model.depth", "1", "--sparsity.kinds", "dense", *ARMS)
"""Of a study: what compiles most quickly and has something to mask."""


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def call(name: str, *argv: str) -> Ended:
    """Calls a command with the last of each option, as tests replace defaults."""
    return call_as_given(name, *last_of_each(argv))


def call_as_given(name: str, *argv: str) -> Ended:
    """Calls a command; JAX has started before, so its settings are left alone."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    main = importlib.import_module(f"lipsjax.experiments.{name}").main
    with (
        mock.patch.object(startup, "start_jax"),
        mock.patch("sys.argv", [name, *argv]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            command.guarded(main)
        except SystemExit as end:
            status = end.code
    return Ended(status, out.getvalue(), err.getvalue())


def run(out: Path, *argv: str) -> Ended:
    """Calls ``run`` on a tiny config."""
    return call("run", *TINY, "--out", str(out), *argv)


def run_dir(out: Path) -> Path:
    """Returns the one run directory."""
    (found,) = out.glob("runs/[!.]*")
    return found


def files(folder: Path) -> dict[str, bytes]:
    """Returns what is equal in bits for equal configs and plans."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("timings.jsonl", ".lock", "study.json")
    }


class StoppedError(BaseException):
    """Stands for what stops a run: no command catches it."""


def stop_at_save(out: Path, count: int, *argv: str) -> Path:
    """Runs until a checkpoint is about to be written, after the metrics were."""
    save, saved = Checkpoints.save, []

    def stop(self, rounds, state):
        saved.append(rounds)
        if len(saved) == count:
            raise StoppedError
        save(self, rounds, state)

    with mock.patch.object(Checkpoints, "save", stop), pytest.raises(StoppedError):
        run(out, *argv)
    return run_dir(out)


def refusal(ended, *parts):
    """Holds a command to one line on stderr and status 2; returns the line."""
    assert ended.status == 2, ended
    assert ended.err.startswith("error: "), ended
    assert ended.err.count("\n") == 1, ended
    assert "Traceback" not in ended.out, ended
    for part in parts:
        assert part in ended.err
    return ended.err


def nothing_left(out):
    """Tells that no run directory, no study and no temporary was left."""
    return not [path for path in out.rglob("*") if path.is_file() or path.parent.name == "runs"]
