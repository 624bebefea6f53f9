"""The smallest step that each measure of a run can make, as accuracies are counts of examples.

Personalised accuracy is the mean over the m clients of a cohort, of which each has n_k test
examples: one example more is worth at least ``1 / (m max n_k)``. Accuracy on the global test set of
n examples moves in steps of ``1 / n``. Over few seeds such measures differ by the same number of
steps by chance, and no deviation between seeds below a step is believed
(:func:`lipsjax.analysis.stats.paired_difference`). A step is that of one round, however many rounds
a measure is averaged over: they share their clients and most of their model, and are far from
independent.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from lipsjax.recording import Recording

MOST = 100_000
"""Test examples up to which the size of a global test set is sought where nothing bounds it."""

ENOUGH = 20
"""Different accuracies that tell of how many examples they are counts."""


def steps_of(recording: Recording) -> dict[str, float]:
    """The smallest step of each measure that has one.

    Args:
      recording: one run.

    Returns:
      measure of :data:`lipsjax.analysis.comparison.MEASURES` -> its step. One that is not there is
      no count, as inertia and time, or is counted and no sample, as bits.
    """
    config = recording.config
    partition = config["partition"]
    clients = 1 if partition.get("pooled") else partition["clients"]
    cohort = config.get("strategy", {}).get("cohort") or clients
    sizes = _test_sizes(recording)
    own = 1 / (min(cohort, clients) * max(sizes[:clients]))
    common = 1 / _global_examples(recording)
    steps = {"personalised": own, "tuned": own, "gain": own}
    steps |= {"global": common, "gain_global": common}
    if new := sizes[clients:]:
        steps |= dict.fromkeys(("new", "new_tuned"), 1 / (len(new) * max(new)))
    # the target is reached in an evaluated round, or not at all
    every = float(config.get("evaluation", {}).get("every", 1))
    moved = [recording.scalars.get(f"{way}link_bits", np.array([])) for way in ("up", "down")]
    bits = sum(float(np.nanmean(each)) for each in moved if np.isfinite(each).any())
    return steps | {"reached": 1.0, "rounds_to_target": every, "bits_to_target": every * bits}


def denominator(values: ArrayLike, most: int) -> int | None:
    """Of how many examples accuracies are counts: the smallest n of which all are k / n.

    Args:
      values: accuracies, in float32 or better; NaN does not count.
      most: largest n to try.

    Returns:
      The number, a divisor of the true one; None where there is none, or nothing to tell it from.

    Example:
      >>> denominator([0.5, 0.75, 2 / 3], most=100), denominator([0.123456], most=100)
      (12, None)
    """
    known = np.unique(np.asarray(values, np.float64))
    known = known[~np.isnan(known)][:ENOUGH]
    if not known.size:
        return None
    left = np.arange(1, most + 1)
    for accuracy in known:
        counts = accuracy * left
        # float32 keeps an accuracy to 6e-8
        left = left[np.abs(counts - np.rint(counts)) <= 2e-7 * left]
    return int(left[0]) if left.size else None


def _test_sizes(recording: Recording) -> Sequence[int]:
    """Test examples of each client, those that never train last."""
    counts = recording.setup.get("survey", {}).get("test_counts")
    if counts is not None:
        return [int(sum(client)) for client in counts]
    # recordings from before there was a survey: what was asked for, which no client exceeds
    wanted = recording.config["partition"]
    clients = wanted["clients"] + wanted.get("new_clients", 0)
    return [wanted.get("test_examples", 1)] * clients


def _global_examples(recording: Recording) -> int:
    """Size of the global test set; recordings of behaviour 1 and 2 hold no more than a bound of it.

    There it is told from the accuracies, which are counts of it. Where they are not, the bound
    stands, or without one what all clients have. It is no less than a client's own test set, of the
    same split, whatever curves that hardly change tell.
    """
    if known := recording.setup.get("global_examples"):
        return known
    bound = recording.config.get("evaluation", {}).get("global_examples")
    curve = recording.scalars.get("global_accuracy", np.array([]))
    found = denominator(curve, bound or MOST) or bound or sum(_test_sizes(recording))
    own = recording.config["partition"].get("test_examples", 1)
    return max(found, min(own, bound or own))
