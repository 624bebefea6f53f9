"""One run from config to recording: go on where it was stopped, stop where it makes no sense."""

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lipsjax import recording
from lipsjax.datasets.base import show
from lipsjax.metrics.costs import Bits
from lipsjax.privacy import epsilon
from lipsjax.recording.checkpoints import Checkpoints
from lipsjax.rounds import Metrics
from lipsjax.runs import cache, parts, processes, trackers
from lipsjax.runs.config import Config, Execution, cohort_size, to_dict
from lipsjax.runs.costs import Sent, on_its_way, sent_after, training_flops
from lipsjax.runs.dataset import load_for
from lipsjax.runs.machine import here
from lipsjax.runs.prepare import Prepared, prepare
from lipsjax.runs.resolve import describe_plan, resolve
from lipsjax.simulation import Simulation
from lipsjax.strategy import Rank
from lipsjax.types import Array, PyTree


class Progress(NamedTuple):
    """How far a run is, told after every compiled call."""

    done: int  # rounds
    rounds: int
    newest: dict[str, Any]  # metrics of the last round measured
    seconds: float  # of the call, without compiling
    fresh: int  # rounds of the call
    compile_seconds: float = 0.0  # before the call; of a program that is there already, 0


class DivergedError(ValueError):
    """A client's loss is not finite; the message names round and clients."""


class StoppedError(Exception):
    """A rule stopped a run; the message says why."""


Report = Callable[[Progress], str | None]
"""Told how far a run is; what it returns, if anything, is why the run is to stop there."""
Say = Callable[[str], None]


def run_dir_of(config: Config, execution: Execution) -> Path:
    """Return the directory of a run: named by the digest of its config, data and own parts."""
    fingerprint = load_for(config, execution.data_dir)[1]
    name = recording.run_hash(to_dict(config), fingerprint, parts.identity(config))
    return Path(execution.out) / "runs" / name


def run_trial(
    config: Config, execution: Execution, report: Report, say: Say, leased: Path | None = None
) -> Path:
    """Run one config to its end, or on from where it was stopped; a finished one is left alone.

    Args:
      config: the science.
      execution: how to run it; a run that goes on follows the plan recorded when it began.
      report: called after every compiled call; a text that it returns stops the run.
      say: called with a line when something is worth telling.
      leased: where it is recorded, of a run that this host holds by lease; None: where it belongs,
        locked.

    Returns:
      The run's directory.

    Raises:
      ValueError: for a config that cannot be run; then nothing has been written.
      DivergedError: if a client's loss or the global model is not finite; it is recorded, and the
        same run diverges again.
      StoppedError: if ``report`` stops it; that is recorded, and the run can go on.
    """
    run_dir = leased or run_dir_of(config, execution)
    fingerprint = load_for(config, execution.data_dir)[1]
    if processes.agree(lambda: is_finished(run_dir, config, fingerprint)):
        return run_dir
    if reason := processes.agree(lambda: recording.diverged(run_dir)):
        raise DivergedError(f"{reason}; delete {run_dir} to try again")
    if leased is None:
        processes.agree(lambda: recording.check_free(run_dir))
    prepared = None
    if not processes.agree(run_dir.exists):
        prepared = prepare(config, execution)
        say(describe_plan(prepared.plan, config.model.dtype))
        setup = prepared.setup | {"flops_per_round": training_flops(prepared.simulation)}
        about = {"plan": prepared.plan, "setup": setup, "data_fingerprint": fingerprint}
        about |= {"parts": parts.identity(config)}
        if leased is None:
            processes.agree(lambda: run_dir.parent.mkdir(parents=True, exist_ok=True))
        processes.agree(lambda: recording.create(run_dir, config=to_dict(config), **about))
    with contextlib.ExitStack() as held:
        if leased is None:
            processes.agree(lambda: held.enter_context(recording.lock(run_dir)))
        processes.agree(lambda: recording.delete_left(run_dir))
        if prepared is None:
            plan = processes.agree(
                lambda: _recorded_plan(run_dir, execution, cohort_size(config), say)
            )
            prepared = prepare(config, execution, plan)
            if plan is None:
                new = prepared.plan
                processes.agree(lambda: recording.write_json(run_dir / "plan.json", new))
        followers = execution.trackers if processes.is_main() else ()
        log = held.enter_context(trackers.track(followers, run_dir, config, say))
        try:
            _train(prepared, run_dir, report, say, log)
        except DivergedError as error:
            reason = str(error)
            processes.agree(lambda: recording.diverge(run_dir, reason))
            raise
    return run_dir


def is_finished(run_dir: Path, config: Config, fingerprint: str) -> bool:
    """Tell whether a run is finished, or refuse a directory that holds another."""
    if not run_dir.exists():
        return False
    about = {"data_fingerprint": fingerprint, "parts": parts.identity(config)}
    recording.check(run_dir, config=to_dict(config), **about)
    return recording.is_finished(run_dir)


def _recorded_plan(
    run_dir: Path, execution: Execution, clients: int, say: Say
) -> dict[str, Any] | None:
    """Return the plan that a stopped run goes on with; None if it needs a new one."""
    plan = recording.read_plan(run_dir)
    machine = here()
    now = resolve(execution, clients, machine)
    too_many = plan["devices"] > len(machine.devices)
    if too_many or any(plan[name] != now[name] for name in ("platform", "processes")):
        begun = f"{plan['devices']} x {plan['platform']}"
        if plan["processes"] > 1:
            begun += f" in {plan['processes']} processes"
        say(
            f"{run_dir.name} was begun on {begun}, which is not here: it goes on with a new plan, "
            "and not to the same bits"
        )
        return None
    for name in ("devices", "chunk", "conv", "precision", "rounds_per_call"):
        if now[name] not in (plan[name], "auto"):
            say(f"{run_dir.name} goes on with {name} {plan[name]}, as begun, not {now[name]}")
    if plan["versions"] != now["versions"]:
        say(f"{run_dir.name} was begun with other package versions: its bits may differ")
    return plan


def _train(
    prepared: Prepared, run_dir: Path, report: Report, say: Say, log: Callable[[], None]
) -> None:
    sim, rounds = prepared.simulation, prepared.config.rounds
    key = jax.random.key(prepared.config.seed)
    state = sim.init(key)
    host = sim.to_host(state)
    found, done = processes.agree(lambda: _find_start(run_dir, host, say))
    if found is not None:
        host = found
        state = sim.from_host(found)
        say(f"{run_dir.name} goes on after round {done} of {rounds}")
    log()  # rounds that trackers lack of what was recorded before
    data, kept = sim.place(prepared.data), prepared.plan.get("keep_checkpoints", [])
    while done < rounds:
        ends = [t for t in (*kept, rounds) if t > done]
        count = min(prepared.plan["rounds_per_call"], min(ends) - done)
        compile_seconds, cached = cache.watched(functools.partial(sim.compile, count))
        if cached:
            say(cache.describe(compile_seconds, cached))
        begin = time.perf_counter()
        state, metrics = sim.run(state, data, count)
        metrics = jax.device_get(metrics)
        seconds = time.perf_counter() - begin
        before, host = on_its_way(sim, host), sim.to_host(state)
        _check_finite(sim, key, metrics, done, host, prepared.setup["site_names"])
        rows = list(rows_of(prepared, metrics, done, before))
        timing = {"first_round": done, "rounds": count, "seconds": seconds}
        timing |= {"compile_seconds": compile_seconds, "cache": cached}
        done += count
        processes.agree(functools.partial(_record, run_dir, rows, timing, done, host, kept))
        log()
        told = Progress(done, rounds, _newest_measured(rows), seconds, count, compile_seconds)
        reason = report(told)
        if reason and done < rounds:
            processes.agree(functools.partial(recording.stop, run_dir, reason, done))
            raise StoppedError(f"after {done} rounds: {reason}")
    processes.agree(lambda: recording.finish(run_dir, {"rounds": done}))


def _record(
    run_dir: Path,
    rows: list,
    timing: dict[str, Any],
    done: int,
    host: PyTree,
    kept: Sequence[int],
) -> None:
    """Write the metrics of a call, then the checkpoint that covers them."""
    recording.append(run_dir / "metrics.jsonl", rows)
    recording.append(run_dir / "timings.jsonl", [timing])
    Checkpoints(run_dir, kept).save(done, host)


def _find_start(run_dir: Path, like: PyTree, say: Say) -> tuple[PyTree, int]:
    """Return the state to go on from and its rounds, and cut the metrics back to these."""
    checkpoints = Checkpoints(run_dir)
    found = checkpoints.restore(like, say)
    done = 0 if found is None else found[0]
    measured = recording.truncate(run_dir, done)
    if found is None:
        if (run_dir / "metrics.jsonl").exists():
            say(f"{run_dir.name} has no whole checkpoint and starts again")
        return None, 0
    if measured < done:
        say(
            f"{run_dir.name} has metrics of only {measured} of {done} rounds, as its metrics.jsonl "
            "is damaged, and starts again"
        )
        checkpoints.clear()
        recording.truncate(run_dir, 0)
        return None, 0
    return found[1], done


def _newest_measured(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the last row with an accuracy; the last of all if there is none."""
    measured = [row for row in rows if not math.isnan(row["accuracy_dense"])]
    return measured[-1] if measured else rows[-1]


def _check_finite(
    sim: Simulation,
    key: Array,
    metrics: Metrics,
    first: int,
    host: PyTree,
    sites: Sequence[str] | None,
) -> None:
    """Raise DivergedError for a global model, or a client's loss, that is not finite.

    A client's loss alone does not stop a run whose server withstands what is not finite.
    """
    withstands = {Rank.AGGREGATE, Rank.CLIP, Rank.PRIVATE} & sim.spec.strategy.wrappers.keys()
    faulty = Rank.FAULT in sim.spec.strategy.wrappers
    hint = "its faulty clients may be why" if faulty else "a smaller learning_rate may help"
    for i, losses in enumerate(metrics.client_loss):
        bad = np.flatnonzero(~np.isfinite(losses))
        members = sim.cohort(key, first + i) if len(bad) else ()
        if len(bad) and (not withstands or len(bad) == len(members)):
            named = members if sites is None else [show(sites[k], 40) for k in members]
            shown = ", ".join(str(named[i]) for i in bad[:10])
            who = "clients" if sites is None else "sites"
            more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
            raise DivergedError(
                f"the loss is not finite in round {first + i}, {who} {shown}{more}; {hint}"
            )
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(host["global_model"])):
        last = first + len(metrics.client_loss) - 1
        raise DivergedError(f"the global model is not finite after round {last}; {hint}")


def rows_of(
    prepared: Prepared, metrics: Metrics, first: int, before: Sent
) -> Iterator[dict[str, Any]]:
    """Turn the metrics of a call into recorded rows, one per round."""
    broadcasts = [before, *sent_after(prepared.simulation, first, metrics)]
    for i, (before, sent) in enumerate(itertools.pairwise(broadcasts)):
        bits = prepared.account.bits(first + i, sent, before)
        sends = functools.partial(_sent, prepared, first + i, _arrived(metrics, i))
        yield {
            "round": first + i,
            "density": sent.density,
            **{name: float(values[i]) for name, values in metrics.scalars.items()},
            **_spent(prepared.simulation, first + i),
            **_simulated(prepared, first + i, bits),
            "uplink_bits": sends(bits.uplink),
            "downlink_bits": bits.downlink,
            "uplink_bits_server_masks": sends(bits.uplink_server_masks),
            "downlink_bits_server_masks": bits.downlink_server_masks,
            "layers": {name: values[i].tolist() for name, values in metrics.layers.items()},
            **_known(metrics.by, i),
        }


def _spent(simulation: Simulation, t: int) -> dict[str, float]:
    """Return what a run has spent after a round, of a strategy that keeps a ledger."""
    strategy, run = simulation.spec.strategy, simulation.spec.run
    if strategy.ledger is None:
        return {}
    spent = epsilon(strategy.ledger(run).first(t + 1))
    return {"epsilon": spent if math.isfinite(spent) else math.nan}


def _simulated(prepared: Prepared, t: int, bits: Bits) -> dict[str, float]:
    """Return how long a round would take the sites, of a run that has a clock."""
    clock = prepared.clock
    if clock is None:
        return {}
    up, down = prepared.account.of_each(t, bits)
    return clock.of_round(t, _cohort(prepared, t), up, down)


def _sent(prepared: Prepared, t: int, arrived: int | None, bits: int) -> int:
    """Return what is sent of the bits that the whole cohort would send; None: all arrive.

    Where chance decides who does not, they count as the mean of their cohort.
    """
    limits, clients = prepared.simulation.spec.participation.limits, len(prepared.account.up[t])
    if arrived is None or not clients:
        return bits
    if limits is None:
        return bits * arrived // clients
    return prepared.account.sent_by(t, bits, np.array(limits)[_cohort(prepared, t)] > 0)


def _cohort(prepared: Prepared, t: int) -> np.ndarray:
    return prepared.simulation.cohort(jax.random.key(prepared.config.seed), t)


def _known(by: dict[str, dict[str, Array]], i: int) -> dict[str, dict[str, list[float]]]:
    """Return what is known of each client, class and new client after a round of a call."""
    return {
        group: {name: each[i].tolist() for name, each in values.items()}
        for group, values in by.items()
        if not all(np.isnan(each[i]).all() for each in values.values())
    }


def _arrived(metrics: Metrics, i: int) -> int | None:
    """Return how many clients arrived in a round of a call; None where none may fail to."""
    if "clients_arrived" not in metrics.scalars:
        return None
    return int(metrics.scalars["clients_arrived"][i])
