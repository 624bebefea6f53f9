"""An NVFlare client in NumPy: a linear model of three layers, and one line for LIPS.

Called as ``nvflare_client.py FOLDER [forgets] [differs]``; it writes there what it received and its
gradient.
"""

import sys
from pathlib import Path

import numpy as np
import nvflare.client as flare

from lipsjax.deploy.nvflare import keep_gradient

NAMES = ("stem", "mid", "head")


def gradient_of(arrays, inputs, targets):
    """Gradient of half the mean squared error."""
    stem, mid, head = (arrays[name] for name in NAMES)
    one = inputs @ stem
    two = one @ mid
    error = (two @ head - targets) / len(inputs)
    into_two = error @ head.T
    return {
        "stem": inputs.T @ (into_two @ mid.T),
        "mid": one.T @ into_two,
        "head": two.T @ error,
    }


def main(folder, forgets=False, differs=False):
    """Train for as long as tasks come."""
    flare.init()
    site = flare.get_site_name()
    rng = np.random.default_rng(list(site.encode()))
    inputs, targets = rng.normal(size=(16, 3)), rng.normal(size=(16, 2))
    while flare.is_running():
        model = flare.receive()
        arrays, gradient = dict(model.params), {}
        for batch in np.split(np.arange(16), 4):
            gradient = gradient_of(arrays, inputs[batch], targets[batch])
            arrays = {name: arrays[name] - 0.005 * gradient[name] for name in NAMES}
        received = {f"received-{name}": model.params[name] for name in NAMES}
        np.savez(folder / f"{site}-{model.current_round}.npz", gradient=gradient["mid"], **received)
        if not forgets:
            keep_gradient(model, gradient)
        meta = {**model.meta, "NUM_STEPS_CURRENT_ROUND": 4}  # whatever was received goes back
        if differs:
            arrays = {name: arrays[name] - model.params[name] for name in NAMES}
        kind = flare.ParamsType.DIFF if differs else flare.ParamsType.FULL
        flare.send(flare.FLModel(params=arrays, params_type=kind, meta=meta))


if __name__ == "__main__":
    main(Path(sys.argv[1]), forgets="forgets" in sys.argv, differs="differs" in sys.argv)
