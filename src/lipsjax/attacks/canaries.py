"""Who finds canaries in the models of a run, for an audit of its privacy."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax.simulation import Simulation
from lipsjax.strategies.canaries import Canaries, direction
from lipsjax.strategies.delta import Delta, shared_params
from lipsjax.types import Array, PyTree


def canary_scores(
    simulation: Simulation, before: Mapping[str, PyTree], after: Mapping[str, PyTree]
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the global model went in the direction of each canary, and who was a member.

    The score of canary k is ``<w_T - w_0, v_k>``, of all shared parameters, in units of weights.

    Args:
      simulation: of a strategy with canaries.
      before: state at the start, of :meth:`~lipsjax.simulation.Simulation.to_host`.
      after: state at the end.

    Returns:
      Scores [M] and members [M] bool.

    Raises:
      ValueError: if there are no canaries in the state.

    References:
      Andrew et al., "One-shot Empirical Privacy Estimation for Federated Learning", arXiv
      2302.03098.
    """
    states = jax.tree.leaves(after["server_state"], is_leaf=_are_canaries)
    found = [state.members for state in states if _are_canaries(state)]
    if not found:
        raise ValueError("the strategy has no canaries: wrap it in strategies.canaries")
    spec, members = simulation.spec, np.asarray(found[0])
    start, end = (
        shared_params(spec.strategy, spec.run, x["global_model"]) for x in (before, after)
    )
    moved = {path: jnp.asarray(end[path]) - start[path] for path in start}
    return np.asarray(_scores(moved, jnp.arange(len(members)))), members


def _are_canaries(state: PyTree) -> bool:
    return isinstance(state, Canaries)


@jax.jit
def _scores(moved: Delta, canaries: Array) -> Array:
    def score(canary: Array) -> Array:
        towards = direction(canary, moved)
        return jnp.sum(jnp.stack([jnp.vdot(moved[path], v) for path, v in towards.items()]))

    return jax.lax.map(score, canaries)
