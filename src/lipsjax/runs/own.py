"""What own parts must return, and that they are pure: checked before anything is written.

See :mod:`lipsjax.runs.parts` for how they are found and called.
"""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipsjax import tree
from lipsjax.analysis import comparison
from lipsjax.models import Normalise, from_flax
from lipsjax.rounds.spec import Measure
from lipsjax.runs import given, parts
from lipsjax.runs.config import CRITERIA, MEASURES, MODELS, STRATEGIES
from lipsjax.runs.fields import shown
from lipsjax.strategy import Strategy
from lipsjax.types import Array, Layer, Model, Prediction, Variables

RECORDED = ("round", "density", "layers")
"""What rows of a recording have beside the scalars of a round."""


def build_model(
    name: str,
    options: dict[str, Any],
    *,
    num_classes: int,
    input_shape: tuple[int, ...],
    dtype: Any,
    normalise: Normalise | None,
) -> Model:
    """Build an own model: a Flax module, or a :class:`Model`.

    Args:
      name: of the part.
      options: of it.
      num_classes: C.
      input_shape: of one example.
      dtype: of the examples.
      normalise: of a Flax module alone.

    Raises:
      ValueError: in one line, for what it raises, or returns of another type or shape, or that
        changes from call to call.
    """
    where = f"model.name: {name}"
    passed = {"num_classes": num_classes, "input_shape": input_shape}
    if given.is_given(name):
        made = given.find("model.name", name)
        if not isinstance(made, Model | nn.Module):
            made = given.told(where, made, **passed)
    else:
        made = parts.call(MODELS, name, options, **passed)
    if isinstance(made, Model) and normalise is not None:
        raise ValueError(f"model.normalise needs a Flax module, and {name} returns a Model")
    if not isinstance(made, Model | nn.Module):
        raise ValueError(
            f"{where} must return a Flax module or a lipsjax Model, not {type(made).__name__}"
        )
    try:
        model = made if isinstance(made, Model) else from_flax(made, input_shape, normalise)
        variables = jax.eval_shape(model.init, jax.random.key(0))
        examples = jax.ShapeDtypeStruct((2, *input_shape), dtype)
        predict = _predict(model)
        predicted = jax.eval_shape(predict, variables, examples)
    except Exception as error:  # whatever the code of others raises
        raise ValueError(f"{where} cannot be built: {parts.told(error)}") from None
    if not isinstance(variables, Variables) or not isinstance(predicted, Prediction):
        raise ValueError(f"{where}: init must return Variables, and apply a Prediction")
    if predicted.logits.shape != (2, num_classes):
        raise ValueError(
            f"{where} returns logits of shape {predicted.logits.shape} for 2 examples of "
            f"{num_classes} classes; it must be {(2, num_classes)}"
        )
    _check_layers(where, model.layers, variables)
    _check_pure(where, lambda: _predict(model), variables, examples)
    return model


def _predict(model: Model) -> Callable[..., Any]:
    def predict(variables: Variables, examples: Array):
        return model.apply(variables, examples, mask=jnp.ones(2, bool), train=True)

    return predict


def _check_layers(where: str, layers: tuple[Layer, ...], variables: Variables) -> None:
    """Refuse layers of which the parameters hold no kernel."""
    for layer in layers:
        try:
            tree.kernels(variables.params, (layer,))
        except (KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{where} declares a layer {layer.name!r} at {'/'.join(layer.path)}, where there "
                "is no kernel"
            ) from None
    if not layers:
        raise ValueError(f"{where} declares no layers, of which measures are")


def _check_pure(where: str, fresh: Callable[[], Callable[..., Any]], *shapes: Any) -> None:
    """Refuse a function that two traces find different: it draws, or counts its calls.

    Args:
      where: what errors begin with.
      fresh: returns the function as a new object, so that no trace is found in a cache.
      shapes: of its arguments.
    """
    first, second = (jax.make_jaxpr(fresh())(*shapes) for _ in range(2))
    if _program(first) != _program(second):
        raise ValueError(
            f"{where} is not pure: called twice with the same arguments it computes something else"
        )


def _program(jaxpr: Any) -> tuple[str, list[bytes]]:
    """Return a traced program as text and constants, without addresses of this process."""
    constants = [np.asarray(c).tobytes() for c in jaxpr.consts if not _is_key(c)]
    return re.sub(r"0x[0-9a-f]+", "", str(jaxpr)), constants


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def build_strategy(name: str, options: dict[str, Any]) -> Strategy:
    """Build an own strategy.

    Raises:
      ValueError: in one line, for what it raises, or returns of another type.
    """
    made = parts.call(STRATEGIES, name, options)
    if not isinstance(made, Strategy):
        raise ValueError(
            f"strategy.name: {name} must return a lipsjax Strategy, not {type(made).__name__}"
        )
    return made


def build_criterion(name: str) -> Callable[[Array, Any, Array], Array]:
    """Return an own criterion, tried on a few weights.

    Raises:
      ValueError: in one line, for what it raises, or scores of another shape, below 0, not finite,
        or that change from call to call.
    """
    where, criterion = f"sparsity.criterion: {name}", parts.find(CRITERIA, name)
    weights, key = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), jax.random.key(0)
    try:
        first, second = (np.asarray(criterion(weights, 0.5 * weights, key)) for _ in range(2))
    except Exception as error:
        raise ValueError(f"{where} raised {parts.told(error)}") from None
    if first.shape != weights.shape:
        raise ValueError(
            f"{where} returns scores of shape {first.shape} for weights of {weights.shape}"
        )
    if not (first >= 0).all():
        raise ValueError(f"{where} must return scores of at least 0, not {first.min():g}")
    if not np.array_equal(first, second):
        raise ValueError(f"{where} is not pure: the same weights and key gave other scores")
    return criterion


def build_measures(names: tuple[str, ...], model: Model) -> tuple[Measure, ...]:
    """Return own measures, each tried on the shapes of a model's parameters.

    Raises:
      ValueError: in one line, for what one raises, or returns but numbers by name, or that changes
        from call to call.
    """
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    return tuple(_measure(name, params, model.layers) for name in names)


def names_of(measures: tuple[Measure, ...], params: Any, layers: tuple[Layer, ...]) -> list[str]:
    """Return the names of the numbers that own measures give."""
    found = [
        jax.eval_shape(lambda old, new, m=measure: m(old, new, layers), params, params)
        for measure in measures
    ]
    return [name for numbers in found for name in numbers]


def _measure(name: str, params: Any, layers: tuple[Layer, ...]) -> Measure:
    where, measure = f"evaluation.measures: {name}", parts.find(MEASURES, name)

    def fresh() -> Callable[..., Any]:
        return lambda old, new: measure(old, new, layers)

    try:
        found = jax.eval_shape(fresh(), params, params)
    except Exception as error:
        raise ValueError(f"{where} raised {parts.told(error)}") from None
    if not isinstance(found, dict) or not found:
        raise ValueError(
            f"{where} must return a dict of numbers by name, not {type(found).__name__}"
        )
    for key, value in found.items():
        if not isinstance(key, str) or not key.isidentifier() or _is_taken(key):
            raise ValueError(
                f"{where} calls a number {shown(key)}; allowed are names of letters that rows of "
                "a recording do not have, and that are no accuracy's"
            )
        if getattr(value, "shape", ()) != ():
            raise ValueError(f"{where} must return single numbers; {key} has shape {value.shape}")
    _check_pure(where, fresh, params, params)
    return measure


_ENDINGS = ("_bits", "_bits_server_masks", "_difference")
"""Of columns that tables make of names."""


def _is_taken(name: str) -> bool:
    known = (*RECORDED, *comparison.MEASURES)
    return name in known or "accuracy" in name or name.endswith(_ENDINGS)
