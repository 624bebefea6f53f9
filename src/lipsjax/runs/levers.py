"""What each site gives up of a round: how wide its model, how dense, how much it sends."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lipsjax import models
from lipsjax.runs.config import GIVEN_UP, Config
from lipsjax.strategies.compression import USUAL_FRACTION

HALVINGS = {"narrower": 3, "sends_less": 6}
"""Rule of ``sites.late`` -> how often it halves what it takes from a site."""
TAKEN = {"narrower": "widths", "sends_less": "fractions"}
"""Rule of ``sites.late`` -> what it takes from a site."""
SCALED = ("mlp", "cnn", "conv1d", *models.RESNETS)
"""Models whose layers are all as many times wider as ``model.width`` is."""


SINGULAR = {"widths": "width", "densities": "density", "fractions": "fraction"}


class Levers(NamedTuple):
    """What each site does of a round; of several values each is one site's, in turn."""

    widths: tuple[float, ...] = ()  # share of every layer's channels; (): all
    densities: tuple[float, ...] = ()  # share of the middle layers' weights; (): all
    fractions: tuple[float, ...] = ()  # of top_k; (): that of its options

    def of_each(self, clients: int) -> dict[str, np.ndarray]:
        """Return what is given, dealt out to clients, [K] each.

        >>> Levers(widths=(0.5, 1.0)).of_each(3)["widths"].tolist()
        [0.5, 1.0, 0.5]
        """
        return {name: np.resize(x, clients) for name, x in self._asdict().items() if x}

    def rows(self, clients: int) -> list[dict[str, float]]:
        """Return what is given of each client, by its name, to be recorded.

        >>> Levers(widths=(0.5,), fractions=(0.1,)).rows(1)
        [{'width': 0.5, 'fraction': 0.1}]
        """
        dealt = {SINGULAR[name]: values for name, values in self.of_each(clients).items()}
        return [{name: float(x[k]) for name, x in dealt.items()} for k in range(clients)]


def of_config(config: Config) -> Levers:
    """Return what a config takes from its sites, whatever the deadline."""
    return Levers(**{name: getattr(config.sites, name) for name in GIVEN_UP})


def check(config: Config, clients: int) -> None:
    """Raise ValueError for levers that do not fit the config.

    Args:
      config: the science.
      clients: K that train.
    """
    wanted, compressed = config.sites, config.strategy.compression == "top_k"
    classes = len(wanted.devices)
    for name in GIVEN_UP:
        values = getattr(wanted, name)
        for value in values:
            if not 0 < value <= 1:
                raise ValueError(f"sites.{name} must be in (0, 1], not {value:g}")
        check_count(name, values, classes, clients)
    if wanted.fractions and not compressed:
        raise ValueError(
            "sites.fractions need strategy.compression='top_k', not "
            f"{config.strategy.compression!r}"
        )
    if wanted.fractions and "fraction" in config.strategy.compression_options:
        raise ValueError(
            "sites.fractions say what strategy.compression_options.fraction does: leave one out"
        )
    chances = ("dropout", "mid_round_dropout")
    for name in (n for n in GIVEN_UP if len(set(getattr(wanted, n))) > 1):
        for chance in (n for n in chances if getattr(config.participation, n)):
            raise ValueError(
                f"sites.{name} that differ go with no participation.{chance}, here "
                f"{getattr(config.participation, chance):g}: who then sends is not counted"
            )
    rule = wanted.late if wanted.deadline is not None else ""
    if rule == "sends_less" and not compressed:
        raise ValueError(
            "sites.late='sends_less' needs strategy.compression='top_k', not "
            f"{config.strategy.compression!r}"
        )
    if wanted.widths or rule == "narrower":
        check_narrow(config)


def check_count(name: str, values: Sequence[float], classes: int, clients: int) -> None:
    """Raise ValueError for values that cannot be dealt out to the sites, one each, in turn."""
    if values and len(values) not in {1, classes, clients} - {0}:
        each = f"one for each of {classes} device classes, " if classes > 1 else ""
        raise ValueError(
            f"sites.{name} must be one value for all sites, {each}or one for each of "
            f"{clients} sites, not {len(values)}"
        )


def check_narrow(config: Config) -> None:
    """Raise ValueError if a site cannot train a narrower model."""
    if config.model.name not in SCALED:
        raise ValueError(
            f"sites with narrower models need model.name to be one of {', '.join(SCALED)}, whose "
            f"width can be chosen, not {config.model.name!r}"
        )


def offers(config: Config, clients: int) -> list[Levers]:
    """Return what the rule of a config offers to who would be late, from what is asked to less.

    Args:
      config: the science.
      clients: K that train.

    Example:
      >>> from lipsjax.runs.config import SitesConfig
      >>> narrow = Config(sites=SitesConfig(deadline=1.0, late="narrower"))
      >>> [offer.widths[0] for offer in offers(narrow, 2)]
      [1.0, 0.5, 0.25, 0.125]
    """
    asked, rule = of_config(config), config.sites.late
    if rule not in HALVINGS:
        return [asked]
    taken = TAKEN[rule]
    first = getattr(asked, taken) or (_usual(config) if rule == "sends_less" else 1.0,)
    halved = [np.resize(first, clients) / 2**n for n in range(HALVINGS[rule] + 1)]
    if rule == "narrower":  # of whole channels
        halved = [halved[0], *(x for x in halved[1:] if (width_of(config) * x % 1 == 0).all())]
    return [asked._replace(**{taken: tuple(x.tolist())}) for x in halved]


def taken_together(offered: Sequence[Levers], choice: Sequence[int]) -> Levers:
    """Return what sites do that take different offers, one value for each site.

    >>> taken_together([Levers(widths=(1.0,)), Levers(widths=(0.5,))], [1, 0, 1]).widths
    (0.5, 1.0, 0.5)
    """
    dealt = [offer.of_each(len(choice)) for offer in offered]
    return Levers(
        **{
            name: tuple(float(dealt[which][name][k]) for k, which in enumerate(choice))
            for name in dealt[0]
        }
    )


def width_of(config: Config) -> int:
    """Return the width of a config's model, of one that has any."""
    return config.model.width or models.usual_width(config.model.name)


def narrowed(config: Config, share: float) -> Config:
    """Return a config whose model, drawn, has a share of the width, and which takes nothing more.

    >>> narrowed(Config(), 0.25).model.width
    8
    """
    width = round(width_of(config) * share)
    given: dict[str, Any] = dict.fromkeys(GIVEN_UP, ())
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, width=width, init=None),
        sites=dataclasses.replace(config.sites, **given),
    )


def _usual(config: Config) -> float:
    """Return the fraction of top_k where no site has its own."""
    given: Any = config.strategy.compression_options.get("fraction", USUAL_FRACTION)
    return float(given)
