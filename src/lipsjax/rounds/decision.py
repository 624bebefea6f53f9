"""Whether a round is followed by a sparse broadcast, and how much it keeps.

A schedule says so before the run starts; a trigger, from the inertia of the last rounds. That comes
from sums over all clients, so every device decides alike.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lipsjax import tree
from lipsjax.metrics import inertia
from lipsjax.rounds.spec import PerRound, RoundSpec, State
from lipsjax.sparsity.adaptive import remember, remembered
from lipsjax.strategy import Trigger
from lipsjax.types import Array, Kernels, Layer, Variables


class TriggerState(NamedTuple):
    """What a trigger knows of the rounds before."""

    inertia: Array  # [window, L] of the last that began unmasked, the newest last; NaN: none yet
    levels: Array  # [masked layers] int32, densities of what is on its way; 0 is whole


def start_trigger(spec: RoundSpec, kernels: Kernels) -> TriggerState | tuple[()]:
    """Return what a trigger knows before the first round; nothing where there is none."""
    trigger = trigger_of(spec)
    if trigger is None:
        return ()
    assert spec.sparsifier is not None
    shape = trigger.window, len(spec.model.layers)
    return TriggerState(
        inertia=jnp.full(shape, jnp.nan, jnp.result_type(*kernels)),
        levels=jnp.zeros(len(spec.sparsifier.layers), jnp.int32),
    )


def trigger_of(spec: RoundSpec) -> Trigger | None:
    """Return the rule by which inertia decides; None: a schedule does, or nothing is sparse."""
    return None if spec.sparsifier is None else spec.sparsifier.trigger


def decide(
    spec: RoundSpec, per_round: PerRound, ended: Array, old: State, new: State, learned: Variables
) -> tuple[State, Array, Array]:
    """Decide on the broadcast that follows a round.

    Args:
      spec: static.
      per_round: decisions for every round.
      ended: () int32, the round.
      old: before the round.
      new: after the round's update.
      learned: what of the new global model was learned.

    Returns:
      The new state with the density that goes out, whether it is sparse () bool, and how many
      weights are then kept [groups].
    """
    sparsifier, trigger = spec.sparsifier, trigger_of(spec)
    assert sparsifier is not None
    if trigger is None:
        sparse, kept = per_round.sparse[ended], per_round.kept[ended]
        return new._replace(density=per_round.density[ended]), sparse, kept
    layers, masked = spec.model.layers, positions(spec.model.layers, sparsifier.layers)
    kernels = (tree.kernels(model.params, layers) for model in (learned, old.global_model))
    of_round = inertia.layer_inertia(inertia.relative_step(*kernels), layers)
    history = remember(old.trigger.inertia, of_round, ~old.sparse)
    by_layer = remembered(history)
    index = jnp.mean(by_layer[np.array([layer.role == "middle" for layer in layers])])
    levels = trigger.levels(by_layer[masked])
    is_due = ended % trigger.every == 0
    sparse = is_due & (index > trigger.threshold) & jnp.any(levels > 0)
    levels = jnp.where(sparse, levels, 0)
    densities, counts = sparsifier.kept(new.global_model)
    kept = jnp.asarray(counts)[levels, jnp.arange(len(masked))]
    sizes = [w.size for w in tree.kernels(new.global_model.params, sparsifier.layers)]
    density = jnp.sum(jnp.asarray(densities)[levels] * (np.array(sizes) / sum(sizes)))
    trigger_state = TriggerState(history, levels)
    return new._replace(density=density.astype(jnp.float32), trigger=trigger_state), sparse, kept


def density_levels(spec: RoundSpec, state: State) -> dict[str, Array]:
    """Report the density level of each layer in what goes out, [L] int32; nothing by a schedule."""
    if trigger_of(spec) is None:
        return {}
    assert spec.sparsifier is not None
    masked = positions(spec.model.layers, spec.sparsifier.layers)
    whole = jnp.zeros(len(spec.model.layers), jnp.int32)
    return {"density_level": whole.at[masked].set(state.trigger.levels)}


def positions(layers: tuple[Layer, ...], some: tuple[Layer, ...]) -> np.ndarray:
    """Return where some layers stand among all."""
    return np.array([layers.index(layer) for layer in some], int)
