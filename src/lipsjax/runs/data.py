"""From a config to who holds what: the partition that it asks for. No JAX here."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lipsjax import clients, datasets, partition
from lipsjax.runs import parts as own_parts
from lipsjax.runs.config import (
    PARTITIONS,
    Config,
    PartitionConfig,
    cohort_size,
    num_clients,
    to_dict,
)
from lipsjax.runs.fields import shown


class Shared(NamedTuple):
    """A data set, shared out among clients."""

    dataset: datasets.Dataset  # that positions are of: parted anew where sites are natural
    partition: partition.Partition
    data: clients.ClientData
    names: tuple[str, ...] | None  # of clients, where the data name their sites


def share_out(
    config: Config, dataset: datasets.Dataset, *, processes: int = 1, process: int = 0
) -> Shared:
    """Partition a data set among the clients, as the config and its seed say.

    Args:
      config: the science; its numbers are checked by :func:`check_numbers`.
      dataset: to share out.
      processes: of several, each gets the examples of its own clients.
      process: which of them this is.

    Returns:
      Who holds what of the data set, and the data of clients, distorted if the config says so.
      Of a natural partition the seed draws what of a site is for testing.

    Raises:
      ValueError: for a partition that the data set cannot serve.
    """
    wanted = config.partition
    if wanted.overlap and wanted.kind != "dirichlet":
        raise ValueError(f"partition.overlap needs partition.kind='dirichlet', not {wanted.kind!r}")
    most = len(dataset.train.labels) - wanted.new_clients
    if wanted.kind != "natural" and not wanted.overlap and wanted.clients > most:
        raise ValueError(
            f"partition.clients must be at most {most}, the training examples of {dataset.name} "
            f"that new_clients leave, not {wanted.clients}"
        )
    # a stream for each purpose, so that none depends on how much another draws
    for_clients, for_test, for_sizes, for_looks = np.random.default_rng(config.seed).spawn(4)
    names = None
    if wanted.kind == "natural":
        dataset = datasets.split(
            dataset, rule=wanted.split, share=wanted.test_share, rng=for_clients
        )
        if wanted.score_whole:
            _check_unused(wanted, config.evaluation.tune_epochs)
            dataset = partition.whole_for_testing(dataset, wanted.hold_out_sites)
        parts, names = partition.natural(
            dataset,
            held_out=wanted.hold_out_sites,
            most_examples=wanted.most_examples,
            rng=for_sizes,
        )
    elif own_parts.is_own(PARTITIONS, wanted.kind):
        parts = _own(wanted, dataset, config.seed)
    else:
        parts = _split(wanted, dataset, _train_sizes(wanted, for_sizes), for_clients)
    own, held = dataset, parts
    if wanted.features != "alike":
        own, held = partition.distort(
            dataset, parts, kind=wanted.features, skew=wanted.feature_skew, rng=for_looks
        )
    if wanted.pooled:
        parts, held = (partition.pool(each, wanted.clients) for each in (parts, held))
    data = clients.stack(
        own,
        held,
        global_examples=config.evaluation.global_examples,
        rng=for_test,
        global_from=_of_global_test(wanted, dataset, parts),
        processes=processes,
        process=process,
    )
    return Shared(dataset, parts, data, names)


def _check_unused(wanted: PartitionConfig, tune_epochs: int) -> None:
    """Refuse to score what sites that are held out would fine-tune on."""
    if wanted.hold_out_sites and tune_epochs:
        raise ValueError(
            "partition.score_whole scores sites that are held out on all of their examples, and "
            f"evaluation.tune_epochs={tune_epochs} would train on some of them: leave one out"
        )


def _of_global_test(
    wanted: PartitionConfig, dataset: datasets.Dataset, parts: partition.Partition
) -> np.ndarray:
    """Return which test examples the global test set is of: of sites, those that train alone."""
    if wanted.kind != "natural":
        return np.arange(len(dataset.test.labels))
    trained = parts.test[: len(parts.test) - wanted.new_clients]
    return np.unique(np.concatenate(trained))


def _split(
    wanted: PartitionConfig,
    dataset: datasets.Dataset,
    train_sizes: np.ndarray,
    rng: np.random.Generator,
) -> partition.Partition:
    """Return who holds what."""
    sizes = {
        "train_sizes": train_sizes,
        "test_sizes": np.full(len(train_sizes), wanted.test_examples),
    }
    if wanted.kind == "iid":
        return partition.iid(dataset, rng=rng, **sizes)
    if wanted.kind == "shards":
        return partition.shards(dataset, classes=wanted.classes, rng=rng, **sizes)
    return partition.dirichlet(
        dataset, alpha=wanted.alpha, overlap=wanted.overlap, rng=rng, **sizes
    )


def _own(wanted: PartitionConfig, dataset: datasets.Dataset, seed: int) -> partition.Partition:
    """Return what an own partition makes of the data; it draws from a generator of the seed.

    Raises:
      ValueError: for what it raises, or returns that is no partition, or changes from call to call.
    """
    where, clients_ = f"partition.kind: {wanted.kind}", wanted.clients + wanted.new_clients

    def make() -> Any:
        given = {"dataset": dataset, "rng": np.random.default_rng(seed), "clients": clients_}
        return own_parts.call(PARTITIONS, wanted.kind, wanted.options, **given)

    made, again = make(), make()
    for each in (made, again):
        if not isinstance(each, partition.Partition):
            raise ValueError(f"{where} must return a lipsjax Partition, not {type(each).__name__}")
    for split, size in (("train", len(dataset.train.labels)), ("test", len(dataset.test.labels))):
        held = [np.asarray(positions) for positions in getattr(made, split)]
        if len(held) != clients_:
            raise ValueError(
                f"{where} gives {split} examples of {len(held)} clients, not {clients_}"
            )
        for client, positions in enumerate(held):
            fits = positions.ndim == 1 and len(positions) and positions.dtype.kind in "iu"
            if not fits or positions.min() < 0 or positions.max() >= size:
                raise ValueError(
                    f"{where} must give client {client} at least one {split} example, as "
                    f"positions in 0..{size - 1}"
                )
        others = [np.asarray(positions) for positions in getattr(again, split)]
        if len(others) != clients_ or not all(map(np.array_equal, held, others)):
            raise ValueError(f"{where} is not the same at every call: draw from rng alone")
    if np.shape(made.requested) != (clients_, dataset.num_classes):
        raise ValueError(
            f"{where} must give requested of shape {(clients_, dataset.num_classes)}, not "
            f"{np.shape(made.requested)}"
        )
    return made


def _train_sizes(wanted: PartitionConfig, rng: np.random.Generator) -> np.ndarray:
    """Return the number of training examples of each client, [K]."""
    asked = wanted.train_examples
    clients = wanted.clients + wanted.new_clients
    if isinstance(asked, int):
        return partition.sizes(
            wanted.sizes, mean=asked, clients=clients, skew=wanted.size_skew, rng=rng
        )
    if wanted.sizes != "equal":
        raise ValueError(
            f"partition.sizes={wanted.sizes!r} needs one number as partition.train_examples, their "
            f"mean, not {len(asked)} numbers"
        )
    if len(asked) != clients:
        raise ValueError(
            f"partition.train_examples must be one number or {clients}, one for each client, not "
            f"{len(asked)} numbers"
        )
    return np.array(asked)


def check_numbers(config: Config) -> None:
    """Refuse numbers that no later check would name as the user does.

    Raises:
      ValueError: naming the field, the value and what is allowed.
    """
    for name, value in _numbers(to_dict(config)):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, not {value}")
    at_least_one = {
        "model.depth": config.model.depth,
        "rounds": config.rounds,
        "partition.clients": config.partition.clients,
        "partition.train_examples": np.min(config.partition.train_examples, initial=2**31),
        "partition.test_examples": config.partition.test_examples,
        "local.epochs": config.local.epochs,
        "local.batch_size": config.local.batch_size,
        "strategy.cohort": cohort_size(config),
        "evaluation.every": config.evaluation.every,
    }
    if config.model.width is not None:
        at_least_one["model.width"] = config.model.width
    if config.partition.most_examples is not None:
        at_least_one["partition.most_examples"] = config.partition.most_examples
    at_least_zero = {
        "partition.new_clients": config.partition.new_clients,
        "evaluation.tune_epochs": config.evaluation.tune_epochs,
        "faults.clients": config.faults.clients,
    }
    for least, values in ((1, at_least_one), (0, at_least_zero)):
        for name, value in values.items():
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
    at_most = {
        "rounds": (config.rounds, 100_000),
        "partition.clients": (config.partition.clients, 1_000_000),
        "partition.new_clients": (config.partition.new_clients, 1_000_000),
        "model.width": (config.model.width or 1, 65_536),
        "model.depth": (config.model.depth, 1_000),
        "local.epochs": (config.local.epochs, 100_000),
        "evaluation.tune_epochs": (config.evaluation.tune_epochs, 100_000),
    }
    for name, (value, most) in at_most.items():
        if value > most:
            raise ValueError(f"{name} must be at most {most}, not {shown(value)}")
    for name, value in _numbers(to_dict(config), int):
        if not -(2**31) <= value < 2**32:
            raise ValueError(f"{name} must be a number of at most 32 bits, not {shown(value)}")
    if config.faults.clients > num_clients(config):
        raise ValueError(
            f"faults.clients must be at most {num_clients(config)}, the clients, not "
            f"{config.faults.clients}"
        )
    if config.participation.sampling == "examples" and config.strategy.options.get("weighted"):
        raise ValueError(
            "strategy.options weighted=true and participation.sampling='examples' would weigh "
            "clients by their examples twice: leave one of the two out"
        )
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must be in 0..{2**32 - 1}, not {config.seed}")


def _numbers(
    values: dict[str, Any], kind: type = float, prefix: str = ""
) -> Iterator[tuple[str, float]]:
    """Yield every number of a type in a config with its dotted name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, kind, f"{prefix}{name}.")
            continue
        for each in value if isinstance(value, tuple | list) else (value,):
            if type(each) is kind:
                yield prefix + name, each
