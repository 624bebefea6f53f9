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

    Args:
      simulation: of a strategy with canaries.
      before: state at the start, of :meth:`~lipsjax.simulation.Simulation.to_host`.
      after: state at the end.

    Returns:
      Scores [M] and members [M] bool.

    Raises:
      ValueError: if there are no canaries in the state.
    """
    is_leaf = lambda x: isinstance(x, Canaries)  # noqa: E731
    states = jax.tree.leaves(after["server_state"], is_leaf=is_leaf)
    members = [x.members for x in states if is_leaf(x)]
    if not members:
        raise ValueError("the strategy has no canaries: wrap it in strategies.canaries")
    spec = simulation.spec
    start, end = (
        shared_params(spec.strategy, spec.run, x["global_model"]) for x in (before, after)
    )
    moved = {path: jnp.asarray(end[path]) - start[path] for path in start}
    return np.asarray(_scores(moved, jnp.arange(len(members[0])))), np.asarray(members[0])


@jax.jit
def _scores(moved: Delta, canaries: Array) -> Array:
    def score(canary: Array) -> Array:
        towards = direction(canary, moved)
        return jnp.sum(jnp.stack([jnp.vdot(moved[path], v) for path, v in towards.items()]))

    return jax.lax.map(score, canaries)
