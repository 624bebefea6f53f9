"""Clients that train only a part of the model, each as much as its site can carry."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from lipsjax import tree
from lipsjax.sparsity.topk import topk_mask
from lipsjax.strategies.delta import Delta, shared_params
from lipsjax.strategy import (
    BITS,
    ClientContext,
    Rank,
    RunContext,
    ServerContext,
    Strategy,
    Traffic,
    wrapped,
)
from lipsjax.types import Array, Layer, PyTree, Variables, middle_layers

Masks = dict[str, Array]
"""Leaf's path -> bool of its shape, what one client holds of it; leaves that all hold whole are not
in it."""


class Part(NamedTuple):
    """What a client sends: its model, 0 where it holds nothing, and where it holds something."""

    model: PyTree
    held: dict[str, Array]  # leaf's path -> 1 or 0 for each entry, in the leaf's type


class Cut(NamedTuple):
    """An axis of a leaf of which narrow clients hold the first channels."""

    axis: int
    channels: int  # C; along the axis they repeat, where flattened maps are read


class Plan(NamedTuple):
    """What clients hold, as far as it is known before a run starts."""

    cuts: dict[str, tuple[Cut, ...]]  # leaf's path -> its axes that widths cut
    masked: dict[str, int]  # path of each kernel that densities mask -> its size
    widths: np.ndarray  # [W] that differ
    densities: np.ndarray  # [D] that differ
    width_of: np.ndarray  # place in widths, dealt out to clients in turn
    density_of: np.ndarray  # the same of densities


def submodels(
    strategy: Strategy, *, widths: Sequence[float] = (1.0,), densities: Sequence[float] = (1.0,)
) -> Strategy:
    r"""Let clients hold, train and send only a part of the model.

    Client k has ``widths[k mod len(widths)]`` and ``densities[k mod len(densities)]``.

    - A width r holds the first r C of the C channels, or units, that each layer puts out, but all
      outputs of the classifier; and the first r C of those that each layer reads, but all inputs of
      the stem. A dense layer that reads flattened maps, C fastest, holds the first r C of each
      position. Biases, normalisation and running statistics of C entries follow.
      The part is a narrow model of its own, and trains exactly as that one would.
    - A density d holds, of each middle layer's kernel, the ``max(1, floor(d n))`` largest of the n
      weights that the width leaves it, by size in the model that goes out in this round, ties by
      index; all else whole. It is a question of accuracy: masked-dense arithmetic saves no FLOPs.

    What a client does not hold is 0 through all its local steps: gradients are masked before its
    optimizer, updates after it. The server takes each entry's mean over those who hold it,

    .. math:: w_i \leftarrow \frac{\sum_k a_k m_{ki} \theta_{ki}}{\sum_k a_k m_{ki}}

    with the strategy's weights a; an entry that nobody in the round holds is as it was. The
    strategy goes on from there. Clients predict with their part, and fine-tune it.

    Held values cost 32 bits each both ways. Both sides know what a width holds; what a density
    holds is chosen by the server, so that a bitmap comes down, one bit a weight that the width
    leaves.

    This is HeteroFL's rule for widths, without its scaling of activations, its normalisation
    without running statistics and its masked loss.

    Args:
      strategy: one whose messages are models, as those of FedAvg, FedProx, FedOpt.
      widths: r, in (0, 1].
      densities: d, in (0, 1].

    Returns:
      A :class:`Strategy` without further state. A message has P values more, for what is held.

    Raises:
      ValueError: for a value out of range, or if it cannot wrap the strategy; when a simulation is
        built, for a width that cuts no whole number of channels, or a model that it does not fit:
        other normalisation than by running statistics mixes channels, and attention splits them.
        It is told by shapes: layers that join others' outputs side by side are not seen.

    Running statistics are of the part's own activations: averaged over parts and wholes they fit
    neither, so that clients had better keep normalisation for themselves
    (:func:`lipsjax.keep_local`).

    References:
      Diao et al., "HeteroFL: Computation and Communication Efficient Federated Learning for
      Heterogeneous Clients", arXiv 2010.01264.

    Example:
      >>> from lipsjax import models
      >>> from lipsjax.strategy import fedavg
      >>> import jax
      >>> sizes = {"num_classes": 2, "input_shape": (3,), "width": 4, "depth": 1}
      >>> model = models.build("mlp", norm="none", **sizes)
      >>> run = RunContext(rounds=1, num_examples=(5, 5), layers=model.layers)
      >>> shapes = jax.eval_shape(model.init, jax.random.key(0))
      >>> traffic = submodels(fedavg(), widths=(1.0, 0.5)).traffic(run, shapes)
      >>> traffic.up[0].tolist()  # 32 x (16 + 20 + 10) and 32 x (8 + 6 + 6)
      [1472, 640]
    """
    strategy = wrapped(strategy, "submodels")
    for name, values in (("widths", widths), ("densities", densities)):
        if not len(values):
            raise ValueError(f"{name} must be at least one, not none")
        for value in values:
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], not {value:g}")

    def plan(run: RunContext, variables: Variables) -> Plan:
        return plan_of(run.layers, variables, widths, densities)

    def held(context: ClientContext) -> Masks:
        # the largest of what it started from are those it received: all else is 0 there
        return masks_of(plan(context.run, context.variables), context.variables, context.client_id)

    def init_client(run: RunContext, initial: Variables):
        plan(run, initial)  # refuses what widths do not fit
        return strategy.init_client(run, initial)

    def receive(context: ClientContext):
        received = strategy.receive(context)
        return only(received, held(context._replace(variables=received)))

    def optimizer(base: optax.GradientTransformation, context: ClientContext):
        return confined(strategy.optimizer(base, context), held(context))

    def finetune_optimizer(base: optax.GradientTransformation, context: ClientContext):
        return confined(strategy.finetune_optimizer(base, context), held(context))

    def send(context: ClientContext, result):
        message, state = strategy.send(context, result)
        if not isinstance(message, Variables):
            raise ValueError(f"submodels cannot wrap {strategy.name}: its messages are no models")
        masks = held(context)
        leaves = tree.pick(message, masks.__contains__)
        ones = {path: masks[path].astype(x.dtype) for path, x in leaves.items()}
        return Part(only(message, masks), ones), state

    def merged(context: ServerContext, mean: Part) -> PyTree:
        """Divide by who held each entry."""
        old = tree.pick(context.global_model, mean.held.__contains__)
        sums = tree.pick(mean.model, mean.held.__contains__)
        new = {
            path: jnp.where(h > 0, sums[path] / jnp.where(h > 0, h, 1), old[path])
            for path, h in mean.held.items()
        }
        return tree.put(mean.model, new)

    def update(context: ServerContext, mean: Part):
        return strategy.update(context, merged(context, mean))

    def learned(context: ServerContext, mean: Part, new: Variables) -> Variables:
        return strategy.learned(context, merged(context, mean), new)

    def reveals(run: RunContext, model: Variables, start: Variables, message: Part) -> Delta:
        del model
        end, begin = (shared_params(strategy, run, x) for x in (message.model, start))
        held = message.held
        moved = tree.subtract(end, begin)
        return {p: jnp.where(held[p] > 0, d, 0) if p in held else d for p, d in moved.items()}

    def unheld(run: RunContext, variables: Variables) -> dict[str, np.ndarray]:
        left = left_out(plan(run, variables), variables, run.num_clients)
        return {path: count for path, count in left.items() if strategy.is_shared(run, path)}

    def traffic(run: RunContext, variables: Variables) -> Traffic:
        left = unheld(run, variables)
        if not left:
            return strategy.traffic(run, variables)
        plain = strategy.traffic(run, variables).without(BITS * sum(left.values()))
        found = plan(run, variables)
        is_shared = {p for p in found.masked if strategy.is_shared(run, p)}
        bitmap = bitmaps(found, variables, run.num_clients, is_shared)
        return plain._replace(down=lambda t, last: plain.down(t, last) + bitmap)

    scalars = strategy.scalars
    return strategy._replace(
        init_client=init_client,
        receive=receive,
        optimizer=optimizer,
        finetune_optimizer=finetune_optimizer,
        send=send,
        update=update,
        learned=learned,
        scalars=scalars and (lambda context, mean: scalars(context, merged(context, mean))),
        reveals=reveals,
        held=held,
        unheld=unheld,
        traffic=traffic,
        refuses={**strategy.refuses, **REFUSES},
    )


REFUSES = {
    Rank.PERSONAL: "of submodels each client holds a part, and its second model would be whole",
    Rank.EXAMPLES: "it bounds gradients of whole models, and of submodels each client has a part",
    Rank.VOTE: "with submodels, a weight that a client does not hold would count as a vote",
    Rank.PRIVATE: "of submodels each weight has a mean of its own, and the noise is for one sum",
    Rank.SECURE: "with submodels, a weight that a client does not hold would be cut as if it was 0",
    Rank.AGGREGATE: "with submodels, a weight that a client does not hold would count as 0",
    Rank.UPDATE: "with submodels, what is forgotten and then held by nobody would stay random",
    **dict.fromkeys(
        (Rank.BROADCAST, Rank.HOLD),
        "masks keep a share of whole layers, and of submodels each client has a part already",
    ),
}
"""Rank of wrappers -> why they do not go around parts."""


def plan_of(
    layers: Sequence[Layer],
    variables: Variables,
    widths: Sequence[float],
    densities: Sequence[float],
) -> Plan:
    """Return which leaves of a model some clients hold in part, or raise as :func:`cuts_of`."""
    of_widths, width_of = np.unique(np.asarray(widths, np.float64), return_inverse=True)
    of_densities, density_of = np.unique(np.asarray(densities, np.float64), return_inverse=True)
    cuts: dict[str, tuple[Cut, ...]] = {}
    if (of_widths < 1).any():
        cuts = cuts_of(layers, variables)
        _check_whole(cuts, of_widths)
    masked: dict[str, int] = {}
    if (of_densities < 1).any():
        middle = middle_layers(layers)
        if not middle:
            raise ValueError("densities below 1 need a model with middle layers; this one has none")
        masked = {_path(layer): tree.kernel(variables.params, layer).size for layer in middle}
    return Plan(cuts, masked, of_widths, of_densities, width_of, density_of)


def cuts_of(layers: Sequence[Layer], variables: Variables) -> dict[str, tuple[Cut, ...]]:
    """Return the axes of a model that a narrower one has fewer entries of.

    Args:
      layers: in order.
      variables: of the model, or their shapes.

    Returns:
      Leaf's path -> its axes; of leaves without any, nothing.

    Raises:
      ValueError: for a model that is not a chain of layers with normalisation by running statistics
        or none, or with skips between equal layers.

    Example:
      >>> layers = (Layer("a", "stem", "dense", ("a",)), Layer("b", "classifier", "dense", ("b",)))
      >>> cuts_of(layers, Variables({"a": jnp.zeros((3, 4)), "b": jnp.zeros((8, 2))}, {}))
      {'params/a': (Cut(axis=1, channels=4),), 'params/b': (Cut(axis=0, channels=4),)}
    """
    if not any(layer.role == "classifier" for layer in layers):
        raise ValueError("widths below 1 need a model that declares its classifier")
    cuts: dict[str, tuple[Cut, ...]] = {}
    biases, outputs = {}, []
    for layer in layers:
        shape = tree.kernel(variables.params, layer).shape
        axes = len(shape)
        if axes < 2:
            raise ValueError(
                f"widths below 1 need kernels of inputs and outputs, and {layer.name} has one of "
                f"shape {list(shape)}"
            )
        found = []
        if layer.role != "stem":
            found.append(Cut(axes - 2, _read_by(layer, shape[-2], outputs)))
        if layer.role != "classifier":
            found.append(Cut(axes - 1, shape[-1]))
            outputs.append(shape[-1])
        cuts[_path(layer)] = tuple(found)
        biases[_module(_path(layer)) + "/bias"] = layer.role != "classifier"
    statistics = {_module(p).partition("/")[2] for p in tree.pick(variables, _is_statistic)}
    for path, leaf in tree.pick(variables, lambda path: path not in cuts).items():
        if not biases.get(path, True):
            continue
        if path not in biases and _module(path).partition("/")[2] not in statistics:
            raise ValueError(
                f"widths below 1 need normalisation by running statistics or none, as "
                f"--model.norm batch: {path} belongs to no layer and has no such statistics"
            )
        if leaf.ndim != 1 or leaf.size not in outputs:
            raise ValueError(
                f"widths below 1 need normalisation of what a layer puts out, one of "
                f"{sorted(set(outputs))} channels, and {path} has shape {list(leaf.shape)}"
            )
        cuts[path] = (Cut(0, leaf.size),)
    return cuts


def _read_by(layer: Layer, inputs: int, outputs: list[int]) -> int:
    """Return the channels of what a layer reads, of the outputs of the layers before it."""
    if layer.kind == "conv" and inputs in outputs:
        return inputs
    if layer.kind == "dense" and outputs and inputs % outputs[-1] == 0:
        return outputs[-1]
    before = f"layers that put out {sorted(set(outputs))}" if outputs else "no layer"
    raise ValueError(
        f"widths below 1 need layers that read what others put out: {layer.name} reads {inputs} "
        f"channels, after {before}"
    )


def _check_whole(cuts: dict[str, tuple[Cut, ...]], widths: np.ndarray) -> None:
    """Raise ValueError for a width of which some layer has no whole number of channels."""
    common = math.gcd(*(cut.channels for found in cuts.values() for cut in found))
    for path, found in cuts.items():
        for cut in found:
            for width in widths.tolist():
                share = width * cut.channels
                if abs(share - round(share)) > 1e-6 or round(share) < 1:
                    layer = _module(path).partition("/")[2]
                    raise ValueError(
                        f"widths must leave whole channels, and {width:g} of the {cut.channels} of "
                        f"{layer} are none: allowed are multiples of 1/{common}"
                    )


def _held_channels(channels: int, widths: np.ndarray) -> np.ndarray:
    """Return how many of some channels each width holds, [W]."""
    return np.rint(widths * channels).astype(np.int64)


def _under_widths(found: Plan, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return how many entries of a leaf each width holds, [W]."""
    sizes = np.full(len(found.widths), math.prod(shape))
    for cut in found.cuts.get(path, ()):
        sizes = sizes // cut.channels * _held_channels(cut.channels, found.widths)
    return sizes


def _kept(found: Plan, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return how many entries of a masked kernel each width and density holds, [W, D]."""
    left = _under_widths(found, path, shape)
    return np.maximum(np.floor(np.outer(left, found.densities)), 1).astype(np.int64)


def masks_of(found: Plan, variables: Variables, client: Array) -> Masks:
    """Return what one client holds of the leaves that some hold in part.

    Args:
      found: of the model.
      variables: whose largest weights a density holds.
      client: () int32, its id.
    """
    width = jnp.asarray(found.width_of, jnp.int32)[client % len(found.width_of)]
    density = jnp.asarray(found.density_of, jnp.int32)[client % len(found.density_of)]
    paths = found.cuts.keys() | found.masked.keys()
    masks = {}
    for path, leaf in tree.pick(variables, paths.__contains__).items():
        mask = jnp.ones(leaf.shape, bool)
        for cut in found.cuts.get(path, ()):
            held = jnp.asarray(_held_channels(cut.channels, found.widths), jnp.int32)[width]
            line = jnp.arange(leaf.shape[cut.axis], dtype=jnp.int32) % cut.channels < held
            mask &= line.reshape([-1 if a == cut.axis else 1 for a in range(leaf.ndim)])
        if path in found.masked:
            count = jnp.asarray(_kept(found, path, leaf.shape), jnp.int32)[width, density]
            # a weight that is 0 comes before all that the width does not hold
            size = jnp.maximum(jnp.abs(leaf), jnp.finfo(leaf.dtype).tiny)
            scores = jnp.where(mask, size, 0)
            mask = topk_mask(scores.ravel(), count).reshape(leaf.shape)
        masks[path] = mask
    return masks


def only(variables: Variables, masks: Masks) -> Variables:
    """Return variables that are 0 where nothing is held."""
    leaves = tree.pick(variables, masks.__contains__)
    return tree.put(variables, {p: jnp.where(masks[p], x, 0) for p, x in leaves.items()})


def confined(optimizer: optax.GradientTransformation, masks: Masks) -> optax.GradientTransformation:
    """Return an optimizer that sees and moves nothing but what is held."""

    def held_alone(updates):
        return only(Variables(updates, {}), masks).params

    def update(updates, state, params=None):
        updates, state = optimizer.update(held_alone(updates), state, params)
        return held_alone(updates), state

    return optax.GradientTransformation(optimizer.init, update)


def left_out(found: Plan, variables: Variables, clients: int) -> dict[str, np.ndarray]:
    """Return how many values of each leaf that some hold in part each client lacks, [K] each."""
    width, density = np.resize(found.width_of, clients), np.resize(found.density_of, clients)
    left = {}
    paths = found.cuts.keys() | found.masked.keys()
    for path, leaf in tree.pick(variables, paths.__contains__).items():
        held = _under_widths(found, path, leaf.shape)[width]
        if path in found.masked:
            held = _kept(found, path, leaf.shape)[width, density]
        left[path] = leaf.size - held
    return left


def bitmaps(found: Plan, variables: Variables, clients: int, paths: Collection[str]) -> np.ndarray:
    """Return the bits that tell each client what its density holds of some kernels, [K]."""
    width, density = np.resize(found.width_of, clients), np.resize(found.density_of, clients)
    bits = np.zeros(clients, np.int64)
    for path, leaf in tree.pick(variables, paths.__contains__).items():
        bits += _under_widths(found, path, leaf.shape)[width] * (found.densities[density] < 1)
    return bits


def _is_statistic(path: str) -> bool:
    return path.startswith("batch_stats/")


def _path(layer: Layer) -> str:
    """Return the path of a layer's kernel in a model."""
    return "/".join(("params", *layer.path))


def _module(path: str) -> str:
    """Return the path of the module that a leaf is of."""
    return path.rpartition("/")[0]
