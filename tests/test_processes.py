"""Two processes, each with its own clients' examples, do what one does; one goes on alone."""

import pickle
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from lipsjax import simulation
from lipsjax.local import LocalTraining
from processes import HALF, ROUNDS, case
from worlds import assert_close, simulate

SCRIPT = Path(__file__).parent / "processes.py"


def in_two_processes(name, file):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, SCRIPT, address, "2"]
    both = [
        subprocess.Popen([*command, str(i), file, name], stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
    return pickle.loads(file.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "lips", "fresh"])
def test_two_processes_are_one(name, tmp_path):
    half, metrics = in_two_processes(name, tmp_path / "half")
    model, strategy, data, options = case(name)
    alone = simulate(model, strategy, data, rounds=HALF, total=ROUNDS, devices=2, **options)
    assert_close(half, alone[0])
    jax.tree.map(np.testing.assert_array_equal, half["bits"], alone[0]["bits"])
    assert_close(metrics, alone[1])

    whole = simulate(model, strategy, data, rounds=ROUNDS, devices=2, **options)[0]
    sim = simulation.build(
        model,
        strategy,
        LocalTraining(optax.sgd(0.1, momentum=0.9), 2, 4),
        rounds=ROUNDS,
        data=data,
        mesh=simulation.client_mesh(1),
        **options,
    )
    key = jax.random.key(1)
    state, _ = sim.run(sim.from_host(half, key), key, sim.place(data), ROUNDS - HALF)
    assert_close(sim.to_host(state, key), whole)
