"""Attacks on many victims in one vmap, against one victim after the other.

python benchmarks/attacks.py --json attacks.json

Each is the attack of `lipsjax attack` on a client of a digits federation: matching by signed Adam
through five local steps of five images. The loop calls the same compiled program with one victim at
a time; both give the same reconstructions, which is checked first.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measure import Case, Figure, interleave, ratio, report, start_jax

from lipsjax.attacks import attackers
from lipsjax.attacks.victims import given_to, in_chunks, moment
from lipsjax.runs.attack import model_of, program_of, search_of, target_of
from lipsjax.runs.attack_config import AttackConfig
from lipsjax.runs.config import Config, Execution, LocalConfig, ModelConfig, PartitionConfig
from lipsjax.runs.prepare import prepare


@dataclass(frozen=True)
class Options:
    """What is timed."""

    victims: int = 20
    """Attacked in each case."""
    steps: int = 50
    """Of the search."""
    repeats: int = 7
    """Interleaved repeats behind each ratio."""
    json: Path | None = None
    """Write the figures here."""


def main(options: Options) -> None:
    """Check, time, report."""
    start_jax(None)
    partition = PartitionConfig(clients=options.victims, train_examples=5, alpha=0.5)
    config = Config(
        partition=partition,
        model=ModelConfig(width=8, norm="group"),
        local=LocalConfig(epochs=5, batch_size=5),
    )
    with tempfile.TemporaryDirectory() as out:
        prepared = prepare(config, Execution(out=out))
    sim, target = prepared.simulation, target_of(prepared)
    when = moment(sim.to_host(sim.init(jax.random.key(0))), sim.cohort(jax.random.key(0), 0))
    search = search_of(AttackConfig(steps=options.steps), "cosine")
    knowledge = attackers.Knowledge("aware")
    program = program_of(sim, model_of(prepared), "cosine", knowledge, search, 1)
    clients = np.arange(options.victims)
    keys = jax.vmap(lambda k: attackers.key_of(when, k, 0))(jnp.asarray(clients))
    rows = (given_to(when, clients), keys)

    def attack(chunk: int):
        return in_chunks(lambda some: program(target, when, *some), rows, chunk=chunk)

    for one, together in zip(attack(1), attack(options.victims), strict=True):
        np.testing.assert_allclose(one.objective, together.objective, rtol=0.2)
    chunks = sorted({1, 4, options.victims})
    cases = {f"chunk_{n}": Case(lambda _, n=n: attack(n)) for n in chunks}
    times = interleave(cases, options.repeats)
    figures = [
        Figure(f"{name}_rate", "victims/s", [options.victims / t for t in seconds])
        for name, seconds in times.items()
    ]
    figures += [
        ratio(f"loop_over_chunk_{n}", times["chunk_1"], times[f"chunk_{n}"]) for n in chunks
    ]
    figures += [
        Figure(f"memory_chunk_{n}", "MiB", [memory(program, target, when, rows, n)]) for n in chunks
    ]
    report(f"Attacks: {options.victims} victims, {options.steps} steps", figures, options.json)


def memory(program, target, when, rows, chunk: int) -> float:
    """Return what XLA plans for the values between, in the program of one chunk, MiB."""
    some = jax.tree.map(lambda x: x[:chunk], rows)
    compiled = program.lower(target, when, *some).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
