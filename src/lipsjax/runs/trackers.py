"""TensorBoard, Weights & Biases and MLflow: each follows what a run records, under the same names.

Metrics are those of metrics.csv (``accuracy_dense``, ``step/conv1``, ...), at the step that is the
round. A tracker is told what is on the disk already, so it can fall behind a recording and never
lead it; a run that goes on gives it the rounds it lacks. All are local: files under OUT, but where
``WANDB_MODE`` or ``MLFLOW_TRACKING_URI`` say otherwise.
"""

import contextlib
import functools
import importlib.util
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lipsjax import recording
from lipsjax.runs.config import Config, TrackerName, to_dict

PROJECT = "lipsjax"
"""Project of W&B and experiment of MLflow, where their own variables name no other."""
LONGEST = 5000
"""Characters of a field, as thousands of clients' sizes; MLflow takes no more than 6000."""
PACKAGES: dict[TrackerName, tuple[str, ...]] = {
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),  # mlflow-skinny leaves its database to us
}
"""What a tracker imports."""

Rows = list[tuple[int, dict[str, float]]]  # round, metrics


class Followed(NamedTuple):
    """The run that is followed."""

    out: Path  # files of trackers go here
    hash: str  # of the run's directory; the same whenever the run goes on
    name: str  # that a person reads
    config: dict[str, Any]


class Tracker(NamedTuple):
    """One run, opened at one tracker."""

    logged: int  # rounds that it holds already
    log: Callable[[Rows], None]
    close: Callable[[bool], None]  # whether the run came to its end


def check(names: Sequence[TrackerName]) -> None:
    """Refuse trackers whose packages are not installed; nothing is imported.

    Raises:
      ValueError: saying what to install.
    """
    for name in names:
        for package in PACKAGES[name]:
            if importlib.util.find_spec(package) is None:
                raise ValueError(f"trackers {name} needs {package}: pip install 'lipsjax[{name}]'")


@contextlib.contextmanager
def track(
    names: Sequence[TrackerName], run_dir: Path, config: Config, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Open trackers of a run, and close them however it ends.

    A tracker that fails is left alone for the rest of the run, which goes on.

    Args:
      names: of the trackers, possibly none.
      run_dir: of the run, OUT/runs/HASH.
      config: of the run.
      say: called with a line when a tracker fails.

    Yields:
      A function that logs all that was recorded since it was called last.
    """
    run = Followed(run_dir.parents[1], run_dir.name, _name(config, run_dir.name), to_dict(config))
    opened: dict[str, Tracker] = {}

    def attempt(name: str, do: Callable[[], Tracker | None]) -> Tracker | None:
        try:
            return do()
        except Exception as error:  # whatever it is, it is not worth a run
            failed = opened.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            say(f"{name} failed and is left alone, the recording goes on: {reason}")
            with contextlib.suppress(Exception):
                if failed is not None:
                    failed.close(False)
            return None

    def log() -> None:
        if not opened or not (run_dir / "metrics.jsonl").exists():
            return
        rows = recording.read_table(run_dir, min(t.logged for t in opened.values()))
        for name, tracker in list(opened.items()):
            new = [(row["round"], _metrics(row)) for row in rows if row["round"] >= tracker.logged]
            attempt(name, functools.partial(tracker.log, new))
            if new and name in opened:
                opened[name] = tracker._replace(logged=new[-1][0] + 1)

    for name in dict.fromkeys(names):
        if (tracker := attempt(name, functools.partial(_OPEN[name], run))) is not None:
            opened[name] = tracker
    ended = False
    try:
        yield log
        ended = True
    finally:
        for name, tracker in list(opened.items()):
            attempt(name, functools.partial(tracker.close, ended))


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    """Return what was measured in a round."""
    return {n: float(v) for n, v in row.items() if n != "round" and v is not None}


def _name(config: Config, run_hash: str) -> str:
    """Return a name that files and people can read.

    >>> _name(Config(), "1f")
    'digits-fedavg-seed0-1f'
    """
    dataset = re.sub(r"[^\w.-]+", "_", Path(config.dataset).stem)
    sparse = [] if config.sparsity is None else ["lips"]
    parts = [dataset, config.strategy.name, *sparse, f"seed{config.seed}", run_hash]
    return "-".join(parts)


def _open_tensorboard(run: Followed) -> Tracker:
    """Write event files to OUT/tensorboard; those of a run that goes on are written anew."""
    from tensorboardX import SummaryWriter

    folder = run.out / "tensorboard" / run.name
    for left in folder.glob("events.out.tfevents.*"):
        left.unlink()
    writer = SummaryWriter(str(folder))
    writer.add_text("config", f"```\n{json.dumps(run.config, indent=1)}\n```")

    def log(rows: Rows) -> None:
        for step, metrics in rows:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
        writer.flush()

    return Tracker(0, log, lambda ended: writer.close())


def _open_wandb(run: Followed) -> Tracker:
    """Log to OUT/wandb, for ``wandb sync``, or to the server that ``WANDB_MODE=online`` means.

    Off line nothing is known of what was logged before: a run that goes on is written whole once
    more, under the same id, and its newest folder is the one to sync.
    """
    import wandb

    opened = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=run.hash,
        name=run.name,
        config=run.config,
        dir=str(run.out),
        mode=os.environ.get("WANDB_MODE", "offline"),  # pyright: ignore[reportArgumentType]
        resume="allow" if os.environ.get("WANDB_MODE") == "online" else None,
        settings=wandb.Settings(silent=True, console="off"),
    )

    def log(rows: Rows) -> None:
        for step, metrics in rows:
            opened.log(metrics, step=step)

    return Tracker(opened.step, log, lambda ended: opened.finish(exit_code=0 if ended else 1))


def _open_mlflow(run: Followed) -> Tracker:
    """Log to the database OUT/mlflow.db, or to ``MLFLOW_TRACKING_URI``."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # else it reports its use
    from mlflow import MlflowClient, MlflowException
    from mlflow.entities import Metric, Param

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    local = f"sqlite:///{(run.out / 'mlflow.db').resolve()}"
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", local))
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    if client.get_experiment_by_name(name) is None:
        with contextlib.suppress(MlflowException):  # another process may have just made it
            client.create_experiment(name)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    tag = "lipsjax.run"  # MLflow gives its own ids
    found = client.search_runs([experiment.experiment_id], f"tags.`{tag}` = '{run.hash}'")
    if found:
        run_id = found[0].info.run_id
        client.update_run(run_id, status="RUNNING")
        history = client.get_metric_history(run_id, "density")  # which every round has
        logged = 1 + max((metric.step for metric in history), default=-1)
    else:
        new = client.create_run(experiment.experiment_id, run_name=run.name, tags={tag: run.hash})
        run_id, logged = new.info.run_id, 0
        fields = [Param(field, str(value)[:LONGEST]) for field, value in _flat(run.config)]
        client.log_batch(run_id, params=fields)

    def log(rows: Rows) -> None:
        for step, metrics in rows:
            now = int(time.time() * 1000)
            entries = [Metric(name, value, now, step) for name, value in metrics.items()]
            client.log_batch(run_id, metrics=entries)

    def close(ended: bool) -> None:
        client.set_terminated(run_id, "FINISHED" if ended else "KILLED")

    return Tracker(logged, log, close)


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names of a config and their values.

    >>> list(_flat({"a": {"b": 1}, "c": None}))
    [('a.b', 1), ('c', None)]
    """
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


_OPEN: dict[TrackerName, Callable[[Followed], Tracker]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
}
