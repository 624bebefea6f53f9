"""What a round of each strategy costs, as a multiple of FedAvg's.

python benchmarks/strategies.py --json strategies.json
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import jax
import tyro
from measure import Figure, interleave, ratio, report, start_jax
from workloads import CLASSES, WORKLOADS, make_data, make_simulation, resnet8

from lipsjax import models, strategies
from lipsjax.strategies import Strategy, keep_local
from rounds import one_round, prepared

ROUNDS = 30
TOGETHER = 6
"""Strategies that are timed in turn with one FedAvg."""


ALONE = (
    *("fedprox", "scaffold", "feddyn", "fednova", "moon"),
    *("fedavgm", "fedadagrad", "fedadam", "fedyogi"),
    *("fedper", "fedrep", "fedbabu", "fedpart", "feddst"),
)
"""Strategies that wrap no other."""
WRAPS: dict[str, Callable[[Strategy], Strategy]] = {
    **{name: lambda _, name=name: getattr(strategies, name)() for name in ALONE},
    "fedbn": lambda s: keep_local(s, models.is_norm),
    "ditto": strategies.ditto,
    "ifa": strategies.ifa,
    "constant_topk": strategies.constant_topk,
    "dsd": strategies.dsd,
    "top_k": lambda s: strategies.compress(s, strategies.top_k()),
    "quantise": lambda s: strategies.compress(s, strategies.quantise()),
    "sign_majority": strategies.sign_majority,
    "median": strategies.median,
    "trimmed_mean": strategies.trimmed_mean,
    "clip": lambda s: strategies.clip(s, norm=1.0),
    "private": lambda s: strategies.private(s, clip=1.0, noise_multiplier=1.0),
    "private_examples": lambda s: strategies.private_examples(s, clip=1.0, noise_multiplier=1.0),
    "secure": lambda s: strategies.secure(s, clip=1.0),
    "sign_flip": lambda s: strategies.faulty(s, clients=2, kind="sign_flip", num_classes=CLASSES),
}
"""What makes each strategy of federated averaging."""
NO_STATISTICS = ("private", "private_examples")
"""What refuses running statistics, which W2 has unless it is asked otherwise."""


@dataclass(frozen=True)
class Options:
    """What is timed."""

    workload: Literal["w1", "w2", "w3"] = "w2"
    """Whose rounds."""
    only: tuple[str, ...] = ()
    """Which strategies; none: all."""
    group_norm: bool = False
    """Of W2: GroupNorm for BatchNorm, in FedAvg too, as private asks for."""
    repeats: int = 3
    """Interleaved rounds behind each ratio."""
    json: Path | None = None
    """Write the figures here."""


def time_some(names: Iterable[str], options: Options) -> list[Figure]:
    """Time a round of some strategies and of FedAvg, in turn, each from its own second round."""
    workload = WORKLOADS[options.workload]
    if options.group_norm:
        workload = workload._replace(model=functools.partial(resnet8, norm="group"))
    key, data = jax.random.key(0), make_data(workload)
    wraps = {"fedavg": lambda s: s, **{name: WRAPS[name] for name in names}}
    cases, placed = {}, None
    for name, wrap in wraps.items():
        simulation = make_simulation(workload, data, wrap=wrap, rounds=ROUNDS)
        seconds, placed, state = prepared(simulation, data, key)
        state, _ = simulation.run(state, placed, 1)
        cases[name] = one_round(simulation, placed, simulation.to_host(state))
        print(f"{name}: compiled in {seconds:.1f} s", flush=True)
    times = interleave(cases, options.repeats)
    return [
        ratio(f"{options.workload}_{name}_over_fedavg", times[name], times["fedavg"])
        for name in wraps
        if name != "fedavg"
    ]


def main(options: Options) -> None:
    """Time what was asked for and report it."""
    devices = start_jax(None)
    has_statistics = options.workload == "w2" and not options.group_norm
    every = (name for name in WRAPS if not (has_statistics and name in NO_STATISTICS))
    names = options.only or tuple(every)
    figures = []
    rest = iter(names)
    while some := tuple(islice(rest, TOGETHER)):
        figures += time_some(some, options)
        jax.clear_caches()
    report(f"strategies: {devices} CPU devices", figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
