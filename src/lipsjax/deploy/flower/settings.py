"""From a config to the settings of a Flower app: what is carried over, and what is refused. No JAX.

Whatever would make the app another experiment than the study is refused by name.
"""

import json
from typing import Any

from lipsjax.runs import parts
from lipsjax.runs.config import (
    PARTITIONS,
    Config,
    FaultConfig,
    ParticipationConfig,
    PrivacyConfig,
    SecureConfig,
    SitesConfig,
    SparsityConfig,
    StrategyConfig,
    cohort_size,
)
from lipsjax.runs.fields import shown
from lipsjax.runs.given import is_given

CLIENTS = ("torch", "flax")
STRATEGIES = ("fedavg", "fedprox", "fedavgm")
TORCH_MODELS = ("mlp", "cnn")
TORCH_OPTIMIZERS = {"sgd": ("momentum", "nesterov"), "adam": ("b1", "b2", "eps")}
CRITERIA = ("saliency", "magnitude")
_WHY = {
    "fedadagrad": "Flower's begins its second moment at zero and lipsjax's at tau squared",
    "fedadam": "Flower's corrects the bias of its moments and lipsjax's does not",
    "fedyogi": "Flower's begins its second moment at zero and lipsjax's at tau squared",
}


def settings_of(config: Config, client: str) -> dict[str, Any]:
    """Return the settings of an app: numbers and texts by name, as Flower's run config has them.

    Args:
      config: of one run.
      client: torch or flax.

    Raises:
      ValueError: for a field that cannot be carried over, by name.

    Example:
      >>> found = settings_of(Config(), "torch")
      >>> found["num-server-rounds"], found["batch-size"], "density" in found
      (40, 20, False)
    """
    check(config, client)
    local, model = config.local, config.model
    settings: dict[str, Any] = {
        "num-server-rounds": config.rounds,
        "seed": config.seed,
        "folder": ".",
        "cohort": cohort_size(config),
        "sites": config.partition.clients,
        "strategy": config.strategy.name,
        "model": model.name,
        "norm": model.norm,
        "depth": model.depth,
        "local-epochs": local.epochs,
        "batch-size": local.batch_size,
        "optimizer": local.optimizer,
        "optimizer-options": json.dumps(local.options),
        "learning-rate": local.learning_rate,
        "rate-schedule": local.schedule,
        "weight-decay": local.weight_decay,
    }
    if model.width is not None or client == "torch":
        settings["width"] = 32 if model.width is None else model.width
    options = config.strategy.options
    if config.strategy.name == "fedprox":
        settings["proximal-mu"] = options.get("mu", 0.01)
    if config.strategy.name == "fedavgm":
        settings["server-learning-rate"] = options.get("server_learning_rate", 1.0)
        settings["server-momentum"] = options.get("server_momentum", 0.9)
    if config.sparsity is not None:
        settings["density"] = config.sparsity.density
        settings["density-schedule"] = config.sparsity.schedule
        settings["every"] = config.sparsity.every
        settings["criterion"] = config.sparsity.criterion
        settings["torch-layout"] = client == "torch"
    return settings


def check(config: Config, client: str) -> None:
    """Refuse a config of which something cannot be carried over.

    Raises:
      ValueError: naming the field, its value, and what can.
    """
    if client not in CLIENTS:
        raise ValueError(f"client must be one of {', '.join(CLIENTS)}, not {client!r}")
    if config.partition.pooled:
        raise ValueError("partition.pooled is one site that holds all: there is no federation")
    for kind, name in parts.named_in(config):
        if parts.is_own(kind, name) and kind is not PARTITIONS:  # whose outcome is carried
            raise ValueError(
                f"{kind.field}={name!r} is a part of your own, whose code a Flower app cannot carry"
            )
    _check_strategy(config)
    _check_unused(config)
    if config.sparsity is not None:
        _check_sparsity(config.sparsity)
    if is_given(config.model.name) or is_given(config.local.optimizer):
        raise ValueError("a part that was handed over in Python cannot be carried over to Flower")
    if client == "torch":
        _check_torch(config)


def _check_strategy(config: Config) -> None:
    name = config.strategy.name
    if name not in STRATEGIES:
        why = f": {_WHY[name]}" if name in _WHY else ""
        raise ValueError(
            f"strategy.name={name!r} cannot be carried over to Flower{why}; allowed are "
            f"{', '.join(STRATEGIES)}"
        )
    if config.strategy.options.get("weighted") is False:
        raise ValueError("strategy.options weighted=false cannot be carried over to Flower")
    if name == "fedavgm" and config.model.norm == "batch":
        raise ValueError(
            "strategy.name='fedavgm' cannot be carried over with model.norm='batch': Flower's "
            "gives running statistics momentum too; allowed are group, none"
        )


def _check_unused(config: Config) -> None:
    """Refuse fields that an app has nothing for, unless they are as they always are."""
    usual = Config()
    sections: tuple[tuple[str, Any, Any, tuple[str, ...]], ...] = (
        ("strategy", config.strategy, StrategyConfig(), ("name", "options", "cohort", "trim")),
        ("participation", config.participation, ParticipationConfig(), ()),
        ("faults", config.faults, FaultConfig(), ()),
        ("privacy", config.privacy, PrivacyConfig(), ()),
        ("secure", config.secure, SecureConfig(), ()),
        ("sites", config.sites, SitesConfig(), ("devices", "late")),
    )
    for section, found, default, carried in sections:
        for field in found.__dataclass_fields__:
            value = getattr(found, field)
            if field not in carried and value != getattr(default, field):
                raise ValueError(
                    f"{section}.{field}={shown(value)} cannot be carried over to Flower: leave "
                    "it out"
                )
    alone = {
        "local.augmentation": (config.local.augmentation, ()),
        "model.dtype": (config.model.dtype, usual.model.dtype),
        "partition.new_clients": (config.partition.new_clients, 0),
        "partition.hold_out_sites": (config.partition.hold_out_sites, ()),
        "evaluation.tune_epochs": (config.evaluation.tune_epochs, 0),
        "evaluation.measures": (config.evaluation.measures, ()),
    }
    for name, (value, default) in alone.items():
        if value != default:
            raise ValueError(
                f"{name}={shown(value)} cannot be carried over to Flower: leave it out"
            )


def _check_sparsity(sparsity: SparsityConfig) -> None:
    if sparsity.criterion not in CRITERIA:
        raise ValueError(
            f"sparsity.criterion={sparsity.criterion!r} cannot be carried over to Flower; allowed "
            f"are {', '.join(CRITERIA)}"
        )
    if sparsity.gradient == "fresh" and sparsity.criterion == "saliency":
        raise ValueError(
            "sparsity.gradient='fresh' cannot be carried over to Flower, where a node keeps the "
            "gradient of its last mini-batch; allowed are last_local, stored"
        )
    only = {"operation": "mask", "sharing": "client", "scope": "layer", "refill": "zero"}
    only |= {"hold": 0, "trigger": "schedule"}
    for field, allowed in only.items():
        if (value := getattr(sparsity, field)) != allowed:
            raise ValueError(
                f"sparsity.{field}={shown(value)} cannot be carried over to Flower; allowed is "
                f"{allowed}"
            )


def _check_torch(config: Config) -> None:
    model, local = config.model.name, config.local
    if model not in TORCH_MODELS:
        raise ValueError(
            f"model.name={model!r} has no twin in PyTorch here; allowed are "
            f"{', '.join(TORCH_MODELS)}, or --client flax"
        )
    if local.optimizer not in TORCH_OPTIMIZERS:
        raise ValueError(
            f"local.optimizer={local.optimizer!r} cannot be carried over to PyTorch; allowed are "
            f"{', '.join(TORCH_OPTIMIZERS)}, or --client flax"
        )
    known = TORCH_OPTIMIZERS[local.optimizer]
    for name in local.options:
        if name not in known:
            raise ValueError(
                f"local.options {name} of {local.optimizer} cannot be carried over to PyTorch; "
                f"allowed are {', '.join(known)}, or --client flax"
            )
