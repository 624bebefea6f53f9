"""Shared types and their shapes; imports nothing of this package.

Symbols used in every shape comment:

* ``K`` registered clients, ``C`` clients of a round (the cohort), ``T`` rounds;
* ``n`` examples per client, padded; ``B`` examples per local step; ``L`` declared layers;
* ``P`` parameters of the model.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax

Array = jax.Array
PyTree = Any
Params = Any  # nested dict of arrays, as Flax makes it

Kernels = tuple[Array, ...]
"""One weight kernel per layer, in the layers' order (a dict would be sorted by JAX)."""

Role = Literal["stem", "middle", "classifier"]


class Variables(NamedTuple):
    """What a model needs to predict, and what is averaged."""

    params: Params  # P values
    norm: PyTree  # running statistics of the normalisation; {} if there are none


class Layer(NamedTuple):
    """A layer with a weight kernel, in the order in which data meets it."""

    name: str  # as measures and reports call it, "block2/shortcut"
    role: Role
    kind: Literal["conv", "dense"]
    path: tuple[str, ...]  # of the kernel within params


class Prediction(NamedTuple):
    """What a model makes of a batch."""

    logits: Array  # [B, classes]
    norm: PyTree  # the new running statistics
    features: Array | None  # [B, D], what the classifier reads; None if the module sows none


class Apply(Protocol):
    """Predict a batch; ``mask`` [B] is False on padding, which then weighs zero everywhere."""

    def __call__(
        self, variables: Variables, images: Array, *, mask: Array, train: bool
    ) -> Prediction:
        """Return logits, running statistics and features."""
        ...


class Model(NamedTuple):
    """A network as a pair of pure functions and the list of its layers."""

    init: Callable[[Array], Variables]  # key -> variables
    apply: Apply
    layers: tuple[Layer, ...]


class Delivery(NamedTuple):
    """What is on its way to one client beside the average: a mask, one bit per maskable weight."""

    bits: PyTree  # uint8 [ceil(size / 8)] per masked layer
    key: Array  # of the refill
    sparse: Array  # () bool; False: the average itself goes out. Never batched over clients
    density: Array  # () float, of the schedule; 1 where it is not sparse


class Received(NamedTuple):
    """What one client has in hands when it starts to train."""

    variables: Variables
    server: PyTree
    client: PyTree
    delivery: Delivery | None
    # of the round; functions of one client alone can do without
    key: Any = None  # for what the strategy draws itself
    client_id: Any = None  # () int32
    epoch_steps: Any = None  # () int32, real steps of an epoch


class LocalResult(NamedTuple):
    """What one client's local training leaves behind."""

    variables: Variables
    last_gradient: Kernels  # of the last real step, of the layers asked for
    last_gradient_norm: Array  # [L] of the last real step
    loss: Array  # () summed over examples seen
    examples: Array  # () examples seen
    steps: Array  # () real steps
    companion: Variables | None = None  # the client's second model, where the strategy has one


class Seen(NamedTuple):
    """What a loss tells beside its value."""

    norm: PyTree  # the new running statistics
    features: Array | None  # [B, D] of the model; see Prediction


LossFn = Callable[[Params, PyTree, Array, Array, Array], tuple[Array, Any]]
"""(params, norm, images [B, ...], labels [B], mask [B]) -> (mean loss, Seen)."""
