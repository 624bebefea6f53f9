"""Take a run back to some of its rounds, and hold what is recorded of it to the bit on the way."""

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

    It goes from the nearest checkpoint before, or from the start, by compiled calls of the lengths
    that the run had, and what they measure is held to the bit. A round within such a call is
    reached by a shorter one from its start, which XLA may round otherwise; that is said then.

    Args:
      run: of :func:`open_run`.
      rounds: from 0.
      say: told what is run again.

    Raises:
      ValueError: for a round that the run does not have, or where what is measured on the way is
        not what was recorded.
    """
    sim = run.prepared.simulation
    for t in rounds:
        if not 0 <= t < len(run.rows):
            raise ValueError(f"rounds must be in 0..{len(run.rows) - 1}, not {t}")
    checkpoints, data = Checkpoints(run.run_dir), sim.place(run.prepared.data)
    host = fresh = sim.to_host(sim.init(jax.random.key(run.prepared.config.seed)))
    done, lengths = 0, _lengths(run)
    for target in sorted(set(rounds)):
        found = checkpoints.restore(fresh, say, at_most=target)
        if found is not None and found[0] > done:
            done, host = found
        if done < target:
            say(f"{run.run_dir.name}: rounds {done} to {target - 1} are run again")
        while done < target:
            count = lengths.get(done, 1)
            after, differs = _again(run, data, host, done, count)
            if differs:
                raise ValueError(_not_the_same(run, *differs))
            if done + count > target:
                break
            done, host = done + count, after
        if done == target:
            yield host
            continue
        within, differs = _again(run, data, host, done, target - done)
        if differs:
            say(
                f"round {target} lies within a compiled call: the state before it is that of the "
                f"run to rounding, not to the bit; a run with --keep-checkpoints {target} has it"
            )
        yield within


def _lengths(run: Replay) -> dict[int, int]:
    """Return the lengths of the run's compiled calls, by their first rounds."""
    timings = run.run_dir / "timings.jsonl"
    with files.reading(timings):
        return {row["first_round"]: row["rounds"] for row in files.read_lines(timings)}


def _again(
    run: Replay, data: PyTree, host: dict[str, PyTree], first: int, count: int
) -> tuple[dict[str, PyTree], tuple[int, str] | None]:
    """Run some rounds again; return the state after, and the first measure that differs."""
    sim = run.prepared.simulation
    state, metrics = sim.run(sim.from_host(host), data, count)
    before, after = on_its_way(sim, host), sim.to_host(state)
    for row in rows_of(run.prepared, jax.device_get(metrics), first, before):
        then = run.rows[row["round"]]
        for name in row:
            if files.canonical(row[name]) != files.canonical(then.get(name)):
                return after, (row["round"], name)
    return after, None


def _not_the_same(run: Replay, t: int, name: str) -> str:
    versions = run.prepared.plan["versions"]
    return (
        f"round {t} of {run.run_dir.name} cannot be replayed to the same bits: {name} differs; it "
        "was recorded on another processor or by other versions "
        f"({', '.join(f'{package} {number}' for package, number in versions.items())})"
    )
