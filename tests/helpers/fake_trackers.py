"""Stands for the packages of trackers: keeps what they were told, and imports none of them."""

import importlib.machinery
import sys
import types
from typing import NamedTuple


class Told(NamedTuple):
    """What each package was told: tracker -> round -> metrics, and all else in order."""

    metrics: dict[str, dict[int, dict[str, float]]]
    calls: list[tuple[str, ...]]

    def add(self, tracker: str, step: int, metrics: dict[str, float]) -> None:
        """Notes metrics; a metric of a round may come once."""
        of_round = self.metrics.setdefault(tracker, {}).setdefault(step, {})
        assert not of_round.keys() & metrics.keys(), (tracker, step)
        of_round |= metrics


def install(monkeypatch, failing=None) -> Told:
    """Puts fakes in the place of all packages.

    Args:
      monkeypatch: of pytest.
      failing: (tracker, round) at which logging fails; round -1: opening does.
    """
    told = Told({}, [])

    def check(tracker, step):
        if (tracker, step) == failing:
            raise OSError(28, "No space left\non device")

    class SummaryWriter:
        def __init__(self, folder):
            check("tensorboard", -1)
            told.calls.append(("tensorboard", "open", folder.rpartition("/")[2]))
            told.metrics["tensorboard"] = {}  # its files are written anew

        def add_text(self, name, text):
            told.calls.append(("tensorboard", name, text))

        def add_scalar(self, name, value, step):
            check("tensorboard", step)
            told.add("tensorboard", step, {name: value})

        def flush(self):
            pass

        def close(self):
            told.calls.append(("tensorboard", "close"))

    class Run:
        step = 0

        def log(self, metrics, step):
            check("wandb", step)
            told.add("wandb", step, metrics)

        def finish(self, exit_code):
            told.calls.append(("wandb", "close", str(exit_code)))

    def init(**options):
        check("wandb", -1)
        told.calls.append(("wandb", "open", options["id"], options["name"], options["mode"]))
        told.metrics["wandb"] = {}  # off line, a run that goes on is another folder
        return Run()

    kept = {}  # of MLflow: run -> its tag

    class MlflowClient:
        def __init__(self, uri):
            check("mlflow", -1)
            told.calls.append(("mlflow", "open", uri))

        def get_experiment_by_name(self, name):
            return types.SimpleNamespace(experiment_id="1")

        def search_runs(self, experiments, query):
            return [_run(name) for name, tag in kept.items() if f"= '{tag}'" in query]

        def create_run(self, experiment, run_name, tags):
            kept["r"] = tags["lipsjax.run"]
            return _run("r")

        def update_run(self, run, status):
            told.calls.append(("mlflow", "goes on", status))

        def get_metric_history(self, run, name):
            rounds = told.metrics.get("mlflow", {})
            return [types.SimpleNamespace(step=step) for step, row in rounds.items() if name in row]

        def log_batch(self, run, metrics=(), params=()):
            for metric in metrics:
                check("mlflow", metric.step)
                told.add("mlflow", metric.step, {metric.key: metric.value})

        def set_terminated(self, run, status):
            told.calls.append(("mlflow", "close", status))

    metric = lambda key, value, time, step: types.SimpleNamespace(key=key, value=value, step=step)  # noqa: E731
    entities = {"Metric": metric, "Param": lambda *_: None}
    modules = {
        "tensorboardX": {"SummaryWriter": SummaryWriter},
        "wandb": {"init": init, "Settings": dict},
        "mlflow": {"MlflowClient": MlflowClient, "MlflowException": ValueError},
        "mlflow.entities": entities,
        "sqlalchemy": {},
        "alembic": {},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    for variable in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    return told


def _run(name):
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id=name))
