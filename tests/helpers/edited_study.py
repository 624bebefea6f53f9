"""Made-up studies whose arms are then turned into controls, so much better or worse than others."""

import json
import math
from typing import Any

from helpers.fake_study import within, write_study
from lipsjax.analysis.comparison import compare
from lipsjax.recording import read_study

SMALL: dict[str, Any] = {"seeds": 4, "rounds": 20, "clients": 4, "classes": 3, "noise": 0.002}
LOCAL = {"strategy": {"name": "local"}, "sparsity": None}
POOLED = {"partition": {"pooled": True}, "sparsity": None}


def merged(config, changes):
    for name, value in changes.items():
        inner = isinstance(value, dict) and isinstance(config.get(name), dict)
        config[name] = merged(config[name], value) if inner else value
    return config


def edit(path, arm, config=None, **shifts):
    """Changes an arm's configs, and adds to its scalars; nan takes them away."""
    study = json.loads((path / "study.json").read_text())
    for trial in study["trials"]:
        if trial["arm"] != arm:
            continue
        run = path / "runs" / trial["run"]
        recorded = json.loads((run / "config.json").read_text())
        recorded["config"] = merged(recorded["config"], config or {})
        (run / "config.json").write_text(json.dumps(recorded))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            for name, shift in shifts.items():
                if name in row:
                    changed = row[name] + shift
                    row[name] = within(changed) if "accuracy" in name else changed
                    if math.isnan(shift):
                        row[name] = None
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def study_with_controls(path, *, pooled=0.05, local=-0.1, inertia=0.0, **options):
    """Dense, one arm that trains alone and one that pools, so much better than dense."""
    write_study(path, arms=("dense", "A", "B"), gain=0.0, **(SMALL | options))
    edit(path, "A", LOCAL, accuracy_dense=local, global_accuracy_clients=local)
    edit(path, "B", POOLED, accuracy_dense=pooled, global_accuracy=pooled)
    edit(path, "dense", inertia_index=inertia)
    return path


def lips_and_controls(path, gains, **options):
    """LIPS, and controls with other criteria, each worse than LIPS by a known amount."""
    write_study(path, arms=("dense", "lips", *gains), **(SMALL | options))
    for name, (sparsity, loss) in gains.items():
        edit(path, name, {"sparsity": sparsity}, accuracy_dense=-loss, global_accuracy=-loss)
    return path


def rows_of(path):
    """Comparison rows of the study in a folder."""
    return compare(read_study(path))
