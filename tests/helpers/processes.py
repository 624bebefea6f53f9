"""One of several processes of a run: ``python tests/processes.py ADDRESS COUNT INDEX FILE CASE``.

Runs the first rounds of a case and, in process 0, writes what a checkpoint holds and the metrics.
"""

import pickle
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZES = (9, 4, 12, 7, 5)
HALF, ROUNDS = 3, 6


def case(name, **share):
    """Return the arguments of a simulation: model, strategy, data, and the rest."""
    from helpers import worlds
    from lipsjax import models
    from lipsjax.sparsity import transient_sparsity
    from lipsjax.strategies import fedavg, keep_local, private, secure

    model = worlds.tiny_model()
    dense_layers = {"density": 0.5, "every": 2, "kinds": ("dense",)}
    if name in (
        "lips",
        "secure",
        "private",
    ):  # of layers that compile quickly, as two processes share the cores
        model = models.build(
            "mlp",
            num_classes=4,
            input_shape=worlds.SHAPE,
            width=8,
            param_dtype=np.float64,
            norm="batch" if name == "lips" else "none",
        )
    strategy, options = {
        "dense": (fedavg(), {"cohort_size": 3}),
        "lips": (transient_sparsity(fedavg(), **dense_layers), {}),
        "secure": (transient_sparsity(secure(fedavg(), clip=4.0), **dense_layers), {}),
        "private": (
            transient_sparsity(private(fedavg(), clip=0.5, noise_multiplier=1.0), **dense_layers),
            {},
        ),
        "fresh": (
            transient_sparsity(fedavg(), density=0.5, every=1, gradient="fresh"),
            {"cohort_size": 3, "chunk": 2},
        ),
        "stored": (
            transient_sparsity(
                keep_local(fedavg(), models.is_norm),
                density=0.5,
                every=1,
                gradient="stored",
            ),
            {"cohort_size": 3},
        ),
    }[name]
    return model, strategy, worlds.world(SIZES, **share), options


def main(address, count, index, file, name):
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(address, int(count), int(index))
    from helpers import worlds
    from lipsjax.clients import own_clients

    model, strategy, data, options = case(name, processes=int(count), process=int(index))
    held = sum(SIZES[k] for k in own_clients(len(SIZES), int(count), int(index)))
    assert len(np.unique(data.train.inputs, axis=0)) <= held, "others' examples are here"
    state, metrics, _ = worlds.simulate(
        model, strategy, data, rounds=HALF, total=ROUNDS, devices=int(count), **options
    )
    if jax.process_index() == 0:
        Path(file).write_bytes(pickle.dumps((state, metrics)))


if __name__ == "__main__":
    main(*sys.argv[1:])
