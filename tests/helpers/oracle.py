"""The compiled round held to its loop, and the axes of what is held."""

import functools

import numpy as np

from helpers.loop_reference import flat
from helpers.worlds import assert_close, simulate, tiny_model
from lipsjax import models
from lipsjax.sparsity import constant, cosine, cubic, linear
from lipsjax.sparsity.topk import unpack

SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine, "cubic": cubic}
# a score is a criterion with the gradient that it reads, so that every pair is one that matters
AXES = {
    "score": [
        ("saliency", "last_local"),
        ("saliency", "fresh"),
        ("saliency", "stored"),
        ("gradient", "last_local"),
        ("gradient", "fresh"),
        ("magnitude", "last_local"),
        ("lowest", "last_local"),
        ("random", "last_local"),
        ("inverted", "last_local"),
    ],
    "sharing": ["client", "shared"],
    "scope": ["layer", "global", "erk"],
    "refill": ["zero", "init", "noise"],
    "hold": [0, 3],
    "schedule": ["linear", "constant", "cosine", "cubic"],
    "kinds": [("conv",), ("conv", "dense")],
    "personal": ["global", "local", "local_with_biases"],
    "cohort": [None, 3],
}
PUBLISHED = {name: values[0] for name, values in AXES.items()}
PERSONAL = {
    "global": None,
    "local": models.is_norm,
    "local_with_biases": lambda p: models.is_norm(p) or models.is_bias(p),
}


@functools.cache
def reference_model(norm="batch"):
    return tiny_model(conv="grouped", norm=norm)


def check(model, strategy, data, loop, *, rounds, compare_loss=True, tolerance=1e-9, **options):
    """Run both and compare state, masks and metrics."""
    state, metrics, sim = simulate(model, strategy, data, rounds=rounds, **options)
    loop.measures = "accuracy_dense" in metrics.scalars
    expected = [loop.round() for _ in range(rounds)]
    assert_close(flat(state["global_model"]), flat(loop.average), tolerance)
    for t, row in enumerate(expected):
        if not compare_loss:
            del row["loss_train"]
        for name, values in row.pop("layers", {}).items():
            np.testing.assert_allclose(
                metrics.layers[name][t],
                values,
                rtol=10 * tolerance,
                atol=tolerance,
                err_msg=f"{name} {t}",
            )
        for name, value in row.items():
            np.testing.assert_allclose(
                metrics.scalars[name][t],
                value,
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{name} {t}",
            )
        assert set(row) | {"loss_train"} == set(metrics.scalars)
    assert bool(state["sparse"]) == bool(loop.masks)
    if loop.masks:
        receivers = loop.cohort(loop.t)
        for bits, layer in zip(state["packed_masks"], sim.spec.sparsifier.layers, strict=True):
            for slot, client in enumerate(receivers):
                mask = loop.masks[client]["/".join(layer.path)]
                np.testing.assert_array_equal(unpack(bits[slot], mask.shape), mask)
    return state, loop
