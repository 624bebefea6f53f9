"""From a config to a strategy, an optimizer and a simulation."""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lipsjax import clients, models, simulation, strategies
from lipsjax.augmentation import augmentation
from lipsjax.local import LocalTraining
from lipsjax.models import Normalise, weights
from lipsjax.privacy import accounting
from lipsjax.rounds import Participation
from lipsjax.runs import given, levers, own, parts, timing
from lipsjax.runs.config import (
    CRITERIA,
    MODELS,
    STRATEGIES,
    Config,
    LocalConfig,
    PrivacyConfig,
    cohort_size,
    to_dict,
)
from lipsjax.runs.fields import nearest, shown
from lipsjax.runs.machine import Machine
from lipsjax.runs.timing import Sited
from lipsjax.simulation import Simulation
from lipsjax.sparsity import transient_shrink, transient_sparsity
from lipsjax.sparsity.density import SCHEDULES, check_density
from lipsjax.strategy import RANKS, Rank, Strategy, fedavg
from lipsjax.types import Model

_built: dict[str, Sited] = {}


def built_for(
    config: Config,
    data: clients.ClientData,
    num_classes: int,
    normalise: Normalise | None,
    names: tuple[str, ...] | None,
    machine: Machine,
    plan: dict[str, Any],
) -> Sited:
    """Build a simulation, or find one that differs in nothing but seed and examples.

    Args:
      config: the science.
      data: of the clients.
      num_classes: of the data set.
      normalise: what the model does to its inputs.
      names: of the sites, where the data name them.
      machine: whose devices there are.
      plan: how to run it.
    """
    mesh = simulation.client_mesh(plan["devices"], machine.devices)
    science = to_dict(dataclasses.replace(config, seed=0))
    shapes = [(x.shape, str(x.dtype)) for x in jax.tree.leaves(data)]
    known = [data.num_examples.tolist(), num_classes, normalise, names]
    # a file of weights may have been written anew since, under its old name
    key = json.dumps([science, parts.identity(config), plan, shapes, known], sort_keys=True)
    if key not in _built:
        if len(_built) == 8:  # compiled programs are large
            _built.clear()
        pieces = Pieces(config, plan, data, num_classes, normalise, mesh)
        build, narrow = functools.partial(_build, pieces), functools.partial(_build_narrow, pieces)
        _built[key] = timing.place(config, build, narrow, data, names)
    return _built[key]


class Pieces(NamedTuple):
    """What a simulation is built from, whoever takes part in it."""

    config: Config
    plan: dict[str, Any]
    data: clients.ClientData
    num_classes: int
    normalise: Normalise | None
    mesh: Mesh


def _build_narrow(pieces: Pieces, share: float) -> Simulation:
    """Build a simulation in which all train a narrower model, whose FLOPs can be counted."""
    narrow = levers.narrowed(pieces.config, share)
    everybody = Participation(**to_dict(narrow.participation))
    return _build(pieces._replace(config=narrow), levers.Levers(), everybody)


def _build(pieces: Pieces, given_up: levers.Levers, participation: Participation) -> Simulation:
    """Build a simulation whose sites give something up, and take part so far."""
    config, plan, data, num_classes, normalise, mesh = pieces
    model = _model(config, plan, data, num_classes, normalise)
    model = _begun(config, model, data.train.inputs.shape[1:])
    strategy = build_strategy(config, num_classes, given_up)
    local = config.local
    built = simulation.build(
        model,
        strategy,
        LocalTraining(
            build_optimizer(local),
            local.epochs,
            local.batch_size,
            rate=_rate(local.schedule, config.rounds),
            augment=augmentation(local.augmentation, data.train.inputs.shape[1:]),
        ),
        rounds=config.rounds,
        data=data,
        cohort_size=cohort_size(config),
        evaluate_every=config.evaluation.every,
        clients_on_global=config.evaluation.clients_on_global,
        participation=participation,
        new_clients=config.partition.new_clients,
        tune_epochs=config.evaluation.tune_epochs,
        measures=own.build_measures(config.evaluation.measures, model),
        mesh=mesh,
        chunk=plan["chunk"],
    )
    if named := parts.own_parts(config):
        try:
            built.trace(1)  # so that what a part raises in a round is said before all else
        except Exception as error:
            raise ValueError(
                f"a round with {' and '.join(named)} cannot be built: {parts.told(error)}"
            ) from None
    return built


def _begun(config: Config, model: Model, input_shape: tuple[int, ...]) -> Model:
    """Return a model that begins with the weights of a file, where the config names one.

    Raises:
      ValueError: for a file that cannot be read, or is not of this model.
    """
    if config.model.init is None:
        return model
    like = jax.eval_shape(model.init, jax.random.key(0))
    try:
        begin = weights.load(config.model.init, like, config.model.name, input_shape)
    except ValueError as error:
        raise ValueError(f"model.init: {error}") from None
    return model._replace(init=lambda key: jax.tree.map(jnp.asarray, begin))


def _model(
    config: Config,
    plan: dict[str, Any],
    data: clients.ClientData,
    num_classes: int,
    normalise: Normalise | None,
) -> Model:
    """Return the network, of this package or from outside."""
    chosen, inputs = config.model, data.train.inputs
    if parts.is_own(MODELS, chosen.name) or given.is_given(chosen.name):
        if chosen.dtype != "float32":
            raise ValueError(
                f"model.dtype is not read by {chosen.name}: make it an option of its own"
            )
        return own.build_model(
            chosen.name,
            chosen.options,
            num_classes=num_classes,
            input_shape=inputs.shape[1:],
            dtype=inputs.dtype,
            normalise=normalise,
        )
    if chosen.options:
        raise ValueError(
            f"model.options are of own models, and {chosen.name} has model.width and others "
            f"instead: {chosen.options}"
        )
    return models.build(
        chosen.name,
        num_classes=num_classes,
        input_shape=inputs.shape[1:],
        width=chosen.width,
        depth=chosen.depth,
        norm=chosen.norm,
        normalise=normalise,
        conv=plan["conv"],
        dtype=chosen.dtype,
    )


Wrap = Callable[[Strategy], Strategy]


def build_strategy(
    config: Config, num_classes: int, given_up: levers.Levers | None = None
) -> Strategy:
    """Build the strategy that a config describes, and what is wrapped around it.

    What sites give up is as the config says, where it is not given.

    Wrappers go around each other in the order of their ranks (:class:`~lipsjax.strategy.Rank`). A
    strategy that is a wrapper itself, such as ditto, takes its place among them.

    Raises:
      ValueError: for options that do not exist, or wrappers that do not work together.
    """
    chosen = config.strategy
    given_up = levers.of_config(config) if given_up is None else given_up
    wraps = {
        **_client_wraps(config, num_classes, given_up),
        **_privacy_wraps(config),
        **_server_wraps(config),
    }
    factory: Any = getattr(strategies, chosen.name, None)
    strategy = fedavg()
    if parts.is_own(STRATEGIES, chosen.name):
        strategy = own.build_strategy(chosen.name, chosen.options)
    elif chosen.name in RANKS:
        if RANKS[chosen.name] in wraps:
            taken = "transient_sparsity" if RANKS[chosen.name] == Rank.BROADCAST else chosen.name
            raise ValueError(f"{taken} cannot wrap {chosen.name}: one of its kind is enough")
        _check_options(factory, chosen.options, given=["strategy", "kinds"])
        wraps[RANKS[chosen.name]] = lambda inner: factory(inner, **chosen.options)
    else:
        _check_options(factory, chosen.options, given=["kinds"])
        strategy = factory(**chosen.options)
    for _, wrap in sorted(wraps.items(), key=lambda ranked: ranked[0]):
        strategy = wrap(strategy)
    return strategy


def _client_wraps(config: Config, num_classes: int, given_up: levers.Levers) -> dict[Rank, Wrap]:
    """Return what is wrapped around what clients do, by rank."""
    chosen, faults, wraps = config.strategy, config.faults, {}
    if chosen.norm != "global":
        with_biases = chosen.norm == "local_with_biases"
        if config.model.norm == "none" and not with_biases:
            raise ValueError("strategy.norm='local' needs a model with normalisation, not 'none'")

        def is_personal(path: str) -> bool:
            return models.is_norm(path) or (with_biases and models.is_bias(path))

        wraps[Rank.KEEP] = lambda inner: strategies.keep_local(inner, is_personal)
    if faults.clients:
        wraps[Rank.FAULT] = lambda inner: strategies.faulty(
            inner, num_classes=num_classes, **to_dict(faults)
        )
    part = {n: getattr(given_up, n) for n in ("widths", "densities")}
    part = {n: shares for n, shares in part.items() if any(share < 1 for share in shares)}
    if part:
        wraps[Rank.PART] = lambda inner: strategies.submodels(inner, **part)
    options: dict[str, Any] = dict(chosen.compression_options)
    if given_up.fractions:
        options["fraction"] = given_up.fractions
    if chosen.compression == "none" and options:
        raise ValueError(f"strategy.compression_options need a compression, not none: {options}")
    if chosen.compression == "sign_majority":
        _check_options(strategies.sign_majority, options, given=["strategy"])
        wraps[Rank.VOTE] = lambda inner: strategies.sign_majority(inner, **options)
    elif chosen.compression != "none":
        codec = getattr(strategies, chosen.compression)
        _check_options(codec, options)
        wraps[Rank.ENCODE] = lambda inner: strategies.compress(inner, codec(**options))
    return wraps


def _server_wraps(config: Config) -> dict[Rank, Wrap]:
    """Return what is wrapped around what the server does, by rank."""
    chosen, wraps = config.strategy, {}
    norm, secure = chosen.clip_norm, config.secure
    if norm is not None:
        wraps[Rank.CLIP] = lambda inner: strategies.clip(inner, norm=norm)
    if secure.bits is not None:
        hidden = {"bits": secure.bits, "clip": secure.clip}
        wraps[Rank.SECURE] = lambda inner: strategies.secure(inner, **hidden)
    if chosen.aggregation == "median":
        wraps[Rank.AGGREGATE] = strategies.median
    elif chosen.aggregation == "trimmed_mean":
        wraps[Rank.AGGREGATE] = lambda inner: strategies.trimmed_mean(inner, trim=chosen.trim)
    if config.sparsity is not None:
        wraps[Rank.BROADCAST] = _sparse(to_dict(config.sparsity))
    return wraps


def _privacy_wraps(config: Config) -> dict[Rank, Wrap]:
    """Return what protects clients, or the examples of each, by rank."""
    usual, options = to_dict(PrivacyConfig()), to_dict(config.privacy)
    given = [name for name, value in options.items() if value != usual[name]]
    if config.privacy.clip is None:
        if given:
            raise ValueError(
                f"privacy.{given[0]} needs privacy.clip: without it nothing is bounded"
            )
        return {}
    accounting.check_installed()
    if config.model.normalise:
        raise ValueError(
            "privacy.clip goes with no model.normalise: mean and deviation are of the clients' raw "
            "data, and no noise covers them; normalise by figures of public data instead"
        )
    if options.pop("unit") == "client":
        return {Rank.PRIVATE: lambda inner: strategies.private(inner, **options)}
    for name in ("adaptive", "reference", "mechanism", "noise_cohort_size"):
        del options[name]
        if name in given:
            raise ValueError(
                f"privacy.{name} is of clients' updates, and privacy.unit is example: leave it out"
            )
    return {Rank.EXAMPLES: lambda inner: strategies.private_examples(inner, **options)}


def _sparse(masks: dict[str, Any]) -> Wrap:
    """Return what makes broadcasts sparse, or shrinks what they would mask."""
    density = check_density(masks.pop("density"))
    schedule = SCHEDULES[masks.pop("schedule")](density)
    operation, adapts = masks.pop("operation"), masks["trigger"] == "inertia"
    if adapts and operation != "mask":
        raise ValueError(
            f"operation must be mask with trigger='inertia', not {operation!r}: a layer that "
            "shrinks has one density with all others"
        )
    if operation == "mask":
        if parts.is_own(CRITERIA, masks["criterion"]):
            masks["criterion"] = own.build_criterion(masks["criterion"])
        rule = density if adapts else schedule
        return lambda inner: transient_sparsity(inner, density=rule, **masks)
    return lambda inner: transient_shrink(
        inner,
        density=schedule,
        every=masks["every"],
        perturb=operation == "shrink_perturb",
        kinds=masks["kinds"],
    )


def _check_options(
    factory: Callable[..., Any], options: dict[str, Any], given: Iterable[str] = ()
) -> None:
    """Refuse options that a function does not take, or that are given already."""
    allowed = [n for n in inspect.signature(factory).parameters if n not in given]
    for option, value in options.items():
        if option not in allowed:
            raise ValueError(
                f"unknown option {option!r} of {factory.__name__}{nearest(option, allowed)}; "
                f"allowed are {', '.join(allowed) or 'none'}"
            )
        if isinstance(value, str):
            raise ValueError(
                f"option {option} of {factory.__name__} must be a number, or true or false, not "
                f"{shown(value)}"
            )


def build_optimizer(local: LocalConfig) -> optax.GradientTransformation:
    """Build an optax optimizer by name.

    Raises:
      ValueError: if optax has none of that name, or it does not take an option.

    Example:
      >>> _ = build_optimizer(LocalConfig(optimizer="adam", options={"b1": 0.8}))
    """
    is_given = given.is_given(local.optimizer)
    factory: Any = (
        given.find("local.optimizer", local.optimizer)
        if is_given
        else getattr(optax, local.optimizer, None)
    )
    if not _takes_a_rate(factory):
        raise ValueError(
            f"optimizer must be one of optax that takes a learning rate (sgd, adam, "
            f"adamw, ...), not {shown(local.optimizer)}"
        )
    allowed = [n for n in inspect.signature(factory).parameters if n != "learning_rate"]
    for name in local.options:
        if name not in allowed:
            raise ValueError(
                f"unknown option {name!r} of {local.optimizer}; local.options replaces all of "
                f"them (none clears them), allowed are {', '.join(allowed)}"
            )
    for field in ("learning_rate", "weight_decay"):
        if getattr(local, field) < 0:
            raise ValueError(f"{field} must be at least 0, not {getattr(local, field)}")
    if local.weight_decay and "weight_decay" in allowed:
        raise ValueError(
            f"{local.optimizer} decays weights itself: give --local.options weight_decay="
            f"{local.weight_decay} instead of local.weight_decay, which adds to the gradient"
        )
    example = {"kernel": jnp.ones((2, 2))}
    try:
        optimizer = factory(local.learning_rate, **local.options)
        if local.weight_decay:
            optimizer = optax.chain(optax.add_decayed_weights(local.weight_decay), optimizer)
        jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), example)
    except Exception as error:  # whatever optax makes of a value that it cannot use
        raise ValueError(
            f"optimizer {local.optimizer} with options {local.options} cannot be used: {error}"
        ) from None
    return optimizer


def _takes_a_rate(factory: Any) -> bool:
    """Tell whether this is a function that makes an optimizer, also one that is made of another."""
    if not callable(factory) or inspect.isclass(factory):
        return False
    return "learning_rate" in inspect.signature(factory).parameters


def _rate(schedule: str, rounds: int) -> Callable[[jax.Array], jax.Array] | None:
    """Return round -> factor of the learning rate: 1 at the first, 0 after the last."""
    if schedule == "linear":
        return lambda t: 1 - t / rounds
    if schedule == "cosine":
        return lambda t: (1 + jnp.cos(jnp.pi * t / rounds)) / 2
    return None
