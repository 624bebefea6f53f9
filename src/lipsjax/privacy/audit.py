"""What epsilon a run cannot be below, by how well its canaries are found."""

import numpy as np


def epsilon_lower_bound(
    scores: np.ndarray, members: np.ndarray, *, delta: float, significance: float = 0.05
) -> float:
    """Return a lower bound of epsilon, wrong with some small chance; 0: nothing is shown.

    Each canary was a member with a chance of one half, for itself. An attacker guesses that those
    of the highest scores are; were epsilon smaller than the bound, as many right guesses would come
    with a chance of at most ``significance``, corrected for all numbers of guesses.

    Args:
      scores: [M], higher of members.
      members: [M] bool.
      delta: of (epsilon, delta), in (0, 1).
      significance: chance of error, in (0, 1).

    Raises:
      ValueError: for a value out of range, other shapes, or without jax-privacy.

    References:
      Steinke et al., "Privacy Auditing with One (1) Training Run", arXiv 2305.08846, by
      ``CanaryScoreAuditor`` of jax-privacy.

    Example:
      >>> members = np.arange(200) % 2 == 0
      >>> seen = epsilon_lower_bound(members + 0.0, members, delta=1e-5)
      >>> 3 < seen < 4
      True
      >>> epsilon_lower_bound(np.arange(200.0), members, delta=1e-5)
      0.0
    """
    scores, members = np.asarray(scores, np.float64), np.asarray(members, bool)
    if scores.ndim != 1 or scores.shape != members.shape:
        raise ValueError(
            f"scores and members must be [M] both, not {scores.shape} and {members.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite: a model that diverged tells nothing")
    if not members.any() or members.all():
        raise ValueError("there must be members and others among the canaries")
    for name, value in (("delta", delta), ("significance", significance)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be in (0, 1), not {value}")
    try:
        from jax_privacy.auditing import CanaryScoreAuditor
    except ImportError:
        raise ValueError("audits need jax-privacy: pip install 'lipsjax[privacy]'") from None
    auditor = CanaryScoreAuditor(scores[members], scores[~members])
    return float(auditor.epsilon_one_run(significance, delta))
