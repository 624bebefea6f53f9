"""Which fields of a config nothing reads, because of what other fields say. No JAX here."""

import dataclasses
from collections.abc import Callable, Mapping

from lipsjax.runs import parts
from lipsjax.runs.config import (
    CRITERIA,
    MODELS,
    PARTITIONS,
    Config,
    PrivacyConfig,
    SitesConfig,
    SparsityConfig,
)
from lipsjax.runs.given import is_given

SHRINKING = ("density", "schedule", "every", "operation", "kinds")
"""Fields of sparsity that operations other than mask read too."""
PRIVACY = [f"privacy.{f.name}" for f in dataclasses.fields(PrivacyConfig) if f.name != "clip"]
"""Fields that only a clip makes read."""
NEEDS_GRADIENT = ("saliency", "gradient", "inverted")
"""Criteria that read where the gradient is from."""


def _has_no_limit(wanted: SitesConfig) -> bool:
    """Tell whether nobody can be late or over a budget; a table may hold budgets."""
    has_table = any(name.endswith(".csv") for name in wanted.devices)
    return wanted.deadline is None and wanted.budget is None and not has_table


def is_own_model(config: Config) -> bool:
    """Tell whether the model is from outside, with options of its own.

    >>> is_own_model(Config())
    False
    """
    return parts.is_own(MODELS, config.model.name) or is_given(config.model.name)


_UNREAD: Mapping[str, Callable[[Config], bool]] = {
    "partition.alpha": lambda c: c.partition.kind != "dirichlet",
    "partition.classes": lambda c: c.partition.kind != "shards",
    "partition.hold_out_sites": lambda c: c.partition.kind != "natural",
    "partition.score_whole": lambda c: (
        c.partition.kind != "natural" or not c.partition.hold_out_sites
    ),
    "partition.split": lambda c: c.partition.kind != "natural",
    "partition.test_share": lambda c: c.partition.kind != "natural" or c.partition.split == "given",
    "partition.most_examples": lambda c: c.partition.kind != "natural",
    "partition.options": lambda c: not parts.is_own(PARTITIONS, c.partition.kind),
    "partition.size_skew": lambda c: c.partition.sizes == "equal",
    "partition.feature_skew": lambda c: c.partition.features == "alike",
    "model.width": lambda c: c.model.name == "vgg5" or is_own_model(c),
    "model.depth": lambda c: c.model.name not in ("mlp", "vit"),
    "model.norm": lambda c: c.model.name == "vit" or is_own_model(c),
    "model.dtype": is_own_model,
    "strategy.trim": lambda c: c.strategy.aggregation != "trimmed_mean",
    "strategy.cohort": lambda c: c.partition.pooled,
    "participation.min_work": lambda c: c.participation.stragglers == 0,
    **dict.fromkeys(PRIVACY, lambda c: c.privacy.clip is None),
    "secure.clip": lambda c: c.secure.bits is None,
    "sites.deadline": lambda c: not c.sites.devices,
    "sites.late": lambda c: not c.sites.devices or _has_no_limit(c.sites),
    **dict.fromkeys(("sites.budget", "sites.price_per_hour"), lambda c: not c.sites.devices),
    "faults.kind": lambda c: c.faults.clients == 0,
    "faults.scale": lambda c: c.faults.clients == 0 or c.faults.kind in ("label_flip", "nan"),
}
"""Field -> whether nothing reads it."""


def adapts(sparsity: SparsityConfig) -> bool:
    """Tell whether inertia decides on sparse broadcasts, and no schedule.

    >>> adapts(SparsityConfig())
    False
    """
    return sparsity.trigger == "inertia"


def unread(config: Config) -> set[str]:
    """Return the dotted names of the fields that make no difference to a run.

    Example:
      >>> "partition.classes" in unread(Config())
      True
    """
    found = {name for name, is_unread in _UNREAD.items() if is_unread(config)}
    sparsity = config.sparsity
    if sparsity is None:
        return found
    fields = {field.name for field in dataclasses.fields(sparsity)}
    by_inertia = {"sparsity.threshold", "sparsity.window"}
    found |= {"sparsity.schedule"} if adapts(sparsity) else by_inertia
    if sparsity.operation != "mask":
        return found | {f"sparsity.{name}" for name in fields.difference(SHRINKING)}
    reads = parts.is_own(CRITERIA, sparsity.criterion) or sparsity.criterion in NEEDS_GRADIENT
    if not reads:
        found.add("sparsity.gradient")
    return found


def as_read(config: Config) -> Config:
    """Return the config whose fields that nothing reads are as they are by default.

    Two configs that are then equal are of the same run.

    Example:
      >>> from lipsjax.runs.config import PartitionConfig
      >>> two, three = (Config(partition=PartitionConfig(classes=n)) for n in (2, 3))
      >>> two == three, as_read(two) == as_read(three)
      (False, True)
    """
    default = Config()
    for name in unread(config):
        section, _, field = name.partition(".")
        own = getattr(config, section)
        usual = getattr(getattr(default, section) or type(own)(), field)
        config = dataclasses.replace(
            config, **{section: dataclasses.replace(own, **{field: usual})}
        )
    return config
