"""Runs in processes of their own, killed at a moment, resumed, and held against a whole one."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from helpers import xla
from helpers.options import last_of_each

TINY = (
    *("--dataset", "synthetic", "--rounds", "150", "--rounds-per-call", "1"),
    *("--partition.clients", "3", "--partition.train-examples", "20"),
    *("--model.width", "8", "--local.epochs", "1", "--evaluation.global-examples", "50"),
)
LIPS = (*TINY, "--lips", "--sparsity.every", "3", "--sparsity.gradient", "stored")
DEADLINE = 300.0  # seconds, after which a process that should have ended has hung


class Found(NamedTuple):
    """What a killed process left."""

    measured: int  # rounds that metrics.jsonl holds
    saved: int  # rounds of the newest checkpoint
    saving: bool  # whether a checkpoint was being written

    def __str__(self) -> str:
        if self.saving:
            where = "in a checkpoint"
        elif self.measured > self.saved:
            where = "between metrics and checkpoint"
        else:
            where = "in a round" if self.saved else "before the first checkpoint"
        return f"{where}, {self.measured} rounds measured, {self.saved} saved"


def start(
    out: Path, arguments: tuple[str, ...], *, cache: Path, command: str = "run"
) -> subprocess.Popen:
    """Starts a command; compiled programs are kept in ``cache``, so that it resumes quickly."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla.quick_flags(),
        **xla.cache_settings(cache),
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    module = f"lipsjax.experiments.{command}"
    return subprocess.Popen(
        [sys.executable, "-m", module, *last_of_each(arguments), "--out", str(out)],
        env=inherited | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(out: Path, arguments: tuple[str, ...], *, cache: Path, command: str = "run") -> str:
    """Runs to the end, or on to it; returns what was printed."""
    with start(out, arguments, cache=cache, command=command) as process:
        text, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, text
    return text


def kill_after(process: subprocess.Popen, out: Path, what: str, seconds: float) -> None:
    """Kills a process some time after something is there in its run directory."""
    wait_for(process, out, what)
    time.sleep(seconds)
    _kill(process)


def kill_at(process: subprocess.Popen, out: Path, rounds: int) -> None:
    """Kills a process as soon as there is a checkpoint of so many rounds."""
    wait_for(process, out, "checkpoints")
    _wait(process, lambda: found(out).saved >= rounds)
    _kill(process)


def kill_in_checkpoint(process: subprocess.Popen, out: Path, *, skip: int) -> None:
    """Kills a process while it writes a checkpoint, after it was seen to write some."""
    wait_for(process, out, "checkpoints")
    (folder,) = out.glob("runs/[!.]*/checkpoints")
    for _ in range(skip):
        _wait(process, lambda: not _is_saving(folder))
        _wait(process, lambda: _is_saving(folder))
    _kill(process)


def wait_for(process: subprocess.Popen, out: Path, what: str) -> None:
    """Waits until something is there in the run directory."""
    _wait(process, lambda: any(out.glob(f"runs/[!.]*/{what}")))


def found(out: Path) -> Found:
    """Reads what a killed process left."""
    (run,) = out.glob("runs/[!.]*") if (out / "runs").is_dir() else (out,)
    metrics = run / "metrics.jsonl"
    saved = [int(path.stem.partition("-")[0]) for path in run.glob("checkpoints/*.npz")]
    return Found(
        measured=metrics.read_bytes().count(b"\n") if metrics.exists() else 0,
        saved=max(saved, default=0),
        saving=any(run.glob("checkpoints/.*.tmp")),
    )


def resumed(text: str) -> str:
    """Returns from where a run said to go on."""
    if "found finished" in text:
        return "was finished"
    said = re.search(r"goes on after round (\d+)", text)
    return f"went on after round {said[1]}" if said else "began again"


def content(out: Path) -> dict[str, bytes]:
    """Returns the files of a run that are equal in bits for equal configs and plans."""
    (run,) = out.glob("runs/[!.]*")
    plan = json.loads((run / "plan.json").read_text())
    files = ["config.json", "setup.json", "metrics.jsonl", "metrics.csv", "summary.json"]
    files += [str(path.relative_to(run)) for path in run.glob("checkpoints/*")]
    return {name: (run / name).read_bytes() for name in files} | {"plan": repr(plan).encode()}


def _is_saving(folder: Path) -> bool:
    return any(folder.glob(".*.tmp"))


def _wait(process: subprocess.Popen, is_so) -> None:
    end = time.monotonic() + DEADLINE
    while not is_so():
        if process.poll() is not None:
            raise AssertionError(f"it ended before it could be killed: {process.stdout.read()}")
        if time.monotonic() > end:
            raise AssertionError(f"not seen in {DEADLINE} s")


def _kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()
