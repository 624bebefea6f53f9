"""What mask bitmaps alone say of a client's classes, to who is trained on other clients' masks."""

from typing import NamedTuple

import numpy as np


class Bitmaps(NamedTuple):
    """How much of clients' class mixes their masks give away."""

    explained: float  # share of the variance of class mixes, over clients; 0: no better than a mean
    null: np.ndarray  # the same, of mixes dealt out to clients at random
    p: float  # chance of as much under the null


def read_mixes(
    masks: np.ndarray,
    mixes: np.ndarray,
    *,
    rng: np.random.Generator,
    permutations: int = 199,
    strength: float = 1.0,
) -> Bitmaps:
    """Predict each client's class mix from its masks, by ridge regression on the other clients'.

    The attacker knows the masks of all rounds asked for, and the class mixes of all clients but the
    victim, which is more than a server has. ``explained`` is ``1 - sum |mix - predicted|^2 / sum
    |mix - mean of the others|^2``. Under the null, mixes say nothing of masks, so they may be dealt
    out to clients in any way: a permutation test.

    Args:
      masks: [clients, bits], of all rounds, one after the other.
      mixes: [clients, classes], each client's share of examples of each class.
      rng: for permutations.
      permutations: draws under the null.
      strength: of the ridge, times the mean size of the masks' rows.

    Raises:
      ValueError: for fewer than 4 clients.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> mixes = rng.dirichlet(np.ones(3), size=12)
      >>> masks = (mixes @ rng.normal(size=(3, 200)) > 0).astype(float)
      >>> found = read_mixes(masks, mixes, rng=rng, permutations=99)
      >>> found.explained > 0.5, found.p
      (True, 0.01)
    """
    if len(masks) < 4:
        raise ValueError(f"an attacker on bitmaps needs at least 4 clients, not {len(masks)}")
    centred = masks - masks.mean(axis=0)
    gram = centred @ centred.T  # all that ridge regression needs: [clients, clients]
    ridge = strength * np.trace(gram) / len(gram) + 1e-12
    explained = _explained(gram, mixes, ridge)
    null = np.array([_explained(gram, rng.permutation(mixes), ridge) for _ in range(permutations)])
    return Bitmaps(explained, null, float((1 + np.sum(null >= explained)) / (1 + permutations)))


def _explained(gram: np.ndarray, mixes: np.ndarray, ridge: float) -> float:
    """Return what leave-one-out predictions explain of mixes."""
    missed = total = 0.0
    for victim in range(len(mixes)):
        rest = np.arange(len(mixes)) != victim
        mean = mixes[rest].mean(axis=0)
        weights = np.linalg.solve(
            gram[np.ix_(rest, rest)] + ridge * np.eye(rest.sum()), mixes[rest] - mean
        )
        predicted = mean + gram[victim, rest] @ weights
        missed += float(np.sum((mixes[victim] - predicted) ** 2))
        total += float(np.sum((mixes[victim] - mean) ** 2))
    return 1 - missed / total if total else 0.0
