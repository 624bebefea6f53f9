"""Two processes, each with its own clients' examples, do what one does; one goes on alone."""

import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from helpers import killing
from helpers.commands import MLP
from helpers.options import last_of_each
from helpers.processes import HALF, ROUNDS, case
from helpers.worlds import assert_close, simulate
from lipsjax import recording, simulation
from lipsjax.local import LocalTraining
from lipsjax.runs.config import Execution
from lipsjax.runs.startup import join_processes

SCRIPT = Path(__file__).parents[1] / "helpers" / "processes.py"


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def in_two_processes(name, file):
    command = [sys.executable, SCRIPT, free_address(), "2"]
    both = [
        subprocess.Popen([*command, str(i), file, name], stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
    return pickle.loads(file.read_bytes())


@pytest.mark.whole
@pytest.mark.parametrize(
    "name",
    # dense and sparse rounds; gradients that are summed once more; state at some of the clients
    [
        "lips",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("fresh", "stored", "secure", "private")
        ),
    ],
)
@pytest.mark.slow
def test_two_processes_are_one(name, tmp_path):
    half, metrics = in_two_processes(name, tmp_path / "half")
    model, strategy, data, options = case(name)
    alone, its_metrics, together = simulate(
        model, strategy, data, rounds=HALF, total=ROUNDS, devices=2, **options
    )
    assert_close(half, alone)
    jax.tree.map(np.testing.assert_array_equal, half["packed_masks"], alone["packed_masks"])
    assert_close(metrics, its_metrics)
    if name == "secure":  # integers add up to the same in any order
        jax.tree.map(np.testing.assert_array_equal, half["global_model"], alone["global_model"])

    on_one = simulation.build(
        model,
        strategy,
        LocalTraining(optax.sgd(0.1, momentum=0.9), 2, 4),
        rounds=ROUNDS,
        data=data,
        mesh=simulation.client_mesh(1),
        **options,
    )
    ends = []
    for sim, begun in ((together, alone), (on_one, half)):
        state, _ = sim.run(sim.from_host(begun), sim.place(data), ROUNDS - HALF)
        ends.append(sim.to_host(state))
    assert_close(*ends)


TINY = (*killing.TINY, "--rounds", "30", "--rounds-per-call", "2", "--devices", "2")


def start_two(outs, arguments, of_each=((), ()), **options):
    """Starts a command in two processes."""
    several = ("--coordinator", free_address(), "--processes", "2", "--process")
    return [
        killing.start(outs[i], (*arguments, *of_each[i], *several, str(i)), **options)
        for i in (0, 1)
    ]


def said_by(processes, status=0):
    texts = [process.communicate(timeout=killing.DEADLINE)[0] for process in processes]
    said = [re.sub(r"\[Gloo\].*\n", "", text) for text in texts]
    assert [process.returncode for process in processes] == [status, status], said
    return said


def losses(out):
    return {path.name: recording.read(path).scalars["loss_train"] for path in out.glob("runs/*")}


@pytest.mark.slow
def test_a_sweep_in_two_processes_is_recorded_by_the_first(tmp_path):
    arms = (*TINY, *MLP, "--rounds", "4", "--seeds", "1")
    options = {"cache": tmp_path / "cache", "command": "sweep"}
    both = start_two((tmp_path / "two", tmp_path / "second"), arms, **options)
    first, second = said_by(both)
    assert "report: " in first
    assert second == ""
    assert not (tmp_path / "second").exists()
    alone = killing.start(tmp_path / "one", arms, **options)
    assert "report: " in alone.communicate(timeout=killing.DEADLINE)[0]
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert two.keys() == one.keys()
    assert len(two) == 2
    for name in two:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3)


@pytest.mark.slow
def test_what_two_processes_began_one_ends(tmp_path):
    cache = tmp_path / "cache"
    killing.finish(tmp_path / "whole", TINY, cache=cache)
    both = start_two((tmp_path / "out",) * 2, TINY, cache=cache)
    killing.kill_at(both[0], tmp_path / "out", 2)
    both[1].kill()
    both[1].communicate()
    assert killing.found(tmp_path / "out").saved < 30
    said = killing.finish(tmp_path / "out", TINY, cache=cache)
    assert re.search(r"begun on 2 x cpu in 2 processes, which is not here", said)
    assert re.search(r"goes on after round \d+ of 30", said)
    (ended,), (expected,) = (losses(tmp_path / name).values() for name in ("out", "whole"))
    np.testing.assert_allclose(ended, expected, rtol=1e-3)


@pytest.mark.slow
def test_processes_that_hold_other_data_are_refused(tmp_path):
    arguments = ("--rounds", "2", "--devices", "2")
    each = (("--dataset", "synthetic"), ("--dataset", "digits"))
    both = start_two((tmp_path,) * 2, arguments, each, cache=tmp_path / "cache")
    first, second = said_by(both, status=2)
    assert first == "error: process 1 failed; its own last line says why\n"
    assert second == "error: digits holds other examples here than in process 0\n"


@pytest.mark.parametrize(
    ("options", "environment", "part"),
    [
        ({"processes": 2}, {}, "need --coordinator HOST:PORT"),
        ({"coordinator": "here"}, {}, "coordinator must be HOST:PORT or auto, not 'here'"),
        ({"coordinator": "a:1", "process": 0}, {}, "needs --processes and --process"),
        ({"coordinator": "a:1", "process": 2, "processes": 2}, {}, "must be in 0..1, not 2"),
        ({"coordinator": "a:1", "process": 0, "processes": 0}, {}, "at least 1, not 0"),
        ({"coordinator": "auto"}, {}, "no SLURM, Open MPI or Cloud TPU pod is found"),
        ({}, {"JAX_COORDINATOR_ADDRESS": "a:1"}, "needs --processes and --process"),
        (
            {"process": 0},
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "two"},
            "JAX_NUM_PROCESSES must be a number, not 'two'",
        ),
    ],
)
def test_processes_that_are_not_said_whole(options, environment, part, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=re.escape(part)):
        join_processes(Execution(**options))


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.parametrize("which", [0, 1])
def test_one_that_is_stopped_ends_the_other(which, tmp_path):
    """While both train, so that either may be waiting for the other within a collective."""
    options = last_of_each([*TINY, "--rounds", "3000"])
    common = [sys.executable, "-m", "lipsjax.experiments.run", *options, "--out", tmp_path]
    common += ["--coordinator", free_address(), "--processes", "2", "--process"]
    log = tmp_path / "log"
    with log.open("w") as out:
        both = [
            subprocess.Popen([*common, str(i)], stdout=out, stderr=subprocess.PIPE, text=True)
            for i in range(2)
        ]
        try:
            deadline = time.monotonic() + 120
            while "rounds/s" not in log.read_text() and time.monotonic() < deadline:
                time.sleep(0.2)
            both[which].send_signal(signal.SIGTERM)
            ends = [(p.communicate(timeout=30)[1], p.returncode) for p in both]
        finally:
            for process in both:
                process.kill()
    said, status = ends.pop(which)
    assert said.endswith("stopped; the same command goes on where it was\n")
    assert status == 143
    ((said, status),) = ends
    assert "error: another process of this command has ended" in said
    assert status == 2
