"""What recorded figures are held to: some forty configurations, five rounds each.

``python tests/helpers/equality.py`` records them all, in some minutes, and says how far each is
from those of version 0.1.0 in ``tests/rounds/data/behaviour_1.npz``: the same configurations in
float64, recorded at commit cc7b802, where strategies were told learning rate, layers, rounds and
cohort by hand. ``--record OUT.npz [float64|float32]`` records them for another commit.

Six are far from it. 0.1 was wrong in moon, ifa, feddst, constant_topk and dsd (CHANGELOG, behaviour
3). In sign_majority the gradient of a bias before normalisation is nothing but rounding, and its
sign is a vote.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4", "JAX_ENABLE_X64": "1"}
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
import optax

from helpers.worlds import tiny_model, world
from lipsjax import fedavg, keep_local, models, simulation, strategies, transient_sparsity
from lipsjax.local import LocalTraining
from lipsjax.rounds import Participation
from lipsjax.sparsity import transient_shrink

RECORDED = Path(__file__).resolve().parents[1] / "rounds" / "data" / "behaviour_1.npz"
SIZES, ROUNDS = [9, 2, 6, 5, 7, 8], 5


def lips(strategy=None, **options):
    inner = fedavg() if strategy is None else strategy
    return transient_sparsity(inner, **{"density": 0.4, "every": 2, **options})


def fedbn():
    return keep_local(fedavg(), models.is_norm)


def top_k(strategy, fraction):
    return strategies.compress(strategy, strategies.top_k(fraction=fraction))


def faulty(kind):
    return strategies.faulty(fedavg(), clients=2, kind=kind, num_classes=4)


HALF = {"cohort_size": 3}
CASES = {
    "dense": (fedavg(), {}),
    "lips last_local": (lips(), {}),
    "lips fresh": (lips(gradient="fresh"), HALF),
    "lips stored": (lips(gradient="stored"), HALF),
    "lips shared global": (lips(sharing="shared", scope="global"), {}),
    "lips held noise erk": (lips(fedbn(), hold=2, refill="noise", scope="erk"), {}),
    "lips random init": (lips(criterion="random", refill="init", kinds=("conv", "dense")), {}),
    "shrink and perturb": (transient_shrink(fedavg(), density=0.4, every=2, perturb=True), {}),
    "scaffold": (strategies.scaffold(), {}),
    "scaffold of a cohort": (strategies.scaffold(), HALF),
    "feddyn": (strategies.feddyn(alpha=0.1), {}),
    "feddyn of a cohort": (strategies.feddyn(alpha=0.1), HALF),
    "fednova": (strategies.fednova(), {}),
    "fedprox": (strategies.fedprox(mu=0.1), {}),
    "moon": (strategies.moon(), {}),
    "fedadam": (strategies.fedadam(), {}),
    "fedavgm": (strategies.fedavgm(), {}),
    "ditto": (strategies.ditto(lam=0.5), {}),
    "fedbn": (fedbn(), {}),
    "fedper": (strategies.fedper(), {}),
    "fedrep": (strategies.fedrep(), {}),
    "fedbabu": (strategies.fedbabu(), {"tune_epochs": 2, "new_clients": 1}),
    "local": (strategies.local(), {}),
    "fedpart": (strategies.fedpart(full_rounds=1, rounds_per_layer=1, full_between=1), {}),
    "ifa": (strategies.ifa(every=2, fraction=0.3), {}),
    "feddst": (strategies.feddst(density=0.5, every=2, fraction=0.3), {}),
    "constant_topk": (strategies.constant_topk(), {}),
    "dsd": (strategies.dsd(), {}),
    "top_k": (top_k(fedavg(), 0.1), {}),
    "quantise": (strategies.compress(fedavg(), strategies.quantise(levels=15)), {}),
    "sign_majority": (strategies.sign_majority(fedavg(), step=0.01), {}),
    "median": (strategies.median(fedavg()), {}),
    "trimmed_mean": (strategies.trimmed_mean(fedavg(), trim=0.2), {}),
    "clip": (strategies.clip(fedavg(), norm=0.5), {}),
    "label_flip": (faulty("label_flip"), {}),
    "sign_flip under median": (strategies.median(faulty("sign_flip")), {}),
    "lips around scaffold": (lips(strategies.scaffold()), {}),
    "lips around compressed feddyn": (lips(top_k(strategies.feddyn(), 0.2), hold=1), {}),
    "ditto, top_k, lips": (lips(top_k(strategies.ditto(), 0.2)), {}),
    "partial participation": (fedavg(), HALF),
    "drawn by examples": (
        fedavg(weighted=False),
        {**HALF, "participation": Participation(sampling="examples")},
    ),
    "dropout": (
        fedavg(),
        {"participation": Participation(dropout=0.3, mid_round_dropout=0.2, stragglers=0.3)},
    ),
    "two devices": (lips(), {"devices": 2}),
    "resumed": (lips(gradient="stored"), {**HALF, "stop": 2}),
}


def flattened(tree):
    return np.concatenate([np.zeros(0), *(np.ravel(x) for x in jax.tree.leaves(tree))])


def record(name, dtype):
    """Return every figure of a configuration after five rounds, and its model and masks."""
    strategy, options = CASES[name]
    options = dict(options)
    devices, stop = options.pop("devices", 1), options.pop("stop", 0)
    data = world(SIZES)
    sim = simulation.build(
        tiny_model(dtype=dtype),
        strategy,
        LocalTraining(optax.sgd(0.1, 0.9), 2, 4),
        rounds=ROUNDS,
        data=data,
        mesh=simulation.client_mesh(devices),
        chunk=1,
        **options,
    )
    placed, state, parts = sim.place(data), sim.init(jax.random.key(1)), []
    for count in [n for n in (stop, ROUNDS - stop) if n]:
        state, metrics = sim.run(sim.from_host(sim.to_host(state)), placed, count)
        parts.append(jax.tree.map(np.asarray, metrics))
    metrics = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    host = sim.to_host(state)
    masks = [b.ravel() for b in host["packed_masks"]]
    return {
        "params": flattened(host["global_model"].params),
        "batch_stats": flattened(host["global_model"].batch_stats),
        "masks": np.concatenate([np.zeros(0, np.uint8), *masks]),
        **{f"scalar {k}": v for k, v in metrics.scalars.items()},
        **{f"layers {k}": v for k, v in metrics.layers.items()},
        "client_loss": metrics.client_loss,
    }


def distance(name, recorded, before):
    """Return the largest relative difference of any figure, and whether masks are the same.

    Of all that was recorded before; what is measured only since then has nothing to be held to.
    """
    worst = 0.0
    for key in before.files:
        case, field = key.split("|")
        if case != name or field == "masks":
            continue
        old, new = before[key], recorded[field]
        np.testing.assert_array_equal(np.isnan(new), np.isnan(old), err_msg=f"{name} {field}")
        with np.errstate(invalid="ignore"):  # of infinities, which are equal or not
            apart = np.where(new == old, 0.0, np.abs(new - old))
        difference = apart / (1 + np.where(np.isinf(old), 0, np.abs(old)))
        worst = max(worst, float(np.nanmax(difference, initial=0.0)))
    return worst, np.array_equal(recorded["masks"], before[f"{name}|masks"])


def main(flag="", path="", dtype="float64"):
    figures, before = {}, np.load(RECORDED)
    for name in CASES:
        recorded = record(name, np.dtype(dtype).type)
        figures |= {f"{name}|{field}": value for field, value in recorded.items()}
        if flag != "--record":
            worst, same = distance(name, recorded, before)
            bits = "to the bit" if worst == 0 else f"off by {worst:.1e}"
            print(f"{name}: {bits}, masks {'the same' if same else 'DIFFER'}", flush=True)
    if flag == "--record":
        np.savez_compressed(path, **figures)


if __name__ == "__main__":
    main(*sys.argv[1:])
