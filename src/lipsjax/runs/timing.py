"""From a config to its sites' clock: who has which device, and what that leaves of a round."""

from typing import NamedTuple

import jax
import numpy as np

from lipsjax import sites
from lipsjax.clients import ClientData
from lipsjax.rounds import Participation
from lipsjax.runs.config import Config, SitesConfig, to_dict
from lipsjax.runs.costs import DENSE, Account, masks_of, scheduled, training_flops
from lipsjax.runs.fields import nearest, shown
from lipsjax.simulation import Simulation
from lipsjax.sites import Clock, Device, Work


class Sited(NamedTuple):
    """What sites make of a run: who takes part and how far, and how long that takes."""

    participation: Participation
    clock: Clock | None  # None: the config has no devices


def check(config: Config) -> None:
    """Raise ValueError for settings of sites that do not go together; nothing is read."""
    wanted = config.sites
    buffered = wanted.buffer is not None
    if not wanted.devices:
        for name in ("deadline", "buffer"):
            if getattr(wanted, name) is not None:
                raise ValueError(
                    f"sites.{name} needs sites.devices: without them nothing takes any time"
                )
        return
    if config.partition.pooled:
        raise ValueError("sites.devices go with no partition.pooled: one place holds all data then")
    if wanted.deadline is not None and not wanted.deadline > 0:
        raise ValueError(f"sites.deadline must be above 0 s, not {wanted.deadline:g}")
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


def work_of(simulation: Simulation, data: ClientData) -> Work:
    """Return what the rounds of a simulation ask of each site, as if all arrived.

    FLOPs are those of :func:`lipsjax.runs.costs.training_flops`; bits are of a client that has
    received nothing before.
    """
    spec = simulation.spec
    run, training = spec.run, spec.training
    steps = training.epochs * -(-np.array(run.num_examples) // training.batch_size)
    padded = training.epochs * -(-data.train_mask.shape[1] // training.batch_size)
    variables = jax.eval_shape(spec.model.init, jax.random.key(0))
    traffic = spec.strategy.traffic(run, variables)
    everyone, rounds = np.arange(run.num_clients), range(run.rounds)
    one = Account(
        up=tuple(traffic.sent(t, everyone) for t in rounds),
        down=tuple(traffic.received(t, None, everyone) for t in rounds),
        masks=masks_of(spec, variables, traffic),
    )
    sent = [DENSE, *(scheduled(simulation, t) for t in rounds)]
    moved = [one.of_each(t, one.bits(t, sent[t + 1], sent[t])) for t in rounds]
    return Work(
        steps=steps,
        step_flops=training_flops(simulation) / (spec.placement.cohort * padded),
        up_bits=np.array([up for up, _ in moved]),
        down_bits=np.array([down for _, down in moved]),
    )


def place(
    config: Config, simulation: Simulation, data: ClientData, names: tuple[str, ...] | None
) -> Sited:
    """Return what the devices of a config make of a run.

    Args:
      config: the science.
      simulation: of the run as if all sites were alike.
      data: of its clients.
      names: of the sites, where the data name them.

    Raises:
      ValueError: for devices that do not exist, a deadline that no site meets, or a buffer of a
        strategy that works in rounds alone.
    """
    wanted, run = config.sites, simulation.spec.run
    chosen = Participation(**to_dict(config.participation))
    if not wanted.devices:
        return Sited(chosen, None)
    devices = devices_of(wanted, run.num_clients, names)
    work = work_of(simulation, data)
    if wanted.buffer is not None:
        if not simulation.spec.strategy.takes_turns:
            raise ValueError(
                f"sites.buffer needs strategy.name='fedbuff', not {config.strategy.name!r}, whose "
                "server takes what comes for the work of one round"
            )
        clock, seconds = sites.turn_clock(devices, work)
        table = sites.take_turns(seconds, buffer=wanted.buffer, updates=run.rounds)
        return Sited(chosen._replace(turns=table.turns), clock._replace(table=table))
    most = None
    if wanted.deadline is not None:
        try:
            most = sites.limits(devices, work, deadline=wanted.deadline, late=wanted.late)
        except ValueError as error:
            raise ValueError(f"sites.{error}") from None
    return Sited(chosen._replace(limits=most), sites.round_clock(devices, work, most))
