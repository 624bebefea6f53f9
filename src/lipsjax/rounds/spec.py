"""What a compiled round is made from, and what it carries from one round to the next."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lipsjax.clients import ClientData
from lipsjax.keys import Purpose, derive
from lipsjax.local import LocalTraining
from lipsjax.rounds.participation import Participation
from lipsjax.rounds.placement import Placement
from lipsjax.strategy import Broadcast, ClientContext, RunContext, Sparsifier, Strategy
from lipsjax.types import Array, Kernels, Layer, Model, Params, PyTree, Variables

Measure = Callable[[Params, Params, tuple[Layer, ...]], dict[str, Array]]
"""(global params before the round, and after it, layers) -> numbers () by name."""


class RoundSpec(NamedTuple):
    """What a compiled round is made from; all static."""

    model: Model
    strategy: Strategy
    training: LocalTraining
    run: RunContext
    sparsifier: Sparsifier | None  # of the strategy in this run
    total_weight: float  # of the messages of all K clients
    placement: Placement
    participation: Participation
    ragged: bool  # whether some client has steps of padding alone
    measures: bool  # whether any round is measured
    clients_on_global: bool
    new_clients: int  # who never train, after the K in the data
    tune_epochs: int  # after the last round
    own_measures: tuple[Measure, ...] = ()

    @property
    def cohort(self) -> int:
        """Clients that are drawn for a round, C."""
        return self.run.cohort


class PerRound(NamedTuple):
    """What is decided for every round on the host, before the run starts."""

    measured: Any  # [T] bool
    finetuned: Any  # [T] bool, whether clients fine-tune after the round, to be scored
    sparse: Any  # [T] bool, whether the broadcast after the round is sparse
    density: Any  # [T] float32, of that broadcast
    kept: Any  # [T, groups] int32


class State(NamedTuple):
    """All that goes from one round to the next."""

    key: Array  # () the run's root key
    round: Array  # () int32, rounds done
    global_model: Variables
    server_state: PyTree
    client_states: PyTree  # [rows, ...] at home on each device
    packed_masks: Kernels  # on their way to the slots of the next round, uint8 [slots, bytes]
    sparse: Array  # () bool, whether these masks count
    density: Array  # () float32, of what is on its way
    reference: Kernels  # of the global model after round DRIFT_REFERENCE
    trigger: PyTree = ()  # what a trigger knows of the rounds before; () without one
    past: PyTree = ()  # [versions, ...] global models that turns may have begun with; () in rounds


class Metrics(NamedTuple):
    """A round in figures; NaN where one is not defined or was not measured."""

    scalars: dict[str, Array]  # () each
    layers: dict[str, Array]  # [L] each
    client_loss: Array  # [C] training loss summed over steps; the host looks for NaN here
    by: dict[str, dict[str, Array]]  # "clients", "classes", "new_clients" -> measure -> [of each]


def client_context(
    spec: RoundSpec,
    data: ClientData,
    state: State,
    client: Array,
    client_state: PyTree,
    packed_masks: Kernels | None = None,
    staleness: Array | int = 0,
) -> ClientContext:
    """Return what a client knows at the start of a round, and what it has received.

    Args:
      spec: static.
      data: of all clients.
      state: before the round.
      client: () int32, its id.
      client_state: of this client.
      packed_masks: of this client, if masks are on their way; None: it receives the model whole.
      staleness: () int32, updates of the server while the client's turn lasts.

    Returns:
      A context whose variables are what the client starts from.
    """
    count = jnp.sum(data.train_mask[client], dtype=jnp.int32)
    broadcast = None
    if spec.sparsifier is not None and packed_masks is not None:
        refill = derive(state.key, state.round - 1, client, Purpose.REFILL)
        broadcast = Broadcast(packed_masks, refill, state.sparse, state.density)
    context = ClientContext(
        run=spec.run,
        variables=state.global_model,
        server_state=state.server_state,
        client_state=client_state,
        broadcast=broadcast,
        round=state.round,
        key=derive(state.key, state.round, client, Purpose.CLIENT),
        client_id=client,
        epoch_steps=-(-count // spec.training.batch_size),
        global_model=state.global_model,
        staleness=staleness,
    )
    return context._replace(variables=spec.strategy.receive(context))


def where_measured(spec: RoundSpec, measured: Array, function: Callable, *args):
    """Call a function on measured rounds only; zeros in its shape otherwise."""
    if not spec.measures:
        return None

    once = jax.jit(function, inline=True)  # its shapes and its branch are of one trace

    def zeros():
        shapes = jax.eval_shape(once, *args)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    return jax.lax.cond(measured, lambda: once(*args), zeros)
