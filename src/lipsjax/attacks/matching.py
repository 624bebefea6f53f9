"""Search for examples whose local training sends what a client sent.

Written for one client; the caller vmaps over clients and over restarts.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lipsjax import tree
from lipsjax.attacks.seen import Delta, Seen
from lipsjax.local import LocalTraining, model_loss, train
from lipsjax.types import Array, Examples, Model, Variables


class Search(NamedTuple):
    """How examples are searched for."""

    distance: Literal["squared", "cosine"]
    optimizer: Literal["lbfgs", "signed_adam"]
    steps: int
    total_variation: float = 0.0  # weight of the prior that neighbouring pixels are alike
    rate: float = 0.1  # of signed Adam


ENOUGH = 1e-11
"""An objective at which a search by L-BFGS ends."""
DLG = Search("squared", "lbfgs", steps=300)
"""Zhu et al., "Deep Leakage from Gradients", arXiv 1906.08935, with labels inferred first."""
COSINE = Search("cosine", "signed_adam", steps=2000, total_variation=1e-2)
"""Geiping et al., "Inverting Gradients", arXiv 2003.14053."""


class Found(NamedTuple):
    """What a search ends with."""

    inputs: Array  # [n, ...]
    objective: Array  # (), of these


def simulate(
    model: Model,
    training: LocalTraining,
    start: Variables,
    inputs: Array,
    labels: Array,
    mask: Array,
    key: Array,
) -> Delta:
    """Return what the local training of some examples would add to every parameter, by path.

    It is plain local training, by the code that clients run, in an order of batches of the
    attacker's own, as theirs is not known.

    Args:
      model: the network.
      training: optimizer, epochs and batch size.
      start: what training starts from.
      inputs: [n, ...].
      labels: [n] int32.
      mask: [n] bool, False on padding, which comes last.
      key: of the batches.
    """
    result = train(
        key,
        start,
        Examples(inputs, labels),
        jnp.arange(len(labels), dtype=jnp.int32),
        mask,
        training=training,
        loss_fn=model_loss(model),
        layers=model.layers,
        ragged=True,
        gradient_layers=(),
    )
    moved = tree.subtract(result.variables.params, start.params)
    return tree.pick(Variables(moved, {}), lambda path: True)


def distance(kind: str, simulated: Delta, seen: Seen) -> Array:
    """Return how far a simulated update is from the one that was seen, over what is matched.

    With both as vectors s and d of the values that ``seen.matched`` names, ``squared`` is
    ``||s - d||^2 / ||d||^2`` and ``cosine`` is ``1 - <s, d> / (||s|| ||d||)``.

    Example:
      >>> from lipsjax.attacks.seen import Seen
      >>> d = {"w": jnp.array([3.0, 4.0])}
      >>> seen = Seen(None, d, {"w": jnp.array([True, True])})
      >>> [float(distance(k, {"w": -d["w"]}, seen)) for k in ("squared", "cosine")]
      [4.0, 2.0]
    """
    pairs = [
        (jnp.where(seen.matched[path], simulated[path], 0), jnp.where(seen.matched[path], d, 0))
        for path, d in seen.delta.items()
    ]

    def product(which: Callable[[Array, Array], tuple[Array, Array]]) -> Array:
        return jnp.sum(jnp.stack([jnp.vdot(*which(s, d)) for s, d in pairs]))

    size = product(lambda s, d: (d, d))
    if kind == "squared":
        return product(lambda s, d: (s - d, s - d)) / jnp.maximum(size, _tiny(size))
    squares = product(lambda s, d: (s, s)) * size
    cosine = product(lambda s, d: (s, d)) / jnp.sqrt(jnp.maximum(squares, _tiny(size)))
    return 1 - cosine


def _tiny(x: Array) -> Any:
    return jnp.finfo(x.dtype).tiny


def total_variation(images: Array) -> Array:
    """Return the mean absolute difference of neighbours along each axis but first and last.

    >>> float(total_variation(jnp.array([[[[0.0], [1.0]], [[0.0], [1.0]]]])))
    1.0
    """
    axes = range(1, images.ndim - 1)
    parts = [jnp.mean(jnp.abs(jnp.diff(images, axis=axis))) for axis in axes]
    return sum(parts, jnp.zeros((), images.dtype))


def objective_of(
    model: Model,
    training: LocalTraining,
    seen: Seen,
    labels: Array,
    mask: Array,
    key: Array,
    search: Search,
) -> Callable[[Array], Array]:
    """Return what a search minimises: (inputs [n, ...]) -> ()."""

    def objective(inputs: Array) -> Array:
        simulated = simulate(model, training, seen.start, inputs, labels, mask, key)
        value = distance(search.distance, simulated, seen)
        if search.total_variation:
            value += search.total_variation * total_variation(inputs)
        return value

    return objective


def reconstruct(
    objective: Callable[[Array], Array],
    inputs: Array,
    search: Search,
    *,
    low: float | Array = -jnp.inf,
    high: float | Array = jnp.inf,
) -> Found:
    """Minimise an objective from some inputs on.

    L-BFGS with a zoom line search is unbounded; what it ends with is clipped. Signed Adam takes the
    sign of the gradient for the gradient, a tenth of its rate after 3/8, 5/8 and 7/8 of the steps,
    and stays between the bounds.

    Args:
      objective: (inputs) -> ().
      inputs: [n, ...], where it begins.
      search: optimizer and steps.
      low: the least that an input may be; broadcast against inputs.
      high: the largest.

    Returns:
      The best inputs that were visited, and their objective.

    Example:
      >>> target = jnp.array([[0.5, -0.25]])
      >>> found = reconstruct(lambda x: jnp.sum((x - target) ** 2), jnp.zeros((1, 2)), DLG)
      >>> bool(jnp.abs(found.inputs - target).max() < 1e-6)
      True
    """
    minimise = _by_lbfgs if search.optimizer == "lbfgs" else _by_signed_adam
    x, best = minimise(objective, inputs, search, low, high)
    value = objective(x)
    found = _better(best, Found(x, value))
    return found._replace(inputs=jnp.clip(found.inputs, low, high))


def _better(a: Found, b: Found) -> Found:
    return Found(*(jnp.where(b.objective < a.objective, y, x) for x, y in zip(a, b, strict=True)))


def _nothing(inputs: Array) -> Found:
    return Found(inputs, jnp.full((), jnp.inf, inputs.dtype))


def _by_lbfgs(
    objective: Callable[[Array], Array], inputs: Array, search: Search, low: Any, high: Any
) -> tuple[Array, Found]:
    """Minimise without bounds; a search that no longer gets lower ends.

    One that has ended stands still with a gradient of zero, whose line search is over at once: in a
    vmap all wait for the longest.
    """
    del low, high
    optimizer = optax.lbfgs()
    value_and_grad: Any = optax.value_and_grad_from_state(objective)

    def step(carry, _):
        x, state, best, ended = carry
        value, gradient = value_and_grad(x, state=state)
        ended |= (value >= best.objective) | (value < ENOUGH)
        best = _better(best, Found(x, value))
        gradient = jnp.where(ended, 0, gradient)
        updates: Any
        updates, state = optimizer.update(
            gradient, state, x, value=value, grad=gradient, value_fn=objective
        )
        return (jnp.where(ended, x, x + updates), state, best, ended), None

    start = (inputs, optimizer.init(inputs), _nothing(inputs), jnp.zeros((), bool))
    (x, _, best, _), _ = jax.lax.scan(step, start, length=search.steps)
    return x, best


def _by_signed_adam(
    objective: Callable[[Array], Array], inputs: Array, search: Search, low: Any, high: Any
) -> tuple[Array, Found]:
    """Minimise within bounds by Adam on signs, a tenth of the rate after 3/8, 5/8 and 7/8."""
    marks = [search.steps * eighths // 8 for eighths in (3, 5, 7)]
    rates = optax.piecewise_constant_schedule(search.rate, dict.fromkeys(marks, 0.1))
    optimizer = optax.adam(rates)

    def step(carry, _):
        x, state, best = carry
        value, gradient = jax.value_and_grad(objective)(x)
        best = _better(best, Found(x, value))
        updates: Any
        updates, state = optimizer.update(jnp.sign(gradient), state, x)
        return (jnp.clip(x + updates, low, high), state, best), None

    start = (inputs, optimizer.init(inputs), _nothing(inputs))
    (x, _, best), _ = jax.lax.scan(step, start, length=search.steps)
    return x, best
