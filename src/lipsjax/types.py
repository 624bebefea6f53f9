"""Shared types and their shapes; imports nothing of this package, and no JAX.

Symbols used in every shape comment:

* ``K`` registered clients, ``C`` clients of a round (the cohort), ``T`` rounds;
* ``n`` examples per client, padded; ``B`` examples per local step; ``L`` declared layers;
* ``P`` parameters of the model.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from jax import Array as Array
else:
    Array = Any

PyTree = Any
Params = Any  # nested dict of arrays, as Flax makes it

Kernels = tuple[Array, ...]
"""One weight kernel per layer, in the layers' order (a dict would be sorted by JAX)."""

Role = Literal["stem", "middle", "classifier"]


class Examples(NamedTuple):
    """Labelled inputs of one split: np.ndarray on the host, jax.Array once on a device.

    Inputs are images [N, H, W, channels], uint8 in 0..255 or float32; series in time
    [N, steps, channels], float32; or rows of features [N, features], float32.
    """

    inputs: Any  # [N, ...]
    labels: Any  # [N] int32 in 0..num_classes - 1


class Variables(NamedTuple):
    """What a model needs to predict, and what is averaged."""

    params: Params  # P values
    batch_stats: PyTree  # running statistics of the normalisation; {} if there are none


class Layer(NamedTuple):
    """A layer with a weight kernel, in the order in which data meets it.

    The stem and the classifier are the outer layers of a model, all others its middle layers.
    """

    name: str  # as measures and reports call it, "block2/shortcut"
    role: Role
    kind: Literal["conv", "dense"]
    path: tuple[str, ...]  # of the kernel within params


def middle_layers(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers between the outer ones, in order.

    >>> stem, hidden = (Layer(r, r, "dense", (r,)) for r in ("stem", "middle"))
    >>> [layer.name for layer in middle_layers([stem, hidden])]
    ['middle']
    """
    return tuple(layer for layer in layers if layer.role == "middle")


class Prediction(NamedTuple):
    """What a model makes of a batch."""

    logits: Array  # [B, classes]
    batch_stats: PyTree  # the new running statistics
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


class LossAux(NamedTuple):
    """What a loss returns beside its value."""

    batch_stats: PyTree  # the new running statistics
    features: Array | None  # [B, D] of the model; see Prediction


LossFn = Callable[..., tuple[Array, Any]]
"""(params, batch_stats, images [B, ...], labels [B], mask [B], train=True) -> (mean loss, LossAux);
with train=False the model predicts with its running statistics."""


GradientOf = Callable[[LossFn], Callable[..., tuple[tuple[Array, LossAux], "Params"]]]
"""loss -> ((key, params, batch_stats, images, labels, mask) -> ((loss, LossAux), gradient))."""


class LocalResult(NamedTuple):
    """What one client's local training leaves behind."""

    variables: Variables
    last_gradient: Kernels  # of the last real step, of the layers asked for
    last_gradient_norm: Array  # [L] of the last real step
    loss: Array  # () summed over examples seen
    examples: Array  # () examples seen
    steps: Array  # () real steps
    personal_model: Variables | None = None  # the client's second model, where it has one
