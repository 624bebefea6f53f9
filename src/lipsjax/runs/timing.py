"""From a config to its sites' clock: who has which device, and what that leaves of a round."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from lipsjax import sites
from lipsjax.clients import ClientData
from lipsjax.rounds import Participation
from lipsjax.runs import levers, money
from lipsjax.runs.config import (
    MONEY,
    Config,
    SitesConfig,
    cohort_size,
    num_clients,
    to_dict,
)
from lipsjax.runs.costs import DENSE, Account, masks_of, scheduled, training_flops
from lipsjax.runs.fields import nearest, shown
from lipsjax.runs.levers import Levers
from lipsjax.simulation import Simulation
from lipsjax.sites import Affordable, Clock, Device, Work


class Sited(NamedTuple):
    """What sites make of a run: who does what of it, and how long that takes."""

    simulation: Simulation
    clock: Clock | None  # None: the config has no devices
    given_up: Levers  # by the sites


Build = Callable[[Levers, Participation], Simulation]
"""(what sites give up, who takes part and how far) -> the run's simulation."""
BuildNarrow = Callable[[float], Simulation]
"""Share of the model's width -> a simulation in which all train so narrow a model."""


def check(config: Config) -> None:
    """Raise ValueError for settings of sites that do not go together; nothing is read."""
    wanted = config.sites
    buffered = wanted.buffer is not None
    if not wanted.devices:
        for name in ("deadline", "buffer", *MONEY):
            if getattr(wanted, name) not in (None, ()):
                raise ValueError(
                    f"sites.{name} needs sites.devices: without them nothing takes any time"
                )
        return
    if config.partition.pooled:
        raise ValueError("sites.devices go with no partition.pooled: one place holds all data then")
    if wanted.deadline is not None and not wanted.deadline > 0:
        raise ValueError(f"sites.deadline must be above 0 s, not {wanted.deadline:g}")
    money.check(config)
    if buffered and wanted.deadline is not None:
        raise ValueError(
            "sites.buffer and sites.deadline exclude each other: a server that waits for nobody "
            "has no use for a deadline"
        )
    if buffered and config.strategy.cohort is not None:
        raise ValueError(
            f"sites.buffer={wanted.buffer} says how many clients an update is made of: leave "
            f"strategy.cohort={config.strategy.cohort} out"
        )
    for name in ("dropout", "mid_round_dropout", "stragglers"):
        if value := getattr(config.participation, name):
            raise ValueError(
                f"sites.devices go with no participation.{name}, here {value:g}: who is late "
                "follows from devices and sites.deadline"
            )


def devices_of(
    wanted: SitesConfig, clients: int, names: tuple[str, ...] | None
) -> tuple[Device, ...]:
    """Return the device of each client.

    Args:
      wanted: the config's section.
      clients: K that train.
      names: of the sites, where the data name them.

    Raises:
      ValueError: for a class that does not exist, or a table that does not fit the clients.

    Example:
      >>> [device.name for device in devices_of(SitesConfig(devices=("pi-5", "pi-4")), 3, None)]
      ['pi-5', 'pi-4', 'pi-5']
    """
    tables = [name for name in wanted.devices if name.endswith(".csv")]
    if tables and len(wanted.devices) > 1:
        raise ValueError(
            f"sites.devices must be classes or one table, not {len(wanted.devices)} of both"
        )
    if not tables:
        for name in wanted.devices:
            if name not in sites.SHIPPED:
                raise ValueError(
                    f"sites.devices: {shown(name)} is no class{nearest(name, sites.SHIPPED)}; "
                    f"allowed are {', '.join(sites.SHIPPED)}, or a FILE.csv"
                )
        return sites.assign([sites.SHIPPED[name] for name in wanted.devices], clients)
    table = sites.read(tables[0])
    if names is not None and not all(key.isdigit() for key in table):
        for site in names[:clients]:
            if site not in table:
                raise ValueError(f"sites.devices: {tables[0]} has no row for the site {site!r}")
        return tuple(table[site] for site in names[:clients])
    if len(table) != clients:
        raise ValueError(
            f"sites.devices: {tables[0]} has {len(table)} rows, and {clients} clients train"
        )
    return tuple(table.values())


def steps_of(simulation: Simulation) -> np.ndarray:
    """Return the local steps that a round asks of each client, [K]."""
    run, training = simulation.spec.run, simulation.spec.training
    return training.epochs * -(-np.array(run.num_examples) // training.batch_size)


def step_flops(simulation: Simulation, data: ClientData) -> float:
    """Return the FLOPs of one local step: :func:`lipsjax.runs.costs.training_flops`, shared out."""
    training = simulation.spec.training
    padded = training.epochs * -(-data.train_mask.shape[1] // training.batch_size)
    return training_flops(simulation) / (simulation.spec.placement.cohort * padded)


def bits_of(simulation: Simulation) -> tuple[np.ndarray, np.ndarray]:
    """Return the bits that rounds ask each client to send and receive, [T, K] each.

    They are those of a client that has received nothing before, as if all arrived.
    """
    spec = simulation.spec
    variables = jax.eval_shape(spec.model.init, jax.random.key(0))
    traffic = spec.strategy.traffic(spec.run, variables)
    everyone, rounds = np.arange(spec.run.num_clients), range(spec.run.rounds)
    account = Account(
        up=tuple(traffic.sent(t, everyone) for t in rounds),
        down=tuple(traffic.received(t, None, everyone) for t in rounds),
        masks=masks_of(spec, variables, traffic),
    )
    sent = [DENSE, *(scheduled(simulation, t) for t in rounds)]
    moved = [account.of_each(t, account.bits(t, sent[t + 1], sent[t])) for t in rounds]
    return np.array([up for up, _ in moved]), np.array([down for _, down in moved])


def place(
    config: Config,
    build: Build,
    build_narrow: BuildNarrow,
    data: ClientData,
    names: tuple[str, ...] | None,
) -> Sited:
    """Build the simulation of a run at its sites.

    Args:
      config: the science.
      build: of the run.
      build_narrow: of narrower models, for their FLOPs.
      data: of its clients.
      names: of the sites, where the data name them.

    Raises:
      ValueError: for devices that do not exist, a deadline or a budget that no site meets, or a
        buffer of a strategy that works in rounds alone.
    """
    wanted, clients = config.sites, num_clients(config)
    levers.check(config, clients)
    asked, participation = levers.of_config(config), Participation(**to_dict(config.participation))
    built = functools.cache(lambda taken: build(taken, participation))
    if not wanted.devices:
        return Sited(built(asked), None, asked)
    devices = money.priced(config, devices_of(wanted, clients, names))

    @functools.cache
    def flops_of(width: float) -> float:
        return step_flops(built(asked) if width == 1 else build_narrow(width), data)

    def work_of(taken: Levers) -> Work:
        widths = taken.of_each(clients).get("widths", np.ones(clients))
        flops = np.array([flops_of(width) for width in widths.tolist()])
        return Work(steps_of(built(taken)), flops, *bits_of(built(taken)))

    if money.is_limited(config, devices):
        offered = levers.offers(config, clients)
        can, clock = _within(config, devices, [work_of(offer) for offer in offered])
        taken = levers.taken_together(offered, can.choice)
        return Sited(build(taken, participation._replace(limits=can.steps)), clock, taken)
    if wanted.buffer is None:
        return Sited(built(asked), sites.round_clock(devices, work_of(asked)), asked)
    if not built(asked).spec.strategy.takes_turns:
        raise ValueError(
            f"sites.buffer needs strategy.name='fedbuff', not {config.strategy.name!r}, whose "
            "server takes what comes for the work of one round"
        )
    clock, seconds = sites.turn_clock(devices, work_of(asked))
    table = sites.take_turns(seconds, buffer=wanted.buffer, updates=config.rounds)
    simulation = build(asked, participation._replace(turns=table.turns))
    return Sited(simulation, clock._replace(table=table), asked)


def _within(
    config: Config, devices: tuple[Device, ...], works: list[Work]
) -> tuple[Affordable, Clock]:
    """Return what sites can do within the limits of a config, and the clock of that."""
    deadline, whole = config.sites.deadline, config.sites.late == "left_out"
    try:
        can = sites.afford(
            devices,
            works,
            deadline=math.inf if deadline is None else deadline,
            turns=config.rounds * cohort_size(config) / len(devices),
            whole=whole,
        )
    except ValueError as error:
        raise ValueError(f"sites.{error}") from None
    return can, sites.round_clock(devices, sites.chosen(works, can.choice), can.steps)
