"""Take a run back to some of its rounds, and hold what is recorded of it to the bit on the way."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lipsjax import recording
from lipsjax.recording import files
from lipsjax.recording.checkpoints import Checkpoints
from lipsjax.runs import fields, parts
from lipsjax.runs.config import Config, Execution, to_dict
from lipsjax.runs.costs import on_its_way
from lipsjax.runs.dataset import load_for
from lipsjax.runs.prepare import Prepared, prepare
from lipsjax.runs.trial import rows_of
from lipsjax.types import PyTree

Say = Callable[[str], None]


class Replay(NamedTuple):
    """A recorded run, ready to be replayed."""

    run_dir: Path
    prepared: Prepared
    rows: list[dict[str, Any]]  # of each round, as recorded


def open_run(run_dir: Path, execution: Execution) -> Replay:
    """Prepare a recorded run as it was.

    Args:
      run_dir: of the run, finished or not.
      execution: where its data are; the rest is as in its plan.

    Raises:
      ValueError: for a run of another behaviour, of other data or parts, of a plan that is not
        possible here.
    """
    recorded = recording.read(run_dir)
    if recorded.behaviour != recording.BEHAVIOUR:
        raise ValueError(
            f"{run_dir} was recorded by behaviour {recorded.behaviour}, and this is behaviour "
            f"{recording.BEHAVIOUR}: it cannot be replayed to the same bits"
        )
    plan = recording.read_plan(run_dir)
    if plan["processes"] > 1:
        raise ValueError(f"{run_dir} was run by {plan['processes']} processes; allowed is 1")
    present = len(jax.devices())
    if plan["platform"] != jax.default_backend() or plan["devices"] > present:
        raise ValueError(
            f"{run_dir} was run on {plan['devices']} x {plan['platform']}, and here are {present} "
            f"x {jax.default_backend()}: it cannot be replayed to the same bits"
        )
    config: Config = fields.from_dict(Config, recorded.config)
    fingerprint = load_for(config, execution.data_dir)[1]
    recording.check(
        run_dir,
        config=to_dict(config),
        data_fingerprint=fingerprint,
        parts=parts.identity(config),
    )
    rows = files.read_lines(run_dir / "metrics.jsonl")
    return Replay(run_dir, prepare(config, execution, plan), rows)


def replay(run: Replay, rounds: Sequence[int], say: Say) -> Iterator[dict[str, PyTree]]:
    """Yield the state before each of some rounds, as a checkpoint has it, in ascending order.

    It goes from the nearest checkpoint before, or from the start, and on from there.

    Args:
      run: of :func:`open_run`.
      rounds: from 0.
      say: told what is run again.

    Raises:
      ValueError: for a round that the run does not have, or where what is measured on the way is
        not what was recorded.
    """
    sim, plan = run.prepared.simulation, run.prepared.plan
    for t in rounds:
        if not 0 <= t < len(run.rows):
            raise ValueError(f"rounds must be in 0..{len(run.rows) - 1}, not {t}")
    checkpoints, host = Checkpoints(run.run_dir), None
    data = sim.place(run.prepared.data)
    fresh = sim.to_host(sim.init(jax.random.key(run.prepared.config.seed)))
    done = 0
    for target in sorted(set(rounds)):
        found = checkpoints.restore(fresh, say, at_most=target)
        if host is None or (found is not None and found[0] > done):
            done, host = (0, fresh) if found is None else found
        if done < target:
            say(f"{run.run_dir.name}: rounds {done} to {target - 1} are run again")
        state = sim.from_host(host)
        while done < target:
            count = min(plan["rounds_per_call"], target - done)
            state, metrics = sim.run(state, data, count)
            before, host = on_its_way(sim, host), sim.to_host(state)
            again = list(rows_of(run.prepared, jax.device_get(metrics), done, before))
            _check_same(run, again, done)
            done += count
        yield host


def _check_same(run: Replay, again: list[dict[str, Any]], first: int) -> None:
    """Refuse rounds that are not, to the bit, those that were recorded."""
    for row, then in itertools.zip_longest(again, run.rows[first : first + len(again)]):
        names = [n for n in row if files.canonical(row[n]) != files.canonical(then.get(n))]
        if names:
            versions = run.prepared.plan["versions"]
            raise ValueError(
                f"round {row['round']} of {run.run_dir.name} cannot be replayed to the same bits: "
                f"{names[0]} differs; it was recorded on another processor or by other versions "
                f"({', '.join(f'{name} {number}' for name, number in versions.items())})"
            )
